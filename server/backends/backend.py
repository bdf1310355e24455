"""A place that can serve a request, as the router sees it: what it would take, and the pictures.

Knows requests and pictures; knows no processes, no wire and no other backend.
Invariant: a backend draws every picture of an order, or raises and leaves nothing at work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pipelines.messages import Event
from server.core.request import ImageRequest, Picture

Listener = Callable[[Event], None]
R_co = TypeVar("R_co", bound=ImageRequest, covariant=True)
R_contra = TypeVar("R_contra", bound=ImageRequest, contravariant=True)


def deaf(_: int) -> Listener | None:
    """Nobody listens."""
    return None


def unmoved(_: int, __: Picture) -> None:
    """Nobody waits for single pictures."""


@dataclass(frozen=True, slots=True)
class Ears:
    """Who hears how it goes. listener_of: who hears of picture i. on_picture: told of each as soon as it is there."""

    listener_of: Callable[[int], Listener | None] = deaf
    on_picture: Callable[[int, Picture], None] = unmoved


@dataclass(frozen=True, slots=True)
class Order(Generic[R_co]):
    """A complete request for one backend. patience_seconds: how long its caller still waits; None: for ever.
    is_patience_asked: whether the caller said so itself. caller: whose share of a device it takes; all without a
    key are one."""

    request: R_co
    request_id: str
    patience_seconds: float | None = None
    wants_progress: bool = False
    caller: str = ""
    is_patience_asked: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    """Before it is drawn. seconds: until all pictures are there; None where the backend cannot know."""

    seconds: float | None
    usd: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """All pictures, in their order. cost_usd: of the whole order, and so at least what its pictures cost."""

    pictures: tuple[Picture, ...]
    cost_usd: float


class Backend(Protocol[R_contra]):
    """The router needs no more of anybody."""

    def estimate(self, request: R_contra) -> Estimate:
        """What the request would take if it came now."""

    async def draw(self, order: Order[R_contra], ears: Ears) -> Drawn:
        """Raises SafelightError (our own device) or Trouble (a provider)."""
