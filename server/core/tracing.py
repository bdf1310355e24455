"""The hops of a request, each a span with its parent: begun and ended where the work is, told to whoever exports them.

Knows ids, names and times; knows no exporter and no wire. Where nobody traces, a hop costs one look.
Invariant: a span's parent is the hop around it, in whatever task; no attribute is a text of a caller's.
Source: W3C Trace Context, level 1 (`traceparent`).
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from server.core.errors import SafelightError

Attribute = str | int | float | bool
NANO = 1_000_000_000
SAMPLED = 1
_TRACEPARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
)
_LENGTH = 55


@dataclass(slots=True)
class Span:
    """One hop. Ids in hexadecimal. error: what it ended with, one word; None where it did its work. is_entry: the
    request itself."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    began_unix_ns: int
    ended_unix_ns: int = 0
    attributes: dict[str, Attribute] = field(default_factory=dict)
    error: str | None = None
    is_entry: bool = False


# Takes a span that has ended. Must neither block nor raise.
Sink = Callable[[Span], None]


@dataclass(frozen=True, slots=True)
class Parent:
    """What a caller says of its own trace. is_sampled: whether it wants ours recorded."""

    trace_id: str
    span_id: str
    is_sampled: bool


def parent_of(traceparent: str | None) -> Parent | None:
    """None for a header that is absent, or not as the standard wants it."""
    found = _TRACEPARENT.match(traceparent or "")
    if found is None or traceparent is None or found["version"] == "ff":
        return None
    # Later versions may say more, behind another dash.
    rest = traceparent[_LENGTH:]
    if rest and (found["version"] == "00" or not rest.startswith("-")):
        return None
    if int(found["trace"], 16) == 0 or int(found["span"], 16) == 0:
        return None
    return Parent(found["trace"], found["span"], bool(int(found["flags"], 16) & SAMPLED))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the code at hand is: inside this span. The wall's time is read once a trace, so that a clock that is set
    meanwhile bends no span."""

    span: Span
    sink: Sink
    unix_ns: int
    monotonic_ns: int

    def now_unix_ns(self) -> int:
        return self.unix_ns + time.monotonic_ns() - self.monotonic_ns


_HERE: ContextVar[_Place | None] = ContextVar("safelight_span", default=None)


@contextmanager
def entry(name: str, parent: Parent | None, sink: Sink | None) -> Iterator[Span | None]:
    """The request as a whole. Nothing where nobody traces, or where its caller does not want it traced."""
    if sink is None or (parent is not None and not parent.is_sampled):
        yield None
        return
    trace_id, span_id = secrets.token_hex(16) if parent is None else parent.trace_id, secrets.token_hex(8)
    now_ns = time.time_ns()
    span = Span(name, trace_id, span_id, None if parent is None else parent.span_id, now_ns, is_entry=True)
    with _within(_Place(span, sink, now_ns, time.monotonic_ns())):
        yield span


@contextmanager
def hop(name: str, **attributes: Attribute) -> Iterator[Span | None]:
    """A part of what is being done, if it is traced."""
    here = _HERE.get()
    if here is None:
        yield None
        return
    span = _child(here, name, here.now_unix_ns(), attributes)
    with _within(_Place(span, here.sink, here.unix_ns, here.monotonic_ns)):
        yield span


def mark(name: str, seconds_ago: float, seconds: float, **attributes: Attribute) -> None:
    """A hop that others have told of: it ended so long ago, and took so many seconds."""
    here = _HERE.get()
    if here is None:
        return
    ended_ns = here.now_unix_ns() - round(seconds_ago * NANO)
    span = _child(here, name, ended_ns - round(seconds * NANO), attributes)
    span.ended_unix_ns = ended_ns
    here.sink(span)


def _child(here: _Place, name: str, began_unix_ns: int, attributes: dict[str, Attribute]) -> Span:
    parent = here.span
    return Span(name, parent.trace_id, secrets.token_hex(8), parent.span_id, began_unix_ns, attributes=attributes)


@contextmanager
def _within(place: _Place) -> Iterator[None]:
    token = _HERE.set(place)
    try:
        yield
    except BaseException as problem:
        # Its text may hold what a caller sent.
        place.span.error = problem.code if isinstance(problem, SafelightError) else type(problem).__name__
        raise
    finally:
        _HERE.reset(token)
        place.span.ended_unix_ns = place.now_unix_ns()
        place.sink(place.span)
