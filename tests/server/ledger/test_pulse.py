"""Guards the answer to whether the books can be written: in a second, by writing, in words that tell no secret."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from server.ledger import pulse
from server.ledger.ledger import Ledger
from server.ledger.problem import LOCKED, NOT_OPEN, SILENT


def problems(path: Path, act: Callable[[Ledger], Awaitable[list[str | None]]]) -> list[str | None]:
    async def run() -> list[str | None]:
        ledger = Ledger(f"sqlite:///{path}", deadline_seconds=3.0)
        await ledger.open()
        try:
            return await act(ledger)
        finally:
            await ledger.close()

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def _always_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "FRESH_SECONDS", 0.0)


def test_books_that_can_be_written_have_no_problem_and_asking_writes_nothing_new(tmp_path: Path) -> None:
    async def ask(ledger: Ledger) -> list[str | None]:
        return [await ledger.problem() for _ in range(3)]

    assert problems(tmp_path / "a.sqlite", ask) == [None] * 3
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM ledger_revision").fetchone() == (1,)


def test_a_locked_database_shows_within_a_second_or_so_and_is_fine_once_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"

    async def ask(ledger: Ledger) -> list[str | None]:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        first = await ledger.problem()
        assert time.monotonic() - began < pulse.PATIENCE_SECONDS + 1
        await asyncio.sleep(2)
        second = await ledger.problem()
        other.execute("ROLLBACK")
        other.close()
        await asyncio.sleep(2)
        return [first, second, await ledger.problem()]

    first, second, third = problems(path, ask)
    assert first == SILENT
    assert second in (SILENT, LOCKED)
    assert third is None


def test_a_ledger_that_is_not_open_says_so() -> None:
    assert asyncio.run(Ledger("sqlite:////nowhere/a.sqlite").problem()) == NOT_OPEN


def test_many_who_ask_cost_one_write(tmp_path: Path) -> None:
    async def ask(ledger: Ledger) -> list[str | None]:
        before = ledger.commits
        found = await asyncio.gather(*(ledger.problem() for _ in range(50)))
        assert ledger.commits == before + 1
        return list(found)

    assert set(problems(tmp_path / "a.sqlite", ask)) == {None}
