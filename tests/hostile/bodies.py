"""Hostile bodies: what is no JSON, nearly JSON, JSON in another coat, too much, too deep, or not there."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator

from tests.hostile.case import EDITS, GENERATIONS, JSON, VARIATIONS, Case, head, message, shown

GOOD = b'{"prompt": "a", "response_format": "b64_json"}'
CAP_BYTES = 50 * 1024 * 1024
NO_JSON = {
    "empty": b"",
    "white space": b" \r\n\t ",
    "truncated": b'{"prompt": "a',
    "truncated after a backslash": b'{"prompt": "a\\',
    "trailing garbage": b'{"prompt": "a"} x',
    "two documents": b'{"prompt": "a"}{"prompt": "b"}',
    "lines of documents": b'{"prompt": "a"}\n{"prompt": "b"}\n',
    "a trailing comma": b'{"prompt": "a",}',
    "single quotes": b"{'prompt': 'a'}",
    "no quotes": b"{prompt: 1}",
    "comments": b'{"prompt": "a" /* b */}',
    "a comment at the end": b'{"prompt": "a"} // b',
    "a doubled key": b'{"prompt": "a", "n": 1, "n": 1}',
    "a doubled key, once escaped": b'{"prompt": "a", "n": 1, "\\u006e": 1}',
    "a doubled key within": b'{"prompt": "a", "loras": [{"name": "a", "name": "b"}]}',
    "33 levels": b'{"prompt": ' + b"[" * 33 + b"]" * 33 + b"}",
    "200,000 levels": b"[" * 200_000,
    "200,000 objects in one another": b'{"a":' * 200_000,
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"prompt": "a"}'.encode("utf-16-le"),
    "UTF-32": '{"prompt": "a"}'.encode("utf-32"),
    "UTF-8 with a byte order mark": b'\xef\xbb\xbf{"prompt": "a"}',
    "UTF-7": b'+AHs-"prompt": "a"}',
    "invalid UTF-8": b'{"prompt": "\xff"}',
    "an overlong encoding": b'{"prompt": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"prompt": "\xed\xa0\x80"}',
    "half a character": b'{"prompt": "\xe2\x82"}',
    "a control character in a text": b'{"prompt": "a\x01b"}',
    "a line's end in a text": b'{"prompt": "a\nb"}',
    "NUL behind it": b'{"prompt": "a"}\0',
    "an unknown escape": b'{"prompt": "\\x41"}',
    "a short escape": b'{"prompt": "\\u12"}',
    "a number with a leading zero": b'{"prompt": "a", "n": 01}',
    "a number with a plus": b'{"prompt": "a", "n": +1}',
    "a number with a point at its end": b'{"prompt": "a", "n": 1.}',
    "hexadecimal": b'{"prompt": "a", "n": 0x1}',
    "undefined": b'{"prompt": "a", "n": undefined}',
    "True": b'{"prompt": "a", "stream": True}',
    "an array": b"[]",
    "an array of an object": b'[{"prompt": "a"}]',
    "a text": b'"prompt"',
    "a number": b"7",
    "null": b"null",
    "true": b"true",
    "NaN alone": b"NaN",
    "YAML": b"prompt: a\n",
    "a form": b"prompt=a&n=1",
    "XML": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
    "MessagePack": b"\x81\xa6prompt\xa1a",
    "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.",
}
MEDIA_TYPES = (
    *("text/plain", "", "multipart/form-data", "application/x-www-form-urlencoded", "text/json", "application/xml"),
    *("application/jsonp", "application/json/x", "application / json", "json", "application/ld+json", ";", ",", "*/*"),
    *("application/octet-stream", "multipart/mixed; boundary=x", "application/json, text/plain", "\xff\xfe"),
)
ENCODINGS = ("gzip", "deflate", "br", "zstd", "gzip, identity", "identity, gzip", "x", "\xff")


def cases() -> Iterator[Case]:
    for name, body in NO_JSON.items():
        yield Case("JSON", name, message(body), 400, "invalid_json")
    for path in (EDITS, VARIATIONS):
        yield Case("JSON", f"truncated, for {path}", message(b'{"image": "', path), 400, "invalid_json")
    yield from _of_media_types()
    yield from _of_sizes()
    yield from _served()


def _of_media_types() -> Iterator[Case]:
    refused = (415, "unsupported_media_type")
    for kind in MEDIA_TYPES:
        yield Case("media types", f"'{shown(kind)}'", message(GOOD, media_type=kind), *refused)
    yield Case("media types", "none", message(GOOD, media_type=None), *refused)
    for encoding in ENCODINGS:
        body = {"gzip": gzip.compress(GOOD), "deflate": zlib.compress(GOOD)}.get(encoding, GOOD)
        yield Case(
            "media types", f"Content-Encoding {shown(encoding)}", message(body, Content_Encoding=encoding), *refused
        )
    bomb = gzip.compress(b" " * 50_000_000)
    yield Case("media types", "a bomb in gzip", message(bomb, Content_Encoding="gzip"), *refused)


def _of_sizes() -> Iterator[Case]:
    too_large = (413, "request_too_large")
    for length in (CAP_BYTES + 1, 10**10, 10**18, 10**19 - 1):
        sent = head("POST", GENERATIONS, {"Content-Type": JSON, "Content-Length": str(length)}) + b"{"
        yield Case("lengths", f"{length} bytes declared", sent, *too_large)
    yield Case("lengths", "51 MB in chunks", in_chunks, *too_large, is_long=True)
    yield Case("lengths", "51 MB in chunks, for an edit", edit_in_chunks, *too_large, is_long=True)
    yield Case("lengths", "nested, with 50 MB", deep, 400, "invalid_json", is_long=True)
    yield Case("lengths", "100 MB of base64", base64_of_100_mb, *too_large, is_long=True)
    yield Case("lengths", "a million numbers", lambda: message(many_numbers()), 400, "unknown_parameter", "a")


def in_chunks(path: str = GENERATIONS) -> bytes:
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    return head("POST", path, {"Content-Type": JSON, "Transfer-Encoding": "chunked"}) + piece * 51 + b"0\r\n\r\n"


def edit_in_chunks() -> bytes:
    return in_chunks(EDITS)


def deep() -> bytes:
    return message(b"[" * (CAP_BYTES - 1))


def base64_of_100_mb() -> bytes:
    return message(b'{"prompt": "a", "image": "' + b"A" * (100 * 1024 * 1024) + b'"}')


def many_numbers() -> bytes:
    return json.dumps({"prompt": "a", "a": list(range(1_000_000))}).encode()


def _served() -> Iterator[Case]:
    """What looks odd and is right."""
    served = {
        "a charset": message(GOOD, media_type="application/json; charset=utf-8"),
        "another case": message(GOOD, media_type="Application/JSON"),
        "white space around": message(b" \r\n" + GOOD + b"\t "),
        "escapes": message(rb'{"\u0070rompt": "\u0061\ud83d\ude00", "response_format": "b64_json"}'),
        "identity": message(GOOD, Content_Encoding="Identity"),
        "null for what is not given": message(
            b'{"prompt": "a", "n": null, "size": null, "response_format": "b64_json"}'
        ),
        "chunks of one byte": head("POST", GENERATIONS, {"Content-Type": JSON, "Transfer-Encoding": "chunked"})
        + b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD)
        + b"0\r\n\r\n",
    }
    for name, sent in served.items():
        yield Case("odd and right", name, sent, 200, pictures=1)
