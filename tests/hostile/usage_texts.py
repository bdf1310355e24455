"""Hostile questions to the books: rows, sums and costs asked for with what no date, number, filter or cursor is.

Knows the parameters as docs/usage.md states them, and how a cursor is sealed, as who reads the source does; asks no
code what it takes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from server.api.cursor import cursor_of
from tests.hostile.case import INVALID, Case, get, message, shown

ROWS, SUMMARY = "/v1/usage", "/v1/usage/summary"
IMAGES, COSTS = "/v1/organization/usage/images", "/v1/organization/costs"
SUMS = (SUMMARY, IMAGES, COSTS)
# Nothing was drawn then, so that the answers do not hang on what others drew.
NEVER = 253_402_300_799
MISSING = "missing_required_parameter"
NO_SECONDS = (
    *(
        "",
        "-1",
        "%2B1",
        "+1",
        "1.0",
        "1e9",
        "0x10",
        "0b1",
        "1_000",
        "%EF%BC%91",
        "%D9%A1",
        "%C2%B2",
        "1%20",
        "%201",
        "1,2",
    ),
    *("now", "yesterday", "2026-11-01", "2026-11-01T00:00:00Z", "NaN", "Infinity", "null", "true", "None", "%5B1%5D"),
    *(str(NEVER + 1), "1" + "0" * 18, "9" * 5000, "1%00", "%001", "1%0A", "1;2", "'1'", "%FF", "1%27%20OR%201=1--"),
)
NO_LIMITS = ("", "0", "-1", "%2B5", "1.0", "1e2", "ten", "%EF%BC%95", "5%0A", "%005", "0x5", "9" * 30, "null", "5,6")
NO_CURSORS = (
    *(
        "",
        "x",
        "AAAA",
        "0",
        "null",
        "None",
        "%00",
        "%C3%A9",
        "%FF",
        "..%2F..%2Fetc%2Fpasswd",
        "=",
        "%3D%3D%3D%3D",
        "A" * 31,
    ),
    *("A" * 32, "_" * 32, "-" * 32, "A" * 33, "A" * 210, "A" * 211, "A" * 10_000, "1%20OR%201=1", "%7B%22id%22:1%7D"),
)
NO_WIDTHS = (
    "",
    "1D",
    "1d%20",
    "%201d",
    "2d",
    "1w",
    "1M",
    "24h",
    "86400",
    "60",
    "1d,1h",
    "%5B%221d%22%5D",
    "1%C7%B0",
    "null",
)
NO_GROUPS = (
    *("", "x", "Model", "model,size", "key_id", "__class__", "model%20", "%00", "%27%3B%20DROP%20TABLE%20x--", "*"),
    *("requested_model", "operation", "%EF%BD%8Dodel", "a" * 10_000, "model;size", "cost"),
)
# Of a list of names: what is nobody's.
NO_NAMES = ("", "%00", "a%00b", "a%0Ab", "%7F", "%1B[31m", "x" * 211, "x" * 10_000, "%FF", "%C3", "%ED%A0%80", "a%FFb")
NO_WORDS = {
    "outcomes": ("", "SUCCEEDED", "ok", "succeeded,failed", "null", "%00", "open%20"),
    "sources": ("", "generation", "image.", "image.generations", "image.__class__", "%00"),
    "sizes": ("", "512", "x", "512x", "512X512", "%EF%BC%95x5", "-1x1", "100000x1", "1x1x1", "1x1%0A", "auto"),
    "format": ("", "CSV", "xml", "json,csv", "csv%00", "text/csv", "xlsx", "%2E%2E%2Fcsv"),
}
# Names that are no parameters: (as written, as told).
UNKNOWN = (
    *(("colour", "colour"), ("Limit", "Limit"), ("limit%5B%5D", "limit[]"), ("start_time%5B%5D", "start_time[]")),
    *(("group_by%5B0%5D", "group_by[0]"), ("group_by%5B%5D%5B%5D", "group_by[][]"), ("__proto__", "__proto__")),
    *(("startTime", "startTime"), ("date", "date"), ("after", "after"), ("$where", "$where"), ("cursor", "cursor")),
    *(("%00", None), ("limit%00", None), ("a%0Ab", None), ("x" * 65, None), ("", "")),
)
FOUND_NOTHING = (
    *("models=no-such-model", "models=..%2F..%2Fetc%2Fpasswd", "models=%27%20OR%201=1--", "models=%25", "models=_"),
    *("models=%F0%9F%98%80", "api_key_ids=nobody", "api_key_ids%5B%5D=a&api_key_ids=b", "sizes=00001x00001"),
    *("models=%3Cscript%3E", "models=%7B0.__class__%7D", "models=" + "x" * 210, "models=a;b", "models=demo%20%20"),
)
METHODS = ("POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND")


def cases() -> Iterator[Case]:
    yield from _of_any_report()
    yield from _of_rows()
    yield from _of_sums()
    yield from _of_cursors()
    yield from _around_them()


def _asked(path: str, query: str, name: str, status: int, code: str | None = None, param: str | None = None) -> Case:
    """A question and how it ends. name: with its route before it."""
    group = "usage" if path == ROWS else "sums"
    where = "" if path == ROWS else f"{path.removeprefix('/v1/')}: "
    return Case(group, f"{where}{name}", get(f"{path}?{query}"), status, code, param)


def _refused(path: str, query: str, param: str | None, code: str = INVALID) -> Case:
    start = "" if path == ROWS or query.startswith("start_time=") else f"start_time={NEVER}&"
    return _asked(path, start + query, f"'{shown(query)}'", 400, code, param)


def _of_any_report() -> Iterator[Case]:
    """What rows and sums refuse alike. Of the sums the one or the other has it all."""
    for path in (ROWS, IMAGES):
        for text in NO_SECONDS:
            yield _refused(path, f"start_time={text}", "start_time")
    for text in NO_SECONDS:
        yield _refused(COSTS, f"end_time={text}", "end_time")
    for path in (ROWS, SUMMARY):
        for text in NO_LIMITS:
            yield _refused(path, f"limit={text}", "limit")
        for text in NO_CURSORS:
            yield _refused(path, f"page={text}", "page")
        for name in NO_NAMES:
            yield _refused(path, f"models={name}", "models")
        for written, told in UNKNOWN:
            yield _refused(path, f"{written}=1", told, "unknown_parameter")
        for param in ("limit", "page", "end_time"):
            yield _refused(path, f"{param}=5&{param}=6", param)
        yield _refused(path, "start_time=5&start_time=5", "start_time")
        yield _refused(path, "&".join(f"models={number}" for number in range(101)), "models")
        yield _refused(path, "&".join(f"x{number}=1" for number in range(5000)), "x0", "unknown_parameter")


def _of_rows() -> Iterator[Case]:
    for param, texts in NO_WORDS.items():
        for text in texts:
            yield _refused(ROWS, f"{param}={text}", param)
    yield _refused(ROWS, "limit=1001", "limit")
    yield _refused(ROWS, "format=csv&format=csv", "format")
    for name in ("group_by", "bucket_width", "line_items", "project_ids"):
        yield _refused(ROWS, f"{name}=model", name, "unknown_parameter")
    for query, param in (("format=csv&limit=5", "limit"), ("format=csv&page=x", "page"), ("page=x&format=csv", "page")):
        yield _refused(ROWS, query, param)
    as_table = get(f"{ROWS}?limit=5", Accept="application/json;q=0, TEXT/CSV ;q=1")
    yield Case("usage", "pages of a table, asked for by Accept", as_table, 400, INVALID, "limit")
    for query in (
        *FOUND_NOTHING,
        "&".join(f"models={number}" for number in range(100)),
        "end_time=0",
        "&&&",
        "limit=1000",
    ):
        yield _asked(ROWS, f"start_time={NEVER}&{query}", f"'{shown(query)}' finds nothing", 200)
    odd = get(f"{ROWS}?start_time={NEVER}", Accept="text/csv;q=nonsense, */*;;;," + "x/y," * 5000)
    yield Case("usage", "a table, by an Accept that makes no sense", odd, 200)


def _of_sums() -> Iterator[Case]:
    for path in SUMS:
        name = path.removeprefix("/v1/")
        yield Case("sums", f"{name}: no start_time", get(path), 400, MISSING, "start_time")
        yield Case("sums", f"{name}: an end_time alone", get(f"{path}?end_time=5"), 400, MISSING, "start_time")
        for query in ("start_time=5&end_time=5", f"start_time={NEVER}&end_time=0"):
            yield _refused(path, query, "end_time")
        for text in (*NO_WIDTHS, "1d&bucket_width=1h"):
            yield _refused(path, f"bucket_width={text}", "bucket_width")
        for text in NO_GROUPS:
            yield _refused(path, f"group_by={text}", "group_by")
        yield _refused(path, "&".join(["group_by=api_key_id"] * 101), "group_by")
        yield _refused(path, "format=csv", "format", "unknown_parameter")
        yield _asked(path, f"start_time={NEVER}", "the end of time", 200)
    for path, query in (
        (IMAGES, "bucket_width=1h&limit=169"),
        (IMAGES, "bucket_width=1m&limit=1441"),
        (COSTS, "limit=181"),
    ):
        yield _refused(path, query, "limit")
    yield _refused(IMAGES, "bucket_width=1d&limit=32", "limit")
    for width in ("1m", "1h"):
        yield _refused(COSTS, f"bucket_width={width}", "bucket_width")
    for path, groups in (
        (COSTS, ("model", "size", "outcome")),
        (IMAGES, ("outcome", "backend", "line_item")),
        (SUMMARY, ("line_item",)),
    ):
        for group in groups:
            yield _refused(path, f"group_by={group}", "group_by")
    for path, param in (
        (COSTS, "models"),
        (COSTS, "sizes"),
        (IMAGES, "outcomes"),
        (IMAGES, "backends"),
        (SUMMARY, "user_ids"),
    ):
        yield _refused(path, f"{param}=x", param, "unknown_parameter")
    for param in ("line_items", "project_ids", "api_key_ids"):
        for name in NO_NAMES[:6]:
            yield _refused(COSTS, f"{param}%5B%5D={name}", param)


def _of_cursors() -> Iterator[Case]:
    """Of other questions, altered, and made by who knows how."""
    words: dict[str, Any] = {"start_time": NEVER}
    good = cursor_of((0, 0), "usage", words)
    raw = base64.urlsafe_b64decode(good)
    altered = base64.urlsafe_b64encode(bytes([*raw[:-1], raw[-1] ^ 1])).decode()
    wrong = {
        "of another question": (ROWS, cursor_of((0, 0), "usage", {})),
        "of another report": (ROWS, cursor_of((0, 0), "summary", words)),
        "of rows, for sums": (SUMMARY, good),
        "of images, for costs": (COSTS, cursor_of((0, 0), "images", words)),
        "with another seal": (ROWS, altered),
        "cut": (ROWS, good[:-1]),
        "with more behind it": (ROWS, good + "AAAA"),
        "encoded twice": (ROWS, quote(base64.b64encode(good.encode()).decode())),
        "with a line's end": (ROWS, good + "%0A"),
        "with a blank within": (ROWS, good[:9] + "%20" + good[9:]),
    }
    for name, (path, cursor) in wrong.items():
        query = f"start_time={NEVER}&page={cursor}"
        yield _asked(path, query, f"a cursor {name}", 400, INVALID, "page")
    for place in ((2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), (0, -1)):
        for path, report in ((ROWS, "usage"), (SUMMARY, "summary"), (COSTS, "costs")):
            forged = f"start_time={NEVER}&page={cursor_of(place, report, words)}"
            yield _asked(path, forged, f"a forged cursor to {place[0]}, {place[1]}", 200)


def _around_them() -> Iterator[Case]:
    """The routes themselves."""
    for path in (ROWS, *SUMS):
        group, name = ("usage" if path == ROWS else "sums"), path.removeprefix("/v1/")
        for method in METHODS:
            code = None if method == "HEAD" else "method_not_allowed"
            yield Case(group, f"{method} {name}", get(path, method), 405, code)
        yield Case(group, f"{name}: a slash behind it", get(f"{path}/"), 404, "unknown_url")
        yield Case(group, f"{name}: a body for POST", message(b'{"start_time": 0}', path), 405, "method_not_allowed")
        body = message(b"hello", f"{path}?start_time={NEVER}", "GET", None)
        yield Case(group, f"{name}: a body for GET", body, 200)
    for prefix in ("", "/api", "/openai", "/openai/v1"):
        yield Case("usage", f"{prefix}/usage: no limit", get(f"{prefix}/usage?limit=0"), 400, INVALID, "limit")
    for path in (
        "/v1/usage/..",
        "/v1/usage/%2e%2e/models",
        "/v1/usage/images",
        "/v1/organization",
        "/v1/organization/usage",
    ):
        yield Case("usage", f"'{path}'", get(path), 404, "unknown_url")
