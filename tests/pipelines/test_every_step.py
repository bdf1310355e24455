"""SQLite's own habit: the first step of a job fails, then the second, and so on, until it is drawn without one."""

from __future__ import annotations

import pytest

from pipelines.engine.faults import Fault, FaultKind
from pipelines.messages import Failed, Image
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import Engine, submit

STEPS = 3
KINDS: tuple[FaultKind, ...] = ("exception", "out_of_memory")


@pytest.mark.parametrize("kind", KINDS)
def test_whichever_step_of_a_job_fails_it_ends_once_and_its_mate_comes_out_the_same(
    checkpoints: dict[str, Checkpoint], kind: FaultKind
) -> None:
    models = {"sdxl": checkpoints["sdxl"]}
    jobs = [submit("good", seed=1, steps=STEPS), submit("bad", seed=2, steps=STEPS)]
    undisturbed = Engine(models)
    undisturbed.draw(jobs)
    for step in range(STEPS + 2):
        engine = Engine(models, faults=[Fault(kind, seed=2, step=step)])
        ends = engine.draw(jobs)
        assert [len(ends[name]) for name in ("good", "bad")] == [1, 1]
        assert isinstance(ends["good"][0], Image)
        assert engine.pictures()["good"] == undisturbed.pictures()["good"]
        if isinstance(ends["bad"][0], Image):
            assert step == STEPS
            return
        assert isinstance(ends["bad"][0], Failed)
    raise AssertionError("it never passed without the fault")
