"""The commands of docs/operations.md bring the books back, taken while a server writes them."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from pathlib import Path

from server.ledger.entries import Row
from server.ledger.ledger import Ledger
from tests.postgresql import Postgresql
from tests.server.ledger.samples import all_rows, entry, played, settlement

PAGE = Path(__file__).resolve().parents[3] / "docs" / "operations.md"
CONFIRMED = [Row(entry(index=index), settlement(index=index)) for index in range(3)]


def commands(first_word: str) -> list[str]:
    """The page's lines that begin so."""
    return re.findall(rf"^{first_word} .*$", PAGE.read_text(), re.MULTILINE)


async def write(ledger: Ledger) -> None:
    await ledger.reserve([row.entry for row in CONFIRMED])
    await ledger.settle([settlement(index=index) for index in range(3)])


def test_a_copy_of_sqlite_taken_from_a_running_server_holds_all_that_was_confirmed(tmp_path: Path) -> None:
    async def play(ledger: Ledger) -> None:
        await write(ledger)
        (command,) = commands("python3")
        await asyncio.to_thread(subprocess.run, shlex.split(command), cwd=tmp_path, check=True, timeout=60)
        await ledger.reserve([entry("req_later")])

    played(f"sqlite:///{tmp_path / 'books.sqlite'}", play)
    assert played(f"sqlite:///{tmp_path / 'backup.sqlite'}", all_rows) == CONFIRMED


def test_a_backup_of_books_that_are_not_there_fails_and_leaves_no_empty_ones(tmp_path: Path) -> None:
    (command,) = commands("python3")
    finished = subprocess.run(shlex.split(command), cwd=tmp_path, check=False, capture_output=True, timeout=60)
    assert (finished.returncode != 0, b"unable to open" in finished.stderr) == (True, True)
    assert list(tmp_path.iterdir()) == []


def test_a_dump_of_postgresql_taken_from_a_running_server_holds_all_that_was_confirmed(postgresql: Postgresql) -> None:
    source = postgresql.new_database()

    async def play(ledger: Ledger) -> None:
        await write(ledger)
        for line in (*commands("pg_dump"), *commands("createdb")):
            for command in line.split(" && "):
                postgresql.run_client(*(source if word == "books" else word for word in shlex.split(command)))
        await ledger.reserve([entry("req_later")])

    played(postgresql.url(source), play)
    assert played(postgresql.url("restored"), all_rows) == CONFIRMED
