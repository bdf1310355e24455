"""GET /metrics: what this server counts, for Prometheus."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from server.api.services import services_of
from server.metrics.scrape import Scrape


async def scrape(request: Request) -> Response:
    """As text, or as OpenMetrics where the client asks for it."""
    services = services_of(request)
    read = Scrape(
        metrics=services.metrics,
        catalogue=services.catalogue,
        dispatcher=services.dispatcher,
        decoder=services.decoder,
        files=services.files,
        files_limit_bytes=services.settings.files_quota_bytes,
        ledger=services.ledger,
        router=services.router,
    )
    page = await read.page(request.headers.get("accept", ""))
    return Response(page.content, media_type=page.media_type, headers={"cache-control": "no-store"})
