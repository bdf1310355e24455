"""The oracle is only worth what it sees: it must read painted scenes without a mistake, and notice every change."""

from __future__ import annotations

import random

import pytest

from pipelines.demo.captions import held_out_scenes
from pipelines.demo.scenes import OUTLINES, Scene, paint, pair, single
from tests.demo.oracle import read

RED_CIRCLE = single("circle", "red", "blue")


@pytest.mark.parametrize(("width_px", "height_px"), [(256, 256), (512, 512), (1024, 1792)])
def test_painted_scenes_are_read_without_a_mistake(width_px: int, height_px: int) -> None:
    rng = random.Random(3)
    for scene in held_out_scenes(60 if width_px < 1024 else 8, seed=1, pair_share=0.4):
        assert read(paint(scene, width_px, height_px, rng)).mistakes(scene) == [], scene.caption


@pytest.mark.parametrize("shape", list(OUTLINES))
def test_no_shape_passes_for_another(shape: str) -> None:
    drawn = paint(single(shape, "red", "white"), 512, 512)
    for other in OUTLINES:
        assert bool(read(drawn).mistakes(single(other, "red", "white"))) == (other != shape)


@pytest.mark.parametrize(
    "other",
    [
        single("circle", "orange", "blue"),
        single("circle", "red", "purple"),
        single("circle", "red", "blue", position="on the left"),
        single("circle", "red", "blue", position="at the top"),
        pair(("circle", "red", ""), "above", ("star", "green", ""), "blue"),
    ],
)
def test_a_wrong_colour_place_background_or_number_is_noticed(other: Scene) -> None:
    assert read(paint(RED_CIRCLE, 512, 512)).mistakes(other)


def test_a_pair_the_wrong_way_round_is_noticed() -> None:
    drawn = pair(("circle", "red", ""), "to the left of", ("star", "green", ""), "white")
    asked = pair(("circle", "red", ""), "to the right of", ("star", "green", ""), "white")
    assert read(paint(drawn, 512, 512)).mistakes(asked)
