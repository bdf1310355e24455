"""The words of Amazon's Titan Image Generator, v1 and v2: a request as the body of a call, a reply as pictures.

Knows Titan's JSON and how it reads masks; knows no wire. Pure, but slow where there is a mask: pictures are decoded.
Source: AWS's user guide for Bedrock, "Amazon Titan Image Generator G1 models" (inference parameters, code examples).
Invariant: what a mask keeps, Titan is told to keep, whichever task is asked for.
"""

from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import msgspec
from PIL import Image, ImageChops

from server.backends.bedrock_replies import Share, broken, decoded, files_of, is_moderation, undrawn
from server.backends.capabilities import CAPABILITIES
from server.backends.provider import Answer, RawPicture
from server.core.request import RemoteRequest

SEED_LIMIT = CAPABILITIES["titan"].seed_limit
MAX_COUNT = CAPABILITIES["titan"].max_count
PREMIUM = frozenset({"hd", "high", "xhigh", "max"})
SIMILARITY = (0.2, 1.0)
# Greys have no meaning in a mask there; whatever is darker than this counts as black.
GREY = 128


class _Reply(msgspec.Struct):
    images: list[str] | None = None
    error: str | None = None


def share_of(request: RemoteRequest, first: int, count: int, spare_seed: int) -> Share:
    """One picture where a seed was given: several of one call come from one seed, and picture i is promised seed + i.
    Without a seed Titan would take 42 each time, so that equal requests had equal pictures."""
    if request.seed is None:
        return Share(min(count, MAX_COUNT), spare_seed % SEED_LIMIT)
    return Share(1, (request.seed + first) % SEED_LIMIT)


def body(request: RemoteRequest, share: Share) -> dict[str, Any]:
    task, name, params = _task(request)
    return {"taskType": task, name: params, "imageGenerationConfig": _config(request, share)}


def answer(reply: bytes, share: Share) -> Answer:
    """Fewer pictures where some were moderated away. Raises Trouble."""
    found = decoded(reply, _Reply)
    images = (found.images or [])[: share.count]
    if found.error and not (images and is_moderation(found.error)):
        raise undrawn(found.error)
    if not images:
        raise broken("a reply without pictures")
    seed = share.seed if share.count == 1 else None
    return Answer(tuple(RawPicture(file, seed=seed) for file in files_of(images)))


def _task(request: RemoteRequest) -> tuple[str, str, dict[str, Any]]:
    """The task, the name of its parameters, and these."""
    words = _words(request)
    if request.image is None:
        return "TEXT_IMAGE", "textToImageParams", words
    image = _text(request.image)
    if request.mask is None:
        return "IMAGE_VARIATION", "imageVariationParams", words | {"images": [image]} | _similarity(request)
    kept = _kept(request.mask)
    if not is_outpainting(kept):
        # Black is what is drawn anew here, and what is kept there.
        return "INPAINTING", "inPaintingParams", words | {"image": image, "maskImage": _mask_file(kept)}
    mask = _mask_file(ImageChops.invert(kept))
    # DEFAULT would let Titan change what is kept, to fit it in.
    params = {"image": image, "maskImage": mask, "outPaintingMode": "PRECISE"}
    return "OUTPAINTING", "outPaintingParams", words | params


def _words(request: RemoteRequest) -> dict[str, Any]:
    words = {"text": request.prompt, "negativeText": request.negative_prompt}
    return {name: text for name, text in words.items() if text}


def _similarity(request: RemoteRequest) -> dict[str, Any]:
    """Strength is how far the image may be left, similarity how near it must be kept; 0.2 is the least there is."""
    if request.strength is None:
        return {}
    least, most = SIMILARITY
    return {"similarityStrength": round(min(max(1.0 - request.strength, least), most), 6)}


def _config(request: RemoteRequest, share: Share) -> dict[str, Any]:
    config: dict[str, Any] = {
        "numberOfImages": share.count,
        "quality": "premium" if request.asked_quality in PREMIUM else "standard",
        "width": request.drawn_size.width_px,
        "height": request.drawn_size.height_px,
        "seed": share.seed,
    }
    if request.guidance_scale is not None:
        config["cfgScale"] = request.guidance_scale
    return config


def is_outpainting(kept: Image.Image) -> bool:
    """Whether a picture is to be continued over an edge, rather than a hole in it filled: something is kept, and one
    whole edge, at least, is to be drawn. kept: white where the picture stays, else black."""
    width, height = kept.size
    right, bottom = width - 1, height - 1
    edges = ((0, 0, width, 1), (0, bottom, width, height), (0, 0, 1, height), (right, 0, width, height))
    return kept.getbbox() is not None and any(kept.crop(edge).getbbox() is None for edge in edges)


def _kept(mask: bytes) -> Image.Image:
    """A mask in Titan's colours for inpainting, without greys: white where the picture stays, else black."""
    with Image.open(BytesIO(mask)) as opened:
        return opened.convert("L").point([0] * GREY + [255] * (256 - GREY))


def _mask_file(mask: Image.Image) -> str:
    file = BytesIO()
    mask.convert("RGB").save(file, "PNG")
    return _text(file.getvalue())


def _text(file: bytes) -> str:
    return base64.b64encode(file).decode("ascii")
