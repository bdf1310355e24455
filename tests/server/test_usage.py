"""Guards what a request is said to have used, how long it is said to take, and when its previews come."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.messages import DrawParams
from pipelines.pace import Pace
from pipelines.work import forwards, steps_after, work_of
from server.backends.jobs import evenly_spaced, job_of
from server.core.request import LocalRequest, Size
from server.core.usage import usage_of

REQUEST = LocalRequest(
    operation="generation",
    model="tiny",
    family="sdxl",
    prompt="a red circle",
    sent_prompt="a red circle",
    negative_prompt=None,
    count=2,
    size=Size(1024, 512),
    steps=10,
    guidance_scale=5.0,
    sampler="euler",
    seed=7,
    response_format="url",
    price_usd=0.04,
)


def test_usage_counts_prompts_pictures_and_money() -> None:
    usage = usage_of(REQUEST, 2, 1234, 0.08)
    assert usage["input_tokens"] == 3
    assert usage["output_tokens"] == 2 * 32 * 16
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert (usage["cost"], usage["latency_ms"]) == (0.08, 1234)
    assert (usage["image_size"], usage["model_used"]) == ("1024x512", "tiny")


def test_usage_counts_negative_prompts_and_pictures_that_were_sent() -> None:
    more = replace(REQUEST, negative_prompt="\U0001f600" * 3, image=b"pixels")
    details = usage_of(more, 1, 0, 0.0)["input_tokens_details"]
    assert details == {"text_tokens": 3 + 3, "image_tokens": 32 * 16}


@pytest.mark.parametrize(
    ("count", "steps", "places"),
    [
        (0, 10, ()),
        (1, 10, (5,)),
        (3, 16, (4, 8, 12)),
        (3, 4, (1, 2, 3)),
        (3, 2, (1,)),
        (2, 1, ()),
        (3, 100, (25, 50, 75)),
    ],
)
def test_previews_are_evenly_spaced_and_never_the_result(count: int, steps: int, places: tuple[int, ...]) -> None:
    assert evenly_spaced(count, steps) == places


def test_a_job_says_how_its_picture_can_be_drawn_again() -> None:
    job = job_of(replace(REQUEST, partial_images=1), "r", 1, has_facts=True, wants_progress=False)
    assert job.params.seed == job.output.facts["seed"] == 8
    assert job.preview_steps == (5,)
    assert {"prompt", "steps", "sampler", "guidance_scale", "width", "height", "model"} <= set(job.output.facts)
    assert "strength" not in job.output.facts
    assert job_of(REQUEST, "r", 0, has_facts=False, wants_progress=False).output.facts == {}


def params(**changes: object) -> DrawParams:
    values: dict[str, object] = {"guidance_scale": 1.0, "sampler": "euler", "steps": 10, **changes}
    return DrawParams(prompt="x", negative_prompt=None, width_px=8, height_px=8, seed=0, **values)  # type: ignore[arg-type]


def test_work_grows_with_guidance_second_order_and_strength() -> None:
    plain = work_of("sdxl", params())
    assert work_of("sdxl", params(guidance_scale=5.0)) > plain
    assert work_of("flux", params(guidance_scale=5.0)) == plain
    assert work_of("sdxl", params(sampler="heun")) > plain
    assert forwards("sdxl", params(image=b"x", strength=0.5)) == steps_after("sdxl", 10, 0.5) == 5


def test_a_pace_is_learned_from_pictures_and_never_invented() -> None:
    pace = Pace()
    assert pace.seconds_for("tiny", 100.0) is None
    pace.observe("tiny", 50.0, 5.0)
    assert pace.seconds_for("tiny", 100.0) == pytest.approx(10.0)
    assert pace.seconds_for("other", 100.0) is None
    for _ in range(50):
        pace.observe("tiny", 50.0, 10.0)
    assert pace.seconds_for("tiny", 100.0) == pytest.approx(20.0, rel=0.01)
