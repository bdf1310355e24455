"""Guards that a model draws the same however it is kept, and that nothing is looked for elsewhere."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from pipelines.messages import ModelSpec
from pipelines.weights.files import read_json
from pipelines.weights.layout import STEMS, Source, arrange, source_of
from pipelines.weights.load import load_flux, load_sdxl
from pipelines.weights.verify import find_problem
from tests.pipelines.conftest import KINDS
from tests.pipelines.kept_forms import (
    CPU,
    Checkpoints,
    as_single_file,
    halve,
    picture,
    without_weights,
    write_shards,
)
from tests.pipelines.original_files import (
    original_vae,
    single_file_tensors,
    weights,
    write,
)
from tests.pipelines.stock import assert_same, differences


@pytest.fixture(autouse=True)
def _nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("something was looked for on a network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def sdxl(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    """A folder to change."""
    return Path(shutil.copytree(checkpoints["sdxl"].folder, tmp_path / "sdxl"))


@pytest.fixture
def flux(checkpoints: Checkpoints, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["flux-schnell"].folder, tmp_path / "flux"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file_in_original_names_draws_what_the_folder_draws(
    checkpoints: Checkpoints, kind: str, tmp_path: Path
) -> None:
    one = checkpoints[kind]
    assert_same(picture(as_single_file(one, tmp_path), one.family), picture(one.folder, one.family))


@pytest.mark.parametrize("kind", ["sdxl", "sd21-noise"])
def test_diffusers_itself_reads_the_single_files_of_these_tests(
    checkpoints: Checkpoints, kind: str, tmp_path: Path
) -> None:
    folder, path = checkpoints[kind].folder, as_single_file(checkpoints[kind], tmp_path).path
    for cls, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        read = cls.from_single_file(str(path), config=str(folder), subfolder=name, local_files_only=True)
        assert_equal_tensors(read.state_dict(), weights(folder / name))


def test_diffusers_itself_reads_the_text_encoders_of_sdxl_files(checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder, path = checkpoints["sdxl"].folder, as_single_file(checkpoints["sdxl"], tmp_path).path
    for cls, name in ((CLIPTextModel, "text_encoder"), (CLIPTextModelWithProjection, "text_encoder_2")):
        read = create_diffusers_clip_model_from_ldm(
            cls, load_file(path), subfolder=name, config=str(folder), local_files_only=True
        )
        assert_equal_tensors(bare(read.state_dict()), bare(weights(folder / name)))


def bare(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the name of a wrapper, which versions of transformers have or not."""
    return {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


def assert_equal_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("cls", "kind", "name"),
    [
        (UNet2DConditionModel, "sdxl", "unet"),
        (AutoencoderKL, "sdxl", "vae"),
        (CLIPTextModel, "sdxl", "text_encoder"),
        (CLIPTextModelWithProjection, "sdxl", "text_encoder_2"),
        (T5EncoderModel, "flux-schnell", "text_encoder_2"),
    ],
)
def test_a_component_is_what_its_library_loads(
    checkpoints: Checkpoints, cls: Any, kind: str, name: str, dtype: torch.dtype
) -> None:
    one = checkpoints[kind]
    parts = {"sdxl": load_sdxl, "flux": load_flux}[one.family](one.folder, CPU, dtype)
    loaded = getattr(parts, name)
    theirs = cls.from_pretrained(one.folder / name, dtype=dtype, local_files_only=True)
    assert {key: value.dtype for key, value in loaded.named_parameters()} == {
        key: value.dtype for key, value in theirs.named_parameters()
    }
    assert_equal_tensors(loaded.state_dict(), theirs.state_dict())
    assert not loaded.training
    if hasattr(loaded, "shared"):
        assert loaded.shared.weight is loaded.encoder.embed_tokens.weight


def test_weights_that_were_loaded_do_not_change_with_their_file(sdxl: Path) -> None:
    parts = load_sdxl(sdxl, CPU, torch.float32)
    path = sdxl / "unet/diffusion_pytorch_model.safetensors"
    before = parts.unet.conv_in.weight.clone()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))
    assert torch.equal(parts.unet.conv_in.weight, before)
    assert all(
        bool((weight != 0).any()) for name, weight in parts.unet.named_parameters() if name.endswith("norm1.weight")
    )


@pytest.mark.parametrize("kind", ["sdxl", "flux-schnell"])
def test_shards_with_an_index_draw_what_the_whole_file_draws(
    checkpoints: Checkpoints, kind: str, tmp_path: Path
) -> None:
    one = checkpoints[kind]
    folder = without_weights(one.folder, tmp_path / "sharded")
    for name in arrange(Source(one.folder), one.family).weights:
        write_shards(folder / name, weights(one.folder / name), STEMS[name])
    assert "3 shards" in arrange(Source(folder), one.family).weights["text_encoder"].why
    assert_same(picture(folder, one.family), picture(one.folder, one.family))


@pytest.mark.parametrize("kind", ["sdxl", "sd21-velocity", "flux-dev"])
def test_a_variant_in_half_precision_draws_nearly_the_same(checkpoints: Checkpoints, kind: str, tmp_path: Path) -> None:
    one = checkpoints[kind]
    folder = halve(Path(shutil.copytree(one.folder, tmp_path / "half")))
    assert "there are no plain weights" in arrange(Source(folder), one.family).weights["vae"].why
    drawn, expected = picture(folder, one.family), picture(one.folder, one.family)
    latents, pixels = differences(drawn, expected)
    assert 0 < latents < 0.05 * float(expected.latents.abs().max())
    assert pixels < 16


def test_of_several_forms_the_plain_one_is_taken_unless_the_entry_asks_for_another(sdxl: Path) -> None:
    halve(sdxl, keep_plain=True)
    plain, asked = arrange(Source(sdxl), "sdxl"), arrange(Source(sdxl, variant="fp16"), "sdxl")
    assert plain.weights["unet"].files == (sdxl / "unet/diffusion_pytorch_model.safetensors",)
    assert asked.weights["unet"].files == (sdxl / "unet/diffusion_pytorch_model.fp16.safetensors",)
    assert "the entry asks for it" in asked.weights["unet"].why


def test_shards_of_a_variant_are_found(sdxl: Path) -> None:
    tensors = weights(sdxl / "unet")
    (sdxl / "unet/diffusion_pytorch_model.safetensors").unlink()
    write_shards(sdxl / "unet", tensors, "diffusion_pytorch_model", ".bf16")
    assert len(arrange(Source(sdxl), "sdxl").weights["unet"].files) == 3
    assert find_problem(Source(sdxl, variant=None), "sdxl") is None


def vae_folder(sdxl: Path, to: Path) -> Path:
    return Path(shutil.move(sdxl / "vae", to / "vae"))


def vae_in_a_folder_above(sdxl: Path, to: Path) -> Path:
    return vae_folder(sdxl, to).parent


def vae_file(sdxl: Path, to: Path) -> Path:
    """In diffusers' names; the configuration stays where it was."""
    return Path(shutil.move(sdxl / "vae/diffusion_pytorch_model.safetensors", to / "vae.safetensors"))


def original_vae_file(sdxl: Path, to: Path) -> Path:
    path = write(to / "original.safetensors", original_vae(sdxl / "vae"))
    (sdxl / "vae/diffusion_pytorch_model.safetensors").unlink()
    return path


@pytest.mark.parametrize("take_out", [vae_folder, vae_in_a_folder_above, vae_file, original_vae_file])
def test_a_separate_autoencoder_draws_the_same(
    checkpoints: Checkpoints, sdxl: Path, tmp_path: Path, take_out: Callable[[Path, Path], Path]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    vae = take_out(sdxl, tmp_path / "elsewhere")
    assert "vae" in (find_problem(sdxl, "sdxl") or "")
    assert_same(picture(Source(sdxl, parts={"vae": vae}), "sdxl"), picture(checkpoints["sdxl"].folder, "sdxl"))


def test_a_part_takes_the_place_of_the_folders_own(sdxl: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(sdxl / "vae", tmp_path / "vae"))
    shifted = {name: tensor + 0.05 for name, tensor in weights(other).items()}
    write(other / "diffusion_pytorch_model.safetensors", shifted)
    drawn, before = picture(Source(sdxl, parts={"vae": other}), "sdxl"), picture(sdxl, "sdxl")
    latents, pixels = differences(drawn, before)
    assert latents == 0
    assert pixels > 1


@pytest.mark.parametrize("is_file", [False, True])
def test_a_shared_t5_draws_the_same(checkpoints: Checkpoints, flux: Path, tmp_path: Path, is_file: bool) -> None:
    shared = Path(shutil.move(flux / "text_encoder_2", tmp_path / "t5"))
    assert "text_encoder_2" in (find_problem(flux, "flux") or "")
    if is_file:
        (flux / "text_encoder_2").mkdir()
        shutil.copy(shared / "config.json", flux / "text_encoder_2/config.json")
        shared = shared / "model.safetensors"
    drawn = picture(Source(flux, parts={"text_encoder_2": shared}), "flux")
    assert_same(drawn, picture(checkpoints["flux-schnell"].folder, "flux"))


def test_a_t5_out_of_a_whole_model_serves_without_its_decoder(flux: Path) -> None:
    tensors = weights(flux / "text_encoder_2")
    words = tensors.pop("shared.weight")
    whole = tensors | {"encoder.embed_tokens.weight": words, "decoder.final_layer_norm.weight": words[0]}
    write(flux / "text_encoder_2/model.safetensors", whole | {"lm_head.weight": words})
    assert torch.equal(load_flux(flux, CPU, torch.float32).text_encoder_2.shared.weight, words)


def test_a_flux_file_with_everything_in_it_needs_no_other_weights(checkpoints: Checkpoints, tmp_path: Path) -> None:
    one = checkpoints["flux-dev"]
    rest = without_weights(one.folder, tmp_path / "rest")
    places = {
        "model.diffusion_model.": single_file_tensors(one.folder, "flux"),
        "vae.": original_vae(one.folder / "vae"),
        "text_encoders.clip_l.transformer.": weights(one.folder / "text_encoder"),
        "text_encoders.t5xxl.transformer.": weights(one.folder / "text_encoder_2"),
    }
    tensors = {prefix + name: tensor for prefix, below in places.items() for name, tensor in below.items()}
    source = Source(write(tmp_path / "all.safetensors", tensors), rest, config=str(rest))
    assert_same(picture(source, "flux"), picture(one.folder, "flux"))


def test_an_autoencoder_published_with_the_old_names_of_attention_draws_the_same(
    checkpoints: Checkpoints, sdxl: Path
) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = weights(sdxl / "vae")
    for new, name in old.items():
        tensors = {
            key.replace(f"attentions.0.{new}.", f"attentions.0.{name}."): value for key, value in tensors.items()
        }
    assert any("query" in name for name in tensors)
    write(sdxl / "vae/diffusion_pytorch_model.safetensors", tensors)
    assert_same(picture(sdxl, "sdxl"), picture(checkpoints["sdxl"].folder, "sdxl"))


def test_the_rest_is_asked_only_for_what_is_not_there(checkpoints: Checkpoints, tmp_path: Path) -> None:
    source = as_single_file(checkpoints["sdxl"], tmp_path)
    layout = arrange(source, "sdxl")
    assert {part.files for part in layout.weights.values()} == {(source.path,)}
    assert layout.tokenizers["tokenizer_2"] == tmp_path / "rest/tokenizer_2"
    assert set(layout.files()) >= {source.path, tmp_path / "rest/unet/config.json", layout.scheduler}


def test_a_file_that_says_it_predicts_velocity_is_sampled_so(checkpoints: Checkpoints, tmp_path: Path) -> None:
    plain = as_single_file(checkpoints["sdxl"], tmp_path / "plain")
    signed = as_single_file(checkpoints["sdxl"], tmp_path / "signed", v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    assert load_sdxl(plain, CPU, torch.float32).sampler.config["prediction_type"] == "epsilon"
    config = load_sdxl(signed, CPU, torch.float32).sampler.config
    assert (config["prediction_type"], config["rescale_betas_zero_snr"]) == ("v_prediction", True)


def test_a_specification_with_paths_alone_is_what_it_was(sdxl: Path) -> None:
    assert source_of(ModelSpec("a", "sdxl", str(sdxl))) == Source(sdxl)


def test_a_flux_file_in_eight_bits_draws_nearly_the_same(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """The community's fp8 files are plain casts; they are drawn with in the dtype of the device."""
    one = checkpoints["flux-schnell"]
    source = as_single_file(one, tmp_path)
    small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(source.path).items()}
    write(source.path, small)
    drawn, expected = picture(source, "flux"), picture(one.folder, "flux")
    latents, _ = differences(drawn, expected)
    assert 0 < latents < 0.2 * float(expected.latents.abs().max())


def test_a_text_encoder_may_be_described_as_part_of_the_whole_clip(checkpoints: Checkpoints, sdxl: Path) -> None:
    config = sdxl / "text_encoder/config.json"
    whole = {"model_type": "clip", "architectures": ["CLIPModel"], "text_config": read_json(config)}
    config.write_text(json.dumps(whole), encoding="utf-8")
    path = sdxl / "text_encoder/model.safetensors"
    write(path, load_file(path) | {"vision_model.pre_layrnorm.bias": torch.zeros(2), "logit_scale": torch.zeros(())})
    assert_same(picture(sdxl, "sdxl"), picture(checkpoints["sdxl"].folder, "sdxl"))


def test_a_worker_loads_by_what_it_was_told(checkpoints: Checkpoints, tmp_path: Path) -> None:
    source = as_single_file(checkpoints["sdxl"], tmp_path)
    spec = ModelSpec(
        "a", "sdxl", str(source.path), rest=str(source.rest), config=source.config, parts={"vae": str(source.rest)}
    )
    assert source_of(spec) == Source(source.path, source.rest, source.config, parts={"vae": tmp_path / "rest"})
