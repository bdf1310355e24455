"""Hints draw what diffusers' ControlNet and Flux control pipelines draw with them, alone and in mixes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.families.contract import Family, FamilyOptions
from pipelines.messages import Control, ControlKind, DrawParams, FamilyName, Lora
from tests.pipelines.adapter_files import models_of, some_layers, write_diffusers
from tests.pipelines.conftest import Checkpoint, some_of
from tests.pipelines.stock import (
    MIXED_LATENT_TOLERANCE,
    Result,
    assert_same,
    finished,
    load,
    ours,
    params,
    stock,
)
from tests.pipelines.stock_control import load_controlled, some_hint, stock_controlled
from tests.pipelines.test_parity import TASKS, drawn_in_a_mix, random_params, task
from tests.pipelines.tiny_models import write_control, write_tiny_flux

UNETS = ("sdxl", "sd21-velocity", "sd21-noise")
# Shares of the steps between which a hint acts, some of them with no step in between.
SPANS = [(0.0, 1.0), (0.0, 0.5), (0.3, 0.8), (0.6, 1.0), (0.1, 0.2)]


@dataclass(frozen=True, slots=True)
class Controlled:
    """A checkpoint, and its ControlNets by kind."""

    family: FamilyName
    folder: Path
    networks: Mapping[ControlKind, Path | None]

    def load(self, options: FamilyOptions | None = None) -> Family:
        return load_controlled(self.folder, self.family, self.networks, options)

    def stock(self, asked: DrawParams, adapters: Any = ()) -> Result:
        if asked.control is None or asked.control.scale == 0:
            return stock(self.folder, self.family, asked, adapters)
        return stock_controlled(self.folder, self.family, asked, self.networks[asked.control.kind], adapters)


@pytest.fixture(scope="module")
def controlled(
    checkpoints: Mapping[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, Controlled]:
    root = tmp_path_factory.mktemp("controls")
    made = {}
    for kind in UNETS:
        one = checkpoints[kind]
        networks: dict[ControlKind, Path | None] = {
            "canny": write_control(root / f"{kind}-canny", one.folder, 1),
            "depth": write_control(root / f"{kind}-depth", one.folder, 2),
        }
        made[kind] = Controlled(one.family, one.folder, networks)
    flux = write_tiny_flux(root / "flux", takes_guidance=True, takes_hint=True)
    return {**made, "flux-canny": Controlled("flux", flux, {"canny": None})}


def control(kind: ControlKind = "canny", width_px: int = 128, height_px: int = 128, **changes: Any) -> Control:
    return Control(kind, some_hint(width_px, height_px), **changes)


def is_unlike(one: Result, other: Result) -> bool:
    return float((one.latents - other.latents).abs().max()) > 0.05


@pytest.mark.parametrize("kind", [*UNETS, "flux-canny"])
@pytest.mark.parametrize("guidance", [pytest.param(1.0, marks=pytest.mark.whole), 5.0])
@pytest.mark.parametrize(("name", "strength"), TASKS)
def test_a_hint_acts_as_in_diffusers_in_every_task(
    controlled: Mapping[str, Controlled], kind: str, guidance: float, name: str, strength: float
) -> None:
    one = controlled[kind]
    asked = params(control=control("canny", 192, 64), guidance_scale=guidance, **task(name, 192, 64, strength))
    assert_same(ours(one.load(), asked), one.stock(asked))


@pytest.mark.parametrize("kind", some_of(UNETS, "sdxl"))
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("scale", [0.4, pytest.param(2.0, marks=pytest.mark.whole)])
def test_a_scale_and_a_span_of_steps_act_as_in_diffusers(
    controlled: Mapping[str, Controlled], kind: str, span: tuple[float, float], scale: float
) -> None:
    one, (start, end) = controlled[kind], span
    asked = params(control=control("depth", scale=scale, start=start, end=end), steps=7)
    assert_same(ours(one.load(), asked), one.stock(asked))


def test_a_hint_its_kind_and_its_scale_make_a_difference_and_a_scale_of_zero_none_to_the_bit(
    controlled: Mapping[str, Controlled],
) -> None:
    family = controlled["sdxl"].load()
    plain = ours(family, params())
    drawn = [
        ours(family, params(control=control("canny"))),
        ours(family, params(control=control("canny", scale=0.5))),
        ours(family, params(control=control("depth"))),
    ]
    assert all(is_unlike(one, plain) for one in drawn)
    assert is_unlike(drawn[0], drawn[1])
    assert is_unlike(drawn[0], drawn[2])
    assert torch.equal(ours(family, params(control=control(scale=0.0))).latents, plain.latents)


def random_controlled(rng: random.Random, family: FamilyName) -> DrawParams:
    """A job of any kind, some without a hint; FLUX's all have one."""
    asked = random_params(rng, family)
    kinds: list[ControlKind | None] = ["canny"] if family == "flux" else [None, "canny", "depth"]
    kind = rng.choice(kinds)
    if kind is None:
        return asked
    start, end = rng.choice(SPANS)
    changes: dict[str, Any] = {"scale": rng.choice([0.0, 0.5, 1.3]), "start": start, "end": end}
    hint = Control(kind, some_hint(64, 64, rng.randrange(9)), **({} if family == "flux" else changes))
    return DrawParams(**{**{name: getattr(asked, name) for name in asked.__struct_fields__}, "control": hint})


@pytest.mark.parametrize("kind", some_of((*UNETS, "flux-canny"), "sd21-velocity", "flux-canny"))
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.whole) for seed in range(2, 8))])
def test_jobs_with_and_without_hints_in_a_random_mix_draw_what_diffusers_draws_for_each(
    controlled: Mapping[str, Controlled], kind: str, seed: int
) -> None:
    one, rng = controlled[kind], random.Random(seed)
    batch = [random_controlled(rng, one.family) for _ in range(6)]
    for asked, result in zip(batch, drawn_in_a_mix(one.load(), batch, rng), strict=True):
        assert_same(result, one.stock(asked), MIXED_LATENT_TOLERANCE)


@pytest.mark.parametrize("kind", UNETS)
def test_jobs_with_and_without_hints_share_the_forward_of_the_unet(
    controlled: Mapping[str, Controlled], kind: str
) -> None:
    family = controlled[kind].load()
    batch = [params(control=control("canny")), params(control=control("depth", scale=0.5)), params()]
    assert len({family.batch_key(state) for state in family.prepare(batch)}) == 1


@pytest.mark.parametrize("kind", some_of(("sdxl", "sd21-noise"), "sd21-noise"))
def test_adapters_act_beside_a_hint_as_in_diffusers(
    controlled: Mapping[str, Controlled], kind: str, tmp_path: Path
) -> None:
    one = controlled[kind]
    brush = write_diffusers(tmp_path / "brush.safetensors", some_layers(models_of(load(one.folder, one.family)), 1))
    family = one.load(FamilyOptions(loras={"brush": str(brush)}))
    loras = (Lora("brush", 0.7),)
    batch = [params(control=control("canny", scale=0.8), loras=loras), params(loras=loras, seed=8)]
    states = family.prepare(batch)
    while not states[0].is_done:
        family.denoise_step(states)
    for asked, state in zip(batch, states, strict=True):
        assert_same(finished(family, state), one.stock(asked, [(brush, 0.7)]), MIXED_LATENT_TOLERANCE)
