"""GET models: the names that a request may carry, ids and aliases alike, for clients that fill a menu from them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from server.api.services import Services, services_of
from server.core import errors


async def list_models(request: Request) -> JSONResponse:
    """The models and their aliases."""
    services = services_of(request)
    data = [described(name, services) for name in services.catalogue.names()]
    return JSONResponse({"object": "list", "data": data})


async def get_model(request: Request) -> JSONResponse:
    """One model by id or alias."""
    services = services_of(request)
    name = request.path_params["model"]
    if services.catalogue.resolve(name) is None:
        raise errors.model_not_found(name, services.catalogue.names())
    return JSONResponse(described(name, services))


def described(name: str, services: Services) -> dict[str, Any]:
    """OpenAI's four fields, and ours: what the name resolves to, where it is now, and why it cannot be served."""
    resolved = services.catalogue.resolve(name) or ""
    reports = services.dispatcher.reports(resolved)
    return {
        "id": name,
        "object": "model",
        "created": services.started_unix_seconds,
        "owned_by": "safelight",
        "served_by": resolved,
        "state": reports[0].state if reports else "unknown",
        "problem": reports[0].problem if reports else None,
        "device_bytes": sum(report.device_bytes for report in reports),
        "pinned": any(report.is_pinned for report in reports),
        "loras": sorted(services.catalogue.models[resolved].loras) if resolved else [],
        "controls": sorted(services.catalogue.models[resolved].controls) if resolved else [],
    }
