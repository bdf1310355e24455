"""On a CUDA device: parity within bfloat16, exact mode, real want of memory, and memory that comes back."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.families.contract import Family, FamilyOptions
from pipelines.families.registry import load_family
from pipelines.messages import EngineOptions, FamilyName
from pipelines.residency.holding import Budgets
from tests.pipelines.conftest import KINDS, Checkpoint, write_checkpoints
from tests.pipelines.engine_runs import Engine, submit
from tests.pipelines.stock import ours, params, read_pixels, stock

# Mean difference, of 255, that bfloat16 may make in a picture of a few steps (1.1 at most on a CPU, where another seed
# makes some 40); single pixels at edges may differ more.
BF16_MEAN_TOLERANCE = 3.0


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Checkpoint]:
    return write_checkpoints(tmp_path_factory.mktemp("tiny"))


def load(folder: Path, family: FamilyName, device: torch.device, options: FamilyOptions | None = None) -> Family:
    return load_family(family, folder, device, torch.bfloat16, options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_that_of_diffusers_on_a_cpu_within_bfloat16(
    tiny: Mapping[str, Checkpoint], kind: str, device: torch.device
) -> None:
    checkpoint, asked = tiny[kind], params()
    drawn = ours(load(checkpoint.folder, checkpoint.family, device), asked)
    expected = stock(checkpoint.folder, checkpoint.family, asked)
    assert np.abs(drawn.pixels - expected.pixels).mean() <= BF16_MEAN_TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_in_exact_mode_bytes_do_not_depend_on_company(
    tiny: Mapping[str, Checkpoint], kind: str, device: torch.device
) -> None:
    exact = EngineOptions(exact_rows=8)
    jobs = [submit(str(seed), model=kind, seed=seed, steps=3 + seed, guidance_scale=1.0 + seed) for seed in range(3)]
    alone: dict[str, bytes] = {}
    for job in jobs:
        engine = Engine({kind: tiny[kind]}, exact, device=device)
        engine.draw([job])
        alone |= engine.pictures()
    together = Engine({kind: tiny[kind]}, exact, device=device)
    together.draw(jobs)
    assert together.pictures() == alone


def test_a_batch_beyond_the_memory_is_split_and_drawn(tiny: Mapping[str, Checkpoint], device: torch.device) -> None:
    engine = Engine({"sdxl": tiny["sdxl"]}, EngineOptions(max_rows=64), device=device)
    jobs = [submit(str(seed), seed=seed, width_px=1024, height_px=1024, steps=2) for seed in range(16)]
    engine.draw([submit("warm")])
    hog = _leave_bytes_free(device, 1 << 30)
    try:
        ends = engine.draw(jobs)
    finally:
        del hog
    assert len([end for job, (end,) in ends.items() if job != "warm" and hasattr(end, "file")]) == len(jobs)


def _leave_bytes_free(device: torch.device, free_bytes: int) -> torch.Tensor:
    """Take all memory but so much."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return torch.empty(max(0, free - free_bytes), dtype=torch.uint8, device=device)


def test_memory_is_back_at_the_baseline_when_a_model_goes(tiny: Mapping[str, Checkpoint], device: torch.device) -> None:
    baseline = torch.cuda.memory_allocated(device)
    for _ in range(3):
        family = load(tiny["sdxl"].folder, "sdxl", device)
        ours(family, params())
        del family
        gc.collect()
    assert torch.cuda.memory_allocated(device) == baseline


def test_pixels_leave_the_device_as_bytes(tiny: Mapping[str, Checkpoint], device: torch.device) -> None:
    engine = Engine({"sdxl": tiny["sdxl"]}, device=device)
    engine.draw([submit("a")])
    assert read_pixels(engine.pictures()["a"]).shape == (64, 64, 3)


def test_models_that_take_turns_come_back_from_host_memory_and_draw_the_same(
    tiny: Mapping[str, Checkpoint], device: torch.device
) -> None:
    models = {name: tiny[name] for name in ("sdxl", "sd21-velocity")}
    roomy = Engine(models, device=device)
    requests = [submit(f"{name}-{turn}", model=name, seed=turn) for turn in range(10) for name in models]
    roomy.draw(requests)
    most = max(report.device_bytes for report in roomy.models.reports())
    roomy.models.unload("sdxl")
    roomy.models.unload("sd21-velocity")
    narrow = Engine(models, device=device, budgets=Budgets(most, host_bytes=1 << 30))
    allocated: list[int] = []
    for request in requests:
        narrow.draw([request])
        allocated.append(torch.cuda.memory_allocated(device))
    assert narrow.pictures() == roomy.pictures()
    assert max(allocated[-4:]) <= max(allocated[:4]) + (1 << 20)


def test_an_offloaded_denoiser_draws_what_it_draws_on_the_device(
    tiny: Mapping[str, Checkpoint], device: torch.device
) -> None:
    one = {"sdxl": tiny["sdxl"]}
    full, away = Engine(one, device=device), Engine(one, device=device, changes={"fit": "offload"})
    for engine in (full, away):
        engine.draw([submit("a")])
    before, after = (read_pixels(engine.pictures()["a"]).astype(int) for engine in (full, away))
    assert np.abs(before - after).mean() <= BF16_MEAN_TOLERANCE
    assert away.models.reports()[0].device_bytes < full.models.reports()[0].device_bytes
