"""Two questions of an orchestrator: is the process alive, and can it draw."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse

from pipelines.messages import ModelReport
from server.api.services import services_of


async def live(_: Request) -> JSONResponse:
    """The server process answers."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> JSONResponse:
    """A worker takes jobs, and at least one model can be served."""
    services = services_of(request)
    dispatcher = services.dispatcher
    reports = {model: dispatcher.reports(model) for model in services.catalogue.models}
    models = {model: _served(found) for model, found in reports.items() if found}
    workers = [
        {"device": lane.device, "state": "ready" if lane.is_ready else "starting", "restarts": lane.restarts}
        for lane in dispatcher.lanes
    ]
    has_worker = any(lane.is_ready for lane in dispatcher.lanes)
    is_ready = has_worker and not dispatcher.is_draining and "available" in models.values()
    body = {
        "status": "ready" if is_ready else "not ready",
        "worker": "ready" if has_worker else "starting",
        "device": dispatcher.lanes[0].device,
        "restarts": sum(lane.restarts for lane in dispatcher.lanes),
        "workers": workers,
        "models": models,
    }
    return JSONResponse(body, status_code=200 if is_ready else 503)


def _served(reports: Sequence[ModelReport]) -> str:
    """Available if it is so on one of the devices."""
    return "available" if any(report.problem is None for report in reports) else "unavailable"
