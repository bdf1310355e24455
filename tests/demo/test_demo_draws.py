"""The embedded models draw what their captions say: a fixed part of what `python -m tests.demo.measure` measures."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from PIL import Image

from pipelines.demo.captions import held_out_scenes
from pipelines.demo.scenes import Scene
from tests.demo.measure import DEMOS, entry_of, judged, load_demo
from tests.demo.oracle import read

loaded = functools.cache(load_demo)


def pictures(
    model: str, count: int, width_px: int, height_px: int, pair_share: float
) -> Iterator[tuple[Scene, Image.Image, list[str]]]:
    """Held-out scenes as the model draws them by default, with the oracle's complaints."""
    scenes = held_out_scenes(count, seed=2026, pair_share=pair_share)
    defaults = entry_of(model).defaults
    return judged(loaded(model), scenes, width_px, height_px, defaults.steps, defaults.guidance_scale)


@pytest.mark.parametrize(("model", "count", "most"), [("demo-sdxl", 3, 1), ("demo-sd21", 3, 1), ("demo-flux", 8, 5)])
def test_held_out_captions_are_drawn_right_at_512_px(model: str, count: int, most: int) -> None:
    """most: mistakes, by what docs/benchmarks/ says of each."""
    judgements = pictures(model, count, 512, 512, pair_share=0.0)
    mistakes = {scene.caption: complaints for scene, _, complaints in judgements if complaints}
    assert len(mistakes) <= most, mistakes


def test_where_demo_flux_is_wrong_its_shapes_are_and_neither_colours_nor_places() -> None:
    for scene, _, complaints in pictures("demo-flux", 8, 512, 512, pair_share=0.0):
        assert all("looks like" in complaint for complaint in complaints), (scene.caption, complaints)


def has_background_and_places_right(scene: Scene, picture: Image.Image) -> bool:
    reading = read(picture)
    return reading.background == scene.background and all(
        any(finding.is_at(thing.centre) for finding in reading.findings) for thing in scene.things
    )


@pytest.mark.parametrize("model", DEMOS)
@pytest.mark.parametrize(
    ("width_px", "height_px", "pair_share", "count", "least_right"),
    [
        pytest.param(512, 512, 1.0, 6, 4, marks=pytest.mark.whole),
        pytest.param(1024, 1024, 0.0, 2, 1, marks=pytest.mark.whole),
        pytest.param(1024, 1792, 0.0, 4, 2, marks=pytest.mark.whole),
    ],
)
def test_of_pairs_and_large_pictures_backgrounds_and_places_are_right_though_shapes_are_often_not(
    model: str, width_px: int, height_px: int, pair_share: float, count: int, least_right: int
) -> None:
    judgements = pictures(model, count, width_px, height_px, pair_share)
    right = [has_background_and_places_right(scene, picture) for scene, picture, _ in judgements]
    assert sum(right) >= least_right
