"""Receives a form (multipart/form-data): bounded in bytes, time and parts, and whole to its closing boundary.

Knows bytes and the grammar of RFC 7578 and RFC 2046; knows no parameters, and passes over the names of files.
Invariant: every byte of content that was sent is in exactly one part, or the form is refused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from starlette.requests import ClientDisconnect, Request

from server.api.receive import bounded_chunks, check_encoding, check_media_type
from server.core import errors

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 64
# Of each part; together at most 8 KiB. A line has room for the longest file name there is, in UTF-8.
MAX_HEADERS = 8
MAX_HEADER_BYTES = 1024
# The longest prompt takes an eighth of it.
MAX_TEXT_BYTES = 1024 * 1024
# Longer ones could not be shown back whole.
MAX_NAME_CHARACTERS = errors.SHOWN_CHARACTERS

TRANSFER_ENCODINGS = ("7bit", "8bit", "binary")
CHARSETS = ("utf-8", "utf8", "us-ascii")
# Encoders disagree on how quotes and backslashes are escaped in a name; so none may need it.
NAME = re.compile(rf"[ !#-\[\]-~]{{1,{MAX_NAME_CHARACTERS}}}")
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
PARAMETER = re.compile(r';[ \t]*(?:([!#$%&\'*+\-.^_`|~0-9A-Za-z]+)=("(?:[^"\\]++|\\.)*+"|[^;"\\ \t]+)[ \t]*)?')
CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

# It warns of every broken form. Their senders are told; strangers must not fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form. is_file: whether it came with the name of a file, even an empty one."""

    name: str
    # Shown nowhere: it may be a prompt or a picture.
    content: bytes = field(repr=False)
    is_file: bool

    def text(self) -> str:
        """The content as text. Raises SafelightError: 400 with the part's name, where it is a file or not UTF-8."""
        if self.is_file:
            raise errors.invalid_parameter(
                self.name, f"{errors.quoted(self.name)} must be sent as text, not as a file."
            )
        try:
            return self.content.decode("utf-8")
        except UnicodeDecodeError:
            raise errors.invalid_parameter(self.name, f"{errors.quoted(self.name)} is not UTF-8.") from None


async def receive_form(request: Request, max_bytes: int, timeout_seconds: float) -> tuple[Part, ...]:
    """The parts in the order in which they were sent. Raises SafelightError: 400, 408, 413 or 415."""
    content_type = request.headers.get("content-type", "")
    check_media_type(request, "multipart/form-data")
    check_encoding(request)
    reader = _Reader(_boundary_of(content_type))
    try:
        async for chunk in bounded_chunks(request, max_bytes, timeout_seconds):
            reader.feed(chunk)
    except ClientDisconnect:
        raise errors.invalid_form("it ended early") from None
    return reader.finish()


def _boundary_of(content_type: str) -> str:
    parameters = _parameters_of(content_type)
    if parameters is None:
        raise errors.invalid_form("the parameters of its Content-Type are malformed")
    charset = parameters.get("charset", "utf-8")
    if charset.lower() not in CHARSETS:
        raise errors.unsupported_media_type(f"The charset must be utf-8, not {errors.quoted(charset)}.")
    boundary = parameters.get("boundary", "")
    if not BOUNDARY.fullmatch(boundary):
        raise errors.invalid_form("its Content-Type must name a boundary of 1 to 70 of RFC 2046's characters")
    return boundary


def _parameters_of(header: str) -> dict[str, str] | None:
    """What stands behind a header's value, escapes as sent; None where it is malformed or names something twice."""
    parameters: dict[str, str] = {}
    position = len(header.partition(";")[0])
    while position < len(header):
        match = PARAMETER.match(header, position)
        if match is None:
            return None
        position = match.end()
        if match[1] is None:
            continue
        if match[1].lower() in parameters:
            return None
        parameters[match[1].lower()] = match[2][1:-1] if match[2].startswith('"') else match[2]
    return parameters


class _Reader:
    """Feeds the parser, and refuses what it would pass over.

    The parser takes an end without a closing boundary, text behind the closing one, and an unfinished boundary as
    content. So the lines that begin with the boundary are counted here: each must be one that the parser saw as such.
    """

    def __init__(self, boundary: str) -> None:
        self._line = b"\n--" + boundary.encode("ascii")
        self._closing = b"\r" + self._line + b"--"
        self._parts = _Parts()
        self._parser = MultipartParser(
            boundary.encode("ascii"),
            self._parts.callbacks(),
            max_header_count=MAX_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )
        self._has_begun = False
        # The last bytes before the next chunk; as if a line had ended before the first.
        self._tail = b"\r\n"
        self._lines = 0

    def feed(self, chunk: bytes) -> None:
        if not self._has_begun:
            chunk = chunk.lstrip(b"\r\n")
            self._has_begun = bool(chunk)
        window = self._tail + chunk
        self._check_padding(window)
        was_closed = self._parts.is_closed
        if not was_closed:
            self._write(chunk)
        if self._parts.is_closed:
            _check_epilogue(chunk if was_closed else window.partition(self._closing)[2])
        self._count_lines(window)
        self._tail = window[1 - len(self._closing) :]

    def finish(self) -> tuple[Part, ...]:
        if not self._parts.is_closed:
            raise errors.invalid_form("its closing boundary is missing")
        return tuple(self._parts.complete)

    def _check_padding(self, window: bytes) -> None:
        # RFC 2046 knows it from mail, and the parser takes megabytes of it, slowly; no client of HTTP sends any.
        if self._line + b" " in window or self._line + b"\t" in window:
            raise errors.invalid_form("blanks follow a boundary")

    def _write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            raise errors.invalid_form(self._parts.flaw()) from None

    def _count_lines(self, window: bytes) -> None:
        self._lines += window.count(self._line) - self._tail.count(self._line)
        # One may be ahead of the parser: the closing one, or one whose end has not arrived.
        if self._lines > self._parts.begun + 1:
            raise errors.invalid_form("a line that begins with the boundary does not end as a boundary must")


def _check_epilogue(epilogue: bytes) -> None:
    if epilogue.strip(b" \t\r\n"):
        raise errors.invalid_form("something follows its closing boundary")


@dataclass(frozen=True, slots=True)
class _Head:
    """What a part's headers say. file_name: None where there is none."""

    name: str
    file_name: str | None


class _Parts:
    """The parts as far as they have arrived. Most methods are the parser's callbacks, in the order of their calls."""

    def __init__(self) -> None:
        self.complete: list[Part] = []
        self.begun = 0
        self.is_closed = False
        self._headers: dict[str, str] = {}
        self._header, self._value = bytearray(), bytearray()
        self._head = _Head("", None)
        self._content = BytesIO()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add_content,
            "on_part_end": self._end,
            "on_end": self._close,
        }

    def flaw(self) -> str:
        """Why the parser stopped here."""
        if not self.begun:
            return "it does not begin with the boundary that its Content-Type names"
        limits = f"more than {MAX_HEADERS}, or longer than {MAX_HEADER_BYTES} bytes each"
        return f"the headers of part {self.begun} are malformed, {limits}"

    def _begin(self) -> None:
        self.begun += 1
        if self.begun > MAX_PARTS:
            raise errors.invalid_form(f"it has more than {MAX_PARTS} parts")
        self._headers = {}

    def _end_header(self) -> None:
        header, value = self._header.decode("latin-1").lower(), self._value.decode("latin-1").strip(" \t")
        self._header.clear()
        self._value.clear()
        if header in self._headers:
            raise errors.invalid_form(f"part {self.begun} has the header {errors.quoted(header)} twice")
        if CONTROLS.search(value):
            raise errors.invalid_form(f"the headers of part {self.begun} hold control characters, or end without CRLF")
        self._headers[header] = value

    def _end_headers(self) -> None:
        self._head = _read_head(self._headers, f"part {self.begun}")
        self._content = BytesIO()

    def _add_content(self, data: bytes, start: int, end: int) -> None:
        self._content.write(memoryview(data)[start:end])
        if self._head.file_name is None and self._content.tell() > MAX_TEXT_BYTES:
            message = (
                f"{errors.quoted(self._head.name)} is text of more than {MAX_TEXT_BYTES} bytes; "
                "a file must be sent with a file name."
            )
            raise errors.invalid_parameter(self._head.name, message)

    def _end(self) -> None:
        # Unlike a bytearray, it gives its bytes away without a copy.
        content = self._content.getvalue()
        # An empty file without a name is how browsers send that none was chosen.
        if content or self._head.file_name != "":
            self.complete.append(Part(self._head.name, content, self._head.file_name is not None))

    def _close(self) -> None:
        self.is_closed = True


def _read_head(headers: Mapping[str, str], part: str) -> _Head:
    _check_transfer_encoding(headers, part)
    parameters = _disposition(headers, part)
    name, file_name = parameters.get("name"), parameters.get("filename")
    if name is None:
        raise errors.invalid_form(f"{part} has no name")
    if not NAME.fullmatch(name):
        allowed = f"1 to {MAX_NAME_CHARACTERS} ASCII characters, without quotes and backslashes"
        raise errors.invalid_form(f"the name of {part} is {errors.quoted(name)}; allowed: {allowed}")
    if file_name is None:
        _check_charset(headers, part)
    return _Head(name, file_name)


def _check_transfer_encoding(headers: Mapping[str, str], part: str) -> None:
    encoding = headers.get("content-transfer-encoding", "binary")
    if encoding.lower() not in TRANSFER_ENCODINGS:
        given = f"{part} has the Content-Transfer-Encoding {errors.quoted(encoding)}"
        raise errors.invalid_form(f"{given}; allowed: {', '.join(TRANSFER_ENCODINGS)}")


def _disposition(headers: Mapping[str, str], part: str) -> dict[str, str]:
    value = headers.get("content-disposition")
    if value is None:
        raise errors.invalid_form(f"{part} has no Content-Disposition")
    parameters = _parameters_of(value)
    if parameters is None or value.partition(";")[0].strip().lower() != "form-data":
        raise errors.invalid_form(f"the Content-Disposition of {part} is malformed, or not form-data")
    unknown = sorted(parameters.keys() - {"name", "filename"})
    if unknown:
        given = f"the Content-Disposition of {part} has the parameter {errors.quoted(unknown[0])}"
        raise errors.invalid_form(f"{given}; allowed: name, filename")
    return parameters


def _check_charset(headers: Mapping[str, str], part: str) -> None:
    parameters = _parameters_of(headers.get("content-type", ""))
    if parameters is None:
        raise errors.invalid_form(f"the Content-Type of {part} is malformed")
    charset = parameters.get("charset", "utf-8")
    if charset.lower() not in CHARSETS:
        raise errors.invalid_form(f"{part} has the charset {errors.quoted(charset)}; allowed: utf-8")
