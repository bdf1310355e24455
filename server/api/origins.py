"""Which pages of other origins may call the server: Starlette's rules, with refusals in the server's own shape.

Knows origins, methods and headers; knows no routes.
Invariant: no preflight is let through that Starlette refuses.
"""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from server.api.envelope import to_response
from server.core import errors
from server.core.errors import SafelightError

METHODS = ("GET", "HEAD", "POST")


class Origins(CORSMiddleware):
    """As its parent, which says in plain text what it refuses."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == HTTPStatus.OK:
            return response
        refusal = to_response(self._error(request_headers))
        told = {"content-type", "content-length"}
        refusal.headers.update({name: value for name, value in response.headers.items() if name not in told})
        return refusal

    def _error(self, request_headers: Headers) -> SafelightError:
        """Where the method is allowed it is the origin: all headers are, and the way into a private network is open to
        listed origins."""
        origin, method = request_headers["origin"], request_headers["access-control-request-method"]
        if self.is_allowed_origin(origin) and method not in self.allow_methods:
            return errors.method_not_allowed(method, ", ".join(METHODS))
        return errors.forbidden_origin(origin)
