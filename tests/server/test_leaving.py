"""Guards what a server's end tells whoever started it: a clean one only where nobody was cut off."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server import leaving
from server.leaving import Leaving


class Ended(BaseException):
    """In the place of the process's own end. status: what it would have ended with."""

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("requests", "second", "status"),
    [
        (1, signal.SIGTERM, 143),
        (3, signal.SIGINT, 130),
        (0, signal.SIGTERM, 0),
        (0, signal.SIGINT, 0),
    ],
)
def test_after_a_second_signal_the_status_says_whether_requests_were_broken_off(
    requests: int, second: signal.Signals, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(number: int) -> None:
        raise Ended(number)

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(leaving, "HASTE_SECONDS", 3600.0)
    told = list[str]()
    services: Any = SimpleNamespace(
        settings=SimpleNamespace(drain_seconds=60.0),
        dispatcher=SimpleNamespace(drain=lambda: told.append("drain"), kill=lambda: told.append("kill")),
        router=SimpleNamespace(drain=lambda _: told.append("router")),
    )
    server, editions = SimpleNamespace(should_exit=False, force_exit=False), SimpleNamespace(requests=requests)
    own_folder = tmp_path / "own"
    own_folder.mkdir()
    end_of_it = Leaving(server, services, editions, own_folder)  # type: ignore[arg-type]

    async def signalled_twice() -> None:
        end_of_it.signalled(signal.SIGTERM)
        end_of_it.signalled(second)

    asyncio.run(signalled_twice())
    assert told == ["drain", "router", "kill"]
    assert (server.force_exit, server.should_exit) == (True, True)
    with pytest.raises(Ended) as ended:
        end_of_it.finish()
    assert ended.value.status == status
    assert not own_folder.exists()
