"""GET models: the names that a request may carry, ids and aliases alike, for clients that fill a menu from them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from server.access.allowed import allowed_names, allowed_targets
from server.api.gate import caller_of
from server.api.services import Services, services_of
from server.core.caller import Caller
from server.core.providers import LOCAL, Life, Target


async def list_models(request: Request) -> JSONResponse:
    """The models and their aliases, as far as the caller may ask for them."""
    services, caller = services_of(request), caller_of(request)
    data = [described(name, services, caller) for name in allowed_names(caller, services.catalogue)]
    return JSONResponse({"object": "list", "data": data})


async def get_model(request: Request) -> JSONResponse:
    """One model by id or alias."""
    return JSONResponse(described(request.path_params["model"], services_of(request), caller_of(request)))


def described(name: str, services: Services, caller: Caller) -> dict[str, Any]:
    """OpenAI's five fields, and ours: who serves the name for this caller, where our model is now, and why it cannot be
    served. Raises SafelightError where the caller cannot ask for it."""
    targets = allowed_targets(caller, name, services.catalogue)
    own = next((target.model for target in targets if target.backend == LOCAL), None)
    life = services.catalogue.name_entry(name) or Life()
    return {
        "id": name,
        "object": "model",
        "created": services.started_unix_seconds,
        "owned_by": "safelight",
        "shutdown_date": None if life.retired is None else life.retired.isoformat(),
        "successor": life.successor,
        "route": [step(target, services) for target in targets],
        **our_model(own, services),
    }


def our_model(model: str | None, services: Services) -> dict[str, Any]:
    """What is to say of the model of ours that serves; None: others serve alone."""
    reports = [] if model is None else services.local.reports(model)
    entry = None if model is None else services.catalogue.models[model]
    unknown = "remote" if model is None else "unknown"
    return {
        "served_by": model,
        "state": reports[0].state if reports else unknown,
        "problem": reports[0].problem if reports else None,
        "device_bytes": sum(report.device_bytes for report in reports),
        "pinned": any(report.is_pinned for report in reports),
        "loras": sorted(entry.loras) if entry else [],
        "controls": sorted(entry.controls) if entry else [],
    }


def step(target: Target, services: Services) -> dict[str, Any]:
    """One of those who may serve a name, and whether it can be asked now."""
    return {"backend": target.backend, "model": target.model, "state": services.router.state_of(target)}
