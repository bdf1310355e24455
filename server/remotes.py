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


@dataclass(frozen=True, slots=True)
class Remotes:
    """backends: by the operator's names. upstreams: their models. problems: why a backend is left out, by its name."""

    backends: dict[str, RemoteBackend] = field(default_factory=dict)
    upstreams: dict[Target, Upstream] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


def remote_backends(settings: Settings, catalogue: Catalogue, decoder: Decoder) -> Remotes:
    """None of them is reached here."""
    remotes = Remotes()
    for name, entry in catalogue.backends.items():
        problem = _forbidden(settings)
        try:
            if problem is None:
                _add(remotes, name, entry, decoder)
        except (CredentialProblem, ValueError) as reason:
            problem = str(reason)
        if problem is not None:
            remotes.problems[name] = problem
            log.warning("backend left out", extra={"backend": name, "detail": problem})
    return remotes


def _forbidden(settings: Settings) -> str | None:
    if settings.offline:
        return "this server is offline"
    return "this server is local only" if settings.local_only else None


def _add(remotes: Remotes, name: str, entry: BackendEntry, decoder: Decoder) -> None:
    """Raises CredentialProblem, and ValueError for a model that cannot be what its entry says."""
    upstreams = upstreams_of(name, entry)
    provider = provider_of(entry, os.environ)
    own = {upstream.target.model: upstream for upstream in upstreams}
    remotes.backends[name] = RemoteBackend(provider, own, entry.timeout_seconds, decoder)
    remotes.upstreams.update({upstream.target: upstream for upstream in upstreams})


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
        problem = _forbidden(settings) or _problem_of(name, entry)
        lines.append(f"backend {name}: {problem or 'ok'}")
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


def _problem_of(name: str, entry: BackendEntry) -> str | None:
    try:
        upstreams_of(name, entry)
        provider_of(entry, os.environ)
    except (CredentialProblem, ValueError) as problem:
        return str(problem)
    return None


def _successor(name: str | None) -> str:
    return "" if name is None else f", its successor is {name}"


def needs_lasting_books(settings: Settings, catalogue: Catalogue) -> bool:
    """Whether a limit for the day is set that a restart would forget."""
    limits = [settings.daily_usd, *(entry.daily_usd for entry in catalogue.backends.values())]
    return bool(catalogue.backends) and settings.ledger is None and any(limit is not None for limit in limits)
