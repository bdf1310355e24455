"""The only parse of a request for pictures: from wire values to what each of those who could serve it would be asked.

Knows the catalogue's names and routes; knows no process and no upstream.
Invariant: whoever is among the candidates can do all that was asked for; where nobody can, the refusal is the first
one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.access.allowed import allowed_targets
from server.api.asked import Asked, asked_for, checked_body
from server.api.bodies import CommonBody
from server.api.parse_local import parse_local
from server.api.parse_remote import parse_remote
from server.api.parsed import Parsed
from server.backends.upstream import Upstream
from server.core import errors
from server.core.caller import ANYBODY, Caller
from server.core.catalogue import Catalogue
from server.core.providers import LOCAL, BackendKind, Target
from server.core.request import ImageRequest, Operation, ResponseFormat


@dataclass(frozen=True, slots=True)
class Reach:
    """Who could serve on this server. upstreams: the models of the providers that are set up. local_format: what
    names of our own answer with where a request does not say."""

    catalogue: Catalogue
    upstreams: Mapping[Target, Upstream] = field(default_factory=dict)
    local_format: ResponseFormat = "url"


def parse(
    operation: Operation, values: Mapping[str, Any], reach: Reach, caller: Caller = ANYBODY
) -> tuple[Parsed[ImageRequest], ...]:
    """Those who could serve, in the operator's order; at least one. values: JSON values, or files as bytes, by their
    parameters. Raises SafelightError: 400 for a parameter, 404 for the model, 403 for one that the caller may not ask
    for, 503 where nobody is set up."""
    body = checked_body(operation, values)
    targets = _targets(body, reach, caller)
    asked = asked_for(operation, body, values)
    candidates: list[Parsed[ImageRequest]] = []
    refusals: list[errors.SafelightError] = []
    for target in targets:
        try:
            candidates.append(_parsed_for(asked, target, reach))
        except errors.SafelightError as refusal:
            refusals.append(refusal)
    if not candidates:
        raise refusals[0]
    return tuple(candidates)


def _parsed_for(asked: Asked, target: Target, reach: Reach) -> Parsed[ImageRequest]:
    if target.backend == LOCAL:
        return parse_local(asked, target.model, reach.catalogue.models[target.model], reach.local_format)
    return parse_remote(asked, reach.upstreams[target], reach.local_format)


def _targets(body: CommonBody, reach: Reach, caller: Caller) -> tuple[Target, ...]:
    """Who serves the name for this caller, of the kind that was asked for."""
    named = allowed_targets(caller, body.model, reach.catalogue)
    there = tuple(target for target in named if target.backend == LOCAL or target in reach.upstreams)
    kinds = {kind_of(target, reach) for target in there}
    if body.provider is not None and body.provider not in kinds:
        raise _no_such_provider(body.provider, sorted(kinds), caller)
    if body.local_only and body.provider not in (None, LOCAL):
        message = f"'local_only' and the provider '{body.provider}' contradict each other: send one of them."
        raise errors.invalid_parameter("local_only", message)
    if body.local_only and LOCAL not in kinds:
        message = "Invalid value for 'local_only': no model of this server serves that name. Leave 'local_only' out."
        raise errors.invalid_parameter("local_only", message)
    wanted: BackendKind | None = "local" if body.local_only else body.provider
    found = tuple(target for target in there if wanted in (None, kind_of(target, reach)))
    if not found:
        raise errors.backend_unavailable()
    return found


def kind_of(target: Target, reach: Reach) -> BackendKind:
    return "local" if target.backend == LOCAL else reach.upstreams[target].kind


def _no_such_provider(asked: str, kinds: list[BackendKind], caller: Caller) -> errors.SafelightError:
    if not kinds:
        return errors.backend_unavailable()
    listed = " and ".join(f"'{kind}'" for kind in kinds)
    where = "with this key" if caller.local_only or caller.models is not None else "on this server"
    message = f"The provider '{asked}' does not serve this name {where}. Supported values are: {listed}."
    return errors.invalid_parameter("provider", message)
