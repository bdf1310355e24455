"""Guards the sums: whatever is done in whatever order, the ledger holds what a few dictionaries hold."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.ledger.entries import Attempt, AttemptEnd, Entry, Settlement
from server.ledger.ledger import Ledger
from server.ledger.problem import LedgerRefusal
from tests.server.ledger.samples import NOW, all_rows, attempt, attempt_end, entry, settlement

BACKENDS = ("openai", "bedrock")
MONEY = st.integers(0, 2**50)
REQUESTS = st.sampled_from(["a", "b", "c"])
INDEXES = st.integers(0, 2)
ATTEMPTS = st.sampled_from(["t", "u", "v", "w"])
CAPS = st.dictionaries(st.sampled_from([*BACKENDS, None]), MONEY)


@dataclass(frozen=True)
class Try:
    attempt: Attempt
    caps: dict[str | None, int]


Act = list[Entry] | list[Settlement] | Attempt | AttemptEnd | Try
entries = st.builds(entry, REQUESTS, INDEXES)
settlements = st.builds(settlement, REQUESTS, INDEXES, cost_microusd=MONEY, seed=st.integers(0, 2**64 - 1))
attempts = st.builds(attempt, ATTEMPTS, st.sampled_from(BACKENDS), MONEY)
acts: st.SearchStrategy[Act] = st.one_of(
    st.lists(entries, min_size=1, max_size=3),
    st.lists(settlements, min_size=1, max_size=3),
    attempts,
    st.builds(attempt_end, ATTEMPTS, MONEY),
    st.builds(Try, attempts, CAPS),
)


@dataclass
class Model:
    """What a ledger should hold. `do` says whether an act is taken, refused (None) or does not fit (False)."""

    ends: dict[tuple[str, int], Settlement | None] = field(default_factory=dict)
    open: dict[str, Attempt] = field(default_factory=dict)
    spent: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)

    def do(self, act: Act) -> bool | None:
        match act:
            case [Entry(), *_]:
                return self._reserve([(one.request_id, one.index) for one in act])
            case [Settlement(), *_]:
                return self._settle([one for one in act if isinstance(one, Settlement)])
            case Attempt():
                return self._begin(act)
            case AttemptEnd():
                return self._end(act)
            case Try():
                sums = {act.attempt.backend: self.spent[act.attempt.backend], None: self.spent.total()}
                money = act.attempt.reserved_microusd
                if any(name in sums and sums[name] + money > cap for name, cap in act.caps.items()):
                    return False
                return self._begin(act.attempt)
        raise AssertionError(act)

    def _reserve(self, names: list[tuple[str, int]]) -> bool | None:
        if len(set(names)) < len(names) or set(names) & self.ends.keys():
            return None
        self.ends |= dict.fromkeys(names)
        return True

    def _settle(self, ends: list[Settlement]) -> bool | None:
        named = {(end.request_id, end.index): end for end in ends}
        if len(named) < len(ends) or any(self.ends.get(name, end) is not None for name, end in named.items()):
            return None
        self.ends |= named
        return True

    def _begin(self, begun: Attempt) -> bool | None:
        if begun.attempt_id in self.seen:
            return None
        self.seen.add(begun.attempt_id)
        self.open[begun.attempt_id] = begun
        self.spent[begun.backend] += begun.reserved_microusd
        return True

    def _end(self, end: AttemptEnd) -> bool | None:
        begun = self.open.pop(end.attempt_id, None)
        if begun is None:
            return None
        self.spent[begun.backend] += end.cost_microusd - begun.reserved_microusd
        return True

    def crash(self) -> None:
        for name, end in self.ends.items():
            if end is None:
                unknown: dict[str, Any] = dict.fromkeys(
                    ("served_model", "backend", "steps", "seed", "queue_ms", "device_ms")
                )
                unknown |= dict.fromkeys(("attempts", "latency_ms", "cost_microusd"), 0)
                self.ends[name] = settlement(name[0], name[1], outcome="interrupted", **unknown)


async def do(ledger: Ledger, act: Act) -> bool | None:
    try:
        match act:
            case [Entry(), *_]:
                await ledger.reserve([one for one in act if isinstance(one, Entry)])
            case [Settlement(), *_]:
                await ledger.settle([one for one in act if isinstance(one, Settlement)])
            case Attempt():
                await ledger.begin_attempt(act)
            case AttemptEnd():
                await ledger.end_attempt(act)
            case Try():
                return await ledger.try_attempt(act.attempt, act.caps, NOW)
    except LedgerRefusal:
        return None
    return True


async def compare(ledger: Ledger, model: Model) -> None:
    rows = {(row.entry.request_id, row.entry.index): row.settlement for row in await all_rows(ledger)}
    assert rows == model.ends
    assert Counter(await ledger.spent_microusd(NOW)) == +model.spent


def test_any_sequence_of_operations_leaves_the_sums_right(url: str) -> None:
    with asyncio.Runner() as runner:
        ledger = Ledger(url)
        runner.run(ledger.open())

        async def play(sequence: list[Act]) -> None:
            model = Model()
            for act in sequence:
                assert await do(ledger, act) == model.do(act), act
            await compare(ledger, model)
            # What is open is closed at the next start, at what it may have cost.
            await ledger.close()
            await ledger.open()
            model.crash()
            await compare(ledger, model)
            await ledger.forget_before(2 * NOW)
            await compare(ledger, Model())

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(acts, max_size=25))
        def check(sequence: list[Act]) -> None:
            runner.run(play(sequence))

        check()
        runner.run(ledger.close())


def test_any_operations_at_once_leave_the_sums_that_some_order_leaves(url: str) -> None:
    """Calls on unlike subjects do not depend on their order, so that the model's order is as good as any."""
    with asyncio.Runner() as runner:
        ledger = Ledger(url)
        runner.run(ledger.open())
        number = itertools.count()

        async def play(sequence: list[tuple[int, int]]) -> None:
            before = Counter(await ledger.spent_microusd(NOW))

            async def one(reserved: int, cost: int) -> None:
                name = f"call_{next(number)}"
                await ledger.begin_attempt(attempt(name, "openai", reserved))
                await ledger.end_attempt(attempt_end(name, cost))

            await asyncio.gather(*(one(*pair) for pair in sequence))
            gained = Counter(await ledger.spent_microusd(NOW))["openai"] - before["openai"]
            assert gained == sum(cost for _, cost in sequence)

        @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(st.tuples(MONEY, MONEY), max_size=30))
        def check(sequence: list[tuple[int, int]]) -> None:
            runner.run(play(sequence))

        check()
        runner.run(ledger.close())
