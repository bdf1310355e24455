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
from server.core.settings import PREFIX, Settings
from server.metrics import table as metrics_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_in_the_readme(name: str) -> None:
    assert f"`{PREFIX}{name.upper()}`" in README


def test_every_setting_in_the_readme_exists() -> None:
    named = set(re.findall(r"`SAFELIGHT_([A-Z_]+)`", README)) - {"VENV", "PYTHON", "SERVER", "KEY"}
    assert named == {name.upper() for name in Settings.model_fields}


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
    for page in ROOT.glob("*.md"):
        for path in re.findall(r"`((?:server|pipelines|tests|scripts|docs)/[\w./-]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
