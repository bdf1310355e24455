"""Adapters draw what diffusers and peft draw with them, alone and in mixes, and leave nothing behind."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.families.adapters import AdapterShelf, AdapterUnavailable
from pipelines.families.contract import Family, FamilyOptions
from pipelines.messages import DrawParams, Lora
from tests.pipelines.adapter_files import (
    models_of,
    scaled,
    some_layers,
    write_diffusers,
    write_kohya,
    write_kohya_flux,
    write_old_diffusers,
)
from tests.pipelines.conftest import KINDS, Checkpoint, some_of
from tests.pipelines.stock import MIXED_LATENT_TOLERANCE, Result, assert_same, finished, load, ours, params, stock

UNETS = [kind for kind in KINDS if not kind.startswith("flux")]
FLUXES = [kind for kind in KINDS if kind.startswith("flux")]


def asked(*loras: tuple[str, float], **changes: Any) -> DrawParams:
    return params(loras=tuple(Lora(name, scale) for name, scale in loras), width_px=64, height_px=64, **changes)


def loaded(checkpoint: Checkpoint, **files: Path) -> Family:
    paths = {name: str(path) for name, path in files.items()}
    return load(checkpoint.folder, checkpoint.family, FamilyOptions(loras=paths))


def is_unlike(one: Result, other: Result) -> bool:
    return float((one.latents - other.latents).abs().max()) > 0.05


@pytest.mark.parametrize("kind", some_of(KINDS, "sdxl", "flux-schnell"))
def test_several_adapters_with_scales_of_their_own_draw_what_diffusers_draws_with_them(
    checkpoints: Mapping[str, Checkpoint], kind: str, tmp_path: Path
) -> None:
    checkpoint = checkpoints[kind]
    models = models_of(load(checkpoint.folder, checkpoint.family))
    brush = write_diffusers(tmp_path / "brush.safetensors", some_layers(models, seed=1))
    ink = write_diffusers(tmp_path / "ink.safetensors", some_layers(models, seed=2, rank=2, strength=0.2))
    family = loaded(checkpoint, brush=brush, ink=ink)
    drawn = ours(family, asked(("ink", -0.4), ("brush", 0.7)))
    assert_same(drawn, stock(checkpoint.folder, checkpoint.family, asked(), [(brush, 0.7), (ink, -0.4)]))
    assert is_unlike(drawn, ours(family, asked()))
    assert is_unlike(drawn, ours(family, asked(("brush", 0.7))))


@pytest.mark.parametrize("kind", some_of(UNETS, "sdxl"))
@pytest.mark.parametrize("in_original_names", [pytest.param(False, marks=pytest.mark.whole), True])
def test_a_kohya_file_draws_what_diffusers_draws_with_it(
    checkpoints: Mapping[str, Checkpoint], kind: str, in_original_names: bool, tmp_path: Path
) -> None:
    checkpoint = checkpoints[kind]
    models = models_of(load(checkpoint.folder, checkpoint.family))
    places = some_layers(models, seed=3)
    path = write_kohya(tmp_path / "k.safetensors", places, models, 2.0, in_original_names=in_original_names)
    drawn = ours(loaded(checkpoint, k=path), asked(("k", 0.8)))
    same = write_diffusers(tmp_path / "same.safetensors", scaled(places, 2.0 / 4))
    assert_same(drawn, stock(checkpoint.folder, checkpoint.family, asked(), [(same, 0.8)]))
    if in_original_names and checkpoint.family != "sdxl":
        return  # diffusers reads the authors' names for SDXL alone
    assert_same(drawn, stock(checkpoint.folder, checkpoint.family, asked(), [(path, 0.8)]))


@pytest.mark.parametrize("kind", some_of(FLUXES, "flux-dev"))
def test_a_kohya_file_for_flux_has_its_fused_layers_split(
    checkpoints: Mapping[str, Checkpoint], kind: str, tmp_path: Path
) -> None:
    checkpoint = checkpoints[kind]
    models = models_of(load(checkpoint.folder, checkpoint.family))
    path, places = write_kohya_flux(tmp_path / "k.safetensors", models, 4, alpha=2.0, has_single=True)
    same = write_diffusers(tmp_path / "same.safetensors", scaled(places, 2.0 / 4))
    drawn = ours(loaded(checkpoint, k=path), asked(("k", 1.5)))
    assert_same(drawn, stock(checkpoint.folder, checkpoint.family, asked(), [(same, 1.5)]))
    # diffusers' own reader knows the single blocks in a width of 3072 alone.
    double, _ = write_kohya_flux(tmp_path / "double.safetensors", models, 4, alpha=2.0, has_single=False)
    drawn = ours(loaded(checkpoint, k=double), asked(("k", 1.5)))
    assert_same(drawn, stock(checkpoint.folder, checkpoint.family, asked(), [(double, 1.5)]))


@pytest.mark.whole
def test_files_of_old_diffusers_are_read(checkpoints: Mapping[str, Checkpoint], tmp_path: Path) -> None:
    checkpoint = checkpoints["sdxl"]
    models = models_of(load(checkpoint.folder, "sdxl"))
    places = some_layers(models, seed=5, components=("unet",))
    path = write_old_diffusers(tmp_path / "old.safetensors", places)
    drawn = ours(loaded(checkpoint, old=path), asked(("old", 1.0)))
    assert_same(drawn, stock(checkpoint.folder, "sdxl", asked(), [(path, 1.0)]))
    assert is_unlike(drawn, ours(loaded(checkpoint), asked()))


@pytest.mark.parametrize("use_rslora", [pytest.param(False, marks=pytest.mark.whole), True])
def test_the_alphas_that_diffusers_wrote_into_a_file_count(
    checkpoints: Mapping[str, Checkpoint], use_rslora: bool, tmp_path: Path
) -> None:
    checkpoint = checkpoints["sdxl"]
    models = models_of(load(checkpoint.folder, "sdxl"))
    places = some_layers(models, seed=6, components=("unet",))
    config = {
        "r": 4,
        "lora_alpha": 2.0,
        "alpha_pattern": {"attn2.to_k": 1.0},
        "target_modules": sorted(layer for _, layer in places),
        "use_rslora": use_rslora,
    }
    metadata = {f"unet.{name}": value for name, value in config.items()}
    path = write_diffusers(tmp_path / "told.safetensors", places, metadata)
    drawn = ours(loaded(checkpoint, told=path), asked(("told", 1.0)))
    assert_same(drawn, stock(checkpoint.folder, "sdxl", asked(), [(path, 1.0)]))


@pytest.mark.whole
@pytest.mark.parametrize("kind", some_of(("flux-dev", "sdxl", "sd21-noise"), "flux-dev"))
def test_after_a_hundred_switches_of_adapters_the_model_draws_to_the_byte_as_before(
    checkpoints: Mapping[str, Checkpoint], kind: str, tmp_path: Path
) -> None:
    checkpoint = checkpoints[kind]
    models = models_of(load(checkpoint.folder, checkpoint.family))
    files = {
        name: write_diffusers(tmp_path / f"{name}.safetensors", some_layers(models, seed))
        for seed, name in enumerate(("brush", "ink", "chalk"))
    }
    family = loaded(checkpoint, **files)
    before = ours(family, asked())
    weights = {name: model.state_dict() for name, model in models_of(family).modules.items()}
    copies = {name: {key: value.clone() for key, value in state.items()} for name, state in weights.items()}
    rng = random.Random(1)
    with_adapters = asked(("brush", 1.0), ("ink", 0.3))
    first = ours(family, with_adapters)
    for number in range(100):
        names = rng.sample(sorted(files), rng.randint(1, 3))
        (state,) = family.prepare([asked(*((name, rng.uniform(-2, 2)) for name in names), seed=number)])
        family.denoise_step([state])
    for name, held in weights.items():
        assert all(torch.equal(value, copies[name][key]) for key, value in held.items())
    assert torch.equal(ours(family, asked()).latents, before.latents)
    assert torch.equal(ours(family, with_adapters).latents, first.latents)
    fresh = ours(load(checkpoint.folder, checkpoint.family), asked())
    assert torch.equal(fresh.latents, before.latents)


def test_a_scale_of_zero_draws_to_the_byte_as_without_and_may_share_its_steps(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    checkpoint = checkpoints["sdxl"]
    models = models_of(load(checkpoint.folder, "sdxl"))
    family = loaded(checkpoint, brush=write_diffusers(tmp_path / "b.safetensors", some_layers(models, 1)))
    assert torch.equal(ours(family, asked(("brush", 0.0))).latents, ours(family, asked()).latents)
    plain, zero, full, again, half = family.prepare(
        [asked(), asked(("brush", 0.0)), asked(("brush", 1.0)), asked(("brush", 1.0), seed=9), asked(("brush", 0.5))]
    )
    assert family.batch_key(plain) == family.batch_key(zero)
    assert family.batch_key(full) == family.batch_key(again)
    assert len({family.batch_key(state) for state in (plain, full, half)}) == 3


def test_the_order_in_which_adapters_are_named_changes_no_bit(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    checkpoint = checkpoints["sd21-noise"]
    models = models_of(load(checkpoint.folder, "sd21"))
    files = {
        name: write_diffusers(tmp_path / f"{name}.safetensors", some_layers(models, seed))
        for seed, name in enumerate(("brush", "ink"))
    }
    family = loaded(checkpoint, **files)
    one, other = asked(("brush", 0.5), ("ink", 0.7)), asked(("ink", 0.7), ("brush", 0.5))
    assert torch.equal(ours(family, one).latents, ours(family, other).latents)


@pytest.mark.parametrize("kind", some_of(("sdxl", "sd21-noise", "flux-dev"), "flux-dev"))
def test_jobs_with_and_without_adapters_are_prepared_together_and_stepped_in_turn_as_diffusers_draws_them(
    checkpoints: Mapping[str, Checkpoint], kind: str, tmp_path: Path
) -> None:
    checkpoint = checkpoints[kind]
    models = models_of(load(checkpoint.folder, checkpoint.family))
    brush = write_diffusers(tmp_path / "brush.safetensors", some_layers(models, 1))
    text = ("text_encoder", "text_encoder_2")
    words = write_diffusers(tmp_path / "words.safetensors", some_layers(models, 2, components=text))
    family = loaded(checkpoint, brush=brush, words=words)
    batch = [
        asked(seed=1),
        asked(("brush", 0.6), seed=2),
        asked(("words", 1.0), seed=3),
        asked(("brush", 0.6), ("words", 0.5), seed=4, steps=5),
        asked(seed=5, prompt="a blue star"),
        asked(("brush", 0.6), seed=6, steps=3),
    ]
    states = family.prepare(batch)
    while any(not state.is_done for state in states):
        for key in dict.fromkeys(map(family.batch_key, states)):
            sharing = [state for state in states if family.batch_key(state) == key and not state.is_done]
            if sharing:
                family.denoise_step(sharing)
    paths = {"brush": brush, "words": words}
    for one, state in zip(batch, states, strict=True):
        adapters = [(paths[lora.name], lora.scale) for lora in one.loras]
        alone = stock(checkpoint.folder, checkpoint.family, one, adapters)
        assert_same(finished(family, state), alone, MIXED_LATENT_TOLERANCE)


def test_a_component_that_two_models_share_shows_the_adapters_of_one_to_no_other(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    from pipelines.families.sdxl import sdxl_model  # noqa: PLC0415
    from pipelines.weights.load import load_sdxl  # noqa: PLC0415

    checkpoint = checkpoints["sdxl"]
    parts = load_sdxl(checkpoint.folder, torch.device("cpu"), torch.float32)
    models = models_of(load(checkpoint.folder, "sdxl"))
    path = write_diffusers(tmp_path / "b.safetensors", some_layers(models, 1))
    with_adapters = sdxl_model(parts, FamilyOptions(loras={"brush": str(path)}))
    plain = sdxl_model(parts, FamilyOptions())
    before = ours(plain, asked())
    (styled,) = with_adapters.prepare([asked(("brush", 1.0))])
    (state,) = plain.prepare([asked()])
    while not state.is_done:
        with_adapters.denoise_step([styled])
        plain.denoise_step([state])
    assert torch.equal(state.latents, before.latents)


def test_a_forward_that_fails_takes_its_adapters_off(checkpoints: Mapping[str, Checkpoint], tmp_path: Path) -> None:
    checkpoint = checkpoints["sdxl"]
    models = models_of(load(checkpoint.folder, "sdxl"))
    family = loaded(checkpoint, brush=write_diffusers(tmp_path / "b.safetensors", some_layers(models, 1)))
    before = ours(family, asked())
    (state,) = family.prepare([asked(("brush", 1.0))])
    state.latents = state.latents[:, :2]  # two channels where the UNet has four
    with pytest.raises(RuntimeError):
        family.denoise_step([state])
    assert torch.equal(ours(family, asked()).latents, before.latents)


@pytest.mark.whole
def test_idle_adapters_stay_under_their_cap_and_those_of_a_job_outlive_it(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    checkpoint = checkpoints["sdxl"]
    models = models_of(load(checkpoint.folder, "sdxl"))
    files = {
        f"a{seed}": str(write_diffusers(tmp_path / f"a{seed}.safetensors", some_layers(models, seed)))
        for seed in range(4)
    }
    names = {"denoiser": models.modules["unet"], **{n: m for n, m in models.modules.items() if n != "unet"}}
    one = AdapterShelf("sdxl", files, names, cap_bytes=10**9)
    one.chosen([Lora("a0", 1.0)])
    cap = int(one.size_bytes * 2.5)
    shelf = AdapterShelf("sdxl", files, names, cap)
    for name in [*files, *files]:
        shelf.chosen([Lora(name, 1.0)])
        assert 0 < shelf.size_bytes <= cap
    options = FamilyOptions(loras=files, lora_cache_bytes=0)
    family = load(checkpoint.folder, "sdxl", options)
    roomy = load(checkpoint.folder, "sdxl", replace(options, lora_cache_bytes=10**9))
    job = asked(("a1", 1.0))
    assert torch.equal(ours(family, job).latents, ours(roomy, job).latents)


def test_a_file_that_is_replaced_is_read_again(checkpoints: Mapping[str, Checkpoint], tmp_path: Path) -> None:
    checkpoint = checkpoints["sdxl"]
    models = models_of(load(checkpoint.folder, "sdxl"))
    path = tmp_path / "b.safetensors"
    path.write_bytes(b"not yet")
    family = loaded(checkpoint, brush=path)
    for _ in range(2):
        with pytest.raises(AdapterUnavailable):
            family.prepare([asked(("brush", 1.0))])
    write_diffusers(path, some_layers(models, 1))
    first = ours(family, asked(("brush", 1.0)))
    write_diffusers(path, some_layers(models, 2, rank=3))
    assert is_unlike(first, ours(family, asked(("brush", 1.0))))
