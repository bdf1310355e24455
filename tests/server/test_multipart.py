"""Guards the intake of a form: bounded in bytes, time and parts, whole to its closing boundary, nothing lost.

Whatever bytes arrive, and however they are cut, the answer is the parts that were sent or one of 400, 408, 413 and 415.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import logging
import re
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

import httpx
import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from server.api.multipart import (
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_NAME_CHARACTERS,
    MAX_PARTS,
    MAX_TEXT_BYTES,
    Part,
    receive_form,
)
from server.api.receive import bounded_chunks
from server.core.errors import SafelightError

MAX_BYTES = 3_000_000
DEADLINE_SECONDS = 0.1
FORM_HEADERS = {"content-type": "multipart/form-data; boundary=b"}
TEXT = b'Content-Disposition: form-data; name="a"'
FILE = b'Content-Disposition: form-data; name="image"; filename="x.png"\r\nContent-Type: image/png'
WHOLE = b"--b\r\n" + TEXT + b"\r\n\r\nv\r\n--b--\r\n"


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """A form of parts, each its headers and its content."""
    return b"".join(b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + b"--b--\r\n"


def arriving(chunks: Sequence[bytes]) -> Receive:
    """What a server hands over for a body that arrives in these pieces."""
    rest = iter([*chunks, b""])
    count = 0

    async def receive() -> Message:
        nonlocal count
        count += 1
        return {"type": "http.request", "body": next(rest), "more_body": count <= len(chunks)}

    return receive


async def receive_from(
    receive: Receive, headers: Mapping[str, str] = FORM_HEADERS, max_bytes: int = MAX_BYTES
) -> tuple[Part, ...]:
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": raw}
    return await receive_form(Request(scope, receive), max_bytes, DEADLINE_SECONDS)


def parts_of(
    *chunks: bytes, content_type: str = FORM_HEADERS["content-type"], max_bytes: int = MAX_BYTES
) -> tuple[Part, ...]:
    return asyncio.run(receive_from(arriving(chunks), {"content-type": content_type}, max_bytes))


def refusal(*chunks: bytes, content_type: str = FORM_HEADERS["content-type"]) -> SafelightError:
    with pytest.raises(SafelightError) as caught:
        parts_of(*chunks, content_type=content_type)
    return caught.value


class Server:
    """A server of its own: keeps the parts that it received and answers with their names."""

    def __init__(self) -> None:
        self.parts: tuple[Part, ...] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.parts = await receive_form(Request(scope, receive), MAX_BYTES, DEADLINE_SECONDS)
        except SafelightError as error:
            response = JSONResponse(error.body(), error.status, error.headers())
        else:
            response = JSONResponse({"names": [part.name for part in self.parts], "created": 0, "data": []})
        await response(scope, receive, send)


def post(content: bytes | AsyncIterator[bytes], headers: Mapping[str, str] = FORM_HEADERS) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=Server())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/", content=content, headers=headers)

    return asyncio.run(exchange())


def error_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def test_the_parts_come_out_in_order_and_as_they_were_sent() -> None:
    assert parts_of(form((TEXT, b"een cirkel"), (FILE, b"\x89PNG\r\n\x1a\n"), (TEXT, b""))) == (
        Part("a", b"een cirkel", False),
        Part("image", b"\x89PNG\r\n\x1a\n", True),
        Part("a", b"", False),
    )


def parts_of_edit(**arguments: Any) -> list[tuple[str, bytes, bool]]:
    """What arrives when the official client is called with these arguments, sorted by name."""
    server = Server()

    async def edit() -> None:
        http_client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=server))
        async with openai.AsyncOpenAI(
            api_key="unused", base_url="http://test/v1", max_retries=0, http_client=http_client
        ) as client:
            await client.images.edit(**arguments)

    asyncio.run(edit())
    return sorted((part.name, part.content, part.is_file) for part in server.parts)


def test_the_official_client_arrives_whole() -> None:
    assert parts_of_edit(
        image=[b"one\r\n--", bytes(range(256))],
        mask=("m\u00e9.png", b"\0", "image/png"),
        prompt="een \u00e9 \U0001f534",
        n=2,
        stream=False,
        extra_body={"svg": {"model": "x"}},
    ) == [
        ("image[]", bytes(range(256)), True),
        ("image[]", b"one\r\n--", True),
        ("mask", b"\0", True),
        ("n", b"2", False),
        ("prompt", "een \u00e9 \U0001f534".encode(), False),
        ("stream", b"false", False),
        ("svg[model]", b"x", False),
    ]


def test_a_single_picture_of_the_official_client_is_named_image() -> None:
    assert parts_of_edit(image=b"\x89PNG", prompt="") == [("image", b"\x89PNG", True), ("prompt", b"", False)]


NAMES = st.text(st.sampled_from([chr(code) for code in range(32, 127) if chr(code) not in '"\\']), min_size=1)
# Pieces that look like boundaries; none makes a line begin with a whole one.
CONTENTS = st.lists(
    st.binary(max_size=30)
    | st.sampled_from([b"\r\n", b"\r", b"\n", b"--", b"\r\n--", b"\r\n--boundar", b"--boundary--", b"\r\r\n-", b"y"]),
    max_size=8,
).map(b"".join)
LINE = re.compile(rb"(?:\A|\n)--boundary")
FIELDS = st.lists(
    st.tuples(
        NAMES.map(lambda name: name[:MAX_NAME_CHARACTERS]),
        CONTENTS.filter(lambda content: not LINE.search(content)),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def pieces(body: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    return [body[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=300, deadline=None, database=None)
@given(FIELDS, st.lists(st.integers(0, 10**6), max_size=20), st.sampled_from(["boundary", "b", "-", "x" * 70]))
def test_every_form_of_the_encoder_survives_however_it_is_cut(
    fields: list[tuple[str, bytes, bool]], cuts: list[int], boundary: str
) -> None:
    files = [(name, ("../../upload", content) if is_file else (None, content)) for name, content, is_file in fields]
    content_type = f"multipart/form-data; boundary={boundary}"
    request = httpx.Request("POST", "http://test", files=files, headers={"content-type": content_type})
    line = b"\n--" + boundary.encode()
    if any(line in b"\n" + content for _, content, _ in fields):
        assert refusal(*pieces(request.read(), cuts), content_type=content_type).code == "invalid_form"
    else:
        assert parts_of(*pieces(request.read(), cuts), content_type=content_type) == tuple(
            Part(name, content, is_file) for name, content, is_file in fields
        )


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11])
def test_a_form_in_small_chunks_is_put_together(size: int) -> None:
    content = b"\r\n--\r\n-b\r\n--\r--b-\r\n--c\r\n"
    body = form((FILE, content), (TEXT, b"\r\n--"), (FILE, b"--"))
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    assert [part.content for part in parts_of(*chunks)] == [content, b"\r\n--", b"--"]


FRAGMENTS = st.sampled_from(
    [
        *[
            b"",
            b"--b",
            b"\r\n--b",
            b"\r\n--b--",
            b"--b--",
            b"\r\n--b\r\n",
            b"\r\n\r\n",
            b"\r\n",
            b"\r",
            b"\n",
            b"\n--b",
        ],
        *[
            b" ",
            b"\t",
            b"--",
            b":",
            b";",
            b'"',
            b"x",
            b"\0",
            b"\xff",
            TEXT,
            FILE,
            b"--b--: x\r\n",
            b"X-Y: z\r\n",
            WHOLE,
        ],
    ]
)
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 4), FRAGMENTS), max_size=2)
ODD_CONTENTS = st.lists(FRAGMENTS, max_size=3).map(b"".join)


def changed(body: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, removed, inserted in changes:
        start = place % (len(body) + 1)
        body = body[:start] + inserted + body[start + removed :]
    return body


def contents_by_splitting(body: bytes) -> list[bytes]:
    """The contents of a form that is known to be sound, found in another way."""
    preamble, *inner, end = (b"\r\n" + body.lstrip(b"\r\n")).split(b"\r\n--b")
    assert preamble == b""
    assert re.fullmatch(rb"--[ \t\r\n]*", end)
    assert all(piece.startswith(b"\r\n") for piece in inner)
    return [piece.partition(b"\r\n\r\n")[2] for piece in inner]


def outcome(chunks: list[bytes]) -> tuple[Part, ...] | int:
    try:
        return parts_of(*chunks)
    except SafelightError as error:
        assert error.code in {"invalid_form", "invalid_parameter"}  # noqa: PT017
        assert error.message.isascii()  # noqa: PT017
        assert error.message.isprintable()  # noqa: PT017
        assert len(error.message) < 400  # noqa: PT017
        return error.status


@settings(max_examples=500, deadline=None, database=None)
@given(ODD_CONTENTS, ODD_CONTENTS, CHANGES, st.lists(st.integers(0, 10**6), max_size=12))
def test_a_damaged_form_is_read_whole_or_refused_however_it_is_cut(
    text: bytes, content: bytes, changes: list[tuple[int, int, bytes]], cuts: list[int]
) -> None:
    body = changed(form((TEXT, text), (FILE, content), (TEXT, b"")), changes)
    found = outcome([body])
    assert outcome(pieces(body, cuts)) == found
    if not isinstance(found, int):
        assert [part.content for part in found] == contents_by_splitting(body)
    else:
        assert found == 400


@settings(max_examples=200, deadline=None, database=None)
@given(st.binary(max_size=80) | st.lists(FRAGMENTS, max_size=12).map(b"".join))
def test_any_bytes_give_parts_or_a_refusal(body: bytes) -> None:
    assert outcome([body]) is not None


def without_end(end: bytes) -> bytes:
    return b"--b\r\n" + TEXT + b"\r\n\r\nv" + end


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"--",
        b"--b",
        b"--b-",
        b"--b\r\n",
        b"--b\r\n" + TEXT,
        b"--b\r\n" + TEXT + b"\r\n\r\n",
        without_end(b""),
        without_end(b"\r\n"),
        without_end(b"\r\n--b"),
        without_end(b"\r\n--b-"),
        without_end(b"\r\n--b\r\n"),
        without_end(b"--b--\r\n"),
        without_end(b"\r\n--c--\r\n"),
        without_end(b"\r--b--\r\n"),
    ],
)
def test_a_body_without_its_end_is_refused(body: bytes) -> None:
    error = refusal(body)
    assert (error.status, error.code, error.param) == (400, "invalid_form", None)
    assert "closing boundary is missing" in error.message


def test_a_body_that_stops_anywhere_is_refused() -> None:
    body = form((TEXT, b"v"), (FILE, b"w")).removesuffix(b"\r\n")
    for length in range(len(body)):
        assert refusal(body[:length]).code == "invalid_form"
    assert len(parts_of(body)) == 2


def test_a_form_without_parts_is_a_form() -> None:
    assert parts_of(b"--b--\r\n") == ()


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\n", b"\r\n\r\n", b"  \t\r\n"])
def test_blank_lines_around_a_form_are_passed_over(end: bytes) -> None:
    for chunks in ([b"\r\n\r\n" + WHOLE.rstrip() + end], [b"\r", b"\n", WHOLE.rstrip(), end]):
        assert parts_of(*chunks) == (Part("a", b"v", False),)


@pytest.mark.parametrize("start", [b"This is a form.\r\n", b"\r\nlost\r\n", b" ", b"\r\n\r\n-", b"\0", b"\xef\xbb\xbf"])
def test_text_before_the_first_boundary_is_refused(start: bytes) -> None:
    for chunks in ([start + WHOLE], [start[:1], start[1:], WHOLE]):
        assert "does not begin with the boundary" in refusal(*chunks).message


@pytest.mark.parametrize("end", [b"lost", b"\r\nlost", WHOLE, b"--b--\r\n", b"\r\n--b--\r\n", b"-", b"\0"])
def test_data_behind_the_closing_boundary_is_refused(end: bytes) -> None:
    body = WHOLE.rstrip()
    for chunks in ([body + end], [body, end], [body[:-1], body[-1:] + end], [body, b"\r\n", end]):
        assert "follows its closing boundary" in refusal(*chunks).message


@pytest.mark.parametrize(
    "content",
    [b"--b", b"--b\r\n" + TEXT + b"\r\n\r\nlost", b"x\n--b\n" + TEXT + b"\n\nlost", b"x\n--b--\n", b"x\r\n--bX"],
)
def test_a_boundary_that_only_looks_like_content_is_refused(content: bytes) -> None:
    body = form((TEXT, content), (TEXT, b"v"))
    for size in (1, 3, len(body)):
        chunks = [body[start : start + size] for start in range(0, len(body), size)]
        assert "a line that begins with the boundary" in refusal(*chunks).message


@pytest.mark.parametrize("content", [b"x\r\n--b-", b"x\r\n--b \tlost", b"x\r\n--b\rlost"])
def test_an_unfinished_boundary_within_a_part_is_refused(content: bytes) -> None:
    assert refusal(form((TEXT, content), (TEXT, b"v"))).code == "invalid_form"


@pytest.mark.parametrize("boundary", [b"--b ", b"--b\t", b"\r\n--b ", b"\r\n--b \t", b"\r\n--b" + b" " * 100_000])
def test_blanks_behind_a_boundary_are_refused(boundary: bytes) -> None:
    before = b"" if boundary.startswith(b"--") else b"--b\r\n" + TEXT + b"\r\n\r\nv"
    end = b"\r\n" + TEXT + b"\r\n\r\nw\r\n--b--\r\n"
    for chunks in ([before + boundary + end], [before, boundary[:-1], boundary[-1:], end]):
        assert "blanks follow a boundary" in refusal(*chunks).message


def test_line_ends_of_one_character_are_refused() -> None:
    for end in (b"\n", b"\r"):
        assert refusal(WHOLE.replace(b"\r\n", end)).code == "invalid_form"
        assert refusal(b"--b\r\n" + TEXT + end + end + b"v\r\n--b--\r\n").code == "invalid_form"


def named(parameters: bytes) -> bytes:
    return b"Content-Disposition: form-data; " + parameters


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"Content-Type: text/plain", "has no Content-Disposition"),
        (b'Content-Disposition: attachment; name="a"', "malformed, or not form-data"),
        (b'Content-Disposition: form-data, name="a"', "malformed, or not form-data"),
        (b"Content-Disposition:", "malformed, or not form-data"),
        (b"Content-Disposition: form-data", "has no name"),
        (named(b'filename="a.png"'), "has no name"),
        (named(b'name=""'), "is ''; allowed"),
        (named(b"name="), "malformed"),
        (named(b'name="a'), "malformed"),
        (named(b'name="a" filename="b"'), "malformed"),
        (named(b'name="a"b'), "malformed"),
        (named(b'name="a"; name="a"'), "malformed"),
        (named(b'name="a"; NAME="b"'), "malformed"),
        (named(b'name="a"; filename="b"; filename="c"'), "malformed"),
        (named(b'name="a"; filename="b'), "malformed"),
        (named(b"name*=utf-8''a"), "'name*'; allowed: name, filename"),
        (named(b"name=\"a\"; filename*=utf-8''a.png"), "'filename*'; allowed: name, filename"),
        (named(b'name="a"; filename="a.png"; filename*=utf-8\'\'b.png'), "'filename*'; allowed"),
        (named(b'name="a"; size=3'), "'size'; allowed"),
        (named('name="\u00e9"'.encode()), "allowed: 1 to 64 ASCII characters"),
        (named(b'name="\xff"'), "allowed: 1 to 64 ASCII characters"),
        (named(b'name="a\tb"'), "allowed: 1 to 64 ASCII characters"),
        (named(b'name="a\\"b"'), "allowed: 1 to 64 ASCII characters"),
        (named(b'name="a\\\\b"'), "allowed: 1 to 64 ASCII characters"),
        (named(b'name="' + b"a" * 65 + b'"'), "allowed: 1 to 64 ASCII characters"),
        (named(b'name="a\0"'), "control characters"),
        (named(b'name="a"\nX: y'), "control characters, or end without CRLF"),
        (TEXT + b"\r\nContent-Type: text/plain\x7f", "control characters"),
        (TEXT + b"\r\n" + TEXT, "'content-disposition' twice"),
        (TEXT + b"\r\nContent-Type: text/plain\r\ncontent-type: text/plain", "'content-type' twice"),
        (TEXT + b"\r\nContent-Transfer-Encoding: base64", "'base64'; allowed: 7bit, 8bit, binary"),
        (FILE + b"\r\nContent-Transfer-Encoding: quoted-printable", "'quoted-printable'; allowed"),
        (TEXT + b"\r\nContent-Transfer-Encoding:", "''; allowed"),
        (TEXT + b"\r\nContent-Type: text/plain; charset=iso-8859-1", "'iso-8859-1'; allowed: utf-8"),
        (TEXT + b'\r\nContent-Type: text/plain; charset="utf-16"', "'utf-16'; allowed: utf-8"),
        (TEXT + b"\r\nContent-Type: text/plain; charset", "Content-Type of part 2 is malformed"),
        (b" " + TEXT, "headers of part 2 are malformed"),
        (TEXT + b'\r\n filename="folded"', "headers of part 2 are malformed"),
        (b"Content-Disposition form-data", "headers of part 2 are malformed"),
        (b": form-data", "headers of part 2 are malformed"),
        (b"Content Disposition: form-data", "headers of part 2 are malformed"),
        (b"Content-Disposition\xc3\xa9: form-data", "headers of part 2 are malformed"),
        (TEXT + b"\rX: y", "headers of part 2 are malformed"),
    ],
)
def test_a_part_with_odd_headers_is_refused(head: bytes, reason: str) -> None:
    error = refusal(form((TEXT, b"good"), (head, b"lost"), (TEXT, b"good")))
    assert (error.status, error.code, error.param) == (400, "invalid_form", None)
    assert reason in error.message


def test_data_where_headers_should_stand_is_refused() -> None:
    assert "headers of part 1 are malformed" in refusal(b"--b\r\nlost\r\n--b--\r\n").message
    assert "no Content-Disposition" in refusal(b"--b\r\n\r\nlost\r\n--b--\r\n").message


@pytest.mark.parametrize(
    "head",
    [
        b"content-disposition:form-data;name=a",
        b"CONTENT-DISPOSITION: Form-Data; NAME=a;",
        b'Content-Disposition:  form-data ;\tname="a" ',
        TEXT + b"\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Transfer-Encoding: 8bit\r\nContent-Length: 1",
        TEXT + b"\r\nContent-Transfer-Encoding: BINARY",
        TEXT + b"\r\nContent-Type: text/plain; charset=us-ascii\r\nX-Unknown:",
    ],
)
def test_headers_as_old_and_other_clients_write_them_are_accepted(head: bytes) -> None:
    assert parts_of(form((head, b"v"))) == (Part("a", b"v", False),)


@pytest.mark.parametrize(
    "file_name",
    [
        b"../../etc/passwd",
        b"C:\\pictures\\a.png",
        b'a\\"b',
        b"a;b=c",
        "\u00e9\U0001f534.png".encode(),
        b"\xff",
        b"%00",
        "\u753b".encode() * 255,
    ],
)
def test_the_name_of_a_file_is_passed_over(file_name: bytes) -> None:
    head = named(b'name="image"; filename="' + file_name + b'"')
    assert parts_of(form((head, b"v"))) == (Part("image", b"v", True),)


def test_a_file_field_left_empty_is_as_if_not_sent() -> None:
    empty = named(b'name="mask"; filename=""') + b"\r\nContent-Type: application/octet-stream"
    assert parts_of(form((empty, b""), (TEXT, b"v"))) == (Part("a", b"v", False),)


def test_a_file_that_lacks_only_its_name_or_only_its_content_is_a_file() -> None:
    nameless = named(b'name="mask"; filename=""')
    assert parts_of(form((nameless, b"v"), (FILE, b""))) == (Part("mask", b"v", True), Part("image", b"", True))


def test_a_part_is_shown_without_its_content() -> None:
    assert repr(Part("prompt", b"secret", False)) == "Part(name='prompt', is_file=False)"


def test_the_charset_of_a_file_is_passed_over() -> None:
    head = named(b'name="image"; filename="x"') + b"\r\nContent-Type: image/png; charset=binary"
    assert parts_of(form((head, b"\xff"))) == (Part("image", b"\xff", True),)


@pytest.mark.parametrize("name", ["image[]", "svg[model]", "mask[]", "a b", "%22", "a" * MAX_NAME_CHARACTERS])
def test_names_come_out_as_sent(name: str) -> None:
    assert parts_of(form((named(f'name="{name}"'.encode()), b"v")))[0].name == name


def test_sixty_four_parts_are_accepted_and_no_more() -> None:
    assert len(parts_of(form(*[(TEXT, b"v")] * MAX_PARTS))) == MAX_PARTS
    for count in (MAX_PARTS + 1, 1_001):
        error = refusal(form(*[(TEXT, b"v")] * count))
        assert (error.status, error.code) == (400, "invalid_form")
        assert "more than 64 parts" in error.message


def test_parts_left_empty_count_too() -> None:
    assert "more than 64 parts" in refusal(form(*[(named(b'name="m"; filename=""'), b"")] * 65)).message


def test_as_many_and_as_long_headers_as_allowed_are_accepted() -> None:
    others = [b"X-%d: " % number + b"x" * (MAX_HEADER_BYTES - 5) for number in range(MAX_HEADERS - 1)]
    assert len(parts_of(form((b"\r\n".join([TEXT, *others]), b"v")))) == 1


@pytest.mark.parametrize(
    "header",
    [
        b"X: " + b"x" * (MAX_HEADER_BYTES - 2),
        b"X" * MAX_HEADER_BYTES + b":",
        b"X:" + b" " * (MAX_HEADER_BYTES - 2) + b"x",
        b"X" * 100_000,
    ],
)
def test_a_longer_header_is_refused(header: bytes) -> None:
    assert "longer than 1024 bytes" in refusal(form((TEXT + b"\r\n" + header, b"v"))).message


def test_more_headers_are_refused() -> None:
    others = b"\r\n".join(b"X-%d: y" % number for number in range(MAX_HEADERS))
    assert "more than 8" in refusal(form((TEXT + b"\r\n" + others, b"v"))).message


def test_a_header_without_an_end_is_refused_before_it_is_held() -> None:
    taken = 0

    async def endless() -> Message:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"--b\r\nX: " if taken == 1 else b"x" * 100, "more_body": True}

    with pytest.raises(SafelightError) as caught:
        asyncio.run(receive_from(endless))
    assert caught.value.code == "invalid_form"
    assert taken < 15


def test_the_longest_prompt_of_the_widest_characters_is_accepted() -> None:
    prompt = "\U0001f534" * 32_000
    assert parts_of(form((TEXT, prompt.encode())))[0].text() == prompt


def test_a_text_of_more_than_a_mebibyte_is_refused_by_name_and_a_file_is_not() -> None:
    assert len(parts_of(form((TEXT, b"x" * MAX_TEXT_BYTES)))[0].content) == MAX_TEXT_BYTES
    error = refusal(form((TEXT, b"x" * (MAX_TEXT_BYTES + 1))))
    assert (error.status, error.code, error.param) == (400, "invalid_parameter", "a")
    assert len(parts_of(form((FILE, b"x" * (MAX_TEXT_BYTES + 1))))[0].content) == MAX_TEXT_BYTES + 1


@pytest.mark.parametrize("content", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", "x".encode("utf-16"), b"\xf0\x9f\x94"])
def test_a_text_that_is_not_utf8_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(SafelightError) as caught:
        Part("svg[model]", content, False).text()
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_parameter", "svg[model]")
    assert caught.value.message == "'svg[model]' is not UTF-8."


def test_a_file_where_text_belongs_is_refused_by_name() -> None:
    with pytest.raises(SafelightError) as caught:
        Part("prompt", b"a red circle", True).text()
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_parameter", "prompt")
    assert caught.value.message == "'prompt' must be sent as text, not as a file."


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=b",
        'Multipart/Form-Data;BOUNDARY="b"',
        " multipart/form-data ; charset=UTF-8; boundary=b ;",
        "multipart/form-data; x=y; boundary=b",
    ],
)
def test_form_content_types_are_accepted(content_type: str) -> None:
    assert post(WHOLE, {"content-type": content_type}).json()["names"] == ["a"]


@pytest.mark.parametrize("boundary", ["x" * 70, "'()+_,-./:=?", "a b", "0"])
def test_every_boundary_of_rfc_2046_is_accepted(boundary: str) -> None:
    body = WHOLE.replace(b"--b", b"--" + boundary.encode())
    assert len(parts_of(body, content_type=f'multipart/form-data; boundary="{boundary}"')) == 1


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "multipart/mixed; boundary=b",
        "multipart/form-datax; boundary=b",
        "application/x-www-form-urlencoded",
        "boundary=b",
        "",
        ";boundary=b",
        "text/plain, multipart/form-data; boundary=b",
        "x" * 10_000,
        "multipart/form-data; boundary=b; charset=utf-16",
        "multipart/form-data; boundary=b; charset=" + "x" * 10_000,
    ],
)
def test_another_content_type_is_refused(content_type: str) -> None:
    response = post(WHOLE, {"content-type": content_type})
    assert error_of(response) == (415, "unsupported_media_type")
    assert len(response.content) < 500


def test_a_missing_content_type_is_refused() -> None:
    response = post(WHOLE, {})
    assert error_of(response) == (415, "unsupported_media_type")
    assert "missing" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "parameters",
    [
        "",
        ";",
        "; boundary",
        "; boundary=",
        '; boundary=""',
        '; boundary="b',
        "; boundary=b; boundary=b",
        "; boundary=b c",
        "; boundary=\u00e9",
        '; boundary="b "',
        '; boundary="b\\c"',
        "; boundary=b@",
        "; boundary=" + "x" * 71,
        "; boundary=" + "x" * 10_000,
        "; charset=utf-8",
    ],
)
def test_a_content_type_without_a_sound_boundary_is_refused(parameters: str) -> None:
    error = refusal(WHOLE, content_type=f"multipart/form-data{parameters}")
    assert (error.status, error.code) == (400, "invalid_form")
    assert "Content-Type" in error.message


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "gzip, identity", "x"])
def test_an_encoded_body_is_refused(encoding: str) -> None:
    response = post(gzip.compress(WHOLE), FORM_HEADERS | {"content-encoding": encoding})
    assert error_of(response) == (415, "unsupported_media_type")


def test_the_identity_encoding_is_accepted() -> None:
    assert post(WHOLE, FORM_HEADERS | {"content-encoding": "Identity"}).status_code == 200


def test_a_body_of_exactly_the_limit_is_accepted_and_one_byte_more_is_refused() -> None:
    content = b"x" * (MAX_BYTES - len(form((FILE, b""))))
    assert post(form((FILE, content))).json()["names"] == ["image"]
    assert error_of(post(form((FILE, content + b"x")))) == (413, "request_too_large")


@pytest.mark.parametrize("declared", [str(MAX_BYTES + 1), "53477376", "9" * 20, "9" * 5_000])
def test_a_declared_oversize_is_refused_without_reading(declared: str) -> None:
    async def never() -> Message:
        raise AssertionError("the body was read")

    with pytest.raises(SafelightError) as caught:
        asyncio.run(receive_from(never, FORM_HEADERS | {"content-length": declared}))
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")


START_OF_FILE = b"--b\r\n" + FILE + b"\r\n\r\n"


@pytest.mark.parametrize("start", [START_OF_FILE, b"\r\n", b"--b--\r\n"])
def test_a_body_far_above_the_cap_is_never_held_and_reading_stops(start: bytes) -> None:
    filler = (b"x" if start == START_OF_FILE else b"\n") * 50_000
    taken = 0

    async def endless() -> Message:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": start if taken == 1 else filler, "more_body": True}

    tracemalloc.start()
    try:
        with pytest.raises(SafelightError) as caught:
            asyncio.run(receive_from(endless, FORM_HEADERS | {"content-length": "7"}))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (caught.value.status, caught.value.code) == (413, "request_too_large")
    assert taken <= MAX_BYTES // len(filler) + 2
    assert peak_bytes < 1.3 * MAX_BYTES


def test_a_large_file_is_held_only_once() -> None:
    filler = b"\r\n--" * 10_000
    count = MAX_BYTES // len(filler) - 1
    chunks = [START_OF_FILE, *[filler] * count, b"\r\n--b--"]
    tracemalloc.start()
    try:
        parts = parts_of(*chunks)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert parts == (Part("image", filler * count, True),)
    assert peak_bytes < 1.3 * MAX_BYTES


def test_false_boundaries_are_refused_before_they_cost_time() -> None:
    taken = 0

    def false_boundaries() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b"\r\n--bX" * 10

    rest = false_boundaries()

    async def endless() -> Message:
        return {"type": "http.request", "body": next(rest) if taken else START_OF_FILE + next(rest), "more_body": True}

    with pytest.raises(SafelightError) as caught:
        asyncio.run(receive_from(endless))
    assert "a line that begins with the boundary" in caught.value.message
    assert taken == 1


async def stalled() -> AsyncIterator[bytes]:
    yield START_OF_FILE
    await asyncio.Event().wait()


async def dripping() -> AsyncIterator[bytes]:
    yield START_OF_FILE
    while True:
        yield b"x"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("slow_body", [stalled, dripping])
def test_a_slow_body_ends_at_the_deadline(slow_body: Callable[[], AsyncIterator[bytes]]) -> None:
    started = time.monotonic()
    response = post(slow_body())
    assert error_of(response) == (408, "request_timeout")
    assert response.headers["x-should-retry"] == "false"
    assert DEADLINE_SECONDS <= time.monotonic() - started < 3.0


def test_the_deadline_never_strikes_a_reader_between_two_chunks() -> None:
    async def read_slowly() -> list[bytes]:
        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": []}
        read = []
        async for chunk in bounded_chunks(Request(scope, arriving([b"a", b"b"])), MAX_BYTES, DEADLINE_SECONDS):
            read.append(chunk)
            await asyncio.sleep(DEADLINE_SECONDS)
        return read

    assert b"".join(asyncio.run(read_slowly())) == b"ab"


def test_a_refused_form_leaves_no_timer_behind() -> None:
    async def refused_and_then_idle() -> None:
        with pytest.raises(SafelightError):
            await receive_from(arriving([b"broken"]))
        await asyncio.sleep(2 * DEADLINE_SECONDS)

    asyncio.run(refused_and_then_idle())


def test_a_client_that_leaves_in_the_middle_is_no_crash() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": START_OF_FILE, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def leaving() -> Message:
        return messages.pop(0)

    with pytest.raises(SafelightError) as caught:
        asyncio.run(receive_from(leaving))
    assert (caught.value.status, caught.value.code) == (400, "invalid_form")


@pytest.mark.parametrize("body", [b"broken", b"--b\nx", b"--b\r\n\xff: x", b"--b\r\n" + TEXT + b"\r\n\r\nv\r\n--b x"])
def test_a_broken_form_writes_nothing_to_the_log(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        assert refusal(body).code == "invalid_form"
    assert [record for record in caplog.records if "multipart" in record.name] == []
