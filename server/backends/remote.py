"""A provider as a backend: its calls, its pictures made ours, and its bill.

Knows orders, the provider's protocol, the decoder and prices; knows no wire of any provider.
Invariant: what a provider sends is decoded and encoded anew by a bounded process before anybody gets it; an order ends
with all of its pictures or with Trouble, within its patience, and either names what may have been spent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from server.backends.backend import Drawn, Ears, Estimate, Order
from server.backends.provider import Answer, Provider, RawPicture
from server.backends.together import together
from server.backends.trouble import Facts, Trouble
from server.backends.upstream import Upstream
from server.core.errors import SafelightError
from server.core.providers import TokenPrices
from server.core.request import Picture, RemoteRequest
from server.core.tracing import hop
from server.images.decode import UnusablePicture
from server.images.decoder import Decoder

TOKENS_PER_PRICE = 1_000_000
# Calls of one request that run at once, where a model draws fewer pictures in a call than were asked for.
CALLS_AT_ONCE = 4
# So much before the order's own end each call has its end, as the provider alone knows whether anything was sent.
HEAD_START_SECONDS, LEAST_SECONDS = 0.05, 0.001


@dataclass(slots=True)
class _Bill:
    """What one order has cost so far, and what the calls that have no answer yet may cost."""

    spent_usd: float = 0.0
    open_usd: float = 0.0


class RemoteBackend:
    """models: by their names upstream. timeout_seconds: the most that one order may take."""

    def __init__(
        self, provider: Provider, models: Mapping[str, Upstream], timeout_seconds: float, decoder: Decoder
    ) -> None:
        self._provider, self._models = provider, models
        self._timeout_seconds, self._decoder = timeout_seconds, decoder

    def estimate(self, request: RemoteRequest) -> Estimate:
        """A provider's queue is unknown."""
        return Estimate(None, request.count * request.price_usd)

    async def draw(self, order: Order[RemoteRequest], ears: Ears) -> Drawn:
        """Raises Trouble, whose `cost_usd` is what may have been spent."""
        seconds = self._timeout_seconds
        if order.patience_seconds is not None:
            seconds = min(seconds, order.patience_seconds)
        bill, deadline = _Bill(), asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                pictures = await self._draw_all(order.request, deadline - HEAD_START_SECONDS, bill, ears)
        except TimeoutError:
            raise _billed(Trouble("timeout"), bill) from None
        except Trouble as trouble:
            raise _billed(trouble, bill) from None
        return Drawn(tuple(pictures), bill.spent_usd)

    async def close(self) -> None:
        await self._provider.close()

    async def _draw_all(self, request: RemoteRequest, deadline: float, bill: _Bill, ears: Ears) -> list[Picture]:
        """In their order; the first trouble ends all calls. deadline: of each call, on the loop's clock."""
        most, places = self._models[request.model].can.max_count, asyncio.Semaphore(CALLS_AT_ONCE)

        async def draw(first: int) -> list[Picture]:
            async with places:
                raw = await self._asked(request, first, min(most, request.count - first), deadline, bill)
            return [await self._ours(request, first + place, one, usd, ears) for place, (one, usd) in enumerate(raw)]

        drawn = await together((draw(first) for first in range(0, request.count, most)), Trouble)
        return [picture for pictures in drawn for picture in pictures]

    async def _asked(
        self, request: RemoteRequest, first: int, count: int, deadline: float, bill: _Bill
    ) -> list[tuple[RawPicture, float]]:
        """So many pictures with their cost, asked for again where fewer came. An answer without any is Trouble, so
        this ends."""
        pictures: list[tuple[RawPicture, float]] = []
        while len(pictures) < count:
            missing = count - len(pictures)
            answer, usd = await self._billed_call(request, first + len(pictures), missing, deadline, bill)
            pictures += [(one, usd / len(answer.pictures)) for one in answer.pictures[:missing]]
        return pictures

    async def _billed_call(
        self, request: RemoteRequest, first: int, count: int, deadline: float, bill: _Bill
    ) -> tuple[Answer, float]:
        """The answer and its cost. Until it is there, a call is taken to cost what was estimated."""
        estimate_usd = count * request.price_usd
        seconds = max(LEAST_SECONDS, deadline - asyncio.get_running_loop().time())
        bill.open_usd += estimate_usd
        try:
            with hop("call", count=count):
                answer = await self._provider.ask(request, first, count, seconds)
        except Trouble as trouble:
            bill.open_usd -= estimate_usd
            bill.spent_usd += estimate_usd if trouble.facts.is_charged else 0.0
            raise
        bill.open_usd -= estimate_usd
        cost_usd = _cost_usd(request, answer, self._models[request.model].entry.token_prices)
        bill.spent_usd += cost_usd
        return answer, cost_usd

    async def _ours(self, request: RemoteRequest, index: int, raw: RawPicture, cost_usd: float, ears: Ears) -> Picture:
        keeps_alpha = request.background == "transparent"
        try:
            file = await self._decoder.recoded(
                raw.file, request.size, request.output_format, request.output_compression, keeps_alpha=keeps_alpha
            )
        except UnusablePicture as problem:
            raise Trouble("bad_picture", Facts(detail=problem.reason)) from None
        except SafelightError as problem:  # no process to decode it in: others may serve what needs none
            raise Trouble("bad_picture", Facts(detail=problem.code)) from None
        picture = Picture(file, raw.seed, cost_usd, revised_prompt=raw.revised_prompt)
        ears.on_picture(index, picture)
        return picture


def _cost_usd(request: RemoteRequest, answer: Answer, prices: TokenPrices | None) -> float:
    """By tokens where the model bills by them and the answer names them, else by pictures."""
    if prices is None or answer.tokens is None:
        return len(answer.pictures) * request.price_usd
    tokens = answer.tokens
    whole = (
        tokens.text_in * prices.text_in_usd
        + tokens.image_in * prices.image_in_usd
        + tokens.image_out * prices.image_out_usd
    )
    return whole / TOKENS_PER_PRICE


def _billed(trouble: Trouble, bill: _Bill) -> Trouble:
    """Calls that were cut off may cost what they would have."""
    trouble.cost_usd = bill.spent_usd + bill.open_usd
    return trouble
