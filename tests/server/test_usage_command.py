"""`safelight usage` prints what a server's books say, and docs/usage.md shows what can be typed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server.cli import app
from tests.server.access.parts import issue, revoke
from tests.server.usage_server import serving, three_days

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "usage.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
RANGE = ("--since", "2026-09-21", "--until", "2026-09-23")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("books"), three_days) as url:
        yield url


def run(url: str, *arguments: str, key: str = "admin") -> Result:
    return CliRunner().invoke(app, ["usage", "--server", url, "--key", key, *arguments])


def test_it_prints_a_row_for_each_day_key_and_model_and_their_sum(url: str) -> None:
    finished = run(url, *RANGE)
    assert finished.exit_code == 0, finished.output
    rows = [re.split(r"\s{2,}", line.strip()) for line in finished.stdout.splitlines()[1:]]
    assert [row for row in rows if len(row) > 1] == [
        ["day", "key", "model", "pictures", "work units", "failures", "cancelled", "USD"],
        ["2026-09-21", "k1", "demo-sdxl", "3", "1,026", "0", "0", "0"],
        ["2026-09-21", "k2", "gpt-image-2", "3", "0", "0", "0", "0.300003"],
        ["2026-09-23", "-", "=1+1", "0", "0", "0", "1", "0"],
        ["2026-09-23", "k1", 'a "b", c', "0", "0", "0", "0", "0"],
        ["2026-09-23", "k1", "x", "0", "0", "1", "0", "0"],
        ["2026-09-23", "k2", "dall-e-3", "0", "0", "1", "0", "0.000001"],
        ["total", "6", "1,026", "2", "1", "0.300004"],
    ]


def test_as_json_money_is_exact(url: str) -> None:
    finished = run(url, *RANGE, "--json")
    told: dict[str, Any] = json.loads(finished.stdout, parse_float=Decimal)
    assert len(told["lines"]) == 6
    assert told["lines"][1] == {
        "day": "2026-09-21",
        "key_id": "k2",
        "model": "gpt-image-2",
        "images": 3,
        "work_units": 0,
        "failures": 0,
        "cancelled": 0,
        "cost_usd": Decimal("0.300003"),
    }
    assert told["total"]["cost_usd"] == Decimal("0.300004")


def test_it_reads_on_over_all_pages_and_narrows_to_a_key(url: str) -> None:
    told = json.loads(run(url, "--since", "2026-06-01", "--until", "2026-12-31", "--key-id", "k2", "--json").stdout)
    assert {line["key_id"] for line in told["lines"]} == {"k2"}
    assert told["total"]["images"] == 3


def test_a_key_without_admin_rights_is_shown_its_own(url: str) -> None:
    told = json.loads(run(url, *RANGE, "--json", key="k1").stdout)
    assert {line["key_id"] for line in told["lines"]} == {"k1"}
    refused = run(url, *RANGE, "--key-id", "k2", key="k1")
    assert refused.exit_code == 1
    assert "own usage alone" in refused.stderr


def test_an_id_that_finds_nothing_is_named_beside_the_empty_table(url: str) -> None:
    empty = run(url, *RANGE, "--key-id", "0123456789ab", "--key-id", "k2")
    assert empty.exit_code == 0
    assert empty.stderr.strip() == "note: no rows of --key-id '0123456789ab' from 2026-09-21 to 2026-09-23."
    assert "k2" in empty.stdout
    as_json = run(url, *RANGE, "--key-id", "nobody", "--json")
    assert json.loads(as_json.stdout)["lines"] == []
    assert "no rows of --key-id 'nobody'" in as_json.stderr
    assert "`safelight keys list`" in as_json.stderr


def test_a_key_that_is_asked_for_by_its_name_is_told_with_its_id(url: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    gone = issue(file, "alice").record.id
    revoke(file, "alice")
    present = issue(file, "alice").record.id
    for key, status in (("admin", 0), ("k1", 1)):
        told = run(url, *RANGE, "--key-id", "alice", "--keys", str(file), key=key)
        assert told.exit_code == status
        assert f"the key named 'alice' is {present} or {gone} (revoked)." in told.stderr
    unreadable = run(url, *RANGE, "--key-id", "alice", "--keys", str(tmp_path / "none.json"))
    assert (unreadable.exit_code, "`safelight keys list`" in unreadable.stderr) == (0, True)


def test_without_days_it_tells_of_the_last_week(url: str) -> None:
    assert run(url).exit_code == 0


def test_days_in_the_wrong_order_and_a_server_that_is_not_there_are_said(url: str) -> None:
    backwards = run(url, "--since", "2026-09-23", "--until", "2026-09-21")
    assert (backwards.exit_code, "lies after" in backwards.stderr) == (2, True)
    absent = run("http://127.0.0.1:9", *RANGE)
    assert (absent.exit_code, "No server answers" in absent.stderr) == (1, True)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def typed(command: list[str], folder: Path) -> str:
    """What it prints; it must succeed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "SAFELIGHT_KEY": "admin", "PYTHONPATH": str(ROOT), "PATH": path}
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_what_the_page_says_to_type_in_a_shell_works_and_prints_what_it_shows(url: str, tmp_path: Path) -> None:
    lines, shown = blocks("sh")[0].replace(ADDRESS, url), blocks("text")[0]
    printed = typed(["bash", "-euc", lines], tmp_path)
    assert "organization.usage.images.result" in printed
    assert "organization.costs.result" in printed
    assert (tmp_path / "september.csv").read_text().startswith("request_id,index,began_unix_ms,api_key_id")
    for line in shown.replace("-" * 90, "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * 90).splitlines():
        assert line in [one.rstrip() for one in printed.splitlines()]


def test_the_python_example_prints_days_and_dollars(url: str, tmp_path: Path) -> None:
    printed = typed([sys.executable, "-c", blocks("python")[0].replace(ADDRESS, url)], tmp_path)
    assert "gpt-image-2 3" in printed
    assert "0.3" in printed
