"""Tiny checkpoints of every family with random weights, in the real layouts and with the real architectures' corners.

Autoencoders of 8x with attention, three UNet levels, noise and velocity prediction: nothing like the embedded demos, so
that what holds for both is no accident.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

TOKENIZER_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl" / "tokenizer"
NOISE_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def write_tiny_sdxl(folder: Path, *, force_zeros_for_empty_prompt: bool = True) -> Path:
    """Write the checkpoint and return its folder."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER_FOLDER)
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder(channels=4),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 32)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, 64)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            cross_attention_dim=96,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=64 + 6 * 8,
        ),
        scheduler=EulerDiscreteScheduler(**NOISE_SCHEDULE, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=force_zeros_for_empty_prompt,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_sd21(folder: Path, *, predicts_velocity: bool) -> Path:
    """SD 2.1 as published: the 768 model predicts velocity and samples by DDIM, the base model noise and by PNDM."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER_FOLDER)
    schedule = {**NOISE_SCHEDULE, "set_alpha_to_one": False}
    sampler = (
        DDIMScheduler(**schedule, clip_sample=False, prediction_type="v_prediction")
        if predicts_velocity
        else PNDMScheduler(**schedule, skip_prk_steps=True)
    )
    pipeline = StableDiffusionPipeline(
        vae=_autoencoder(channels=4),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 32)),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=32),
        scheduler=sampler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_control(folder: Path, model: Path, seed: int, *, strength: float = 0.3) -> Path:
    """A ControlNet for the model's UNet, with random weights also where training begins with zeros."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    levels = len(AutoencoderKL.load_config(model / "vae")["block_out_channels"])
    embedding = (8, 8, 16, 16, 16)[:levels]
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=embedding)
    ends = (*network.controlnet_down_blocks, network.controlnet_mid_block, network.controlnet_cond_embedding.conv_out)
    for end in ends:
        torch.nn.init.normal_(end.weight, std=strength)
        torch.nn.init.normal_(end.bias, std=strength / 10)
    network.save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_flux(folder: Path, *, takes_guidance: bool, takes_hint: bool = False) -> Path:
    """FLUX.1: schnell has neither guidance nor shift, dev has both. takes_hint: as the Canny and Depth variants."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER_FOLDER)
    t5_tokenizer = T5Tokenizer(vocab=_t5_vocabulary(), extra_ids=0)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0 if takes_guidance else 1.0, use_dynamic_shifting=takes_guidance
        ),
        vae=_autoencoder(channels=16, shift_factor=0.1159, scaling_factor=0.3611, has_quant=False),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 32)),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(_t5_config(len(t5_tokenizer))),
        tokenizer_2=t5_tokenizer,
        transformer=FluxTransformer2DModel(
            in_channels=128 if takes_hint else 64,
            out_channels=64,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=takes_guidance,
            axes_dims_rope=(4, 6, 6),
        ),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_safety_checker(folder: Path, *, bar: float, side_px: int = 32) -> Path:
    """One with random weights, and the same bar for every concept: the cosine from which on it refuses."""
    torch.manual_seed(5)
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(
        vision_config={**vision, "image_size": side_px, "patch_size": 8}, text_config=text, projection_dim=16
    )
    checker = StableDiffusionSafetyChecker(config)
    for name in ("concept_embeds", "special_care_embeds"):
        torch.nn.init.normal_(getattr(checker, name))
    checker.concept_embeds_weights.fill_(bar)
    checker.special_care_embeds_weights.fill_(bar)
    checker.save_pretrained(folder, safe_serialization=True)
    return folder


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    end_of_text = tokenizer.eos_token_id
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 2,
        projection_dim=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=end_of_text - 1,
        eos_token_id=end_of_text,
    )


def _t5_vocabulary() -> list[tuple[str, float]]:
    letters = [(letter, -4.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = [("\N{LOWER ONE EIGHTH BLOCK}" + word, -3.0) for word in ("", "a", "red", "blue", "circle", "star", "on")]
    return [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words, *letters]


def _t5_config(vocabulary: int) -> T5Config:
    return T5Config(
        vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )


def _autoencoder(
    channels: int, scaling_factor: float = 0.13025, shift_factor: float | None = None, has_quant: bool = True
) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        latent_channels=channels,
        norm_num_groups=4,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        use_quant_conv=has_quant,
        use_post_quant_conv=has_quant,
    )


def _unet(**conditioning: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        norm_num_groups=4,
        attention_head_dim=(2, 4, 4),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        **conditioning,
    )
