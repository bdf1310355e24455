"""Frames on a byte stream between two of our processes.

Knows bytes and their length; knows no message, no socket and no pipe.
Invariant: a frame is a 4-byte big-endian length and that many bytes of MessagePack.
"""

from __future__ import annotations

import struct
from typing import TypeVar

import msgspec

M = TypeVar("M")
FRAME_HEADER = struct.Struct(">I")
# A picture of 4096 x 4096 in any format stays below; a longer frame means that the stream is out of step.
MAX_FRAME_BYTES = 384 * 1024 * 1024

# What msgspec raises for bytes that are no message: invalid UTF-8 and deep nesting have errors of their own.
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class FramingError(Exception):
    """The byte stream holds something that is no frame of ours."""


def framed(body: bytes) -> bytes:
    """Behind its header."""
    return FRAME_HEADER.pack(len(body)) + body


def frame_length(header: bytes) -> int:
    """The number of bytes that follow a 4-byte header. Raises FramingError when it is beyond MAX_FRAME_BYTES."""
    length: int = FRAME_HEADER.unpack(header)[0]
    if length > MAX_FRAME_BYTES:
        raise FramingError(f"a frame of {length} bytes is longer than {MAX_FRAME_BYTES}")
    return length


def decoded(decoder: msgspec.msgpack.Decoder[M], body: bytes | bytearray) -> M:
    """One message of this decoder's kind. Raises FramingError when the body is none."""
    try:
        return decoder.decode(body)
    except UNDECODABLE as error:
        raise FramingError(f"no message of ours: {type(error).__name__}") from error
