"""What one edition of models.yaml says otherwise than the one before.

Knows two catalogues; knows no processes.
Invariant: whatever a request could notice of the exchange is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from server.core.catalogue import Catalogue


class Difference(msgspec.Struct, frozen=True):
    """Of one part of the file, by its keys, sorted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


class Changes(msgspec.Struct, frozen=True):
    """other: the keys of the file itself that have another value, such as default_model."""

    models: Difference = Difference()
    names: Difference = Difference()
    backends: Difference = Difference()
    other: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.models or self.names or self.backends or self.other)


def changes_between(before: Catalogue, after: Catalogue) -> Changes:
    return Changes(
        # The adapters of a model's folder are in its entry by now.
        _difference(before.models, after.models),
        _difference(before.name_entries, after.name_entries),
        _difference(before.backends, after.backends),
        tuple(sorted(key for key, value in before.other.items() if after.other[key] != value)),
    )


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Difference:
    both = before.keys() & after.keys()
    return Difference(
        tuple(sorted(after.keys() - both)),
        tuple(sorted(before.keys() - both)),
        tuple(sorted(key for key in both if before[key] != after[key])),
    )
