"""JSON with texts of many megabytes in it, read and written in small portions, so that the event loop has its turns.

Knows JSON's strings and base64; knows no parameters.
Invariant: what comes out is what `json` alone would have made; no single call of C code, which holds Python's lock for
as long as it runs, handles more than PORTION_BYTES of a long text, but for where SEARCH_BYTES are searched; and what a
thread reads, it reads with pauses.
"""

from __future__ import annotations

import asyncio
import base64
import json
import mmap
import secrets
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from server.core.long_text import LongText

PORTION_BYTES = 48 * 1024  # a multiple of 3 and of 4
# Shorter texts are left where they are.
LONG_BYTES = 2 * PORTION_BYTES
# A search goes through so much in less than a tenth of a millisecond.
SEARCH_BYTES = 1024 * 1024
# Between two portions a thread sleeps. Who waits for Python's lock may ask for it only after 5 ms; and a thread that
# never sleeps uses up its turn on a busy core, loses the core with the lock in its hands, and all others wait with it.
PAUSE_SECONDS = 50e-6
# What needs no escape and no look at UTF-8, and what base64 and data URLs are made of.
PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=:;,._-"
BEFORE_VALUE, AFTER_VALUE, AFTER_TEXT = b":[,", b",]}", b":,]}"
Body = bytes | bytearray | mmap.mmap
SPACES = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Lifted:
    """JSON without its long plain texts: in their places stand short marks. texts: by their marks."""

    skeleton: bytes
    texts: dict[str, LongText]

    def restored(self, value: Any, left: Container[str] = (), *, is_left: bool = False) -> Any:
        """What was parsed of the skeleton, with the texts in their places: left as they are below these keys, else as
        str."""
        if isinstance(value, str):
            text = self.texts.get(value)
            return value if text is None else text if is_left else str(text)
        if isinstance(value, list):
            return [self.restored(one, left, is_left=is_left) for one in value]
        if isinstance(value, dict):
            return {key: self.restored(one, left, is_left=is_left or key in left) for key, one in value.items()}
        return value

    def characters_before(self, text: str, position: int) -> int:
        """How many more characters of the same line stood before this position of the skeleton's text."""
        line = text[text.rfind("\n", 0, position) + 1 : position]
        return sum(len(long) - len(mark) for mark, long in self.texts.items() if mark in line)


def lift(body: Body) -> Lifted:
    """Take the long plain texts out of what may be JSON. Only whole values of it are taken. Call it in a thread."""
    marks = secrets.token_hex(8)
    parts, texts, end = list[bytes](), dict[str, LongText](), 0
    view = memoryview(body)
    for first, last in _runs(body):
        if not _is_value(body, first, last) or not _is_plain(view, first, last):
            continue
        mark = f"{marks}-{len(texts)}"
        texts[mark] = LongText(view[first:last])
        parts += [bytes(view[end:first]), mark.encode()]
        end = last
    parts.append(bytes(view[end:]))
    return Lifted(b"".join(parts), texts)


def _runs(body: Body) -> Iterator[tuple[int, int]]:
    """Where there are long runs without a quote between two quotes."""
    probe = PORTION_BYTES
    while probe < len(body):
        first = body.rfind(b'"', probe - PORTION_BYTES, probe) + 1
        last = _next_quote(body, probe)
        if last < 0:
            return
        if first and last - first >= LONG_BYTES:
            yield first, last
        probe = max(probe, last - last % PORTION_BYTES) + PORTION_BYTES


def _next_quote(body: Body, probe: int) -> int:
    found = (body.find(b'"', place, place + SEARCH_BYTES) for place in _in_turns(probe, len(body), SEARCH_BYTES))
    return next((place for place in found if place >= 0), -1)


def _is_value(body: Body, first: int, last: int) -> bool:
    """Whether the quotes around stand where those of a value do. A quote within a text has a backslash before it, and
    one that ends a text is followed by a space or by one of AFTER_TEXT."""
    if body[first] in AFTER_TEXT:
        return False
    before = next((body[place] for place in range(first - 2, max(-1, first - 66), -1) if body[place] not in SPACES), 0)
    after = next((body[place] for place in range(last + 1, min(len(body), last + 65)) if body[place] not in SPACES), 0)
    return before in BEFORE_VALUE and after in AFTER_VALUE


def _is_plain(view: memoryview, first: int, last: int) -> bool:
    portions = (bytes(view[place : min(last, place + PORTION_BYTES)]) for place in _in_turns(first, last))
    return not any(portion.translate(None, PLAIN) for portion in portions)


def _portions(first: int, last: int) -> range:
    return range(first, last, PORTION_BYTES)


def _in_turns(first: int, last: int, portion_bytes: int = PORTION_BYTES) -> Iterator[int]:
    """Where the portions begin, for a thread: the event loop has its turns between them."""
    for place in range(first, last, portion_bytes):
        if place > first:
            time.sleep(PAUSE_SECONDS)
        yield place


async def in_base64(content: bytes) -> str:
    """As text; other tasks have their turns meanwhile."""
    if len(content) <= PORTION_BYTES:
        return base64.b64encode(content).decode("ascii")
    parts = []
    for place in _portions(0, len(content)):
        parts.append(base64.b64encode(content[place : place + PORTION_BYTES]).decode("ascii"))
        await asyncio.sleep(0)
    return "".join(parts)


def from_base64(text: str | LongText, first: int = 0) -> bytes:
    """Strictly, of the standard alphabet, from a place on. Raises ValueError. Python's own strict mode overlooks
    padding at the end that is too long. Call it in a thread."""
    if (len(text) - first) % 4 or text[max(first, len(text) - 3) :] == "===":
        raise ValueError("padding")
    # Grows where it is, and gives its bytes away without a copy.
    content = BytesIO()
    for place in _in_turns(first, len(text)):
        portion = text[place : place + PORTION_BYTES]
        if "=" in portion and place + PORTION_BYTES < len(text):
            raise ValueError("padding")
        content.write(base64.b64decode(portion, validate=True))
    return content.getvalue()


async def as_json(value: Any, *, ensure_ascii: bool = False) -> bytes:
    """Without spaces; other tasks have their turns meanwhile. What stands under `b64_json` must be base64."""
    mark, texts = secrets.token_hex(8), list[str]()
    lowered = _lowered(value, mark, texts)
    skeleton = json.dumps(lowered, ensure_ascii=ensure_ascii, allow_nan=False, separators=(",", ":"))
    first, *parts = skeleton.split(mark)
    encoded = [first.encode()]
    for text, part in zip(texts, parts, strict=True):
        for place in _portions(0, len(text)):
            encoded.append(text[place : place + PORTION_BYTES].encode())
            await asyncio.sleep(0)
        encoded.append(part.encode())
    return b"".join(encoded)


def _lowered(value: Any, mark: str, texts: list[str]) -> Any:
    """The same with the mark in the place of each picture, which is put to the texts."""
    if isinstance(value, dict):
        return {key: _marked(key, one, mark, texts) for key, one in value.items()}
    return [_lowered(one, mark, texts) for one in value] if isinstance(value, list) else value


def _marked(key: str, value: Any, mark: str, texts: list[str]) -> Any:
    if key != "b64_json" or len(value) <= LONG_BYTES:
        return _lowered(value, mark, texts)
    texts.append(value)
    return mark
