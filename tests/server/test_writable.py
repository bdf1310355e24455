"""Guards what `safelight check` says of the places that a server writes into: each by its setting, nothing left."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from server.core.settings import Settings, load_settings
from server.ledger.problem import BAD_URL
from server.writable import unwritable

FOLDERS = ("files_folder", "idempotency_folder", "compile_cache_folder")
# Takes no files, not even root's.
CLOSED = Path("/proc/self")


def test_folders_that_are_there_or_can_be_made_are_no_problem_and_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    settings = Settings(
        files_folder=tmp_path / "a" / "b" / "files",
        idempotency_folder=tmp_path / "answers",
        compile_cache_folder=tmp_path,
        ledger=f"sqlite:///{tmp_path / 'books.sqlite'}",
    )
    assert unwritable(settings) == []
    assert list(tmp_path.rglob("*")) == [tmp_path / "answers"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_takes_no_files_is_named_by_its_setting(name: str, tmp_path: Path) -> None:
    (problem,) = unwritable(load_settings({name: CLOSED}))
    assert problem.startswith(f"SAFELIGHT_{name.upper()}: {CLOSED} cannot be written: ")
    (tmp_path / "file").touch()
    assert unwritable(load_settings({name: tmp_path / "file" / "below"})) == [
        f"SAFELIGHT_{name.upper()}: {tmp_path / 'file'} cannot be written: Not a directory."
    ]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert unwritable(load_settings({name: tmp_path / "link"})) == [
        f"SAFELIGHT_{name.upper()}: {tmp_path / 'link'} cannot be written: No such file or directory."
    ]


def test_the_folder_of_the_books_has_to_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "books"
    (problem,) = unwritable(Settings(ledger=f"sqlite:///{missing / 'books.sqlite'}"))
    assert problem == f"SAFELIGHT_LEDGER: {missing} cannot be written: No such file or directory."
    missing.mkdir()
    (missing / "books.sqlite").mkdir()
    (problem,) = unwritable(Settings(ledger=f"sqlite:///{missing / 'books.sqlite'}"))
    assert problem == f"SAFELIGHT_LEDGER: {missing / 'books.sqlite'} cannot be written: Is a directory."


def test_postgresql_is_not_asked() -> None:
    assert unwritable(Settings(ledger="postgresql+psycopg://nobody@127.0.0.1:9/books")) == []


def test_a_url_of_the_books_that_is_none_is_told() -> None:
    assert unwritable(Settings(ledger="sqlite:///:memory:")) == [f"SAFELIGHT_LEDGER: {BAD_URL}"]


def test_a_temporary_folder_that_takes_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(CLOSED))
    (problem,) = unwritable(Settings())
    assert problem.startswith(f"TMPDIR: {CLOSED} cannot be written: ")
