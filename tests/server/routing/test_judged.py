"""Nobody hears of a picture before it was let pass, and what was drawn in vain keeps its price."""

from __future__ import annotations

import asyncio

import pytest

from server.backends.backend import Drawn, Ears
from server.backends.trouble import Trouble
from server.core.request import ImageRequest, Picture
from server.routing.judged import Examine, Kept, judged
from tests.server.routing.stage import OURS, request_for

PICTURES = tuple(Picture(b"%d" % index, None, cost_usd=0.1) for index in range(3))


async def draw(ears: Ears) -> Drawn:
    for index, picture in enumerate(PICTURES):
        ears.on_picture(index, picture)
        await asyncio.sleep(0)
    return Drawn(PICTURES, 0.5)


def play(examine: Examine | None) -> tuple[list[int], Drawn | Trouble]:
    """Which pictures somebody heard of, and the end."""
    heard: list[int] = []

    async def run() -> Drawn:
        ears = Ears(on_picture=lambda index, _: heard.append(index))
        return await judged(draw, request_for(OURS, 3), ears, examine)

    try:
        return heard, asyncio.run(run())
    except Trouble as trouble:
        return heard, trouble


def keeping(index: int, kept: Kept) -> Examine:
    async def examine(place: int, picture: Picture, request: ImageRequest) -> Kept | None:
        assert picture is PICTURES[place]
        assert request.count == len(PICTURES)
        return kept if place == index else None

    return examine


def test_where_nothing_is_examined_pictures_pass_as_they_come() -> None:
    assert play(None) == ([0, 1, 2], Drawn(PICTURES, 0.5))


def test_pictures_that_are_let_pass_are_told_of_and_returned() -> None:
    assert play(keeping(9, "own_policy")) == ([0, 1, 2], Drawn(PICTURES, 0.5))


@pytest.mark.parametrize("kept", ["own_policy", "unjudged"])
def test_one_that_is_kept_is_told_to_nobody_and_all_are_paid_for(kept: Kept) -> None:
    heard, end = play(keeping(1, kept))
    assert heard == [0, 2]
    assert isinstance(end, Trouble)
    assert (end.cause, end.cost_usd) == (kept, 0.5)


def test_one_whose_examination_crashes_stays_here() -> None:
    async def crash(index: int, _: Picture, __: ImageRequest) -> Kept | None:
        if index == 0:
            raise ZeroDivisionError
        return None

    heard, end = play(crash)
    assert heard == [1, 2]
    assert isinstance(end, Trouble)
    assert (end.cause, end.cost_usd) == ("unjudged", 0.5)


def test_no_picture_is_heard_of_while_it_is_examined() -> None:
    let_go = asyncio.Event()

    async def wait(*_: object) -> Kept | None:
        await let_go.wait()
        return None

    async def run() -> None:
        heard: list[int] = []
        ears = Ears(on_picture=lambda index, _: heard.append(index))
        task = asyncio.create_task(judged(draw, request_for(OURS, 3), ears, wait))
        for _ in range(20):
            await asyncio.sleep(0)
        assert heard == []
        let_go.set()
        await task
        assert heard == [0, 1, 2]

    asyncio.run(run())


def test_a_caller_who_leaves_ends_the_examinations() -> None:
    ended: list[int] = []

    async def wait(index: int, *_: object) -> Kept | None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(index)
        return None

    async def run() -> None:
        task = asyncio.create_task(judged(draw, request_for(OURS, 3), Ears(), wait))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == [0, 1, 2]

    asyncio.run(run())


def test_a_picture_that_was_never_announced_does_not_pass() -> None:
    async def silent(_: Ears) -> Drawn:
        return Drawn(PICTURES, 0.5)

    with pytest.raises(RuntimeError, match="3 pictures were drawn and 0 examined"):
        asyncio.run(judged(silent, request_for(OURS, 3), Ears(), keeping(9, "own_policy")))
