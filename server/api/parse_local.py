"""What a request means for a model of ours: from what a caller said to a frozen request.

Knows the wire's values and one model's entry; knows no process, no files and no pixels.
Invariant: what comes out is complete and in range but for its pictures; every refusal names the parameter and what is
allowed.
"""

from __future__ import annotations

import secrets
from typing import TypeVar

from pipelines.messages import MAX_LCM_STEPS, SAMPLERS_BY_FAMILY, SamplerName
from pipelines.work import steps_after
from server.api.asked import Asked
from server.api.bodies import CommonBody, GenerationBody, PromptedBody, VariationBody
from server.api.control import OF_NETWORKS, chosen_control
from server.api.loras import chosen_loras, lora_defaults
from server.api.parsed import NEVER_OF_EFFECT, Parsed, check_webp, ignored, size_refusal
from server.core import errors
from server.core.model_entry import ModelEntry, QualityName, QualityPreset, StylePreset, parse_size
from server.core.providers import LOCAL, Target
from server.core.request import LocalRequest, ResponseFormat, Size

RANDOM_SEED_LIMIT = 2**32
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
T = TypeVar("T")


def parse_local(asked: Asked, model: str, entry: ModelEntry, local_format: ResponseFormat) -> Parsed[LocalRequest]:
    """local_format: the answer for names of our own where none is asked for. Raises SafelightError: 400."""
    body = asked.body
    _check_background(body, model)
    asked_size = _size(body.size, entry)
    loras = chosen_loras(body.loras, model, entry)
    own, style = lora_defaults(loras, entry), _style_preset(body, entry)
    quality = _overridden(_quality_preset(body, entry), own)
    steps = _steps(body, entry, quality)
    request = LocalRequest(
        operation=asked.operation,
        model=model,
        family=entry.family,
        prompt=style.prompt.replace("{prompt}", asked.prompt),
        sent_prompt=asked.prompt,
        negative_prompt=_first_given(body.negative_prompt, style.negative_prompt),
        count=_at_most("n", body.n or 1, entry.limits.max_n),
        size=asked_size or parse_size(entry.defaults.size),
        steps=steps,
        guidance_scale=_guidance(body.guidance_scale, own, style, quality, entry),
        sampler=_sampler(body, quality, steps, model, entry),
        seed=secrets.randbelow(RANDOM_SEED_LIMIT) if body.seed is None else body.seed,
        response_format=asked.response_format(local_format),
        output_format=body.output_format or "png",
        output_compression=100 if body.output_compression is None else body.output_compression,
        quality=asked.echoed_quality,
        price_usd=entry.price_usd,
        partial_images=asked.partial_images,
        strength=1.0 if asked.image is None else _strength(body, asked.mask is not None, steps, entry),
        loras=loras,
        control=chosen_control(body, asked.hint is not None, model, entry),
    )
    check_webp(request)
    is_ignored = _of_no_effect(asked, own, entry)
    return Parsed(Target(LOCAL, model), request, asked, entry.limits, asked_size, ignored(body, is_ignored))


def _check_background(body: CommonBody, model: str) -> None:
    if body.background == "transparent":
        message = (
            f"Invalid value: 'transparent'. The model '{model}' paints every pixel. Supported values are: 'opaque' "
            "and 'auto'."
        )
        raise errors.invalid_parameter("background", message)


def _size(text: str | None, entry: ModelEntry) -> Size | None:
    """The size that was asked for; None leaves the choice to us."""
    if text is None or text == "auto":
        return None
    try:
        size = parse_size(text)
    except ValueError:
        raise size_refusal(text, entry.limits) from None
    if not entry.limits.allows(size):
        raise size_refusal(text, entry.limits)
    return size


def _quality_preset(body: CommonBody, entry: ModelEntry) -> QualityPreset:
    return entry.presets.quality.get(QUALITIES[body.quality], QualityPreset())


def _style_preset(body: CommonBody, entry: ModelEntry) -> StylePreset:
    style = body.style if isinstance(body, GenerationBody) else None
    return StylePreset() if style is None else entry.presets.style.get(style, StylePreset())


def _overridden(quality: QualityPreset, own: QualityPreset) -> QualityPreset:
    """What an adapter was made for comes before what a quality means for the model."""
    return quality.model_copy(update=own.model_dump(exclude_none=True))


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


def _of_no_effect(asked: Asked, own: QualityPreset, entry: ModelEntry) -> dict[str, bool]:
    """Which parameters do nothing, if they were sent. own: what an adapter brings along."""
    body = asked.body
    quality = QUALITIES[body.quality]
    preset = entry.presets.quality.get(quality, QualityPreset())
    is_flux = entry.family == "flux"
    return {
        "negative_prompt": is_flux,
        # FLUX takes guidance as an input of the model, or not at all, and then its entry says 0.
        "guidance_scale": is_flux and entry.defaults.guidance_scale == 0,
        "quality": quality != "standard" and _overridden(preset, own) == own,
        "style": getattr(body, "style", None) not in entry.presets.style,
        "partial_images": not asked.is_stream,
        "input_fidelity": asked.image is not None and body.strength is not None,
        **dict.fromkeys(OF_NETWORKS, is_flux),
        **dict.fromkeys(NEVER_OF_EFFECT, True),
    }


def _at_most(param: str, value: int, highest: int) -> int:
    if value > highest:
        message = f"Invalid value for '{param}'. Supported values are: an integer from 1 to {highest}."
        raise errors.invalid_parameter(param, message)
    return value
