"""The providers of one server: built where the operator allows them and their credentials are there.

Knows models.yaml's backends and the adapters; asks nobody anything.
Invariant: offline or local only, no adapter exists; a backend whose credentials are missing is left out, and says why.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.backends.remote import RemoteBackend
from server.backends.upstream import Upstream
from server.core.catalogue import Catalogue
from server.core.providers import Target
from server.core.settings import Settings
from server.images.decoder import Decoder

log = logging.getLogger("safelight.app")


@dataclass(frozen=True, slots=True)
class Remotes:
    """backends: by the operator's names. upstreams: their models. problems: why a backend is left out, by its name."""

    backends: Mapping[str, RemoteBackend] = field(default_factory=dict)
    upstreams: Mapping[Target, Upstream] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def remote_backends(settings: Settings, catalogue: Catalogue, decoder: Decoder) -> Remotes:
    """None of them is reached here."""
    del settings, catalogue, decoder
    return Remotes()
