"""What an operator should know of his keys before a server starts with them.

Knows records and the catalogue's names; starts nothing.
"""

from __future__ import annotations

from pathlib import Path

from server.access.allowed import unknown_names
from server.access.keys_file import read_keys
from server.access.records import KeyRecord, KeysProblem
from server.core.catalogue import Catalogue


def problems_of(path: Path, catalogue: Catalogue, now_unix_seconds: float) -> list[str]:
    """Sentences; none where all is well."""
    try:
        records = read_keys(path).file.keys
    except KeysProblem as problem:
        return [str(problem)]
    usable = [record for record in records if record.is_usable(now_unix_seconds)]
    if not usable:
        return [f"{path} holds no usable key: nobody could use the server."]
    return [sentence for record in usable for sentence in _problems_of(record, catalogue)]


def _problems_of(record: KeyRecord, catalogue: Catalogue) -> list[str]:
    unknown = unknown_names(frozenset(record.models or ()), catalogue)
    return [f"{record.id} ({record.name}) allows {name!r}, which models.yaml does not have." for name in unknown]
