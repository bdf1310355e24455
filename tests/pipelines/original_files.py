"""Writes the weights of a diffusers folder as the single files of the community, under the original names.

The names of denoiser and autoencoder are those that diffusers' own converter turns into the folder's, found by running
it and looking where each tensor went; those of text encoders and FLUX are written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file

from pipelines.weights.files import read_json
from pipelines.weights.published.originals import Denoiser, autoencoder, unet

Tensors = dict[str, torch.Tensor]
DENOISER, VAE = "model.diffusion_model.", "first_stage_model."
CLIP, OPEN_CLIP, SD21_CLIP = (
    "conditioner.embedders.0.transformer.",
    "conditioner.embedders.1.model.",
    "cond_stage_model.model.",
)
FLUX_STREAMS = (
    ("img_mod.lin.{}", ("norm1.linear.{}",)),
    ("txt_mod.lin.{}", ("norm1_context.linear.{}",)),
    ("img_attn.qkv.{}", ("attn.to_q.{}", "attn.to_k.{}", "attn.to_v.{}")),
    ("txt_attn.qkv.{}", ("attn.add_q_proj.{}", "attn.add_k_proj.{}", "attn.add_v_proj.{}")),
    ("img_attn.proj.{}", ("attn.to_out.0.{}",)),
    ("txt_attn.proj.{}", ("attn.to_add_out.{}",)),
    ("img_mlp.0.{}", ("ff.net.0.proj.{}",)),
    ("img_mlp.2.{}", ("ff.net.2.{}",)),
    ("txt_mlp.0.{}", ("ff_context.net.0.proj.{}",)),
    ("txt_mlp.2.{}", ("ff_context.net.2.{}",)),
)
FLUX_SCALES = {
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
    "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
}
FLUX_INPUTS = {"time_in": "timestep_embedder", "vector_in": "text_embedder", "guidance_in": "guidance_embedder"}


def weights(folder: Path) -> Tensors:
    """All tensors of one component's folder."""
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def original_unet(folder: Path) -> Tensors:
    config = read_json(folder / "config.json")
    depths = tuple(
        depth if "CrossAttn" in block else 0
        for depth, block in zip(config["transformer_layers_per_block"], config["down_block_types"], strict=True)
    )
    widths = config["block_out_channels"]
    shape = Denoiser(
        tuple(width // widths[0] for width in widths),
        depths,
        depths[-1],
        config["cross_attention_dim"],
        config["projection_class_embeddings_input_dim"],
        widths[0],
    )
    return _filled(unet(shape), weights(folder), lambda bare: _unet_converted(bare, config))


def original_vae(folder: Path) -> Tensors:
    config = read_json(folder / "config.json")
    widths = tuple(config["block_out_channels"])
    named = autoencoder(config["latent_channels"], config["use_quant_conv"], widths, config["layers_per_block"])
    return _filled(named, weights(folder), lambda bare: convert_ldm_vae_checkpoint(bare, config))


def _unet_converted(bare: Tensors, config: dict[str, Any]) -> Tensors:
    return convert_ldm_unet_checkpoint({DENOISER + name: tensor for name, tensor in bare.items()}, config)  # type: ignore[no-any-return]


def _filled(
    named: Iterable[tuple[str, tuple[int, ...]]], state: Tensors, convert: Callable[[Tensors], Tensors]
) -> Tensors:
    """The original tensors that the converter turns into the state: each is marked by a number, and found by it."""
    shapes = dict(named)
    marked = {name: torch.full(shape, float(number)) for number, (name, shape) in enumerate(shapes.items())}
    by_number = {int(tensor.flatten()[0]): name for name, tensor in convert(marked).items()}
    if sorted(by_number.values()) != sorted(state):
        raise AssertionError("the original names are not those of this model")
    return {name: state[by_number[number]].reshape(shape) for number, (name, shape) in enumerate(shapes.items())}


def original_clip(folder: Path) -> Tensors:
    """Names and buffer of transformers before 5."""
    named = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in weights(folder).items()}
    return named | {"text_model.embeddings.position_ids": torch.arange(77)[None]}


def original_open_clip(folder: Path, *, one_layer_more: bool = False) -> Tensors:
    state = {name.removeprefix("text_model."): tensor for name, tensor in weights(folder).items()}
    layers = read_json(folder / "config.json")["num_hidden_layers"]
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    width = found["ln_final.weight"].shape[0]
    found["text_projection"] = state.get("text_projection.weight", torch.zeros(width, width)).T.contiguous()
    for number in range(layers):
        found |= _open_clip_block(state, f"encoder.layers.{number}.", f"transformer.resblocks.{number}.")
    if one_layer_more:
        found |= _open_clip_block(state, "encoder.layers.0.", f"transformer.resblocks.{layers}.")
    return found


def _open_clip_block(state: Tensors, layer: str, block: str) -> Tensors:
    found = {
        f"{block}attn.in_proj_{kind}": torch.cat([state[f"{layer}self_attn.{one}_proj.{kind}"] for one in "qkv"])
        for kind in ("weight", "bias")
    }
    renamed = {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
    }
    for new, old in {**renamed, "mlp.fc2": "mlp.c_proj"}.items():
        for kind in ("weight", "bias"):
            found[f"{block}{old}.{kind}"] = state[f"{layer}{new}.{kind}"]
    return found


def original_flux(folder: Path) -> Tensors:
    config, state = read_json(folder / "config.json"), weights(folder)
    found: Tensors = {}
    for kind in ("weight", "bias"):
        found[f"txt_in.{kind}"] = state[f"context_embedder.{kind}"]
        found[f"img_in.{kind}"] = state[f"x_embedder.{kind}"]
        found[f"final_layer.linear.{kind}"] = state[f"proj_out.{kind}"]
        scale, shift = state[f"norm_out.linear.{kind}"].chunk(2)
        found[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
        for old, new in FLUX_INPUTS.items():
            for place, layer in (("in", "1"), ("out", "2")):
                name = f"time_text_embed.{new}.linear_{layer}.{kind}"
                if name in state:
                    found[f"{old}.{place}_layer.{kind}"] = state[name]
    for number in range(config["num_layers"]):
        found |= _flux_double(state, f"transformer_blocks.{number}.", f"double_blocks.{number}.")
    for number in range(config["num_single_layers"]):
        found |= _flux_single(state, f"single_transformer_blocks.{number}.", f"single_blocks.{number}.")
    return found


def _flux_double(state: Tensors, new: str, old: str) -> Tensors:
    found = {old + name: state[new + place] for name, place in FLUX_SCALES.items()}
    for name, places in FLUX_STREAMS:
        for kind in ("weight", "bias"):
            found[old + name.format(kind)] = torch.cat([state[new + place.format(kind)] for place in places])
    return found


def _flux_single(state: Tensors, new: str, old: str) -> Tensors:
    found = {
        f"{old}norm.query_norm.scale": state[f"{new}attn.norm_q.weight"],
        f"{old}norm.key_norm.scale": state[f"{new}attn.norm_k.weight"],
    }
    for kind in ("weight", "bias"):
        fused = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
        found[f"{old}linear1.{kind}"] = torch.cat([state[f"{new}{one}.{kind}"] for one in fused])
        found[f"{old}linear2.{kind}"] = state[f"{new}proj_out.{kind}"]
        found[f"{old}modulation.lin.{kind}"] = state[f"{new}norm.linear.{kind}"]
    return found


def single_file_tensors(folder: Path, family: str) -> Tensors:
    """All that the family's published single file holds, of the weights of a diffusers folder."""
    if family == "flux":
        return original_flux(folder / "transformer")
    found = _below(DENOISER, original_unet(folder / "unet")) | _below(VAE, original_vae(folder / "vae"))
    if family == "sd21":
        text = original_open_clip(folder / "text_encoder", one_layer_more=True)
        return found | _below(SD21_CLIP, text) | {"betas": torch.zeros(1000), "model_ema.decay": torch.ones(())}
    texts = _below(CLIP, original_clip(folder / "text_encoder"))
    return found | texts | _below(OPEN_CLIP, original_open_clip(folder / "text_encoder_2"))


def _below(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def write(path: Path, tensors: Tensors) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    return path
