"""Guards that the published models would load: every tensor of theirs has its place, and none is missing.

Nothing is downloaded and no weight takes memory: models are on the meta device, and files are holes behind a header.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

from pipelines.messages import FamilyName
from pipelines.weights.component import compare, load_component
from pipelines.weights.files import CheckpointProblem, read_json
from pipelines.weights.layout import COMPONENTS_BY_FAMILY, STEMS, Source, Weights
from pipelines.weights.load import sampler_class
from pipelines.weights.published import PUBLISHED, published_folder
from pipelines.weights.published.__main__ import HEADINGS, line
from pipelines.weights.published.originals import FILES, Shape, original_shapes
from pipelines.weights.published.table import Row, class_of, empty_published, rows
from pipelines.weights.single_file import to_model_names
from pipelines.weights.verify import verify
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.tiny_models import TOKENIZER_FOLDER

# Of the published files: how many tensors, and some of them as they stand there.
TENSOR_COUNTS = {
    ("sdxl-base", "sd_xl_base_1.0.safetensors"): 2515,
    ("flux-schnell", "flux1-schnell.safetensors"): 776,
    ("flux-dev", "flux1-dev.safetensors"): 780,
    ("flux-schnell", "ae.safetensors"): 244,
}
KNOWN_SHAPES: dict[tuple[str, str], dict[str, Shape]] = {
    ("sdxl-base", "sd_xl_base_1.0.safetensors"): {
        "conditioner.embedders.1.model.text_projection": (1280, 1280),
        "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
        "model.diffusion_model.middle_block.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048),
        "model.diffusion_model.output_blocks.5.2.conv.weight": (640, 640, 3, 3),
        "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
        "first_stage_model.decoder.up.1.block.0.nin_shortcut.weight": (256, 512, 1, 1),
    },
    ("sd21-768", "v2-1_768-ema-pruned.safetensors"): {
        "cond_stage_model.model.transformer.resblocks.23.attn.in_proj_weight": (3072, 1024),
        "cond_stage_model.model.text_projection": (1024, 1024),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_v.weight": (320, 1024),
    },
    ("flux-dev", "flux1-dev.safetensors"): {
        "guidance_in.in_layer.weight": (3072, 256),
        "double_blocks.18.img_attn.qkv.weight": (9216, 3072),
        "single_blocks.37.linear1.weight": (21504, 3072),
        "single_blocks.37.linear2.weight": (3072, 15360),
    },
}
PARAMETERS_IN_BILLIONS = {
    ("sdxl-base", "unet"): 2.567,
    ("sdxl-base", "text_encoder_2"): 0.695,
    ("sd21-768", "unet"): 0.866,
    ("sd21-base", "text_encoder"): 0.340,
    ("flux-schnell", "transformer"): 11.891,
    ("flux-dev", "transformer"): 11.901,
    ("flux-schnell", "text_encoder_2"): 4.762,
    ("flux-schnell", "vae"): 0.084,
}


@functools.cache
def table() -> tuple[Row, ...]:
    return tuple(rows())


def test_every_tensor_that_the_loader_expects_is_found_and_none_is_missing() -> None:
    for row in table():
        assert row.comparison.problem() is None, row
        assert row.comparison.expected == row.comparison.found > 100


def test_every_model_has_the_published_number_of_parameters() -> None:
    for row in table():
        assert row.parameters == row.published_parameters, row
    found = {(row.model, row.component): round(row.parameters / 1e9, 3) for row in table()}
    assert {key: found[key] for key in PARAMETERS_IN_BILLIONS} == PARAMETERS_IN_BILLIONS


def test_the_table_has_every_component_in_every_form_in_which_it_was_published() -> None:
    for model, published in PUBLISHED.items():
        forms = {(row.component, row.form) for row in table() if row.model == model}
        in_files = {"transformer", "vae"} if published.family == "flux" else set(published.parameters)
        assert {component for component, form in forms if form == "folder"} == set(published.parameters)
        assert {component for component, form in forms if form != "folder"} == in_files
        assert {form for _, form in forms} == {"folder", *FILES[model]}


def test_the_table_is_printed_with_a_column_for_every_number() -> None:
    for row in table():
        assert len(line(row).split()) == len(HEADINGS)


def test_a_row_that_is_not_as_published_is_marked() -> None:
    row = table()[0]
    changed = Row(row.model, row.component, row.form, row.parameters, 1, row.comparison)
    assert line(changed).endswith("differs")
    assert not line(row).endswith("differs")


@pytest.mark.parametrize(("key", "count"), TENSOR_COUNTS.items())
def test_a_published_file_has_its_number_of_tensors(key: tuple[str, str], count: int) -> None:
    assert len(original_shapes(*key)) == count


@pytest.mark.parametrize(("key", "known"), KNOWN_SHAPES.items())
def test_tensors_of_published_files_have_their_shapes(key: tuple[str, str], known: Mapping[str, Shape]) -> None:
    shapes = original_shapes(*key)
    assert {name: shapes.get(name) for name in known} == known


@pytest.mark.parametrize("gone", ["double_blocks.7.txt_mlp.2.bias", "final_layer.linear.weight"])
def test_a_tensor_that_a_file_lacks_shows_in_the_comparison(gone: str) -> None:
    shapes = original_shapes("flux-schnell", "flux1-schnell.safetensors")
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items() if name != gone}
    model = empty_published("flux-schnell", "transformer")
    assert len(compare(model, to_model_names(tensors, model)).missing) == 1


def test_the_guidance_of_dev_has_no_place_in_schnell() -> None:
    shapes = original_shapes("flux-dev", "flux1-dev.safetensors")
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    model = empty_published("flux-schnell", "transformer")
    unexpected = compare(model, to_model_names(tensors, model)).unexpected
    assert len(unexpected) == 4
    assert all("guidance_embedder" in name for name in unexpected)


def test_flux_is_converted_to_what_diffusers_converts_it_to() -> None:
    """With real values in every row and one column, as rows alone are split and turned around."""
    generator = torch.Generator().manual_seed(0)
    shapes = original_shapes("flux-dev", "flux1-dev.safetensors")
    few = {name: shape for name, shape in shapes.items() if name.split(".")[1] in {"0", "1"} or "blocks" not in name}
    tensors = {
        name: torch.rand((shape[0], *(1 for _ in shape[1:])), generator=generator) for name, shape in few.items()
    }
    ours = to_model_names(dict(tensors), empty_published("flux-dev", "transformer"))
    theirs = convert_flux_transformer_checkpoint_to_diffusers(dict(tensors))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_published_configuration_is_whole(model: str) -> None:
    folder, family = published_folder(model), PUBLISHED[model].family
    index = read_json(folder / "model_index.json")
    for name, (library, classes) in COMPONENTS_BY_FAMILY[family].items():
        assert index[name][0] == library
        assert index[name][1] in (classes or index[name])
    sampler = sampler_class(index["scheduler"][1]).from_config(read_json(folder / "scheduler/scheduler_config.json"))  # type: ignore[attr-defined]
    assert sampler.config["num_train_timesteps"] == 1000


def test_of_both_sd21_one_predicts_velocity_and_one_noise() -> None:
    predicted = {
        model: read_json(published_folder(model) / "scheduler/scheduler_config.json")["prediction_type"]
        for model in ("sd21-768", "sd21-base")
    }
    assert predicted == {"sd21-768": "v_prediction", "sd21-base": "epsilon"}


def hole(path: Path, shapes: Mapping[str, Shape]) -> Path:
    """A file of full size that takes no place: a safetensors header of half precision, and nothing behind it."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    written = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(written)) + written)
    with path.open("r+b") as file:
        file.truncate(8 + len(written) + end)
    return path


def test_a_published_sdxl_file_needs_nothing_but_tokenizers_beside_it(tmp_path: Path) -> None:
    path = hole(tmp_path / "model.safetensors", original_shapes("sdxl-base", "sd_xl_base_1.0.safetensors"))
    source = Source(path, parts={"tokenizer": TOKENIZER_FOLDER, "tokenizer_2": TOKENIZER_FOLDER})
    layout = verify(source, "sdxl")
    assert path.stat().st_size > 6_900_000_000
    assert {part.config.parent.parent for part in layout.weights.values()} == {published_folder("sdxl-base")}
    assert layout.scheduler == published_folder("sdxl-base") / "scheduler/scheduler_config.json"


@pytest.mark.parametrize("model", ["sd21-768", "sd21-base"])
def test_a_published_sd21_file_needs_its_configurations_name_and_a_tokenizer(tmp_path: Path, model: str) -> None:
    (file,) = FILES[model]
    path = hole(tmp_path / file, original_shapes(model, file))
    layout = verify(Source(path, config=model, parts={"tokenizer": TOKENIZER_FOLDER}), "sd21")
    assert layout.index.parent == published_folder(model)


@pytest.mark.parametrize("model", ["flux-schnell", "flux-dev"])
def test_a_published_flux_file_takes_the_rest_from_a_folder(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path, model: str
) -> None:
    files = {file: hole(tmp_path / file, original_shapes(model, file)) for file in FILES[model]}
    path = files.pop("ae.safetensors")
    (transformer,) = files.values()
    rest = checkpoints["flux-schnell"].folder
    layout = verify(Source(transformer, rest, parts={"vae": path}), "flux")
    own = {layout.weights[name].config.parent.parent for name in ("transformer", "vae")}
    assert own == {published_folder(model)}
    assert layout.weights["text_encoder_2"].files == (rest / "text_encoder_2/model.safetensors",)


@pytest.mark.parametrize(("family", "component"), [("sdxl", "unet"), ("sd21", "unet"), ("flux", "vae")])
def test_a_small_checkpoint_does_not_fit_a_published_configuration(
    checkpoints: Mapping[str, Checkpoint], family: FamilyName, component: str
) -> None:
    """And is refused before anything of the published size is allocated."""
    kind, model = {"sdxl": ("sdxl", "sdxl-base"), "sd21": ("sd21-noise", "sd21-base")}.get(
        family, ("flux-dev", "flux-dev")
    )
    file = checkpoints[kind].folder / component / f"{STEMS[component]}.safetensors"
    part = Weights(component, published_folder(model) / component / "config.json", (file,), "", "")
    with pytest.raises(CheckpointProblem, match="does not fit"):
        load_component(class_of(family, component), part, torch.device("cpu"), torch.float32)
