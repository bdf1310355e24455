"""The published configurations of SDXL base 1.0, SD 2.1 (768) and FLUX.1-schnell, and models built from them.

Weights are random: they decide what a picture shows, and nothing of what it costs. Tokenizers are stand-ins, as a
vocabulary is data that does not ship with the code; their ids lie within the encoders' vocabularies.
Sources: the config.json files of stabilityai/stable-diffusion-xl-base-1.0, stabilityai/stable-diffusion-2-1 and
black-forest-labs/FLUX.1-schnell, as far as they differ from the defaults of diffusers and transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from pipelines.denoise.sampler import SamplerSource
from pipelines.weights.load import FluxComponents, Sd21Components, SdxlComponents

TOKENIZER_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl" / "tokenizer"
NOISE_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD21_UNET: dict[str, Any] = {
    "sample_size": 96,
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "upcast_attention": True,
}
FLUX_TRANSFORMER: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": False,
}
AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
SDXL_AUTOENCODER = {**AUTOENCODER, "sample_size": 1024, "scaling_factor": 0.13025}
SD21_AUTOENCODER = {**AUTOENCODER, "sample_size": 768, "scaling_factor": 0.18215}
FLUX_AUTOENCODER = {
    **AUTOENCODER,
    "sample_size": 1024,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
OPENCLIP_BIG_G: dict[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
OPENCLIP_H: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
T5_XXL: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}


def build_sdxl(device: torch.device, dtype: torch.dtype) -> SdxlComponents:
    make = _maker(device, dtype)
    return SdxlComponents(
        unet=make(lambda: UNet2DConditionModel(**SDXL_UNET)),
        vae=make(lambda: AutoencoderKL(**SDXL_AUTOENCODER)),
        text_encoder=make(lambda: CLIPTextModel(CLIPTextConfig(**CLIP_L))),
        text_encoder_2=make(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**OPENCLIP_BIG_G))),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        sampler=SamplerSource(EulerDiscreteScheduler, {**NOISE_SCHEDULE, "timestep_spacing": "leading"}),
        force_zeros_for_empty_prompt=True,
        device=device,
        dtype=dtype,
    )


def build_sd21(device: torch.device, dtype: torch.dtype) -> Sd21Components:
    make = _maker(device, dtype)
    return Sd21Components(
        unet=make(lambda: UNet2DConditionModel(**SD21_UNET)),
        vae=make(lambda: AutoencoderKL(**SD21_AUTOENCODER)),
        text_encoder=make(lambda: CLIPTextModel(CLIPTextConfig(**OPENCLIP_H))),
        tokenizer=_clip_tokenizer(),
        sampler=SamplerSource(DDIMScheduler, {**NOISE_SCHEDULE, "prediction_type": "v_prediction"}),
        device=device,
        dtype=dtype,
    )


def build_flux(device: torch.device, dtype: torch.dtype) -> FluxComponents:
    make = _maker(device, dtype)
    return FluxComponents(
        transformer=make(lambda: FluxTransformer2DModel(**FLUX_TRANSFORMER)),
        vae=make(lambda: AutoencoderKL(**FLUX_AUTOENCODER)),
        text_encoder=make(lambda: CLIPTextModel(CLIPTextConfig(**CLIP_L))),
        text_encoder_2=make(lambda: T5EncoderModel(T5Config(**T5_XXL))),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=T5Tokenizer(extra_ids=0),
        sampler=SamplerSource(FlowMatchEulerDiscreteScheduler, {"shift": 1.0, "use_dynamic_shifting": False}),
        device=device,
        dtype=dtype,
    )


def _maker(device: torch.device, dtype: torch.dtype) -> Callable[[Callable[[], Any]], Any]:
    """Builds straight on the device and in the dtype: no copy in host memory, no float32 detour."""

    def make(build: Callable[[], Any]) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with device:
                model = build()
        finally:
            torch.set_default_dtype(before)
        is_convolutional = isinstance(model, (UNet2DConditionModel, AutoencoderKL)) and device.type == "cuda"
        if is_convolutional:
            model = model.to(memory_format=torch.channels_last)
        return model.to(dtype).eval().requires_grad_(False)

    return make


def _clip_tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(TOKENIZER_FOLDER)
