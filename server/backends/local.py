"""Our own devices as a backend: one job for each picture, all or none.

Knows requests, jobs and the dispatcher; knows no wire and no other backend.
Invariant: the first failure cancels the other pictures and is raised.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import copy

import msgspec

from pipelines.messages import Image, ModelReport, ModelSpec, Refused, Submit
from server.backends.backend import Drawn, Ears, Estimate, Order
from server.backends.jobs import job_of
from server.backends.timing import mark_parts, queue_seconds
from server.backends.together import together
from server.core import errors
from server.core.observer import DEAF, Observer
from server.core.request import LocalRequest, Picture
from server.core.tracing import hop
from server.dispatch.dispatcher import Dispatcher

SECONDS_PER_HOUR = 3600.0


class LocalBackend:
    """has_facts: whether files tell how they were drawn. usd_per_device_hour: what the operator's devices cost, beside
    what a model's entry asks for each picture. Models go by their ids; only what the dispatcher is told goes by the
    workers' names."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        has_facts: bool,
        usd_per_device_hour: float,
        observer: Observer = DEAF,
    ) -> None:
        self._dispatcher, self._observer = dispatcher, observer
        self._names: dict[str, str] = {}
        self._has_facts, self._usd_per_second = has_facts, usd_per_device_hour / SECONDS_PER_HOUR

    def with_models(self, specs: Mapping[str, ModelSpec]) -> LocalBackend:
        """The same devices with these models. specs: by their ids, under the workers' names."""
        other = copy(self)
        other._names = {model: spec.id for model, spec in specs.items()}
        return other

    def reports(self, model: str) -> list[ModelReport]:
        """What the workers say of the model, those first that could serve it soonest."""
        found = self._dispatcher.reports(self._name_of(model))
        return [msgspec.structs.replace(report, id=model) for report in found]

    def load(self, model: str) -> None:
        """Bring the model to the device that would have it soonest. Raises SafelightError when no worker is there."""
        self._dispatcher.load(self._name_of(model))

    def unload(self, model: str) -> None:
        """Let the model go from every device, once no job works with it. Raises SafelightError when it is pinned."""
        self._dispatcher.unload(self._name_of(model))

    def pin(self, model: str) -> None:
        """Keep the model on the device that has it, or would have it soonest. Raises SafelightError when no worker is
        there."""
        self._dispatcher.pin(self._name_of(model))

    def unpin(self, model: str) -> None:
        """Let the model leave when others need the room."""
        self._dispatcher.unpin(self._name_of(model))

    def _name_of(self, model: str) -> str:
        return self._names.get(model, model)

    def estimate(self, request: LocalRequest) -> Estimate:
        """Nothing is known of a model that has drawn nothing yet."""
        # Facts hold a hint's digest, which takes milliseconds and says nothing of the time.
        jobs = self._jobs(Order(request, ""), has_facts=False)
        own_seconds = self._dispatcher.own_seconds(jobs)
        if own_seconds is None:
            return Estimate(None, request.count * request.price_usd)
        seconds = own_seconds + self._dispatcher.seconds_ahead(jobs)
        return Estimate(seconds, request.count * request.price_usd + own_seconds * self._usd_per_second)

    async def draw(self, order: Order[LocalRequest], ears: Ears) -> Drawn:
        """Refuses at once what would end after its caller has given up. Raises SafelightError."""
        self._dispatcher.check_room(order.request.count)
        jobs = self._jobs(order, has_facts=self._has_facts)
        if order.patience_seconds is not None:
            self._check_duration(jobs, order.patience_seconds, is_asked=order.is_patience_asked)
        pictures = await self._draw_all(order.request, jobs, ears)
        return Drawn(tuple(pictures), sum(picture.cost_usd for picture in pictures))

    def place(self, request_id: str, index: int) -> int:
        """How many pictures are in front of this one; 0 once it has begun."""
        return self._dispatcher.place_of(f"{request_id}-{index}")

    def check_room(self, count: int) -> None:
        """Raises SafelightError when so many more pictures would be too many to wait."""
        self._dispatcher.check_room(count)

    def _jobs(self, order: Order[LocalRequest], *, has_facts: bool) -> list[Submit]:
        request = order.request
        jobs = [
            job_of(
                request,
                order.request_id,
                index,
                has_facts=has_facts,
                wants_progress=order.wants_progress,
                caller=order.caller,
            )
            for index in range(request.count)
        ]
        return [msgspec.structs.replace(job, model=self._name_of(request.model)) for job in jobs]

    def _check_duration(self, jobs: list[Submit], limit_seconds: float, *, is_asked: bool) -> None:
        own_seconds = self._dispatcher.own_seconds(jobs)
        if own_seconds is None:
            return
        if own_seconds > limit_seconds:
            refuse = errors.deadline_too_short if is_asked else errors.too_slow_for_a_plain_answer
            raise refuse(own_seconds, limit_seconds)
        seconds = own_seconds + self._dispatcher.seconds_ahead(jobs)
        if seconds > limit_seconds:
            raise (errors.queue_beyond_deadline if is_asked else errors.queue_too_long)(seconds, limit_seconds)

    async def _draw_all(self, request: LocalRequest, jobs: list[Submit], ears: Ears) -> list[Picture]:
        async def draw(index: int, job: Submit) -> Picture:
            with hop("picture", index=index):
                began_seconds = time.monotonic()
                image = await self._dispatcher.draw(job, ears.listener_of(index))
                waited_seconds = self._waited(job.model, image, time.monotonic() - began_seconds)
            cost_usd = request.price_usd + image.device_seconds * self._usd_per_second
            is_refused = isinstance(image, Refused)
            picture = Picture(
                file=b"" if isinstance(image, Refused) else image.file,
                seed=job.params.seed,
                cost_usd=cost_usd,
                device_seconds=image.device_seconds,
                check_ms=image.check_ms,
                is_refused=is_refused,
                queue_seconds=waited_seconds,
            )
            ears.on_picture(index, picture)
            return picture

        return await together((draw(index, job) for index, job in enumerate(jobs)), errors.SafelightError)

    def _waited(self, model: str, image: Image | Refused, seconds: float) -> float | None:
        """How long a picture waited for its device that is there after so many seconds."""
        if image.timeline is None:
            return None
        waited_seconds = queue_seconds(image.timeline, seconds)
        mark_parts(image.timeline, waited_seconds)
        self._observer.queued(model, waited_seconds)
        return waited_seconds
