"""Every job is settled exactly once, and a failure stays with the job that caused it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.denoise.state import DenoiseState
from pipelines.engine.models import Models
from pipelines.engine.runner import Runner
from pipelines.families.contract import Family, NonFiniteResult
from pipelines.families.sdxl import Sdxl
from pipelines.messages import Cancelled, DrawParams, Event, Failed, Image, ModelSpec, Progress, Queued, Started, Submit
from pipelines.weights.load import load_sdxl
from tests.pipelines.tiny_sdxl import write_tiny_sdxl


class AtOnce(Executor):
    """Runs what it is given in the caller's thread."""

    def submit(self, work: Any, /, *arguments: Any, **keywords: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments, **keywords))
        return done


class Faulty:
    """A real family that fails one prompt at one verb."""

    def __init__(self, family: Family, verb: str, error: Exception) -> None:
        self._family, self._verb, self._error = family, verb, error
        self._guilty: list[DenoiseState] = []

    def prepare(self, params: DrawParams) -> DenoiseState:
        if params.prompt == "bad" and self._verb == "prepare":
            raise self._error
        state = self._family.prepare(params)
        if params.prompt == "bad":
            self._guilty.append(state)
        return state

    def batch_key(self, state: DenoiseState) -> Hashable:
        return self._family.batch_key(state)

    def denoise_step(self, states: Sequence[DenoiseState]) -> None:
        self._maybe_fail("denoise_step", states)
        self._family.denoise_step(states)

    def decode(self, states: Sequence[DenoiseState]) -> torch.Tensor:
        self._maybe_fail("decode", states)
        return self._family.decode(states)

    def footprint(self, params: DrawParams) -> int:
        return self._family.footprint(params)

    def _maybe_fail(self, verb: str, states: Sequence[DenoiseState]) -> None:
        if self._verb == verb and any(state is guilty for state in states for guilty in self._guilty):
            raise self._error


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("runner") / "sdxl")


def models_at(folder: Path) -> Models:
    return Models((ModelSpec("tiny", "sdxl", str(folder)),), torch.device("cpu"), torch.float32)


def submit(
    job_id: str, prompt: str = "a circle", *, model: str = "tiny", steps: int = 2, seed: int = 1, listens: bool = False
) -> Submit:
    params = DrawParams(prompt, None, 64, 64, steps, 1.0, "checkpoint", seed)
    return Submit(job_id, model, params, wants_progress=listens)


def run(models: Models, requests: Sequence[Submit], job_limit: int = 1) -> list[Event]:
    events: list[Event] = []
    runner = Runner(models, events.append, AtOnce(), clock=lambda: 0.0, job_limit=job_limit)
    for request in requests:
        runner.submit(request)
    while runner.has_work:
        runner.work()
    return events


def settled(events: Sequence[Event]) -> dict[str, list[Event]]:
    ends: dict[str, list[Event]] = {}
    for event in events:
        if isinstance(event, (Image, Failed, Cancelled)):
            ends.setdefault(event.job_id, []).append(event)
    return ends


def test_a_job_is_queued_started_followed_and_settled(folder: Path) -> None:
    events = run(models_at(folder), [submit("a", listens=True)])
    assert events[:4] == [Queued("a", 0), Started("a"), Progress("a", 1, 2), Progress("a", 2, 2)]
    (image,) = events[4:]
    assert isinstance(image, Image)
    assert image.png.startswith(b"\x89PNG")


def test_progress_is_told_only_to_those_who_listen(folder: Path) -> None:
    assert not [event for event in run(models_at(folder), [submit("a")]) if isinstance(event, Progress)]


@pytest.mark.parametrize("verb", ["prepare", "denoise_step", "decode"])
def test_a_job_that_fails_settles_alone_and_its_mates_are_drawn_as_ever(
    folder: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [submit("a", seed=1), submit("b", "bad", seed=2), submit("c", seed=3)]
    undisturbed = settled(run(models_at(folder), [requests[0], requests[2]]))
    faulty = Faulty(Sdxl(load_sdxl(folder, torch.device("cpu"), torch.float32)), verb, ZeroDivisionError("secret"))
    models = models_at(folder)
    monkeypatch.setattr(models, "family", lambda _: faulty)
    ends = settled(run(models, requests))
    (failure,) = ends.pop("b")
    assert isinstance(failure, Failed)
    assert failure.code == "generation_failed"
    assert "secret" not in failure.message
    assert "secret" in failure.detail
    assert ends == undisturbed


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "insufficient_memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "insufficient_memory"),
        (MemoryError(), "insufficient_memory"),
        (NonFiniteResult("nan"), "generation_failed"),
        (RuntimeError("something else"), "generation_failed"),
    ],
)
def test_the_cause_of_a_failure_is_told_by_its_code(
    folder: Path, error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = models_at(folder)
    faulty = Faulty(Sdxl(load_sdxl(folder, torch.device("cpu"), torch.float32)), "decode", error)
    monkeypatch.setattr(models, "family", lambda _: faulty)
    (failure,) = settled(run(models, [submit("a", "bad")]))["a"]
    assert isinstance(failure, Failed)
    assert failure.code == code


def test_latents_that_are_not_finite_never_become_a_picture(folder: Path) -> None:
    family = Sdxl(load_sdxl(folder, torch.device("cpu"), torch.float32))
    state = family.prepare(DrawParams("a", None, 64, 64, 1, 1.0, "checkpoint", 0))
    state.latents = torch.full_like(state.latents, float("nan"))
    with pytest.raises(NonFiniteResult):
        family.decode([state])


def test_a_cancelled_job_is_settled_once_and_does_no_more_work(folder: Path) -> None:
    events: list[Event] = []
    runner = Runner(models_at(folder), events.append, AtOnce(), clock=lambda: 0.0)
    runner.submit(submit("a", steps=50))
    runner.work()
    runner.work()
    runner.cancel("a")
    runner.cancel("a")
    runner.cancel("never heard of")
    assert not runner.has_work
    assert settled(events) == {"a": [Cancelled("a")]}


def test_a_model_that_does_not_load_fails_its_own_jobs_only(folder: Path, tmp_path: Path) -> None:
    specs = (ModelSpec("tiny", "sdxl", str(folder)), ModelSpec("absent", "sdxl", str(tmp_path / "absent")))
    models = Models(specs, torch.device("cpu"), torch.float32)
    assert [bool(report.problem) for report in models.reports()] == [False, True]
    ends = settled(run(models, [submit("a", model="absent"), submit("b")]))
    assert isinstance(ends["b"][0], Image)
    (failure,) = ends["a"]
    assert isinstance(failure, Failed)
    assert failure.code == "model_unavailable"
