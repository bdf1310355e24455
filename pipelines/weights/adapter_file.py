"""Reads the header of an adapter's file (LoRA): which layers it is for, and whether it can be one of a family at all.

Knows the ways in which trainers name tensors; imports no torch, so that checking is quick.
Invariant: every tensor of the file is understood, or the file is refused; nothing is left out in silence.
Sources: kohya-ss/sd-scripts for `lora_unet_` and `.alpha`; diffusers 0.42 and peft for `unet.`, `transformer.` and
`lora_A`; ComfyUI for `diffusion_model.`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.messages import FamilyName
from pipelines.weights.files import METADATA, CheckpointProblem, read_header, read_json

SUFFIX = ".safetensors"
# What stands before a layer's name -> the component. The first that fits decides; without any it is the denoiser.
PREFIXES = {
    "lora_unet_": "denoiser",
    "lora_transformer_": "denoiser",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_2",
    "lora_te_": "text_encoder",
    "unet.": "denoiser",
    "transformer.": "denoiser",
    "diffusion_model.": "denoiser",
    "base_model.model.": "denoiser",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
}
# What stands behind a layer's name -> what the tensor is.
ENDINGS = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".alpha": "alpha",
}
# Kinds of adapter that look alike and are computed otherwise.
OTHER_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "LoCon with a middle layer",
    "lora_B.bias": "LoRA with biases",
    "oft_": "OFT",
    "vera_lambda": "VeRA",
}
# The first sign that one of the names holds decides. A family of None: nothing that is served here.
SIGNS: tuple[tuple[str, FamilyName | None, str], ...] = (
    ("joint_blocks", None, "Stable Diffusion 3"),
    ("lora_controlnet", None, "a ControlNet"),
    ("double_blocks", "flux", "FLUX.1"),
    ("single_blocks", "flux", "FLUX.1"),
    ("single_transformer_blocks", "flux", "FLUX.1"),
    ("cross_attn", None, "a video model"),
)
UNET_SIGNS = ("down_blocks", "up_blocks", "mid_block", "input_blocks", "output_blocks", "middle_block")
# How trainers say in the file's own text what an adapter was made for.
TOLD_UNDER = ("modelspec.architecture", "ss_base_model_version")
TOLD: tuple[tuple[str, FamilyName | None, str], ...] = (
    ("stable-diffusion-xl", "sdxl", "SDXL"),
    ("sdxl", "sdxl", "SDXL"),
    ("stable-diffusion-v1", None, "Stable Diffusion 1"),
    ("sd_v1", None, "Stable Diffusion 1"),
    ("sd_1", None, "Stable Diffusion 1"),
    ("stable-diffusion-v2", "sd21", "Stable Diffusion 2"),
    ("sd_v2", "sd21", "Stable Diffusion 2"),
    ("flux-1", "flux", "FLUX.1"),
    ("flux1", "flux", "FLUX.1"),
    ("stable-diffusion-3", None, "Stable Diffusion 3"),
    ("sd3", None, "Stable Diffusion 3"),
)
# Where diffusers keeps the training's configuration in the file; peft writes a file beside it.
CONFIG_KEY, CONFIG_FILE = "lora_adapter_metadata", "adapter_config.json"

DAMAGED = "its file is missing, damaged or no safetensors file"
NO_LORA = "its file holds no LoRA of a kind that is known here"
UNFIT = "its tensors do not fit this model's layers, so it was made for another model"
NOT_FINITE = "its file holds values that are not finite"


class AdapterProblem(Exception):
    """An adapter that cannot be used. The message, for logs, says which file and why; reason: what callers may know,
    as the end of a sentence, out of our own words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message.encode("utf-8", "backslashreplace").decode("utf-8"))
        self.reason = reason


@dataclass(slots=True)
class Pair:
    """The names, in the file, of what belongs to one layer."""

    tensors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """A file whose header is sound. pairs: by component and the layer's name as the file has it. config: by component,
    what its training said of ranks and alphas; mostly empty."""

    path: Path
    pairs: Mapping[tuple[str, str], Pair]
    config: Mapping[str, Mapping[str, Any]]


def find_adapter_problem(path: Path, family: FamilyName) -> str | None:
    """What is wrong with an adapter's file as far as its header tells, or None."""
    try:
        read_adapter_file(path, family)
    except AdapterProblem as problem:
        return str(problem)
    return None


def read_adapter_file(path: Path, family: FamilyName) -> AdapterFile:
    """Raises AdapterProblem when the file is not sound, holds something else, or is for another family."""
    if not path.is_file():  # a pipe would keep us waiting
        raise AdapterProblem(f"{path} is missing or no file", DAMAGED)
    try:
        header = read_header(path)
        metadata = header.pop(METADATA, None) or {}
        _refuse_other_kinds(path, header)
        pairs = _pairs(path, header)
        _refuse_other_family(path, family, header, metadata if isinstance(metadata, dict) else {})
        return AdapterFile(path, pairs, _config(path, header, metadata))
    except CheckpointProblem as problem:
        raise AdapterProblem(str(problem), DAMAGED) from problem


def _refuse_other_kinds(path: Path, names: Iterable[str]) -> None:
    for name in names:
        for sign, kind in OTHER_KINDS.items():
            if sign in name:
                reason = f"its file holds a {kind}, and only plain LoRA and LoCon are known here"
                raise AdapterProblem(f"{path} holds {name}: {reason}", reason)


def _pairs(path: Path, names: Iterable[str]) -> dict[tuple[str, str], Pair]:
    pairs: dict[tuple[str, str], Pair] = {}
    for name in names:
        ending = next((ending for ending in ENDINGS if name.endswith(ending)), None)
        if ending is None:
            raise AdapterProblem(f"{path} holds {name}, which is no part of a LoRA", NO_LORA)
        tensors = pairs.setdefault(_place_of(name.removesuffix(ending)), Pair()).tensors
        if tensors.setdefault(ENDINGS[ending], name) != name:
            raise AdapterProblem(f"{path} holds {name} twice, under two names", NO_LORA)
    for (component, layer), pair in pairs.items():
        if not {"down", "up"} <= pair.tensors.keys():
            raise AdapterProblem(f"{path} holds only a part of what belongs to {layer} of the {component}", NO_LORA)
    return pairs


def _place_of(name: str) -> tuple[str, str]:
    """The component, and the layer as the file has it."""
    for prefix, component in PREFIXES.items():
        if name.startswith(prefix):
            return component, name.removeprefix(prefix)
    return "denoiser", name


def _refuse_other_family(
    path: Path, family: FamilyName, names: Collection[str], metadata: Mapping[str, object]
) -> None:
    found, described = _recognised(names, metadata)
    is_unet = any(sign in name for sign in UNET_SIGNS for name in names)
    if described is None and is_unet and family == "flux":
        found, described = None, "a model with a UNet (SDXL or Stable Diffusion)"
    if described is not None and found != family:
        reason = f"it was made for {described}"
        raise AdapterProblem(f"{path} cannot act on the family {family}: {reason}", reason)


def _recognised(names: Collection[str], metadata: Mapping[str, object]) -> tuple[FamilyName | None, str | None]:
    """The family, and its name for people; neither where the file does not tell."""
    for sign, family, described in SIGNS:
        if any(sign in name for name in names):
            return family, described
    for key in TOLD_UNDER:
        told = str(metadata.get(key, "")).lower()
        for beginning, family, described in TOLD:
            if told.startswith(beginning):
                return family, described
    return None, None


def _config(path: Path, names: Iterable[str], metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By component. peft's own files keep alpha outside, and without it nobody knows how strong they are."""
    if any(name.startswith("base_model.model.") for name in names):
        return {"denoiser": read_json(path.parent / CONFIG_FILE)}
    if CONFIG_KEY not in metadata:
        return {}
    try:
        told = json.loads(metadata[CONFIG_KEY])
        config: dict[str, dict[str, Any]] = {}
        for key, value in told.items():
            component, name = _place_of(key)
            config.setdefault(component, {})[name] = value
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointProblem(f"{path} has a damaged {CONFIG_KEY}") from error
    return config
