"""Guards what a running server makes of a keys file that changes under it."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from server.access.keys_file import secret_path
from server.access.live import LOOK_SECONDS, LiveKeys
from tests.server.access.parts import issue, revoke, rotate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_new_keys_come_and_revoked_ones_go_at_the_next_look(path: Path) -> None:
    first = issue(path, "alice").text.encode()
    live = LiveKeys(path)
    second = issue(path, "bob").text.encode()
    assert (live.find(first) is not None, live.find(second)) == (True, None)
    live.look()
    assert live.find(second) is not None
    revoke(path, "alice")
    assert live.find(first) is not None
    live.look()
    assert (live.find(first), live.find(second) is not None) == (None, True)


def test_both_texts_of_a_rotated_key_are_one_caller(path: Path) -> None:
    old = issue(path).text.encode()
    live = LiveKeys(path)
    new = rotate(path, "alice", grace_seconds=60).text.encode()
    live.look()
    assert live.find(old) == live.find(new) is not None
    rotate(path, "alice")
    live.look()
    assert live.find(old) is live.find(new) is None


def test_a_damaged_file_keeps_the_old_keys_says_so_once_and_is_taken_when_mended(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = issue(path).text
    live, whole = LiveKeys(path), path.read_bytes()
    path.write_bytes(whole[:-20])
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            live.look()
            assert live.find(text.encode()) is not None
    (told,) = caplog.records
    assert (told.levelname, told.getMessage()) == ("ERROR", "the keys cannot be read; those of before stay")
    assert text not in str(told.__dict__)
    path.write_bytes(whole)
    revoke(path, "alice")
    live.look()
    assert live.find(text.encode()) is None


def test_a_file_that_was_made_readable_to_others_is_told_and_taken_once_it_is_not(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    issue(path)
    live = LiveKeys(path)
    text = issue(path, "bob").text.encode()
    path.chmod(0o644)
    live.look()
    assert live.find(text) is None
    assert "chmod 600" in str(caplog.records[-1].__dict__)
    path.chmod(0o600)
    live.look()
    assert live.find(text) is not None


def test_files_that_are_gone_open_nothing_and_close_nothing(path: Path) -> None:
    text = issue(path).text.encode()
    live = LiveKeys(path)
    path.unlink()
    secret_path(path).unlink()
    live.look()
    assert live.find(text) is not None
    assert live.find(text[:-1] + b"_") is None or text.endswith(b"_")


def test_who_watches_sees_a_change_within_two_seconds(path: Path) -> None:
    text = issue(path).text.encode()
    live = LiveKeys(path)

    async def seconds_until_gone() -> float:
        watching = asyncio.create_task(live.watch())
        await asyncio.sleep(0)
        revoke(path, "alice")
        began = time.monotonic()
        while live.find(text) is not None and time.monotonic() < began + 10:  # noqa: ASYNC110 (nobody is told)
            await asyncio.sleep(0.01)
        watching.cancel()
        return time.monotonic() - began

    assert LOOK_SECONDS <= 1.0
    assert asyncio.run(seconds_until_gone()) < 2.0
