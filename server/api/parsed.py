"""What a request means for one of those who could serve it.

Knows requests and what was asked; knows no backend.
Invariant: the request is complete but for its pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.api.asked import Asked
from server.api.bodies import CommonBody
from server.core import errors
from server.core.model_entry import Limits
from server.core.providers import Target
from server.core.request import ImageRequest, Size

MAX_WEBP_SIDE_PX = 16_383
# Documented by OpenAI for its own newest models, and drawn by nobody here.
NEVER_OF_EFFECT = (
    "moderation",
    "safety_identifier",
    "complexity",
    "frame_count",
    "frame_duration_ms",
    "svg",
    "markup",
)
R_co = TypeVar("R_co", bound=ImageRequest, covariant=True)


@dataclass(frozen=True, slots=True)
class Parsed(Generic[R_co]):
    """A request for one target.

    limits: what its pictures have to fit. asked_size: None leaves the choice to the images or the model. ignored: the
    parameters that were accepted without effect.
    """

    target: Target
    request: R_co
    asked: Asked
    limits: Limits
    asked_size: Size | None
    ignored: tuple[str, ...]


def ignored(body: CommonBody, is_idle: Mapping[str, bool]) -> tuple[str, ...]:
    """The parameters that were sent and do nothing, in the order in which they are described."""
    idle = {"output_compression": body.output_format in (None, "png"), **is_idle}
    return tuple(name for name in type(body).model_fields if idle.get(name) and getattr(body, name) is not None)


def check_webp(request: ImageRequest) -> None:
    """The format has 14 bits for each side."""
    if request.output_format == "webp" and max(request.size.width_px, request.size.height_px) > MAX_WEBP_SIDE_PX:
        message = (
            f"A webp file can have at most {MAX_WEBP_SIDE_PX} pixels a side. Supported here are: 'png' and 'jpeg'."
        )
        raise errors.invalid_parameter("output_format", message)


def size_refusal(text: str, limits: Limits) -> errors.SafelightError:
    return errors.invalid_parameter("size", f"Invalid value: {errors.quoted(text)}. {limits.describe_sizes()}")
