"""Writes adapters (LoRA) of tiny models as trainers write them: diffusers and peft, kohya, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pipelines.families.contract import Family
from pipelines.weights.adapter_names import spellings
from pipelines.weights.single_file import FLUX_BLOCKS

Tensors = dict[str, torch.Tensor]
Places = dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]
# Every kind of layer that adapters are trained for, by the end of its name.
UNET_LAYERS = (
    *("attn1.to_q", "attn1.to_out.0", "attn2.to_k", "attn2.to_v", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv"),
)
FLUX_LAYERS = (
    *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    *("ff.net.0.proj", "ff.net.2", "proj_mlp", "proj_out", "norm1.linear", "norm.linear"),
)
TEXT_LAYERS = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True, slots=True)
class Models:
    """What adapters of a family act on, by the names that diffusers' files have for it."""

    denoiser: str
    modules: Mapping[str, torch.nn.Module]


def models_of(family: Family) -> Models:
    parts: Any = family.parts  # type: ignore[attr-defined]  # every family of ours has them
    denoiser = "transformer" if hasattr(parts, "transformer") else "unet"
    names = [name for name in (denoiser, "text_encoder", "text_encoder_2") if hasattr(parts, name)]
    return Models(denoiser, {name: getattr(parts, name) for name in names})


def some_layers(
    models: Models, seed: int, rank: int = 4, strength: float = 0.3, components: tuple[str, ...] | None = None
) -> Places:
    """Random pairs (down, up) by component and layer, strong enough to change every picture."""
    generator = torch.Generator().manual_seed(seed)
    ends = {"unet": UNET_LAYERS, "transformer": FLUX_LAYERS}
    places: Places = {}
    for component, model in models.modules.items():
        # diffusers itself has no adapters for T5.
        is_t5 = component == "text_encoder_2" and models.denoiser == "transformer"
        if is_t5 or (components is not None and component not in components):
            continue
        for name, layer in model.named_modules():
            if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)) and name.endswith(
                ends.get(component, TEXT_LAYERS)
            ):
                outputs, inputs, *kernel = layer.weight.shape
                down = torch.randn(rank, inputs, *kernel, generator=generator) / inputs**0.5
                up = torch.randn(outputs, rank, *[1] * len(kernel), generator=generator)
                places[component, name] = (down, up * strength / rank**0.5 * layer.weight.std().item() * 10)
    return places


def write_diffusers(path: Path, places: Places, metadata: Mapping[str, Any] | None = None) -> Path:
    """As diffusers' `save_lora_weights` writes them since peft is its backend."""
    tensors: Tensors = {}
    for (component, layer), (down, up) in places.items():
        tensors |= {f"{component}.{layer}.lora_A.weight": down, f"{component}.{layer}.lora_B.weight": up}
    told = {"format": "pt"} | ({"lora_adapter_metadata": json.dumps(metadata)} if metadata else {})
    return _written(path, tensors, told)


def write_old_diffusers(path: Path, places: Places) -> Path:
    """As diffusers wrote attention before 0.20: `processor.to_q_lora.down`."""
    tensors: Tensors = {}
    for (component, layer), (down, up) in places.items():
        owner, _, last = layer.removesuffix(".0").rpartition(".")
        if last.startswith("to_"):
            name = f"{component}.{owner}.processor.{last}_lora"
            tensors |= {f"{name}.down.weight": down, f"{name}.up.weight": up}
    return _written(path, tensors, {})


def write_kohya(path: Path, places: Places, models: Models, alpha: float, *, in_original_names: bool = False) -> Path:
    """As sd-scripts writes them; in_original_names: the UNet's layers as SDXL's authors call them."""
    tensors: Tensors = {}
    for (component, layer), (down, up) in places.items():
        name = layer
        if in_original_names and component == "unet":
            name = original_name(models.modules["unet"], layer)
        second = "lora_te1_" if "text_encoder_2" in models.modules else "lora_te_"
        prefix = {"unet": "lora_unet_", "text_encoder": second, "text_encoder_2": "lora_te2_"}[component]
        if component != "unet" and not name.startswith("text_model."):
            name = f"text_model.{name}"
        tensors |= _kohya_layer(prefix + name.replace(".", "_"), down, up, alpha)
    return _written(path, tensors, {"ss_network_module": "networks.lora"})


def original_name(model: torch.nn.Module, layer: str) -> str:
    """The dotted name by the model's authors."""
    begin = ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb.")
    return next(name for name, meant in spellings(model).items() if meant == (layer,) and name.startswith(begin))


def write_kohya_flux(path: Path, models: Models, seed: int, alpha: float, *, has_single: bool) -> tuple[Path, Places]:
    """Kohya's file for FLUX, whose layers are fused as the authors' are; and the same by diffusers' layers."""
    generator = torch.Generator().manual_seed(seed)
    transformer = models.modules["transformer"]
    layers = dict(transformer.named_modules())
    tensors: Tensors = {}
    places: Places = {}
    rank = 4
    for theirs, (ours, parts) in FLUX_BLOCKS.items():
        if theirs == "single_blocks" and not has_single:
            continue
        numbers = sorted({name.split(".")[1] for name in layers if name.startswith(f"{ours}.")})
        for number in numbers:
            for part, split in parts.items():
                meant = [f"{ours}.{number}.{one}" for one in split]
                if not all(isinstance(layers.get(name), torch.nn.Linear) for name in meant):
                    continue
                weights: list[torch.Tensor] = [layers[name].get_parameter("weight") for name in meant]
                inputs = weights[0].shape[1]
                down = torch.randn(rank, inputs, generator=generator) / inputs**0.5
                ups = [torch.randn(len(one), rank, generator=generator) * one.std().item() for one in weights]
                tensors |= _kohya_layer(
                    f"lora_unet_{theirs}_{number}_{part.replace('.', '_')}", down, torch.cat(ups), alpha
                )
                places |= {("transformer", name): (down, up) for name, up in zip(meant, ups, strict=True)}
    return _written(path, tensors, {}), places


def scaled(places: Places, factor: float) -> Places:
    return {place: (down, up * factor) for place, (down, up) in places.items()}


def _kohya_layer(name: str, down: torch.Tensor, up: torch.Tensor, alpha: float) -> Tensors:
    return {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(alpha)}


def _written(path: Path, tensors: Tensors, metadata: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path
