"""Keys made for tests, in real files, as the command makes them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from server.access import changes
from server.access.changes import Issued, Wish
from server.access.keys_file import change_keys

SOON = 10**6


def issue(path: Path, name: str = "alice", **what: Any) -> Issued:
    """A key that may draw, unless `what` says otherwise."""
    wish = Wish(name=name, **{"scopes": ("generate",), **what})
    now = int(time.time())
    return change_keys(path, lambda keys: changes.created(keys.file, keys.hash_of, wish, now), may_begin=True)


def revoke(path: Path, named: str) -> None:
    change_keys(path, lambda keys: changes.revoked(keys.file, named, int(time.time())))


def rotate(path: Path, named: str, grace_seconds: int = 0) -> Issued:
    now = int(time.time())
    return change_keys(path, lambda keys: changes.rotated(keys.file, keys.hash_of, named, now, grace_seconds, None))
