"""Guards what the ledger answers for audits: whatever is asked, both databases say what a plain loop over rows says."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.ledger.entries import Entry, Row, Settlement
from server.ledger.ledger import Ledger
from server.ledger.question import Group, Question, Sum
from tests.server.ledger.samples import NOW, all_rows, entry, played, settlement

STRETCH_MS = 1000
KEYS = ("k1", "k2", "K1", "k_")
MODELS = ("dall-e-3", "demo-sdxl", "Demo-sdxl", "a, b")
BACKENDS = ("local", "openai")
SIZES = ("512x512", "1024x1024")
OPERATIONS = ("generation", "edit", "variation")
OUTCOMES = ("succeeded", "failed", "cancelled", "interrupted")
GROUPS: tuple[Group, ...] = ("key_id", "model", "backend", "size", "operation", "outcome", "line_item")
entries: st.SearchStrategy[dict[str, Any]] = st.builds(
    dict,
    key_id=st.none() | st.sampled_from(KEYS),
    operation=st.sampled_from(OPERATIONS),
    requested_model=st.sampled_from(MODELS),
    size=st.sampled_from(SIZES),
    began_unix_ms=st.integers(NOW, NOW + 4 * STRETCH_MS),
    work_units=st.integers(0, 2**40).map(float),
)
ends: st.SearchStrategy[dict[str, Any] | None] = st.none() | st.builds(
    dict,
    outcome=st.sampled_from(OUTCOMES),
    served_model=st.none() | st.sampled_from(MODELS),
    backend=st.none() | st.sampled_from(BACKENDS),
    size=st.none() | st.sampled_from(SIZES),
    cost_microusd=st.integers(0, 2**50),
)
requests = st.lists(st.tuples(entries, st.lists(ends, min_size=1, max_size=3)), max_size=12)


def some(values: Collection[str]) -> st.SearchStrategy[Any]:
    return st.none() | st.frozensets(st.sampled_from([*values, "x"]), max_size=3)


questions = st.builds(
    Question,
    since_unix_ms=st.integers(NOW - 1, NOW + STRETCH_MS),
    until_unix_ms=st.integers(NOW + STRETCH_MS, NOW + 5 * STRETCH_MS),
    keys=some(KEYS),
    models=some(MODELS),
    backends=some(BACKENDS),
    outcomes=some([*OUTCOMES, "open"]),
    operations=some(OPERATIONS),
    sizes=some(SIZES),
    line_items=st.none() | st.just(frozenset({"dall-e-3, local", "demo-sdxl, none"})),
)


def values_of(row: Row) -> dict[Group, str | None]:
    end = row.settlement
    model = (end and end.served_model) or row.entry.requested_model
    backend = end.backend if end else None
    return {
        "key_id": row.entry.key_id,
        "model": model,
        "backend": backend,
        "size": (end and end.size) or row.entry.size,
        "operation": row.entry.operation,
        "outcome": end.outcome if end else "open",
        "line_item": f"{model}, {backend or 'none'}",
    }


def fits(row: Row, asked: Question) -> bool:
    values = values_of(row)
    served = row.settlement.served_model if row.settlement else None
    return (
        asked.since_unix_ms <= row.entry.began_unix_ms < asked.until_unix_ms
        and (asked.models is None or row.entry.requested_model in asked.models or served in asked.models)
        and (asked.keys is None or values["key_id"] in asked.keys)
        and (asked.backends is None or values["backend"] in asked.backends)
        and (asked.outcomes is None or values["outcome"] in asked.outcomes)
        and (asked.operations is None or values["operation"] in asked.operations)
        and (asked.sizes is None or values["size"] in asked.sizes)
        and (asked.line_items is None or values["line_item"] in asked.line_items)
    )


def summed(rows: list[Row], by: Collection[Group]) -> list[Sum]:
    """By hand."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        values = values_of(row)
        place = (row.entry.began_unix_ms // STRETCH_MS, *(values[name] for name in sorted(by)))
        groups.setdefault(place, []).append(row)
    order = sorted(groups, key=lambda place: (place[0], [(value is not None, value or "") for value in place[1:]]))
    return [sum_of(place, groups[place], sorted(by)) for place in order]


def sum_of(place: tuple[Any, ...], rows: list[Row], names: list[Group]) -> Sum:
    done = [row for row in rows if row.settlement]
    outcomes = [row.settlement.outcome for row in done if row.settlement]
    return Sum(
        stretch=place[0],
        of=dict(zip(names, place[1:], strict=True)),
        requests=len({row.entry.request_id for row in rows}),
        images=outcomes.count("succeeded"),
        failures=outcomes.count("failed") + outcomes.count("interrupted"),
        cancelled=outcomes.count("cancelled"),
        work_units=sum(r.entry.work_units for r in done if r.settlement and r.settlement.outcome == "succeeded"),
        cost_microusd=sum(row.settlement.cost_microusd for row in done if row.settlement),
    )


async def written(ledger: Ledger, asked_for: list[tuple[dict[str, Any], list[dict[str, Any] | None]]]) -> list[Row]:
    """In the order of pages."""
    rows: list[Row] = []
    for number, (values, endings) in enumerate(asked_for):
        begun = [entry(f"req_{number}", index, **values) for index in range(len(endings))]
        await ledger.reserve(begun)
        rows += [Row(one, await ended(ledger, one, end)) for one, end in zip(begun, endings, strict=True)]
    return sorted(rows, key=lambda row: row.entry.began_unix_ms)


async def ended(ledger: Ledger, one: Entry, values: dict[str, Any] | None) -> Settlement | None:
    if values is None:
        return None
    end = settlement(one.request_id, one.index, **values)
    await ledger.settle([end])
    return end


async def cleared(ledger: Ledger) -> None:
    ends = [settlement(row.entry.request_id, row.entry.index) for row in await all_rows(ledger) if not row.settlement]
    await ledger.settle(ends)
    await ledger.forget_before(2 * NOW)


def test_rows_and_sums_are_what_a_plain_loop_over_all_rows_finds(url: str) -> None:
    with asyncio.Runner() as runner:
        ledger = Ledger(url)
        runner.run(ledger.open())

        async def play(asked_for: list[Any], asked: Question, by: frozenset[Group]) -> None:
            await cleared(ledger)
            rows = [row for row in await written(ledger, asked_for) if fits(row, asked)]
            assert list((await ledger.rows(asked, after=None, limit=100)).rows) == rows
            assert await ledger.sums(asked, stretch_ms=STRETCH_MS, by=by, most=100) == summed(rows, by)

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(requests, questions, st.frozensets(st.sampled_from(GROUPS)))
        def check(asked_for: list[Any], asked: Question, by: frozenset[Group]) -> None:
            runner.run(play(asked_for, asked, by))

        check()
        runner.run(ledger.close())


def test_more_sums_than_whoever_asks_can_take_are_none_and_as_many_are_given(url: str) -> None:
    async def play(ledger: Ledger) -> list[int | None]:
        for number in range(5):
            await ledger.reserve([entry(f"req_{number}", began_unix_ms=NOW + number * STRETCH_MS)])
        asked = Question(0, 2 * NOW)
        found = [await ledger.sums(asked, stretch_ms=STRETCH_MS, by=(), most=most) for most in (4, 5)]
        return [one if one is None else len(one) for one in found]

    assert played(url, play) == [None, 5]


def test_pages_of_a_narrow_question_hold_each_row_once_though_others_are_added(url: str) -> None:
    asked = replace(Question(0, 2 * NOW), keys=frozenset({"k1"}))

    async def play(ledger: Ledger) -> list[str]:
        seen, after = list[str](), None
        for number in range(9):
            await ledger.reserve([entry(f"req_{number}", key_id="k1"), entry(f"other_{number}", key_id="k2")])
        for turn in range(9):
            page = await ledger.rows(asked, after=after, limit=2)
            seen += [row.entry.request_id for row in page.rows]
            after = page.after
            if after is None:
                return seen
            await ledger.reserve([entry(f"late_{turn}", key_id="k1", began_unix_ms=NOW + turn)])
        raise AssertionError(seen)

    seen = played(url, play)
    assert len(seen) == len(set(seen))
    assert [name for name in seen if name.startswith("req")] == [f"req_{number}" for number in range(9)]
