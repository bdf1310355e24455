"""The embedded model draws what its captions say: a fixed part of what `python -m tests.demo.measure` measures."""

from __future__ import annotations

import pytest

from pipelines.demo.captions import held_out_scenes
from pipelines.families.contract import Family
from server.core.catalogue import load_catalogue
from server.core.settings import DEFAULT_CATALOGUE
from tests.demo.measure import DEFAULT_GUIDANCE, DEFAULT_STEPS, judged, load_demo


@pytest.fixture(scope="module")
def demo() -> Family:
    return load_demo()


def test_the_measurement_uses_the_catalogues_defaults() -> None:
    defaults = load_catalogue(DEFAULT_CATALOGUE).models["demo-sdxl"].defaults
    assert (defaults.steps, defaults.guidance_scale) == (DEFAULT_STEPS, DEFAULT_GUIDANCE)


@pytest.mark.parametrize(
    ("width_px", "height_px", "pair_share", "count", "least_right"),
    [(512, 512, 0.0, 20, 18), (512, 512, 1.0, 10, 7), (1024, 1024, 0.0, 3, 2), (1024, 1792, 0.0, 2, 1)],
)
def test_held_out_captions_are_drawn_right(
    demo: Family, width_px: int, height_px: int, pair_share: float, count: int, least_right: int
) -> None:
    scenes = held_out_scenes(count, seed=2026, pair_share=pair_share)
    judgements = list(judged(demo, scenes, width_px, height_px, DEFAULT_STEPS, DEFAULT_GUIDANCE))
    mistakes = {scene.caption: complaints for scene, _, complaints in judgements if complaints}
    assert count - len(mistakes) >= least_right, mistakes
