"""A ControlNet's bad files harm nobody but those who name it, and its weights are counted like any other's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.check import finding
from pipelines.messages import Control, EngineOptions, Failed, Image, ModelSpec, Submit
from pipelines.residency.survey import survey
from pipelines.weights.control_file import DAMAGED, NOT_SOUND, UNFIT
from pipelines.weights.digest import FileDigests
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.layout import Source
from pipelines.weights.verify import verify
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import Engine, submit
from tests.pipelines.stock_control import some_hint
from tests.pipelines.tiny_models import write_control, write_tiny_flux

WEIGHTS, CONFIG = "diffusion_pytorch_model.safetensors", "config.json"


def hinted(job_id: str, scale: float = 1.0, **changes: Any) -> Submit:
    return submit(job_id, control=Control("canny", some_hint(64, 64), scale), **changes)


def engine_with(checkpoint: Checkpoint, network: Path, options: EngineOptions | None = None) -> Engine:
    return Engine({"sdxl": checkpoint}, options, controls={"canny": str(network)})


def changed_config(folder: Path, **changes: Any) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def changed_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def cut_short(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-100])


def not_finite(folder: Path) -> None:
    changed_weights(folder, lambda tensors: tensors["conv_in.weight"].fill_(float("nan")))


def one_too_few(folder: Path) -> None:
    changed_weights(folder, lambda tensors: tensors.pop("conv_in.weight"))


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), DAMAGED),
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), DAMAGED),
    "cut short": (cut_short, DAMAGED),
    "code beside it": (lambda folder: (folder / "run.py").write_text("1"), DAMAGED),
    "a UNet": (lambda folder: changed_config(folder, _class_name="UNet2DConditionModel"), DAMAGED),
    "other widths": (lambda folder: changed_config(folder, block_out_channels=[32, 64, 64]), UNFIT),
    "other prompts": (lambda folder: changed_config(folder, cross_attention_dim=768), UNFIT),
    "another autoencoder": (lambda folder: changed_config(folder, conditioning_embedding_out_channels=[8, 8]), UNFIT),
    "a tensor too few": (one_too_few, NOT_SOUND),
    "not finite": (not_finite, NOT_SOUND),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_bad_network_fails_those_who_name_it_and_nobody_else(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path, name: str
) -> None:
    spoil, reason = BREAKAGES[name]
    folder = write_control(tmp_path / "canny", checkpoints["sdxl"].folder, 1)
    spoil(folder)
    ends = engine_with(checkpoints["sdxl"], folder).draw([submit("plain"), hinted("hinted"), submit("other", seed=2)])
    assert isinstance(ends["plain"][0], Image)
    assert isinstance(ends["other"][0], Image)
    failed = ends["hinted"][0]
    assert isinstance(failed, Failed)
    assert failed.code == "control_unavailable"
    assert failed.message == f"The control 'canny' cannot be used with this model: {reason}."
    spec = ModelSpec("m", "sdxl", str(checkpoints["sdxl"].folder), controls={"canny": str(folder)})
    assert finding(spec).problem is None
    assert ("canny" in finding(spec).controls) == (reason != NOT_SOUND)


def test_a_network_is_a_component_of_its_model_and_counts_in_its_size(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    folder = write_control(tmp_path / "canny", checkpoints["sdxl"].folder, 1)
    spec = ModelSpec("m", "sdxl", str(checkpoints["sdxl"].folder), controls={"canny": str(folder)})
    components = survey(spec, torch.device("cpu"), 10**9, FileDigests()).components
    weights_bytes = sum(tensor.nbytes for tensor in load_file(folder / WEIGHTS).values())
    assert components["control_canny"].size_bytes == weights_bytes


def test_in_exact_mode_bytes_do_not_depend_on_whether_company_has_hints(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    folder = write_control(tmp_path / "canny", checkpoints["sdxl"].folder, 1)
    exact = EngineOptions(exact_rows=8)
    jobs = [
        submit("plain", seed=1, guidance_scale=4.0),
        hinted("hinted", seed=2, guidance_scale=4.0),
        hinted("faint", 0.3, seed=3),
        hinted("none", 0.0, seed=1, guidance_scale=4.0),
    ]
    alone: dict[str, bytes] = {}
    for job in jobs:
        engine = engine_with(checkpoints["sdxl"], folder, exact)
        engine.draw([job])
        alone |= engine.pictures()
    together = engine_with(checkpoints["sdxl"], folder, exact)
    together.draw(jobs)
    assert together.pictures() == alone
    assert alone["none"] == alone["plain"]
    assert len(set(alone.values())) == 3


@pytest.mark.parametrize("takes_hint", [False, True])
def test_an_entry_of_flux_and_its_configuration_must_agree_on_hints(tmp_path: Path, takes_hint: bool) -> None:
    folder = write_tiny_flux(tmp_path / "flux", takes_guidance=True, takes_hint=takes_hint)
    right, wrong = ({"canny": None}, {}) if takes_hint else ({}, {"canny": None})
    verify(Source(folder, controls=right), "flux")  # type: ignore[arg-type]  # kinds as text
    with pytest.raises(CheckpointProblem, match="controls"):
        verify(Source(folder, controls=wrong), "flux")  # type: ignore[arg-type]  # kinds as text
