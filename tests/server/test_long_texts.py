"""Guards JSON with pictures in it: read and written in portions, it is what `json` alone would have made."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.long_texts import LONG_BYTES, PORTION_BYTES, as_json, from_base64, in_base64, lift
from server.api.receive import parse_object
from server.core.errors import SafelightError

LONG = "iVBORw0KGgo+/=" * (LONG_BYTES // 10)


def lifted_value(body: bytes) -> Any:
    lifted = lift(body)
    return lifted.restored(json.loads(lifted.skeleton))


@pytest.mark.parametrize(
    "value",
    [
        {"image": LONG},
        {"image": f"data:image/png;base64,{LONG}", "mask": LONG, "prompt": "a"},
        {"a": {"b": [LONG, {"c": LONG}]}, "images": [LONG] * 3},
        {"prompt": 'says "image": "' + LONG + '" and more'},
        {"prompt": LONG + "\\", "image": LONG},
        {"prompt": "\u00e4" + LONG, "n": 1},
        {LONG: LONG},
        {"a:": 1, ",b": LONG, "[": "]"},
    ],
)
@pytest.mark.parametrize("spaces", [False, True])
def test_what_comes_out_is_what_json_reads(value: dict[str, Any], spaces: bool) -> None:
    separators = (" ,\n  ", " : ") if spaces else (",", ":")
    body = json.dumps(value, separators=separators, ensure_ascii=False).encode()
    assert lifted_value(body) == value
    assert parse_object(body) == value


def test_long_texts_are_taken_out_and_nothing_else_is() -> None:
    body = json.dumps({"image": LONG, "prompt": "a red circle", "mask": LONG}).encode()
    assert len(lift(body).skeleton) < 200
    assert len(lift(json.dumps({"prompt": LONG + " "}).encode()).skeleton) > LONG_BYTES
    assert lift(b'{"n": ' + b"1" * 2 * LONG_BYTES + b"}").texts == {}


@pytest.mark.parametrize(
    "broken",
    [
        '{"image": "LONG"',
        '{"image": "LONG',
        '{"image" "LONG"}',
        '{"a:"LONG",b":1}',
        '{"image": "LONG"x}',
        '["LONG" "b"]',
        '{"k:":LONG,",b":1}',
    ],
)
def test_what_is_no_json_is_refused_as_ever(broken: str) -> None:
    body = broken.replace("LONG", LONG).encode()
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    with pytest.raises(SafelightError) as refused:
        parse_object(body)
    assert refused.value.code == "invalid_json"


def test_a_mistake_is_placed_where_its_sender_finds_it() -> None:
    body = f'{{"prompt": "x",\n "image": "{LONG}", oops}}'.encode()
    with pytest.raises(json.JSONDecodeError) as known:
        json.loads(body)
    with pytest.raises(SafelightError, match=f"line 2, column {known.value.colno}"):
        parse_object(body)


CONTENT = st.integers(0, 3 * PORTION_BYTES).map(lambda size: bytes(index * 7 % 256 for index in range(size)))


@given(content=st.one_of(st.binary(max_size=50), CONTENT))
def test_base64_is_that_of_the_standard_library_both_ways(content: bytes) -> None:
    text = asyncio.run(in_base64(content))
    assert text == base64.b64encode(content).decode()
    assert from_base64(text) == content


@pytest.mark.parametrize("place", [PORTION_BYTES - 1, PORTION_BYTES, 2 * PORTION_BYTES - 2])
@pytest.mark.parametrize("wrong", ["=", "-", "\n", "$", "\u00e9"])
def test_a_wrong_character_is_refused_wherever_it_stands(place: int, wrong: str) -> None:
    text = "A" * 3 * PORTION_BYTES
    with pytest.raises(ValueError, match=r"padding|base64|ASCII"):
        from_base64(text[:place] + wrong + text[place + 1 :])


@pytest.mark.parametrize("text", ["A", "AA=", "A===", "====", "AAAA=", "=AAA"])
def test_wrong_padding_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"padding|base64|ASCII"):
        from_base64(text)


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_reply_is_what_json_writes(ensure_ascii: bool) -> None:
    picture = base64.b64encode(bytes(2 * LONG_BYTES)).decode()
    value = {"data": [{"b64_json": picture, "revised_prompt": '\u00e4 "b"'}, {"b64_json": "AA=="}], "created": 1}
    written = asyncio.run(as_json(value, ensure_ascii=ensure_ascii))
    assert written == json.dumps(value, ensure_ascii=ensure_ascii, separators=(",", ":")).encode()
