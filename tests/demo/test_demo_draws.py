"""The embedded model draws what its captions say: a fixed part of what `python -m tests.demo.measure` measures."""

from __future__ import annotations

import pytest

from pipelines.demo.captions import held_out_scenes
from pipelines.families.contract import Family
from server.core.catalogue import load_catalogue
from server.core.settings import DEFAULT_CATALOGUE
from tests.demo.measure import DEFAULT_GUIDANCE, DEFAULT_STEPS, judged, load_demo
from tests.demo.oracle import read


@pytest.fixture(scope="module")
def demo() -> Family:
    return load_demo()


def test_the_measurement_uses_the_catalogues_defaults() -> None:
    defaults = load_catalogue(DEFAULT_CATALOGUE).models["demo-sdxl"].defaults
    assert (defaults.steps, defaults.guidance_scale) == (DEFAULT_STEPS, DEFAULT_GUIDANCE)


@pytest.mark.parametrize(
    ("width_px", "height_px", "count", "least_right"),
    [(512, 512, 20, 18), (1024, 1024, 3, 2), (1024, 1792, 2, 1)],
)
def test_held_out_captions_are_drawn_right(
    demo: Family, width_px: int, height_px: int, count: int, least_right: int
) -> None:
    scenes = held_out_scenes(count, seed=2026, pair_share=0.0)
    judgements = list(judged(demo, scenes, width_px, height_px, DEFAULT_STEPS, DEFAULT_GUIDANCE))
    mistakes = {scene.caption: complaints for scene, _, complaints in judgements if complaints}
    assert count - len(mistakes) >= least_right, mistakes


def test_of_two_objects_the_background_and_the_places_are_right_though_not_always_shapes_and_colours(
    demo: Family,
) -> None:
    scenes = held_out_scenes(8, seed=2026, pair_share=1.0)
    readings = [
        (scene, read(picture)) for scene, picture, _ in judged(demo, scenes, 512, 512, DEFAULT_STEPS, DEFAULT_GUIDANCE)
    ]
    right = [
        reading.background == scene.background
        and all(any(finding.is_at(thing.centre) for finding in reading.findings) for thing in scene.things)
        for scene, reading in readings
    ]
    assert sum(right) >= 6
