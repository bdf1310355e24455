"""What arrives is locked against others, has room on the disk, and is at a place that can be written to."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.weights.arrival import (
    SPARE_BYTES,
    ArrivalProblem,
    arriving,
    as_size,
    free_bytes,
    locked,
    refuse_without_room,
)

ROOT = Path(__file__).resolve().parents[2]


def test_a_disk_without_room_is_named_with_both_sizes(tmp_path: Path) -> None:
    refuse_without_room(tmp_path, 1000, lambda _: 1000 + SPARE_BYTES)
    with pytest.raises(ArrivalProblem, match=rf"{tmp_path} is too full: 1 kB are needed .* 67\.1 MB are free"):
        refuse_without_room(tmp_path, 1000, lambda _: 999 + SPARE_BYTES)
    assert free_bytes(tmp_path / "yet" / "to" / "come") > 0


def test_sizes_are_told_in_three_digits() -> None:
    assert [as_size(size) for size in (0, 999, 1500, 6_900_000, 23_800_000_000)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "6.9 MB",
        "23.8 GB",
    ]


HOLD = (
    "import sys, time; from pathlib import Path; from pipelines.weights.arrival import arriving\n"
    "with arriving(Path(sys.argv[1])): print('mine', flush=True); time.sleep(600)"
)


def test_what_another_process_makes_is_refused_until_it_ends(tmp_path: Path) -> None:
    target = tmp_path / "model"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(target)], cwd=ROOT, stdout=subprocess.PIPE)
    with other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"mine\n"
            with pytest.raises(ArrivalProblem, match=f"another process is just making {target}"), arriving(target):
                pytest.fail("two at once")
        finally:
            other.send_signal(signal.SIGKILL)
    with arriving(target) as staging:
        assert staging.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_its_holder_removes_in_that_moment_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the file and locking it, its last holder is done; a third process makes a new one."""
    lock, path = fcntl.flock, tmp_path / ".model.lock"
    is_first = iter([True])

    def unlink_and_lock(descriptor: int, operation: int) -> None:
        if next(is_first, False):
            path.unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", unlink_and_lock)
    with locked(tmp_path / "model"):
        assert path.exists()
        with pytest.raises(ArrivalProblem, match="another process"), locked(tmp_path / "model"):
            pytest.fail("two at once")


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArrivalProblem, match="cannot be written to"), arriving(tmp_path / "file" / "model"):
        pytest.fail("a file is no folder")
