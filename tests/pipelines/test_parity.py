"""Behind every picture: for the same seed it is what diffusers' own pipelines draw, alone and in any mix."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.denoise.state import DenoiseState
from pipelines.families.contract import Family
from pipelines.messages import SAMPLERS_BY_FAMILY, DrawParams, FamilyName, SamplerName
from tests.pipelines.conftest import KINDS, Checkpoint
from tests.pipelines.stock import (
    MIXED_LATENT_TOLERANCE,
    Result,
    assert_same,
    finished,
    load,
    ours,
    params,
    some_mask,
    some_picture,
    stock,
)
from tests.pipelines.tiny_models import write_tiny_sdxl

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl"
SHAPES = {"square": (128, 128), "wide": (192, 64)}
STRENGTHS = (0.3, 0.6, 1.0)
GUIDANCE = {"unguided": 1.0, "low": 2.0, "high": 12.0}


def task(name: str, width_px: int = 128, height_px: int = 128, strength: float = 0.6) -> dict[str, Any]:
    """What makes a job of this task out of a text job."""
    picture = {"width_px": width_px, "height_px": height_px}
    if name != "text":
        picture |= {"image": some_picture(width_px, height_px), "strength": strength}  # type: ignore[dict-item]
    if name == "inpaint":
        picture |= {"mask": some_mask(width_px, height_px)}  # type: ignore[dict-item]
    return picture


TASKS = [("text", 1.0), *itertools.product(("image", "inpaint"), STRENGTHS)]
KIND_SAMPLERS = [
    (kind, sampler)
    for kind in KINDS
    for sampler in SAMPLERS_BY_FAMILY[kind.split("-", maxsplit=1)[0]]  # type: ignore[index]  # kinds begin with families
]
CASES = {
    "guided": params(),
    "guidance zero": params(guidance_scale=0.0),
    "negative prompt": params(negative_prompt="a green star"),
    "empty negative prompt": params(negative_prompt=""),
    "unguided with a negative prompt": params(guidance_scale=1.0, negative_prompt="a green star"),
    "long prompt": params(prompt="a very detailed red circle " * 60),
    "emoji": params(prompt="\N{CAT FACE}"),
    "one step": params(steps=1),
    "last seed": params(seed=2**64 - 1),
}


def assert_ours_is_stock(checkpoint: Checkpoint, asked: DrawParams) -> None:
    family = load(checkpoint.folder, checkpoint.family)
    assert_same(ours(family, asked), stock(checkpoint.folder, checkpoint.family, asked))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_a_text_job_draws_what_diffusers_draws(checkpoints: Mapping[str, Checkpoint], kind: str, case: str) -> None:
    assert_ours_is_stock(checkpoints[kind], CASES[case])


@pytest.mark.parametrize(("kind", "sampler"), KIND_SAMPLERS)
def test_a_named_sampler_draws_what_diffusers_draws_with_it(
    checkpoints: Mapping[str, Checkpoint], kind: str, sampler: SamplerName
) -> None:
    assert_ours_is_stock(checkpoints[kind], params(sampler=sampler, **task("inpaint")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "strength"), TASKS)
def test_a_picture_and_a_mask_act_as_in_diffusers(
    checkpoints: Mapping[str, Checkpoint], kind: str, name: str, strength: float
) -> None:
    assert_ours_is_stock(checkpoints[kind], params(**task(name, *SHAPES["wide"], strength)))


@pytest.mark.whole
@pytest.mark.parametrize(("kind", "sampler"), KIND_SAMPLERS)
@pytest.mark.parametrize(("name", "strength"), TASKS)
@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_combination_draws_what_diffusers_draws(
    checkpoints: Mapping[str, Checkpoint],
    kind: str,
    sampler: SamplerName,
    name: str,
    strength: float,
    guidance: str,
    shape: str,
) -> None:
    asked = params(sampler=sampler, guidance_scale=GUIDANCE[guidance], **task(name, *SHAPES[shape], strength))
    assert_ours_is_stock(checkpoints[kind], asked)


@pytest.mark.parametrize("asked", [params(width_px=256, height_px=256, guidance_scale=2.0), params(height_px=256)])
def test_the_embedded_demo_draws_what_diffusers_draws(asked: DrawParams) -> None:
    assert_ours_is_stock(Checkpoint("sdxl", DEMO_FOLDER), asked)


def test_a_checkpoint_without_zeros_for_the_empty_prompt_is_obeyed(tmp_path: Path) -> None:
    folder = write_tiny_sdxl(tmp_path / "sdxl", force_zeros_for_empty_prompt=False)
    assert_ours_is_stock(Checkpoint("sdxl", folder), params())


def random_params(rng: random.Random, family: FamilyName) -> DrawParams:
    """A job of any task, sampler, length and guidance, all of one size."""
    name, strength = rng.choice(TASKS)
    return params(
        prompt=rng.choice(["a red circle", "a blue star on a white background", "nothing at all"]),
        negative_prompt=rng.choice([None, "", "a green ring"]),
        steps=rng.randint(4, 7),
        guidance_scale=rng.choice(list(GUIDANCE.values())),
        sampler=rng.choice(SAMPLERS_BY_FAMILY[family]),
        seed=rng.randrange(2**32),
        **task(name, 64, 64, strength),
    )


def drawn_in_a_mix(family: Family, batch: Sequence[DrawParams], rng: random.Random) -> list[Result]:
    """All jobs in one mix that each joins at a random step, and in which a random part takes each step."""
    states: list[DenoiseState] = []
    waiting = list(batch)
    while waiting or any(not state.is_done for state in states):
        joining = [waiting.pop(0) for _ in range(min(len(waiting), rng.randint(0 if states else 1, 2)))]
        if joining:
            states += family.prepare(joining)
        working = [state for state in states if not state.is_done and rng.random() < 0.8]
        if working:
            family.denoise_step(working)
    return [finished(family, state) for state in states]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.whole) for seed in range(2, 12))])
def test_jobs_in_a_random_mix_draw_what_diffusers_draws_for_each(
    checkpoints: Mapping[str, Checkpoint], kind: str, seed: int
) -> None:
    checkpoint, rng = checkpoints[kind], random.Random(seed)
    batch = [random_params(rng, checkpoint.family) for _ in range(6)]
    family = load(checkpoint.folder, checkpoint.family)
    for asked, result in zip(batch, drawn_in_a_mix(family, batch, rng), strict=True):
        assert_same(result, stock(checkpoint.folder, checkpoint.family, asked), MIXED_LATENT_TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_unlike_shape_have_unlike_keys(checkpoints: Mapping[str, Checkpoint], kind: str) -> None:
    family = load(checkpoints[kind].folder, checkpoints[kind].family)
    (wide,), (high,) = (family.prepare([params(**size)]) for size in ({"width_px": 192}, {"height_px": 192}))
    assert family.batch_key(wide) != family.batch_key(high)


@pytest.mark.parametrize("kind", KINDS)
def test_unlike_jobs_of_one_shape_have_one_key(checkpoints: Mapping[str, Checkpoint], kind: str) -> None:
    family = load(checkpoints[kind].folder, checkpoints[kind].family)
    rng = random.Random(3)
    states = family.prepare([random_params(rng, checkpoints[kind].family) for _ in range(12)])
    assert len({family.batch_key(state) for state in states}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_footprint_grows_with_the_picture(checkpoints: Mapping[str, Checkpoint], kind: str) -> None:
    family = load(checkpoints[kind].folder, checkpoints[kind].family)
    assert family.footprint(params(width_px=256)) == 2 * family.footprint(params())
