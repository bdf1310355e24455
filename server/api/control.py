"""The hint that a request brings beside its prompt: the part of the parse that is about `control`.

Knows the wire form and one model's entry; knows no pixels.
Invariant: what comes out is of a kind that the model has, in range, and has a picture; a model that was made for a hint
gets one.
"""

from __future__ import annotations

from pipelines.messages import Control, ControlKind
from server.api.bodies import CommonBody
from server.core import errors
from server.core.model_entry import ModelEntry

CONTROL_IMAGE = "control_image"
# What says something of a control image, and nothing without one.
BESIDE = ("control", "control_scale", "control_start", "control_end")
# A checkpoint that was made for a hint has no such numbers.
OF_NETWORKS = BESIDE[1:]


def chosen_control(body: CommonBody, has_image: bool, model: str, entry: ModelEntry) -> Control | None:
    """The hint, complete but for its pixels. has_image: whether there is a control image. Raises SafelightError."""
    named = next((name for name in BESIDE if getattr(body, name) is not None), None)
    if not has_image and named is None and not entry.needs_control:
        return None
    if not entry.controls:
        param = named or CONTROL_IMAGE
        raise errors.invalid_parameter(param, f"The model '{model}' takes no control images: leave '{param}' out.")
    kind = _kind(body.control, model, entry)
    if not has_image:
        raise errors.missing_parameter(CONTROL_IMAGE)
    start, end = body.control_start or 0.0, 1.0 if body.control_end is None else body.control_end
    if start >= end:
        param = "control_start" if body.control_start is not None else "control_end"
        message = f"Invalid value for '{param}'. Supported values are: 'control_start' below 'control_end'."
        raise errors.invalid_parameter(param, message)
    scale = 1.0 if body.control_scale is None else body.control_scale
    return Control(kind, b"", float(scale), float(start), float(end))


def _kind(asked: ControlKind | None, model: str, entry: ModelEntry) -> ControlKind:
    """What was named; where nothing was, the only one that the model has."""
    if asked in entry.controls:
        return asked
    if asked is None and len(entry.controls) == 1:
        return next(iter(entry.controls))
    listed = " and ".join(f"'{kind}'" for kind in sorted(entry.controls))
    told = "takes several kinds of control images" if asked is None else f"takes no control image of '{asked}'"
    raise errors.invalid_parameter("control", f"The model '{model}' {told}. Supported values are: {listed}.")
