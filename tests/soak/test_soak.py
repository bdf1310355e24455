"""A server that works for long does not grow; one in which leaks were planted is found out, each kind and process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.invariants import House
from tests.soak.soak import ALLOWED, SETTINGS, leaks_in, soak

REQUESTS, SAMPLES = 1200, 24
KINDS = ("bytes", "descriptors", "threads")


def soaked(folder: Path, **settings: str) -> list[str]:
    """What grows. A house without leaks is also held to all of its promises."""
    house = House(folder, **SETTINGS, **settings)
    try:
        return leaks_in(list(soak(house, REQUESTS, SAMPLES)))
    finally:
        house.server.stop()


@pytest.mark.whole
@pytest.mark.timeout(1200)
def test_nothing_grows(tmp_path: Path) -> None:
    assert soaked(tmp_path) == []


@pytest.mark.whole
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("process", ["server", "worker"])
def test_planted_leaks_of_every_kind_are_found_in_the_process_that_has_them_and_no_other(
    tmp_path: Path, process: str
) -> None:
    found = soaked(tmp_path, SAFELIGHT_LEAKS=json.dumps({process: KINDS}))
    assert set(found) == {f"{process}_{kind}" for kind in KINDS}
    assert set(found) <= set(ALLOWED)
