"""Guards the ledger against its database: locked, full, read-only, silent, started anew, damaged, or not there.

Every call ends within its deadline with a constant text, keeps nothing of what it refused, and works again once the
cause is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from server.ledger.entries import Row
from server.ledger.ledger import Ledger
from server.ledger.problem import (
    BAD_URL,
    DAMAGED,
    LOCKED,
    NOT_OPENED,
    READ_ONLY,
    SILENT,
    UNREACHABLE,
    UNUSABLE,
    LedgerProblem,
)
from tests.postgresql import NOBODY, Postgresql
from tests.server.ledger.samples import (
    all_rows,
    attempt,
    attempt_end,
    beside,
    entry,
    locked,
    opened,
    played,
    settlement,
)

DEADLINE_SECONDS = 3.0
# What this machine may add to a deadline while others use it too.
SLACK_SECONDS = 1.5


async def problem_within_the_deadline(ledger: Ledger, name: str = "refused") -> str:
    """The text of what a reservation raises, while the event loop goes on."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    began = time.monotonic()
    with pytest.raises(LedgerProblem) as caught:
        await ledger.reserve([entry(name)])
    waited = time.monotonic() - began
    ticking.cancel()
    assert waited < DEADLINE_SECONDS + SLACK_SECONDS
    assert ticks >= waited * 20 - 1, "the event loop stood still"
    return str(caught.value)


def test_a_locked_database_is_a_problem_in_time_and_none_once_it_is_free(url: str) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve([entry()])
        with locked(url):
            assert await problem_within_the_deadline(ledger) == LOCKED
            assert await problem_within_the_deadline(ledger) == LOCKED
        await ledger.settle([settlement()])
        return await all_rows(ledger)

    assert played(url, play, deadline_seconds=DEADLINE_SECONDS) == [Row(entry(), settlement())]


def test_whoever_comes_while_a_group_waits_in_vain_is_answered_within_the_deadline_too(url: str) -> None:
    async def play(ledger: Ledger) -> list[str]:
        with locked(url):
            calls = []
            for number in range(16):
                calls.append(asyncio.create_task(problem_within_the_deadline(ledger, f"req_{number}")))
                await asyncio.sleep(0.1)
            return await asyncio.gather(*calls)

    assert set(played(url, play, deadline_seconds=DEADLINE_SECONDS)) <= {LOCKED, SILENT}


def test_a_short_lock_is_waited_for(url: str) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        with locked(url):
            reserving = asyncio.create_task(ledger.reserve([entry()]))
            await asyncio.sleep(0.4)
            assert not reserving.done()
        await reserving
        return await all_rows(ledger)

    assert played(url, play) == [Row(entry(), None)]


FULL_DISK = """
import asyncio, pathlib, subprocess, sys
from server.ledger.ledger import Ledger
from server.ledger.problem import FULL, LedgerProblem
from tests.server.ledger.samples import all_rows, entry, settlement

folder = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)

async def play() -> None:
    ledger = Ledger(f"sqlite:///{folder}/ledger.db")
    await ledger.open()
    await ledger.reserve([entry("first")])
    filler = (folder / "filler").open("wb", buffering=0)
    try:
        while True:
            filler.write(bytes(512))
    except OSError:
        pass
    refused = taken = 0
    for number in range(40):
        calls = [ledger.reserve([entry(f"{number}_{i}", key_id="k" * 100) for i in range(20)])]
        calls.append(ledger.reserve([entry(f"{number}_mate")]))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(one is None or type(one) is LedgerProblem and str(one) == FULL for one in results), results
        refused += len(results) - results.count(None)
        taken += 20 * (results[0] is None) + (results[1] is None)
    assert refused, "the disk was never full"
    assert len(await all_rows(ledger)) == 1 + taken
    (folder / "filler").unlink()
    filler.close()
    await ledger.settle([settlement("first")])
    await ledger.reserve([entry("last")])
    assert len(await all_rows(ledger)) == 2 + taken
    await ledger.close()
    print("well")

asyncio.run(play())
"""


def test_a_full_disk_refuses_whole_groups_and_is_none_once_there_is_room(tmp_path: Path) -> None:
    view = ("unshare", "--mount", "--map-root-user")
    if subprocess.run([*view, "true"], check=False, capture_output=True, timeout=30).returncode != 0:
        pytest.skip("this machine gives no mount namespaces, so no small disk can be made")
    command = [*view, sys.executable, "-c", FULL_DISK, str(tmp_path)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert finished.stdout == "well\n", finished.stderr


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write to what nobody may."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """That other users may look into, as pytest's own may not be."""
    with tempfile.TemporaryDirectory(prefix="safelight-ledger-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_file_that_can_only_be_read_is_a_problem_and_none_once_it_can_be_written(open_folder: Path) -> None:
    file = open_folder / "ledger.db"
    url = f"sqlite:///{file}"

    def set_writable(is_writable: bool) -> None:
        for path in open_folder.iterdir():
            path.chmod(0o666 if is_writable else 0o444)
        open_folder.chmod(0o777 if is_writable else 0o555)

    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve([entry()])
        with locked(url):
            # After a problem the file is opened anew.
            assert await problem_within_the_deadline(ledger) == LOCKED
        set_writable(False)
        with as_nobody():
            assert await problem_within_the_deadline(ledger) == READ_ONLY
            with pytest.raises(LedgerProblem, match=READ_ONLY):
                await Ledger(url).open()
        set_writable(True)
        with as_nobody():
            await ledger.settle([settlement()])
        return await all_rows(ledger)

    assert played(url, play, deadline_seconds=DEADLINE_SECONDS) == [Row(entry(), settlement())]


def test_a_postgresql_that_takes_no_writes_is_a_problem_and_none_once_it_does(postgresql_url: str) -> None:
    def as_owner(statement: str) -> None:
        with beside(postgresql_url) as connection:
            connection.execute(text(statement))
            connection.commit()

    async def play() -> list[Row]:
        as_owner("CREATE ROLE clerk LOGIN")
        as_owner("GRANT CREATE ON SCHEMA public TO clerk")
        url = postgresql_url.replace("postgres@", "clerk@")
        async with opened(url) as ledger:
            as_owner("REVOKE INSERT ON ledger_entries FROM clerk")
            assert await problem_within_the_deadline(ledger) == READ_ONLY
            as_owner("GRANT INSERT ON ledger_entries TO clerk")
            await ledger.reserve([entry()])
            return await all_rows(ledger)

    assert asyncio.run(play()) == [Row(entry(), None)]


def test_a_postgresql_that_was_started_anew_is_used_without_a_word(postgresql_url: str) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve([entry()])
        for _ in range(3):
            with beside(postgresql_url) as connection:
                others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
            await ledger.begin_attempt(attempt())
            await ledger.end_attempt(attempt_end())
            await ledger.forget_before(2 * attempt().began_unix_ms)
        await ledger.settle([settlement()])
        return await all_rows(ledger)

    assert played(postgresql_url, play) == [Row(entry(), settlement())]


def test_a_postgresql_that_falls_silent_is_a_problem_in_time_and_keeps_nothing_of_what_was_refused(
    postgresql_url: str,
) -> None:
    def serving_pids() -> list[int]:
        with beside(postgresql_url) as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            return [pid for (pid,) in connection.execute(text(query))]

    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve([entry()])
        await all_rows(ledger)
        silent = serving_pids()
        assert len(silent) == 2
        for pid in silent:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert await problem_within_the_deadline(ledger) == SILENT
            with pytest.raises(LedgerProblem, match=SILENT):
                await ledger.spent_microusd(0)
            # The others of the server answer: a fresh connection is all it needs.
            await ledger.settle([settlement()])
        finally:
            for pid in silent:
                os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.3)
        return await all_rows(ledger)

    assert played(postgresql_url, play, deadline_seconds=DEADLINE_SECONDS) == [Row(entry(), settlement())]


def test_a_whole_postgresql_that_falls_silent_is_a_problem_in_time(postgresql: Postgresql, postgresql_url: str) -> None:
    async def play(ledger: Ledger) -> list[Row]:
        await ledger.reserve([entry()])
        family = [postgresql.process.pid, *children_of(postgresql.process.pid)]
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                assert await problem_within_the_deadline(ledger) in (SILENT, UNREACHABLE)
        finally:
            for pid in family:
                os.kill(pid, signal.SIGCONT)
        await ledger.settle([settlement()])
        return await all_rows(ledger)

    assert played(postgresql_url, play, deadline_seconds=DEADLINE_SECONDS) == [Row(entry(), settlement())]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_postgresql_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    async def play() -> None:
        with pytest.raises(LedgerProblem, match=UNREACHABLE):
            await Ledger(f"postgresql+psycopg://postgres@/none?host={tmp_path}").open()

    asyncio.run(play())


def test_a_folder_that_is_not_there_is_a_problem_and_none_once_it_was_made(tmp_path: Path) -> None:
    async def play() -> list[Row]:
        ledger = Ledger(f"sqlite:///{tmp_path / 'folder' / 'ledger.db'}")
        with pytest.raises(LedgerProblem, match=NOT_OPENED):
            await ledger.open()
        (tmp_path / "folder").mkdir()
        await ledger.open()
        await ledger.reserve([entry()])
        rows = await all_rows(ledger)
        await ledger.close()
        return rows

    assert asyncio.run(play()) == [Row(entry(), None)]


def test_a_file_that_is_no_database_is_a_problem_and_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    file.write_bytes(b"not a database" * 1000)

    async def play() -> None:
        with pytest.raises(LedgerProblem, match=DAMAGED):
            await Ledger(f"sqlite:///{file}").open()

    asyncio.run(play())
    assert file.read_bytes() == b"not a database" * 1000


def test_a_table_that_somebody_dropped_is_a_problem_and_no_defect_of_the_caller(url: str) -> None:
    async def play(ledger: Ledger) -> None:
        with beside(url) as connection:
            connection.execute(text("DROP TABLE ledger_attempts"))
            connection.commit()
        with pytest.raises(LedgerProblem, match=UNUSABLE):
            await ledger.begin_attempt(attempt())
        with pytest.raises(LedgerProblem, match=UNUSABLE):
            await ledger.spent_microusd(0)
        await ledger.reserve([entry()])

    played(url, play)


def test_the_file_and_its_logs_are_for_their_owner_alone(tmp_path: Path) -> None:
    def modes() -> list[str]:
        return [stat.filemode(path.stat().st_mode) for path in tmp_path.iterdir()]

    async def play(ledger: Ledger) -> list[str]:
        await ledger.reserve([entry()])
        return modes()

    assert played(f"sqlite:///{tmp_path / 'ledger.db'}", play) == ["-rw-------"] * 3


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ledger.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///x?mode=ro",
        "mysql://u@h/d",
        "postgresql+asyncpg://h/d",
    ],
)
def test_a_url_that_names_no_durable_database_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(LedgerProblem) as caught:
        Ledger(url)
    assert str(caught.value) == BAD_URL
