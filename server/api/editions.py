"""Which edition of models.yaml a request is served by: the one that was in force when it came, to its end.

Knows bundles of services and how many requests work with each; knows no catalogue.
Invariant: no request sees two editions. An edition is over once it is not in force and its last request has ended; it
is told of that once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from server.api.services import SERVICES, Services

# Those who ask how the server is are no work of it.
PROBES = "/health/"


class Editions:
    """state: of the application, where the edition in force is kept."""

    def __init__(self, state: State, on_over: Callable[[Services], None]) -> None:
        self.state, self._on_over = state, on_over
        self._requests: Counter[Services] = Counter()
        self._old: list[Services] = []

    @property
    def now(self) -> Services:
        services: Services = self.state.services
        return services

    @property
    def old(self) -> tuple[Services, ...]:
        """Those that requests on their way still work with."""
        return tuple(self._old)

    @property
    def requests(self) -> int:
        """How many are on their way."""
        return self._requests.total()

    def exchange(self, new: Services) -> None:
        """Put another edition in force, for the requests that come from now on."""
        going, self.state.services = self.now, new
        self._old.append(going)
        self._look_at(going)

    @contextmanager
    def lease(self) -> Iterator[Services]:
        """For one request, from its begin to its end."""
        services = self.now
        self._requests[services] += 1
        try:
            yield services
        finally:
            self._requests[services] -= 1
            self._look_at(services)

    def _look_at(self, services: Services) -> None:
        if services in self._old and not self._requests[services]:
            self._old.remove(services)
            del self._requests[services]
            self._on_over(services)


class Tenancy:
    """The ASGI layer that gives each request its edition."""

    def __init__(self, app: ASGIApp, editions: Editions) -> None:
        self._app, self._editions = app, editions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(PROBES):
            await self._app(scope, receive, send)
            return
        with self._editions.lease() as services:
            scope[SERVICES] = services
            await self._app(scope, receive, send)
