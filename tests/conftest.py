"""`scripts/test` runs what fits into minutes; `scripts/test --all` also what is marked `whole`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run the long tests, marked `whole`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out, visibly: they count as deselected."""
    if config.getoption("--all"):
        return
    long = [item for item in items if item.get_closest_marker("whole")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
