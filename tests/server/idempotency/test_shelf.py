"""Guards kept answers: found for a day, over restarts, within the quota; damaged never; a full disk harms nobody."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from server.idempotency import shelf as module
from server.idempotency.answer import Answer, Damaged, head_of, packed, unpacked
from server.idempotency.claim import Claim, claim_of
from server.idempotency.shelf import BLOCK_BYTES, DAY_SECONDS, Shelf, ShelfProblem
from tests.server.parts import Clock

QUOTA_BYTES = 10 * BLOCK_BYTES
ANSWER = Answer("req_1", {"content-type": "application/json"}, b'{"created": 1}', (b"\x89PNG", b""))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "answers"


@pytest.fixture
def shelf(folder: Path, clock: Clock) -> Shelf:
    return opened(folder, clock)


def opened(folder: Path, clock: Clock, quota_bytes: int = QUOTA_BYTES) -> Shelf:
    shelf = Shelf(folder, quota_bytes, clock)
    shelf.open()
    return shelf


def claim(key: str, caller: str = "anna") -> Claim:
    return claim_of(caller, "generation", key, {"prompt": key})


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.answer"))


def kept_keys(shelf: Shelf, *claims: Claim) -> list[bool]:
    return [shelf.find(one) is not None for one in claims]


def read_back(shelf: Shelf, one: Claim) -> Answer | None:
    kept = shelf.find(one)
    return None if kept is None else shelf.read(kept)


def test_a_kept_answer_is_read_back_unchanged(shelf: Shelf) -> None:
    assert shelf.save(claim("a"), ANSWER)
    assert read_back(shelf, claim("a")) == ANSWER
    assert shelf.find(claim("b")) is None
    assert shelf.find(claim("a", caller="ben")) is None


def test_another_body_under_the_same_key_finds_what_was_kept_and_can_tell(shelf: Shelf) -> None:
    shelf.save(claim("a"), ANSWER)
    kept = shelf.find(replace(claim("a"), fingerprint=bytes(32)))
    assert kept is not None
    assert kept.claim == claim("a")


def test_an_answer_is_gone_after_a_day_and_not_before(shelf: Shelf, folder: Path, clock: Clock) -> None:
    shelf.save(claim("a"), ANSWER)
    clock.now += DAY_SECONDS - 1
    shelf.sweep()
    assert read_back(shelf, claim("a")) == ANSWER
    clock.now += 1
    assert shelf.find(claim("a")) is None
    shelf.sweep()
    assert (files_in(folder), shelf.held_bytes) == ([], 0)


def test_the_next_server_finds_it_again_for_what_is_left_of_the_day(shelf: Shelf, folder: Path, clock: Clock) -> None:
    shelf.save(claim("a"), ANSWER)
    shelf.close()
    clock.now += DAY_SECONDS - 1
    again = opened(folder, clock)
    assert read_back(again, claim("a")) == ANSWER
    assert again.held_bytes == BLOCK_BYTES
    again.close()
    clock.now += 1
    assert kept_keys(opened(folder, clock), claim("a")) == [False]
    assert files_in(folder) == []


def test_a_clock_that_was_ahead_keeps_nothing_for_longer_than_a_day(shelf: Shelf, folder: Path, clock: Clock) -> None:
    clock.now += 1e9
    shelf.save(claim("a"), ANSWER)
    shelf.close()
    clock.now -= 1e9
    again = opened(folder, clock)
    assert kept_keys(again, claim("a")) == [True]
    clock.now += DAY_SECONDS
    assert kept_keys(again, claim("a")) == [False]


def test_a_second_answer_takes_the_first_ones_place(shelf: Shelf, folder: Path) -> None:
    shelf.save(claim("a"), ANSWER)
    shelf.save(claim("a"), Answer("req_2", {}, b"{}"))
    found = read_back(shelf, claim("a"))
    assert found is not None
    assert found.request_id == "req_2"
    assert (len(files_in(folder)), shelf.held_bytes) == (1, BLOCK_BYTES)


def test_where_the_quota_is_full_the_oldest_answers_go(shelf: Shelf, folder: Path, clock: Clock) -> None:
    claims = [claim(str(number)) for number in range(12)]
    for one in claims:
        clock.now += 1
        assert shelf.save(one, ANSWER)
    assert kept_keys(shelf, *claims) == [False] * 2 + [True] * 10
    assert len(files_in(folder)) == 10
    assert shelf.held_bytes == QUOTA_BYTES


def test_whoever_keeps_much_pushes_out_their_own(shelf: Shelf) -> None:
    modest = claim("modest", caller="ben")
    shelf.save(modest, ANSWER)
    for number in range(100):
        shelf.save(claim(str(number)), ANSWER)
    assert kept_keys(shelf, modest, claim("99")) == [True, True]


def test_an_answer_larger_than_the_quota_is_not_kept_and_pushes_nothing_out(shelf: Shelf) -> None:
    shelf.save(claim("a"), ANSWER)
    assert not shelf.save(claim("b"), Answer("req_2", {}, bytes(QUOTA_BYTES)))
    assert kept_keys(shelf, claim("a"), claim("b")) == [True, False]


def test_a_quota_of_nothing_keeps_nothing(folder: Path, clock: Clock) -> None:
    shelf = opened(folder, clock, 0)
    assert not shelf.save(claim("a"), ANSWER)
    assert files_in(folder) == []


def test_a_smaller_quota_than_the_last_servers_holds_from_the_start(shelf: Shelf, folder: Path, clock: Clock) -> None:
    claims = [claim(str(number)) for number in range(6)]
    for one in claims:
        clock.now += 1
        shelf.save(one, ANSWER)
    shelf.close()
    again = opened(folder, clock, 2 * BLOCK_BYTES)
    assert kept_keys(again, *claims) == [False] * 4 + [True] * 2
    assert len(files_in(folder)) == 2


def test_a_caller_has_so_many_keys_and_no_more(folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OF_A_CALLER", 3)
    shelf = opened(folder, clock)
    claims = [claim(str(number)) for number in range(5)]
    for one in claims:
        shelf.save(one, ANSWER)
    assert kept_keys(shelf, *claims) == [False, False, True, True, True]


def test_many_threads_keep_at_once_and_the_quota_holds(shelf: Shelf, folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = [claim(str(number), caller=str(number % 3)) for number in range(100)]
        list(pool.map(lambda one: shelf.save(one, ANSWER), claims))
    assert len(files_in(folder)) * BLOCK_BYTES == shelf.held_bytes <= QUOTA_BYTES
    assert sum(kept_keys(shelf, *claims)) == len(files_in(folder))


def test_any_changed_byte_of_an_answer_is_noticed() -> None:
    file = packed(claim("a"), 0.0, ANSWER)
    for place in range(len(file) - head_of(file, len(file)).content_bytes, len(file)):
        changed = bytearray(file)
        changed[place] ^= 1
        with pytest.raises(Damaged):
            unpacked(bytes(changed))


def test_a_file_that_was_cut_short_anywhere_is_noticed() -> None:
    file = packed(claim("a"), 0.0, ANSWER)
    for length in range(len(file)):
        with pytest.raises(Damaged):
            head_of(file[:length], length)
        with pytest.raises(Damaged):
            unpacked(file[:length])


def test_what_was_damaged_under_the_server_is_forgotten(shelf: Shelf, folder: Path) -> None:
    for content in (None, b"", b"\0" * 400):
        one = claim("a")
        shelf.save(one, ANSWER)
        (file,) = files_in(folder)
        file.unlink() if content is None else file.write_bytes(content)
        assert read_back(shelf, one) is None
        assert shelf.find(one) is None
        assert (shelf.held_bytes, files_in(folder)) == (0, [])


def test_what_a_crash_left_is_removed_and_what_is_foreign_is_not(shelf: Shelf, folder: Path, clock: Clock) -> None:
    shelf.close()
    (folder / "half.part").write_bytes(b"x")
    (folder / "cut.answer").write_bytes(packed(claim("a"), clock.now + 9, ANSWER)[:-1])
    (folder / "notes.txt").write_text("mine")
    opened(folder, clock)
    assert {path.name for path in folder.iterdir()} == {".lock", "notes.txt"}


def test_a_disk_that_takes_no_more_costs_only_the_keeping(folder: Path, shelf: Shelf) -> None:
    shelf.save(claim("a"), ANSWER)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        assert not shelf.save(claim("b"), Answer("req_2", {}, bytes(3000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert kept_keys(shelf, claim("a"), claim("b")) == [True, False]
    assert shelf.held_bytes == BLOCK_BYTES
    assert {path.suffix for path in folder.iterdir()} == {".answer", ""}
    assert shelf.save(claim("b"), ANSWER)


def test_files_are_their_owners_alone(shelf: Shelf, folder: Path) -> None:
    shelf.save(claim("a"), ANSWER)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_two_servers_do_not_share_a_folder_and_a_dead_one_leaves_it(folder: Path, clock: Clock) -> None:
    code = (
        "import sys; from pathlib import Path; from server.idempotency.shelf import Shelf\n"
        "shelf = Shelf(Path(sys.argv[1]), 10**6); shelf.open(); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ShelfProblem, match="another server"):
            opened(folder, clock)
        other.kill()
        other.wait()
    opened(folder, clock).close()


def test_a_folder_that_cannot_be_is_named(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ShelfProblem, match="file"):
        opened(tmp_path / "file", clock)
