"""Guards that a model that is not clear, damaged or foreign is named before it draws, in words that say what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.messages import FamilyName
from pipelines.weights.files import read_json
from pipelines.weights.layout import STEMS, Source, arrange
from pipelines.weights.verify import find_problem
from tests.pipelines.kept_forms import (
    Checkpoints,
    as_single_file,
    halve,
    problem_of,
    write_shards,
)
from tests.pipelines.original_files import (
    weights,
    write,
)


@pytest.fixture
def sdxl(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A folder to change."""
    return Path(shutil.copytree(checkpoints["sdxl"].folder, tmp_path / "sdxl"))


# What is not clear is asked, in words that say what to write


def test_a_single_file_without_tokenizers_is_told_where_to_name_them(checkpoints: Checkpoints, tmp_path: Path) -> None:
    path = as_single_file(checkpoints["sdxl"], tmp_path).path
    problem = find_problem(path, "sdxl") or ""
    assert f"{path} is a single file, which holds no tokenizer" in problem
    assert "under rest" in problem
    assert "under parts" in problem


def test_a_flux_file_alone_is_told_what_it_does_not_hold(checkpoints: Checkpoints, tmp_path: Path) -> None:
    path = as_single_file(checkpoints["flux-dev"], tmp_path).path
    assert f"{path} holds no vae: name" in (find_problem(path, "flux") or "")


@pytest.mark.parametrize(("kind", "expected"), [("flux-schnell", "flux-schnell"), ("flux-dev", "flux-dev")])
def test_a_flux_file_says_itself_which_it_is_whatever_the_rest_is(
    checkpoints: Checkpoints, tmp_path: Path, kind: str, expected: str
) -> None:
    source = as_single_file(checkpoints[kind], tmp_path)
    layout = arrange(Source(source.path, checkpoints["flux-schnell"].folder), "flux")
    assert layout.weights["transformer"].config.parent.parent.name == expected
    assert layout.scheduler.parent.parent.name == expected


def test_an_sd21_file_has_to_be_told_what_it_predicts(checkpoints: Checkpoints, tmp_path: Path) -> None:
    path = as_single_file(checkpoints["sd21-noise"], tmp_path).path
    assert "config: sd21-768 or config: sd21-base" in (find_problem(path, "sd21") or "")
    rest = tmp_path / "rest"
    for name in ("sd21-768", "sd21-base"):
        layout = arrange(Source(path, rest, config=name), "sd21")
        assert layout.weights["unet"].config.parent.parent.name == name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"config": "sdxl-bose"}, "config 'sdxl-bose' is neither a folder nor one of sdxl-base, sd21-768"),
        ({"parts": {"vea": Path("x")}}, "parts names 'vea'; the family sdxl has unet, vae,"),
        (
            {"parts": {"vae": Path("nowhere")}},
            "nowhere, named for the vae, is neither a folder nor a .safetensors file",
        ),
        ({"parts": {"vae": Path("nowhere.safetensors")}}, "nowhere.safetensors is missing"),
    ],
)
def test_a_name_that_means_nothing_is_named(
    checkpoints: Checkpoints, tmp_path: Path, source: dict[str, Any], expected: str
) -> None:
    path = as_single_file(checkpoints["sdxl"], tmp_path).path
    assert expected in (find_problem(Source(path, **source), "sdxl") or "")


def test_a_variant_that_is_not_there_is_named_with_those_that_are(sdxl: Path) -> None:
    problem = find_problem(Source(sdxl, variant="fp16"), "sdxl")
    assert problem == f"{sdxl / 'unet'} has no variant 'fp16' of its weights; there is: the plain one"


def test_two_unusual_variants_are_not_chosen_between(sdxl: Path) -> None:
    halve(sdxl, variant=".ema", keep_plain=True)
    halve(sdxl, variant=".non_ema")
    assert "has its weights as ema, non_ema: write which one" in (find_problem(sdxl, "sdxl") or "")
    assert find_problem(Source(sdxl, variant="ema"), "sdxl") is None


def test_a_whole_file_beside_shards_is_not_chosen_between(sdxl: Path) -> None:
    write_shards(sdxl / "unet", weights(sdxl / "unet"), "diffusion_pytorch_model")
    assert "only one of them can be meant" in (find_problem(sdxl, "sdxl") or "")


# What is damaged or foreign is named


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda _: {}, "names no files under weight_map"),
        (lambda _: {"weight_map": {"a": "../outside.safetensors"}}, "names '../outside.safetensors'"),
        (lambda _: {"weight_map": {"a": "/etc/passwd"}}, "names '/etc/passwd'"),
        (lambda _: {"weight_map": {"a": ["x"]}}, "names no files under weight_map"),
        (
            lambda index: {"weight_map": index["weight_map"] | {"new": "gone.safetensors"}},
            "gone.safetensors is missing",
        ),
        (
            lambda index: {"weight_map": index["weight_map"] | {"new": min(index["weight_map"].values())}},
            "looks for new in",
        ),
        (lambda index: {"weight_map": dict(list(index["weight_map"].items())[1:])}, "which diffusion_pytorch_model"),
    ],
)
def test_an_index_that_is_wrong_is_named(sdxl: Path, change: Callable[[Any], Any], expected: str) -> None:
    tensors = weights(sdxl / "unet")
    (sdxl / "unet/diffusion_pytorch_model.safetensors").unlink()
    index = write_shards(sdxl / "unet", tensors, "diffusion_pytorch_model")
    index.write_text(json.dumps(change(read_json(index))), encoding="utf-8")
    problem = find_problem(sdxl, "sdxl") or ""
    assert expected in problem
    assert str(sdxl / "unet") in problem


@pytest.mark.parametrize("shard", [1, 3])
def test_a_shard_that_was_cut_short_is_named(sdxl: Path, shard: int) -> None:
    tensors = weights(sdxl / "unet")
    (sdxl / "unet/diffusion_pytorch_model.safetensors").unlink()
    write_shards(sdxl / "unet", tensors, "diffusion_pytorch_model")
    path = sdxl / f"unet/diffusion_pytorch_model-0000{shard}-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert (find_problem(sdxl, "sdxl") or "").startswith(f"{path} has ")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def pickled(path: Path) -> None:
    path.write_bytes(b"\x80\x04K\x01." * 100)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut, "copy it again"),
        (pickled, "is not a safetensors file"),
    ],
)
def test_a_damaged_single_file_is_named(
    checkpoints: Checkpoints, tmp_path: Path, damage: Callable[[Path], None], expected: str
) -> None:
    source = as_single_file(checkpoints["sdxl"], tmp_path)
    damage(source.path)
    problem = find_problem(source, "sdxl") or ""
    assert problem.startswith(str(source.path))
    assert expected in problem


@pytest.mark.parametrize(("name", "kind"), [("model.safetensors", "file"), ("model", "folder")])
def test_a_source_that_is_not_there_is_named_for_what_it_should_be(tmp_path: Path, name: str, kind: str) -> None:
    assert find_problem(tmp_path / name, "sdxl") == f"the {kind} {tmp_path / name} does not exist"


def test_a_part_that_cannot_be_read_is_named(sdxl: Path, tmp_path: Path) -> None:
    path = tmp_path / "vae.safetensors"
    path.symlink_to(path.name)
    assert str(path) in (find_problem(Source(sdxl, parts={"vae": path}), "sdxl") or "")


OTHER_FILES = {
    "a Stable Diffusion 1 checkpoint": "cond_stage_model.transformer.text_model.embeddings.position_ids",
    "an SDXL refiner": "conditioner.embedders.0.model.ln_final.weight",
    "a Stable Diffusion 3 checkpoint": "model.diffusion_model.joint_blocks.0.x_block.attn.proj.weight",
    "an adapter (LoRA)": "lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight",
    "a ControlNet": "control_model.input_blocks.0.0.weight",
    "one component of a diffusers folder": "down_blocks.1.attentions.0.transformer_blocks.0.norm1.weight",
    "no model that is known here": "something.else",
}


@pytest.mark.parametrize(("description", "name"), OTHER_FILES.items())
@pytest.mark.parametrize("family", ["sdxl", "sd21", "flux"])
def test_a_file_of_something_else_is_called_what_it_is(
    tmp_path: Path, description: str, name: str, family: FamilyName
) -> None:
    path = write(tmp_path / "other.safetensors", {name: torch.zeros(1)})
    assert f"{path} holds {description}" in (find_problem(path, family) or "")


@pytest.mark.parametrize(
    ("kind", "other"), [("sdxl", "sd21"), ("sd21-noise", "sdxl"), ("sdxl", "flux"), ("flux-dev", "sdxl")]
)
def test_a_single_file_of_another_family_is_refused(
    checkpoints: Checkpoints, kind: str, other: FamilyName, tmp_path: Path
) -> None:
    problem = find_problem(as_single_file(checkpoints[kind], tmp_path), other) or ""
    assert f"which the family {other} cannot draw with" in problem


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_weights_with_a_tensor_missing_are_never_filled_up(sdxl: Path, name: str) -> None:
    path = sdxl / name / f"{STEMS[name]}.safetensors"
    tensors = load_file(path)
    gone = sorted(tensors)[len(tensors) // 2]
    write(path, {key: tensor for key, tensor in tensors.items() if key != gone})
    problem = problem_of(sdxl, "sdxl")
    assert problem.startswith(f"{path} does not fit {sdxl / name / 'config.json'}: 1 of {len(tensors)} tensors")
    assert gone.removeprefix("text_model.") in problem


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_weights_with_a_tensor_too_many_are_refused(sdxl: Path, name: str) -> None:
    path = sdxl / name / f"{STEMS[name]}.safetensors"
    write(path, load_file(path) | {"gate.weight": torch.zeros(2)})
    assert "1 tensors that have no place, such as" in problem_of(sdxl, "sdxl")
    assert "gate.weight" in problem_of(sdxl, "sdxl")


def test_weights_of_a_wrong_shape_are_named_with_both_shapes(sdxl: Path) -> None:
    path = sdxl / "unet/diffusion_pytorch_model.safetensors"
    write(path, load_file(path) | {"conv_in.weight": torch.zeros(16, 9, 3, 3)})
    assert "conv_in.weight is 16x9x3x3, expected 16x4x3x3" in problem_of(sdxl, "sdxl")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_weights_with_one_value_that_is_not_finite_are_refused(sdxl: Path, name: str, value: float) -> None:
    path = sdxl / name / f"{STEMS[name]}.safetensors"
    tensors = load_file(path)
    spoiled = sorted(tensors)[-1]
    tensors[spoiled].flatten()[-1] = value
    write(path, tensors)
    problem = problem_of(sdxl, "sdxl")
    assert problem.startswith(str(path))
    assert "values that are not finite" in problem


@pytest.mark.parametrize(
    "gone", ["model.diffusion_model.label_emb.0.0.weight", "model.diffusion_model.input_blocks.0.0.bias"]
)
def test_a_single_file_with_a_tensor_missing_is_named(checkpoints: Checkpoints, tmp_path: Path, gone: str) -> None:
    source = as_single_file(checkpoints["sdxl"], tmp_path)
    write(source.path, {name: tensor for name, tensor in load_file(source.path).items() if name != gone})
    assert str(source.path) in problem_of(source, "sdxl")


@pytest.mark.parametrize(
    "new", ["model.diffusion_model.gate.weight", "conditioner.embedders.0.transformer.gate.weight"]
)
def test_a_single_file_with_a_tensor_too_many_is_named(checkpoints: Checkpoints, tmp_path: Path, new: str) -> None:
    source = as_single_file(checkpoints["sdxl"], tmp_path, **{new: torch.zeros(2)})
    assert "gate.weight" in problem_of(source, "sdxl")


def test_a_flux_file_with_a_fused_layer_of_a_wrong_size_is_named(checkpoints: Checkpoints, tmp_path: Path) -> None:
    wrong = {"single_blocks.1.linear1.weight": torch.zeros(7 * 32 - 1, 32)}
    source = as_single_file(checkpoints["flux-schnell"], tmp_path, **wrong)
    assert "single_transformer_blocks.1.proj_mlp.weight is 127x32, expected 128x32" in problem_of(source, "flux")


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("unet", {"down_block_types": ["MysteryBlock2D"] * 3}, "does not describe a UNet2DConditionModel"),
        ("unet", {"_class_name": "MysteryModel"}, "describes MysteryModel, expected UNet2DConditionModel"),
        ("unet", {"cross_attention_dim": "wide"}, "does not describe a UNet2DConditionModel"),
        ("vae", {"_class_name": "AutoencoderTiny"}, "describes AutoencoderTiny, expected AutoencoderKL"),
        ("text_encoder", {"architectures": ["MysteryEncoder"]}, "describes ['MysteryEncoder']"),
        ("text_encoder", {"architectures": [["x"]]}, "describes [['x']]"),
        ("text_encoder", {"hidden_act": "mystery"}, "does not describe a CLIPTextModel"),
    ],
)
def test_a_configuration_of_something_unknown_is_named(
    sdxl: Path, name: str, change: dict[str, Any], expected: str
) -> None:
    config = sdxl / name / "config.json"
    config.write_text(json.dumps(read_json(config) | change), encoding="utf-8")
    problem = problem_of(sdxl, "sdxl")
    assert problem.startswith(str(config))
    assert expected in problem


def test_an_unknown_scheduler_is_named(sdxl: Path) -> None:
    index = read_json(sdxl / "model_index.json")
    (sdxl / "model_index.json").write_text(
        json.dumps(index | {"scheduler": ["diffusers", "MysteryScheduler"]}), encoding="utf-8"
    )
    assert "scheduler class MysteryScheduler is not one that diffusers has" in problem_of(sdxl, "sdxl")


def test_files_that_can_hold_code_are_refused_in_the_rest_and_in_parts(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    source = as_single_file(checkpoints["sdxl"], tmp_path)
    (tmp_path / "rest/evil.py").write_bytes(b"")
    assert "evil.py" in (find_problem(source, "sdxl") or "")
    part = Path(shutil.copytree(checkpoints["sdxl"].folder / "vae", tmp_path / "part"))
    (part / "evil.bin").write_bytes(b"")
    assert "evil.bin" in (find_problem(Source(checkpoints["sdxl"].folder, parts={"vae": part}), "sdxl") or "")


def test_checking_a_model_imports_no_torch() -> None:
    code = "import sys, pipelines.weights.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
