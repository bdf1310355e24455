"""Names and shapes of all tensors in the single files that were published, as the original architectures make them.

Knows the original code's names and sizes; knows nothing of diffusers, so that both can be held against each other.
Invariant: the numbers of tensors are those of the published files.
Sources: openaimodel.py and model.py of Stability-AI/stablediffusion and generative-models with their published YAML;
open_clip and transformers for the text encoders; model.py and layers.py of black-forest-labs/flux.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

Shape = tuple[int, ...]
Named = Iterator[tuple[str, Shape]]


@dataclass(frozen=True, slots=True)
class Denoiser:
    """A UNet of latent diffusion. depths: transformer blocks by level; 0 for none."""

    multipliers: tuple[int, ...]
    depths: tuple[int, ...]
    middle_depth: int
    context: int
    vector: int | None = None
    channels: int = 320
    residuals: int = 2


SDXL_DENOISER = Denoiser((1, 2, 4), (0, 2, 10), 10, 2048, vector=2816)
SD21_DENOISER = Denoiser((1, 2, 4, 4), (1, 1, 1, 0), 1, 1024)
VAE_WIDTHS, VAE_RESIDUALS = (128, 256, 512, 512), 2
WORDS, TOKENS = 49408, 77
FLUX_WIDTH, FLUX_HEAD, FLUX_CHANNELS, FLUX_CONTEXT, FLUX_VECTOR = 3072, 128, 64, 4096, 768


def affine(name: str, rows: int, *rest: int) -> Named:
    """A layer's weight (rows, *rest) and bias (rows); without rest a normalisation's."""
    yield f"{name}.weight", (rows, *rest)
    yield f"{name}.bias", (rows,)


def below(prefix: str, named: Named) -> Named:
    return ((prefix + name, shape) for name, shape in named)


def unet(shape: Denoiser) -> Named:
    wide = shape.channels * 4
    yield from affine("time_embed.0", wide, shape.channels)
    yield from affine("time_embed.2", wide, wide)
    if shape.vector is not None:
        yield from affine("label_emb.0.0", wide, shape.vector)
        yield from affine("label_emb.0.2", wide, wide)
    skips: list[int] = []
    yield from _unet_down(shape, skips)
    width = skips[-1]
    yield from below("middle_block.0.", residual(width, width, wide))
    yield from below("middle_block.1.", transformer(width, shape.middle_depth, shape.context))
    yield from below("middle_block.2.", residual(width, width, wide))
    yield from _unet_up(shape, skips)
    yield from affine("out.0", shape.channels)
    yield from affine("out.2", 4, shape.channels, 3, 3)


def _unet_down(shape: Denoiser, skips: list[int]) -> Named:
    yield from affine("input_blocks.0.0", shape.channels, 4, 3, 3)
    skips.append(shape.channels)
    for level, (multiplier, depth) in enumerate(zip(shape.multipliers, shape.depths, strict=True)):
        width = shape.channels * multiplier
        for _ in range(shape.residuals):
            block = f"input_blocks.{len(skips)}."
            yield from below(f"{block}0.", residual(skips[-1], width, shape.channels * 4))
            if depth:
                yield from below(f"{block}1.", transformer(width, depth, shape.context))
            skips.append(width)
        if level < len(shape.multipliers) - 1:
            yield from affine(f"input_blocks.{len(skips)}.0.op", width, width, 3, 3)
            skips.append(width)


def _unet_up(shape: Denoiser, skips: list[int]) -> Named:
    before, number = skips[-1], 0
    for level in reversed(range(len(shape.multipliers))):
        width, depth = shape.channels * shape.multipliers[level], shape.depths[level]
        for place in range(shape.residuals + 1):
            block = f"output_blocks.{number}."
            yield from below(f"{block}0.", residual(before + skips.pop(), width, shape.channels * 4))
            if depth:
                yield from below(f"{block}1.", transformer(width, depth, shape.context))
            if level and place == shape.residuals:
                yield from affine(f"{block}{2 if depth else 1}.conv", width, width, 3, 3)
            before, number = width, number + 1


def residual(before: int, width: int, time: int) -> Named:
    yield from affine("in_layers.0", before)
    yield from affine("in_layers.2", width, before, 3, 3)
    yield from affine("emb_layers.1", width, time)
    yield from affine("out_layers.0", width)
    yield from affine("out_layers.3", width, width, 3, 3)
    if before != width:
        yield from affine("skip_connection", width, before, 1, 1)


def transformer(width: int, depth: int, context: int) -> Named:
    yield from affine("norm", width)
    yield from affine("proj_in", width, width)
    for number in range(depth):
        block = f"transformer_blocks.{number}."
        for attention, keys in (("attn1", width), ("attn2", context)):
            yield f"{block}{attention}.to_q.weight", (width, width)
            yield f"{block}{attention}.to_k.weight", (width, keys)
            yield f"{block}{attention}.to_v.weight", (width, keys)
            yield from affine(f"{block}{attention}.to_out.0", width, width)
        yield from affine(f"{block}ff.net.0.proj", width * 8, width)
        yield from affine(f"{block}ff.net.2", width, width * 4)
        for norm in ("norm1", "norm2", "norm3"):
            yield from affine(block + norm, width)
    yield from affine("proj_out", width, width)


def autoencoder(
    latents: int, has_quant: bool, widths: tuple[int, ...] = VAE_WIDTHS, residuals: int = VAE_RESIDUALS
) -> Named:
    yield from affine("encoder.conv_in", widths[0], 3, 3, 3)
    before = widths[0]
    for level, width in enumerate(widths):
        for place in range(residuals):
            yield from below(f"encoder.down.{level}.block.{place}.", picture_residual(before, width))
            before = width
        if level < len(widths) - 1:
            yield from affine(f"encoder.down.{level}.downsample.conv", width, width, 3, 3)
    yield from below("encoder.", middle_and_out(before, before, latents * 2))
    yield from affine("decoder.conv_in", before, latents, 3, 3)
    for level, width in reversed(list(enumerate(widths))):
        for place in range(residuals + 1):
            yield from below(f"decoder.up.{level}.block.{place}.", picture_residual(before, width))
            before = width
        if level:
            yield from affine(f"decoder.up.{level}.upsample.conv", width, width, 3, 3)
    yield from below("decoder.", middle_and_out(widths[-1], before, 3))
    if has_quant:
        yield from affine("quant_conv", latents * 2, latents * 2, 1, 1)
        yield from affine("post_quant_conv", latents, latents, 1, 1)


def middle_and_out(middle: int, last: int, channels: int) -> Named:
    for block in ("mid.block_1.", "mid.block_2."):
        yield from below(block, picture_residual(middle, middle))
    yield from affine("mid.attn_1.norm", middle)
    for layer in ("q", "k", "v", "proj_out"):
        yield from affine(f"mid.attn_1.{layer}", middle, middle, 1, 1)
    yield from affine("norm_out", last)
    yield from affine("conv_out", channels, last, 3, 3)


def picture_residual(before: int, width: int) -> Named:
    yield from affine("norm1", before)
    yield from affine("conv1", width, before, 3, 3)
    yield from affine("norm2", width)
    yield from affine("conv2", width, width, 3, 3)
    if before != width:
        yield from affine("nin_shortcut", width, before, 1, 1)


def clip(width: int, layers: int) -> Named:
    yield "text_model.embeddings.position_ids", (1, TOKENS)
    yield "text_model.embeddings.position_embedding.weight", (TOKENS, width)
    yield "text_model.embeddings.token_embedding.weight", (WORDS, width)
    for number in range(layers):
        layer = f"text_model.encoder.layers.{number}."
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from affine(f"{layer}self_attn.{projection}", width, width)
        yield from affine(f"{layer}layer_norm1", width)
        yield from affine(f"{layer}layer_norm2", width)
        yield from affine(f"{layer}mlp.fc1", width * 4, width)
        yield from affine(f"{layer}mlp.fc2", width, width * 4)
    yield from affine("text_model.final_layer_norm", width)


def open_clip(width: int, layers: int) -> Named:
    yield "positional_embedding", (TOKENS, width)
    yield "text_projection", (width, width)
    yield "logit_scale", ()
    yield "token_embedding.weight", (WORDS, width)
    for number in range(layers):
        block = f"transformer.resblocks.{number}."
        yield f"{block}attn.in_proj_weight", (width * 3, width)
        yield f"{block}attn.in_proj_bias", (width * 3,)
        yield from affine(f"{block}attn.out_proj", width, width)
        yield from affine(f"{block}ln_1", width)
        yield from affine(f"{block}ln_2", width)
        yield from affine(f"{block}mlp.c_fc", width * 4, width)
        yield from affine(f"{block}mlp.c_proj", width, width * 4)
    yield from affine("ln_final", width)


def flux(is_dev: bool) -> Named:
    width = FLUX_WIDTH
    yield from affine("img_in", width, FLUX_CHANNELS)
    yield from affine("txt_in", width, FLUX_CONTEXT)
    inputs = {"time_in": 256, "vector_in": FLUX_VECTOR, **({"guidance_in": 256} if is_dev else {})}
    for name, size in inputs.items():
        yield from affine(f"{name}.in_layer", width, size)
        yield from affine(f"{name}.out_layer", width, width)
    for number in range(19):
        for stream in ("img", "txt"):
            yield from below(f"double_blocks.{number}.{stream}_", flux_stream(width))
    for number in range(38):
        block = f"single_blocks.{number}."
        yield from affine(f"{block}modulation.lin", width * 3, width)
        yield from affine(f"{block}linear1", width * 7, width)
        yield from affine(f"{block}linear2", width, width * 5)
        yield from below(block, flux_norms())
    yield from affine("final_layer.adaLN_modulation.1", width * 2, width)
    yield from affine("final_layer.linear", FLUX_CHANNELS, width)


def flux_stream(width: int) -> Named:
    yield from affine("mod.lin", width * 6, width)
    yield from affine("attn.qkv", width * 3, width)
    yield from affine("attn.proj", width, width)
    yield from below("attn.", flux_norms())
    yield from affine("mlp.0", width * 4, width)
    yield from affine("mlp.2", width, width * 4)


def flux_norms() -> Named:
    yield "norm.query_norm.scale", (FLUX_HEAD,)
    yield "norm.key_norm.scale", (FLUX_HEAD,)


def sdxl_file() -> Named:
    """sd_xl_base_1.0.safetensors."""
    yield from below("model.diffusion_model.", unet(SDXL_DENOISER))
    yield from below("first_stage_model.", autoencoder(4, has_quant=True))
    yield from below("conditioner.embedders.0.transformer.", clip(768, 12))
    yield from below("conditioner.embedders.1.model.", open_clip(1280, 32))


def sd21_file() -> Named:
    """v2-1_768-ema-pruned.safetensors and v2-1_512-ema-pruned.safetensors, but for the noise schedule's tables."""
    yield from below("model.diffusion_model.", unet(SD21_DENOISER))
    yield from below("first_stage_model.", autoencoder(4, has_quant=True))
    yield from below("cond_stage_model.model.", open_clip(1024, 24))


# Published model -> its file's name there -> what stands in it.
FILES: dict[str, dict[str, Callable[[], Named]]] = {
    "sdxl-base": {"sd_xl_base_1.0.safetensors": sdxl_file},
    "sd21-768": {"v2-1_768-ema-pruned.safetensors": sd21_file},
    "sd21-base": {"v2-1_512-ema-pruned.safetensors": sd21_file},
    "flux-schnell": {
        "flux1-schnell.safetensors": lambda: flux(is_dev=False),
        "ae.safetensors": lambda: autoencoder(16, has_quant=False),
    },
    "flux-dev": {
        "flux1-dev.safetensors": lambda: flux(is_dev=True),
        "ae.safetensors": lambda: autoencoder(16, has_quant=False),
    },
}


def original_shapes(model: str, file: str) -> dict[str, Shape]:
    """Every tensor of a published file."""
    return dict(FILES[model][file]())
