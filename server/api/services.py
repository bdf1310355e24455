"""What the routes work with, handed to them by the application: no globals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from pipelines.messages import ModelSpec
from server.access.door import Door
from server.api.parse import Reach
from server.backends.local import LocalBackend
from server.backends.remote import RemoteBackend
from server.core.catalogue import Catalogue
from server.core.settings import Settings
from server.dispatch.dispatcher import Dispatcher
from server.idempotency.desk import Desk
from server.images.decoder import Decoder
from server.images.fetch import FetchPolicy
from server.images.store import ResultStore
from server.ledger.ledger import Ledger
from server.limits.limiter import Limiter
from server.metrics.metrics import Metrics
from server.metrics.traces import Traces
from server.policy.policy import Policy
from server.routing.router import Router

# In a request's scope: the edition that it is served by.
SERVICES = "safelight.services"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Services:
    """One server's parts, in one edition of models.yaml.

    door: says who asks. fetch_policy: None offline, where no picture is fetched. reach: who could serve what. local:
    our own devices as a backend. remotes: the providers, which hold connections. base_url: what result URLs start with,
    without a slash at the end. policy: what may be drawn and may leave; everything, unless models.yaml says otherwise.
    traces: None where nobody traces. specs: of our models by their ids, under the names that the workers have for them.
    """

    settings: Settings
    door: Door
    catalogue: Catalogue
    dispatcher: Dispatcher
    files: ResultStore
    decoder: Decoder
    fetch_policy: FetchPolicy | None
    reach: Reach
    local: LocalBackend
    router: Router
    ledger: Ledger
    metrics: Metrics = field(default_factory=Metrics)
    traces: Traces | None = None
    remotes: tuple[RemoteBackend, ...]
    base_url: str
    started_unix_seconds: int
    limiter: Limiter = field(default_factory=Limiter)
    # What answers are joined and found again at; none is kept where it was not told a place.
    desk: Desk = field(default_factory=Desk)
    policy: Policy = field(default_factory=Policy)
    specs: Mapping[str, ModelSpec] = field(default_factory=dict)


def services_of(request: HTTPConnection) -> Services:
    """The same throughout a request, whatever is reloaded meanwhile."""
    services: Services = request.scope.setdefault(SERVICES, request.app.state.services)
    return services
