"""What a request means for a model of a provider: what can be asked of it, and what is lost on the way.

Knows the wire's values and what a model upstream can do; knows no upstream's wire.
Invariant: nothing is dropped in silence: what the model cannot do is refused where a caller would miss it, and named as
ignored where it is a wish.
"""

from __future__ import annotations

from typing import TypeVar

from server.api.asked import Asked
from server.api.bodies import GenerationBody, PromptedBody
from server.api.control import OF_NETWORKS
from server.api.parsed import NEVER_OF_EFFECT, Parsed, check_webp, ignored, size_refusal
from server.backends.capabilities import Capabilities, Task
from server.backends.upstream import Upstream
from server.core import errors
from server.core.model_entry import parse_size
from server.core.request import RemoteRequest, ResponseFormat, Size

# Wishes: whoever cannot follow them draws all the same, and says so.
WISHES = (
    "quality",
    "style",
    "seed",
    "negative_prompt",
    "steps",
    "num_inference_steps",
    "guidance_scale",
    "sampler",
    "strength",
    "input_fidelity",
    "background",
    "moderation",
)
# Parameters by what they are called among the capabilities.
SYNONYMS = {"num_inference_steps": "steps"}
NEEDED_BY_TASK: dict[Task, str] = {"text": "prompt", "image": "image", "mask": "mask", "variation": "image"}
T = TypeVar("T")
TASKS: dict[Task, str] = {
    "text": "draws nothing from a prompt alone",
    "image": "changes no pictures",
    "mask": "takes no masks",
    "variation": "draws no variations",
}


def parse_remote(asked: Asked, upstream: Upstream, local_format: ResponseFormat) -> Parsed[RemoteRequest]:
    """Raises SafelightError: 400 where the model cannot do what was asked for."""
    body, can = asked.body, upstream.can
    _check_task(asked, upstream)
    _check_ranges(asked, upstream)
    size = _size(body.size, can)
    drawn = drawn_size(size or can.default_size, can)
    prompted = body if isinstance(body, PromptedBody) else None
    request = RemoteRequest(
        operation=asked.operation,
        backend=upstream.target.backend,
        model=upstream.target.model,
        prompt=asked.prompt,
        sent_prompt=asked.prompt,
        negative_prompt=_kept(can, "negative_prompt", body.negative_prompt),
        count=body.n or 1,
        size=size or can.default_size,
        drawn_size=drawn,
        response_format=asked.response_format(local_format),
        output_format=body.output_format or "png",
        output_compression=100 if body.output_compression is None else body.output_compression,
        quality=asked.echoed_quality,
        price_usd=price_usd(drawn, asked, upstream),
        asked_quality=_kept(can, "quality", body.quality),
        style=_kept(can, "style", body.style if isinstance(body, GenerationBody) else None),
        background=_kept(can, "background", body.background),
        input_fidelity=_kept(can, "input_fidelity", prompted.input_fidelity if prompted else None),
        moderation=_kept(can, "moderation", prompted.moderation if prompted else None),
        seed=_kept(can, "seed", body.seed),
        steps=_kept(can, "steps", body.steps or body.num_inference_steps),
        guidance_scale=_kept(can, "guidance_scale", body.guidance_scale),
        sampler=_kept(can, "sampler", body.sampler),
        strength=_kept(can, "strength", body.strength),
    )
    check_webp(request)
    return Parsed(upstream.target, request, asked, can.limits, size, ignored(body, _of_no_effect(asked, can)))


def _kept(can: Capabilities, name: str, value: T | None) -> T | None:
    """The value, if it reaches the model."""
    return value if name in can.takes else None


def drawn_size(size: Size, can: Capabilities) -> Size:
    """What to ask the model for. Raises SafelightError where it cannot draw the size."""
    drawn = can.drawn_size(size)
    if drawn is None:
        allowed = ", ".join(f"'{one}'" for one in can.sizes)
        raise errors.invalid_parameter("size", f"Invalid value: '{size}'. Supported values are: {allowed} and 'auto'.")
    return drawn


def price_usd(drawn: Size, asked: Asked, upstream: Upstream) -> float:
    """Of one picture of the size that the provider draws and bills. Whoever is not told a quality and chooses it
    itself may choose the dearest."""
    unsaid = "auto" if upstream.can.chooses_quality else "standard"
    return upstream.entry.price_usd(str(drawn), asked.body.quality or unsaid)


def task_of(asked: Asked) -> Task:
    if asked.operation == "variation":
        return "variation"
    if asked.image is None:
        return "text"
    return "image" if asked.mask is None else "mask"


def _check_task(asked: Asked, upstream: Upstream) -> None:
    body, model = asked.body, upstream.target.model
    task = task_of(asked)
    if task not in upstream.can.tasks:
        raise errors.invalid_parameter(NEEDED_BY_TASK[task], f"The model '{model}' {TASKS[task]}.")
    if asked.hint is not None or body.control is not None:
        param = "control" if asked.hint is None else "control_image"
        raise errors.invalid_parameter(param, f"The model '{model}' takes no control images: leave '{param}' out.")
    if body.loras:
        raise errors.invalid_parameter("loras", f"The model '{model}' has no adapters: leave 'loras' out.")
    if body.background == "transparent" and "background" not in upstream.can.takes:
        message = f"Invalid value: 'transparent'. The model '{model}' paints every pixel."
        raise errors.invalid_parameter("background", f"{message} Supported values are: 'opaque' and 'auto'.")
    if body.background == "transparent" and body.output_format == "jpeg":
        message = "A jpeg file holds no transparency. Supported here are: 'png' and 'webp'."
        raise errors.invalid_parameter("output_format", message)


def _check_ranges(asked: Asked, upstream: Upstream) -> None:
    body, can = asked.body, upstream.can
    for name, text, most in (
        ("prompt", asked.prompt, can.max_prompt_characters),
        ("negative_prompt", body.negative_prompt or "", can.max_negative_characters),
    ):
        if len(text) > most and (name == "prompt" or name in can.takes):
            told = f"a text of at most {most} characters for the model '{upstream.target.model}'"
            raise errors.invalid_parameter(name, f"Invalid value for '{name}'. Supported values are: {told}.")
    if "seed" in can.takes and body.seed is not None and body.seed + (body.n or 1) > can.seed_limit:
        told = f"an integer from 0 to {can.seed_limit - (body.n or 1)} for the model '{upstream.target.model}'"
        raise errors.invalid_parameter("seed", f"Invalid value for 'seed'. Supported values are: {told}.")
    scale = body.guidance_scale
    if "guidance_scale" in can.takes and scale is not None and can.guidance_range is not None:
        least, most_guidance = can.guidance_range
        if not least <= scale <= most_guidance:
            told = f"a number from {least:g} to {most_guidance:g} for the model '{upstream.target.model}'"
            message = f"Invalid value for 'guidance_scale'. Supported values are: {told}."
            raise errors.invalid_parameter("guidance_scale", message)


def _size(text: str | None, can: Capabilities) -> Size | None:
    """The size that was asked for; None leaves the choice to us."""
    if text is None or text == "auto":
        return None
    try:
        size = parse_size(text)
    except ValueError:
        raise size_refusal(text, can.limits) from None
    if not can.limits.allows(size):
        raise size_refusal(text, can.limits)
    return size


def _of_no_effect(asked: Asked, can: Capabilities) -> dict[str, bool]:
    """Which parameters do nothing, if they were sent."""
    lost = {name: SYNONYMS.get(name, name) not in can.takes for name in WISHES}
    never = dict.fromkeys((name for name in NEVER_OF_EFFECT if name not in can.takes), True)
    # A picture is changed by a route that has no words for these.
    lost |= dict.fromkeys(("style", "moderation"), True) if asked.image is not None else {}
    # Unfinished pictures are ours alone to show; opaque is what everybody paints.
    opaque = {"background": lost["background"] and asked.body.background == "transparent"}
    return {"partial_images": True, **dict.fromkeys(OF_NETWORKS, True), **never, **lost, **opaque}
