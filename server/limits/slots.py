"""How many pictures are on their way at one time, by whom.

Knows owners, bounds and leases, and the two places where they are counted; knows no requests and no HTTP.
Invariant: what a lease holds is freed once, whatever happens; no owner holds more than its bound, here and, while Redis
answers, on all servers that share it. What a server held there that is gone expires after LEASE_SECONDS.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from server.limits.shared import PREFIX, Away, Shared

LEASE_SECONDS, RENEWALS = 60, 4
# A sorted set for each owner: a member for each slot that is held, scored with when it expires by Redis' own clock.
# KEYS: owners' sets. ARGV: the lease's seconds, the number of bounds, the bounds, then the members.
TAKE = """
local now = redis.call('TIME')
local seconds = tonumber(now[1]) + tonumber(now[2]) / 1000000
local lease, bounds = tonumber(ARGV[1]), tonumber(ARGV[2])
local count = #ARGV - 2 - bounds
-- Who asks again, as it heard no answer, does not stand in its own way.
for _, key in ipairs(KEYS) do
  for i = 3 + bounds, #ARGV do redis.call('ZREM', key, ARGV[i]) end
end
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', seconds)
  if bounds > 0 and redis.call('ZCARD', key) + count > tonumber(ARGV[2 + i]) then return i end
end
for _, key in ipairs(KEYS) do
  for i = 3 + bounds, #ARGV do redis.call('ZADD', key, seconds + lease, ARGV[i]) end
  redis.call('EXPIRE', key, lease * 2)
end
return 0
"""


@dataclass(frozen=True, slots=True)
class Bound:
    """owner: a key's id, or the server's name for itself. most: slots at one time, 1 or more."""

    owner: str
    most: int

    @property
    def key(self) -> str:
        return f"{PREFIX}:slots:{self.owner}"


@dataclass(slots=True, eq=False)
class Lease:
    """What one request holds: `count` slots of each owner in `bounds`."""

    bounds: tuple[Bound, ...]
    count: int = 0
    is_over: bool = False
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def members(self, first: int = 0) -> list[str]:
        """What stands for its slots, from the `first` on."""
        return [f"{self.id}:{number}" for number in range(first, self.count)]


class Slots:
    """Call `start` once and `stop` once, in the loop that uses it. lease_seconds: how long Redis keeps what is not
    renewed."""

    def __init__(self, shared: Shared | None = None, lease_seconds: int = LEASE_SECONDS) -> None:
        self._shared, self._lease_seconds = shared, lease_seconds
        self._take_script = None if shared is None else shared.client.register_script(TAKE)
        self._held: Counter[str] = Counter()
        self._leases: set[Lease] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._renewing: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._shared is not None:
            self._renewing = asyncio.create_task(self._renew_for_ever(), name="slots-renewing")

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        await asyncio.gather(*self._leaving)

    def held(self, owner: str) -> int:
        """By this server's requests."""
        return self._held[owner]

    async def take(self, lease: Lease, count: int, beyond: int = 0) -> Bound | None:
        """So many slots more for the lease, or the bound that has no room for them; then the lease is as before.
        beyond: so many more than its bounds there may be."""
        full = next((bound for bound in lease.bounds if self._held[bound.owner] + count > bound.most + beyond), None)
        if full is not None or not lease.bounds:
            return full
        first = lease.count
        self._count(lease, count)
        try:
            full = await self._take_together(lease, first, beyond)
        except BaseException:
            self.free(lease)
            raise
        if full is not None:
            self._count(lease, -count)
        return full

    def free(self, lease: Lease) -> None:
        """All that it holds. A second time nothing happens. Redis is told beside it."""
        if lease.is_over:
            return
        lease.is_over = True
        members = lease.members()
        self._count(lease, -lease.count)
        if self._shared is not None and members:
            leaving = asyncio.create_task(self._leave(lease.bounds, members))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    def _count(self, lease: Lease, more: int) -> None:
        lease.count += more
        (self._leases.add if lease.count else self._leases.discard)(lease)
        for bound in lease.bounds:
            self._held[bound.owner] += more
            if not self._held[bound.owner]:
                del self._held[bound.owner]

    async def _take_together(self, lease: Lease, first: int, beyond: int) -> Bound | None:
        if self._shared is None or self._take_script is None:
            return None
        script, keys = self._take_script, [bound.key for bound in lease.bounds]
        mosts = [bound.most + beyond for bound in lease.bounds]
        arguments: list[str | int] = [self._lease_seconds, len(mosts), *mosts, *lease.members(first)]

        async def take() -> Bound | None:
            place = await script(keys, arguments)
            # Raises ValueError for what is no place, instead of taking one from behind.
            return (None, *lease.bounds)[range(len(lease.bounds) + 1).index(place)]

        try:
            return await self._shared.ask(take)
        except Away:
            return None

    async def _leave(self, bounds: Sequence[Bound], members: Sequence[str]) -> None:
        """Where Redis cannot be told, they expire."""
        if self._shared is None:
            return
        client = self._shared.client

        async def leave() -> None:
            for bound in bounds:
                await client.zrem(bound.key, *members)

        with suppress(Away):
            await self._shared.ask(leave)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / RENEWALS)
            await self.renew()

    async def renew(self) -> None:
        """Say again what is held: it is kept from expiring, and told where Redis was away or has forgotten."""
        for lease in list(self._leases):
            bounds, members = lease.bounds, lease.members()
            with suppress(Away):
                await self._hold(bounds, members)
            if lease.is_over:
                # Its leaving may have come before this.
                await self._leave(bounds, members)

    async def _hold(self, bounds: Sequence[Bound], members: Sequence[str]) -> None:
        """Whatever the bounds are. Raises Away."""
        if self._shared is None or self._take_script is None:
            return
        script, keys = self._take_script, [bound.key for bound in bounds]
        arguments: list[str | int] = [self._lease_seconds, 0, *members]
        await self._shared.ask(lambda: script(keys, arguments))
