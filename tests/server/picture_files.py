"""Picture files for tests, made by hand or by Pillow: good ones, and those that break a careless reader."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from PIL import Image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
Colour = tuple[int, ...]


def plain(mode: str, size: tuple[int, int], colour: Any) -> Image.Image:
    return Image.new(mode, size, colour)


def halves(size: tuple[int, int], left: Colour, right: Colour, mode: str = "RGB") -> Image.Image:
    """Two colours side by side."""
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(size: tuple[int, int], depth: int, kind: int, rows: Sequence[bytes], *chunks: bytes) -> bytes:
    """A PNG of any depth and colour kind (0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA)."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def animation(kind: str, frames: int = 2) -> bytes:
    pictures = [plain("RGB", (32, 32), (40 * index, 0, 0)) for index in range(frames)]
    return file_of(pictures[0], kind, save_all=True, append_images=pictures[1:])


def bomb(kind: str, side: int) -> bytes:
    """A small file that declares `side` x `side` pixels and holds next to none of them."""
    if kind == "PNG":
        return png((side, side), 8, 2, [b"\0" * 16])
    if kind == "WEBP":
        canvas = struct.pack("<I", side - 1)[:3] * 2
        body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
        return b"RIFF" + struct.pack("<I", len(body)) + body
    good = bytearray(file_of(plain("RGB", (16, 16), RED), "JPEG"))
    place = good.index(b"\xff\xc0")
    good[place + 5 : place + 9] = struct.pack(">HH", side, side)
    return bytes(good)


def slow_jpeg(scans: int) -> bytes:
    """A progressive JPEG whose first scan stands there many times: each draws the whole picture again."""
    good = file_of(plain("RGB", (64, 64), RED), "JPEG", progressive=True)
    begin = good.index(b"\xff\xda")
    end = good.index(b"\xff", begin + 2)
    while good[end + 1] == 0:
        end = good.index(b"\xff", end + 2)
    return good[:begin] + good[begin:end] * scans + good[end:]
