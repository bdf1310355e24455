"""What a worker counts of its work is what its engine did: items, rows, loads, and where a picture's time went."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from pipelines.engine.faults import Fault
from pipelines.engine.tally import Tally
from pipelines.figures import ROWS_BOUNDS, SECONDS_BOUNDS, WorkFigures, WorkKind
from pipelines.messages import Image
from pipelines.residency.budgets import memory_in_use
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import Engine, submit


def sums(tally: Tally) -> dict[tuple[str, WorkKind], tuple[int, int]]:
    """Items and rows by model and kind."""
    found: dict[tuple[str, WorkKind], tuple[int, int]] = {}
    for one in tally.figures():
        items, rows = found.get((one.model, one.kind), (0, 0))
        found[one.model, one.kind] = (items + one.items, rows + one.rows)
    return found


def test_a_work_item_counts_once_in_the_bucket_of_its_seconds_and_of_its_rows() -> None:
    tally = Tally()
    for rows, seconds in ((3, 0.01), (4, 0.0101), (65, 100.0)):
        tally.worked("m", "denoise", rows, seconds)
    within, beyond = tally.figures()
    buckets = [0] * (len(SECONDS_BOUNDS) + 1)
    buckets[1] = buckets[2] = 1
    assert within.seconds == pytest.approx(0.0201)
    assert within == WorkFigures("m", "denoise", ROWS_BOUNDS.index(4), 2, 7, within.seconds, tuple(buckets))
    assert (beyond.rows_bucket, beyond.buckets[-1]) == (len(ROWS_BOUNDS), 1)


def test_the_engine_counts_every_forward_with_its_rows(checkpoints: Mapping[str, Checkpoint]) -> None:
    engine = Engine({"sdxl": checkpoints["sdxl"]})
    engine.draw([submit("a", steps=2), submit("b", steps=3, guidance_scale=2.0)])
    counted = sums(engine.tally)
    assert counted["sdxl", "denoise"][1] == 2 * 1 + 3 * 2, "rows of all steps"
    assert counted["sdxl", "prepare"][1] == counted["sdxl", "decode"][1] == 2


def test_the_parts_of_a_pictures_time_are_those_that_the_clock_saw(checkpoints: Mapping[str, Checkpoint]) -> None:
    engine = Engine({"sdxl": checkpoints["sdxl"]})
    engine.draw([submit("a", steps=2)])
    (image,) = (event for event in engine.events if isinstance(event, Image))
    assert image.timeline is not None
    timeline = image.timeline
    # A clock that goes on by 0.01 s with every look.
    assert [timeline.prepare_seconds, timeline.decode_seconds] == pytest.approx([0.01, 0.01])
    assert timeline.denoise_seconds > 0.02
    assert timeline.seconds >= image.device_seconds


def test_loads_evictions_and_the_cache_of_prompts_are_counted_over_a_models_comings(
    checkpoints: Mapping[str, Checkpoint],
) -> None:
    engine = Engine({"sdxl": checkpoints["sdxl"]})
    engine.draw([submit("a", prompt="x"), submit("b", prompt="x")])
    (before,) = engine.models.figures()
    engine.models.unload("sdxl")
    for now_seconds in (1e6, 2e6, 3e6):
        engine.models.update(now_seconds, [], [])
    engine.draw([submit("c", prompt="x")])
    (after,) = engine.models.figures()
    assert (before.loads, before.evictions) == (1, 0)
    assert (after.loads, after.evictions) == (2, 1)
    assert before.prompt_cache_bytes > 0
    assert after.prompt_misses > before.prompt_misses, "the cache went with the model, its count did not"


def test_work_that_memory_did_not_suffice_for_is_counted(checkpoints: Mapping[str, Checkpoint]) -> None:
    engine = Engine({"sdxl": checkpoints["sdxl"]}, faults=[Fault("out_of_memory", 7, "decode", times=1)])
    engine.draw([submit("a", seed=7)])
    assert engine.tally.out_of_memory == {"sdxl": 1}


def test_a_cpus_memory_is_the_hosts() -> None:
    memory = memory_in_use(torch.device("cpu"))
    assert memory is not None
    assert 0 < memory.used_bytes < memory.total_bytes
