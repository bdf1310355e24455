"""The words of Stability's models on Bedrock, Core, Ultra and SD 3.5 Large: a request as a body, a reply as a picture.

Knows their flat JSON; knows no wire. Pure.
Source: AWS's user guide for Bedrock, "Stability AI models": Stable Image Core, Stable Image Ultra and Stable Diffusion
3.5 Large, each "request and response".
Invariant: a shape is named or a picture is sent that has it, never both.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from server.backends.bedrock_replies import Share, broken, decoded, files_of, undrawn
from server.backends.capabilities import CAPABILITIES, STABILITY_SIZES
from server.backends.provider import Answer, RawPicture
from server.core.request import RemoteRequest

SEED_LIMIT = CAPABILITIES["stability"].seed_limit
RATIOS = {size: ratio for ratio, size in STABILITY_SIZES.items()}
# They require one with a picture; it is what our own models take.
STRENGTH = 0.8


class _Reply(msgspec.Struct):
    images: list[str] | None = None
    finish_reasons: list[str | None] | None = None
    seeds: list[int | str] | None = None


def share_of(request: RemoteRequest, first: int, count: int, spare_seed: int) -> Share:  # noqa: ARG001
    """They draw one picture in a call, and choose a seed themselves where none is sent, or 0."""
    return Share(1, None if request.seed is None else (request.seed + first) % SEED_LIMIT)


def body(request: RemoteRequest, share: Share) -> dict[str, Any]:
    fields: dict[str, Any] = {"prompt": request.prompt, "output_format": "png"} | _start(request)
    if request.negative_prompt:
        fields["negative_prompt"] = request.negative_prompt
    if share.seed is not None:
        fields["seed"] = share.seed
    return fields


def _start(request: RemoteRequest) -> dict[str, Any]:
    if request.image is None:
        return {"mode": "text-to-image", "aspect_ratio": RATIOS[request.drawn_size]}
    strength = STRENGTH if request.strength is None else request.strength
    image = base64.b64encode(request.image).decode("ascii")
    return {"mode": "image-to-image", "image": image, "strength": strength}


def answer(reply: bytes, share: Share) -> Answer:
    """Filters answer with status 200 and a reason. Raises Trouble."""
    found = decoded(reply, _Reply)
    reason = next((one for one in found.finish_reasons or () if one), None)
    if reason is not None:
        raise undrawn(reason)
    images = (found.images or [])[: share.count]
    if not images:
        raise broken("a reply without pictures")
    seed = _seed(found.seeds)
    return Answer(tuple(RawPicture(file, seed=seed) for file in files_of(images)))


def _seed(seeds: list[int | str] | None) -> int | None:
    """As AWS shows it a number, as it says a string. What is odd about it must not cost the picture."""
    text = str(seeds[0]) if seeds else ""
    is_seed = text.isascii() and text.isdigit() and len(text) <= len(str(SEED_LIMIT)) and int(text) <= SEED_LIMIT
    return int(text) if is_seed else None
