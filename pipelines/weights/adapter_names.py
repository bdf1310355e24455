"""Every name under which files of adapters may know a layer of a model.

Knows models' own names, and how trainers and the models' authors spell them; knows no files and no values.
Invariant: a name is looked up, never guessed: it leads to the layers that it means, or to none.
Sources: sd-scripts trains SDXL in the authors' names (`input_blocks`) and joins the parts of a name by underscores;
diffusers before 0.20 wrote attention as `processor.to_q_lora`; for FLUX the tables of `single_file`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel

from pipelines.weights.single_file import FLUX_BLOCKS, FLUX_OUTER

Spellings = dict[str, tuple[str, ...]]
RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
OLD_ATTENTION = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
OLD_TEXT_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
TEXT_WRAPPER = "text_model."


def spellings(model: torch.nn.Module) -> Spellings:
    """A name in a file -> the model's layers that it means, linear ones and convolutions. Where several layers were one
    in the authors' model they stand in the order of its rows."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))]
    known: Spellings = {}
    for layer in layers:
        for name in (layer, *_other_names(layer, model)):
            known[name] = (layer,)
    if isinstance(model, FluxTransformer2DModel):
        known.update(_fused(layers))
    return {**{name.replace(".", "_"): meant for name, meant in known.items()}, **known}


def _other_names(layer: str, model: torch.nn.Module) -> Iterator[str]:
    owner, _, last = layer.rpartition(".")
    if isinstance(model, UNet2DConditionModel):
        yield from _unet_names(layer, model)
    elif not isinstance(model, FluxTransformer2DModel):
        has_wrapper = layer.startswith(TEXT_WRAPPER)
        unwrapped = layer.removeprefix(TEXT_WRAPPER)
        yield unwrapped if has_wrapper else TEXT_WRAPPER + layer
        if owner.endswith("self_attn"):
            old = f"{unwrapped.rpartition('.')[0]}.{OLD_TEXT_ATTENTION[last]}"
            yield from (old, TEXT_WRAPPER + old)


def _unet_names(layer: str, unet: UNet2DConditionModel) -> Iterator[str]:
    for place, old in OLD_ATTENTION.items():
        if layer.endswith(f".{place}"):
            owner = layer.removesuffix(f".{place}")
            yield from (f"{owner}.processor.{old}", f"{owner}.processor.{place}", f"{owner}.{old}")
    original = _original_of(layer, unet)
    if original is not None:
        yield original


def _original_of(layer: str, unet: UNet2DConditionModel) -> str | None:
    """The layer's name in the authors' model."""
    for ours, theirs in UNET_OUTER.items():
        if layer == ours or layer.startswith(f"{ours}."):
            return theirs + _resnet(layer.removeprefix(ours))
    side, level, kind, place, *rest = layer.split(".")
    if side not in ("down_blocks", "up_blocks"):
        return None
    # Every level has a resnet per layer, maybe with attention, and then what changes the size; going up one layer more.
    per_level = int(unet.config.layers_per_block) + 1
    number = int(level) * per_level + (1 if side == "down_blocks" else 0)
    if kind == "downsamplers":
        return f"input_blocks.{number + per_level - 1}.0.op"
    if kind == "upsamplers":
        slot = 2 if hasattr(unet.up_blocks[int(level)], "attentions") else 1
        return f"output_blocks.{number + per_level - 1}.{slot}.conv"
    blocks = "input_blocks" if side == "down_blocks" else "output_blocks"
    slot = 0 if kind == "resnets" else 1
    return f"{blocks}.{number + int(place)}.{slot}" + _resnet("." + ".".join(rest))


def _resnet(rest: str) -> str:
    """What stands behind a block's name, as the authors call it in a resnet; unchanged in anything else."""
    name = rest.removeprefix(".")
    return f".{RESNET[name]}" if name in RESNET else rest


def _fused(layers: list[str]) -> Spellings:
    """FLUX's names by its authors, who have one layer where diffusers has up to four."""
    known: Spellings = {theirs: (ours,) for theirs, ours in FLUX_OUTER.items() if ours in layers}
    for theirs, (ours, parts) in FLUX_BLOCKS.items():
        numbers = {layer.split(".")[1] for layer in layers if layer.startswith(f"{ours}.")}
        for number in numbers:
            for part, split in parts.items():
                meant = tuple(f"{ours}.{number}.{one}" for one in split)
                if set(meant) <= set(layers):
                    known[f"{theirs}.{number}.{part}"] = meant
    return known
