"""A tiny SDXL checkpoint with random weights, in the real layout and with the real architecture's odd corners.

Three levels, an 8x autoencoder with 4 channels and attention, noise prediction: nothing like the embedded demo, so that
what holds for both is no accident.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TOKENIZER_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl" / "tokenizer"


def write_tiny_sdxl(folder: Path, *, force_zeros_for_empty_prompt: bool = True) -> Path:
    """Write the checkpoint and return its folder."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER_FOLDER)
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(len(tokenizer), tokenizer.eos_token_id, 32)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(len(tokenizer), tokenizer.eos_token_id, 64)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _text_config(vocabulary: int, end_of_text: int, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 2,
        projection_dim=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=end_of_text - 1,
        eos_token_id=end_of_text,
    )


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        scaling_factor=0.13025,
    )


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        norm_num_groups=4,
        attention_head_dim=(2, 4, 4),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        cross_attention_dim=96,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64 + 6 * 8,
    )
