"""Guards where a key may lead: a name brings its route, a model only itself, and `local_only` nothing from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.access.allowed import allowed_names, allowed_targets, unknown_names
from server.core.caller import Caller
from server.core.catalogue import Catalogue
from server.core.catalogue_file import load_catalogue
from server.core.errors import SafelightError

MODELS = """\
default_model: tiny
default_aliases: [gpt-image-1]
models:
  tiny: {family: sdxl, source: nowhere, aliases: [small]}
  other: {family: sd21, source: nowhere}
backends:
  openai: {kind: openai, base_url: "http://127.0.0.1:1/v1", models: {gpt-image-2: {}}}
names:
  dall-e-3: {route: [local:tiny, openai:gpt-image-2]}
  gpt-image-2: {route: [openai:gpt-image-2]}
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    (tmp_path / "models.yaml").write_text(MODELS)
    return load_catalogue(tmp_path / "models.yaml")


def key(*models: str, local_only: bool = False) -> Caller:
    return Caller("k", "k", frozenset({"generate"}), frozenset(models) if models else None, local_only=local_only)


@pytest.mark.parametrize(
    ("caller", "name", "targets"),
    [
        (key(), "dall-e-3", ["local:tiny", "openai:gpt-image-2"]),
        (key("dall-e-3"), "dall-e-3", ["local:tiny", "openai:gpt-image-2"]),
        (key("tiny"), "dall-e-3", ["local:tiny"]),
        (key("local:tiny"), "dall-e-3", ["local:tiny"]),
        (key("openai:gpt-image-2"), "dall-e-3", ["openai:gpt-image-2"]),
        (key("gpt-image-2"), "gpt-image-2", ["openai:gpt-image-2"]),
        (key("tiny"), "small", ["local:tiny"]),
        (key("tiny"), "gpt-image-1", ["local:tiny"]),
        (key("tiny"), None, ["local:tiny"]),
        (key("small"), "small", ["local:tiny"]),
        (key(local_only=True), "dall-e-3", ["local:tiny"]),
        (key("dall-e-3", local_only=True), "dall-e-3", ["local:tiny"]),
    ],
)
def test_a_key_leads_only_where_its_list_says(
    catalogue: Catalogue, caller: Caller, name: str | None, targets: list[str]
) -> None:
    assert [str(target) for target in allowed_targets(caller, name, catalogue)] == targets


@pytest.mark.parametrize(
    ("caller", "name"),
    [
        (key("tiny"), "other"),
        (key("small"), "tiny"),  # a name on the list is that name alone
        (key("small"), None),
        (key("gpt-image-2"), "dall-e-3"),
        (key("openai:gpt-image-2", local_only=True), "gpt-image-2"),
        (key(local_only=True), "gpt-image-2"),
        (key("nonsense"), "tiny"),
    ],
)
def test_what_a_key_may_not_ask_for_is_403(catalogue: Catalogue, caller: Caller, name: str | None) -> None:
    with pytest.raises(SafelightError) as refusal:
        allowed_targets(caller, name, catalogue)
    assert (refusal.value.status, refusal.value.code, refusal.value.param) == (403, "model_not_found", "model")


def test_an_unknown_name_is_404_and_suggests_nothing_that_the_key_may_not_ask_for(catalogue: Catalogue) -> None:
    for caller, is_suggested in ((key(), True), (key("tiny"), False)):
        with pytest.raises(SafelightError) as refusal:
            allowed_targets(caller, "othre", catalogue)
        assert refusal.value.status == 404
        assert ("Did you mean 'other'" in refusal.value.message) == is_suggested


def test_only_what_may_be_asked_for_is_listed(catalogue: Catalogue) -> None:
    assert allowed_names(key(), catalogue) == catalogue.names()
    assert allowed_names(key("tiny"), catalogue) == ["tiny", "small", "dall-e-3", "gpt-image-1"]
    assert allowed_names(key(local_only=True), catalogue) == ["tiny", "other", "small", "dall-e-3", "gpt-image-1"]
    assert allowed_names(key("openai:gpt-image-2"), catalogue) == ["dall-e-3", "gpt-image-2"]


def test_what_nobody_answers_to_is_found(catalogue: Catalogue) -> None:
    models = frozenset({"tiny", "small", "dall-e-3", "openai:gpt-image-2", "local:other", "tyni", "openai:x"})
    assert unknown_names(models, catalogue) == ["openai:x", "tyni"]
