"""Guards which requests are taken to be the same: those of one caller whose bodies hold the same values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from server.api.forms import values_of
from server.api.long_texts import LONG_BYTES
from server.api.multipart import Part
from server.api.receive import parse_object
from server.core.long_text import LongText
from server.idempotency.claim import KEY, claim_of, fingerprint_of

# Easily taken for one another.
UNLIKE: list[dict[str, Any]] = [
    {},
    {"a": None},
    {"a": 1},
    {"a": 1.0},
    {"a": True},
    {"a": "1"},
    {"a": b"1"},
    {"a": [1]},
    {"a": [[1]]},
    {"a": []},
    {"a": {}},
    {"a": ""},
    {"a": "b"},
    {"a": ["b", "c"]},
    {"a": ["bc"]},
    {"a": ["b"], "c": None},
    {"a": {"b": 1}},
    {"a": {}, "b": 1},
    {"ab": 1},
    {"a": "\ud800"},
    {"a": "\ufffd"},
    {"a": float("inf")},
    {"a": "s1:b"},
]


def test_whatever_json_tells_apart_has_another_fingerprint() -> None:
    assert len({fingerprint_of(values) for values in UNLIKE}) == len(UNLIKE)


def test_the_order_of_names_does_not_matter_and_that_of_lists_does() -> None:
    inner = {"name": "x", "scale": 0.5, "deep": [{"a": 1, "b": 2}]}
    turned = {"deep": [{"b": 2, "a": 1}], "scale": 0.5, "name": "x"}
    assert fingerprint_of({"loras": [inner], "n": 1}) == fingerprint_of({"n": 1, "loras": [turned]})
    assert fingerprint_of({"loras": ["x", "y"]}) != fingerprint_of({"loras": ["y", "x"]})


def test_spaces_and_escapes_in_json_do_not_matter() -> None:
    body = {"prompt": "a r\u00f6d circle", "n": 2, "loras": [{"name": "x", "scale": 0.5}]}
    spellings = [json.dumps(body), json.dumps(body, indent=4, ensure_ascii=False), json.dumps(body, sort_keys=True)]
    assert len({fingerprint_of(parse_object(one.encode())) for one in spellings}) == 1


def test_a_long_text_has_the_fingerprint_of_the_text_that_it_is() -> None:
    body = json.dumps({"image": [{"image_url": "A" * 2 * LONG_BYTES}]}).encode()
    left = parse_object(body, ["image"])
    assert isinstance(left["image"][0]["image_url"], LongText)
    assert fingerprint_of(left) == fingerprint_of(json.loads(body))


def test_a_form_is_its_fields_and_files_whatever_stands_between_them() -> None:
    image, prompt = Part("image", b"\x89PNG", is_file=True), Part("prompt", b"x", is_file=False)
    assert fingerprint_of(values_of([image, prompt])) == fingerprint_of(values_of([prompt, image]))
    other = Part("image", b"\x89PNX", is_file=True)
    assert fingerprint_of(values_of([other, prompt])) != fingerprint_of(values_of([image, prompt]))
    assert fingerprint_of(values_of([image, image, prompt])) != fingerprint_of(values_of([image, prompt]))


def test_callers_operations_and_keys_are_told_apart() -> None:
    asked = [
        (None, "generation", "k"),
        ("", "generation", "k"),
        ("None", "generation", "k"),
        ("a", "generation", "k"),
        ("b", "generation", "k"),
        ("a", "edit", "k"),
        ("a", "generation", "K"),
        ("a", "generationk", "k"),
    ]
    claims = [claim_of(*one, {}) for one in asked]
    assert len({claim.key for claim in claims}) == len(asked)
    assert len({claim.caller for claim in claims}) == 5


def test_neither_the_key_nor_the_prompt_can_be_read_out_of_a_claim() -> None:
    assert "secret" not in repr(claim_of("secret-1", "generation", "secret-2", {"prompt": "secret-3"}))


@pytest.mark.parametrize("key", ["a", "x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "!~", "a,b;c=d"])
def test_a_key_is_visible_ascii(key: str) -> None:
    assert KEY.fullmatch(key)


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "a\tb", "a\n", "\x7f", "\u00e9", "\u2603", "\0"])
def test_what_is_not_visible_ascii_is_no_key(key: str) -> None:
    assert not KEY.fullmatch(key)
