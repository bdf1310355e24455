"""`scripts/test` runs what fits into minutes; `scripts/test --all` also what is marked `whole`."""

from __future__ import annotations

from itertools import compress

import pytest

# What pipelines.worker sets for its process when it is imported, as some tests do.
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@pytest.fixture
def may_go_online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's shell is, for commands that may fetch."""
    for name in OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run the long tests, marked `whole`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out, visibly: they count as deselected."""
    if config.getoption("--all"):
        return
    is_long = [item.get_closest_marker("whole") is not None for item in items]
    config.hook.pytest_deselected(items=list(compress(items, is_long)))
    items[:] = [item for item, long in zip(items, is_long, strict=True) if not long]
