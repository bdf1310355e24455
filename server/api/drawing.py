"""Draws the pictures of one request: one job each, all or none.

Knows requests, jobs and the dispatcher; knows no wire.
Invariant: the first failure cancels the other pictures and is raised.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines.messages import Event, FamilyName, Submit
from server.api.jobs import job_of
from server.core import errors
from server.core.request import LocalRequest, Picture
from server.dispatch.dispatcher import Dispatcher

Listener = Callable[[Event], None]


def deaf(_: int) -> Listener | None:
    """Nobody listens."""
    return None


def unmoved(_: int, __: Picture) -> None:
    """Nobody waits for single pictures."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A request on its way."""

    request: LocalRequest
    family: FamilyName
    dispatcher: Dispatcher
    has_facts: bool
    wants_progress: bool = False
    request_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def jobs(self) -> list[Submit]:
        options = {"has_facts": self.has_facts, "wants_progress": self.wants_progress}
        return [
            job_of(self.request, self.family, self.request_id, index, **options) for index in range(self.request.count)
        ]

    def place(self, index: int) -> int:
        """How many pictures are in front of this one; 0 once it has begun."""
        return self.dispatcher.place_of(f"{self.request_id}-{index}")

    async def draw_all(
        self,
        listener_of: Callable[[int], Listener | None] = deaf,
        on_picture: Callable[[int, Picture], None] = unmoved,
    ) -> list[Picture]:
        """In their order. listener_of: who hears of picture i. on_picture: told of each as soon as it is there."""

        async def draw(index: int, job: Submit) -> Picture:
            image = await self.dispatcher.draw(job, listener_of(index))
            picture = Picture(image.file, job.params.seed, image.device_seconds)
            on_picture(index, picture)
            return picture

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(draw(index, job)) for index, job in enumerate(self.jobs())]
        except ExceptionGroup as failures:
            raise _first(failures) from None
        return [task.result() for task in tasks]


def _first(failures: ExceptionGroup[Exception]) -> Exception:
    """The failure that the caller is told: a defect before the errors that we know, or it would stay unseen."""
    _, defects = failures.split(errors.SafelightError)
    return (defects or failures).exceptions[0]
