"""Guards the measure of the event loop's lag: what holds it shows, with its name and with nothing that it worked on."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from server.core.loop_lag import WARN_SECONDS, LoopLag


def hold_the_loop(seconds: float) -> None:
    time.sleep(seconds)


async def measured(hold_seconds: float) -> list[float]:
    heard: list[float] = []
    measuring = asyncio.create_task(LoopLag(heard.append).run())
    await asyncio.sleep(0.1)
    hold_the_loop(hold_seconds)
    await asyncio.sleep(0.1)
    measuring.cancel()
    await asyncio.gather(measuring, return_exceptions=True)
    return heard


def test_a_loop_that_is_held_is_late_by_as_long() -> None:
    heard = asyncio.run(measured(0.2))
    assert max(heard) > 0.15
    assert len(heard) > 2


def test_a_long_hold_is_told_with_the_name_of_what_ran(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="safelight.loop"):
        asyncio.run(measured(3 * WARN_SECONDS))
    (record,) = caplog.records
    assert record.lag_seconds > WARN_SECONDS  # type: ignore[attr-defined]
    assert record.ran.endswith("test_loop_lag.hold_the_loop")  # type: ignore[attr-defined]


def test_short_holds_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="safelight.loop"):
        asyncio.run(measured(0.0))
    assert caplog.records == []
