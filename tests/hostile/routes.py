"""Hostile paths and methods: files that were never given out, models that are paths, routes that are not there."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.case import EDITS, GENERATIONS, VARIATIONS, Case, get, message, shown

NAME = "AAAAAAAAAAAAAAAAAAAAAA.png"
FILES = (
    *(
        NAME,
        "AAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAA.gif",
        "AAAAAAAAAAAAAAAAAAAAA.png",
        f"{NAME}.png",
        f"{NAME}%00",
    ),
    *(
        "..",
        ".",
        "%2e%2e",
        "..%5c..%5cetc",
        "%00",
        "%ff%fe",
        "a.png",
        "AAAAAAAAAAAAAAAAAAAAAA.PNG",
        f"{NAME}%0a",
        f"%20{NAME}",
    ),
    *(
        "AAAAAAAAAAAAAAAAAAAAA%C3%A9.png",
        "~root",
        "con",
        "*",
        "books.sqlite",
        "A" * 5000 + ".png",
        "%252e%252e%252f",
        ";x",
    ),
)
NO_ROUTES = (
    *(
        "/nope",
        "/",
        "//",
        "/v1",
        "/v1/",
        "/v1/images",
        "/v1/images/generations/",
        "/V1/images/generations",
        "/v1//models",
    ),
    *("/v2/models", "//health/live", "/health", "/health/live/", "/files", "/files/", "/files/..%2f..%2fetc%2fpasswd"),
    *(
        "/files/%2e%2e%2f%2e%2e%2fetc",
        "/files/../../etc/passwd",
        "/files/a/b.png",
        "/v1/../health/live",
        "/./health/live",
    ),
    *("/health/live;a=b", "/health/live%20", "/health%2flive%00", "/static/../server/cli.py", "/.env", "/.git/config"),
    *(
        "/admin",
        "/admin/models",
        "/wp-login.php",
        "/cgi-bin/x",
        "/metrics%00",
        "/openapi.json/",
        "/docs/../../etc/passwd",
    ),
    *("/" + "a" * 5000, "/" + "a/" * 2000, "/%", "/%zz", "/%7f", "/v1/images/generations%00", "/%e2%80%ae"),
    *("http://evil.example/health/live", "https://evil.example/", "*", "health/live", "http://169.254.169.254/latest"),
    *("/static-offline-docs", "/v1/chat/completions", "/v1/files", "/api/api/models", "/v1/api/models"),
)
MODELS = (
    "no-such",
    "%00",
    "%ff%fe",
    "..%2f..%2fetc%2fpasswd",
    "a/b/c",
    "%F0%9F%98%80",
    "x" * 5000,
    "demo%20",
    "demo/",
    "%zz",
)
METHODS = (
    *(("GET", GENERATIONS), ("PUT", GENERATIONS), ("DELETE", EDITS), ("PATCH", VARIATIONS), ("TRACE", "/v1/models")),
    *(("POST", "/v1/models"), ("DELETE", "/v1/models/demo"), ("PUT", f"/files/{NAME}"), ("POST", f"/files/{NAME}")),
    *(("DELETE", f"/files/{NAME}"), ("get", "/health/live"), ("POST", "/health/live"), ("FOO", "/v1/models")),
    *(
        ("PROPFIND", "/health/ready"),
        ("X" * 500, "/health/live"),
        ("__class__", "/health/live"),
        ("OPTIONS", "/v1/models"),
    ),
    *(("GET", "/admin/models/demo/load"), ("POST", "/openapi.json"), ("DELETE", "/docs")),
)


def cases() -> Iterator[Case]:
    for name in FILES:
        yield Case("files", f"'{shown(name)}'", get(f"/files/{name}"), 404, "file_not_found")
    yield Case(
        "files",
        "a range of 10,000 parts",
        get(f"/files/{NAME}", Range="bytes=" + "0-1," * 10_000 + "5-6"),
        404,
        "file_not_found",
    )
    yield Case("files", "HEAD", get(f"/files/{NAME}", "HEAD"), 404)
    for path in NO_ROUTES:
        yield Case("routes", f"'{shown(path)}'", get(path.encode("latin-1")), 404, "unknown_url")
    for name in MODELS:
        yield Case("routes", f"model '{shown(name)}'", get(f"/v1/models/{name}"), 404, "model_not_found", "model")
    for method, path in METHODS:
        yield Case("methods", f"{shown(method)} {path}", get(path, method), 405, "method_not_allowed")
    yield Case("methods", "CONNECT", get("example.org:443", "CONNECT"), 404, "unknown_url")
    yield Case("methods", "HEAD of the models", get("/v1/models", "HEAD"), 405)
    stranger = message(b"", "/admin/models/demo/unload", media_type=None, Origin="https://evil.example")
    yield Case("routes", "a page of another origin unloads a model", stranger, 403, "origin_not_allowed")
    unknown = message(b"", "/admin/models/nobody/load", media_type=None)
    yield Case("routes", "a model that is not there is to be loaded", unknown, 404, "model_not_found", "model")
