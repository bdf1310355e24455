"""From the parts of a multipart form to the values that JSON would have held.

Knows the spellings that clients use and the types of the wire forms; knows no ranges and no pictures.
Invariant: a part is taken once, under the name of one parameter, or refused; a text becomes a number or a truth value
only where its parameter is one and the text can be nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from server.api.multipart import Part
from server.api.receive import PARSE_INLINE_BYTES, parse_value
from server.core import errors

# How clients spell a list: openai-python and -node, litellm, LibreChat, n8n and Open WebUI all differ, and aiohttp
# escapes the brackets.
PICTURE_NAMES = dict.fromkeys(("image", "image[]", "image%5B%5D", "images", "images[]", "images%5B%5D"), "image")
MASK_NAMES = dict.fromkeys(("mask", "mask[]", "mask%5B%5D"), "mask")
CONTROL_NAMES = {"control_image": "control_image"}
# Accepted without effect, and a file in OpenAI's own clients.
IDLE_FILE = "markup"
NESTED = re.compile(r"[a-z_]{1,40}(\[[a-z_]{1,40}\]){1,3}", re.ASCII)
# Longer ones are out of every range; they stay text, so that their parameter is named.
INTEGER = re.compile(r"-?[0-9]{1,25}", re.ASCII)
NUMBER = re.compile(r"-?[0-9]{1,25}(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", re.ASCII)


def _integer(text: str) -> int | str:
    return int(text) if INTEGER.fullmatch(text) else text


def _number(text: str) -> float | str:
    return float(text) if NUMBER.fullmatch(text) else text


def _truth(text: str) -> bool | str:
    return {"true": True, "false": False}.get(text, text)


def _list(text: str) -> object:
    """A list in JSON; anything else stays text, so that its parameter is named. No list of adapters is so long that it
    would have to be read beside the event loop."""
    if len(text) > PARSE_INLINE_BYTES:
        return text
    try:
        value = parse_value(text.encode())
    except errors.SafelightError:
        return text
    return value if isinstance(value, list) else text


CONVERSIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("n", "seed", "steps", "num_inference_steps", "output_compression", "partial_images"), _integer),
    **dict.fromkeys(("frame_count", "frame_duration_ms"), _integer),
    **dict.fromkeys(("guidance_scale", "strength", "control_scale", "control_start", "control_end"), _number),
    "stream": _truth,
    "local_only": _truth,
    "loras": _list,
}


def values_of(parts: Sequence[Part]) -> dict[str, Any]:
    """Files as bytes, lists of them where there are several; the rest as JSON would hold it. Raises SafelightError."""
    values: dict[str, Any] = {}
    spellings: dict[str, str] = {}
    for part in parts:
        param = PICTURE_NAMES.get(part.name) or MASK_NAMES.get(part.name) or CONTROL_NAMES.get(part.name)
        if param is not None:
            if spellings.setdefault(param, part.name) != part.name:
                message = f"'{spellings[param]}' and '{part.name}' mean the same: use one of them."
                raise errors.invalid_parameter(param, message)
            values.setdefault(param, []).append(part.content if part.is_file else part.text())
        else:
            _take_scalar(values, part)
    return values


def _take_scalar(values: dict[str, Any], part: Part) -> None:
    if part.is_file and part.name != IDLE_FILE:
        message = (
            f"The part {errors.quoted(part.name)} was sent as a file; only 'image', 'mask', 'control_image' and "
            "'markup' are files."
        )
        raise errors.invalid_parameter(_short(part.name), message)
    *objects, name = re.findall(r"[^\[\]]+", part.name) if NESTED.fullmatch(part.name) else [part.name]
    target: Any = values
    for outer in objects:
        target = target.setdefault(outer, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict) or name in target:
        raise errors.invalid_parameter(_short(name), f"The part {errors.quoted(part.name)} stands there twice.")
    target[name] = part.content if part.is_file else CONVERSIONS.get(part.name, str)(part.text())


def _short(name: str) -> str | None:
    """A name fit for `param`."""
    return name if errors.is_showable(name) else None
