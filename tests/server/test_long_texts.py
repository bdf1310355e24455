"""Guards JSON with pictures in it: read and written in portions, it is what `json` alone would have made."""

from __future__ import annotations

import asyncio
import base64
import json
import mmap
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.asked import PICTURES, asked_for, checked_body
from server.api.long_texts import LONG_BYTES, PORTION_BYTES, as_json, from_base64, in_base64, lift
from server.api.receive import parse_object
from server.api.sources import content_of
from server.core.errors import SafelightError
from server.core.long_text import LongText

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


FILE = bytes(range(256)) * 24 * 1024  # 6 MiB
BODY = json.dumps({"prompt": "a", "image": f"data:image/png;base64,{base64.b64encode(FILE).decode()}"}).encode()


def traced_peak(act: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def received(content: bytes) -> mmap.mmap:
    """As a body with a declared length is held: beside what is traced."""
    body = mmap.mmap(-1, len(content))
    body[:] = content
    return body


def test_a_picture_in_json_is_copied_by_the_portion_and_as_a_whole_only_when_it_is_a_file() -> None:
    body = received(BODY)
    parse_object(body, PICTURES)  # what is made once
    assert traced_peak(lambda: parse_object(body, PICTURES)) < 4 * PORTION_BYTES
    text = parse_object(body, PICTURES)["image"]
    assert traced_peak(lambda: content_of("image", text)) < 1.25 * len(FILE)


@pytest.mark.parametrize("read", [parse_object, lambda body: from_base64(LongText(memoryview(body)))])
def test_who_waits_for_pythons_lock_has_it_between_the_portions(read: Callable[[bytes], Any]) -> None:
    """Nothing takes the lock from whoever has it here: a turn comes only where it is given away."""
    content = BODY if read is parse_object else base64.b64encode(FILE)
    interval_seconds, turns = sys.getswitchinterval(), 0
    sys.setswitchinterval(3600)
    try:
        reading = threading.Thread(target=read, args=(content,))
        reading.start()
        while reading.is_alive():
            time.sleep(1e-6)
            turns += 1
    finally:
        sys.setswitchinterval(interval_seconds)
    assert turns >= 3, "without pauses there is one, when the thread has begun"


@pytest.mark.parametrize("shape", ["{}", "[{}]", '{{"image_url":{}}}', '[{{"image_url":{}}}]'])
@pytest.mark.parametrize("header", ["", "data:image/jpeg;base64,"])
def test_a_long_picture_is_the_same_file_however_it_is_written(shape: str, header: str) -> None:
    written = shape.format(f'"{header}{base64.b64encode(FILE[: 2 * LONG_BYTES]).decode()}"')
    values = parse_object(f'{{"prompt": "a", "image": {written}}}'.encode(), PICTURES)
    image = asked_for("edit", checked_body("edit", values), values).image
    assert isinstance(image, LongText)
    assert content_of("image", image) == FILE[: 2 * LONG_BYTES]


@pytest.mark.parametrize("text", [LONG + "-", LONG[: len(LONG) // 4 * 4] + "A===", f"ftp:{LONG}", f"data:x,{LONG}"])
def test_a_long_text_that_is_no_picture_is_refused_as_a_short_one_is(text: str) -> None:
    image = parse_object(json.dumps({"image": text}).encode(), PICTURES)["image"]
    assert isinstance(image, LongText)
    with pytest.raises(SafelightError) as long_refused:
        content_of("image", image)
    with pytest.raises(SafelightError) as refused:
        content_of("image", text)
    assert (long_refused.value.code, long_refused.value.message) == (refused.value.code, refused.value.message)


def test_a_long_text_elsewhere_than_in_a_picture_is_a_text() -> None:
    values = parse_object(json.dumps({"prompt": LONG, "image": LONG}).encode(), PICTURES)
    assert values["prompt"] == LONG
    assert str(values["image"]) == LONG
    with pytest.raises(SafelightError, match="prompt"):
        checked_body("generation", values)
