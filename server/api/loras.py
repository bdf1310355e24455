"""Which adapters a request names, and what they bring along: the part of the parse that is about `loras`.

Knows the wire form and one model's entry; knows no files.
Invariant: what comes out exists, stands there once and has a scale in range; every refusal names the place in the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines.messages import Lora
from server.api.bodies import LORAS, LoraChoice
from server.core import errors
from server.core.model_entry import ModelEntry, QualityPreset

# A refusal names so many adapters at most.
SHOWN_NAMES = 10


def chosen_loras(choices: Sequence[LoraChoice] | None, model: str, entry: ModelEntry) -> tuple[Lora, ...]:
    """In their order, with every scale filled in. Raises SafelightError."""
    choices = choices or ()
    limits = entry.limits
    if len(choices) > limits.max_loras:
        message = f"Invalid value for 'loras'. Supported values are: {LORAS}, at most {limits.max_loras} of them."
        raise errors.invalid_parameter("loras", message)
    loras: list[Lora] = []
    for place, choice in enumerate(choices):
        _check_name(f"loras[{place}].name", choice.name, [lora.name for lora in loras], model, entry)
        scale = entry.loras[choice.name].scale if choice.scale is None else choice.scale
        if abs(scale) > limits.max_lora_scale:
            raise _scale_refusal(f"loras[{place}].scale", limits.max_lora_scale)
        loras.append(Lora(choice.name, float(scale)))
    return tuple(loras)


def lora_defaults(loras: Sequence[Lora], entry: ModelEntry) -> QualityPreset:
    """Steps, sampler and guidance of the first adapter that acts and has any of its own."""
    own = (entry.loras[lora.name].defaults for lora in loras if lora.scale != 0)
    return next((defaults for defaults in own if defaults != QualityPreset()), QualityPreset())


def loras_refusal(found: Sequence[int | str], kind: str, most: float = 2.0) -> errors.SafelightError:
    """What pydantic found wrong inside of `loras`. found: the place, such as ("loras", 0, "scale"); kind: its word for
    the mistake."""
    match found:
        case [_, int(place), str(name)] if kind == "missing":
            return errors.missing_parameter(f"loras[{place}].{name}")
        case [_, int(place), str(name)] if kind == "extra_forbidden":
            known = [f"loras[{place}].{field}" for field in LoraChoice.model_fields]
            return errors.unknown_parameter(f"loras[{place}].{name}", known)
        case [_, int(place), "scale"]:
            return _scale_refusal(f"loras[{place}].scale", most)
        case [_, int(place), "name"]:
            param = f"loras[{place}].name"
            allowed = "the name of one of the model's adapters, as text"
            return errors.invalid_parameter(param, f"Invalid value for '{param}'. Supported values are: {allowed}.")
        case [_, int(place), *_]:
            param = f"loras[{place}]"
            allowed = "an object such as {'name': 'my-style', 'scale': 0.8}"
            return errors.invalid_parameter(param, f"Invalid value for '{param}'. Supported values are: {allowed}.")
    return errors.invalid_parameter("loras", f"Invalid value for 'loras'. Supported values are: {LORAS}.")


def _check_name(param: str, name: str, earlier: Sequence[str], model: str, entry: ModelEntry) -> None:
    if name in earlier:
        message = f"The adapter {errors.quoted(name)} stands there twice: name it once, with one scale."
        raise errors.invalid_parameter(param, message)
    if name in entry.loras:
        return
    if not entry.loras:
        raise errors.invalid_parameter(param, f"The model '{model}' has no adapters: leave 'loras' out.")
    known: list[Any] = sorted(entry.loras)
    listed = ", ".join(map(errors.quoted, known[:SHOWN_NAMES])) + (", ..." if len(known) > SHOWN_NAMES else "")
    message = f"The model '{model}' has no adapter {errors.quoted(name)}. Supported values are: {listed}."
    raise errors.invalid_parameter(param, message + ascii_suggestion(name, known))


def ascii_suggestion(name: str, known: Sequence[str]) -> str:
    """A "did you mean" that a message can hold, as files may be called anything."""
    suggestion = errors.did_you_mean(name, known)
    return suggestion if suggestion.isascii() else ""


def _scale_refusal(param: str, most: float) -> errors.SafelightError:
    message = f"Invalid value for '{param}'. Supported values are: a number from -{most:g} to {most:g}."
    return errors.invalid_parameter(param, message)
