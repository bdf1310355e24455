"""A provider's model, as this server knows it: where it is, what its entry says, and what it can do."""

from __future__ import annotations

from dataclasses import dataclass

from server.backends.capabilities import Capabilities
from server.core.providers import RemoteKind, RemoteModel, Target


@dataclass(frozen=True, slots=True)
class Upstream:
    """kind: of its backend. preference_seconds: how much slower it may be than others and still come first."""

    target: Target
    kind: RemoteKind
    entry: RemoteModel
    can: Capabilities
    preference_seconds: float = 0.0
