"""Two questions of an orchestrator: is the process alive, and can it draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse

from pipelines.messages import ModelReport
from server.api.services import Services, services_of


async def live(_: Request) -> JSONResponse:
    """The server process answers."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> JSONResponse:
    """A worker takes jobs, at least one model can be served, and the books can be kept."""
    services = services_of(request)
    lanes = services.dispatcher.lanes
    reports = {model: services.local.reports(model) for model in services.catalogue.models}
    models = {model: _served(found) for model, found in reports.items() if found}
    ledger = await services.ledger.problem()
    reasons = [*_reasons(services, models), *([] if ledger is None else [ledger])]
    body = {
        "status": "not ready" if reasons else "ready",
        "reasons": reasons,
        "worker": _of_all([lane.state for lane in lanes]),
        "device": lanes[0].device,
        "restarts": sum(lane.restarts for lane in lanes),
        "workers": [{"device": lane.device, "state": lane.state, "restarts": lane.restarts} for lane in lanes],
        "models": models,
        "ledger": "ready" if ledger is None else ledger,
    }
    return JSONResponse(body, status_code=503 if reasons else 200)


def _reasons(services: Services, models: Mapping[str, str]) -> Iterator[str]:
    """Why nothing can be drawn now, in words for anybody who asks."""
    dispatcher = services.dispatcher
    if dispatcher.is_draining:
        yield "The server is stopping."
    if not any(lane.state == "ready" for lane in dispatcher.lanes):
        yield "No worker takes jobs."
    elif "available" not in models.values():
        yield "No model can be served."


def _of_all(states: Sequence[str]) -> str:
    """The best of them."""
    return min(states, key=("ready", "silent", "starting").index)


def _served(reports: Sequence[ModelReport]) -> str:
    """Available if it is so on one of the devices."""
    return "available" if any(report.problem is None for report in reports) else "unavailable"
