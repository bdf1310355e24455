"""One house that may be hurt, for all faults that a server is to outlive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.armed import ARMED, as_environment
from tests.invariants import House


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Its faults strike jobs of known seeds; it begins whatever it is asked, however long that takes."""
    settings = {
        "SAFELIGHT_FAULTS": as_environment(ARMED),
        "SAFELIGHT_PLAIN_ANSWER_SECONDS": "100000",
    }
    house = House(tmp_path_factory.mktemp("house"), **settings)
    yield house
    house.stop()
