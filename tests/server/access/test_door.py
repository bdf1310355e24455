"""Guards who comes in: one good key, in one of two headers; and that no open server can be reached by others."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.access.door import Door, door_of, presented
from server.access.live import LiveKeys
from server.access.records import KeysProblem
from server.core.caller import ANYBODY
from server.core.errors import SafelightError
from server.core.settings import load_settings
from tests.server.access.parts import issue, revoke

KEY = b"sl-0123456789ab-" + b"k" * 43
OTHER = b"sl-0123456789ab-" + b"o" * 43
BEARER = b"Bearer " + KEY


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", BEARER)],
        [(b"authorization", b"bEaReR   " + KEY)],
        [(b"api-key", KEY)],
        [(b"api-key", KEY), (b"authorization", BEARER)],
        [(b"host", b"x"), (b"x-api-key", OTHER), (b"authorization", BEARER), (b"cookie", OTHER)],
    ],
)
def test_a_key_comes_in_either_header_or_the_same_in_both(headers: list[tuple[bytes, bytes]]) -> None:
    assert presented(headers) == KEY


HOSTILE: dict[str, list[tuple[bytes, bytes]]] = {
    "two that differ": [(b"authorization", BEARER), (b"api-key", OTHER)],
    "one that is good, and an empty one": [(b"authorization", BEARER), (b"api-key", b"")],
    "one header twice": [(b"authorization", BEARER), (b"authorization", BEARER)],
    "the other header twice": [(b"api-key", KEY), (b"api-key", KEY)],
    "another scheme": [(b"authorization", b"Basic " + KEY)],
    "no scheme": [(b"authorization", KEY)],
    "a scheme alone": [(b"authorization", b"Bearer ")],
    "nothing": [(b"authorization", b"")],
    "two in one": [(b"authorization", BEARER + b", " + BEARER)],
    "words behind it": [(b"authorization", BEARER + b" x")],
    "a scheme in the wrong header": [(b"api-key", BEARER)],
    "a tab": [(b"authorization", b"Bearer\t" + KEY)],
    "a space that is none": [(b"authorization", b"Bearer\xa0" + KEY)],
    "a line more": [(b"authorization", BEARER + b"\n")],
    "letters beyond ASCII": [(b"authorization", "Bearer schl\u00fcssel".encode())],
    "bytes that are no text": [(b"api-key", b"\xff\xfe\x00")],
    "a NUL": [(b"api-key", KEY + b"\0")],
    "a megabyte": [(b"api-key", KEY * 20_000)],
    "a digit of another script": [(b"api-key", KEY[:-1] + "\u0663".encode())],
    "an empty key": [(b"api-key", b"")],
    "a key of nobody": [(b"api-key", OTHER)],
}


@pytest.mark.parametrize("headers", HOSTILE.values(), ids=HOSTILE.keys())
def test_whatever_is_not_one_good_key_is_refused_in_the_same_words(
    tmp_path: Path, headers: list[tuple[bytes, bytes]]
) -> None:
    good = issue(tmp_path / "keys.json").text.encode()
    door = Door(LiveKeys(tmp_path / "keys.json"))
    assert door.admit([(b"api-key", good)]).name == "alice"
    with pytest.raises(SafelightError) as refusal:
        door.admit([(name, value.replace(KEY, good)) for name, value in headers])
    assert (refusal.value.status, refusal.value.code) == (401, "invalid_api_key")
    assert refusal.value.message == "Incorrect API key provided. Whoever runs this server makes the keys for it."


def test_who_sends_no_key_is_told_how(tmp_path: Path) -> None:
    issue(tmp_path / "keys.json")
    with pytest.raises(SafelightError, match="did not provide an API key") as refusal:
        Door(LiveKeys(tmp_path / "keys.json")).admit([(b"x-api-key", KEY)])
    assert (refusal.value.status, refusal.value.code) == (401, "invalid_api_key")


def test_without_keys_anybody_comes_in_on_loopback_and_a_key_is_not_looked_at() -> None:
    door = door_of(load_settings({}))
    assert not door.asks_for_keys
    assert door.admit([(b"authorization", b"Bearer unused")]) is ANYBODY


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org"])  # noqa: S104 (it must be refused)
def test_beyond_loopback_there_must_be_a_usable_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(KeysProblem, match="refusing to listen"):
        door_of(load_settings({"host": host}))
    path = tmp_path / "keys.json"
    issued = issue(path)
    assert door_of(load_settings({"host": host, "keys": path})).asks_for_keys
    revoke(path, issued.record.id)
    with pytest.raises(KeysProblem, match="no usable key"):
        door_of(load_settings({"host": host, "keys": path}))


def test_a_server_whose_last_key_was_revoked_is_closed_and_not_open(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    issued = issue(path)
    revoke(path, "alice")
    door = door_of(load_settings({"keys": path}))
    assert door.asks_for_keys
    for headers in ([], [(b"api-key", issued.text.encode())]):
        with pytest.raises(SafelightError):
            door.admit(headers)


def test_a_keys_file_that_is_not_there_is_no_open_door(tmp_path: Path) -> None:
    with pytest.raises(KeysProblem, match="cannot be read"):
        door_of(load_settings({"keys": tmp_path / "nowhere.json"}))
