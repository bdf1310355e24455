"""Guards that a request is served by one edition of models.yaml from its begin to its end."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from starlette.datastructures import State
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from server.api.editions import Editions, Tenancy
from server.api.services import Services, services_of


class Edition:
    """Stands for the services; only who it is matters."""


def an_edition() -> Services:
    return cast("Services", Edition())


@pytest.fixture
def over() -> list[Services]:
    return []


@pytest.fixture
def editions(over: list[Services]) -> Editions:
    return Editions(State({"services": an_edition()}), over.append)


def test_an_edition_is_over_once_its_last_request_has_ended(editions: Editions, over: list[Services]) -> None:
    first, second = editions.now, an_edition()
    with editions.lease() as one, editions.lease():
        editions.exchange(second)
        assert (one, editions.now, over) == (first, second, [])
        with editions.lease() as late:
            assert late is second
        assert (over, editions.requests) == ([], 2)
    assert (over, editions.requests, editions.old) == ([first], 0, ())


def test_an_edition_that_nobody_works_with_is_over_at_once(editions: Editions, over: list[Services]) -> None:
    first = editions.now
    editions.exchange(an_edition())
    assert over == [first]


def test_a_request_sees_one_edition_however_often_it_asks(editions: Editions) -> None:
    seen: list[Services] = []

    async def app(scope: Scope, receive: Receive, _: Send) -> None:
        request = Request(scope, receive)
        seen.append(services_of(request))
        editions.exchange(an_edition())
        seen.append(services_of(request))

    async def nothing(*_: Any) -> Any:
        return None

    first = editions.now
    scope = {"type": "http", "path": "/v1/models", "headers": [], "app": type("App", (), {"state": editions.state})}
    asyncio.run(Tenancy(app, editions)(scope, nothing, nothing))
    assert seen == [first, first]
    assert editions.now is not first
