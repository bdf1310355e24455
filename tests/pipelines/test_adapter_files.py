"""A file that is no adapter of this model is refused by name and reason, and harms nobody else."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.families.adapters import AdapterUnavailable
from pipelines.families.contract import FamilyOptions
from pipelines.messages import Failed, Image, Lora, ModelSpec
from pipelines.weights.adapter_file import find_adapter_problem
from tests.pipelines.adapter_files import Places, models_of, some_layers, write_diffusers, write_kohya
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import Engine, submit
from tests.pipelines.stock import load, params

DAMAGED, NO_LORA = "missing, damaged or no safetensors file", "no LoRA of a kind that is known here"
UNFIT, NOT_FINITE = "do not fit this model's layers", "not finite"


@pytest.fixture(scope="module")
def good(checkpoints: Mapping[str, Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = models_of(load(checkpoints["sdxl"].folder, "sdxl"))
    return write_diffusers(tmp_path_factory.mktemp("good") / "good.safetensors", some_layers(models, 1))


def changed(good: Path, path: Path, change: Callable[[dict[str, torch.Tensor]], object], **metadata: str) -> Path:
    tensors = load_file(good)
    change(tensors)
    save_file(tensors, path, metadata or None)
    return path


def first(tensors: dict[str, torch.Tensor], end: str = "lora_A.weight") -> str:
    return next(name for name in sorted(tensors) if name.startswith("unet.") and name.endswith(end))


def truncated(good: Path, path: Path) -> Path:
    path.write_bytes(good.read_bytes()[:-100])
    return path


def pickled(_: Path, path: Path) -> Path:
    """A pickle that would leave a mark if anybody opened it as one."""

    class Mark:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(path.with_name("executed")),)

    path.write_bytes(pickle.dumps(Mark()))
    return path


def missing(_: Path, path: Path) -> Path:
    return path


def a_folder(_: Path, path: Path) -> Path:
    path.mkdir()
    return path


def a_pipe(_: Path, path: Path) -> Path:
    os.mkfifo(path)
    return path


def nan_filled(good: Path, path: Path) -> Path:
    return changed(good, path, lambda tensors: tensors[first(tensors)].fill_(float("nan")))


def one_infinite_alpha(good: Path, path: Path) -> Path:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors).replace("lora_A.weight", "alpha")] = torch.tensor(float("inf"))

    return changed(good, path, change)


def too_narrow(good: Path, path: Path) -> Path:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors)] = tensors[first(tensors)][:, :3].clone()

    return changed(good, path, change)


def too_short(good: Path, path: Path) -> Path:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors, "lora_B.weight")] = tensors[first(tensors, "lora_B.weight")][:3].clone()

    return changed(good, path, change)


def without_a_half(good: Path, path: Path) -> Path:
    return changed(good, path, lambda tensors: tensors.__delitem__(first(tensors)))


def with_integers(good: Path, path: Path) -> Path:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[first(tensors)] = tensors[first(tensors)].to(torch.int8)

    return changed(good, path, change)


def for_a_layer_that_is_not_there(good: Path, path: Path) -> Path:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for end in ("lora_A.weight", "lora_B.weight"):
            tensors[f"unet.down_blocks.9.attentions.0.proj_in.{end}"] = tensors[first(tensors, end)].clone()

    return changed(good, path, change)


def a_dora(good: Path, path: Path) -> Path:
    return changed(good, path, lambda tensors: tensors.update({"unet.conv_in.lora_magnitude_vector": torch.ones(4)}))


def a_lokr(_: Path, path: Path) -> Path:
    save_file({"lora_unet_conv_in.lokr_w1": torch.ones(2, 2)}, path)
    return path


def a_checkpoint(_: Path, path: Path) -> Path:
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 2)}, path)
    return path


def for_flux(_: Path, path: Path) -> Path:
    names = [f"lora_unet_double_blocks_0_img_attn_proj.lora_{half}.weight" for half in ("down", "up")]
    save_file({name: torch.ones(4, 4) for name in names}, path)
    return path


def said_to_be_for_sd1(good: Path, path: Path) -> Path:
    return changed(good, path, lambda _: None, ss_base_model_version="sd_v1")


def without_its_alphas(good: Path, path: Path) -> Path:
    """peft's own form keeps them in a file beside it."""
    save_file(
        {name.replace("unet.", "base_model.model."): one for name, one in load_file(good).items() if "unet" in name},
        path,
    )
    return path


def with_damaged_alphas(good: Path, path: Path) -> Path:
    return changed(good, path, lambda _: None, lora_adapter_metadata='{"unet.lora_alpha": "much"}')


BAD: dict[Callable[[Path, Path], Path], str] = {
    truncated: DAMAGED,
    pickled: DAMAGED,
    missing: DAMAGED,
    a_folder: DAMAGED,
    a_pipe: DAMAGED,
    without_its_alphas: DAMAGED,
    with_damaged_alphas: DAMAGED,
    nan_filled: NOT_FINITE,
    one_infinite_alpha: NOT_FINITE,
    too_narrow: UNFIT,
    too_short: UNFIT,
    with_integers: UNFIT,
    for_a_layer_that_is_not_there: UNFIT,
    without_a_half: NO_LORA,
    a_checkpoint: NO_LORA,
    a_dora: "holds a DoRA",
    a_lokr: "holds a LoKr",
    for_flux: "made for FLUX.1",
    said_to_be_for_sd1: "made for Stable Diffusion 1",
}
# What the header alone does not tell.
SEEN_WHEN_LOADED = {nan_filled, one_infinite_alpha, too_narrow, too_short, with_integers, for_a_layer_that_is_not_there}
SEEN_WHEN_LOADED |= {with_damaged_alphas}


def test_bad_files_are_refused_with_a_reason_and_good_ones_drawn_beside_them(
    checkpoints: Mapping[str, Checkpoint], good: Path, tmp_path: Path
) -> None:
    files = {"good": str(good)}
    for make in BAD:
        name = make.__name__
        (tmp_path / name).mkdir()
        files[name] = str(make(good, tmp_path / name / f"{name}.safetensors"))
    family = load(checkpoints["sdxl"].folder, "sdxl", FamilyOptions(loras=files))
    for make, reason in BAD.items():
        with pytest.raises(AdapterUnavailable) as caught:
            family.prepare([params(loras=(Lora(make.__name__, 1.0),))])
        assert (caught.value.name, reason in caught.value.reason) == (make.__name__, True), caught.value.reason
        assert "/" not in caught.value.reason, "callers need not know where files are"
        found = find_adapter_problem(Path(files[make.__name__]), "sdxl")
        assert (found is None) == (make in SEEN_WHEN_LOADED), f"{make.__name__}: {found}"
        assert found is None or files[make.__name__] in found or "adapter_config" in found
    assert not list(tmp_path.rglob("executed"))
    assert len(family.prepare([params(loras=(Lora("good", 1.0),))])) == 1


def test_a_bad_adapter_fails_the_job_that_names_it_and_its_mates_are_drawn_as_without_it(
    checkpoints: Mapping[str, Checkpoint], good: Path, tmp_path: Path
) -> None:
    bad = truncated(good, tmp_path / "bad.safetensors")
    engine = Engine({"sdxl": checkpoints["sdxl"]}, loras={"good": str(good), "bad": str(bad)})
    engine.draw([submit("plain"), submit("bad", loras=(Lora("bad", 1.0),)), submit("good", loras=(Lora("good", 1.0),))])
    (failed,) = [event for event in engine.events if isinstance(event, Failed)]
    assert (failed.job_id, failed.code) == ("bad", "adapter_unavailable")
    assert failed.message.startswith("The adapter 'bad' cannot be used with this model: its file is missing")
    assert str(bad) in failed.detail
    assert str(bad) not in failed.message
    drawn = engine.pictures()
    alone = Engine({"sdxl": checkpoints["sdxl"]})
    alone.draw([submit("plain")])
    assert drawn["plain"] == alone.pictures()["plain"]
    assert drawn["good"] != drawn["plain"]


def test_jobs_share_steps_with_equal_sets_of_adapters_alone(checkpoints: Mapping[str, Checkpoint], good: Path) -> None:
    engine = Engine({"sdxl": checkpoints["sdxl"]}, loras={"good": str(good)})
    jobs = [
        submit(f"{scale}-{seed}", seed=seed, loras=(Lora("good", scale),), steps=4)
        for scale in (0.5, 1.0)
        for seed in range(2)
    ] + [submit(f"none-{seed}", seed=seed, steps=4) for seed in range(2)]
    engine.draw(jobs)
    assert len([event for event in engine.events if isinstance(event, Image)]) == len(jobs)
    assert len(set(engine.pictures().values())) == len(jobs)


def test_an_adapter_for_sdxl_does_not_fit_stable_diffusion_2(checkpoints: Mapping[str, Checkpoint], good: Path) -> None:
    for kind in ("sd21-noise", "flux-dev"):
        one = checkpoints[kind]
        family = load(one.folder, one.family, FamilyOptions(loras={"good": str(good)}))
        with pytest.raises(AdapterUnavailable, match="made for"):
            family.prepare([params(loras=(Lora("good", 1.0),))])


@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_pefts_own_form_has_its_alpha_beside_it(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path, form: str
) -> None:
    """All forms of one adapter do the same to the bit."""
    folder = checkpoints["sdxl"].folder
    models = models_of(load(folder, "sdxl"))
    places: Places = some_layers(models, 1, components=("unet",))
    told = {"unet.r": 4, "unet.lora_alpha": 2.0}
    files = {"one": write_diffusers(tmp_path / "one.safetensors", places, told)}
    if form == "peft":
        files["other"] = write_diffusers(
            tmp_path / "adapter_model.safetensors",
            {("base_model.model", layer): pair for (_, layer), pair in places.items()},
        )
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2.0}))
    else:
        files["other"] = write_kohya(tmp_path / "k.safetensors", places, models, 2.0, in_original_names=True)
    family = load(folder, "sdxl", FamilyOptions(loras={name: str(path) for name, path in files.items()}))
    latents = []
    for name in files:
        (state,) = family.prepare([params(width_px=64, height_px=64, loras=(Lora(name, 0.7),))])
        family.denoise_step([state])
        latents.append(state.latents)
    assert torch.equal(*latents)


def test_a_worker_is_told_of_a_models_adapters() -> None:
    spec = ModelSpec("m", "sdxl", "/m", loras={"a": "/a.safetensors"}, lora_cache_bytes=5)
    options = FamilyOptions(padded_rows=3).for_model(spec)
    assert (options.padded_rows, options.loras, options.lora_cache_bytes) == (3, {"a": "/a.safetensors"}, 5)
