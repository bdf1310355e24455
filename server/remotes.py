"""The providers of one server: built where the operator allows them and their credentials are there.

Knows models.yaml's backends and the adapters; asks nobody anything.
Invariant: offline or local only, no adapter exists; a backend that cannot be built is left out, and says why.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from server.backends.capabilities import capabilities_of
from server.backends.credentials import CredentialProblem
from server.backends.provider import Provider
from server.backends.remote import RemoteBackend
from server.backends.upstream import Upstream
from server.core.catalogue import Catalogue
from server.core.providers import BackendEntry, Target
from server.core.settings import Settings
from server.images.decoder import Decoder

log = logging.getLogger("safelight.app")


class NotSetUp(Exception):
    """Why a backend is left out, as a sentence."""


@dataclass(frozen=True, slots=True)
class Remotes:
    """backends: by the operator's names. upstreams: their models. problems: why a backend is left out, by its name."""

    backends: dict[str, RemoteBackend] = field(default_factory=dict)
    upstreams: dict[Target, Upstream] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def remote_backends(settings: Settings, catalogue: Catalogue, decoder: Decoder, kept: Remotes | None = None) -> Remotes:
    """None of them is reached here. kept: those that there are already and that are the same."""
    remotes = Remotes() if kept is None else Remotes(dict(kept.backends), dict(kept.upstreams))
    for name, entry in catalogue.backends.items():
        if name in remotes.backends:
            continue
        try:
            upstreams, provider = _parts(settings, name, entry)
        except NotSetUp as problem:
            remotes.problems[name] = str(problem)
            log.warning("backend left out", extra={"backend": name, "detail": str(problem)})
            continue
        own = {upstream.target.model: upstream for upstream in upstreams}
        remotes.backends[name] = RemoteBackend(provider, own, entry.timeout_seconds, decoder)
        remotes.upstreams.update({upstream.target: upstream for upstream in upstreams})
    return remotes


def _parts(settings: Settings, name: str, entry: BackendEntry) -> tuple[list[Upstream], Provider]:
    """Raises NotSetUp where the settings forbid it, a credential is missing, or a model is not what its entry says."""
    if settings.offline:
        raise NotSetUp("this server is offline")
    if settings.local_only:
        raise NotSetUp("this server is local only")
    try:
        return upstreams_of(name, entry), provider_of(entry, os.environ)
    except (CredentialProblem, ValueError) as problem:
        raise NotSetUp(str(problem)) from None


def upstreams_of(name: str, entry: BackendEntry) -> list[Upstream]:
    """Raises ValueError."""
    return [
        Upstream(
            Target(name, model), entry.kind, one, capabilities_of(model, one, entry.kind), entry.preference_seconds
        )
        for model, one in entry.models.items()
    ]


def provider_of(entry: BackendEntry, environment: Mapping[str, str]) -> Provider:
    """The adapter. Raises CredentialProblem. Imported here, as the SDKs take longer to load than all of the server."""
    if entry.kind == "openai":
        from server.backends import openai_provider  # noqa: PLC0415

        return openai_provider.provider_of(entry, environment)
    from server.backends import bedrock_provider  # noqa: PLC0415

    return bedrock_provider.provider_of(entry, environment)


def findings(settings: Settings, catalogue: Catalogue) -> list[str]:
    """What `safelight check` says of providers and of other people's names, a line each. Nobody is asked."""
    today, lines = datetime.now(UTC).date(), []
    for name, entry in catalogue.backends.items():
        lines.append(f"backend {name}: {_state_of(settings, name, entry)}")
        lines += [
            f"backend {name}, {model}: retired {one.retired}{_successor(one.successor)}; it is not asked"
            for model, one in entry.models.items()
            if one.is_over(today)
        ]
        is_limited = settings.daily_usd is not None or entry.daily_usd is not None
        lines += [
            f"backend {name}, {model}: has no prices, so that a limit in USD cannot hold it back"
            for model, one in entry.models.items()
            if is_limited and not one.prices
        ]
    for name in catalogue.names():
        life = catalogue.name_entry(name)
        if life is not None and life.retired is not None:
            past = "was switched off" if life.is_over(today) else "is switched off"
            served = ", ".join(map(str, catalogue.targets(name)))
            lines.append(f"{name}: {past} on {life.retired} where it came from; here {served} serves it")
    return lines


def _state_of(settings: Settings, name: str, entry: BackendEntry) -> str:
    try:
        _parts(settings, name, entry)
    except NotSetUp as problem:
        return str(problem)
    return "ok"


def _successor(name: str | None) -> str:
    return "" if name is None else f", its successor is {name}"


NO_LASTING_BOOKS = "SAFELIGHT_LEDGER: a limit in USD for a day needs books that outlive the server: name a database"


def needs_lasting_books(settings: Settings, catalogue: Catalogue) -> bool:
    """Whether a limit for the day is set that a restart would forget."""
    limits = [settings.daily_usd, *(entry.daily_usd for entry in catalogue.backends.values())]
    return bool(catalogue.backends) and settings.ledger is None and any(limit is not None for limit in limits)
