"""The worker process: models, tensors and denoise steps. It knows no HTTP."""
