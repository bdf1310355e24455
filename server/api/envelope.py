"""Turns every failure into OpenAI's envelope, once, at the edge; and stamps every reply with a request id.

Knows exceptions and ASGI; knows no routes.
Invariant: no reply leaves without `x-request-id`, no failure in another shape, and no exception's text at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from http import HTTPStatus

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core import errors
from server.core.request_id import REQUEST_ID, new_request_id

log = logging.getLogger("safelight.http")


def to_response(error: errors.SafelightError) -> JSONResponse:
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


def install_handlers(app: FastAPI) -> None:
    """Our own errors and the framework's (unknown route, wrong method) in the one shape."""

    async def on_safelight_error(_: Request, error: Exception) -> JSONResponse:
        return to_response(error if isinstance(error, errors.SafelightError) else errors.internal_error())

    async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
        return _from_framework(request, error)

    app.add_exception_handler(errors.SafelightError, on_safelight_error)
    app.add_exception_handler(HTTPException, on_http_exception)


def _from_framework(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        return to_response(errors.internal_error())
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        response = to_response(errors.method_not_allowed(request.method, allowed))
        response.headers["allow"] = allowed
        return response
    if error.status_code == HTTPStatus.NOT_FOUND:
        return to_response(errors.unknown_route(request.method, request.url.path))
    return to_response(errors.internal_error())


class Edge:
    """The outermost ASGI layer: request ids, timing, one log line a request, and the answer to a crash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(send)
        scope[REQUEST_ID] = exchange.request_id
        try:
            await self._app(scope, receive, exchange.send)
        except asyncio.CancelledError:
            # A second signal, or the end of the drain: whoever was not answered is told why.
            if exchange.status is None:
                await to_response(errors.shutting_down())(scope, receive, exchange.send)
            raise
        except Exception:
            log.exception("request crashed", extra={"request_id": exchange.request_id})
            if exchange.status is not None:
                raise
            await to_response(errors.internal_error())(scope, receive, exchange.send)
        exchange.write_log(scope)


class _Exchange:
    """One request's reply on its way out."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = time.perf_counter()
        self.request_id = new_request_id()
        self.status: int | None = None

    @property
    def _elapsed_ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["openai-processing-ms"] = str(self._elapsed_ms)
        await self._send(message)

    def write_log(self, scope: Scope) -> None:
        fields = {
            "request_id": self.request_id,
            "method": scope["method"],
            "path": scope["path"],
            "status": self.status,
            "elapsed_ms": self._elapsed_ms,
        }
        is_probe = scope["path"].startswith("/health/")
        log.log(logging.DEBUG if is_probe else logging.INFO, "request", extra=fields)
