"""Guards where providers' secrets come from, and that none stands in what is said about them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.backends.credentials import MAX_SECRET_BYTES, CredentialProblem, read_secret

SECRET = "-".join(["sk", "proj", "CANARY_0123456789"])


def problem(variable: str | None = None, file: Path | None = None, **environment: str) -> str:
    with pytest.raises(CredentialProblem) as caught:
        read_secret(variable, None if file is None else str(file), environment)
    assert "CANARY" not in repr(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def secret_file(folder: Path, content: bytes = SECRET.encode(), mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_without_a_place_there_is_no_secret() -> None:
    assert read_secret(None, None, {"OPENAI_API_KEY": SECRET}) is None


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_is_the_one_line_of_its_variable_or_file(tmp_path: Path, end: str) -> None:
    assert read_secret("THEIR_KEY", None, {"THEIR_KEY": SECRET + end}) == SECRET
    assert read_secret(None, str(secret_file(tmp_path, (SECRET + end).encode())), {}) == SECRET


def test_a_variable_that_is_missing_or_empty_is_named() -> None:
    assert problem("THEIR_KEY") == "The environment variable THEIR_KEY is not set, or is empty."
    assert problem("THEIR_KEY", THEIR_KEY="") == "The environment variable THEIR_KEY is not set, or is empty."


@pytest.mark.parametrize(
    "content",
    [
        "\n",
        " ",
        f"{SECRET} ",
        f"Bearer {SECRET}",
        f"{SECRET}\n\n",
        f"{SECRET}\n{SECRET}",
        f"{SECRET}\r{SECRET}",
        f"{SECRET}\t",
        f"{SECRET}\x00",
        f"{SECRET}é",
        f"\ufeff{SECRET}",
        f"{SECRET}\x7f",
        SECRET + "x" * MAX_SECRET_BYTES,
    ],
)
def test_a_secret_that_is_no_one_line_of_printable_ascii_is_refused(tmp_path: Path, content: str) -> None:
    said = "does not hold one line of printable ASCII without spaces."
    assert problem("THEIR_KEY", THEIR_KEY=content) == f"The environment variable THEIR_KEY {said}"
    file = secret_file(tmp_path, content.encode())
    assert problem(file=file) == f"The file {file} {said}"


def test_an_empty_file_holds_no_secret(tmp_path: Path) -> None:
    assert "does not hold one line" in problem(file=secret_file(tmp_path, b""))


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o777])
def test_a_file_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    assert "chmod 600" in problem(file=secret_file(tmp_path, mode=mode))


def test_a_link_within_its_folder_is_followed_as_kubernetes_makes_them(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    real = secret_file(tmp_path / "..2026")
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "key").symlink_to("..data/key")
    assert read_secret(None, str(tmp_path / "key"), {}) == SECRET
    real.chmod(0o644)
    assert "chmod 600" in problem(file=tmp_path / "key")


def test_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "key").symlink_to(secret_file(tmp_path))
    assert "leads out of its folder" in problem(file=tmp_path / "here" / "key")


def test_what_is_no_file_or_cannot_be_read_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "folder").mkdir(0o700)
    assert "is no file" in problem(file=tmp_path / "pipe")
    assert "is no file" in problem(file=tmp_path / "folder")
    assert "cannot be read" in problem(file=tmp_path / "circle")
    assert "No such file" in problem(file=tmp_path / "none")
