"""Guards the look-up: by hash, at the same cost for whatever is presented, and never by a part of a key."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest

from server.access.changes import Wish, created, revoked
from server.access.key_text import hashed, new_key
from server.access.records import KeysFile
from server.access.ring import KeyRing

NOW = 1_000_000
real_hash = partial(hashed, b"s" * 32)


class CountedHash:
    """The real one, which remembers how often it was asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, text: bytes) -> str:
        self.count += 1
        return real_hash(text)


def test_every_key_known_or_not_costs_one_hash_and_what_is_none_costs_nothing() -> None:
    file, good = created(KeysFile(1, "0" * 64), real_hash, Wish("alice", ("generate",)), NOW)
    file, gone = created(file, real_hash, Wish("bob", ("generate",)), NOW)
    file, _ = revoked(file, "bob", NOW)
    file, over = created(file, real_hash, Wish("carol", ("generate",), expires_unix_seconds=NOW + 1), NOW)
    near = good.text[:-1] + ("A" if good.text[-1] != "A" else "B")
    count = CountedHash()
    ring = KeyRing(file, count)
    for number, (text, is_known) in enumerate(
        [(good.text, True), (near, False), (gone.text, False), (over.text, False), (new_key("0" * 12), False)], 1
    ):
        assert (ring.find(text.encode(), NOW + 1) is not None) == is_known
        assert count.count == number
    for text in ("", "unused", good.text[:-1], good.text + "A", good.text.upper(), "x" * 10**6):
        assert ring.find(text.encode(), NOW) is None
    assert count.count == 5


@pytest.mark.parametrize("position", range(16, 59))
def test_a_key_that_differs_in_one_letter_is_another_one(position: int) -> None:
    file, good = created(KeysFile(1, "0" * 64), real_hash, Wish("alice", ("generate",)), NOW)
    letters = list(good.text)
    letters[position] = "A" if letters[position] != "A" else "B"
    assert KeyRing(file, real_hash).find("".join(letters).encode(), NOW) is None


def test_a_key_that_a_hand_marked_as_revoked_works_no_more_though_its_hash_is_there() -> None:
    file, good = created(KeysFile(1, "0" * 64), real_hash, Wish("alice", ("generate",)), NOW)
    marked = msgspec.structs.replace(good.record, revoked_unix_seconds=NOW)
    assert KeyRing(file, real_hash).find(good.text.encode(), NOW) is not None
    assert KeyRing(KeysFile(1, "0" * 64, (marked,)), real_hash).find(good.text.encode(), NOW) is None


def test_what_the_file_holds_is_no_key() -> None:
    file, good = created(KeysFile(1, "0" * 64), real_hash, Wish("alice", ("generate",)), NOW)
    kept = good.record.kept[0].hmac_sha256
    assert KeyRing(file, real_hash).find(kept.encode(), NOW) is None
    assert KeyRing(file, partial(hashed, b"t" * 32)).find(good.text.encode(), NOW) is None
