"""The documents say what the code does: every setting, error code, route and parameter is described."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from pipelines.demo.scenes import COLOURS, OUTLINES, POSITIONS, RELATIONS, SIZES
from server.api.bodies import EditBody, GenerationBody, VariationBody
from server.api.routes import add_routes
from server.core import error_table, settings_page
from server.core.settings import FOREIGN_VARIABLES, PREFIX, Settings
from server.metrics import table as metrics_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
# Decisions stay as they were written (docs/adr), and so does what was measured.
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "deploy").glob("*.*")])


def test_every_setting_is_on_the_page_of_settings_which_the_readme_names() -> None:
    listed = re.findall(rf"^\| `({PREFIX}[A-Z_]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(PREFIX + name.upper() for name in Settings.model_fields)
    assert "`docs/settings.md`" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]\b", page.read_text())) - FOREIGN_VARIABLES
    assert named - {PREFIX + name.upper() for name in Settings.model_fields} == set()


def test_every_error_code_is_in_the_readme_and_the_other_way_round() -> None:
    table = README.split("| status | code | when |")[1].split("##")[0]
    described = {code for row in table.splitlines() if row for code in re.findall(r"`([a-z_]+)`", row.split("|")[2])}
    assert described == {row.code for row in error_table.TABLE}


def test_the_page_of_errors_is_the_table_in_the_code() -> None:
    assert (ROOT / "docs" / "errors.md").read_text() == error_table.page()


def test_the_page_of_settings_is_printed_from_the_settings() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page.page()


def test_every_page_is_named_by_the_readme_or_by_the_page_of_operations() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    named = README + (ROOT / "docs" / "operations.md").read_text()
    assert {page for page in pages if f"docs/{page}" not in named} == set()


def test_the_page_of_metrics_is_the_table_in_the_code() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_table.page()


@pytest.mark.parametrize(
    "name", sorted({name for body in (GenerationBody, EditBody, VariationBody) for name in body.model_fields})
)
def test_every_parameter_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in README


def test_every_route_is_in_the_readme() -> None:
    app = FastAPI(openapi_url=None)
    add_routes(app)
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            assert route.path.replace(":path", "") in README


@pytest.mark.parametrize("word", [*OUTLINES, *COLOURS, *SIZES, *POSITIONS, *RELATIONS])
def test_every_word_of_the_embedded_model_is_in_the_readme(word: str) -> None:
    section = README.split("### What the embedded model knows")[1].split("##")[0]
    assert word in " ".join(section.split())


def test_every_page_that_a_page_names_exists() -> None:
    for page in PAGES:
        for path in re.findall(r"`((?:server|pipelines|tests|scripts|docs|deploy)/[\w./-]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_readme_has_one_row_for_an_error() -> None:
    rows = README.split("| status | code | when |")[1].split("##")[0].splitlines()
    named = [
        (row.split("|")[1].strip(), code) for row in rows if row for code in re.findall(r"`(\w+)`", row.split("|")[2])
    ]
    assert sorted(named) == sorted(set(named))


@pytest.mark.parametrize("folder", ["server", "pipelines"])
def test_the_architecture_has_one_line_for_a_room(folder: str) -> None:
    section = ARCHITECTURE.split("## The rooms")[1].split(f"\n{folder}/")[1].split("\n```")[0]
    named = re.findall(r"^  (\w+)/ ", re.split(r"\n(?=\w)", section)[0], re.MULTILINE)
    rooms = [room.parent.name for room in (ROOT / folder).glob("*/__init__.py")]
    assert sorted(named) == sorted(rooms)
