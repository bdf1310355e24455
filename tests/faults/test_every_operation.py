"""SQLite's own habit: the first operation fails, then the second, and so on, until a run passes without a failure.

In this process, with real books: every statement and every commit of their database. tests/pipelines/test_every_step.py
does the same with a job's steps.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from server.core.errors import SafelightError
from server.routing import closing as closing_module
from tests.server.routing.stage import OPENAI, OURS, Scripted, Stage

MOST_OPERATIONS = 200


@dataclass(slots=True)
class NthOperation:
    """Fails the operation of this number, and, where it lasts, all after it. fired: whether it was reached."""

    number: int
    lasts: bool
    seen: int = 0
    fired: bool = False

    def look(self, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.number or (self.lasts and self.seen > self.number):
            self.fired = True
            raise OperationalError("a statement", {}, sqlite3.OperationalError("disk I/O error"))


@contextmanager
def armed(fault: NthOperation) -> Iterator[None]:
    """Before every statement and every commit of any database."""
    event.listen(Engine, "before_cursor_execute", fault.look)
    event.listen(Engine, "commit", fault.look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", fault.look)
        event.remove(Engine, "commit", fault.look)


@dataclass(slots=True)
class Run:
    """One request. delivered: whether the caller was told of pictures."""

    stage: Stage
    delivered: bool = False

    async def play(self, fault: NthOperation) -> None:
        async with self.stage.router() as router:
            with armed(fault):
                try:
                    await router.draw(self.stage.journey(count=2))
                    self.delivered = True
                except SafelightError as error:
                    assert error.code == "ledger_unavailable"  # noqa: PT017 (which of both comes is not known)


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("target", [OURS, OPENAI], ids=str)
def test_whichever_operation_of_the_books_fails_every_entry_ends_once_and_nothing_is_told_that_is_not_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Any, *, lasts: bool
) -> None:
    monkeypatch.setattr(closing_module, "RETRY_SECONDS", 0.01)
    for number in range(1, MOST_OPERATIONS):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = Run(Stage(folder, {"local": Scripted(), "openai": Scripted(), "bedrock": Scripted()}, (target,)))
        fault = NthOperation(number, lasts)
        asyncio.run(run.play(fault))
        assert_kept(folder, run)
        if not fault.fired:
            assert run.delivered
            return
    raise AssertionError("it never passed without the fault")


def assert_kept(folder: Path, run: Run) -> None:
    rows = run.stage.rows()
    outcomes = [None if row.settlement is None else row.settlement.outcome for row in rows]
    if run.delivered:
        assert outcomes == ["succeeded"] * 2
    else:
        # Refused before it was drawn, drawn and not told, or closed by the next start.
        assert outcomes in ([], ["failed"] * 2, ["succeeded"] * 2, ["interrupted"] * 2), outcomes
    with closing(sqlite3.connect(folder / "ledger.sqlite")) as books:
        entries, attempts = (
            books.execute(f"SELECT coalesce(sum(cost_microusd), 0) FROM {table}").fetchone()[0]  # noqa: S608
            for table in ("ledger_entries", "ledger_attempts")
        )
    assert "interrupted" in outcomes or run.stage.targets == (OURS,) or entries == attempts


def test_a_fault_that_is_never_reached_changes_nothing(tmp_path: Path) -> None:
    """The count itself is no fault."""
    run = Run(Stage(tmp_path, {"local": Scripted(), "openai": Scripted(), "bedrock": Scripted()}, (OURS,)))
    fault = NthOperation(10_000, lasts=True)
    asyncio.run(run.play(fault))
    assert run.delivered
    assert fault.seen > 3
    assert len(run.stage.rows()) == 2
