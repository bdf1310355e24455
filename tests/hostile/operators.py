"""Hostile requests to what is the operator's: the page of figures, models that are steered, a reload.

Knows the routes as the README states them.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.case import JSON, Case, get, head, message, shown

VERBS = ("load", "unload", "pin", "unpin")
NO_MODELS = (
    *(
        "no-such",
        "%00",
        "%ff%fe",
        "..%2f..%2fetc%2fpasswd",
        "../demo",
        "demo%20",
        "%20demo",
        "DEMO",
        "a/b/c",
        "demo/demo",
    ),
    *("%F0%9F%98%80", "x" * 5000, "%zz", "*", "local:", ":demo", "openai:dall-e-3", "demo;x", "", "demo%00"),
)
ORIGINS = (
    *("https://evil.example", "null", "", "http://localhost.evil.example", "http://127.0.0.1:1", "file://", "*"),
    *("http://localhost\t", "https://a, https://b", "x" * 10_000, "\xff"),
)
BODIES = {
    "JSON": message(b'{"models": {}}', "/admin/reload"),
    "no JSON": message(b"{", "/admin/reload"),
    "a form": message(b"a=b", "/admin/reload", media_type="application/x-www-form-urlencoded"),
    "a catalogue": message(b"models: {x: {source: /etc}}\n", "/admin/reload", media_type="application/yaml"),
    "a gzip": message(b"\x1f\x8b\x08", "/admin/reload", Content_Encoding="gzip"),
}
METHODS = ("GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "reload")
NO_ROUTES = (
    *("/admin/reload/", "/admin/reload/x", "/admin//reload", "/v1/admin/reload", "/admin/Reload", "/admin/reload%00"),
    *("/admin/models/demo", "/admin/models/demo/", "/admin/models/demo/explode", "/admin/models/demo/load/"),
    *(
        "/admin/models/demo/LOAD",
        "/admin/models/demo/load/x",
        "/v1/admin/models/demo/load",
        "/admin/keys",
        "/admin/stop",
    ),
)
FIGURES = {
    "Accept: nonsense": {"Accept": ";;;q=,,\xff"},
    "Accept: 10,000 of them": {"Accept": "application/openmetrics-text;version=9.9.9;q=" + "9" * 10 + ",x/y" * 10_000},
    "Accept: a number that is none": {"Accept": "application/openmetrics-text;q=NaN,text/plain;q=1e999"},
    "Accept-Encoding": {"Accept-Encoding": "gzip;q=-1, br, *;q=x"},
    "a scraper's timeout that is none": {"X-Prometheus-Scrape-Timeout-Seconds": "-1"},
    "Range": {"Range": "bytes=0-1,5-"},
    "If-None-Match": {"If-None-Match": '"' + "x" * 5000},
}


def cases() -> Iterator[Case]:
    yield from _of_figures()
    yield from _of_models()
    yield from _of_the_reload()


def _of_figures() -> Iterator[Case]:
    for name, headers in FIGURES.items():
        yield Case("metrics", name, head("GET", "/metrics", headers), 200)
    for query in ("name%5B%5D=up", "a=%ff&&&=;%00", "x" * 10_000):
        yield Case("metrics", f"a query '{shown(query)}'", get(f"/metrics?{query}"), 200)
    yield Case("metrics", "a body", message(b"x" * 1000, "/metrics", "GET", "text/plain"), 200)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        yield Case("metrics", method, get("/metrics", method), 405, "method_not_allowed")
    yield Case("metrics", "HEAD", get("/metrics", "HEAD"), 405)
    for path in (
        "/metrics/",
        "/metrics/x",
        "/Metrics",
        "//metrics",
        "/v1/metrics",
        "/metrics%2f",
        "/metrics;x",
        "/metrics/../metrics",
    ):
        yield Case("metrics", f"'{path}'", get(path), 404, "unknown_url")


def _of_models() -> Iterator[Case]:
    for verb in VERBS:
        for name in NO_MODELS:
            sent = get(f"/admin/models/{name}/{verb}", "POST")
            yield Case("steering", f"{verb} '{shown(name)}'", sent, 404, "model_not_found", "model")
        lines = get(f"/admin/models/demo%0a/{verb}", "POST")
        yield Case("steering", f"{verb} 'demo%0a', which is no path", lines, 404, "unknown_url")
        for method in METHODS[:-1]:
            sent = get(f"/admin/models/demo/{verb}", method)
            yield Case("steering", f"{method} {verb}", sent, 405, "method_not_allowed")
        yield Case("steering", f"HEAD {verb}", get(f"/admin/models/demo/{verb}", "HEAD"), 405)
        for origin in ORIGINS[:2]:
            sent = get(f"/admin/models/demo/{verb}", "POST", Origin=origin)
            yield Case("steering", f"{verb} for '{shown(origin)}'", sent, 403, "origin_not_allowed")
    yield Case("steering", "load with a body", message(b'{"model": "other"}', "/admin/models/demo/load"), 200)
    query = get("/admin/models/demo/load?model=other&verb=unload&%00", "POST")
    yield Case("steering", "load with a query", query, 200)
    for path in NO_ROUTES:
        yield Case("steering", f"'{path}'", get(path, "POST"), 404, "unknown_url")


def _of_the_reload() -> Iterator[Case]:
    for method in METHODS:
        yield Case("reload", method, get("/admin/reload", method), 405, "method_not_allowed")
    yield Case("reload", "HEAD", get("/admin/reload", "HEAD"), 405)
    for origin in ORIGINS:
        sent = get("/admin/reload", "POST", Origin=origin)
        yield Case("reload", f"for a page of '{shown(origin)}'", sent, 403, "origin_not_allowed")
    for name, sent in BODIES.items():
        yield Case("reload", f"{name}, which nobody reads", sent, 200)
    yield Case("reload", "a query, which nobody reads", get("/admin/reload?models=/etc/passwd", "POST"), 200)
    declared = head("POST", "/admin/reload", {"Content-Type": JSON, "Content-Length": "10000000000"})
    yield Case("reload", "10 GB declared, which nobody waits for", declared, 200)
    chunks = head("POST", "/admin/reload", {"Transfer-Encoding": "chunked"})
    yield Case("reload", "chunks that never end", chunks + b"5\r\nhello\r\n", 200)
    yield Case("reload", "chunks that are none", chunks + b"ZZ\r\n", 400, "invalid_http")
