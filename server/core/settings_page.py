"""The page of all settings, printed from the settings themselves: docs/settings.md.

Knows names, defaults, ranges and descriptions; reads no environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from server.core.settings import PREFIX, Settings

INTRODUCTION = """\
# Settings

Every setting is an environment variable; a few are flags of `safelight serve` too, which win. An unknown `SAFELIGHT_*`
variable is refused at start, and so is a value out of range, with the variable's name and what is allowed. So is an
empty value, of paths too: unset what is not meant. Lists are written as JSON. `safelight check` reads them without
starting anything.

The commands that ask a server read `SAFELIGHT_SERVER` (its address) and `SAFELIGHT_KEY`; those in `scripts/` read
`SAFELIGHT_VENV` (where the environment is made) and `SAFELIGHT_PYTHON` (the interpreter).

This page is printed by `python -m server.core.settings_page`.

| variable | default | allowed | meaning |
|---|---|---|---|
"""


def page() -> str:
    """The table as Markdown."""
    return INTRODUCTION + "".join(_line(name, field) for name, field in sorted(Settings.model_fields.items()))


def _line(name: str, field: FieldInfo) -> str:
    cells = (f"`{PREFIX}{name.upper()}`", _default(name, field), _allowed(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _default(name: str, field: FieldInfo) -> str:
    if name == "models":
        return "`models.yaml` beside the code"
    value = field.default
    if field.default_factory is not None:
        return "as many as the process may use"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _allowed(field: FieldInfo) -> str:
    words = _words(field.annotation)
    limits = [text for bound in field.metadata if (text := _limit(bound)) is not None]
    return ", ".join([words, *limits])


def _words(kind: Any) -> str:
    """A type as people write its values."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(kind))
    parts = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) is tuple:
        return "a JSON list"
    if len(parts) == 1:
        return _words(parts[0])
    return {bool: "`true`, `false`", int: "a whole number", float: "a number", Path: "a path"}.get(kind, "text")


def _limit(bound: Any) -> str | None:
    match bound:
        case annotated_types.Ge(ge=value):
            return f"at least {value}"
        case annotated_types.Gt(gt=value):
            return f"above {value}"
        case annotated_types.Le(le=value):
            return f"at most {value}"
        case annotated_types.Lt(lt=value):
            return f"below {value}"
        case _:
            return None


if __name__ == "__main__":
    print(page(), end="")
