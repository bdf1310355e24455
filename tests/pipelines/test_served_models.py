"""Models come and go while others are served: a reload of models.yaml as the worker sees it, with real tiny models."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import pytest

from pipelines.messages import Failed, Image, ModelSpec, ModelState, Serve
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import Engine, submit


@pytest.fixture
def two(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    return {name: checkpoints[name] for name in ("sdxl", "flux-schnell")}


def spec_of(name: str, checkpoint: Checkpoint, **changes: str) -> ModelSpec:
    return ModelSpec(name, checkpoint.family, str(checkpoint.folder), **changes)  # type: ignore[arg-type]


def states(engine: Engine) -> dict[str, ModelState]:
    return {report.id: report.state for report in engine.models.reports()}


def settle(engine: Engine) -> None:
    """Look often enough for all that depends on looking."""
    for _ in range(10):
        engine.models._looked_seconds = -inf
        engine.runner.work()


def serve(engine: Engine, *specs: ModelSpec, leaving: tuple[ModelSpec, ...] = ()) -> None:
    engine.models.serve(Serve(specs, leaving), 0.0)
    engine.runner.look_at_models()


def test_a_model_that_is_added_is_drawn_with_and_a_damaged_one_says_so(two: Mapping[str, Checkpoint]) -> None:
    engine = Engine({"sdxl": two["sdxl"]})
    damaged = ModelSpec("damaged", "sdxl", "/nowhere")
    serve(engine, spec_of("sdxl", two["sdxl"]), spec_of("new", two["flux-schnell"]), damaged)
    ends = engine.draw([submit("a", model="new"), submit("b", model="damaged"), submit("c")])
    assert [type(ends[name][0]) for name in "abc"] == [Image, Failed, Image]
    assert [report.problem is None for report in engine.models.reports()] == [True, True, False]


def test_a_model_that_is_removed_ends_its_jobs_and_goes(two: Mapping[str, Checkpoint]) -> None:
    engine = Engine(two)
    engine.draw([submit("warm"), submit("other", model="flux-schnell")])
    for request in (submit("begun", steps=4), submit("queued", steps=4, seed=9)):
        engine.runner.submit(request)
    engine.runner.work()
    serve(engine, spec_of("flux-schnell", two["flux-schnell"]), leaving=(spec_of("sdxl", two["sdxl"]),))
    ends = engine.draw([])
    assert [type(ends[name][0]) for name in ("begun", "queued")] == [Image, Image]
    settle(engine)
    assert states(engine) == {"sdxl": "disk", "flux-schnell": "device"}
    serve(engine, spec_of("flux-schnell", two["flux-schnell"]))
    settle(engine)
    assert states(engine) == {"flux-schnell": "device"}


def test_a_late_job_of_a_model_that_is_leaving_is_drawn_all_the_same(two: Mapping[str, Checkpoint]) -> None:
    engine = Engine(two)
    engine.draw([submit("warm")])
    serve(engine, spec_of("flux-schnell", two["flux-schnell"]), leaving=(spec_of("sdxl", two["sdxl"]),))
    settle(engine)
    assert states(engine)["sdxl"] == "disk"
    assert isinstance(engine.draw([submit("late")])["late"][0], Image)


def test_a_job_for_a_model_that_nobody_knows_is_refused_and_the_worker_lives(two: Mapping[str, Checkpoint]) -> None:
    engine = Engine(two)
    ends = engine.draw([submit("a", model="never-heard-of"), submit("b")])
    assert [type(ends[name][0]) for name in "ab"] == [Failed, Image]


def test_the_same_files_under_another_name_are_not_loaded_a_second_time(two: Mapping[str, Checkpoint]) -> None:
    engine = Engine({"sdxl": two["sdxl"]})
    first = engine.draw([submit("a", seed=3)])
    held = len(engine.carrier.modules)
    serve(engine, spec_of("sdxl@2", two["sdxl"]), leaving=(spec_of("sdxl", two["sdxl"]),))
    engine.draw([submit("b", model="sdxl@2", seed=3)])
    assert len(engine.carrier.modules) == held
    assert engine.pictures()["b"] == engine.pictures()["a"]
    assert isinstance(first["a"][0], Image)


def test_what_the_operator_asked_for_outlives_a_reload_unless_the_entry_says_otherwise_now(
    two: Mapping[str, Checkpoint],
) -> None:
    engine = Engine(two)
    engine.models.pin("sdxl", is_pinned=True)
    specs = [spec_of(name, one) for name, one in two.items()]
    serve(engine, *specs)
    assert [report.is_pinned for report in engine.models.reports()] == [True, False]
    serve(engine, specs[0], spec_of("flux-schnell", two["flux-schnell"], loading="pin"))
    assert [report.is_pinned for report in engine.models.reports()] == [True, True]
    serve(engine, *specs)
    assert [report.is_pinned for report in engine.models.reports()] == [True, False]
    settle(engine)
    assert states(engine)["sdxl"] == "device"
