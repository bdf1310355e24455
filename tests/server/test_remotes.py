"""Guards which providers exist at all: those that the operator allows and whose credentials are there."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.core.catalogue import Catalogue
from server.core.catalogue_file import load_catalogue
from server.core.providers import Target
from server.core.settings import load_settings
from server.images.decoder import Decoder
from server.remotes import Remotes, findings, needs_lasting_books, remote_backends

MODELS = """\
default_model: tiny
models: {tiny: {family: sdxl, source: nowhere}}
backends:
  one: {kind: openai, base_url: "http://127.0.0.1:1/v1", key_variable: TEST_KEY_ONE, models: {gpt-image-2: {}}}
  two: {kind: openai, base_url: "http://127.0.0.1:1/v1", daily_usd: 1, models: {dall-e-3: {retired: 2026-05-12}}}
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    (tmp_path / "models.yaml").write_text(MODELS)
    return load_catalogue(tmp_path / "models.yaml")


def built(catalogue: Catalogue, **flags: object) -> Remotes:
    async def build() -> Remotes:
        remotes = remote_backends(load_settings(flags), catalogue, Decoder())
        for backend in remotes.backends.values():
            await backend.close()
        return remotes

    return asyncio.run(build())


def test_a_backend_without_its_key_is_left_out_and_says_why(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY_ONE", raising=False)
    remotes = built(catalogue)
    assert set(remotes.backends) == {"two"}
    assert "TEST_KEY_ONE" in remotes.problems["one"]
    monkeypatch.setenv("TEST_KEY_ONE", "secret")
    whole = built(catalogue)
    assert set(whole.upstreams) == {Target("one", "gpt-image-2"), Target("two", "dall-e-3")}


@pytest.mark.parametrize("flag", ["offline", "local_only"])
def test_where_nothing_may_go_out_no_provider_exists(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setenv("TEST_KEY_ONE", "secret")
    remotes = built(catalogue, **{flag: True})
    assert (remotes.backends, remotes.upstreams) == ({}, {})
    assert set(remotes.problems) == {"one", "two"}


def test_a_limit_of_a_day_needs_books_that_outlive_the_server(catalogue: Catalogue, tmp_path: Path) -> None:
    assert needs_lasting_books(load_settings({}), catalogue)
    assert not needs_lasting_books(load_settings({"ledger": f"sqlite:///{tmp_path / 'books'}"}), catalogue)


def test_the_findings_name_what_is_missing_and_what_is_over(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_KEY_ONE", raising=False)
    told = "\n".join(findings(load_settings({}), catalogue))
    assert "backend one: " in told
    assert "TEST_KEY_ONE" in told
    assert "backend two, dall-e-3: retired 2026-05-12" in told
