"""Whatever bytes a body is, it is one object, read as another reader reads it, or one refusal; never an exception."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from server.api.parse import Reach, parse
from server.api.receive import MAX_DEPTH, parse_object
from server.core.catalogue_file import load_catalogue
from server.core.errors import SafelightError
from server.core.settings import DEFAULT_CATALOGUE
from tests.fuzz.budget import budget

REACH = Reach(load_catalogue(DEFAULT_CATALOGUE))
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8)),
    *(st.sampled_from(["64x64", "512x512", "auto", "url", "b64_json", "png", "http://127.0.0.1/", "data:,"]),),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
)
NAMES = st.sampled_from(
    ["prompt", "n", "size", "seed", "steps", "image", "mask", "loras", "model", "stream", "quality", "user", "strength"]
)
OBJECTS = st.dictionaries(st.one_of(NAMES, st.text(max_size=5)), VALUES, max_size=6)
TOKENS = st.sampled_from(
    [
        *'{}[]:,"\\',
        "null",
        "true",
        "NaN",
        "-",
        "1e999",
        '"a"',
        '"\\ud800"',
        "\\u0000",
        " ",
        "\n",
        "0",
        "//",
        "'",
        "\x00",
        "\ufeff",
    ]
)


def outcome(body: bytes) -> dict[str, Any] | SafelightError:
    try:
        return parse_object(body)
    except SafelightError as refusal:
        return refusal


def read_otherwise(body: bytes) -> Any:
    """As the standard library reads it, with every key twice seen. Raises ValueError or RecursionError."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    return json.loads(body.decode("utf-8"), object_pairs_hook=distinct)


def depth_of(value: Any) -> int:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth_of, inner), default=0)
    return 0


@budget()
@given(st.one_of(st.binary(max_size=60), st.lists(TOKENS, max_size=30).map("".join).map(lambda text: text.encode())))
@example(b'{"a": 1, "\\u0061": 2}')
@example(b"\xef\xbb\xbf{}")
@example(b'{"a": "\\')
@example(b"[" * 40)
@example(b'{"a": ' + b"1" * 5000 + b"}")
def test_any_bytes_are_one_object_or_one_refusal(body: bytes) -> None:
    found = outcome(body)
    if isinstance(found, SafelightError):
        assert (found.status, found.code) == (400, "invalid_json")
        assert found.message.isascii()
    else:
        assert isinstance(found, dict)


@budget()
@given(OBJECTS, st.booleans())
def test_every_object_is_read_as_another_reader_reads_it(value: dict[str, Any], is_ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    found = outcome(body)
    if isinstance(found, SafelightError):
        assert depth_of(value) > MAX_DEPTH or not is_ascii
    else:
        assert shortened(repr(found)) == shortened(repr(read_otherwise(body)))


def shortened(text: str) -> str:
    """Integers that are out of every range are cut by the server, so that their parameter is named."""
    return re.sub(r"\d{26,}", lambda digits: digits[0][:26], text)


@budget()
@given(st.sampled_from(["generation", "edit", "variation"]), OBJECTS)
@example("generation", {"prompt": "a", "size": "1" * 5000 + "x1"})
@example("generation", {"prompt": "a\ud800"})
@example("generation", {"prompt": "a", "n": float("nan")})
def test_any_values_are_a_request_or_a_refusal_that_names_a_parameter(operation: Any, values: dict[str, Any]) -> None:
    try:
        candidates = parse(operation, {"prompt": "a", **values} if operation != "variation" else values, REACH)
    except SafelightError as refusal:
        assert refusal.status in (400, 404)  # noqa: PT017
        assert refusal.message.isascii()  # noqa: PT017
        assert len(refusal.message) < 2000  # noqa: PT017
        json.dumps(refusal.body()).encode()
    else:
        assert 1 <= candidates[0].request.count <= 10


SIZE_PARTS = st.sampled_from(
    [*"0123456789xX*+-_. ", "64", "512", "1024", "1792", "\uff15", "\u0665", "\n", "\0", "auto"]
)


@budget()
@given(st.lists(SIZE_PARTS, max_size=6).map("".join))
@example("0512x512")
@example("512x512\n")
@example("auto")
def test_a_size_is_taken_only_in_its_one_spelling_and_within_the_limits(text: str) -> None:
    limits = REACH.catalogue.models[REACH.catalogue.default_model].limits
    sides = re.fullmatch(r"([1-9][0-9]{0,3})x([1-9][0-9]{0,3})", text, re.ASCII)
    is_right = text == "auto"
    if sides:
        width, height = int(sides[1]), int(sides[2])
        is_right = width * height <= limits.max_pixels and all(
            limits.min_side_px <= side <= limits.max_side_px and side % limits.side_multiple_px == 0
            for side in (width, height)
        )
    try:
        parse("generation", {"prompt": "a", "size": text}, REACH)
    except SafelightError as refusal:
        assert refusal.param == "size"  # noqa: PT017
        assert not is_right
    else:
        assert is_right
