"""Guards the check of a model folder: every damage is a CheckpointProblem that names its file, never a crash."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.messages import FamilyName
from pipelines.weights.verify import (
    COMPONENTS_BY_FAMILY,
    SDXL_COMPONENTS,
    UNSAFE_SUFFIXES,
    WEIGHT_FILES,
    CheckpointProblem,
    find_problem,
    verify,
    verify_safetensors,
)
from tests.pipelines.conftest import KINDS, Checkpoint

DATA = bytes(range(24))
HEADER = {
    "__metadata__": {"format": "pt"},
    "first": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "second": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
}
UNET = "unet/diffusion_pytorch_model.safetensors"
CLASSES = {
    name: [library, (classes or ("EulerDiscreteScheduler",))[0]] for name, (library, classes) in SDXL_COMPONENTS.items()
}
SMALL_FILES = {
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/vocab.json",
    "scheduler/scheduler_config.json",
}
ALL_WEIGHTS = {f"{name}/{file}" for name, file in WEIGHT_FILES.items() if name in SDXL_COMPONENTS}


def safetensors(header: object = HEADER, data: bytes = DATA, *, declared_bytes: int | None = None) -> bytes:
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(written) if declared_bytes is None else declared_bytes) + written + data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the layout of an SDXL checkpoint and weights of 24 bytes."""
    model = tmp_path / "model"
    for name in SMALL_FILES:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text("{}", encoding="utf-8")
    (model / "model_index.json").write_text(json.dumps(CLASSES), encoding="utf-8")
    for name in ALL_WEIGHTS:
        (model / name).write_bytes(safetensors())
    return model


def problem_of(folder: Path) -> str:
    """What is wrong, which must be a sentence that can be sent on."""
    with pytest.raises(CheckpointProblem) as caught:
        verify(folder, "sdxl")
    problem = find_problem(folder, "sdxl")
    assert problem == str(caught.value)
    assert problem.encode("utf-8")
    return problem


def write_index(folder: Path, index: object) -> None:
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")


def test_a_good_folder_has_no_problem(folder: Path) -> None:
    verify(folder, "sdxl")
    assert find_problem(folder, "sdxl") is None


def test_the_other_form_of_a_tokenizer_is_good_as_well(folder: Path) -> None:
    (folder / "tokenizer/vocab.json").rename(folder / "tokenizer/tokenizer.json")
    assert find_problem(folder, "sdxl") is None


def test_other_classes_of_the_list_are_good_as_well(folder: Path) -> None:
    classes: dict[str, Any] = CLASSES | {
        "tokenizer": ["transformers", "CLIPTokenizerFast"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
    }
    write_index(folder, classes)
    assert find_problem(folder, "sdxl") is None


def test_other_harmless_files_do_not_matter(folder: Path) -> None:
    (folder / "README.md").write_text("x", encoding="utf-8")
    (folder / ".gitattributes").write_text("x", encoding="utf-8")
    assert find_problem(folder, "sdxl") is None


def test_a_link_that_stays_in_the_folder_is_good(folder: Path) -> None:
    (folder / UNET).rename(folder / "weights.safetensors")
    (folder / UNET).symlink_to("../weights.safetensors")
    assert find_problem(folder, "sdxl") is None


def test_a_missing_folder_is_a_problem(tmp_path: Path) -> None:
    assert "does not exist" in problem_of(tmp_path / "nowhere")


def test_a_file_in_the_folders_place_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"x")
    assert "does not exist" in problem_of(tmp_path / "model")


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    assert "model_index.json is missing" in problem_of(tmp_path)


@pytest.mark.parametrize("name", sorted(SMALL_FILES | ALL_WEIGHTS))
def test_each_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert problem_of(folder) == f"{folder / name} is missing"


@pytest.mark.parametrize("name", sorted(SMALL_FILES | ALL_WEIGHTS))
def test_each_folder_in_a_files_place_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert str(folder / name) in problem_of(folder)


@pytest.mark.parametrize("name", SDXL_COMPONENTS)
def test_each_file_in_a_components_place_is_named(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "elsewhere")
    (folder / name).write_bytes(b"x")
    assert str(folder / name) in problem_of(folder)


NO_JSON_OBJECTS = {
    "empty": b"",
    "text": b"not json",
    "list": b"[]",
    "null": b"null",
    "cut short": b'{"a": 1',
    "not utf-8": b'{"a": "\xff"}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "zeros": bytes(100),
    "deep": b'{"a":' * 100_000,
    "giant integer": b'{"a":' + b"9" * 5_000 + b"}",
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 24\n",
}


@pytest.mark.parametrize("content", NO_JSON_OBJECTS.values(), ids=NO_JSON_OBJECTS.keys())
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "tokenizer/vocab.json"])
def test_a_file_that_holds_no_json_object_is_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert problem_of(folder).startswith(f"{folder / name} ")


@pytest.mark.parametrize("name", SDXL_COMPONENTS)
@pytest.mark.parametrize(
    "named",
    [None, "", [], ["diffusers"], ["diffusers", None], [None, None], ["a", "b", "c"], {"a": 1, "b": 2}, 3, "ab"],
)
def test_a_component_that_the_index_does_not_name_is_a_problem(folder: Path, name: str, named: object) -> None:
    write_index(folder, CLASSES | {name: named})
    assert problem_of(folder) == f"{folder / 'model_index.json'} names no {name}"


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("unet", ["diffusers", "FluxTransformer2DModel"]),
        ("unet", ["transformers", "UNet2DConditionModel"]),
        ("unet", ["my_pipeline", "UNet2DConditionModel"]),
        ("vae", ["diffusers", "AutoencoderTiny"]),
        ("text_encoder", ["transformers", "CLIPTextModelWithProjection"]),
        ("text_encoder_2", ["transformers", "T5EncoderModel"]),
        ("tokenizer", ["transformers", "AutoTokenizer"]),
        ("scheduler", ["evil", "EulerDiscreteScheduler"]),
    ],
)
def test_a_component_of_a_wrong_class_is_a_problem(folder: Path, name: str, named: list[str]) -> None:
    write_index(folder, CLASSES | {name: named})
    problem = problem_of(folder)
    assert "model_index.json" in problem
    assert f"{name} is {named[0]}.{named[1]}" in problem


def test_a_class_name_that_is_no_text_makes_a_problem_that_can_be_sent(folder: Path) -> None:
    write_index(folder, CLASSES | {"unet": ["diffusers", "\ud800"]})
    assert "unet" in problem_of(folder)


@pytest.mark.parametrize(
    "name",
    ["model_index.json", "unet/config.json", "text_encoder/config.json", "tokenizer/tokenizer_config.json"],
)
def test_a_file_that_asks_for_code_of_its_own_is_a_problem(folder: Path, name: str) -> None:
    value = CLASSES if name == "model_index.json" else {}
    (folder / name).write_text(json.dumps(value | {"auto_map": {"AutoModel": "evil.Model"}}), encoding="utf-8")
    assert str(folder / name) in problem_of(folder)


DAMAGED_WEIGHTS = {
    "empty": b"",
    "seven bytes": bytes(7),
    "eight zeros": bytes(8),
    "a hundred zeros": bytes(100),
    "all ones": b"\xff" * 100,
    "a pickle": b"\x80\x04K\x01." * 10,
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 24\n",
    "one byte short": safetensors()[:-1],
    "cut in the header": safetensors()[:40],
    "cut after the length": safetensors()[:8],
    "one byte more": safetensors() + b"\0",
    "twice": safetensors() * 2,
    "a length beyond the file": safetensors(declared_bytes=10_000),
    "a length of 64 bits": safetensors(declared_bytes=2**64 - 1),
    "a length of nothing": safetensors(declared_bytes=0),
    "a length of one": safetensors(declared_bytes=1),
    "a length too short": safetensors(declared_bytes=40),
    "a length into the data": safetensors(declared_bytes=len(json.dumps(HEADER)) + 8),
    "a header that is no json": safetensors(b"not json at all"),
    "a header that is no utf-8": safetensors(b'{"a":"\xff\xfe"}'),
    "a header in utf-16": safetensors(json.dumps(HEADER).encode("utf-16")),
    "a header that is a list": safetensors([]),
    "a header that is null": safetensors(None),
    "a header without tensors": safetensors({}),
    "a header of metadata alone": safetensors({"__metadata__": {}}),
    "a deep header": safetensors(b"[" * 100_000),
    "a deep object": safetensors(b'{"a":' * 100_000),
    "no data_offsets": safetensors({"a": {"dtype": "F32", "shape": [6]}}),
    "an entry that is null": safetensors({"a": None}),
    "an entry that is text": safetensors({"a": "data_offsets"}),
    "an entry that is a list": safetensors({"a": [0, 24]}),
    "offsets that are null": safetensors({"a": {"data_offsets": None}}),
    "no offsets": safetensors({"a": {"data_offsets": []}}),
    "one offset": safetensors({"a": {"data_offsets": [24]}}),
    "offsets in an object": safetensors({"a": {"data_offsets": {"1": 24}}}),
    "offsets in a text": safetensors({"a": {"data_offsets": "04"}}, b"1234"),
    "an offset that is text": safetensors({"a": {"data_offsets": [0, "24"]}}),
    "an offset that is a fraction": safetensors({"a": {"data_offsets": [0, 24.5]}}),
    "an offset that is null": safetensors({"a": {"data_offsets": [0, None]}}),
    "an offset that is a list": safetensors({"a": {"data_offsets": [0, [24]]}}),
    "an offset below zero": safetensors({"a": {"data_offsets": [0, -1]}}),
    "an offset that is nan": safetensors(b'{"a":{"data_offsets":[0,NaN]}}'),
    "an offset that is infinite": safetensors(b'{"a":{"data_offsets":[0,1e999]}}'),
    "an offset of 4300 digits": safetensors(b'{"a":{"data_offsets":[0,' + b"9" * 4300 + b"]}}"),
    "an offset of 5000 digits": safetensors(b'{"a":{"data_offsets":[0,' + b"9" * 5000 + b"]}}"),
}
each_damage = pytest.mark.parametrize("content", DAMAGED_WEIGHTS.values(), ids=DAMAGED_WEIGHTS.keys())


@each_damage
def test_damaged_weights_are_named(folder: Path, content: bytes) -> None:
    (folder / UNET).write_bytes(content)
    problem = problem_of(folder)
    assert problem.startswith(f"{folder / UNET} ")
    assert len(problem) < len(str(folder)) + 300


@pytest.mark.parametrize("name", sorted(ALL_WEIGHTS))
def test_the_weights_of_every_component_are_checked(folder: Path, name: str) -> None:
    (folder / name).write_bytes(safetensors()[:-1])
    assert problem_of(folder).startswith(f"{folder / name} ")


def test_the_problem_with_a_cut_file_says_both_sizes(folder: Path) -> None:
    whole = safetensors()
    (folder / UNET).write_bytes(whole[:-5])
    assert f"has {len(whole) - 5} bytes, its header says {len(whole)}" in problem_of(folder)


def test_a_header_that_is_padded_with_spaces_is_good(folder: Path) -> None:
    (folder / UNET).write_bytes(safetensors(json.dumps(HEADER).encode() + b"     "))
    assert find_problem(folder, "sdxl") is None


def test_tensors_in_any_order_are_good(folder: Path) -> None:
    (folder / UNET).write_bytes(safetensors(dict(reversed(HEADER.items()))))
    assert find_problem(folder, "sdxl") is None


@pytest.mark.parametrize("suffix", sorted(UNSAFE_SUFFIXES | {".PY", ".Bin", ".PKL"}))
@pytest.mark.parametrize("place", ["", "unet", "some/where/else"])
def test_a_file_that_can_hold_code_is_a_problem(folder: Path, suffix: str, place: str) -> None:
    path = folder / place / f"evil{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    problem = problem_of(folder)
    assert problem.startswith(str(path))
    assert "code" in problem


def test_the_list_of_unsafe_suffixes_holds_the_known_ones() -> None:
    assert {".py", ".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt"} <= UNSAFE_SUFFIXES


def test_a_file_name_that_is_no_text_makes_a_problem_that_can_be_sent(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.py")).write_bytes(b"")
    assert "code" in problem_of(folder)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside.safetensors", "..", "/", "/nowhere/at/all"])
@pytest.mark.parametrize("place", ["link", "unet/link"])
def test_a_link_that_leaves_the_folder_is_a_problem(folder: Path, place: str, target: str) -> None:
    target = "../" + target if place.startswith("unet") and target.startswith("..") else target
    (folder / place).symlink_to(target)
    assert problem_of(folder) == f"{folder / place} is a link that leaves the model's folder"


def test_weights_that_are_a_link_out_of_the_folder_are_a_problem(folder: Path) -> None:
    (folder / UNET).rename(folder.parent / "outside.safetensors")
    (folder / UNET).symlink_to(folder.parent / "outside.safetensors")
    assert "leaves the model's folder" in problem_of(folder)


def test_a_component_that_is_a_link_out_of_the_folder_is_a_problem(folder: Path) -> None:
    (folder / "unet").rename(folder.parent / "unet")
    (folder / "unet").symlink_to(folder.parent / "unet")
    assert "leaves the model's folder" in problem_of(folder)


def test_a_link_to_a_folder_beside_with_the_same_beginning_leaves_the_folder(folder: Path) -> None:
    beside = folder.with_name(folder.name + "-other")
    beside.mkdir()
    (folder / "link").symlink_to(beside)
    assert "leaves the model's folder" in problem_of(folder)


def test_weights_that_are_a_dangling_link_are_missing(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).symlink_to("nothing.safetensors")
    assert problem_of(folder) == f"{folder / UNET} is missing"


def test_a_link_to_itself_is_a_problem(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).symlink_to(Path(UNET).name)
    assert str(folder / UNET) in problem_of(folder)


def test_a_folder_reached_through_a_link_is_good(folder: Path) -> None:
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert find_problem(link, "sdxl") is None


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


def only_a_problem(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with contextlib.suppress(CheckpointProblem):
        verify_safetensors(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.one_of(
    JSON_VALUES,
    st.dictionaries(st.text(max_size=3), JSON_VALUES, max_size=3),
    st.dictionaries(st.text(max_size=3), st.fixed_dictionaries({"data_offsets": JSON_VALUES}), max_size=3),
    st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries({"data_offsets": st.tuples(JSON_VALUES, JSON_VALUES)}),
        max_size=3,
    ),
)


@settings(max_examples=200, deadline=None, database=None)
@given(content=st.binary(max_size=60) | st.binary(max_size=40).map(lambda header: safetensors(header, b"")))
def test_any_bytes_are_weights_or_a_problem(scratch: Path, content: bytes) -> None:
    only_a_problem(scratch, content)


@settings(max_examples=300, deadline=None, database=None)
@given(header=HEADERS, data=st.binary(max_size=16))
def test_any_json_header_is_weights_or_a_problem(scratch: Path, header: object, data: bytes) -> None:
    only_a_problem(scratch, safetensors(header, data))


@settings(max_examples=200, deadline=None, database=None)
@given(place=st.integers(0, len(safetensors()) - 1), byte=st.integers(0, 255))
def test_one_wrong_byte_is_weights_or_a_problem(scratch: Path, place: int, byte: int) -> None:
    content = bytearray(safetensors())
    content[place] = byte
    only_a_problem(scratch, bytes(content))


@settings(max_examples=100, deadline=None, database=None)
@given(length=st.integers(0, len(safetensors()) - 1))
def test_weights_cut_short_anywhere_are_a_problem(scratch: Path, length: int) -> None:
    scratch.write_bytes(safetensors()[:length])
    with pytest.raises(CheckpointProblem):
        verify_safetensors(scratch)


@settings(max_examples=50, deadline=None, database=None)
@given(tail=st.binary(min_size=1, max_size=50))
def test_weights_with_bytes_behind_them_are_a_problem(scratch: Path, tail: bytes) -> None:
    scratch.write_bytes(safetensors() + tail)
    with pytest.raises(CheckpointProblem):
        verify_safetensors(scratch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_every_family_is_good_and_each_missing_component_is_named(
    checkpoints: Mapping[str, Checkpoint], kind: str, tmp_path: Path
) -> None:
    family, source = checkpoints[kind].family, checkpoints[kind].folder
    assert find_problem(source, family) is None
    for name in COMPONENTS_BY_FAMILY[family]:
        damaged = tmp_path / name
        shutil.copytree(source, damaged)
        shutil.rmtree(damaged / name)
        assert name in (find_problem(damaged, family) or "")


@pytest.mark.parametrize(("kind", "other"), [("sdxl", "flux"), ("flux-dev", "sd21"), ("sd21-noise", "sdxl")])
def test_a_checkpoint_of_another_family_is_refused(
    checkpoints: Mapping[str, Checkpoint], kind: str, other: FamilyName
) -> None:
    assert "model_index.json" in (find_problem(checkpoints[kind].folder, other) or "")
