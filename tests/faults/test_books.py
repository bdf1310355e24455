"""Disks that are full and books that cannot be written refuse what they must, and nothing is lost or kept of it.

A process's limit of file size stands in for a full disk: the kernel refuses the same writes, and it can be lifted.
"""

from __future__ import annotations

import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.invariants import House


@contextmanager
def no_file_grows_beyond(house: House, limit_bytes: int) -> Iterator[None]:
    pid = house.server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def size_of_books(house: House) -> int:
    return max(file.stat().st_size for file in house.books.parent.glob("books.sqlite*") if "shm" not in file.name)


def code_of(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def test_a_full_disk_for_results_refuses_the_picture_and_keeps_nothing_of_it(house: House) -> None:
    with closing(sqlite3.connect(house.books)) as books:
        books.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    large: dict[str, Any] = {"size": "512x512", "steps": 1, "seed": 3}
    # A picture of noise is larger than what the books gain meanwhile.
    with no_file_grows_beyond(house, size_of_books(house) + 64 * 1024):
        reply = house.ask(**large)
    assert code_of(reply) == (500, "storage_failed")
    assert reply.headers["x-should-retry"] == "false"
    settle_as_drawn(house)
    house.assert_sound()


def settle_as_drawn(house: House) -> None:
    """The picture was drawn and is in the books as such or as failed; whichever, nobody got it."""
    with closing(sqlite3.connect(house.books)) as books:
        (last,) = books.execute("SELECT outcome FROM ledger_entries ORDER BY id DESC LIMIT 1").fetchone()
    assert last == "failed"


def test_full_books_refuse_before_anything_is_drawn(house: House) -> None:
    with no_file_grows_beyond(house, 4096):
        assert code_of(house.ask()) == (503, "ledger_unavailable")
        assert 1 <= int(house.ask().headers["retry-after"]) <= 60
    house.assert_sound()


@pytest.mark.parametrize("seconds", [1.0, pytest.param(30.0, marks=pytest.mark.whole)])
def test_locked_books_refuse_in_time_and_serve_once_they_are_free(house: House, seconds: float) -> None:
    with closing(sqlite3.connect(house.books, isolation_level=None)) as books:
        books.execute("BEGIN IMMEDIATE")
        until, refusals = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            began = time.monotonic()
            reply = house.ask(response_format="b64_json")
            assert code_of(reply) == (503, "ledger_unavailable")
            assert time.monotonic() - began < 15
            assert httpx.get(f"{house.server.url}/health/live").status_code == 200
            refusals += 1
        books.execute("ROLLBACK")
    assert refusals
    house.assert_sound()


@pytest.mark.whole
def test_a_folder_of_results_that_is_gone_refuses_and_serves_once_it_is_back(house: House) -> None:
    elsewhere = house.files.with_name("elsewhere")
    house.files.rename(elsewhere)
    try:
        assert code_of(house.ask()) == (500, "storage_failed")
    finally:
        elsewhere.rename(house.files)
    house.assert_sound()


@pytest.mark.whole
def test_books_that_vanish_are_missed_by_nobody_who_is_served_base64(house: House, tmp_path: Path) -> None:
    """Another program checkpoints and vacuums them meanwhile, as operators do."""
    with closing(sqlite3.connect(house.books, isolation_level=None, timeout=30)) as books:
        for _ in range(5):
            books.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            books.execute("VACUUM")
            house.draw()
    assert not list(tmp_path.iterdir())
    house.assert_sound()
