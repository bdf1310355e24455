"""Hostile HTTP: lines, headers, lengths and chunks that parsers read in several ways, and bytes that are no HTTP."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.case import GENERATIONS, JSON, Case, get, head, message

LINE = b"GET /health/live HTTP/1.1\r\n"
POST = b"POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NO_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "SOCKS": b"\x05\x01\x00\r\n\r\n",
    "Redis": b"*1\r\n$4\r\nPING\r\n\r\n",
    "NULs": bytes(1000) + b"\r\n\r\n",
    "100,000 letters": b"X" * 100_000,
    "empty lines, then a request": b"\r\n\r\n\r\n" + LINE + b"Host: x\r\n\r\n",
    "HTTP/0.9": b"GET /health/live\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2.0": b"GET /health/live HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/1.9": b"GET /health/live HTTP/1.9\r\nHost: x\r\n\r\n",
    "HTTP/11": b"GET /health/live HTTP/11\r\nHost: x\r\n\r\n",
    "http/1.1": b"GET /health/live http/1.1\r\nHost: x\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "two spaces": b"GET  /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab": b"GET\t/health/live\tHTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path with a space": b"GET /health/live x HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path beyond ASCII": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a path with NUL": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method with a slash": b"GE/T / HTTP/1.1\r\nHost: x\r\n\r\n",
    "no Host": LINE + b"\r\n",
    "two Hosts": LINE + b"Host: a\r\nHost: b\r\n\r\n",
    "a space before the colon": LINE + b"Host : x\r\n\r\n",
    "no colon": LINE + b"Host: x\r\nbad header\r\n\r\n",
    "no name": LINE + b"Host: x\r\n: y\r\n\r\n",
    "a name with a bracket": LINE + b"Host: x\r\nA[]: y\r\n\r\n",
    "NUL in a header": LINE + b"Host: x\r\nA: b\0c\r\n\r\n",
    "a carriage return in a header": LINE + b"Host: x\rA: b\r\n\r\n",
    "a fold before any header": LINE + b" Host: x\r\n\r\n",
}
LENGTHS = {
    "two that differ": b"Content-Length: 14\r\nContent-Length: 15\r\n\r\n",
    "a list that differs": b"Content-Length: 14, 15\r\n\r\n",
    "-1": b"Content-Length: -1\r\n\r\n",
    "+5": b"Content-Length: +5\r\n\r\n",
    "0x10": b"Content-Length: 0x10\r\n\r\n",
    "1e3": b"Content-Length: 1e3\r\n\r\n",
    "5.0": b"Content-Length: 5.0\r\n\r\n",
    "nothing": b"Content-Length:\r\n\r\n",
    "5,000 digits": b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "full-width digits": "Content-Length: \uff15\r\n\r\n".encode(),
    "beside chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "behind chunks": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "gzip and chunked": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked in two headers": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "xchunked": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": b"Transfer-Encoding: identity\r\n\r\n",
    "chunked with a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
}
CHUNKS = {
    "no number": b"ZZ\r\n",
    "a negative number": b"-5\r\nhello\r\n",
    "0x": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a number of 30 digits": b"F" * 30 + b"\r\n",
    "text behind a chunk": b"2\r\n{}XX0\r\n\r\n",
    "a longer chunk than said": b"1\r\n{}\r\n0\r\n\r\n",
    "a space before the number": b" 2\r\n{}\r\n0\r\n\r\n",
    "an underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
}
# Odd, and as good as any.
LIVE = {
    "HTTP/1.0": b"GET /health/live HTTP/1.0\r\n\r\n",
    "HTTP/1.0 with a body": b"GET /health/live HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
    "a body for GET": LINE + b"Host: x\r\nContent-Length: 5\r\n\r\nhello",
    "no Host's name": LINE + b"Host:\r\n\r\n",
    "a strange Host": LINE + b"Host: a b\\c@d:99999999\r\n\r\n",
    "lines end with LF": b"GET /health/live HTTP/1.1\nHost: x\n\n",
    "a folded header": LINE + b"Host: x\r\nA: b\r\n c\r\n\r\n",
    "5,000 headers": LINE + b"Host: x\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(5000)) + b"\r\n",
    "a header of 60 KB": LINE + b"Host: x\r\nA: " + b"y" * 60_000 + b"\r\n\r\n",
    "cookies of 30 KB": LINE + b"Host: x\r\nCookie: " + b"a=b; " * 6000 + b"\r\n\r\n",
    "cookies that are none": LINE + b'Host: x\r\nCookie: =; ;;,"\xff\\"; $Version=1; a\r\n\r\n',
    "bytes beyond ASCII": LINE + b"Host: x\r\nA: \xff\xfe\x80\r\n\r\n",
    "WebSocket": LINE + b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n",
    "HTTP/2 in clear": LINE
    + b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n",
    "X-HTTP-Method-Override": LINE + b"Host: x\r\nX-HTTP-Method-Override: DELETE\r\n\r\n",
    "who says where it came from": LINE
    + b"Host: x\r\nX-Forwarded-For: 127.0.0.1\r\nForwarded: for=_x;proto=https\r\n\r\n",
    "a query": b"GET /health/live?a=%ff&&&=;;%00&a HTTP/1.1\r\nHost: x\r\n\r\n",
    "another server's key": LINE + b"Host: x\r\nAuthorization: Bearer \xff\r\nAuthorization: Basic Og==\r\n\r\n",
    "Range": LINE + b"Host: x\r\nRange: bytes=" + b"0-1," * 10_000 + b"0-1\r\n\r\n",
    "Expect": LINE + b"Host: x\r\nExpect: 200-maybe\r\n\r\n",
    "Accept": LINE + b"Host: x\r\nAccept: " + b"*/*;q=" + b"9" * 10_000 + b"\r\n\r\n",
    "three at once": (LINE + b"Host: x\r\n\r\n") * 3,
}


def cases() -> Iterator[Case]:
    for name, sent in NO_HTTP.items():
        yield Case("HTTP", name, sent, 400, "invalid_http")
    for name, end in LENGTHS.items():
        yield Case("HTTP", f"length: {name}", POST + end, 400, "invalid_http")
    for name, end in CHUNKS.items():
        yield Case("HTTP", f"chunks: {name}", CHUNKED + end, 400, "invalid_http")
    for name, sent in LIVE.items():
        yield Case("odd and right", name, sent, 200)
    yield Case(
        "HTTP", "an answered body that ends in garbage", unwanted(), 415, "unsupported_media_type", then=b"ZZ\r\n"
    )
    yield Case("HTTP", "garbage behind a request", LINE + b"Host: x\r\n\r\n\0\1\r\n\r\n", 200)
    yield from _ends()


def unwanted() -> bytes:
    return head("POST", GENERATIONS, {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"})


def _ends() -> Iterator[Case]:
    """Clients that stop in the midst of a request."""
    whole = message(b'{"prompt": "a", "response_format": "b64_json"}')
    for at in (1, 10, 60, len(whole) - 1):
        yield Case("HTTP", f"the client ends after {at} bytes", whole[:at], None, ends_early=True)
    yield Case("HTTP", "the client ends in a chunk", CHUNKED + b"FF\r\n{", None, ends_early=True)
    yield Case("HTTP", "the client ends before a chunk", CHUNKED, None, ends_early=True)
    yield Case(
        "HTTP",
        "chunks: trailers",
        CHUNKED + b"2\r\n{}\r\n0\r\nA: b\r\n\r\n",
        400,
        "missing_required_parameter",
        "prompt",
    )
    expecting = head(
        "POST", GENERATIONS, {"Content-Type": JSON, "Content-Length": "99999999", "Expect": "100-continue"}
    )
    yield Case("HTTP", "too much is asked for first", expecting, 413, "request_too_large")
    old = b"POST /v1/images/generations HTTP/1.0\r\nContent-Type: application/json\r\n\r\n"
    yield Case("HTTP", "HTTP/1.0 without a length", old, 400, "invalid_json")
    yield Case("HTTP", "HEAD for a picture's route", get(GENERATIONS, "HEAD"), 405)
