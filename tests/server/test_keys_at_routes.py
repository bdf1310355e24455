"""Guards every route and method: who comes in with which key, and how those are refused who do not."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from server.api.services import Services
from server.app import build_app, build_services
from server.core.caller import SCOPES
from server.core.catalogue_file import load_catalogue
from server.core.settings import load_settings
from tests.server.access.parts import issue

MODELS = "default_model: tiny\nmodels: {tiny: {family: sdxl, source: nowhere}}\n"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# The golden table: what is served by which method, and the scopes that open it; the empty set: no key at all is needed.
NOBODY: frozenset[str] = frozenset()
ANY_KEY = frozenset(SCOPES)
DRAWS, READS, RULES = frozenset({"generate", "admin"}), frozenset({"usage", "admin"}), frozenset({"admin"})
GOLDEN: dict[tuple[str, str], frozenset[str]] = {
    **{
        (method, prefix + path): who
        for prefix in ("/v1", "/api", "", "/openai", "/openai/v1")
        for method, path, who in (
            ("POST", "/images/generations", DRAWS),
            ("POST", "/images/edits", DRAWS),
            ("POST", "/images/variations", DRAWS),
            ("GET", "/models", ANY_KEY),
            ("GET", "/models/{model:path}", ANY_KEY),
            ("GET", "/usage", READS),
            ("GET", "/usage/summary", READS),
            ("GET", "/organization/usage/images", READS),
            ("GET", "/organization/costs", READS),
        )
    },
    **{
        ("POST", f"/openai/deployments/{{deployment:path}}/images/{verb}"): DRAWS
        for verb in ("generations", "edits", "variations")
    },
    ("POST", "/admin/reload"): RULES,
    **{("POST", f"/admin/models/{{model:path}}/{verb}"): RULES for verb in ("load", "unload", "pin", "unpin")},
    **{
        (method, path): NOBODY
        for method in ("GET", "HEAD")
        for path in ("/files/{name}", "/openapi.json", "/static-offline-docs")
    },
    ("GET", "/metrics"): frozenset({"metrics", "admin"}),
    ("GET", "/docs"): NOBODY,
    ("GET", "/docs/oauth2-redirect"): NOBODY,
    ("GET", "/health/live"): NOBODY,
    ("GET", "/health/ready"): NOBODY,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    (folder / "models.yaml").write_text(MODELS)
    return folder


@pytest.fixture(scope="module")
def keys(folder: Path) -> dict[str, str]:
    """A key with each scope alone."""
    return {scope: issue(folder / "keys.json", scope, scopes=(scope,)).text for scope in SCOPES}


@pytest.fixture(scope="module")
def services(folder: Path, keys: dict[str, str]) -> Services:
    """All of a server's own parts; nothing is started, so that nothing is drawn."""
    assert keys
    settings = load_settings({"keys": folder / "keys.json"})
    catalogue = load_catalogue(folder / "models.yaml")
    return build_services(settings, catalogue, "http://test", folder)


@pytest.fixture(scope="module")
def server(services: Services) -> ASGIApp:
    return build_app(services)


def ask(server: ASGIApp, *asked: tuple[str, str, dict[str, str]], **more: Any) -> list[httpx.Response]:
    """Method, path and headers of each."""

    async def exchange() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server), base_url="http://test") as client:
            return [await client.request(method, path, headers=headers, **more) for method, path, headers in asked]

    return asyncio.run(exchange())


def with_key(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def paths_of(server: ASGIApp) -> list[str]:
    """Of all routes of the application behind the edge."""
    routes = cast(FastAPI, cast(Any, server)._app._app).routes
    return [cast(Route | Mount, route).path for route in routes]


def test_every_route_opens_to_whom_the_golden_table_names_and_to_nobody_else(
    server: ASGIApp, keys: dict[str, str]
) -> None:
    paths = paths_of(server)
    assert {path for _, path in GOLDEN} == set(paths)
    callers = {"no key": {}, "a wrong key": with_key(f"sl-{'0' * 12}-{'x' * 43}")}
    callers |= {scope: with_key(key) for scope, key in keys.items()}
    asked = [(method, path, caller) for path in paths for method in METHODS for caller in callers]
    answers = ask(server, *((method, example(path), callers[caller]) for method, path, caller in asked))
    for (method, path, caller), answer in zip(asked, answers, strict=True):
        assert outcome(answer) == expected(method, path, caller), (method, path, caller, answer.text)


def example(path: str) -> str:
    """A URL of the route, of something that is not there."""
    path = path.replace("{deployment:path}", "tiny")
    return path.replace("{model:path}", "nobody").replace("{name}", "x").replace("offline-docs", "offline-docs/x")


def expected(method: str, path: str, caller: str) -> str:
    opens_to = GOLDEN.get((method, path))
    if opens_to is None:
        return "there is no such method"
    if opens_to == NOBODY or caller in opens_to:
        return "in"
    return "may not" if caller in SCOPES else "unknown"


def outcome(answer: httpx.Response) -> str:
    return {401: "unknown", 403: "may not", 405: "there is no such method"}.get(answer.status_code, "in")


@pytest.mark.parametrize(
    "path", ["/v1/images/generations/", "//v1/models", "/v1/../admin/models/x/load", "/admin", "/v2"]
)
def test_what_is_no_route_is_nothing_with_every_key(server: ASGIApp, keys: dict[str, str], path: str) -> None:
    for headers in ({}, with_key(keys["admin"])):
        (answer,) = ask(server, ("POST", path, headers))
        assert answer.status_code in (401, 404, 405)


def test_a_refusal_is_openais_envelope_says_what_would_do_and_repeats_no_key(server: ASGIApp) -> None:
    key = f"sl-{'0' * 12}-{'x' * 43}"
    nobody, wrong = ask(server, ("GET", "/v1/models", {}), ("GET", "/v1/models", with_key(key)))
    for answer, words in ((nobody, "You did not provide an API key"), (wrong, "Incorrect API key provided")):
        error = answer.json()["error"]
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "invalid_api_key", None)
        assert error["message"].startswith(words)
        assert answer.headers["x-request-id"].startswith("req_")
        assert "sl-" not in answer.text


def test_the_scope_that_is_missing_is_named(server: ASGIApp, keys: dict[str, str]) -> None:
    (answer,) = ask(server, ("POST", "/v1/images/generations", with_key(keys["usage"])))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (403, "insufficient_permissions")
    assert "'generate'" in error["message"]


def test_two_authorization_headers_are_refused_and_an_azure_header_is_taken(
    server: ASGIApp, keys: dict[str, str]
) -> None:
    async def status_with(headers: list[tuple[str, str]]) -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=server), base_url="http://test") as client:
            return (await client.get("/v1/models?api-version=2024-02-01", headers=headers)).status_code

    good = ("authorization", f"Bearer {keys['generate']}")
    assert asyncio.run(status_with([good])) == 200
    assert asyncio.run(status_with([good, good])) == 401
    assert asyncio.run(status_with([("api-key", keys["generate"])])) == 200
    assert asyncio.run(status_with([good, ("api-key", keys["usage"])])) == 401


def test_nothing_of_a_body_is_read_before_the_key_is_known(server: ASGIApp) -> None:
    read: list[int] = []

    async def receive() -> dict[str, Any]:
        read.append(1)
        return {"type": "http.request", "body": b"{", "more_body": True}

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/images/generations", "raw_path": b"", "query_string": b"",
        "headers": [(b"authorization", b"Bearer x")], "scheme": "http", "server": ("test", 80), "root_path": "",
        "http_version": "1.1",
    }  # fmt: skip
    asyncio.run(cast(Coroutine[Any, Any, None], server(scope, receive, cast(Any, send))))
    assert sent[0]["status"] == 401
    assert read == []
