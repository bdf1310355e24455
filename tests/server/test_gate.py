"""Every route has a gate, and what states no need does not open."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.responses import Response
from starlette.routing import Mount, Route

from server.api.gate import Gate, close
from server.api.routes import add_routes


def test_every_route_stands_behind_a_gate() -> None:
    app = FastAPI(openapi_url=None)
    add_routes(app)
    assert app.routes
    for route in app.routes:
        assert isinstance(route, Route | Mount)
        assert isinstance(route.app, Gate)


def test_an_application_with_a_route_that_states_no_need_does_not_start() -> None:
    app = FastAPI(openapi_url=None)

    async def forgotten() -> Response:
        return Response()

    app.add_api_route("/forgotten", forgotten, methods=["GET"])
    with pytest.raises(LookupError, match="/forgotten"):
        close(app, {})
