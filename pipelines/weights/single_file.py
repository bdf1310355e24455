"""Turns the names that tensors have in files into the names that diffusers and transformers give them.

Knows names and how tensors were fused; knows no files, devices or dtypes. Tensors on the meta device do as well.
Invariant: no value changes; what cannot be placed keeps its name, so that whoever compares sees it.
Sources: diffusers 0.42's own converters, which are called. Its one for FLUX works for a width of 3072 alone, so FLUX is
written out here for every width, and compared with it in the tests.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, FluxTransformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

from pipelines.weights.original_names import DENOISER

Tensors = dict[str, torch.Tensor]
# What stands in files of text encoders beside what is used here: buffers, and heads and towers of the whole models.
UNUSED_SUFFIXES = ("position_ids", "logit_scale")
UNUSED_IN_CLIP = ("vision_model.", "visual_projection.")
UNUSED_IN_T5 = ("decoder.", "lm_head.")

FLUX_OUTER = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "txt_in": "context_embedder",
    "img_in": "x_embedder",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
# One original layer, and what it was split into along its rows.
FLUX_DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
FLUX_SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
FLUX_BLOCKS = {
    "double_blocks": ("transformer_blocks", FLUX_DOUBLE),
    "single_blocks": ("single_transformer_blocks", FLUX_SINGLE),
}


def to_model_names(tensors: Tensors, model: Any) -> Tensors:  # noqa: PLR0911 (one for each class)
    """The tensors of one component under the model's own names, whichever of the known names they had.

    Raises KeyError, ValueError or another error of diffusers' converters when the tensors are of another component.
    """
    match model:
        case UNet2DConditionModel():
            return _unet(tensors, model)
        case AutoencoderKL():
            return _autoencoder(tensors, model)
        case FluxTransformer2DModel():
            return _flux(tensors, model)
        case CLIPTextModel() | CLIPTextModelWithProjection():
            return _clip(tensors, model)
        case T5EncoderModel():
            return _t5(tensors)
        case StableDiffusionSafetyChecker():
            return _safety_checker(tensors)
        case ControlNetModel():
            return tensors  # in diffusers' own names alone
    raise TypeError(f"no names are known for a {type(model).__name__}")


def _safety_checker(tensors: Tensors) -> Tensors:
    """transformers 5 has one level of `vision_model` less than those that the checker was published with."""
    doubled = "vision_model.vision_model."
    named = {
        name.removeprefix("vision_model.") if name.startswith(doubled) else name: one for name, one in tensors.items()
    }
    return {name: one for name, one in named.items() if not name.endswith("position_ids")}


def _unet(tensors: Tensors, model: UNet2DConditionModel) -> Tensors:
    if not any(name.startswith("input_blocks.") for name in tensors):
        return tensors
    full = {DENOISER + name: tensor for name, tensor in tensors.items()}
    converted: Tensors = convert_ldm_unet_checkpoint(full, dict(model.config))
    placed = {id(tensor) for tensor in converted.values()}
    return converted | {name: tensor for name, tensor in tensors.items() if id(tensor) not in placed}


def _autoencoder(tensors: Tensors, model: AutoencoderKL) -> Tensors:
    if any(name.startswith(("encoder.down.", "decoder.up.")) for name in tensors):
        converted: Tensors = convert_ldm_vae_checkpoint(tensors, dict(model.config))
        return converted
    # Autoencoders published before 2023 call their attention's layers by other names.
    renamed = dict(tensors)
    model._fix_state_dict_keys_on_load(renamed)
    return renamed


def _clip(tensors: Tensors, model: Any) -> Tensors:
    named = tensors
    if any(name.startswith("transformer.resblocks.") for name in tensors):
        last = f"transformer.resblocks.{model.config.num_hidden_layers}."
        # SD 2 draws with the encoder's last layer but one, and the last stands in its files.
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(last)}
        named = convert_open_clip_checkpoint(model, kept, prefix="")
    wrapper = "text_model." if hasattr(model, "text_model") else ""
    unused = UNUSED_IN_CLIP if wrapper else (*UNUSED_IN_CLIP, "text_projection.")
    return {
        name if name.startswith("text_projection.") else wrapper + name.removeprefix("text_model."): tensor
        for name, tensor in named.items()
        if not name.startswith(unused) and not name.endswith(UNUSED_SUFFIXES)
    }


def _t5(tensors: Tensors) -> Tensors:
    used = {name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED_IN_T5)}
    words = used.pop("encoder.embed_tokens.weight", None)
    return used if words is None or "shared.weight" in used else used | {"shared.weight": words}


def _flux(tensors: Tensors, model: FluxTransformer2DModel) -> Tensors:
    if not any(name.startswith("double_blocks.") for name in tensors):
        return tensors
    width = model.config.num_attention_heads * model.config.attention_head_dim
    converted: Tensors = {}
    for name, tensor in tensors.items():
        new_names = _flux_names(name)
        converted.update(zip(new_names, _pieces(tensor, len(new_names), width), strict=True))
    for name in ("norm_out.linear.weight", "norm_out.linear.bias"):
        if name in converted:
            # The original says shift and scale, diffusers scale and shift.
            converted[name] = torch.cat(tuple(reversed(converted[name].chunk(2))))
    return converted


def _pieces(tensor: torch.Tensor, count: int, width: int) -> list[torch.Tensor]:
    """A fused layer's projections: each of `width` rows, the last of all that are left."""
    begins = [width * place for place in range(count)]
    return [tensor[begin:end] for begin, end in zip(begins, [*begins[1:], None], strict=True)]


def _flux_names(name: str) -> tuple[str, ...]:
    """What one original tensor becomes; itself where it is not known."""
    layer, _, kind = name.rpartition(".")
    kind = "weight" if kind == "scale" else kind
    if layer in FLUX_OUTER:
        return (f"{FLUX_OUTER[layer]}.{kind}",)
    family, _, rest = layer.partition(".")
    number, _, part = rest.partition(".")
    blocks, parts = FLUX_BLOCKS.get(family, ("", {}))
    return tuple(f"{blocks}.{number}.{new}.{kind}" for new in parts.get(part, ())) or (name,)
