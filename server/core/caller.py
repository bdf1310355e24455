"""Who asks: what one key may do, and how much. Frozen: a changed key is a new Caller.

Knows scopes, limits and names; knows no secret, no header and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

# generate: draw, and list the models. usage: read one's own history. metrics: read /metrics. admin: everything.
Scope = Literal["generate", "usage", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a caller may ask for; None: as much as it likes.

    concurrent_images: pictures on their way at one time. work_units_per_day: rows x pixels x steps. Days are UTC.
    """

    requests_per_minute: int | None = None
    images_per_minute: int | None = None
    concurrent_images: int | None = None
    work_units_per_day: float | None = None
    usd_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """key_id: what the books know it by; None where the server has no keys. models: the names that it may ask for;
    None: all. local_only: nothing that it asks for leaves this server."""

    key_id: str | None
    name: str
    scopes: frozenset[Scope]
    models: frozenset[str] | None = None
    limits: Limits = Limits()
    local_only: bool = False

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


# Whoever reaches a server without keys: only those on its own machine.
ANYBODY = Caller(key_id=None, name="", scopes=frozenset(SCOPES))
# Whoever uses a route that asks nobody who he is.
NOBODY = Caller(key_id=None, name="", scopes=frozenset())
