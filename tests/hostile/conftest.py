"""One house for all cases, and one with keys: what one of them breaks, the next one sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.case import Case
from tests.hostile.key_bearers import RULES, write_keys
from tests.invariants import House


@pytest.fixture(scope="session")
def open_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """It would fetch from the open internet, so that only the judgement of an address keeps it from doing so."""
    folder = tmp_path_factory.mktemp("house")
    settings = {"SAFELIGHT_IMAGE_URLS": "open", "SAFELIGHT_IDEMPOTENCY_FOLDER": str(folder / "answers")}
    house = House(folder, **settings)
    yield house
    house.stop()


@pytest.fixture(scope="session")
def keyed_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("keyed")
    write_keys(folder / "keys.json")
    house = House(folder, key=RULES, SAFELIGHT_KEYS=str(folder / "keys.json"))
    yield house
    house.stop()


@pytest.fixture
def house(request: pytest.FixtureRequest, case: Case) -> House:
    """Where the case is sent to."""
    chosen: House = request.getfixturevalue("keyed_house" if case.is_keyed else "open_house")
    return chosen
