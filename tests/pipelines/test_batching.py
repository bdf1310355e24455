"""Unlike jobs share every denoise step, and in exact mode a picture's bytes do not depend on company."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from PIL import Image as PillowImage

from pipelines.engine.candidate import Phase
from pipelines.engine.job import Job
from pipelines.messages import EngineOptions, Submit
from tests.pipelines.conftest import KINDS, Checkpoint, some_of
from tests.pipelines.engine_runs import Engine, submit
from tests.pipelines.stock import some_mask, some_picture
from tests.pipelines.test_parity import random_params

PICTURE: dict[str, Any] = {"image": some_picture(64, 64)}
MASK: dict[str, Any] = {"mask": some_mask(64, 64)}


def watch_batches(engine: Engine) -> list[int]:
    """How many jobs every denoise step of the engine holds."""
    sizes: list[int] = []
    denoise = engine.runner._work[Phase.DENOISE]

    def watched(batch: list[Job]) -> None:
        sizes.append(len(batch))
        denoise(batch)

    engine.runner._work[Phase.DENOISE] = watched
    return sizes


def unlike_jobs() -> list[Submit]:
    return [
        submit("text, 4 steps, no guidance", steps=4, guidance_scale=1.0, seed=1),
        submit("text, 30 steps, guidance 7.5", steps=30, guidance_scale=7.5, seed=2, negative_prompt="red"),
        submit("image at 0.4", steps=10, guidance_scale=3.0, seed=3, strength=0.4, sampler="euler_a", **PICTURE),
        submit("inpainting", steps=6, guidance_scale=5.0, seed=4, strength=0.8, sampler="heun", **PICTURE, **MASK),
    ]


@pytest.mark.parametrize("kind", some_of(KINDS, "sdxl", "flux-dev"))
def test_a_batch_holds_unlike_jobs_at_one_step_and_each_is_drawn_as_alone(
    checkpoints: Mapping[str, Checkpoint], kind: str
) -> None:
    roomy = EngineOptions(exact_rows=8)
    jobs = [_fit(job, kind, checkpoints[kind].family) for job in unlike_jobs()]
    alone: dict[str, bytes] = {}
    for job in jobs:
        engine = Engine({kind: checkpoints[kind]}, roomy)
        engine.draw([job])
        alone |= engine.pictures()
    engine = Engine({kind: checkpoints[kind]}, roomy)
    sizes = watch_batches(engine)
    engine.draw(jobs)
    assert max(sizes) == len(jobs), "no step held them all"
    assert engine.pictures() == alone


def test_batches_grow_as_far_as_more_rows_make_each_cheaper(checkpoints: Mapping[str, Checkpoint]) -> None:
    engine = Engine({"sdxl": checkpoints["sdxl"]})  # its clock says that every forward takes equally long
    sizes = watch_batches(engine)
    engine.draw([submit(f"job {number}", seed=number, steps=8) for number in range(8)])
    assert sizes[0] < max(sizes) == 8


def _fit(job: Submit, kind: str, family: str) -> Submit:
    """The job for a model of this kind; FLUX has one sampler of its own."""
    changes = {name: getattr(job.params, name) for name in job.params.__struct_fields__}
    if family == "flux":
        changes["sampler"] = "flow_euler"
    return submit(job.job_id, model=kind, **changes)


@pytest.mark.parametrize("kind", some_of(KINDS, "sd21-noise", "flux-schnell"))
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.whole) for seed in range(2, 20))])
def test_in_exact_mode_the_same_request_gives_the_same_bytes_alone_and_in_any_mix(
    checkpoints: Mapping[str, Checkpoint], kind: str, seed: int
) -> None:
    rng, exact = random.Random(seed), EngineOptions(exact_rows=4)
    jobs = [_random_job(rng, kind, checkpoints[kind], number) for number in range(5)]
    alone: dict[str, bytes] = {}
    for job in rng.sample(jobs, 3):
        engine = Engine({kind: checkpoints[kind]}, exact)
        engine.draw([job])
        alone |= engine.pictures()
    mixed = Engine({kind: checkpoints[kind]}, exact)
    drawn = _draw_joining_at_random(mixed, jobs, rng)
    assert {name: drawn[name] == png for name, png in alone.items()} == dict.fromkeys(alone, True)


def _random_job(rng: random.Random, kind: str, checkpoint: Checkpoint, number: int) -> Submit:
    asked = random_params(rng, checkpoint.family)
    return Submit(f"job {number}", kind, asked, caller=rng.choice("xyz"), priority=rng.randint(-1, 1))


def _draw_joining_at_random(engine: Engine, jobs: Sequence[Submit], rng: random.Random) -> dict[str, bytes]:
    waiting = list(jobs)
    engine.runner.submit(waiting.pop())
    while engine.runner.has_work or waiting:
        if waiting and rng.random() < 0.3:
            engine.runner.submit(waiting.pop())
        engine.runner.work()
    return engine.pictures()


def test_jobs_of_two_models_and_two_sizes_are_all_drawn(checkpoints: Mapping[str, Checkpoint]) -> None:
    engine = Engine({kind: checkpoints[kind] for kind in ("sdxl", "flux-schnell")})
    jobs = [
        submit("a", model="sdxl"),
        submit("b", model="flux-schnell"),
        submit("c", model="sdxl", width_px=128),
        submit("d", model="flux-schnell", height_px=128),
    ]
    engine.draw(jobs)
    sizes = {name: PillowImage.open(io.BytesIO(png)).size for name, png in engine.pictures().items()}
    assert sizes == {"a": (64, 64), "b": (64, 64), "c": (128, 64), "d": (64, 128)}
