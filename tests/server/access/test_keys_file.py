"""Guards the file of keys: whole at every moment, its owner's alone, no key in it, never begun anew by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from server.access.keys_file import change_keys, read_keys, secret_path
from server.access.records import KeysProblem
from tests.server.access.parts import issue, revoke

CREATE = """
import sys
from pathlib import Path
from tests.server.access.parts import issue
for number in range(10):
    print(issue(Path(sys.argv[1]), f"{sys.argv[2]}-{number}").text)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_files_hold_no_part_of_a_key_and_nobody_else_may_read_them(path: Path) -> None:
    issued = issue(path)
    secret_part = issued.text.rpartition(issued.record.id)[2].removeprefix("-")
    assert len(secret_part) == 43
    for file in path.parent.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        content = file.read_text()
        assert not any(secret_part[start : start + 8] in content for start in range(len(secret_part) - 7))


def test_what_was_created_is_read_again(path: Path) -> None:
    first, second = issue(path, "alice"), issue(path, "bob", local_only=True, models=("demo-sdxl",))
    assert read_keys(path).file.keys == (first.record, second.record)
    assert {file.name for file in path.parent.iterdir()} == {"keys.json", "keys.json.secret", "keys.json.lock"}


def test_several_that_create_at_once_lose_no_key(path: Path) -> None:
    """Each is a process of its own, and they begin the file together."""
    names = ["alice", "bob", "carol", "dora"]
    commands = [
        subprocess.Popen([sys.executable, "-c", CREATE, str(path), name], stdout=subprocess.PIPE, text=True)
        for name in names
    ]
    texts = [text for command in commands for text in command.communicate(timeout=60)[0].split()]
    assert [command.returncode for command in commands] == [0] * 4
    keys = read_keys(path)
    assert sorted(key.name for key in keys.file.keys) == [f"{name}-{number}" for name in names for number in range(10)]
    assert {keys.hash_of(text.encode()) for text in texts} == {key.kept[0].hmac_sha256 for key in keys.file.keys}


def test_a_change_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    issue(path)
    before = path.read_bytes()
    with pytest.raises(KeysProblem, match="exists"):
        issue(path, "alice")
    with pytest.raises(KeysProblem, match=r"keys\[1\].models"):
        issue(path, "bob", models=("x" * 201,))  # what could not be read again is not written
    assert path.read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(path: Path) -> None:
    path.parent.chmod(0o500)
    with pytest.raises(KeysProblem, match=r"cannot be written: Permission denied"):
        issue(path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysProblem, match="cannot be written: No such file"):
        issue(tmp_path / "nowhere" / "keys.json")


def test_only_the_first_create_begins_a_file(path: Path) -> None:
    with pytest.raises(KeysProblem, match="cannot be read: No such file"):
        revoke(path, "alice")
    assert not path.exists()
    assert not secret_path(path).exists()


def test_a_lost_secret_is_an_error_and_not_made_anew(path: Path) -> None:
    issue(path)
    secret_path(path).unlink()
    for use in (lambda: read_keys(path), lambda: issue(path, "bob")):
        with pytest.raises(KeysProblem, match=r"keys\.json\.secret cannot be read"):
            use()
    assert not secret_path(path).exists()


def test_the_secret_of_another_file_is_found_out(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    issue(path)
    issue(other)
    secret_path(path).write_bytes(secret_path(other).read_bytes())
    with pytest.raises(KeysProblem, match="is not the secret"):
        read_keys(path)


def test_a_secret_that_was_left_over_is_used(path: Path) -> None:
    """As after a stop between the first two writes."""
    issue(path)
    secret, lock = secret_path(path).read_bytes(), path.with_name("keys.json.lock")
    path.unlink()
    issue(path)
    assert (secret_path(path).read_bytes(), lock.exists()) == (secret, True)


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "cut": lambda text: text[: len(text) // 2],
    "no keys file": lambda _: "[]",
    "of a later version": lambda text: text.replace('"version": 1', '"version": 2'),
    "with an unknown field": lambda text: text.replace('"name"', '"lokal_only": true, "name"'),
    "without scopes": lambda text: text.replace('"generate"', ""),
    "with an unknown scope": lambda text: text.replace('"generate"', '"root"'),
    "with a name for a terminal": lambda text: text.replace('"alice"', '"\\u001b[2J"'),
    "with a limit below one": lambda text: text.replace('"requests_per_minute": null', '"requests_per_minute": 0'),
    "with an endless limit": lambda text: text.replace('"usd_per_day": null', '"usd_per_day": 1e999'),
    "with a key twice": lambda text: text.replace('"keys": [', '"keys": [' + text[text.index("[") + 1 : -4] + ","),
    "with a number for a list": lambda text: text.replace('"models": null', '"models": 7'),
    "nested": lambda _: "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_refused_whole(path: Path, damage: Callable[[str], str]) -> None:
    issue(path)
    whole = path.read_text()
    damaged = damage(whole)
    assert damaged != whole
    path.write_text(damaged)
    with pytest.raises(KeysProblem, match=r"keys\.json cannot be used: "):
        read_keys(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
@pytest.mark.parametrize("of", [Path, secret_path])
def test_a_file_that_others_may_touch_is_refused(path: Path, mode: int, of: Callable[[Path], Path]) -> None:
    issue(path)
    if os.geteuid() == 0:
        os.chown(of(path), 10001, 10002)
    of(path).chmod(mode)
    with pytest.raises(KeysProblem, match="chmod 600"):
        read_keys(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root owns what root owns")
@pytest.mark.parametrize("mode", [0o660, 0o620, 0o650, 0o644, 0o642])
@pytest.mark.parametrize("of", [Path, secret_path])
def test_what_root_owns_no_group_may_write_and_nobody_else_may_touch(
    path: Path, mode: int, of: Callable[[Path], Path]
) -> None:
    issue(path)
    of(path).chmod(mode)
    with pytest.raises(KeysProblem, match="chmod 600"):
        read_keys(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root owns what root owns")
def test_a_group_reads_what_root_lends_it_as_kubernetes_lays_secrets_down(path: Path) -> None:
    """Mode 0440 of root and the pod's fsGroup, behind the links that are turned when the secret changes."""
    version = path.parent / "..2026_11_22"
    version.mkdir()
    (path.parent / "..data").symlink_to(version.name)
    issue(version / "keys.json")
    for file in (version / "keys.json", secret_path(version / "keys.json")):
        os.chown(file, 0, 10002)
        file.chmod(0o440)
        (path.parent / file.name).symlink_to(Path("..data") / file.name)
    assert len(read_keys(path).file.keys) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root owns what root owns")
@pytest.mark.parametrize("mode", [0o640, 0o440])
def test_what_a_group_could_read_it_reads_after_a_change(path: Path, mode: int) -> None:
    issue(path)
    os.chown(path, 0, 10002)
    path.chmod(mode)
    issue(path, "bob")
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 10002, mode)


def test_a_folder_or_a_pipe_is_no_keys_file_and_nothing_waits_for_it(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(KeysProblem, match="is no file"):
        read_keys(path)


def test_where_a_link_stands_what_it_leads_to_is_changed(path: Path, tmp_path: Path) -> None:
    real = tmp_path / "volume" / "keys.json"
    real.parent.mkdir()
    path.symlink_to(real)
    issue(path)
    assert path.is_symlink()
    assert len(read_keys(real).file.keys) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_root_writes_belongs_to_the_owner_of_the_folder(path: Path) -> None:
    os.chown(path.parent, 10001, 10002)
    issue(path)
    owners = {(file.stat().st_uid, file.stat().st_gid) for file in path.parent.iterdir()}
    assert owners == {(10001, 10002)}


def test_keys_and_secret_are_shown_by_no_representation(path: Path) -> None:
    issue(path)
    keys = read_keys(path)
    assert repr(keys) == "Keys(1)"
    assert keys.secret.hex() in secret_path(path).read_text()
    change_keys(path, lambda same: (same.file, None))
