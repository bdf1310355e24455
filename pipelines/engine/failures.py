"""What a failure is called and what a caller may know of it.

Knows exceptions; knows no jobs.
Invariant: callers get constant texts and the names that they sent, never an exception's own words.
"""

from __future__ import annotations

import traceback

import torch

from pipelines.denoise.decode import NonFiniteResults
from pipelines.engine.safety import CheckUnavailable
from pipelines.families.adapters import AdapterUnavailable
from pipelines.families.controls import ControlUnavailable
from pipelines.messages import Failed, FailureCode
from pipelines.weights.verify import CheckpointProblem


class TooLarge(Exception):
    """A job needs more memory than there is for all jobs together."""


def to_failed(job_id: str, error: BaseException) -> Failed:
    code, message = _explain(error)
    return Failed(job_id, code, message, detail="".join(traceback.format_exception(error)))


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _explain(error: BaseException) -> tuple[FailureCode, str]:  # noqa: PLR0911 (one for each kind)
    if isinstance(error, AdapterUnavailable):
        return "adapter_unavailable", f"The adapter {error.name!a} cannot be used with this model: {error.reason}."
    if isinstance(error, ControlUnavailable):
        return "control_unavailable", f"The control {error.kind!a} cannot be used with this model: {error.reason}."
    if isinstance(error, CheckUnavailable):
        return "check_unavailable", "The picture could not be checked on this server."
    if isinstance(error, CheckpointProblem):
        return "model_unavailable", "The model's files are missing or damaged on this server."
    if is_out_of_memory(error) or isinstance(error, TooLarge):
        return "insufficient_memory", "The device has not enough memory for a picture of this size."
    if isinstance(error, NonFiniteResults):
        return "generation_failed", "The model produced no valid picture for this request."
    return "generation_failed", "The picture could not be drawn."
