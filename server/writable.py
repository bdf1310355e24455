"""Says before the start into which places of its own a server could not write, for `safelight check`.

Knows settings and the disk; starts nothing, makes no folder, and leaves nothing behind.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from server.core.settings import PREFIX, Settings
from server.ledger.database import sqlite_file
from server.ledger.problem import LedgerProblem

# The least that a disk gives: a full one is found out too.
BLOCK_BYTES = 4096


def unwritable(settings: Settings) -> list[str]:
    """A sentence for each place, with the name of its setting. PostgreSQL is not asked. Whoever calls has to be the
    user that serves."""
    return [f"{name}: {problem}" for name, problem in _problems(settings) if problem is not None]


def _problems(settings: Settings) -> Iterator[tuple[str, str | None]]:
    if settings.ledger is not None:
        yield f"{PREFIX}LEDGER", _of_ledger(settings.ledger)
    for name in ("files_folder", "idempotency_folder", "compile_cache_folder"):
        folder: Path | None = getattr(settings, name)
        if folder is not None:
            yield PREFIX + name.upper(), _of_folder(_nearest(folder.absolute()))
    yield "TMPDIR", _of_temporary()


def _of_ledger(url: str) -> str | None:
    try:
        file = sqlite_file(url)
    except LedgerProblem as problem:
        return str(problem)
    return None if file is None else _of_books(file)


def _of_books(file: Path) -> str | None:
    """The folder has to be there already, and takes more files than the one: SQLite writes its log beside it."""
    try:
        if file.exists():
            os.close(os.open(file, os.O_RDWR | os.O_NONBLOCK))
    except OSError as error:
        return _told(file, error)
    return _of_folder(file.absolute().parent)


def _nearest(folder: Path) -> Path:
    """What is there of it: the rest the server makes."""
    return next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)


def _of_folder(folder: Path) -> str | None:
    """By writing: modes say nothing to root, and nothing of a disk that is full or read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(BLOCK_BYTES))
    except OSError as error:
        return _told(folder, error)
    return None


def _of_temporary() -> str | None:
    """Where what has no setting of its own lies, and what a worker needs."""
    try:
        return _of_folder(Path(tempfile.gettempdir()))
    except FileNotFoundError:
        return "no temporary folder can be written."


def _told(place: Path, error: OSError) -> str:
    return f"{place} cannot be written: {error.strerror}."
