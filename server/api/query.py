"""Reads a query string strictly, by a table of parameters that describes it in OpenAPI too.

Knows names, types and ranges; knows no route.
Invariant: what is described is what is enforced; every refusal names the parameter and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import QueryParams

from server.core import errors

MAX_VALUES = 100
MAX_TEXT_CHARACTERS = 210
# PostgreSQL holds no NUL, and nobody's name has any other of them. The last stands for bytes that are no UTF-8. As both
# Python and JSON Schema write it.
NO_CONTROLS = r"[^\x00-\x1f\x7f\ufffd]+"
SHORT_TEXT = f"1 to {MAX_TEXT_CHARACTERS} characters that can be printed"
BRACKETS = "[]"


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter.

    read: the value of a text, or None if it is none. allowed: the same in words. schema: the same as JSON Schema.
    is_list: may be sent several times, as `name` or as `name[]`, which is how OpenAI's clients write it.
    """

    name: str
    read: Callable[[str], Any]
    allowed: str
    schema: Mapping[str, Any]
    description: str
    is_list: bool = False
    is_required: bool = False

    def described(self) -> dict[str, Any]:
        """As OpenAPI 3.1 says it."""
        schema = {"type": "array", "items": self.schema, "maxItems": MAX_VALUES} if self.is_list else self.schema
        return {
            "name": self.name + BRACKETS if self.is_list else self.name,
            "in": "query",
            "required": self.is_required,
            "description": self.description,
            "schema": dict(schema),
        }


def number(name: str, least: int, most: int, description: str, *, is_required: bool = False) -> Param:
    """A whole number in decimal digits."""

    def read(text: str) -> int | None:
        is_number = re.fullmatch(r"[0-9]{1,18}", text) is not None
        return int(text) if is_number and least <= int(text) <= most else None

    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Param(name, read, f"a whole number from {least} to {most}", schema, description, is_required=is_required)


def word(name: str, words: Sequence[str], description: str, *, is_list: bool = False) -> Param:
    """One of a few."""
    schema = {"type": "string", "enum": list(words)}
    return Param(name, lambda text: text if text in words else None, ", ".join(words), schema, description, is_list)


def text(
    name: str, description: str, *, is_list: bool = False, pattern: str = NO_CONTROLS, allowed: str = SHORT_TEXT
) -> Param:
    """What a pattern matches as a whole."""

    def read(value: str) -> str | None:
        is_good = 1 <= len(value) <= MAX_TEXT_CHARACTERS and re.fullmatch(pattern, value)
        return value if is_good else None

    schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT_CHARACTERS, "pattern": f"^{pattern}$"}
    return Param(name, read, allowed, schema, description, is_list)


def values_of(query: QueryParams, params: Sequence[Param]) -> dict[str, Any]:
    """By name, what was sent; a list's as a frozenset. Raises SafelightError."""
    known = {param.name: param for param in params}
    known |= {param.name + BRACKETS: param for param in params if param.is_list}
    sent: dict[str, list[str]] = {}
    for name, value in query.multi_items():
        if name not in known:
            raise errors.unknown_parameter(name, known)
        sent.setdefault(known[name].name, []).append(value)
    for param in params:
        if param.is_required and param.name not in sent:
            raise errors.missing_parameter(param.name)
    return {param.name: _value(param, sent[param.name]) for param in params if param.name in sent}


def _value(param: Param, sent: Sequence[str]) -> Any:
    most = MAX_VALUES if param.is_list else 1
    if len(sent) > most:
        raise errors.invalid_parameter(param.name, f"'{param.name}' may be sent {most} times at most.")
    values = [_read(param, one) for one in sent]
    return frozenset(values) if param.is_list else values[0]


def _read(param: Param, sent: str) -> Any:
    value = param.read(sent)
    if value is None:
        message = f"Invalid value for '{param.name}': {errors.quoted(sent)}. Supported values are: {param.allowed}."
        raise errors.invalid_parameter(param.name, message)
    return value
