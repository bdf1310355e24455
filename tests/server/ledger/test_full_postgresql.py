"""Guards the ledger against a PostgreSQL whose disk is full: a real server on a real small disk, of the memory's.

Two things happen then. Where a table cannot grow, a transaction is refused; where the log cannot, PostgreSQL ends, as
it may confirm nothing any more, and does not start again before there is room.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.whole
DISK_MB = 128
ON_A_SMALL_DISK = """
import asyncio, os, pathlib, subprocess, sys, time
from sqlalchemy import text
from server.ledger.ledger import Ledger
from server.ledger.problem import FULL, SILENT, UNREACHABLE, LedgerProblem
from tests.postgresql import Postgresql
from tests.server.ledger.samples import all_rows, beside, entry, settlement

folder, what = pathlib.Path(os.environ["TMPDIR"]), sys.argv[1]
size = sys.argv[2]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=0777", "none", folder], check=True)
postgresql = Postgresql(is_durable=True)
url = postgresql.url(postgresql.new_database())

def fill(filler) -> None:
    for size in (65536, 512):
        try:
            while True:
                filler.write(bytes(size))
        except OSError:
            pass

async def refused(ledger: Ledger, number: int) -> str | None:
    began = time.monotonic()
    try:
        await ledger.reserve([entry(f"{number}_{index}", key_id="k" * 100) for index in range(100)])
    except LedgerProblem as problem:
        assert time.monotonic() - began < 3.0 + 5.0
        return str(problem)
    return None

async def play() -> None:
    ledger = Ledger(url, deadline_seconds=3.0)
    await ledger.open()
    await ledger.reserve([entry("first")])
    filler = (folder / "filler").open("wb", buffering=0)
    fill(filler)
    if what == "log":
        try:
            with beside(url) as connection:
                connection.execute(text("SELECT pg_switch_wal()"))
                connection.execute(text("CREATE TABLE more (number int)"))
                connection.commit()
        except Exception:
            pass
    told = [await refused(ledger, number) for number in range(20)]
    problems = {one for one in told if one is not None}
    assert problems, "the disk was never full"
    assert problems == {FULL} if what == "tables" else problems <= {UNREACHABLE, SILENT, FULL}, problems
    assert await ledger.problem() in (None, FULL) if what == "tables" else await ledger.problem() is not None
    (folder / "filler").unlink()
    filler.close()
    if what == "log":
        assert postgresql.process.wait(60) != 0, "it goes on without its log"
        postgresql.start_again()
    await ledger.settle([settlement("first")])
    await ledger.reserve([entry("last")])
    rows = await all_rows(ledger)
    assert len(rows) == 2 + 100 * told.count(None), len(rows)
    assert [row.settlement for row in rows if row.entry.request_id == "first"] == [settlement("first")]
    await ledger.close()
    print("well")

try:
    asyncio.run(play())
finally:
    postgresql.stop()
"""


@pytest.mark.parametrize("what", ["tables", "log"])
def test_a_full_disk_under_postgresql_is_a_problem_in_time_and_keeps_what_was_confirmed(
    tmp_path: Path, what: str
) -> None:
    view = ("unshare", "--mount")
    if subprocess.run([*view, "true"], check=False, capture_output=True, timeout=30).returncode != 0:
        pytest.skip("only root makes a small disk that PostgreSQL, which runs as another user, may write to")
    # A socket's path is short, so that pytest's own folder will not do.
    folder = Path("/tmp") / f"safelight-{os.getpid()}-{what}"  # noqa: S108 (made here, and by nobody else)
    folder.mkdir(mode=0o755)
    try:
        command = [*view, sys.executable, "-c", ON_A_SMALL_DISK, what, str(DISK_MB)]
        finished = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=240, env={**os.environ, "TMPDIR": str(folder)}
        )
    finally:
        folder.rmdir()
    assert finished.stdout == "well\n", finished.stderr
    assert not list(tmp_path.iterdir())
