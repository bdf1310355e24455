"""Lets a request in, or says why not and when: by rates and slots, of its key and of the whole server.

Knows callers, windows and slots; knows no HTTP and no pictures.
Invariant: a request that is refused has taken nothing of any minute and holds no slot; one that is let in holds its
slots until it leaves, once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from server.core import errors
from server.core.caller import Caller, Limits
from server.core.errors import SafelightError
from server.limits.rates import Rates, Refusal, What, Window
from server.limits.shared import Shared
from server.limits.slots import Bound, Lease, Slots
from server.limits.words import headers_of

UNLIMITED = Limits()
# Each key's name begins with the prefix, so that none can pass for the server.
EVERYBODY, KEY_PREFIX = "server", "key:"


@dataclass(slots=True)
class Visit:
    """One request that was let in. windows: those that it was counted in, or would have been. is_back: whether it may
    hold a slot beyond the limits, as it comes for work that holds its own."""

    caller: Caller
    lease: Lease
    _slots: Slots
    windows: list[Window] = field(default_factory=list)
    is_back: bool = False

    def leave(self) -> None:
        """Give back its slots. A second time nothing happens."""
        self._slots.free(self.lease)

    def handed_over(self) -> Visit:
        """For work that outlives its request: the slots are its own from now on, and it has to leave by itself. A slot
        beyond the limits is given back: who draws after all takes all of its slots within them."""
        lease, self.lease = self.lease, Lease(())
        if self.is_back:
            self._slots.free(lease)
            lease = Lease(lease.bounds)
        return Visit(self.caller, lease, self._slots, self.windows)


class Limiter:
    """own: what the server as a whole takes. shared: where several servers count together. Call `start` and `stop`."""

    def __init__(self, own: Limits = UNLIMITED, shared: Shared | None = None) -> None:
        self._own, self._shared = own, shared
        self._rates, self.slots = Rates(shared), Slots(shared)

    def start(self) -> None:
        self.slots.start()

    async def stop(self) -> None:
        await self.slots.stop()
        if self._shared is not None:
            await self._shared.close()

    async def enter(self, caller: Caller, *, is_back: bool = False) -> Visit:
        """One slot and one request of the minute, before anything is known of its pictures. Whoever gets a visit has to
        leave. is_back: whether work is under way that it comes for; then one may be there beyond the limits. Raises
        SafelightError, whose headers tell how the windows stand."""
        visit = Visit(caller, Lease(tuple(self._bounds(caller))), self.slots, is_back=is_back)
        windows = self._windows(caller, "requests")
        try:
            await self._take_slots(visit, 1, windows, beyond=int(is_back))
            await self._take_rate(visit, windows, 1)
        except BaseException:
            visit.leave()
            raise
        return visit

    async def add_pictures(self, visit: Visit, count: int) -> None:
        """The rest of the slots, and so many pictures of the minute. Raises SafelightError."""
        self._check_possible(visit.caller, count)
        windows = self._windows(visit.caller, "images")
        if count > visit.lease.count:
            await self._take_slots(visit, count - visit.lease.count, windows)
        await self._take_rate(visit, windows, count)

    async def headers(self, visit: Visit) -> dict[str, str]:
        """How its windows stand, for its answer. Asked for when the answer begins: no decision waits for it."""
        return headers_of(await self._rates.views(visit.windows)) if visit.windows else {}

    async def _take_slots(self, visit: Visit, count: int, windows: list[Window], beyond: int = 0) -> None:
        full = await self.slots.take(visit.lease, count, beyond)
        if full is not None:
            error = errors.too_many_at_once(_whose(full.owner), full.most)
            raise await self._told(error, visit, windows)

    async def _take_rate(self, visit: Visit, windows: list[Window], cost: int) -> None:
        if not windows:
            return
        refusal = await self._rates.take(windows, cost)
        if refusal is not None:
            raise await self._told(_rate_limited(refusal), visit, windows)
        visit.windows += windows

    async def _told(self, error: SafelightError, visit: Visit, windows: list[Window]) -> SafelightError:
        """The error with the headers that success has too."""
        everything = [*visit.windows, *windows, *self._windows(visit.caller, "images")]
        visit.windows = list(dict.fromkeys(everything))
        error.more_headers |= await self.headers(visit)
        return error

    def _windows(self, caller: Caller, what: What) -> list[Window]:
        """The key's own first: whoever is beyond it takes nothing from the others."""
        name = "requests_per_minute" if what == "requests" else "images_per_minute"
        return [Window(what, owner, most) for owner, most in self._most(caller, name)]

    def _bounds(self, caller: Caller) -> list[Bound]:
        return [Bound(owner, most) for owner, most in self._most(caller, "concurrent_images")]

    def _most(self, caller: Caller, name: str) -> Iterable[tuple[str, int]]:
        owners = [(f"{KEY_PREFIX}{caller.key_id}", caller.limits), (EVERYBODY, self._own)]
        return [(owner, most) for owner, limits in owners if (most := getattr(limits, name)) is not None]

    def _check_possible(self, caller: Caller, count: int) -> None:
        """What no waiting would let through is wrong, and not too early."""
        for name, told in (("images_per_minute", "in a minute"), ("concurrent_images", "at one time")):
            for owner, most in self._most(caller, name):
                if count > most:
                    raise errors.invalid_parameter(
                        "n", f"'n' may be at most {most}: {_whose(owner)} may draw no more {told}."
                    )


def _whose(owner: str) -> str:
    return "this server" if owner == EVERYBODY else "this key"


def _rate_limited(refusal: Refusal) -> SafelightError:
    window = refusal.window
    return errors.rate_limited(_whose(window.owner), window.limit, window.what, refusal.wait_seconds)
