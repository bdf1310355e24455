"""Guards what creating, revoking and rotating do, and how long each text of a key works."""

from __future__ import annotations

from functools import partial

import pytest

from server.access.changes import Wish, created, found, revoked, rotated
from server.access.key_text import hashed, is_key
from server.access.records import KeyLimits, KeysFile, KeysProblem
from server.access.ring import KeyRing
from server.core.caller import Limits

NOW = 1_000_000
hash_of = partial(hashed, b"s" * 32)
EMPTY = KeysFile(1, "0" * 64)


def ring(file: KeysFile) -> KeyRing:
    return KeyRing(file, hash_of)


def test_a_new_key_is_its_callers_and_says_what_it_may() -> None:
    limits = KeyLimits(requests_per_minute=5, usd_per_day=0.0)
    file, issued = created(EMPTY, hash_of, Wish("alice", ("usage",), ("sdxl",), limits, True), NOW)
    caller = ring(file).find(issued.text.encode(), NOW)
    assert caller is not None
    assert (caller.key_id, caller.name, caller.local_only) == (issued.record.id, "alice", True)
    assert caller.scopes == {"usage"}
    assert caller.models == frozenset({"sdxl"})
    assert caller.limits == Limits(requests_per_minute=5, usd_per_day=0.0)


def test_no_two_keys_are_alike() -> None:
    texts = {created(EMPTY, hash_of, Wish("alice", ("generate",)), NOW)[1].text for _ in range(100)}
    assert len({text[16:] for text in texts}) == 100
    assert all(is_key(text.encode()) for text in texts)


@pytest.mark.parametrize("name", ["", " alice", "al\nice", "\u00e4", "x" * 65, "\x1b[2J"])
def test_a_name_that_a_terminal_or_a_log_could_stumble_over_is_refused(name: str) -> None:
    with pytest.raises(KeysProblem, match="name"):
        created(EMPTY, hash_of, Wish(name, ("generate",)), NOW)


def test_a_name_is_free_again_once_its_key_is_revoked() -> None:
    file, first = created(EMPTY, hash_of, Wish("alice", ("generate",)), NOW)
    with pytest.raises(KeysProblem, match="exists"):
        created(file, hash_of, Wish("alice", ("generate",)), NOW)
    file, _ = revoked(file, "alice", NOW)
    file, second = created(file, hash_of, Wish("alice", ("generate",)), NOW)
    assert found(file, "alice").id == second.record.id != first.record.id


def test_a_key_works_until_the_second_in_which_it_expires() -> None:
    file, issued = created(EMPTY, hash_of, Wish("alice", ("generate",), expires_unix_seconds=NOW + 10), NOW)
    assert ring(file).find(issued.text.encode(), NOW + 9.9) is not None
    assert ring(file).find(issued.text.encode(), NOW + 10) is None
    assert ring(file).has_usable(NOW + 9) and not ring(file).has_usable(NOW + 10)  # noqa: PT018


def test_a_key_that_never_worked_is_not_made() -> None:
    with pytest.raises(KeysProblem, match="past"):
        created(EMPTY, hash_of, Wish("alice", ("generate",), expires_unix_seconds=NOW), NOW)


def test_a_revoked_key_stays_in_the_file_and_works_no_more() -> None:
    file, issued = created(EMPTY, hash_of, Wish("alice", ("generate",)), NOW)
    file, record = revoked(file, issued.record.id, NOW + 1)
    assert ring(file).find(issued.text.encode(), NOW) is None
    assert (record.revoked_unix_seconds, record.kept, len(file.keys)) == (NOW + 1, (), 1)
    assert revoked(file, issued.record.id, NOW + 5) == (file, record)
    with pytest.raises(KeysProblem, match="is revoked"):
        rotated(file, hash_of, issued.record.id, NOW, 0, None)


@pytest.mark.parametrize("grace_seconds", [0, 60])
def test_a_rotated_keys_old_text_works_for_the_grace_and_is_the_same_key_in_the_books(grace_seconds: int) -> None:
    file, old = created(EMPTY, hash_of, Wish("alice", ("generate",)), NOW)
    file, new = rotated(file, hash_of, "alice", NOW, grace_seconds, None)
    keys = ring(file)
    for second in (0, 59, 60, 61):
        caller = keys.find(old.text.encode(), NOW + second)
        assert (caller is not None) == (second < grace_seconds)
        renewed = keys.find(new.text.encode(), NOW + second)
        assert renewed is not None
        assert renewed.key_id == old.record.id
        assert caller in (None, renewed)


def test_rotating_again_cuts_no_grace_longer_and_forgets_what_is_over() -> None:
    file, first = created(EMPTY, hash_of, Wish("alice", ("generate",)), NOW)
    file, second = rotated(file, hash_of, "alice", NOW, 10, None)
    file, _ = rotated(file, hash_of, "alice", NOW + 5, 3600, None)
    assert ring(file).find(first.text.encode(), NOW + 9) is not None
    assert ring(file).find(first.text.encode(), NOW + 10) is None
    assert ring(file).find(second.text.encode(), NOW + 3604) is not None
    file, last = rotated(file, hash_of, "alice", NOW + 4000, 0, None)
    assert last.record.kept == found(file, "alice").kept
    assert len(last.record.kept) == 1


def test_a_later_expiry_is_not_the_old_texts() -> None:
    file, old = created(EMPTY, hash_of, Wish("alice", ("generate",), expires_unix_seconds=NOW + 10), NOW)
    file, new = rotated(file, hash_of, "alice", NOW, 3600, NOW + 9999)
    assert ring(file).find(old.text.encode(), NOW + 11) is None
    assert ring(file).find(new.text.encode(), NOW + 9998) is not None
    with pytest.raises(KeysProblem, match="past"):
        rotated(file, hash_of, "alice", NOW + 9999, 0, None)


def test_a_key_that_is_not_there_is_named() -> None:
    with pytest.raises(KeysProblem, match="'bob'"):
        found(EMPTY, "bob")
