"""Parts of a server joined for tests: the parse for our own models, and a router over a dispatcher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from server.api.parse import Reach, parse
from server.api.parsed import Parsed
from server.backends.local import LocalBackend
from server.core.catalogue import Catalogue
from server.core.providers import LOCAL
from server.core.request import LocalRequest, Operation, ResponseFormat
from server.dispatch.dispatcher import Dispatcher
from server.ledger.ledger import Ledger
from server.routing.accounts import Accounts
from server.routing.allowance import Allowance
from server.routing.choice import Weights
from server.routing.router import Router


def parse_locally(
    operation: Operation, values: Mapping[str, Any], catalogue: Catalogue, local_format: ResponseFormat = "url"
) -> Parsed[LocalRequest]:
    """What the only candidate would draw."""
    (candidate,) = parse(operation, values, Reach(catalogue, local_format=local_format))
    return cast("Parsed[LocalRequest]", candidate)


def local_backend(dispatcher: object, families: Mapping[str, Any], *, usd_per_device_hour: float = 0.0) -> LocalBackend:
    """dispatcher: anything that draws as the real one does."""
    fake = cast(Dispatcher, dispatcher)
    return LocalBackend(fake, families, has_facts=True, usd_per_device_hour=usd_per_device_hour)


def local_router(local: LocalBackend, ledger: Ledger) -> Router:
    """Nobody else is asked."""
    return Router({LOCAL: local}, {}, Accounts(ledger, {}), Weights(100.0, 30.0), Allowance(0.2))
