"""What is asked of an upstream that speaks OpenAI's image API, in each of its forms: a request as a call's fields.

Knows names and values of the wire; knows no wire, and what a model can do only as far as a word depends on it.
Sources: OpenAI's SDK 3.54, `types/image_generate_params.py` and `image_edit_params.py`, and the API reference of the
retired DALL-E models.
Invariant: a field stands here only if the form's models take it; a None is never sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from server.backends.capabilities import CAPABILITIES, gpt_image_version
from server.core.providers import Form
from server.core.request import SEED_LIMIT, Quality, RemoteRequest

Route = Literal["generations", "edits", "variations"]
# How a PNG file begins, up to the length and the kind of its header; in that, the kind of its pixels and the one that
# has colours and transparency.
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
PNG_COLOUR, PNG_RGBA = 25, b"\x06"


class UnsendableRequest(Exception):
    """The form has no way to ask for it. Whoever chose the backend should have known by its Capabilities."""


@dataclass(frozen=True, slots=True)
class Call:
    """fields: what OpenAI's SDK takes by name. files: PNG files by name; where there are any, all goes as a form.
    extra: what the SDK has no names for, which goes beside them."""

    route: Route
    fields: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)


def call_for(request: RemoteRequest, form: Form, first: int, count: int) -> Call:
    """The call that draws pictures `first` to `first + count - 1`. Raises UnsendableRequest."""
    route = _route(request)
    _check(request, form, route, count)
    fields, extra = WORDS[form](request, route, first)
    common = {"model": request.model, "n": count, "size": str(request.drawn_size)}
    if route != "variations":
        common["prompt"] = request.prompt
    return Call(route, common | _given(fields), _files(request, form), _given(extra))


def _route(request: RemoteRequest) -> Route:
    """A picture to start from makes an edit of any request that has a prompt: generations take none upstream."""
    if request.operation == "variation":
        return "variations"
    return "generations" if request.image is None else "edits"


def _check(request: RemoteRequest, form: Form, route: Route, count: int) -> None:
    abilities = CAPABILITIES[form]
    task = {"generations": "text", "variations": "variation"}.get(route, "image" if request.mask is None else "mask")
    if form not in WORDS or task not in abilities.tasks:
        raise UnsendableRequest(f"the form {form} cannot do: {task}")
    if not 1 <= count <= abilities.max_count:
        raise UnsendableRequest(f"the form {form} draws at most {abilities.max_count} pictures in a call")
    if request.image is None and (route != "generations" or request.mask is not None):
        raise UnsendableRequest("no picture to start from")
    _check_file("image", request.image, abilities.max_image_bytes, has_alpha=False)
    _check_file("mask", request.mask, abilities.max_mask_bytes, has_alpha=True)


def _check_file(name: str, file: bytes | None, max_bytes: int, *, has_alpha: bool) -> None:
    if file is None:
        return
    if len(file) > max_bytes:
        raise UnsendableRequest(f"the {name} has {len(file)} bytes, and may have {max_bytes}")
    if not file.startswith(PNG_SIGNATURE) or (has_alpha and file[PNG_COLOUR : PNG_COLOUR + 1] != PNG_RGBA):
        raise UnsendableRequest(f"the {name} is no PNG file{' with transparency' if has_alpha else ''}")


def _files(request: RemoteRequest, form: Form) -> dict[str, bytes]:
    """dall-e-2 takes one picture with transparency, where that is its mask; ours has the image's colours around."""
    if form == "dall-e-2" and request.mask is not None:
        return {"image": request.mask}
    return _given({"image": request.image, "mask": None if request.operation == "variation" else request.mask})


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


Words = tuple[dict[str, Any], dict[str, Any]]


def _gpt_image(request: RemoteRequest, route: Route, _first: int) -> Words:
    """`response_format` and `style` make these models refuse the request. They answer in base64 always. PNG, as it is
    decoded and encoded again here: a format with losses would lose twice."""
    fields = {
        "quality": _gpt_quality(request.asked_quality, request.model),
        "background": request.background,
        "output_format": "png",
    }
    if route == "edits":
        return fields | {"input_fidelity": _gpt_fidelity(request)}, {}
    return fields | {"moderation": request.moderation}, {}


def _gpt_quality(quality: Quality | None, model: str) -> str | None:
    version = gpt_image_version(model)
    if quality in {"xhigh", "max"} and (version is None or version < (2, 5)):
        return "high"
    words = {"standard": "medium", "hd": "high", "auto": None}
    return words.get(quality, quality) if quality is not None else None


def _gpt_fidelity(request: RemoteRequest) -> str | None:
    """gpt-image-1-mini knows the low one alone, and from gpt-image-2 on it is to be left out."""
    version = gpt_image_version(request.model)
    if version is None or version >= (2, 0) or ("-mini" in request.model and request.input_fidelity == "high"):
        return None
    return request.input_fidelity


def _dall_e_3(request: RemoteRequest, _route: Route, _first: int) -> Words:
    words = {"low": "standard", "medium": "standard", "high": "hd", "xhigh": "hd", "max": "hd", "auto": None}
    quality = words.get(request.asked_quality, request.asked_quality) if request.asked_quality else None
    return {"quality": quality, "style": request.style, "response_format": "b64_json"}, {}


def _dall_e_2(_request: RemoteRequest, _route: Route, _first: int) -> Words:
    return {"response_format": "b64_json"}, {}


def _compatible(request: RemoteRequest, route: Route, first: int) -> Words:
    """Another server's models take what ours do. What OpenAI's own route has no name for goes beside its fields; what
    no server takes on a route is not sent there: a style with a picture, a moderation of an edit."""
    words = {
        "quality": request.asked_quality,
        "background": request.background,
        "style": request.style if route == "generations" else None,
        "moderation": request.moderation if route == "generations" else None,
        "input_fidelity": request.input_fidelity if route == "edits" else None,
    }
    answer = {"response_format": "b64_json"}
    knobs = _own_knobs(request, first)
    return (answer, words | knobs) if route == "variations" else (answer | words, knobs)


def _own_knobs(request: RemoteRequest, first: int) -> dict[str, Any]:
    """Safelight draws picture i with seed + i; whoever is asked for a later one alone is told that one's seed."""
    return {
        "seed": None if request.seed is None else (request.seed + first) % SEED_LIMIT,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "negative_prompt": request.negative_prompt,
        "sampler": request.sampler,
        "strength": None if request.image is None else request.strength,
    }


WORDS: dict[Form, Callable[[RemoteRequest, Route, int], Words]] = {
    "gpt-image": _gpt_image,
    "dall-e-3": _dall_e_3,
    "dall-e-2": _dall_e_2,
    "compatible": _compatible,
}
