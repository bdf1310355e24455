"""Guards who is let in: by the limits of its key and of the server, and nothing is lost on those who are not."""

from __future__ import annotations

import asyncio

import pytest

from server.core.caller import ANYBODY, Caller, Limits
from server.core.errors import SafelightError
from server.limits.limiter import Limiter


def key(name: str, **limits: int) -> Caller:
    return Caller(key_id=name, name=name, scopes=frozenset({"generate"}), limits=Limits(**limits))


def refused(limiter: Limiter, caller: Caller) -> SafelightError:
    with pytest.raises(SafelightError) as caught:
        asyncio.run(limiter.enter(caller))
    return caught.value


def test_without_limits_everybody_is_let_in_and_no_header_says_anything() -> None:
    async def play() -> list[dict[str, str]]:
        limiter = Limiter()
        visits = [await limiter.enter(ANYBODY) for _ in range(1000)]
        for visit in visits:
            await limiter.add_pictures(visit, 10)
        return [await limiter.headers(visit) for visit in visits]

    assert asyncio.run(play()) == [{}] * 1000


def test_a_key_beyond_its_requests_is_told_when_to_come_back_and_others_are_let_in() -> None:
    limiter, first = Limiter(), key("a", requests_per_minute=2, images_per_minute=9)
    for _ in range(2):
        asyncio.run(limiter.enter(first))
    error = refused(limiter, first)
    assert (error.status, error.code, error.row.kind) == (429, "rate_limit_exceeded", "rate_limit_error")
    headers = error.headers()
    assert 59 <= int(headers.pop("retry-after")) <= 60
    assert headers.pop("x-ratelimit-reset-requests") in {"1m0s", "59.9s", "59.8s"}
    assert headers == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-limit-images": "9",
        "x-ratelimit-remaining-images": "9",
        "x-ratelimit-reset-images": "0s",
    }
    asyncio.run(limiter.enter(key("b", requests_per_minute=2)))


def test_one_keys_limit_is_no_other_keys_limit_even_where_both_are_alike() -> None:
    limiter = Limiter()
    for name in "abcdef":
        asyncio.run(limiter.enter(key(name, requests_per_minute=1)))
    refused(limiter, key("a", requests_per_minute=1))


def test_a_key_that_is_called_like_the_server_is_not_the_server() -> None:
    limiter = Limiter(Limits(requests_per_minute=5))
    for _ in range(2):
        asyncio.run(limiter.enter(key("server", requests_per_minute=2)))
    refused(limiter, key("server", requests_per_minute=2))
    for _ in range(3):
        asyncio.run(limiter.enter(key("other")))
    refused(limiter, key("other"))


def test_who_is_refused_a_slot_has_used_up_no_request_of_its_minute() -> None:
    limiter, caller = Limiter(), key("a", requests_per_minute=2, concurrent_images=1)

    async def play() -> dict[str, str]:
        visit = await limiter.enter(caller)
        for _ in range(10):
            with pytest.raises(SafelightError) as caught:
                await limiter.enter(caller)
            assert caught.value.headers()["retry-after"] == "5"
            assert caught.value.headers()["x-ratelimit-remaining-requests"] == "1"
        visit.leave()
        return await limiter.headers(await limiter.enter(caller))

    assert asyncio.run(play())["x-ratelimit-remaining-requests"] == "0"


def test_who_is_refused_its_request_holds_no_slot() -> None:
    limiter, caller = Limiter(), key("a", requests_per_minute=1, concurrent_images=5)
    asyncio.run(limiter.enter(caller))
    refused(limiter, caller)
    assert limiter.slots.held("key:a") == 1


def test_a_request_holds_a_slot_for_each_of_its_pictures_and_gives_all_back() -> None:
    limiter, caller = Limiter(), key("a", concurrent_images=4)

    async def play() -> None:
        visit, other = await limiter.enter(caller), await limiter.enter(caller)
        await limiter.add_pictures(visit, 3)
        with pytest.raises(SafelightError) as caught:
            await limiter.add_pictures(other, 2)
        assert caught.value.code == "rate_limit_exceeded"
        other.leave()
        visit.leave()
        visit.leave()
        assert limiter.slots.held("key:a") == 0

    asyncio.run(play())


def test_who_asks_for_pictures_too_early_is_told_when_and_has_used_up_none() -> None:
    limiter, caller = Limiter(), key("a", images_per_minute=5)

    async def play() -> SafelightError:
        visit = await limiter.enter(caller)
        await limiter.add_pictures(visit, 3)
        with pytest.raises(SafelightError) as caught:
            await limiter.add_pictures(await limiter.enter(caller), 3)
        await limiter.add_pictures(await limiter.enter(caller), 2)
        return caught.value

    error = asyncio.run(play())
    assert error.headers()["x-ratelimit-remaining-images"] == "2"
    assert 59 <= int(error.headers()["retry-after"]) <= 60


@pytest.mark.parametrize("name", ["images_per_minute", "concurrent_images"])
def test_what_no_waiting_would_let_through_is_refused_as_wrong(name: str) -> None:
    limiter = Limiter()

    async def play() -> SafelightError:
        visit = await limiter.enter(key("a", **{name: 2}))
        with pytest.raises(SafelightError) as caught:
            await limiter.add_pictures(visit, 3)
        return caught.value

    error = asyncio.run(play())
    assert (error.status, error.code, error.param) == (400, "invalid_parameter", "n")
    assert "at most 2" in error.message
