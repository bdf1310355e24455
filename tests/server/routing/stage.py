"""A real router, with real books, over backends that play a script: what they are asked, and how they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.backends.backend import Drawn, Ears, Estimate, Order
from server.backends.capabilities import CAPABILITIES
from server.backends.upstream import Upstream
from server.core.providers import LOCAL, RemoteModel, Target
from server.core.request import ImageRequest, LocalRequest, Picture, RemoteRequest, Size
from server.ledger.entries import Row
from server.ledger.ledger import Ledger
from server.ledger.question import Question
from server.routing.accounts import Accounts, day_began_unix_ms
from server.routing.allowance import Allowance
from server.routing.choice import Weights
from server.routing.journey import Candidate, Journey, Served
from server.routing.router import Router

OURS, OPENAI, BEDROCK = Target(LOCAL, "sdxl"), Target("openai", "gpt-image-2"), Target("bedrock", "stable-core")
PRICE_USD = 0.05
COMMON: dict[str, Any] = {
    "operation": "generation",
    "prompt": "a circle",
    "sent_prompt": "a circle",
    "negative_prompt": None,
    "size": Size(64, 64),
    "response_format": "b64_json",
}


def request_for(target: Target, count: int) -> ImageRequest:
    if target.backend == LOCAL:
        more: dict[str, Any] = {"family": "sdxl", "steps": 4, "guidance_scale": 1.0, "sampler": "euler", "seed": 7}
        return LocalRequest(model=target.model, count=count, **COMMON, **more)
    return RemoteRequest(
        model=target.model,
        backend=target.backend,
        count=count,
        price_usd=PRICE_USD,
        drawn_size=Size(64, 64),
        **COMMON,
    )


@dataclass(slots=True)
class Scripted:
    """Draws, or raises what stands first in its script. seconds: its estimate. takes_seconds: how long it works. begun:
    set once it is asked. revised_prompt: what it says that it drew."""

    script: list[Exception] = field(default_factory=list)
    seconds: float | None = None
    takes_seconds: float = 0.0
    asked: int = 0
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    patience: list[float | None] = field(default_factory=list)
    revised_prompt: str | None = None

    def estimate(self, request: ImageRequest) -> Estimate:
        return Estimate(self.seconds, request.count * request.price_usd)

    async def draw(self, order: Order[ImageRequest], ears: Ears) -> Drawn:
        self.asked += 1
        self.begun.set()
        self.patience.append(order.patience_seconds)
        await asyncio.sleep(self.takes_seconds)
        if self.script:
            raise self.script.pop(0)
        picture = Picture(b"file", None, order.request.price_usd, revised_prompt=self.revised_prompt)
        pictures = [picture] * order.request.count
        for index, picture in enumerate(pictures):
            ears.on_picture(index, picture)
        return Drawn(tuple(pictures), sum(picture.cost_usd for picture in pictures))


@dataclass(slots=True)
class Stage:
    """targets: the route. caps_usd: for a day."""

    folder: Path
    backends: Mapping[str, Scripted]
    targets: tuple[Target, ...] = (OURS, OPENAI)
    caps_usd: Mapping[str | None, float] = field(default_factory=dict)
    fallback_share: float = 0.2
    models: Mapping[Target, RemoteModel] = field(default_factory=dict)

    @asynccontextmanager
    async def router(self) -> AsyncIterator[Router]:
        ledger = Ledger(f"sqlite:///{self.folder / 'ledger.sqlite'}", deadline_seconds=2.0)
        await ledger.open()
        upstreams = {
            target: Upstream(target, "openai", self.models.get(target, RemoteModel()), CAPABILITIES["compatible"])
            for target in (OPENAI, BEDROCK)
        }
        weights = Weights(100.0, 30.0)
        router = Router(
            self.backends, upstreams, Accounts(ledger, self.caps_usd), weights, Allowance(self.fallback_share)
        )
        try:
            yield router
            await router.finish()
        finally:
            await ledger.close()

    def journey(self, count: int = 1, deadline_seconds: float | None = None) -> Journey:
        async def ready(request: ImageRequest) -> ImageRequest:
            return request

        requests = {target: request_for(target, count) for target in self.targets}
        candidates = tuple(
            Candidate(target, request, lambda request=request: ready(request))  # type: ignore[misc]
            for target, request in requests.items()
        )
        return Journey(candidates, "dall-e-3", deadline_seconds)

    def draw(self, count: int = 1) -> Served:
        async def once() -> Served:
            async with self.router() as router:
                return await router.draw(self.journey(count))

        return asyncio.run(once())

    def rows(self) -> list[Row]:
        async def read() -> list[Row]:
            ledger = Ledger(f"sqlite:///{self.folder / 'ledger.sqlite'}")
            await ledger.open()
            try:
                page = await ledger.rows(Question(0, 2**52), after=None, limit=10_000)
                return list(page.rows)
            finally:
                await ledger.close()

        return asyncio.run(read())

    def spent_microusd(self) -> dict[str, int]:
        async def read() -> dict[str, int]:
            ledger = Ledger(f"sqlite:///{self.folder / 'ledger.sqlite'}")
            await ledger.open()
            try:
                return await ledger.spent_microusd(day_began_unix_ms())
            finally:
                await ledger.close()

        return asyncio.run(read())
