"""The wire form of a generation request, and its only parse into a frozen request.

Knows JSON values, OpenAI's parameter names and ours; knows no process and no files. Blocking where a picture is sent.
Invariant: what comes out is complete and in range; every refusal names the parameter and what is allowed.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pipelines.messages import MAX_LCM_STEPS, SAMPLERS_BY_FAMILY, SamplerName, steps_after
from server.api.image_inputs import read_inputs
from server.core import errors
from server.core.catalogue import Catalogue, Limits, ModelEntry, parse_size
from server.core.request import SEED_LIMIT, ImageRequest, ResponseFormat, Size

MAX_PROMPT_CHARACTERS = 32_000
RANDOM_SEED_LIMIT = 2**32
# Names of models that never knew `response_format` and always answer with base64.
BASE64_FAMILIES = ("gpt-image", "chatgpt-image")
# The parts of 1 that the smallest possible strength is told in; no model allows more steps.
STRENGTH_PARTS = 1000

Text = Annotated[str, StringConstraints(max_length=MAX_PROMPT_CHARACTERS)]


def _must_be_false(value: bool) -> bool:
    if value:
        raise ValueError("streaming is not offered yet")
    return value


class GenerationBody(BaseModel):
    """POST /v1/images/generations. `null` means: not given."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    prompt: Annotated[Text, Field(min_length=1, description="What to draw, 1 to 32,000 characters.")]
    model: str | None = Field(None, description="A model's id or alias; the default model if absent.")
    n: int | None = Field(None, ge=1, le=10, description="How many pictures, 1 to 10; 1 if absent.")
    size: str | None = Field(
        None, description="WIDTHxHEIGHT in pixels, or auto: the image's own, or the model's default."
    )
    response_format: ResponseFormat | None = Field(
        None, description="url or b64_json; if absent b64_json for gpt-image names and url for all others."
    )
    user: str | None = Field(None, description="The end user; accepted, not stored.")
    seed: int | None = Field(
        None, ge=0, lt=SEED_LIMIT, description="0 to 2**64 - 1; picture i is drawn with seed + i. Random if absent."
    )
    num_inference_steps: int | None = Field(None, ge=1, description="Denoise steps; the model's default if absent.")
    steps: int | None = Field(None, ge=1, description="Another name for num_inference_steps.")
    guidance_scale: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="How strongly the prompt acts; 1 or less: no guidance."
    )
    negative_prompt: Text | None = Field(None, description="What not to draw.")
    sampler: str | None = Field(None, description="A sampler of the model's family; the model's default if absent.")
    image: str | None = Field(
        None, description="A picture to start from: PNG, JPEG or WebP in base64, bare or as a data URL."
    )
    mask: str | None = Field(
        None, description="Where the image may change: transparent, or white where nothing is transparent."
    )
    strength: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, description="How far the image may be left, above 0 and at most 1."
    )
    # Documented by OpenAI, without effect on the models served here; checked and named in x-safelight-ignored.
    quality: Literal["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto"] | None = Field(
        None, description="Accepted without effect."
    )
    style: Literal["natural", "vivid"] | None = Field(None, description="Accepted without effect.")
    background: Literal["opaque", "auto"] | None = Field(None, description="Accepted without effect.")
    output_format: Literal["png"] | None = Field(None, description="Pictures are PNG files.")
    output_compression: int | None = Field(None, ge=0, le=100, description="Accepted without effect.")
    moderation: Literal["low", "auto"] | None = Field(None, description="Accepted without effect.")
    safety_identifier: str | None = Field(None, description="Accepted, not stored.")
    stream: Annotated[bool, AfterValidator(_must_be_false)] | None = Field(
        None, description="Streaming is not offered yet."
    )
    partial_images: int | None = Field(None, ge=0, le=0, description="Partial images are not offered yet.")


WITHOUT_EFFECT = (
    "quality",
    "style",
    "background",
    "output_format",
    "output_compression",
    "moderation",
    "safety_identifier",
    "stream",
    "partial_images",
)
# What each parameter allows, for messages.
ALLOWED = {
    "prompt": f"a text of 1 to {MAX_PROMPT_CHARACTERS} characters that are not all spaces",
    "model": "the id or an alias of a model, as text",
    "n": "an integer from 1 to 10",
    "size": "text such as '1024x1024', or 'auto'",
    "response_format": "'url' and 'b64_json'",
    "user": "any text",
    "seed": "an integer from 0 to 18446744073709551615",
    "num_inference_steps": "an integer from 1",
    "steps": "an integer from 1",
    "guidance_scale": "a number from 0",
    "negative_prompt": f"a text of at most {MAX_PROMPT_CHARACTERS} characters",
    "sampler": "the name of a sampler, as text",
    "image": "a PNG, JPEG or WebP picture in base64, bare or as a data URL",
    "mask": "a PNG, JPEG or WebP picture in base64, bare or as a data URL",
    "strength": "a number above 0 and at most 1",
    "quality": "'standard', 'hd', 'low', 'medium', 'high', 'xhigh', 'max' and 'auto'",
    "style": "'natural' and 'vivid'",
    "background": "'opaque' and 'auto'",
    "output_format": "'png'",
    "output_compression": "an integer from 0 to 100",
    "moderation": "'low' and 'auto'",
    "safety_identifier": "any text",
    "stream": "false",
    "partial_images": "0",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """A complete request, and the names of the parameters that were accepted without effect."""

    request: ImageRequest
    ignored: tuple[str, ...]


def parse_generation(values: Mapping[str, Any], catalogue: Catalogue) -> Parsed:
    """Raises SafelightError: 400 for a parameter, 404 for the model."""
    _refuse_unknown(values)
    given = {name: value for name, value in values.items() if value is not None}
    body = _checked(given)
    model = _resolve_model(body.model, catalogue)
    entry = catalogue.models[model]
    size = _size(body.size, entry)
    request = ImageRequest(
        model=model,
        prompt=body.prompt,
        negative_prompt=body.negative_prompt,
        count=_at_most("n", body.n or 1, entry.limits.max_n),
        size=size or parse_size(entry.defaults.size),
        steps=_steps(body, entry),
        guidance_scale=_guidance(body.guidance_scale, entry),
        sampler=_sampler(body, model, entry),
        seed=secrets.randbelow(RANDOM_SEED_LIMIT) if body.seed is None else body.seed,
        response_format=body.response_format or default_response_format(body.model),
    )
    request = _with_image(request, body, size, entry)
    return Parsed(request, tuple(name for name in WITHOUT_EFFECT if name in given))


def default_response_format(model_name: str | None) -> ResponseFormat:
    """What clients of each of OpenAI's model names expect when they do not say."""
    is_base64 = model_name is not None and model_name.startswith(BASE64_FAMILIES)
    return "b64_json" if is_base64 else "url"


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    unknown = next((name for name in values if name not in GenerationBody.model_fields), None)
    if unknown is not None:
        raise errors.unknown_parameter(unknown, GenerationBody.model_fields)


def _checked(given: Mapping[str, Any]) -> GenerationBody:
    if "prompt" not in given:
        raise errors.missing_parameter("prompt")
    try:
        body = GenerationBody.model_validate(dict(given))
    except ValidationError as error:
        raise _refusal(str(error.errors()[0]["loc"][0])) from None
    for name in ("prompt", "negative_prompt", "model", "user", "safety_identifier"):
        _check_text(name, getattr(body, name))
    if not body.prompt.strip():
        raise _refusal("prompt")
    return body


def _refusal(param: str) -> errors.SafelightError:
    return errors.invalid_parameter(param, f"Invalid value for '{param}'. Supported values are: {ALLOWED[param]}.")


def _check_text(name: str, text: str | None) -> None:
    """NUL and half a surrogate pair are no text: tokenizers, files and UTF-8 refuse them."""
    if text is not None and ("\0" in text or any("\ud800" <= character <= "\udfff" for character in text)):
        raise errors.invalid_parameter(name, f"Invalid value for '{name}': it holds a character that is no text.")


def _resolve_model(name: str | None, catalogue: Catalogue) -> str:
    model = catalogue.resolve(name)
    if model is None:
        raise errors.model_not_found(name or "", catalogue.names())
    return model


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


def _steps(body: GenerationBody, entry: ModelEntry) -> int:
    if body.steps is not None and body.num_inference_steps is not None:
        message = "'steps' and 'num_inference_steps' mean the same: send one of them."
        raise errors.invalid_parameter("steps", message)
    steps = body.steps or body.num_inference_steps or entry.defaults.steps
    return _at_most(_steps_name(body), steps, entry.limits.max_steps)


def _steps_name(body: GenerationBody) -> str:
    return "steps" if body.steps is not None else "num_inference_steps"


def _sampler(body: GenerationBody, model: str, entry: ModelEntry) -> SamplerName:
    """Raises SafelightError when the family has no such sampler, or it cannot take so many steps."""
    allowed = SAMPLERS_BY_FAMILY[entry.family]
    asked = entry.defaults.sampler if body.sampler is None else body.sampler
    sampler = next((name for name in allowed if name == asked), None)
    if sampler is None:
        names = ", ".join(f"'{name}'" for name in allowed)
        message = f"Invalid value: {errors.quoted(asked)}. Supported values for the model '{model}' are: {names}."
        raise errors.invalid_parameter("sampler", message + errors.did_you_mean(asked, allowed))
    if sampler == "lcm" and _steps(body, entry) > MAX_LCM_STEPS:
        raise errors.invalid_parameter(_steps_name(body), f"The sampler 'lcm' takes 1 to {MAX_LCM_STEPS} steps.")
    return sampler


def _with_image(
    request: ImageRequest, body: GenerationBody, asked_size: Size | None, entry: ModelEntry
) -> ImageRequest:
    """The request with the picture that it starts from. What costs nothing is checked before a picture is decoded."""
    if body.image is None:
        for name in ("mask", "strength"):
            if getattr(body, name) is not None:
                message = f"'{name}' says what becomes of an 'image': send one too, or leave '{name}' out."
                raise errors.invalid_parameter(name, message)
        return request
    strength = _strength(body.strength, request.steps, entry)
    inputs = read_inputs(body.image, body.mask, asked_size, entry.limits)
    return replace(request, size=inputs.size, image=inputs.image, mask=inputs.mask, strength=strength)


def _strength(asked: float | None, steps: int, entry: ModelEntry) -> float:
    """Raises SafelightError when it is so small that not one of the steps remains."""
    strength = float(entry.defaults.strength if asked is None else asked)
    if steps_after(entry.family, steps, strength) > 0:
        return strength
    parts = (part / STRENGTH_PARTS for part in range(1, STRENGTH_PARTS + 1))
    least = next(part for part in parts if steps_after(entry.family, steps, part) > 0)
    message = (
        f"A strength of {strength:g} leaves none of the {steps} denoise steps. Supported values with so many steps "
        f"are: a number from {least:g} to 1."
    )
    raise errors.invalid_parameter("strength", message)


def _guidance(scale: float | None, entry: ModelEntry) -> float:
    if scale is None:
        return entry.defaults.guidance_scale
    highest = entry.limits.max_guidance_scale
    if scale > highest:
        message = f"Invalid value for 'guidance_scale'. Supported values are: a number from 0 to {highest:g}."
        raise errors.invalid_parameter("guidance_scale", message)
    return float(scale)


def _at_most(param: str, value: int, highest: int) -> int:
    if value > highest:
        message = f"Invalid value for '{param}'. Supported values are: an integer from 1 to {highest}."
        raise errors.invalid_parameter(param, message)
    return value
