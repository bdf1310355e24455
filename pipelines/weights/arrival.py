"""The one way new files arrive: locked, complete, then visible by a rename.

Knows folders, locks and the room on a disk; knows neither what arrives nor where from. Imports no torch.
Invariant: what arrives is there whole or not at all, and one process at a time makes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.weights.files import CheckpointProblem

PART_SUFFIX = ".part"
# Left free for everybody else who writes to the same disk.
SPARE_BYTES = 64 * 1024 * 1024
KILO = 1000
Free = Callable[[Path], int]


class ArrivalProblem(CheckpointProblem):
    """A place where nothing can arrive now: taken, busy or too small."""


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Nobody else makes this target meanwhile. Raises ArrivalProblem when another process is at it."""
    path = target.with_name(f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = _locked(path)
    except BlockingIOError:
        raise ArrivalProblem(f"another process is just making {target}; wait for it") from None
    except OSError as error:
        raise ArrivalProblem(f"{target.parent} cannot be written to: {error.strerror}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(lock)


@contextlib.contextmanager
def arriving(target: Path) -> Iterator[Path]:
    """The staging folder of a model, ours alone. What gathers there outlives a failure, so that arriving can go on.

    Raises:
        ArrivalProblem: another process is at it, or the place cannot be written to.
    """
    with locked(target):
        staging = staging_of(target)
        staging.mkdir(exist_ok=True)
        try:
            yield staging
        finally:
            with contextlib.suppress(OSError):  # gone, or not empty
                staging.rmdir()


def staging_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.arriving")


def _locked(path: Path) -> int:
    """A locked descriptor of the file that has this name now: its last holder may have removed the one we opened."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(lock)):
                return lock
        except OSError:
            os.close(lock)
            raise
        os.close(lock)


def free_bytes(folder: Path) -> int:
    """What may still be written there, by us; the folder may be yet to come."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def refuse_without_room(folder: Path, needed_bytes: int, free: Free = free_bytes) -> None:
    """Raises ArrivalProblem when so many bytes more would fill the disk."""
    free_now = free(folder)
    if needed_bytes + SPARE_BYTES > free_now:
        raise ArrivalProblem(
            f"the disk of {folder} is too full: {as_size(needed_bytes)} are needed beside {as_size(SPARE_BYTES)} "
            f"to spare, {as_size(free_now)} are free"
        )


def publish(staging: Path, target: Path) -> None:
    """Make a complete folder visible under its name. Raises ArrivalProblem when the name was taken meanwhile."""
    if target.exists() or target.is_symlink():
        raise ArrivalProblem(f"{target} is there already")
    try:
        staging.rename(target)
    except OSError as error:
        raise ArrivalProblem(f"{target} cannot be put in place: {error.strerror}") from error
    sync_folder(target.parent)


def as_size(size_bytes: float) -> str:
    """For people: three digits and a unit."""
    for unit in ("bytes", "kB", "MB"):
        if size_bytes < KILO:
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= KILO
    return f"{size_bytes:.1f} GB"
