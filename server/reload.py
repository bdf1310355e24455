"""Takes over a changed models.yaml while the server serves: everything that it says, or nothing of it.

Knows how a server's parts depend on the catalogue; knows no route and no signal.
Invariant: an edition is built in full before it is in force, and one that cannot be leaves all as it was. The workers
know what any request on its way may ask for, and lose it when the last of those has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace

import msgspec
from starlette.datastructures import State

from server.api.editions import Editions
from server.api.parse import Reach
from server.api.reload import Reloaded
from server.api.services import Services
from server.backends.remote import RemoteBackend
from server.core import errors
from server.core.catalogue import Catalogue
from server.core.catalogue_changes import Changes, changes_between
from server.core.catalogue_file import CatalogueProblem, load_catalogue
from server.core.providers import LOCAL
from server.core.worker_names import name_anew
from server.policy.building import PolicyProblem, build_policy
from server.policy.policy import Policy
from server.remotes import NO_LASTING_BOOKS, Remotes, needs_lasting_books, remote_backends
from server.routing.accounts import caps_usd

log = logging.getLogger("safelight.reload")
# How long the answer waits for the workers' word on the models that are new.
LOOK_SECONDS, POLL_SECONDS = 5.0, 0.05


class Reloader:
    """Of one application. state: its own; holds the first edition."""

    def __init__(self, state: State) -> None:
        self.editions = Editions(state, self._on_over)
        self._names_given = {spec.id for spec in self.editions.now.specs.values()}
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def reload(self) -> Reloaded:
        """Read models.yaml again. Raises SafelightError, with every problem named, and then nothing has changed."""
        async with self._one_at_a_time:
            now = self.editions.now
            try:
                catalogue, policy = await asyncio.to_thread(_read, now)
            except CatalogueProblem as problem:
                log.error("models.yaml is not taken over", extra={"problems": problem.problems})  # noqa: TRY400
                raise errors.catalogue_refused(problem.problems) from None
            changes = changes_between(now.catalogue, catalogue)
            new, remotes = await self._built(now, catalogue, changes)
            new = replace(new, policy=policy)
            self._put_in_force(now, new, changes)
        log.info("models.yaml is taken over", extra={"changes": msgspec.to_builtins(changes)})
        return Reloaded(changes, await self._problems(new, changes) | remotes.problems)

    def by_signal(self) -> None:
        """The same; what becomes of it stands in the log."""
        reloading = asyncio.create_task(self._logged())
        self._tasks.add(reloading)
        reloading.add_done_callback(self._tasks.discard)

    async def _logged(self) -> None:
        with contextlib.suppress(errors.SafelightError):  # is in the log by now
            await self.reload()

    async def close(self) -> None:
        """Close the providers and checks of all editions. Call once, when nothing is on its way any more."""
        editions = (self.editions.now, *self.editions.old)
        backends = {backend for services in editions for backend in services.remotes}
        closing = [*(backend.close() for backend in backends), *(services.policy.close() for services in editions)]
        await asyncio.gather(*self._tasks, *closing, return_exceptions=True)

    async def _built(self, now: Services, catalogue: Catalogue, changes: Changes) -> tuple[Services, Remotes]:
        """The same server with another catalogue; nothing of it is in force."""
        kept = _kept(now, changes)
        # SDKs are imported and set up, which takes long.
        remotes = await asyncio.to_thread(remote_backends, now.settings, catalogue, now.decoder, kept)
        specs = name_anew(catalogue.specs(), now.specs, self._names_given)
        local = now.local.with_models(specs)
        router = replace(
            now.router,
            backends={LOCAL: local, **remotes.backends},
            upstreams=remotes.upstreams,
            accounts=now.router.accounts.with_caps(caps_usd(catalogue.backends, now.settings.daily_usd)),
        )
        services = replace(
            now,
            catalogue=catalogue,
            reach=Reach(catalogue, remotes.upstreams, now.reach.local_format),
            local=local,
            router=router,
            remotes=tuple(remotes.backends.values()),
            specs=specs,
        )
        return services, remotes

    def _put_in_force(self, now: Services, new: Services, changes: Changes) -> None:
        """In one go: nothing is awaited."""
        pinned = [
            model
            for model, spec in new.specs.items()
            if model in now.specs and spec.id != now.specs[model].id and _is_pinned(now, model)
        ]
        self._names_given |= {spec.id for spec in new.specs.values()}
        for backend in (*changes.backends.changed, *changes.backends.removed):
            new.router.breakers.forget(backend)
        self.editions.exchange(new)
        self._tell_workers()
        for model in pinned:
            new.local.pin(model)

    def _tell_workers(self) -> None:
        now = self.editions.now
        current = {spec.id for spec in now.specs.values()}
        leaving = {
            spec.id: msgspec.structs.replace(spec, loading="on_demand")
            for services in self.editions.old
            for spec in services.specs.values()
            if spec.id not in current
        }
        never_together = {group for services in (now, *self.editions.old) for group in _groups(services)}
        now.dispatcher.serve(tuple(now.specs.values()), tuple(leaving.values()), tuple(sorted(never_together)))

    def _on_over(self, services: Services) -> None:
        """The last request of an edition that is not in force has ended."""
        in_use = {backend for one in (self.editions.now, *self.editions.old) for backend in one.remotes}
        # Content checks are built anew for each edition: their lists may be others though their entries are not.
        closings = [services.policy.close(), *(backend.close() for backend in set(services.remotes) - in_use)]
        for work in closings:
            closing = asyncio.get_running_loop().create_task(work)
            self._tasks.add(closing)
            closing.add_done_callback(self._tasks.discard)
        self._tell_workers()

    async def _problems(self, new: Services, changes: Changes) -> dict[str, str]:
        """Why models that are new, or others than before, cannot be served, as soon as the workers have looked."""
        models = [model for model in (*changes.models.added, *changes.models.changed) if model in new.specs]
        deadline = asyncio.get_running_loop().time() + LOOK_SECONDS
        while not all(new.local.reports(model) for model in models):
            if not new.dispatcher.is_ready.is_set() or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        reports = [report for model in models for report in new.local.reports(model)]
        return {report.id: report.problem for report in reports if report.problem is not None}


def _read(now: Services) -> tuple[Catalogue, Policy]:
    """Raises CatalogueProblem."""
    settings = now.settings
    catalogue = load_catalogue(settings.models, settings.models_folder)
    if needs_lasting_books(settings, catalogue):
        raise CatalogueProblem([NO_LASTING_BOOKS])
    if catalogue.safety_checker != now.catalogue.safety_checker:
        raise CatalogueProblem(["policy: workers know the folder of the safety checker from their start: restart"])
    try:
        return catalogue, build_policy(settings, catalogue, now.ledger.decide, now.policy.on_decision)
    except PolicyProblem as problem:
        raise CatalogueProblem(problem.problems) from problem


def _kept(now: Services, changes: Changes) -> Remotes:
    """The providers whose entries are as before; with the connections that they have."""
    others = {*changes.backends.changed, *changes.backends.removed}
    return Remotes(
        {
            name: backend
            for name, backend in now.router.backends.items()
            if isinstance(backend, RemoteBackend) and name not in others
        },
        {target: upstream for target, upstream in now.reach.upstreams.items() if target.backend not in others},
    )


def _is_pinned(services: Services, model: str) -> bool:
    return any(report.is_pinned for report in services.local.reports(model))


def _groups(services: Services) -> Iterator[tuple[str, ...]]:
    """The models of which one at a time may be on a device, as the workers call them."""
    for group in services.catalogue.never_together:
        yield tuple(services.specs[model].id for model in group)
