"""Whatever a form is made of and however it is cut, its parts are those that a plain splitting finds, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from server.api.forms import values_of
from server.api.multipart import Part
from server.core.errors import SafelightError
from tests.fuzz.budget import budget
from tests.server.test_multipart import arriving, receive_from

PIECES = st.one_of(
    st.sampled_from(
        [
            *(
                b"--b\r\n",
                b"--b--\r\n",
                b"--b--",
                b"\r\n",
                b"\r\n\r\n",
                b"\n",
                b"--",
                b"--b",
                b"--bb\r\n",
                b"\r\n--b ",
                b" ",
            ),
            *(
                b'Content-Disposition: form-data; name="a"',
                b'Content-Disposition: form-data; name="image"; filename="x"',
            ),
            *(b'Content-Disposition: form-data; name="n"', b"Content-Type: text/plain", b"value", b"1", b"\0", b"\xff"),
            *(b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n',),
        ]
    ),
    st.binary(max_size=8),
)
BODIES = st.lists(PIECES, max_size=14).map(b"".join)
GOOD = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nv\r\n'


def outcome(*chunks: bytes) -> tuple[Part, ...] | tuple[int, str]:
    try:
        return asyncio.run(receive_from(arriving(chunks)))
    except SafelightError as refusal:
        return refusal.status, refusal.code


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted({place % (len(body) + 1) for place in places} | {0, len(body)})
    return [body[begin:end] for begin, end in pairwise(ends)]


def split_plainly(body: bytes) -> list[bytes]:
    """The contents between boundaries, by RFC 2046 and nothing more."""
    inner = (b"\r\n" + body.lstrip(b"\r\n")).split(b"\r\n--b--")[0].split(b"\r\n--b\r\n")[1:]
    return [part.partition(b"\r\n\r\n")[2] for part in inner]


@budget()
@given(BODIES, st.lists(st.integers(0, 1000), max_size=6))
@example(GOOD, [])
@example(GOOD + b"--b--\r\n", [5, 40, 57])
@example(GOOD + b"--b--x", [])
@example(GOOD + b"--b \r\n--b--\r\n", [])
@example(GOOD.replace(b"\r\n\r\n", b"\r\n\r\n\r\n--bx\r\n") + b"--b--\r\n", [30])
def test_any_form_is_read_alike_however_it_is_cut_and_loses_nothing(body: bytes, places: list[int]) -> None:
    whole = outcome(body)
    assert outcome(*cut(body, places)) == whole
    parts = [part for part in whole if isinstance(part, Part)]
    if len(parts) < len(whole):
        assert whole[0] in (400, 415)
        return
    unchosen = [content for content in split_plainly(body) if content]
    assert [part.content for part in parts if part.content] == unchosen


@budget()
@given(
    st.lists(
        st.tuples(st.sampled_from(["n", "stream", "image", "image[]", "a[b]", "svg[a]", "x"]), st.text(max_size=6))
    )
)
def test_any_parts_are_values_or_a_refusal(named: list[tuple[str, str]]) -> None:
    parts = [Part(name, text.encode("utf-8", "surrogatepass"), is_file=name == "image") for name, text in named]
    try:
        values = values_of(parts)
    except SafelightError as refusal:
        assert refusal.status == 400  # noqa: PT017
    else:
        assert len(values) <= len(parts)
