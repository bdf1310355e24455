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
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.core import errors
from server.core.current import CURRENT, Current, note_error
from server.core.observer import DEAF, Answered, Observer
from server.core.request_id import REQUEST_ID, new_request_id
from server.core.tracing import Sink, Span, entry, parent_of

log = logging.getLogger("safelight.http")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# Asked so often that their lines would hide the others.
PROBES = ("/health/", "/metrics")
FILES_PREFIX = "/files/"
MAX_PATH_CHARACTERS = 200


def to_response(error: errors.SafelightError) -> JSONResponse:
    note_error(error.code)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


def install_handlers(app: FastAPI) -> None:
    """Our own errors and the framework's (unknown route, wrong method) in the one shape."""

    async def on_safelight_error(_: Request, error: Exception) -> JSONResponse:
        return to_response(error if isinstance(error, errors.SafelightError) else errors.internal_error())

    async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
        return _from_framework(request, error)

    async def on_crash(_: Request, __: Exception) -> JSONResponse:
        return to_response(errors.internal_error())

    app.add_exception_handler(errors.SafelightError, on_safelight_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    # Else the framework answers a crash in plain text, before the edge hears of it.
    app.add_exception_handler(Exception, on_crash)


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
    """The outermost ASGI layer: request ids, timing, one log line a request, and the answer to a crash.

    observer: is told of each request. sink: takes the spans of each, if requests are traced.
    """

    def __init__(self, app: ASGIApp, observer: Observer = DEAF, sink: Sink | None = None) -> None:
        self._app, self._observer, self._sink = app, observer, sink

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(send)
        scope[REQUEST_ID] = exchange.request_id
        parent = parent_of(_only(Headers(scope=scope).getlist("traceparent")))
        token = CURRENT.set(exchange.current)
        self._observer.arrived()
        try:
            with entry(scope["method"], parent, self._sink) as span:
                traced = span or parent
                exchange.current.trace_id = None if traced is None else traced.trace_id
                try:
                    await self._answer(scope, receive, exchange)
                finally:
                    _describe(span, scope, exchange)
        finally:
            self._observer.answered(exchange.answered(scope))
            CURRENT.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except asyncio.CancelledError:
            # A second signal, or the end of the drain: whoever was not answered is told why.
            if exchange.status is None:
                await to_response(errors.shutting_down())(scope, receive, exchange.send)
            raise
        except Exception:
            log.exception("request crashed")
            if exchange.status is None:
                await to_response(errors.internal_error())(scope, receive, exchange.send)
            elif not exchange.is_complete:
                raise  # so that the connection is closed, and the client sees that the end is missing
        exchange.write_log(scope)


def _only(values: list[str]) -> str | None:
    return values[0] if len(values) == 1 else None


def _route_of(scope: Scope) -> str | None:
    """The template that matched: its words are ours, not the caller's."""
    return getattr(scope.get("route"), "path", None)


def _told_path(scope: Scope) -> str:
    """For the log. A result's name is not told: whoever knows it may have the picture."""
    path: str = scope["path"]
    return (_route_of(scope) or "") if path.startswith(FILES_PREFIX) else path[:MAX_PATH_CHARACTERS]


def _describe(span: Span | None, scope: Scope, exchange: _Exchange) -> None:
    """Source of the names: OpenTelemetry's conventions for HTTP servers."""
    if span is None:
        return
    route = _route_of(scope)
    span.name = f"{method_of(scope)} {route}" if route else method_of(scope)
    span.attributes = {"http.request.method": method_of(scope), "safelight.request_id": exchange.request_id}
    span.attributes |= {"http.route": route} if route else {}
    span.attributes |= {"http.response.status_code": exchange.status} if exchange.status else {}
    if exchange.current.error_code is not None:
        span.attributes["error.type"] = exchange.current.error_code
        span.error = span.error or exchange.current.error_code


def method_of(scope: Scope) -> str:
    """One of a few words, whatever a caller sends."""
    return scope["method"] if scope["method"] in METHODS else "OTHER"


class _Exchange:
    """One request's reply on its way out."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = time.perf_counter()
        self.request_id = new_request_id()
        self.status: int | None = None
        self.is_complete = False
        self.current = Current(self.request_id)

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
        self.is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    def answered(self, scope: Scope) -> Answered:
        seconds = time.perf_counter() - self._started
        return Answered(_route_of(scope), method_of(scope), self.status, seconds, self.current.error_code)

    def write_log(self, scope: Scope) -> None:
        fields = {
            "request_id": self.request_id,
            "method": scope["method"],
            "path": _told_path(scope),
            "status": self.status,
            "elapsed_ms": self._elapsed_ms,
        }
        fields |= {} if self.current.error_code is None else {"code": self.current.error_code}
        is_probe = scope["path"].startswith(PROBES)
        log.log(logging.DEBUG if is_probe else logging.INFO, "request", extra=fields)
