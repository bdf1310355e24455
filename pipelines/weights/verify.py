"""Says whether a model folder is complete and sound, before anything is loaded from it.

Knows the diffusers folder layout and the safetensors header; imports no torch, so that checking is quick.
Invariant: a folder with a problem is never loaded, and the problem is a sentence that names the file.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from pipelines.messages import FamilyName

CLIP_TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
# What a family's model_index.json must name: component -> (library, class).
SDXL_COMPONENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",)),
    "tokenizer": ("transformers", CLIP_TOKENIZERS),
    "tokenizer_2": ("transformers", CLIP_TOKENIZERS),
    "scheduler": ("diffusers", ()),
}
SD21_COMPONENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    name: SDXL_COMPONENTS[name] for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
}
FLUX_COMPONENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "transformer": ("diffusers", ("FluxTransformer2DModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "text_encoder_2": ("transformers", ("T5EncoderModel",)),
    "tokenizer": ("transformers", CLIP_TOKENIZERS),
    "tokenizer_2": ("transformers", ("T5Tokenizer", "T5TokenizerFast")),
    "scheduler": ("diffusers", ()),
}
COMPONENTS_BY_FAMILY: dict[FamilyName, dict[str, tuple[str, tuple[str, ...]]]] = {
    "sdxl": SDXL_COMPONENTS,
    "sd21": SD21_COMPONENTS,
    "flux": FLUX_COMPONENTS,
}
WEIGHT_FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}
# A tokenizer comes in one of two forms; the first that is there is read.
CONFIG_FILES = {
    "tokenizer": ("vocab.json", "tokenizer.json"),
    "tokenizer_2": ("vocab.json", "tokenizer.json"),
    "scheduler": ("scheduler_config.json",),
}
UNSAFE_SUFFIXES = {".py", ".bin", ".pkl", ".pickle", ".pt", ".pth", ".ckpt"}
LENGTH = struct.Struct("<Q")
MAX_HEADER_BYTES = 100 * 1024 * 1024
MAX_FILE_BYTES = 2**63


class CheckpointProblem(Exception):
    """A model folder that cannot be served; the message says which file and why, and can always be encoded."""

    def __init__(self, message: str) -> None:
        super().__init__(message.encode("utf-8", "backslashreplace").decode("utf-8"))


def find_problem(folder: Path, family: FamilyName) -> str | None:
    """The first thing wrong with the folder, or None."""
    try:
        verify(folder, family)
    except CheckpointProblem as problem:
        return str(problem)
    return None


def verify(folder: Path, family: FamilyName) -> None:
    """Check the layout, the classes and every weight file's size against its header.

    Raises:
        CheckpointProblem: something is missing, damaged, unsafe or not of this family.
    """
    if not folder.is_dir():
        raise CheckpointProblem(f"the folder {folder} does not exist")
    _refuse_unsafe_files(folder)
    index = read_json(folder / "model_index.json")
    components = COMPONENTS_BY_FAMILY[family]
    for name, (library, classes) in components.items():
        _verify_component(folder, index, name, library, classes)


def _refuse_unsafe_files(folder: Path) -> None:
    root = folder.resolve()
    for path in folder.rglob("*"):
        if path.suffix.lower() in UNSAFE_SUFFIXES:
            raise CheckpointProblem(f"{path}: only safetensors and JSON are loaded; remove files that can hold code")
        if path.is_symlink() and not _stays_in(path, root):
            raise CheckpointProblem(f"{path} is a link that leaves the model's folder")
        if path.name.endswith("config.json"):
            read_json(path)


def _stays_in(link: Path, root: Path) -> bool:
    try:
        return link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link to itself
        return False


def _verify_component(folder: Path, index: dict[str, Any], name: str, library: str, classes: tuple[str, ...]) -> None:
    named = index.get(name)
    if not (isinstance(named, list) and [type(part) for part in named] == [str, str]):
        raise CheckpointProblem(f"{folder / 'model_index.json'} names no {name}")
    if named[0] != library or (classes and named[1] not in classes):
        expected = " or ".join(classes) or f"a class of {library}"
        raise CheckpointProblem(f"{folder / 'model_index.json'}: {name} is {named[0]}.{named[1]}, expected {expected}")
    if name in WEIGHT_FILES:
        read_json(folder / name / "config.json")
        verify_safetensors(folder / name / WEIGHT_FILES[name])
    else:
        forms = [folder / name / file for file in CONFIG_FILES[name]]
        read_json(next((form for form in forms if form.exists()), forms[0]))


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointProblem(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointProblem(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointProblem(f"{path} is not valid JSON") from error
    if not isinstance(value, dict):
        raise CheckpointProblem(f"{path} does not hold a JSON object")
    if "auto_map" in value:
        raise CheckpointProblem(f"{path} names code of its own (auto_map), which is never run")
    return value


def verify_safetensors(path: Path) -> None:
    """Check that the file is as long as its header says.

    Format: 8 bytes little-endian header length, JSON header, data (https://huggingface.co/docs/safetensors).

    Raises:
        CheckpointProblem: the file is missing, cut short, too long, or no safetensors file.
    """
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(LENGTH.size)
            header_bytes = LENGTH.unpack(prefix)[0] if len(prefix) == LENGTH.size else 0
            if not len(b"{}") <= header_bytes <= min(MAX_HEADER_BYTES, size_bytes - LENGTH.size):
                raise CheckpointProblem(f"{path} is not a safetensors file, or was cut short")
            header = file.read(header_bytes)
    except FileNotFoundError:
        raise CheckpointProblem(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointProblem(f"{path} cannot be read: {error.strerror}") from error
    expected_bytes = LENGTH.size + header_bytes + _data_bytes(path, header)
    if size_bytes != expected_bytes:
        raise CheckpointProblem(f"{path} has {size_bytes} bytes, its header says {expected_bytes}: copy it again")


def _data_bytes(path: Path, header: bytes) -> int:
    """Where the last tensor ends, from the header."""
    try:
        tensors = {name: entry for name, entry in json.loads(header.decode("utf-8")).items() if name != "__metadata__"}
        return max(_end_of(entry["data_offsets"]) for entry in tensors.values())
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointProblem(f"{path} has a damaged header") from error


def _end_of(offsets: object) -> int:
    """Raises ValueError when the offsets are not two integers that a file can have."""
    match offsets:
        case [int(begin), int(end)] if bool not in (type(begin), type(end)) and 0 <= begin <= end < MAX_FILE_BYTES:
            return end
    raise ValueError("no two offsets")
