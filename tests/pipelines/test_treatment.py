"""How a model is held and computed: what was asked for works, or is refused with the reason, before anything loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.messages import EngineOptions, Failed, Lora, ModelSpec
from pipelines.residency.holding import Budgets
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.load import Opened
from pipelines.weights.treatment import Treatment, bytes_on_device, treated, treatment_of
from tests.pipelines.adapter_files import models_of, some_layers, write_diffusers
from tests.pipelines.conftest import KINDS, Checkpoint
from tests.pipelines.engine_runs import CPU, Engine, submit
from tests.pipelines.stock import load, read_pixels

CUDA = torch.device("cuda")
COUNTS = {
    "transformer": 12_000_000_000,
    "text_encoder": 120_000_000,
    "text_encoder_2": 4_700_000_000,
    "vae": 84_000_000,
}
GIB = 1024**3


def spec(**changes: Any) -> ModelSpec:
    return ModelSpec("m", changes.pop("family", "flux"), "/nowhere", **changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": "float16"}, "float16 cannot work on a CPU"),
        ({"fit": "offload"}, "no other memory"),
        ({"attention": "xformers"}, "xformers cannot work on a CPU"),
        ({"attention": "flash3"}, "flash3 cannot work on a CPU"),
        ({"compile": "blocks"}, "needs fit full"),
    ],
)
def test_what_a_cpu_cannot_do_is_refused_with_what_to_write(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(CheckpointProblem, match=reason):
        treatment_of(spec(**changes), CPU, COUNTS, GIB)


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(CheckpointProblem, match="needs the package xformers"):
        treatment_of(spec(attention="xformers", dtype="float16"), CUDA, COUNTS, GIB)


@pytest.mark.parametrize(
    ("budget_bytes", "fit"),
    [(40 * GIB, "full"), (24 * GIB, "float8"), (10 * GIB, "offload")],
)
def test_on_cuda_auto_takes_the_first_fit_that_has_room(budget_bytes: int, fit: str) -> None:
    assert treatment_of(spec(dtype="float16"), CUDA, COUNTS, budget_bytes).fit == fit


def test_on_a_cpu_auto_never_offloads_and_what_fits_no_way_is_left_to_be_refused() -> None:
    assert treatment_of(spec(), CPU, COUNTS, 70 * GIB).fit == "full"
    assert treatment_of(spec(), CPU, COUNTS, 40 * GIB).fit == "float8"
    assert treatment_of(spec(), CPU, COUNTS, 1 * GIB).fit == "full"


def test_only_the_parts_that_are_worth_it_are_held_otherwise() -> None:
    low, away = Treatment(torch.bfloat16, "float8"), Treatment(torch.bfloat16, "offload", "xformers")
    assert [low.of(name).fit for name in ("unet", "vae", "text_encoder_2")] == ["float8", "full", "full"]
    assert [away.of(name).fit for name in ("transformer", "vae", "text_encoder_2")] == ["offload", "full", "offload"]
    assert [away.of(name).attention for name in ("transformer", "vae")] == ["xformers", "sdpa"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_denoiser_in_float8_takes_less_and_draws_nearly_the_same(
    checkpoints: Mapping[str, Checkpoint], kind: str
) -> None:
    one = {kind: checkpoints[kind]}
    full, low = Engine(one), Engine(one, changes={"fit": "float8"})
    for engine in (full, low):
        engine.draw([submit("a", model=kind, steps=4, guidance_scale=2.0)])
    before, after = (read_pixels(engine.pictures()["a"]).astype(int) for engine in (full, low))
    assert np.abs(before - after).mean() < 12
    assert low.pictures() != full.pictures()
    (small,), (large,) = low.models.reports(), full.models.reports()
    assert small.device_bytes < 0.8 * large.device_bytes


def test_weights_in_float8_are_a_byte_each_but_for_norms(checkpoints: Mapping[str, Checkpoint]) -> None:
    opened = Opened(checkpoints["sdxl"].folder, "sdxl")
    low = Treatment(torch.float32, "float8")
    plain = opened.module("unet", CPU, torch.float32)
    packed = treated(opened.module("unet", CPU, torch.float32), low, CPU)
    assert bytes_on_device(packed, low) < 0.4 * bytes_on_device(plain, Treatment(torch.float32))


def test_what_fits_only_in_float8_is_served_so(checkpoints: Mapping[str, Checkpoint]) -> None:
    one = {"sdxl": checkpoints["sdxl"]}
    full = Engine(one)
    full.draw([submit("a")])
    (report,) = full.models.reports()
    tight = Engine(one, budgets=Budgets(int(0.8 * report.device_bytes)))
    assert not isinstance(tight.draw([submit("a")])["a"][0], Failed)
    assert tight.models.reports()[0].device_bytes <= 0.8 * report.device_bytes


@pytest.mark.parametrize("kind", ["sdxl", "flux-schnell"])
def test_a_model_in_bfloat16_draws_nearly_the_same(checkpoints: Mapping[str, Checkpoint], kind: str) -> None:
    one = {kind: checkpoints[kind]}
    full, half = Engine(one), Engine(one, changes={"dtype": "bfloat16"})
    for engine in (full, half):
        engine.draw([submit("a", model=kind)])
    before, after = (read_pixels(engine.pictures()["a"]).astype(int) for engine in (full, half))
    assert np.abs(before - after).mean() < 4
    assert half.models.reports()[0].device_bytes < 0.6 * full.models.reports()[0].device_bytes


def test_what_cannot_work_fails_the_model_with_its_reason_and_no_other(checkpoints: Mapping[str, Checkpoint]) -> None:
    engine = Engine({"sdxl": checkpoints["sdxl"]}, changes={"attention": "xformers"})
    (end,) = engine.draw([submit("a")])["a"]
    assert isinstance(end, Failed)
    assert end.code == "model_unavailable"
    assert "write sdpa" in end.detail


def test_an_adapter_acts_on_weights_in_float8_as_on_others(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    models = models_of(load(checkpoints["sdxl"].folder, "sdxl"))
    file = write_diffusers(tmp_path / "brush.safetensors", some_layers(models, seed=1))
    engine = Engine({"sdxl": checkpoints["sdxl"]}, loras={"brush": str(file)}, changes={"fit": "float8"})
    engine.draw([submit("without"), submit("with", loras=(Lora("brush", 1.0),))])
    assert engine.pictures()["with"] != engine.pictures()["without"]


def test_compiling_is_refused_where_bytes_must_not_change(checkpoints: Mapping[str, Checkpoint]) -> None:
    options = EngineOptions(exact_rows=2)
    engine = Engine({"sdxl": checkpoints["sdxl"]}, options, changes={"compile": "blocks", "fit": "full"})
    (end,) = engine.draw([submit("a")])["a"]
    assert isinstance(end, Failed)
    assert "SAFELIGHT_BATCH_EXACT_ROWS" in end.detail
