"""`scripts/test` runs what fits into minutes; `scripts/test --all` also what is marked `whole`."""

from __future__ import annotations

from itertools import compress, groupby

import pytest

# What pipelines.worker sets for its process when it is imported, as some tests do.
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# The folder of the tests that mostly wait, for servers that start.
WAITING = "end_to_end"


@pytest.fixture
def may_go_online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's shell is, for commands that may fetch."""
    for name in OFFLINE_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also run the long tests, marked `whole`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out, visibly: they count as deselected."""
    if not config.getoption("--all"):
        is_long = [item.get_closest_marker("whole") is not None for item in items]
        config.hook.pytest_deselected(items=list(compress(items, is_long)))
        items[:] = [item for item, long in zip(items, is_long, strict=True) if not long]
    items[:] = spread(items)


def spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """Files that wait between those that compute, so that those who work side by side are seldom all waiting. The order
    holds with --no-loadscope-reorder."""
    files = [(path, list(members)) for path, members in groupby(items, key=lambda item: item.path)]
    waiting = [members for path, members in files if WAITING in path.parts]
    computing = [members for path, members in files if WAITING not in path.parts]
    placed = [
        ((place + 0.5) / len(of_a_kind), members)
        for of_a_kind in (waiting, computing)
        for place, members in enumerate(of_a_kind)
    ]
    return [item for _, members in sorted(placed, key=lambda one: one[0]) for item in members]
