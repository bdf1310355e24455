"""However a server is ended, whoever waits gets an answer, the books are closed, and nothing of it is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.server_process import is_alive, wait_until_dead
from tests.invariants import House, children_of, counts, files_below, read_only

pytestmark = pytest.mark.whole  # tests/end_to_end/test_survival.py ends one in the quick run
LONG: dict[str, Any] = {"size": "512x512", "steps": 100, "response_format": "b64_json"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, SAFELIGHT_DRAIN_SECONDS="3", SAFELIGHT_PLAIN_ANSWER_SECONDS="100000")
    yield house
    house.server.stop(signal.SIGKILL)


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def begin(house: House, callers: ThreadPoolExecutor) -> list[Future[httpx.Response]]:
    """A batch of unlike requests, some of which are being drawn."""
    waiting = [callers.submit(house.ask, **LONG, seed=seed, n=1 + seed % 2) for seed in range(6)]
    time.sleep(1.5)
    return waiting


def answered(waiting: list[Future[httpx.Response]]) -> set[int]:
    return {future.result().status_code for future in waiting}


def assert_closed(house: House) -> None:
    with read_only(house.books) as books:
        still_open, good = counts(books, "sum(outcome IS NULL), sum(outcome = 'succeeded')", "ledger_entries")
    assert (still_open, good) == (0, house.told.pictures)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_mid_batch_answers_everybody_within_the_drain_time(
    house: House, callers: ThreadPoolExecutor, how: signal.Signals
) -> None:
    waiting, processes = begin(house, callers), children_of(house.server.process.pid)
    began = time.monotonic()
    assert house.server.stop(how) == 0
    assert time.monotonic() - began < 20
    assert answered(waiting) <= {200, 503}
    assert not [pid for pid in processes if is_alive(pid)]
    assert not files_below(house.temporary)
    assert_closed(house)


def test_a_second_signal_ends_at_once_and_leaves_no_process(house: House, callers: ThreadPoolExecutor) -> None:
    waiting, processes = begin(house, callers), children_of(house.server.process.pid)
    house.server.process.terminate()
    time.sleep(0.3)
    house.server.process.terminate()
    assert house.server.process.wait(10) is not None
    for pid in processes:
        wait_until_dead(pid, 5)
    for future in waiting:
        if future.exception() is None and future.result().status_code != 200:
            assert future.result().json()["error"]["code"] == "server_is_overloaded"


def test_a_killed_server_leaves_no_process_and_the_next_one_closes_its_books(
    house: House, callers: ThreadPoolExecutor, tmp_path: Path
) -> None:
    waiting, processes = begin(house, callers), children_of(house.server.process.pid)
    house.server.process.kill()
    for pid in processes:
        wait_until_dead(pid, 5)
    assert all(isinstance(future.exception(), httpx.HTTPError) for future in waiting)
    (tmp_path / "second").mkdir()
    second = House(tmp_path / "second", SAFELIGHT_LEDGER=f"sqlite:///{house.books}")
    try:
        deadline = time.monotonic() + 120
        while True:
            with read_only(house.books) as books:
                (still_open,) = counts(books, "sum(outcome IS NULL)", "ledger_entries")
            if not still_open:
                break
            assert time.monotonic() < deadline, f"{still_open} entries are open"
            time.sleep(0.5)
    finally:
        second.server.stop()
