"""POST /admin/models/{model}/load, unload, pin and unpin: which models are on the devices.

Each answers at once with the model as it is now; GET /v1/models/{model} says how it goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse

from server.access.allowed import allowed_names, allowed_targets
from server.api.gate import caller_of
from server.api.models import described
from server.api.services import Services, services_of
from server.backends.local import LocalBackend
from server.core import errors

Verb = Callable[[Request], Awaitable[JSONResponse]]


def _route(change: Callable[[LocalBackend, str], None]) -> Verb:
    async def answer(request: Request) -> JSONResponse:
        services, caller = services_of(request), caller_of(request)
        refuse_strange_pages(request, services)
        name = request.path_params["model"]
        allowed_targets(caller, name, services.catalogue)  # before anything changes
        model = services.catalogue.resolve(name)
        if model is None:
            raise errors.model_not_found(name, allowed_names(caller, services.catalogue))
        change(services.local, model)
        return JSONResponse(described(name, services, caller))

    return answer


def refuse_strange_pages(request: Request, services: Services) -> None:
    """A browser lets every page send a POST without a body; what it says of the page is all there is to go by."""
    origin = request.headers.get("origin")
    allowed = services.settings.cors_origins
    if origin is not None and "*" not in allowed and origin not in allowed:
        raise errors.forbidden_origin(origin)


VERBS: dict[str, Verb] = {
    "load": _route(LocalBackend.load),
    "unload": _route(LocalBackend.unload),
    "pin": _route(LocalBackend.pin),
    "unpin": _route(LocalBackend.unpin),
}
