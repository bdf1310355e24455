"""Hostile pictures: files that are none, are others than they say, are broken, or are far more than they seem."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import cache

from PIL import Image

from tests.hostile.case import INVALID, Case, asking
from tests.server.picture_files import (
    BLACK,
    RED,
    WHITE,
    animation,
    bomb,
    chunk,
    file_of,
    halves,
    plain,
    png,
    slow_jpeg,
    text_of,
)

SIZE = (64, 64)
SMALL = file_of(plain("RGB", SIZE, RED))
JPEG = file_of(halves(SIZE, RED, BLACK), "JPEG")
WEBP = file_of(halves(SIZE, RED, BLACK), "WEBP")
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def header(width: int, height: int, depth: int = 8, kind: int = 2, rest: bytes = b"\0\0\0") -> bytes:
    return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBB", width, height, depth, kind) + rest)


@cache
def refused() -> dict[str, bytes]:
    """Files that are refused, whoever opens them."""
    return {
        "one byte": b"x",
        "text": b"this is no picture" * 10,
        "NULs": bytes(10_000),
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><image href="file:///etc/passwd"/></svg>',
        "an SVG behind a PNG's signature": SIGNATURE + b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "GIF": file_of(plain("P", SIZE, 1), "GIF"),
        "BMP": file_of(plain("RGB", SIZE, RED), "BMP"),
        "TIFF": file_of(plain("RGB", SIZE, RED), "TIFF"),
        "ICO": file_of(plain("RGB", SIZE, RED), "ICO"),
        "PPM": file_of(plain("RGB", SIZE, RED), "PPM"),
        "PDF": file_of(plain("RGB", SIZE, RED), "PDF"),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) (r) file\n",
        "a page": b"<html><img src=x onerror=alert(1)></html>",
        "a zip file": b"PK\x03\x04" + bytes(100),
        "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "an ELF file": b"\x7fELF" + bytes(200),
        "a signature alone": SIGNATURE,
        "a header alone": header(64, 64),
        "50,000 x 50,000": header(50_000, 50_000) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""),
        "2**31 - 1 square": header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        "0 x 0": header(0, 0) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        "0 x 64": header(0, 64) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""),
        "a bomb of PNG": bomb("PNG", 9000),
        "a bomb of JPEG": bomb("JPEG", 60_000),
        "a bomb of WebP": bomb("WEBP", 16_000),
        "a depth of 3": header(64, 64, depth=3) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        "a colour kind of 5": header(64, 64, kind=5) + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        "a compression of 9": header(64, 64, rest=b"\x09\0\0") + chunk(b"IDAT", b"") + chunk(b"IEND", b""),
        "no pixels": header(64, 64) + chunk(b"IEND", b""),
        "pixels that are no zlib": header(64, 64) + chunk(b"IDAT", b"garbage") + chunk(b"IEND", b""),
        "pixels that end early": header(64, 64) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""),
        "a bad checksum": SMALL[:-20] + bytes(4) + SMALL[-16:],
        "a chunk of 2**31 bytes": header(64, 64) + struct.pack(">I", 2**31) + b"IDAT" + b"x" * 100,
        "a palette that is missing": header(64, 64, kind=3)
        + chunk(b"IDAT", zlib.compress(bytes(65 * 64)))
        + chunk(b"IEND", b""),
        "an animated PNG": animation("PNG"),
        "an animated WebP": animation("WEBP"),
        "1,000 frames": animation("WEBP", 200),
        "a JPEG of its first bytes": JPEG[:40],
        "a JPEG of headers alone": b"\xff\xd8\xff\xd9",
        "a JPEG whose tables are missing": b"\xff\xd8" + JPEG[JPEG.index(b"\xff\xc0") :],
        "a WebP that ends early": WEBP[: len(WEBP) // 2],
        "a RIFF that is sound": b"RIFF\x24\0\0\0WAVEfmt " + bytes(28),
        "a WebP of another length": WEBP[:4] + struct.pack("<I", 2**32 - 1) + WEBP[8:40],
        "2 x 2 pixels": file_of(plain("RGB", (2, 2), RED)),
        "one row": file_of(plain("RGB", (4096, 1), RED)),
    } | {f"PNG: the first {at} bytes": SMALL[:at] for at in (12, 20, 33, 50, len(SMALL) - 30)}


@cache
def served() -> dict[str, bytes]:
    """Files that a viewer shows, and so they are drawn from."""
    rotated = Image.new("RGB", (96, 64), RED)
    exif = rotated.getexif()
    exif[0x0112] = 6
    return {
        "CMYK": file_of(plain("CMYK", SIZE, (0, 255, 255, 0)), "JPEG"),
        "16 bits": png(SIZE, 16, 2, [b"\xff\xff\0\0\0\0" * 64] * 64),
        "16 bits of grey": png(SIZE, 16, 0, [b"\x80\0" * 64] * 64),
        "1 bit": png(SIZE, 1, 0, [b"\xaa" * 8] * 64),
        "a palette with transparency": file_of(plain("P", SIZE, 1), transparency=0),
        "grey with alpha": file_of(plain("LA", SIZE, (128, 128))),
        "all transparent": file_of(plain("RGBA", SIZE, (255, 0, 0, 0))),
        "turned by EXIF": file_of(rotated, "JPEG", exif=exif),
        "EXIF that is none": file_of(
            plain("RGB", SIZE, RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(40)
        ),
        "progressive": file_of(halves(SIZE, RED, BLACK), "JPEG", progressive=True),
        "a text of a megabyte": _with_text(),
        "a profile that is none": file_of(plain("RGB", SIZE, RED), icc_profile=b"no profile" * 100),
        "lossless WebP": file_of(halves(SIZE, RED, BLACK), "WEBP", lossless=True),
        "something behind its end": SMALL + b"trailing" * 1000,
        "a shape of 1 to 4": file_of(plain("RGB", (64, 256), RED)),
    }


def _with_text() -> bytes:
    """A compressed chunk that is a megabyte when unpacked."""
    bomb_chunk = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 1_000_000))
    return SMALL[:33] + bomb_chunk + SMALL[33:]


def masks() -> dict[str, bytes]:
    """Masks that do not suit a picture of 64 x 64."""
    return {
        "of another size": file_of(plain("L", (32, 32), 255)),
        "on its side": file_of(plain("L", (64, 128), 255)),
        "that is no picture": b"no picture",
        "that ends early": SMALL[:40],
        "in which nothing is to change": file_of(plain("L", SIZE, 0)),
        "in which nothing is transparent enough": file_of(plain("RGB", SIZE, BLACK)),
        "that is a bomb": bomb("PNG", 9000),
        "that is animated": animation("WEBP"),
        "GIF": file_of(plain("P", SIZE, 1), "GIF"),
    }


def cases() -> Iterator[Case]:
    for name, file in refused().items():
        yield Case("pictures", name, asking(image=text_of(file)), 400, INVALID, "image")
    for name, file in served().items():
        sent = asking(image=text_of(file), strength=1.0, size="64x64", response_format="b64_json")
        yield Case("pictures", f"{name}: drawn", sent, 200, pictures=1)
    slow = asking(image=text_of(slow_jpeg(100_000)), strength=1.0)
    yield Case("pictures", "a JPEG of 100,000 scans", slow, 400, INVALID, "image", is_long=True)
    for name, file in masks().items():
        sent = asking(image=text_of(SMALL), mask=text_of(file))
        yield Case("masks", name, sent, 400, INVALID, "mask")
    white = text_of(file_of(plain("RGB", SIZE, WHITE), "JPEG"))
    right = asking(image=text_of(SMALL), mask=white, strength=1.0, response_format="b64_json")
    yield Case("masks", "a white JPEG without alpha", right, 200, pictures=1)
    hint = asking(control_image=text_of(SMALL), control="canny")
    yield Case("pictures", "a hint for a model that takes none", hint, 400, INVALID, "control")
