"""What an operator should know of his keys before a server starts with them.

Knows records and the catalogue's names; starts nothing.
"""

from __future__ import annotations

from pathlib import Path

from server.access.allowed import unknown_names
from server.access.keys_file import read_keys
from server.access.records import KeyRecord, KeysProblem
from server.core.catalogue import Catalogue
from server.core.policy_entry import CheckEntry


def problems_of(path: Path, catalogue: Catalogue, now_unix_seconds: float) -> list[str]:
    """Sentences, also of content checks for keys that were never made; none where all is well."""
    try:
        records = read_keys(path).file.keys
    except KeysProblem as problem:
        return [str(problem)]
    usable = [record for record in records if record.is_usable(now_unix_seconds)]
    if not usable:
        return [f"{path} holds no usable key: nobody could use the server."]
    names = {record.name for record in records}
    checks = [sentence for check in catalogue.policy.checks for sentence in _strangers_of(check, names)]
    return [*(sentence for record in usable for sentence in _problems_of(record, catalogue)), *checks]


def _strangers_of(check: CheckEntry, names: set[str]) -> list[str]:
    """A name that was written wrongly would be judged by nobody, without a word."""
    strangers = sorted(set(check.keys or ()) - names)
    return [f"the content check {check.name!r} names {name!r}, which no key is called." for name in strangers]


def _problems_of(record: KeyRecord, catalogue: Catalogue) -> list[str]:
    unknown = unknown_names(frozenset(record.models or ()), catalogue)
    return [f"{record.id} ({record.name}) allows {name!r}, which models.yaml does not have." for name in unknown]
