"""Two questions of an orchestrator: is the process alive, and can it draw."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from server.api.services import services_of


async def live(_: Request) -> JSONResponse:
    """The server process answers."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> JSONResponse:
    """A worker takes jobs, and at least one model can be served."""
    dispatcher = services_of(request).dispatcher
    state = dispatcher.state
    models = {model: "unavailable" if report.problem else "available" for model, report in state.models.items()}
    is_ready = state.is_ready and not dispatcher.is_draining and "available" in models.values()
    body = {
        "status": "ready" if is_ready else "not ready",
        "worker": "ready" if state.is_ready else "starting",
        "device": state.device,
        "restarts": state.restarts,
        "models": models,
    }
    return JSONResponse(body, status_code=200 if is_ready else 503)
