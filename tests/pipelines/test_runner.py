"""Every job is settled exactly once, and a failure stays with the job that caused it."""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerAncestralDiscreteScheduler
from PIL import Image as Pictures

from pipelines.denoise.decode import NonFiniteResults, decode_pictures
from pipelines.engine.failures import to_failed
from pipelines.engine.faults import Fault, FaultPoints
from pipelines.families.contract import FamilyOptions
from pipelines.messages import (
    Cancelled,
    EngineOptions,
    Event,
    Failed,
    Image,
    Output,
    OutputFormat,
    Preview,
    Progress,
    Queued,
    Started,
    Working,
)
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import Engine, submit
from tests.pipelines.stock import load, params, read_pixels, some_picture

GUILTY = 666
EXACT = EngineOptions(exact_rows=4)


@pytest.fixture
def tiny(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    return {"sdxl": checkpoints["sdxl"]}


def failure(ends: list[Event]) -> Failed:
    (end,) = ends
    assert isinstance(end, Failed)
    return end


def test_a_job_is_queued_started_followed_and_settled(tiny: Mapping[str, Checkpoint]) -> None:
    engine = Engine(tiny)
    engine.draw([submit("a", wants_progress=True)])
    way = [Queued("a", 0), Started("a"), Working(("a",)), Progress("a", 1, 2), Progress("a", 2, 2)]
    assert engine.events[:5] == way
    (image,) = engine.events[5:]
    assert isinstance(image, Image)
    assert image.file.startswith(b"\x89PNG")


def test_progress_is_told_only_to_those_who_listen(tiny: Mapping[str, Checkpoint]) -> None:
    engine = Engine(tiny)
    engine.draw([submit("a"), submit("b", wants_progress=True)])
    assert {event.job_id for event in engine.events if isinstance(event, Progress)} == {"b"}


def test_previews_come_after_the_chosen_steps_and_look_ever_more_like_the_picture(
    tiny: Mapping[str, Checkpoint],
) -> None:
    engine = Engine(tiny)
    engine.draw([submit("a", steps=12, preview_steps=(2, 11, 12))])
    previews = {event.step: read_pixels(event.file) for event in engine.events if isinstance(event, Preview)}
    final = read_pixels(engine.pictures()["a"])
    assert list(previews) == [2, 11], "the last step's preview would be the picture itself"
    early, late = (np.abs(previews[step] - final).mean() for step in (2, 11))
    assert late < early


def test_a_preview_changes_nothing_in_the_picture(tiny: Mapping[str, Checkpoint]) -> None:
    plain, watched = Engine(tiny), Engine(tiny)
    plain.draw([submit("a", steps=4)])
    watched.draw([submit("a", steps=4, preview_steps=(1, 2, 3))])
    assert plain.pictures() == watched.pictures()


FAULTS = {
    "in prepare": Fault("exception", GUILTY, "prepare"),
    "in a step": Fault("exception", GUILTY, "denoise", step=1),
    "in decode": Fault("exception", GUILTY, "decode"),
    "values that are not finite": Fault("not_finite", GUILTY, "denoise", step=1),
    "memory in a step": Fault("out_of_memory", GUILTY, "denoise", step=1),
    "memory in decode": Fault("out_of_memory", GUILTY, "decode"),
}
CODES = {"memory in a step": "insufficient_memory", "memory in decode": "insufficient_memory"}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("options", [EXACT, EngineOptions(policy="fifo")], ids=["exact", "fifo"])
def test_a_job_that_fails_settles_alone_and_its_mates_are_drawn_to_the_byte_as_ever(
    tiny: Mapping[str, Checkpoint], fault: str, options: EngineOptions
) -> None:
    requests = [submit("a", seed=1), submit("bad", seed=GUILTY), submit("c", seed=3, guidance_scale=4.0)]
    alone: dict[str, bytes] = {}
    for request in (requests[0], requests[2]):
        quiet = Engine(tiny, options)
        quiet.draw([request])
        alone |= quiet.pictures()
    engine = Engine(tiny, options, [FAULTS[fault]])
    ends = engine.draw(requests)
    assert failure(ends["bad"]).code == CODES.get(fault, "generation_failed")
    assert "armed" not in failure(ends["bad"]).message
    if options.exact_rows:
        assert engine.pictures() == alone
    else:
        for job_id, png in engine.pictures().items():
            assert np.abs(read_pixels(png) - read_pixels(alone[job_id])).max() <= 1


def test_a_sampler_that_fails_in_a_step_stops_its_own_job_only(
    tiny: Mapping[str, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    mates = [
        submit(name, seed=seed, steps=4, wants_progress=True, preview_steps=(1, 2)) for seed, name in enumerate("ac")
    ]
    bad = submit("bad", steps=4, sampler="euler_a", wants_progress=True, preview_steps=(1, 2))
    undisturbed = Engine(tiny, EXACT)
    undisturbed.draw(mates)
    step, calls = EulerAncestralDiscreteScheduler.step, itertools.count()

    def failing(self: EulerAncestralDiscreteScheduler, *arguments: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("no way on from here")
        return step(self, *arguments, **options)

    monkeypatch.setattr(EulerAncestralDiscreteScheduler, "step", failing)
    engine = Engine(tiny, EXACT)
    ends = engine.draw([mates[0], bad, mates[1]])
    shown = [
        (type(event), event.step)
        for event in engine.events
        if isinstance(event, Progress | Preview) and event.job_id == "bad"
    ]
    assert failure(ends["bad"]).code == "generation_failed"
    assert shown == [(Progress, 1), (Preview, 1)], "the step that failed is not shown"
    assert engine.pictures() == undisturbed.pictures()


def test_a_batch_that_does_not_fit_into_memory_is_split_and_every_job_drawn(tiny: Mapping[str, Checkpoint]) -> None:
    engine = Engine(tiny, faults=[Fault("out_of_memory", GUILTY, "denoise", at_least=2)])
    ends = engine.draw([submit("a", seed=1), submit("b", seed=GUILTY), submit("c", seed=2)])
    assert [type(end) for (end,) in ends.values()] == [Image] * 3


def test_a_job_alone_without_memory_is_tried_once_more(tiny: Mapping[str, Checkpoint]) -> None:
    engine = Engine(tiny, faults=[Fault("out_of_memory", GUILTY, "decode", times=1)])
    (end,) = engine.draw([submit("a", seed=GUILTY)])["a"]
    assert isinstance(end, Image)


def test_a_slow_step_only_takes_time(tiny: Mapping[str, Checkpoint]) -> None:
    engine = Engine(tiny, faults=[Fault("slow", GUILTY, "denoise", step=0, slow_seconds=0.01)])
    assert len(engine.draw([submit("a", seed=GUILTY)])["a"]) == 1
    assert list(engine.pictures()) == ["a"]


def test_no_fault_is_armed_by_default() -> None:
    assert FaultPoints.from_environment({})._faults == []
    armed = FaultPoints.from_environment({"SAFELIGHT_FAULTS": '[{"kind": "crash", "seed": 1}]'})
    assert [fault.kind for fault in armed._faults] == ["crash"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "insufficient_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "insufficient_memory"),
        (MemoryError(), "insufficient_memory"),
        (NonFiniteResults([0]), "generation_failed"),
        (RuntimeError("something secret"), "generation_failed"),
    ],
)
def test_the_cause_of_a_failure_is_told_by_its_code(error: Exception, code: str) -> None:
    failed = to_failed("a", error)
    assert failed.code == code
    assert "secret" not in failed.message
    assert type(error).__name__ in failed.detail


def test_latents_that_are_not_finite_never_become_a_picture(tiny: Mapping[str, Checkpoint]) -> None:
    family = load(tiny["sdxl"].folder, "sdxl")
    states = family.prepare([params(width_px=64, height_px=64, seed=seed) for seed in range(3)])
    states[1].latents = torch.full_like(states[1].latents, float("nan"))
    with pytest.raises(NonFiniteResults) as caught:
        family.decode(states)
    assert caught.value.places == [1]


def test_pixels_that_overflow_in_half_precision_are_decoded_again_in_float32() -> None:
    class Overflowing(torch.nn.Module):
        """An autoencoder, as far as decoding goes, that overflows in half precision."""

        class config:  # noqa: N801  (as diffusers names it)
            scaling_factor = 1.0
            get = staticmethod(dict[str, object]().get)

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(300.0))

        @property
        def dtype(self) -> torch.dtype:
            return self.weight.dtype

        def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
            assert not return_dict
            return (latents[:, :3] * self.weight * self.weight / 90_000,)

    vae = Overflowing().half()
    with torch.inference_mode():
        pictures = decode_pictures(vae, torch.ones(1, 4, 2, 2).half())
    assert bool((pictures == 255).all())
    assert vae.dtype == torch.float16


def test_what_a_mask_protects_is_the_images_own_to_the_pixel_in_previews_and_in_the_picture(
    tiny: Mapping[str, Checkpoint],
) -> None:
    image, mask = some_picture(64, 64), bytes(64 * 32) + b"\xff" * 64 * 32
    engine = Engine(tiny)
    engine.draw([submit("a", steps=4, image=image, mask=mask, strength=1.0, preview_steps=(2,))])
    original = np.frombuffer(image, np.uint8).reshape(64, 64, 3)
    files = [event.file for event in engine.events if isinstance(event, Preview | Image)]
    assert len(files) == 2
    for file in files:
        difference = np.abs(read_pixels(file) - original)
        assert difference[:32].max() == 0
        assert difference[32:].mean() > 5


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_pictures_and_previews_are_of_the_format_that_was_asked_for(
    tiny: Mapping[str, Checkpoint], output_format: OutputFormat
) -> None:
    engine = Engine(tiny)
    output = Output(output_format, 90, {"prompt": "x"})
    engine.draw([submit("a", steps=4, preview_steps=(2,), output=output)])
    preview, picture = (
        Pictures.open(io.BytesIO(event.file)) for event in engine.events if isinstance(event, Preview | Image)
    )
    assert preview.format == picture.format == output_format.upper()
    assert facts_in(picture)["weights_digest"] == engine.models.digest("sdxl")
    assert facts_in(preview) == {}


def facts_in(picture: Pictures.Image) -> dict[str, object]:
    text = picture.info.get("safelight") or picture.info.get("xmp", b"").decode()
    found = re.search(r"\{.*\}", text, re.DOTALL)
    return dict(json.loads(found[0].replace("&quot;", '"'))) if found else {}


def test_a_cancelled_job_is_settled_once_and_does_no_more_work(tiny: Mapping[str, Checkpoint]) -> None:
    engine = Engine(tiny)
    engine.runner.submit(submit("a", steps=50))
    for _ in range(4):
        engine.runner.work()
    for job_id in ("a", "a", "never heard of"):
        engine.runner.cancel(job_id)
    assert not engine.runner.has_work
    assert engine.ends() == {"a": [Cancelled("a")]}


def test_a_cancel_frees_the_rows_of_that_job_only(tiny: Mapping[str, Checkpoint]) -> None:
    engine = Engine(tiny, EXACT)
    jobs = [submit(name, steps=6, seed=seed) for seed, name in enumerate(("a", "b", "c"))]
    undisturbed = Engine(tiny, EXACT)
    undisturbed.draw([jobs[0], jobs[2]])
    items = iter(range(100))
    ends = engine.draw(jobs, meanwhile=lambda: engine.runner.cancel("b") if next(items) == 5 else None)
    assert ends["b"] == [Cancelled("b")]
    assert engine.pictures() == undisturbed.pictures()


def test_a_model_that_does_not_load_fails_its_own_jobs_only(tiny: Mapping[str, Checkpoint], tmp_path: Path) -> None:
    engine = Engine({**tiny, "absent": Checkpoint("sdxl", tmp_path / "absent")})
    assert [bool(report.problem) for report in engine.models.reports()] == [False, True]
    ends = engine.draw([submit("a", model="absent"), submit("b"), submit("c", model="absent")])
    assert isinstance(ends["b"][0], Image)
    assert [failure(ends[name]).code for name in ("a", "c")] == ["model_unavailable"] * 2


def test_a_job_larger_than_all_memory_is_refused_and_others_wait_their_turn(tiny: Mapping[str, Checkpoint]) -> None:
    family = load(tiny["sdxl"].folder, "sdxl")
    one = family.footprint(submit("a").params)
    engine = Engine(tiny, EngineOptions(memory_bytes=one * 2))
    ends = engine.draw([*(submit(name) for name in "abc"), submit("huge", width_px=512, height_px=512)])
    assert failure(ends["huge"]).code == "insufficient_memory"
    assert sorted(engine.pictures()) == ["a", "b", "c"]


def test_encoded_prompts_are_kept_under_their_cap(tiny: Mapping[str, Checkpoint]) -> None:
    family = load(tiny["sdxl"].folder, "sdxl", FamilyOptions(prompt_cache_bytes=100_000))
    cache = family._cache  # type: ignore[attr-defined]
    for number in range(20):
        family.prepare([params(prompt=f"a red circle, number {number}")])
        assert cache.size_bytes <= 100_000
    assert cache.size_bytes > 0
