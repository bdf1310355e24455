"""Every route of the server, in one table: its path, what answers, and what a caller needs to use it.

Knows routes and needs; does none of their work.
Invariant: a route that is in no table here is closed: the application does not start with it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.api import admin, files, health, images, metrics, models, reload, usage_rows, usage_sums
from server.api.bodies import EditBody, GenerationBody, VariationBody
from server.api.description import asking, operation
from server.api.gate import Need, close
from server.api.reply_schemas import ImagesReply, Model, ModelList, ReloadReply
from server.api.turnstile import Turnstile
from server.api.usage_schemas import CostsUsage, ImagesUsage, SummaryUsage, UsagePage

# The last two are Azure's, whose client writes the model into the path too.
PREFIXES = ("/v1", "/api", "", "/openai", "/openai/v1")
DEPLOYMENT = "/openai/deployments/{deployment:path}"


@dataclass(frozen=True, slots=True)
class RouteEntry:
    """described: what the OpenAPI page says of it; None: it is not on the page. is_limited: it draws, and stands
    behind a turnstile."""

    path: str
    endpoint: Callable[[Request], Awaitable[Response]]
    need: Need
    methods: tuple[str, ...] = ("GET",)
    described: dict[str, Any] | None = None
    is_limited: bool = False


_IMAGES = (
    ("generations", images.generate, GenerationBody),
    ("edits", images.edit, EditBody),
    ("variations", images.vary, VariationBody),
)
_SUMS = (
    ("/organization/usage/images", usage_sums.IMAGES, ImagesUsage),
    ("/organization/costs", usage_sums.COSTS, CostsUsage),
    ("/usage/summary", usage_sums.SUMMARY, SummaryUsage),
)
# Served under every prefix, and described under /v1.
PREFIXED = (
    *(
        RouteEntry(f"/images/{word}", endpoint, "generate", ("POST",), operation(ImagesReply, body), is_limited=True)
        for word, endpoint, body in _IMAGES
    ),
    RouteEntry("/models", models.list_models, "anybody", described=operation(ModelList)),
    RouteEntry("/models/{model:path}", models.get_model, "anybody", described=operation(Model)),
    RouteEntry("/usage", usage_rows.list_rows, "usage", described=asking(UsagePage, usage_rows.PARAMS, usage_rows.CSV)),
    *(
        RouteEntry(path, usage_sums.route(report), "usage", described=asking(told, report.params))
        for path, report, told in _SUMS
    ),
)
_CHANGED = operation(Model, refusals=(403, 409, 500, 503))
PLAIN = (
    *(
        RouteEntry(f"/admin/models/{{model:path}}/{verb}", change, "admin", ("POST",), _CHANGED)
        for verb, change in admin.VERBS.items()
    ),
    RouteEntry("/admin/reload", reload.reload, "admin", ("POST",), operation(ReloadReply, refusals=(403, 409, 500))),
    # Whoever knows a result's name may have it: it is not to be guessed, and pages show it without a key.
    RouteEntry("/files/{name}", files.get_file, "nobody", ("GET", "HEAD"), {}),
    RouteEntry("/health/live", health.live, "nobody", described={}),
    RouteEntry("/health/ready", health.ready, "nobody", described={}),
    RouteEntry("/metrics", metrics.scrape, "metrics", described={}),
)
# The framework's own: what the server is, told without a word of who uses it.
OF_THE_FRAMEWORK: dict[str, Need] = {
    "/openapi.json": "nobody",
    "/docs": "nobody",
    "/docs/oauth2-redirect": "nobody",
    "/static-offline-docs": "nobody",
}


def add_routes(app: FastAPI) -> None:
    """All of the table, each behind its gate. Raises LookupError where the application has another one."""
    needs = dict(OF_THE_FRAMEWORK)
    for entry in PREFIXED:
        for prefix in (*PREFIXES, DEPLOYMENT) if entry.is_limited else PREFIXES:
            _add(app, entry, prefix, is_listed=prefix == "/v1")
            needs[prefix + entry.path] = entry.need
    for entry in PLAIN:
        _add(app, entry, "", is_listed=entry.described is not None)
        needs[entry.path] = entry.need
    close(app, needs)


def _add(app: FastAPI, entry: RouteEntry, prefix: str, *, is_listed: bool) -> None:
    app.add_api_route(
        prefix + entry.path,
        entry.endpoint,
        methods=list(entry.methods),
        openapi_extra=entry.described or None,
        include_in_schema=is_listed,
        response_model=None,
    )
    route = app.routes[-1]
    if entry.is_limited and isinstance(route, Route):
        route.app = Turnstile(route.app)
