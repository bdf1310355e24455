"""One house for all cases: what one of them breaks, the next one sees."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.invariants import House


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """It would fetch from the open internet, so that only the judgement of an address keeps it from doing so."""
    house = House(tmp_path_factory.mktemp("house"), SAFELIGHT_IMAGE_URLS="open")
    yield house
    house.stop()
