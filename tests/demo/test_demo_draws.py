"""The embedded model draws what its captions say: a fixed part of what `python -m tests.demo.measure` measures."""

from __future__ import annotations

import pytest
from PIL import Image

from pipelines.demo.captions import held_out_scenes
from pipelines.demo.scenes import Scene
from pipelines.families.contract import Family
from server.core.catalogue_file import load_catalogue
from server.core.settings import DEFAULT_CATALOGUE
from tests.demo.measure import DEFAULT_GUIDANCE, DEFAULT_STEPS, judged, load_demo
from tests.demo.oracle import read


@pytest.fixture(scope="module")
def demo() -> Family:
    return load_demo()


def test_the_measurement_uses_the_catalogues_defaults() -> None:
    defaults = load_catalogue(DEFAULT_CATALOGUE).models["demo-sdxl"].defaults
    assert (defaults.steps, defaults.guidance_scale) == (DEFAULT_STEPS, DEFAULT_GUIDANCE)


def test_held_out_captions_are_drawn_right_at_512_px(demo: Family) -> None:
    scenes = held_out_scenes(20, seed=2026, pair_share=0.0)
    judgements = judged(demo, scenes, 512, 512, DEFAULT_STEPS, DEFAULT_GUIDANCE)
    mistakes = {scene.caption: complaints for scene, _, complaints in judgements if complaints}
    assert len(mistakes) <= 2, mistakes


def has_background_and_places_right(scene: Scene, picture: Image.Image) -> bool:
    reading = read(picture)
    return reading.background == scene.background and all(
        any(finding.is_at(thing.centre) for finding in reading.findings) for thing in scene.things
    )


@pytest.mark.parametrize(
    ("width_px", "height_px", "pair_share", "count", "least_right"),
    [(512, 512, 1.0, 8, 6), (1024, 1024, 0.0, 4, 3), (1024, 1792, 0.0, 2, 1)],
)
def test_of_pairs_and_large_pictures_backgrounds_and_places_are_right_though_shapes_are_often_not(
    demo: Family, width_px: int, height_px: int, pair_share: float, count: int, least_right: int
) -> None:
    scenes = held_out_scenes(count, seed=2026, pair_share=pair_share)
    judgements = judged(demo, scenes, width_px, height_px, DEFAULT_STEPS, DEFAULT_GUIDANCE)
    right = [has_background_and_places_right(scene, picture) for scene, picture, _ in judgements]
    assert sum(right) >= least_right
