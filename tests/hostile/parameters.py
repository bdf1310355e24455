"""Hostile values of parameters: out of range, of another type, written in a way that parsers disagree on.

Knows the parameters' types as the README states them; asks no code what it takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.hostile.case import EDITS, GENERATIONS, INVALID, VARIATIONS, Case, asking, asking_raw, message, shown

# A value of each of JSON's kinds, and of what only lenient parsers take.
OF_KIND = {
    "text": '"x"',
    "empty text": '""',
    "true": "true",
    "integer": "7",
    "fraction": "1.5",
    "array": "[1]",
    "object": '{"a": 1}',
    "NaN": "NaN",
    "Infinity": "Infinity",
    "minus Infinity": "-Infinity",
    "1e999": "1e999",
}
ODD = {"NaN", "Infinity", "minus Infinity", "1e999"}
TEXTS = ("quality", "response_format", "output_format", "background", "sampler", "control", "input_fidelity")
FREE_TEXTS = ("prompt", "negative_prompt", "user", "safety_identifier", "model", "size")
INTEGERS = ("n", "seed", "num_inference_steps", "steps", "output_compression", "partial_images")
NUMBERS = ("guidance_scale", "strength", "control_scale", "control_start", "control_end")
SWITCHES = ("local_only", "stream")
LISTS = ("loras", "images")
PICTURES = ("image", "mask", "control_image")
# By each type: which kinds are not it.
WRONG = {
    TEXTS: OF_KIND.keys(),
    FREE_TEXTS: OF_KIND.keys() - {"text", "empty text"},
    INTEGERS: OF_KIND.keys() - {"integer"},
    NUMBERS: OF_KIND.keys() - {"integer", "fraction"},
    SWITCHES: OF_KIND.keys() - {"true"},
    LISTS: OF_KIND.keys() - {"array"},
    PICTURES: OF_KIND.keys() - {"text", "empty text"},
}
HUGE = "1" + "0" * 4999
OUT_OF_RANGE = {
    "n": ("0", "-1", "11", "1000000000", '"1"', "true", "1.0", "1e9", HUGE, "-" + HUGE, "[1]"),
    "seed": ("-1", str(2**64), "1.5", '"42"', "true", HUGE, "-" + HUGE, "1e3"),
    "steps": ("0", "-1", "101", '"5"', "2.5", HUGE, str(2**31), str(2**63)),
    "num_inference_steps": ("0", "-1", "101", "1e1"),
    "guidance_scale": ("-1", "-0.0001", "20.001", "21", "1e308", '"3"', HUGE),
    "strength": ("0", "-0.1", "1.01", "2", '"1"'),
    "output_compression": ("-1", "101", "50.5", '"100"'),
    "partial_images": ("-1", "4", "1.0", "1000000000000"),
    "control_scale": ("-0.1", "2.1", "1e30"),
    "control_start": ("-0.1", "1", "1.1"),
    "control_end": ("0", "-1", "1.1"),
    "response_format": ('"b64"', '"URL"', '"b64_json "', '"url\\u0000"'),
    "output_format": ('"gif"', '"PNG"', '"svg"', '"../png"', '"image/png"'),
    "quality": ('"best"', '"HD"', '"standard\\n"'),
    "style": ('"Vivid"', '"cartoon"', "1"),
    "background": ('"transparent"', '"black"'),
    "moderation": ('"high"', "false"),
    "input_fidelity": ('"medium"', '"High"'),
    "provider": ('"bedrock"', '"openai"', '"azure"', '"local "', "1"),
    "sampler": ('"ddpm"', '"EULER"', '"__class__"', '"flow_euler"', '"../euler"'),
    "control": ('"pose"', '"Canny"'),
}


# What is wrong with an adapter is named to the place.
LORAS = {
    '[{"name": "nobody"}]': (INVALID, "loras[0].name"),
    "[{}]": ("missing_required_parameter", "loras[0].name"),
    '[{"name": 1}]': (INVALID, "loras[0].name"),
    '[{"name": "a", "scale": NaN}]': (INVALID, "loras[0].scale"),
    '[{"name": "a", "scale": "1"}]': (INVALID, "loras[0].scale"),
    '["a"]': (INVALID, "loras[0]"),
    "[null]": (INVALID, "loras[0]"),
}


def cases() -> Iterator[Case]:
    yield from _wrong_types()
    yield from _out_of_range()
    yield from _names()
    yield from _with_company()


def _wrong_types() -> Iterator[Case]:
    for params, kinds in WRONG.items():
        for param in params:
            path = EDITS if param in ("input_fidelity", "images") else GENERATIONS
            for kind in [kind for kind in OF_KIND if kind in kinds]:
                sent = asking_raw(param, OF_KIND[kind], path)
                yield Case("types", f"{param}: {kind}", sent, 400, INVALID, param)


def _out_of_range() -> Iterator[Case]:
    for param, values in OUT_OF_RANGE.items():
        path = EDITS if param == "input_fidelity" else GENERATIONS
        for value in values:
            yield Case("ranges", f"{param}: {shown(value)}", asking_raw(param, value, path), 400, INVALID, param)
    for value, (code, place) in LORAS.items():
        yield Case("ranges", f"loras: {shown(value)}", asking_raw("loras", value), 400, code, place)


def _names() -> Iterator[Case]:
    """Parameters that do not exist."""
    unknown = (
        "prompts",
        "Prompt",
        "guidance",
        "__proto__",
        "constructor",
        "__class__",
        "n ",
        "image[]",
        "model_config",
    )
    for name in unknown:
        yield Case("names", shown(name), asking(**{name: 1}), 400, "unknown_parameter", name)
    hidden = {"NUL in it": "a\0b", "a lone surrogate": "\ud800", "65 characters": "x" * 65, "a line's end": "a\nb"}
    for what, name in hidden.items():
        yield Case("names", what, asking(**{name: 1}), 400, "unknown_parameter", None)
    for name in ("", "$", "{}", "%s", "{0.__class__}"):
        yield Case("names", f"'{name}'", asking(**{name: 1}), 400, "unknown_parameter", name)
    yield Case("names", "a megabyte", lambda: asking(**{"x" * 1_000_000: 1}), 400, "unknown_parameter", None)
    yield Case("names", "ten thousand of them", many_names, 400, "unknown_parameter", "x0")
    yield Case("names", "a prompt for variations", asking(VARIATIONS, prompt="x"), 400, "unknown_parameter", "prompt")


def many_names() -> bytes:
    return asking(**{f"x{number}": 1 for number in range(10_000)})


def _with_company() -> Iterator[Case]:
    """Values that are wrong only beside others."""
    together: dict[str, tuple[dict[str, Any], str | None]] = {
        "strength without image": ({"strength": 0.5}, "strength"),
        "mask without image": ({"mask": "AAAA"}, "mask"),
        "a provider and local_only": ({"provider": "openai", "local_only": True}, "provider"),
        "steps by two names": ({"steps": 1, "num_inference_steps": 2}, "steps"),
        "partial images without a stream are none": ({"partial_images": 2}, None),
        "lcm and too many steps": ({"sampler": "lcm", "steps": 60}, "steps"),
        "control without its image": ({"control": "canny"}, "control"),
        "control_scale without its image": ({"control_scale": 1.0}, "control_scale"),
        "a style that has no preset is ignored": ({"style": "vivid"}, None),
        "control that ends before it begins": ({"control_start": 0.5, "control_end": 0.5}, "control_start"),
        "no prompt": ({"prompt": None}, "prompt"),
    }
    for name, (values, param) in together.items():
        if param is None:
            yield Case("company", name, asking(**values, response_format="b64_json"), 200, pictures=1)
        else:
            code = "missing_required_parameter" if name in ("no prompt",) else INVALID
            yield Case("company", name, asking(**values), 400, code, param)
    everything = {"n": 1, "size": "64x64", "quality": "auto", "background": "auto", "user": "u", "moderation": "low"}
    body = json.dumps({"prompt": "a", "response_format": "b64_json", **everything}).encode()
    yield Case("company", "all at once, and right", message(body), 200, pictures=1)
