"""Guards what a web page's preflight is answered: leave for listed origins, and refusals as all others are."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from server.api.envelope import Edge, install_handlers
from server.app import allow_origins

LISTED, STRANGER = "https://pages.example", "https://stranger.example"


def preflight(origins: tuple[str, ...], origin: str, method: str = "POST", **more: str) -> httpx.Response:
    app = FastAPI(openapi_url=None)
    install_handlers(app)
    allow_origins(app, origins)
    asks = {
        "origin": origin,
        "access-control-request-method": method,
        "access-control-request-headers": "authorization",
    }

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Edge(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.options("/v1/models", headers=asks | more)

    return asyncio.run(ask())


def test_a_strange_origin_is_refused_in_the_envelope_and_given_no_leave() -> None:
    answer = preflight((LISTED,), STRANGER)
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/json")
    assert answer.json() == {
        "error": {
            "message": f"Pages of '{STRANGER}' may not do this: list the origin in SAFELIGHT_CORS_ORIGINS.",
            "type": "invalid_request_error",
            "param": None,
            "code": "origin_not_allowed",
        }
    }
    assert answer.headers["x-request-id"].startswith("req_")
    assert "access-control-allow-origin" not in answer.headers
    assert "Origin" in answer.headers["vary"], "or a cache would tell it to others"


def test_a_method_that_no_route_has_is_refused_in_the_envelope() -> None:
    answer = preflight((LISTED,), LISTED, "DELETE")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert answer.headers["access-control-allow-origin"] == LISTED
    assert preflight((LISTED,), STRANGER, "DELETE").json()["error"]["code"] == "origin_not_allowed"


NETWORK = {"access-control-request-private-network": "true"}


@pytest.mark.parametrize(
    ("origins", "status"), [((LISTED,), 200), (("*",), 403)], ids=["an origin that is listed", "all origins"]
)
def test_the_way_into_a_private_network_is_open_to_origins_that_are_named(
    origins: tuple[str, ...], status: int
) -> None:
    answer = preflight(origins, LISTED, **NETWORK)
    assert answer.status_code == status
    assert answer.headers.get("access-control-allow-private-network") == ("true" if status == 200 else None)


def test_with_a_star_any_origin_is_given_leave() -> None:
    answer = preflight(("*",), STRANGER)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
