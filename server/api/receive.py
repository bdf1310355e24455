"""Receives a body, bounded in bytes and time; and a JSON body: bounded in depth, UTF-8 only, no key twice.

Knows bytes and JSON; knows no parameters.
Invariant: nothing larger than the cap is ever held, and what comes out holds only what its sender wrote once.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import re
from collections.abc import AsyncIterator, Container
from io import BytesIO
from typing import Any

from starlette.requests import ClientDisconnect, Request

from server.api.long_texts import Body, lift
from server.core import errors

MAX_DEPTH = 32
# Integers of more digits are out of every range here; they are cut, so that their parameter is named, not the parser.
MAX_INTEGER_DIGITS = 25
# Bodies beyond this are parsed in a thread, for the event loop's sake.
PARSE_INLINE_BYTES = 64 * 1024
# Possessive: a string that never ends must not be tried again from each of its quotes.
STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
# More digits than any length has; int() refuses to read thousands of them.
MAX_LENGTH_DIGITS = 19


async def receive_json_object(
    request: Request, max_bytes: int, timeout_seconds: float, left: Container[str] = ()
) -> dict[str, Any]:
    """The body as an object. left: below these keys, long texts come as LongText. Raises SafelightError: 400, 408, 413
    or 415."""
    check_media_type(request, "application/json")
    check_encoding(request)
    body = await _receive(request, max_bytes, timeout_seconds)
    if len(body) <= PARSE_INLINE_BYTES:
        return parse_object(body)
    return await asyncio.to_thread(parse_object, body, left)


def media_type_of(request: Request) -> str:
    """What the body says it is, without parameters; empty when it says nothing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def check_media_type(request: Request, expected: str) -> None:
    """Refuses another one with 415."""
    media_type = media_type_of(request)
    if media_type != expected:
        given = f"not {errors.quoted(media_type)}" if media_type else "but the header is missing"
        raise errors.unsupported_media_type(f"The Content-Type must be {expected}, {given}.")


def check_encoding(request: Request) -> None:
    """Refuses a compressed body with 415."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise errors.unsupported_media_type(
            f"Content-Encoding {errors.quoted(encoding)} is not supported; send it plain."
        )


async def _receive(request: Request, max_bytes: int, timeout_seconds: float) -> Body:
    _check_declared_length(request, max_bytes)
    chunks = bounded_chunks(request, max_bytes, timeout_seconds)
    try:
        declared_bytes = _declared_bytes(request)
        return await (_filled(chunks, declared_bytes) if declared_bytes > PARSE_INLINE_BYTES else _gathered(chunks))
    except ClientDisconnect:
        raise errors.invalid_json("it ended early") from None


async def _gathered(chunks: AsyncIterator[bytes]) -> Body:
    body = BytesIO()
    async for chunk in chunks:
        body.write(chunk)
    return body.getvalue()


async def _filled(chunks: AsyncIterator[bytes], declared_bytes: int) -> Body:
    """In memory that is there only as far as it is written, and never moves: growing means copying, again and again."""
    body, received_bytes = mmap.mmap(-1, declared_bytes), 0
    async for chunk in chunks:
        if received_bytes + len(chunk) > declared_bytes:
            raise errors.invalid_json("it is longer than its Content-Length")
        body[received_bytes : received_bytes + len(chunk)] = chunk
        received_bytes += len(chunk)
    if received_bytes < declared_bytes:
        raise errors.invalid_json("it ended early")
    return body


async def bounded_chunks(request: Request, max_bytes: int, timeout_seconds: float) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises SafelightError, 408 or 413, and ClientDisconnect when its sender leaves."""
    _check_declared_length(request, max_bytes)
    chunks = request.stream()
    # One deadline for the whole, armed only while waiting: a reader that stops early leaves no timer behind.
    deadline = asyncio.get_running_loop().time() + timeout_seconds
    received_bytes = 0
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(chunks, None)
        except TimeoutError:
            raise errors.receive_timeout(timeout_seconds) from None
        if chunk is None:
            return
        received_bytes += len(chunk)
        if received_bytes > max_bytes:
            raise errors.body_too_large(max_bytes)
        yield chunk


def _check_declared_length(request: Request, max_bytes: int) -> None:
    if _declared_bytes(request) > max_bytes:
        raise errors.body_too_large(max_bytes)


def _declared_bytes(request: Request) -> int:
    """0 where nothing, or no number, is declared."""
    declared = request.headers.get("content-length", "0").lstrip("0") or "0"
    if not (declared.isascii() and declared.isdecimal()):
        return 0
    return int(declared[: MAX_LENGTH_DIGITS + 1])


def parse_object(body: Body, left: Container[str] = ()) -> dict[str, Any]:
    """Strict JSON that is one object. Raises SafelightError."""
    value = parse_value(body, left)
    if not isinstance(value, dict):
        raise errors.invalid_json("it must be an object")
    return value


def parse_value(body: Body, left: Container[str] = ()) -> Any:
    """Strict JSON. NaN and the infinities come out as floats, so that the check of their parameter can name it. left:
    below these keys, long texts come as LongText."""
    lifted = lift(body)
    _check_depth(lifted.skeleton)
    try:
        text = lifted.skeleton.decode("utf-8")
    except UnicodeDecodeError:
        raise errors.invalid_json("it is not UTF-8") from None
    if not text.strip(" \t\r\n"):
        raise errors.invalid_json("it is empty")
    try:
        value = json.loads(text, object_pairs_hook=_object_of_distinct_keys, parse_int=_bounded_int)
    except json.JSONDecodeError as error:
        column = error.colno + lifted.characters_before(text, error.pos)
        raise errors.invalid_json(f"line {error.lineno}, column {column}") from None
    return lifted.restored(value, left) if lifted.texts else value


def _check_depth(body: bytes) -> None:
    depth = 0
    for bracket in re.finditer(rb"[\[\]{}]", STRINGS.sub(b"", body)):
        depth += 1 if bracket[0] in b"[{" else -1
        if depth > MAX_DEPTH:
            raise errors.invalid_json(f"it is nested deeper than {MAX_DEPTH} levels")


def _object_of_distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        doubled = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise errors.invalid_json(f"the key {errors.quoted(doubled)} stands there twice")
    return value


def _bounded_int(digits: str) -> int:
    return int(digits[: MAX_INTEGER_DIGITS + 1])
