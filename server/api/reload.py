"""POST /admin/reload: have models.yaml read again, while requests on their way end by the one that they began with.

Knows the answer's form; the work is done by whoever the application names for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse

from server.api.admin import refuse_strange_pages
from server.api.services import services_of
from server.core.catalogue_changes import Changes

NOT_RELOADED = (
    "Settings (SAFELIGHT_*), flags and what else stands in the environment, such as the credentials of providers, are "
    "read at the start alone: restart the server for these."
)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """problems: what of the new file cannot be served, by its model or backend; all else is."""

    changes: Changes
    problems: dict[str, str]

    def told(self) -> dict[str, Any]:
        changes: dict[str, Any] = msgspec.to_builtins(self.changes)
        return {"object": "reload", **changes, "problems": self.problems, "not_reloaded": NOT_RELOADED}


Reload = Callable[[], Awaitable[Reloaded]]


async def reload(request: Request) -> JSONResponse:
    """Take over what models.yaml says now, all or nothing."""
    refuse_strange_pages(request, services_of(request))
    again: Reload = request.app.state.reload
    return JSONResponse((await again()).told())
