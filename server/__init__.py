"""The API process: HTTP, callers, files and policy. It never imports torch."""

__version__ = "0.1.0"
