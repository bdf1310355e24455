"""A model is compiled beside its work: nobody waits for it, and it draws the same picture."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.denoise.adapters import NO_ADAPTERS, AdapterSet
from pipelines.denoise.compiled import Compiling, Denoiser
from pipelines.families.contract import FamilyOptions
from pipelines.messages import Compile, Lora
from tests.pipelines.adapter_files import models_of, some_layers, write_diffusers
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.stock import load, ours, params


class Scaled(torch.nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(values)))  # type: ignore[no-any-return]


def test_it_works_as_it_is_until_the_compiled_one_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: gate.wait(30))
    values = torch.randn(2, 4)
    with ThreadPoolExecutor(1) as threads:
        denoiser = Denoiser(Scaled(), Compiling("full", threads))
        before = denoiser(NO_ADAPTERS, values)
        assert not denoiser.is_compiled
        gate.set()
    assert denoiser.is_compiled
    assert torch.equal(denoiser(NO_ADAPTERS, values), before)


def test_what_cannot_be_compiled_goes_on_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    values = torch.randn(2, 4)
    with ThreadPoolExecutor(1) as threads:
        denoiser = Denoiser(Scaled(), Compiling("full", threads))
        before = denoiser(NO_ADAPTERS, values)
    assert torch.equal(denoiser(NO_ADAPTERS, values), before)
    assert "Scaled cannot be compiled, and goes on as it is: RuntimeError: no kernel for this" in capfd.readouterr().err


def test_the_twin_has_no_weights_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)
    module = Scaled()
    with ThreadPoolExecutor(1) as threads:
        denoiser = Denoiser(module, Compiling("full", threads))
        denoiser(NO_ADAPTERS, torch.randn(2, 4))
    assert isinstance(denoiser._compiled, Scaled)
    assert denoiser._compiled is not module
    assert denoiser._compiled.first.weight is module.first.weight


@pytest.mark.whole
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")  # torch's own
@pytest.mark.parametrize(("kind", "mode"), [("sdxl", "blocks"), ("flux-schnell", "full")])
def test_a_compiled_model_draws_the_picture_that_it_drew_before_and_adapters_act_on_it(
    checkpoints: Mapping[str, Checkpoint], kind: str, mode: Compile, tmp_path: Path
) -> None:
    one = checkpoints[kind]
    file = write_diffusers(tmp_path / "a.safetensors", some_layers(models_of(load(one.folder, one.family)), seed=1))
    plain = load(one.folder, one.family, FamilyOptions(loras={"a": str(file)}))
    with ThreadPoolExecutor(1) as threads:
        options = FamilyOptions(compiling=Compiling(mode, threads), loras={"a": str(file)})
        compiled = load(one.folder, one.family, options)
        ours(compiled, params())
    assert compiled._denoiser.is_compiled  # type: ignore[attr-defined]
    adapted = params(loras=(Lora("a", 1.0),))
    for asked in (params(), adapted):
        difference = np.abs(ours(compiled, asked).pixels - ours(plain, asked).pixels)
        assert difference.max() <= 1.01 / 255 if difference.dtype.kind == "f" else difference.max() <= 1


def test_no_adapters_are_an_empty_set() -> None:
    assert AdapterSet().key("denoiser") == ()
