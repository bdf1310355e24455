"""The only parse of a request for pictures: from checked wire values to a frozen request.

Knows the wire forms and the catalogue; knows no process, no files and no pixels.
Invariant: what comes out is complete and in range but for its pictures; every refusal names the parameter and what is
allowed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from pipelines.messages import MAX_LCM_STEPS, SAMPLERS_BY_FAMILY, SamplerName, steps_after
from server.api.bodies import CommonBody, EditBody, GenerationBody, PromptedBody, VariationBody, allowed_text
from server.api.control import CONTROL_IMAGE, OF_NETWORKS, chosen_control
from server.api.loras import chosen_loras, lora_defaults, loras_refusal
from server.api.sources import Source, one_source
from server.core import errors
from server.core.catalogue import (
    Catalogue,
    Limits,
    ModelEntry,
    QualityName,
    QualityPreset,
    StylePreset,
    parse_size,
)
from server.core.request import EchoedQuality, LocalRequest, Operation, ResponseFormat, Size

RANDOM_SEED_LIMIT = 2**32
# Names of models that never knew `response_format` and always answer with base64.
BASE64_FAMILIES = ("gpt-image", "chatgpt-image")
# OpenAI's names, of which some clients need a URL and none needs base64.
URL_NAMES = ("dall-e-2", "dall-e-3")
# The parts of 1 that the smallest possible strength is told in; no model allows more steps.
STRENGTH_PARTS = 1000
QUALITIES: dict[str | None, QualityName] = {
    None: "standard",
    "auto": "standard",
    "standard": "standard",
    "medium": "standard",
    "low": "low",
    "hd": "hd",
    "high": "hd",
    "xhigh": "hd",
    "max": "hd",
}
BODIES: dict[Operation, type[CommonBody]] = {
    "generation": GenerationBody,
    "edit": EditBody,
    "variation": VariationBody,
}
NEVER_OF_EFFECT = (
    "moderation",
    "safety_identifier",
    "complexity",
    "frame_count",
    "frame_duration_ms",
    "svg",
    "markup",
)
PICTURES = ("image", "images", "mask", "control_image")
MAX_WEBP_SIDE_PX = 16_383
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A request that is complete but for its pictures, and where these come from.

    hint: the control image. asked_size: None leaves the choice to the images or the model. ignored: the parameters that
    were accepted without effect.
    """

    request: LocalRequest
    limits: Limits
    image: Source | None
    mask: Source | None
    asked_size: Size | None
    is_stream: bool
    ignored: tuple[str, ...]
    hint: Source | None = None


def parse(
    operation: Operation, values: Mapping[str, Any], catalogue: Catalogue, local_format: ResponseFormat = "url"
) -> Parsed:
    """values: JSON values, or files as bytes, by their parameters. local_format: the answer for names of our own
    where none is asked for. Raises SafelightError: 400 for a parameter, 404 for the model."""
    body = _checked(operation, values)
    model = _resolve_model(body.model, catalogue)
    entry = catalogue.models[model]
    _check_provider(body)
    _check_background(body, model)
    image, mask = _sources(operation, values)
    hint = None if values.get(CONTROL_IMAGE) is None else one_source(CONTROL_IMAGE, values[CONTROL_IMAGE])
    asked_size = _size(body.size, entry)
    loras = chosen_loras(body.loras, model, entry)
    own, style = lora_defaults(loras, entry), _style_preset(body, entry)
    quality = _overridden(_quality_preset(body, entry), own)
    steps = _steps(body, entry, quality)
    sent_prompt = body.prompt if isinstance(body, PromptedBody) else ""
    is_stream = isinstance(body, PromptedBody) and bool(body.stream)
    request = LocalRequest(
        operation=operation,
        model=model,
        prompt=style.prompt.replace("{prompt}", sent_prompt),
        sent_prompt=sent_prompt,
        negative_prompt=_first_given(body.negative_prompt, style.negative_prompt),
        count=_at_most("n", body.n or 1, entry.limits.max_n),
        size=asked_size or parse_size(entry.defaults.size),
        steps=steps,
        guidance_scale=_guidance(body.guidance_scale, own, style, quality, entry),
        sampler=_sampler(body, quality, steps, model, entry),
        seed=secrets.randbelow(RANDOM_SEED_LIMIT) if body.seed is None else body.seed,
        response_format=body.response_format or default_response_format(operation, body.model, local_format),
        output_format=body.output_format or "png",
        output_compression=100 if body.output_compression is None else body.output_compression,
        quality=_echoed_quality(body),
        price_usd=entry.price_usd,
        partial_images=(body.partial_images or 0) if is_stream and isinstance(body, PromptedBody) else 0,
        strength=1.0 if image is None else _strength(body, mask is not None, steps, entry),
        loras=loras,
        control=chosen_control(body, hint is not None, model, entry),
    )
    _check_alone(body, image)
    _check_webp(request)
    return Parsed(request, entry.limits, image, mask, asked_size, is_stream, _ignored(body, image, own, entry), hint)


def default_response_format(
    operation: Operation, model_name: str | None, local_format: ResponseFormat
) -> ResponseFormat:
    """What clients of each name and endpoint expect when they do not say."""
    if operation == "edit":
        return "b64_json"
    if operation == "variation" or model_name is None or model_name in URL_NAMES:
        return "url"
    return "b64_json" if model_name.startswith(BASE64_FAMILIES) else local_format


def _checked(operation: Operation, values: Mapping[str, Any]) -> CommonBody:
    """The values but for pictures that came as files, in their types and ranges."""
    form = BODIES[operation]
    unknown = next((name for name in values if name not in form.model_fields), None)
    if unknown is not None:
        raise errors.unknown_parameter(unknown, form.model_fields)
    given = {name: value for name, value in values.items() if value is not None and not _holds_pictures(name, value)}
    if "prompt" in form.model_fields and "prompt" not in given:
        raise errors.missing_parameter("prompt")
    try:
        body = form.model_validate(given)
    except ValidationError as error:
        found = error.errors()[0]
        raise _refusal_at(form, found["loc"], found["type"]) from None
    for name in ("prompt", "negative_prompt", "model", "user", "safety_identifier"):
        _check_text(name, getattr(body, name, None))
    if isinstance(body, PromptedBody) and not body.prompt.strip():
        raise _refusal(form, "prompt")
    return body


def _holds_pictures(name: str, value: object) -> bool:
    """Whether these are files that are to be drawn from."""
    files = value if isinstance(value, list) else [value]
    return name in PICTURES and any(isinstance(item, bytes) for item in files)


def _refusal_at(form: type[CommonBody], place: tuple[int | str, ...], kind: str) -> errors.SafelightError:
    return loras_refusal(place, kind) if place[0] == "loras" else _refusal(form, str(place[0]))


def _refusal(form: type[CommonBody], param: str) -> errors.SafelightError:
    message = f"Invalid value for '{param}'. Supported values are: {allowed_text(form, param)}."
    return errors.invalid_parameter(param, message)


def _check_text(name: str, text: str | None) -> None:
    """NUL and half a surrogate pair are no text: tokenizers, files and UTF-8 refuse them."""
    if text is not None and ("\0" in text or any("\ud800" <= character <= "\udfff" for character in text)):
        raise errors.invalid_parameter(name, f"Invalid value for '{name}': it holds a character that is no text.")


def _resolve_model(name: str | None, catalogue: Catalogue) -> str:
    model = catalogue.resolve(name)
    if model is None:
        raise errors.model_not_found(name or "", catalogue.names())
    return model


def _check_provider(body: CommonBody) -> None:
    if body.provider not in (None, "local"):
        message = f"The provider '{body.provider}' is not configured on this server. Supported values are: 'local'."
        raise errors.invalid_parameter("provider", message)


def _check_background(body: CommonBody, model: str) -> None:
    if body.background == "transparent":
        message = (
            f"Invalid value: 'transparent'. The model '{model}' paints every pixel. Supported values are: 'opaque' "
            "and 'auto'."
        )
        raise errors.invalid_parameter("background", message)


def _sources(operation: Operation, values: Mapping[str, Any]) -> tuple[Source | None, Source | None]:
    """Where the image and the mask come from."""
    given = [name for name in ("image", "images") if values.get(name) is not None]
    if len(given) > 1:
        raise errors.invalid_parameter("image", "'image' and 'images' mean the same: send one of them.")
    if not given and operation != "generation":
        raise errors.missing_parameter("image")
    image = one_source("image", values[given[0]]) if given else None
    mask = values.get("mask")
    return image, None if mask is None else one_source("mask", mask)


def _check_alone(body: CommonBody, image: Source | None) -> None:
    """What says something of an image needs one."""
    for name in ("mask", "strength", "input_fidelity"):
        if image is None and getattr(body, name, None) is not None:
            message = f"'{name}' says what becomes of an 'image': send one too, or leave '{name}' out."
            raise errors.invalid_parameter(name, message)


def _check_webp(request: LocalRequest) -> None:
    """The format has 14 bits for each side."""
    if request.output_format == "webp" and max(request.size.width_px, request.size.height_px) > MAX_WEBP_SIDE_PX:
        message = (
            f"A webp file can have at most {MAX_WEBP_SIDE_PX} pixels a side. Supported here are: 'png' and 'jpeg'."
        )
        raise errors.invalid_parameter("output_format", message)


def _size(text: str | None, entry: ModelEntry) -> Size | None:
    """The size that was asked for; None leaves the choice to us."""
    if text is None or text == "auto":
        return None
    try:
        size = parse_size(text)
    except ValueError:
        raise _size_refusal(text, entry.limits) from None
    if not entry.limits.allows(size):
        raise _size_refusal(text, entry.limits)
    return size


def _size_refusal(text: str, limits: Limits) -> errors.SafelightError:
    return errors.invalid_parameter("size", f"Invalid value: {errors.quoted(text)}. {limits.describe_sizes()}")


def _quality_preset(body: CommonBody, entry: ModelEntry) -> QualityPreset:
    return entry.presets.quality.get(QUALITIES[body.quality], QualityPreset())


def _style_preset(body: CommonBody, entry: ModelEntry) -> StylePreset:
    style = body.style if isinstance(body, GenerationBody) else None
    return StylePreset() if style is None else entry.presets.style.get(style, StylePreset())


def _overridden(quality: QualityPreset, own: QualityPreset) -> QualityPreset:
    """What an adapter was made for comes before what a quality means for the model."""
    return quality.model_copy(update=own.model_dump(exclude_none=True))


def _echoed_quality(body: CommonBody) -> EchoedQuality | None:
    """Only in words that strict clients accept."""
    return next((word for word in get_args(EchoedQuality) if word == body.quality), None)


def _first_given(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)


def _steps(body: CommonBody, entry: ModelEntry, quality: QualityPreset) -> int:
    if body.steps is not None and body.num_inference_steps is not None:
        message = "'steps' and 'num_inference_steps' mean the same: send one of them."
        raise errors.invalid_parameter("steps", message)
    steps = body.steps or body.num_inference_steps or quality.steps or entry.defaults.steps
    return _at_most(_steps_name(body), steps, entry.limits.max_steps)


def _steps_name(body: CommonBody) -> str:
    return "steps" if body.steps is not None else "num_inference_steps"


def _guidance(
    asked: float | None, own: QualityPreset, style: StylePreset, quality: QualityPreset, entry: ModelEntry
) -> float:
    highest = entry.limits.max_guidance_scale
    if asked is not None and asked > highest:
        message = f"Invalid value for 'guidance_scale'. Supported values are: a number from 0 to {highest:g}."
        raise errors.invalid_parameter("guidance_scale", message)
    scale = _first_given(asked, own.guidance_scale, style.guidance_scale, quality.guidance_scale)
    return float(entry.defaults.guidance_scale if scale is None else scale)


def _sampler(body: CommonBody, quality: QualityPreset, steps: int, model: str, entry: ModelEntry) -> SamplerName:
    """Raises SafelightError when the family has no such sampler, or it cannot take so many steps."""
    allowed = SAMPLERS_BY_FAMILY[entry.family]
    chosen = _first_given(body.sampler, quality.sampler)
    asked = entry.defaults.sampler if chosen is None else chosen
    sampler = next((name for name in allowed if name == asked), None)
    if sampler is None:
        names = ", ".join(f"'{name}'" for name in allowed)
        message = f"Invalid value: {errors.quoted(asked)}. Supported values for the model '{model}' are: {names}."
        raise errors.invalid_parameter("sampler", message + errors.did_you_mean(asked, allowed))
    if sampler == "lcm" and steps > MAX_LCM_STEPS:
        raise errors.invalid_parameter(_steps_name(body), f"The sampler 'lcm' takes 1 to {MAX_LCM_STEPS} steps.")
    return sampler


def _strength(body: CommonBody, has_mask: bool, steps: int, entry: ModelEntry) -> float:
    """What was asked for; else the model's default, or what is just enough where that would leave no step to do.

    Raises SafelightError when what was asked for leaves none.
    """
    strength = float(_default_strength(body, has_mask, entry) if body.strength is None else body.strength)
    if steps_after(entry.family, steps, strength) > 0:
        return strength
    parts = (part / STRENGTH_PARTS for part in range(1, STRENGTH_PARTS + 1))
    least = next(part for part in parts if steps_after(entry.family, steps, part) > 0)
    if body.strength is None:
        return least
    message = (
        f"A strength of {strength:g} leaves none of the {steps} denoise steps. Supported values with so many steps "
        f"are: a number from {least:g} to 1."
    )
    raise errors.invalid_parameter("strength", message)


def _default_strength(body: CommonBody, has_mask: bool, entry: ModelEntry) -> float:
    if isinstance(body, VariationBody):
        return entry.defaults.variation_strength
    if isinstance(body, PromptedBody) and body.input_fidelity == "high":
        return entry.defaults.faithful_strength
    return entry.defaults.masked_strength if has_mask else entry.defaults.strength


def _ignored(body: CommonBody, image: Source | None, own: QualityPreset, entry: ModelEntry) -> tuple[str, ...]:
    """The parameters that were sent and do nothing, in the order in which they are described. own: what an adapter
    brings along."""
    quality = QUALITIES[body.quality]
    preset = entry.presets.quality.get(quality, QualityPreset())
    is_flux = entry.family == "flux"
    idle = {
        "negative_prompt": is_flux,
        # FLUX takes guidance as an input of the model, or not at all, and then its entry says 0.
        "guidance_scale": is_flux and entry.defaults.guidance_scale == 0,
        "quality": quality != "standard" and _overridden(preset, own) == own,
        "style": getattr(body, "style", None) not in entry.presets.style,
        "output_compression": body.output_format in (None, "png"),
        "partial_images": not getattr(body, "stream", None),
        "input_fidelity": image is not None and body.strength is not None,
        **dict.fromkeys(OF_NETWORKS, is_flux),
        **dict.fromkeys(NEVER_OF_EFFECT, True),
    }
    return tuple(name for name in type(body).model_fields if idle.get(name) and getattr(body, name) is not None)


def _at_most(param: str, value: int, highest: int) -> int:
    if value > highest:
        message = f"Invalid value for '{param}'. Supported values are: an integer from 1 to {highest}."
        raise errors.invalid_parameter(param, message)
    return value
