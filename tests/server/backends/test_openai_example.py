"""Guards the catalogues that are shown: what docs/providers.md and deploy/models-with-openai.yaml say can be loaded."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
import yaml

from server.backends.capabilities import capabilities_of
from server.core.catalogue import Catalogue
from server.core.catalogue_file import load_catalogue
from server.core.providers import RemoteModel, Target, form_of

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "providers.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
OWN_MODELS = {"default_model": "sdxl-base", "models": {"sdxl-base": {"family": "sdxl", "source": "sdxl"}}}


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return load_catalogue(ROOT / "deploy" / "models-with-openai.yaml")


def remote(catalogue: Catalogue, model: str) -> RemoteModel:
    return catalogue.backends["openai"].models[model]


def test_old_names_mean_our_own_model_first_and_openais_after_it(shipped: Catalogue) -> None:
    assert shipped.targets("dall-e-3") == (Target("local", "sdxl-base"), Target("openai", "gpt-image-2"))
    assert shipped.targets("gpt-image-2") == (Target("openai", "gpt-image-2"), Target("local", "sdxl-base"))
    entry = shipped.name_entry("dall-e-3")
    assert entry is not None
    assert entry.is_over(date(2026, 5, 12))
    assert entry.successor == "gpt-image-2"


@pytest.mark.parametrize(
    ("model", "size", "quality", "usd"),
    [
        ("gpt-image-2", "1024x1024", "low", 0.006),
        ("gpt-image-2", "1024x1024", "standard", 0.053),
        ("gpt-image-2", "1024x1024", "hd", 0.211),
        ("gpt-image-2", "1536x1024", "medium", 0.041),
        ("gpt-image-2", "1024x1536", "high", 0.165),
        ("gpt-image-2", "512x512", "standard", 0.053),
        ("gpt-image-2", "2048x2048", "max", 0.211),
        ("gpt-image-2.5-flare", "1024x1024", "low", 0.006),
        ("gpt-image-2.5-flare", "1024x1024", "standard", 0.013),
        ("gpt-image-2.5-flare", "1024x1024", "high", 0.053),
        ("gpt-image-2.5-flare", "1024x1024", "xhigh", 0.094),
        ("gpt-image-2.5-flare", "1024x1024", "max", 0.211),
        ("gpt-image-2.5-flare", "1024x1024", "auto", 0.211),
    ],
)
def test_the_shipped_prices_are_openais(shipped: Catalogue, model: str, size: str, quality: str, usd: float) -> None:
    assert remote(shipped, model).price_usd(size, quality) == usd
    tokens = remote(shipped, model).token_prices
    assert tokens is not None
    assert (tokens.text_in_usd, tokens.image_in_usd, tokens.image_out_usd) == (5, 8, 30)


def test_the_prices_of_the_page_are_those_of_the_shipped_catalogue(shipped: Catalogue) -> None:
    rows = re.findall(r"^\| (gpt-image-[^|]*), ([^|]*) \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for name, sizes, cells in rows:
        model = name.replace("2.5-*", "2.5-flare")
        for size in sizes.split(" and "):
            for quality, usd in zip(("low", "medium", "high", "xhigh", "max"), cells.split("|"), strict=False):
                assert not usd.strip() or remote(shipped, model).price_usd(size, quality) == float(usd)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_catalogue_of_the_page_can_be_loaded_and_every_model_in_it_drawn_with(block: str, tmp_path: Path) -> None:
    whole = {**OWN_MODELS, **yaml.safe_load(block)}
    path = tmp_path / "models.yaml"
    path.write_text(yaml.safe_dump(whole))
    for backend in load_catalogue(path).backends.values():
        for model, entry in backend.models.items():
            assert form_of(model, entry, backend.kind) is not None
            can = capabilities_of(model, entry, backend.kind)
            assert can.drawn_size(can.default_size) == can.default_size


def test_the_page_shows_every_kind_of_upstream() -> None:
    assert len(BLOCKS) == 4
