"""The promise behind every picture: for the same seed it is what diffusers' own pipeline draws, alone and batched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline

from pipelines.denoise.state import DenoiseState
from pipelines.families.sdxl import Sdxl
from pipelines.messages import DrawParams, SamplerName
from pipelines.weights.load import load_sdxl
from tests.pipelines.tiny_sdxl import write_tiny_sdxl

DEMO_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl"
STOCK_SAMPLERS = {"euler": EulerDiscreteScheduler, "ddim": DDIMScheduler, "dpmpp_2m": DPMSolverMultistepScheduler}


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("tiny") / "sdxl")


def load(folder: Path) -> Sdxl:
    return Sdxl(load_sdxl(folder, torch.device("cpu"), torch.float32))


def stock_pipeline(folder: Path) -> StableDiffusionXLPipeline:
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def params(**changes: object) -> DrawParams:
    values: dict[str, object] = {
        "prompt": "a large red circle on a blue background",
        "negative_prompt": None,
        "width_px": 128,
        "height_px": 128,
        "steps": 3,
        "guidance_scale": 5.0,
        "sampler": "checkpoint",
        "seed": 7,
    }
    return DrawParams(**{**values, **changes})  # type: ignore[arg-type]  # a test's shorthand


def finish(family: Sdxl, state: DenoiseState) -> npt.NDArray[np.int64]:
    while not state.is_done:
        family.denoise_step([state])
    return family.decode([state])[0].numpy().astype(np.int64)


def stock_picture(pipeline: StableDiffusionXLPipeline, asked: DrawParams) -> npt.NDArray[np.int64]:
    pictures = pipeline(
        asked.prompt,
        negative_prompt=asked.negative_prompt,
        width=asked.width_px,
        height=asked.height_px,
        num_inference_steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(asked.seed),
        output_type="np",
    ).images
    shares: npt.NDArray[np.float32] = pictures[0]
    return (shares * 255).round().astype(np.int64)


def assert_same_picture(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> None:
    assert one.shape == other.shape
    assert one.std() > 1, "a flat picture would prove nothing"
    assert np.abs(one - other).max() <= 1


CASES = {
    "guided": params(),
    "not guided": params(guidance_scale=1.0),
    "guidance zero": params(guidance_scale=0.0),
    "strongly guided": params(guidance_scale=12.0, steps=5),
    "negative prompt": params(negative_prompt="a green star"),
    "empty negative prompt": params(negative_prompt=""),
    "wide": params(width_px=192, height_px=64),
    "long prompt": params(prompt="a very detailed red circle " * 30),
    "emoji": params(prompt="\N{CAT FACE}"),
    "one step": params(steps=1),
    "last seed": params(seed=2**64 - 1),
}


@pytest.mark.parametrize("asked", CASES.values(), ids=CASES)
def test_the_tiny_checkpoint_draws_what_diffusers_draws(tiny_folder: Path, asked: DrawParams) -> None:
    family = load(tiny_folder)
    assert_same_picture(finish(family, family.prepare(asked)), stock_picture(stock_pipeline(tiny_folder), asked))


@pytest.mark.parametrize("asked", [params(width_px=256, height_px=256, guidance_scale=2.0), params(height_px=256)])
def test_the_embedded_demo_draws_what_diffusers_draws(asked: DrawParams) -> None:
    family = load(DEMO_FOLDER)
    assert_same_picture(finish(family, family.prepare(asked)), stock_picture(stock_pipeline(DEMO_FOLDER), asked))


@pytest.mark.parametrize("sampler", STOCK_SAMPLERS)
def test_a_named_sampler_draws_what_diffusers_draws_with_it(tiny_folder: Path, sampler: SamplerName) -> None:
    pipeline = stock_pipeline(tiny_folder)
    pipeline.scheduler = STOCK_SAMPLERS[sampler].from_config(pipeline.scheduler.config)
    family, asked = load(tiny_folder), params(sampler=sampler, steps=5)
    assert_same_picture(finish(family, family.prepare(asked)), stock_picture(pipeline, asked))


def test_a_checkpoint_without_zeros_for_the_empty_prompt_is_obeyed(tmp_path: Path) -> None:
    folder = write_tiny_sdxl(tmp_path / "sdxl", force_zeros_for_empty_prompt=False)
    family, asked = load(folder), params()
    assert_same_picture(finish(family, family.prepare(asked)), stock_picture(stock_pipeline(folder), asked))


def test_unlike_jobs_that_share_their_steps_draw_what_each_draws_alone(tiny_folder: Path) -> None:
    family = load(tiny_folder)
    unlike = [
        params(seed=1, steps=6),
        params(seed=2, steps=4, guidance_scale=1.0, prompt="a star"),
        params(seed=3, steps=5, guidance_scale=9.0, sampler="ddim", negative_prompt="red"),
    ]
    alone = [finish(family, family.prepare(asked)) for asked in unlike]
    together = [family.prepare(asked) for asked in unlike]
    assert len({family.batch_key(state) for state in together}) == 1
    family.denoise_step(together[:1])  # the others join one step later
    while working := [state for state in together if not state.is_done]:
        family.denoise_step(working)
    for picture, expected in zip(family.decode(together).numpy().astype(np.int64), alone, strict=True):
        assert_same_picture(picture, expected)


def test_pictures_of_unlike_shape_have_unlike_keys(tiny_folder: Path) -> None:
    family = load(tiny_folder)
    wide, high = family.prepare(params(width_px=192)), family.prepare(params(height_px=192))
    assert family.batch_key(wide) != family.batch_key(high)


def test_the_footprint_grows_with_the_picture(tiny_folder: Path) -> None:
    family = load(tiny_folder)
    assert family.footprint(params(width_px=256)) == 2 * family.footprint(params())
