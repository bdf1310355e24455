"""Holds back what is drawn until it was examined: nobody hears of a picture that must not leave.

Knows pictures and what examines them; knows no check and no backend.
Invariant: where pictures are examined, one is told of and returned only once it was let pass, and no picture is without
its examination. What was drawn in vain is still paid for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from server.backends.backend import Drawn, Ears
from server.backends.trouble import Facts, Trouble
from server.core.errors import SafelightError
from server.core.request import ImageRequest, Picture

# Why a picture stays here.
Kept = Literal["own_policy", "unjudged"]
# Of picture i, in answer to the request: None lets it pass. Raises SafelightError where that cannot be written down.
Examine = Callable[[int, Picture, ImageRequest], Awaitable[Kept | None]]
Draw = Callable[[Ears], Awaitable[Drawn]]


async def judged(draw: Draw, request: ImageRequest, ears: Ears, examine: Examine | None) -> Drawn:
    """What is drawn, once all of it was let pass. Each picture is examined as soon as it is there.

    Raises Trouble, with the cost of what was drawn, when one of them is not let pass; and what `draw` raises.
    """
    if examine is None:
        return await draw(ears)
    examining: list[asyncio.Task[Kept | None]] = []

    async def examined(index: int, picture: Picture) -> Kept | None:
        kept = await examine(index, picture, request)
        if kept is None:
            ears.on_picture(index, picture)
        return kept

    def hold(index: int, picture: Picture) -> None:
        examining.append(asyncio.create_task(examined(index, picture)))

    try:
        drawn = await draw(Ears(ears.listener_of, hold))
        found = await asyncio.gather(*examining, return_exceptions=True)
    finally:
        for task in examining:
            task.cancel()
        await asyncio.gather(*examining, return_exceptions=True)
    _refuse_any(found, drawn)
    if len(found) != len(drawn.pictures):
        raise RuntimeError(f"{len(drawn.pictures)} pictures were drawn and {len(found)} examined")
    return drawn


def _refuse_any(found: list[Kept | BaseException | None], drawn: Drawn) -> None:
    """Raises Trouble for the first that stays. A picture whose examination failed stays too."""
    kept = next((one for one in found if one is not None), None)
    if kept is None:
        return
    if isinstance(kept, BaseException):
        detail = kept.code if isinstance(kept, SafelightError) else type(kept).__name__
        trouble = Trouble("unjudged", Facts(detail=detail))
        trouble.__cause__ = kept
    else:
        trouble = Trouble(kept)
    trouble.cost_usd = drawn.cost_usd
    raise trouble
