"""Lets nobody through to a route who may not use it. Every route has a need; what states none does not open.

Knows needs, headers and callers; knows no route's work.
Invariant: who asks is decided by headers and the matched route, never by the URL's text, and before a byte of the body
is read. No route of the application is left without a gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.services import services_of
from server.core import errors
from server.core.caller import NOBODY, Caller
from server.core.caller import Scope as KeyScope

# nobody: no key is asked for. anybody: any valid key will do.
Need = KeyScope | Literal["nobody", "anybody"]
CALLER = "safelight.caller"


def caller_of(request: HTTPConnection) -> Caller:
    """Who asks. Only behind a gate."""
    caller: Caller = request.scope[CALLER]
    return caller


class Gate:
    """In front of one route."""

    def __init__(self, inner: ASGIApp, need: Need) -> None:
        self._inner, self.need = inner, need

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALLER] = self._let_in(HTTPConnection(scope))
        await self._inner(scope, receive, send)

    def _let_in(self, connection: HTTPConnection) -> Caller:
        """Raises SafelightError: 401 for who is not known, 403 for who may not."""
        if self.need == "nobody":
            return NOBODY
        caller = services_of(connection).door.admit(connection.scope["headers"])
        if self.need != "anybody" and not caller.may(self.need):
            raise errors.insufficient_permissions(self.need)
        return caller


def needs_of(app: FastAPI) -> dict[str, Need]:
    """What each route of an application behind gates needs, by its path as the description writes it."""
    routes = (route for route in app.routes if isinstance(route, Route) and isinstance(route.app, Gate))
    return {route.path_format: route.app.need for route in routes if isinstance(route.app, Gate)}


def close(app: FastAPI, needs: Mapping[str, Need]) -> None:
    """Put a gate before every route. needs: by path template. Raises LookupError for a route that states none."""
    for route in app.routes:
        if not isinstance(route, Route | Mount) or route.path not in needs:
            raise LookupError(f"nobody says who may use {route!r}")
        route.app = Gate(route.app, needs[route.path])
