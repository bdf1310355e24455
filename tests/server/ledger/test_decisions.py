"""What content checks decided is kept as it was, once, and forgotten with the rest; older books grow a table for it."""

from __future__ import annotations

from typing import Any

import pytest
from alembic import command
from alembic.config import Config

from server.ledger.decisions import Decision
from server.ledger.ledger import Ledger
from server.ledger.migrate import FOLDER
from server.ledger.problem import LedgerRefusal
from tests.server.ledger.samples import NOW, all_rows, beside, entry, played


def decision(number: int = 1, request_id: str = "req_1", **values: Any) -> Decision:
    usual: dict[str, Any] = {
        "index": None,
        "key_id": "key_1",
        "check_name": "words",
        "stage": "prompt",
        "level": "auto",
        "decision": "allow",
        "problem": None,
        "ms": 3,
        "prompt_characters": 12,
        "prompt_digest": "0" * 32,
        "prompt": None,
        "began_unix_ms": NOW,
    }
    return Decision(request_id, number, **{**usual, **values})


def test_decisions_are_read_back_as_they_were_in_their_order(url: str) -> None:
    made = [
        decision(1),
        decision(2, check_name="moderator", decision="refuse", problem="timeout", key_id=None, ms=2**40),
        decision(3, stage="result", index=9, level="low", prompt="a \U0001f600 prompt\n" * 2000),
    ]

    async def play(ledger: Ledger) -> tuple[Decision, ...]:
        await ledger.decide([made[2], made[0]])
        await ledger.decide([made[1], decision(1, "req_2")])
        await ledger.decide([])
        return await ledger.decisions("req_1")

    assert played(url, play) == tuple(made)


@pytest.mark.parametrize("wrong", [decision(1), decision(2, stage="later"), decision(2, decision="maybe")])
def test_a_decision_that_was_made_before_or_is_none_is_refused_and_others_are_kept(url: str, wrong: Decision) -> None:
    async def play(ledger: Ledger) -> tuple[Decision, ...]:
        await ledger.decide([decision(1)])
        with pytest.raises(LedgerRefusal):
            await ledger.decide([decision(3), wrong])
        return await ledger.decisions("req_1")

    assert played(url, play) == (decision(1),)


def test_decisions_are_forgotten_with_the_rest(url: str) -> None:
    async def play(ledger: Ledger) -> tuple[int, list[str]]:
        await ledger.decide([decision(number, "old", began_unix_ms=NOW - 1) for number in range(1, 2502)])
        await ledger.decide([decision(1, "new")])
        forgotten = await ledger.forget_before(NOW)
        left = [*await ledger.decisions("old"), *await ledger.decisions("new")]
        return forgotten, [one.request_id for one in left]

    assert played(url, play) == (2501, ["new"])


def test_books_from_before_there_were_decisions_keep_all_and_take_them(url: str) -> None:
    async def reserve(ledger: Ledger) -> None:
        await ledger.reserve([entry()])

    async def look(ledger: Ledger) -> tuple[int, int]:
        await ledger.decide([decision()])
        return len(await all_rows(ledger)), len(await ledger.decisions("req_1"))

    with beside(url) as connection:
        config = Config()
        config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.commit()
    assert played(url, look) == (0, 1)
    played(url, reserve)
