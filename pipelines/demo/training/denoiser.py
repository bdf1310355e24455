"""Trains the demo's UNet: velocity prediction, zero terminal signal, trailing timesteps, every served shape.

Knows latents and token states; both are computed once, before the first step, and kept.
Invariant: what it is trained on is what the sampler configuration it ships with asks of it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import rescale_zero_terminal_snr

from pipelines.demo.captions import reworded, training_scene
from pipelines.demo.training.autoencoder import to_pixels
from pipelines.demo.training.run import Phase, average_into, train
from pipelines.demo.training.text import NARROW_WIDTH, WIDE_WIDTH, TextEncoders

TRAIN_TIMESTEPS = 1000
CAPTION_DROP_SHARE = 0.1
SQUARE, LARGE = (32, 256, 256), (8, 512, 512)
WIDE, HIGH = (16, 448, 256), (16, 256, 448)
HUGE = ((2, 1024, 1024), (1, 1792, 1024), (2, 1024, 1024), (1, 1024, 1792))
PHASES = (
    Phase(2800, (SQUARE, SQUARE, SQUARE, LARGE, SQUARE, WIDE, SQUARE, HIGH)),
    Phase(2100, (LARGE, SQUARE, LARGE, HUGE[0], LARGE, WIDE, LARGE, HUGE[1], LARGE, HIGH, LARGE, HUGE[3])),
    Phase(700, (LARGE, HUGE[0], LARGE, HUGE[1], LARGE, HUGE[2], LARGE, HUGE[3])),
)
# How many scenes of each size are painted and encoded: enough that none is seen more than some twenty times.
CACHED_SCENES = {
    (256, 256): 5000,
    (448, 256): 600,
    (256, 448): 600,
    (512, 512): 1300,
    (1024, 1024): 150,
    (1792, 1024): 60,
    (1024, 1792): 60,
}


@dataclass(frozen=True, slots=True)
class Lessons:
    """The encoded scenes of one size: latents (N, 8, H/16, W/16), token states (N, 77, 192), pooled (N, 128)."""

    latents: torch.Tensor
    states: torch.Tensor
    pooled: torch.Tensor


def build() -> UNet2DConditionModel:
    """SDXL's UNet in small: text and size conditioning added to the time embedding, attention where it is cheap."""
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96, 128, 128),
        layers_per_block=1,
        cross_attention_dim=NARROW_WIDTH + WIDE_WIDTH,
        attention_head_dim=(2, 3, 4, 4),
        transformer_layers_per_block=1,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=WIDE_WIDTH + 6 * 16,
    )


def sampler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


def signal_levels() -> torch.Tensor:
    """Cumulative alphas (1000,) of the sampler, with exactly no signal left at the last timestep."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAIN_TIMESTEPS) ** 2
    return torch.cumprod(1 - rescale_zero_terminal_snr(betas), dim=0)


@torch.no_grad()
def make_lessons(vae: AutoencoderKL, text: TextEncoders, width_px: int, height_px: int, count: int) -> Lessons:
    rng = random.Random(f"{width_px}x{height_px}")
    chunk = max(1, 8 * 256 * 256 // (width_px * height_px))
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for start in range(0, count, chunk):
        scenes = [training_scene(rng) for _ in range(min(chunk, count - start))]
        latents = vae.encode(to_pixels(scenes, width_px, height_px, rng)).latent_dist.mode()
        states, pooled = text.encode(text.tokens([reworded(scene, rng) for scene in scenes]))
        parts.append((latents.half(), states.half(), pooled.half()))
    return Lessons(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def cached_lessons(vae: AutoencoderKL, text: TextEncoders, folder: Path) -> Iterator[tuple[tuple[int, int], Lessons]]:
    for (width_px, height_px), count in CACHED_SCENES.items():
        file = folder / f"lessons-{width_px}x{height_px}.pt"
        if not file.exists():
            lessons = make_lessons(vae, text, width_px, height_px, count)
            torch.save((lessons.latents, lessons.states, lessons.pooled), file)
            print(f"encoded {count} scenes of {width_px}x{height_px}", flush=True)
        yield (width_px, height_px), Lessons(*torch.load(file, weights_only=True))


def noisy_timesteps(count: int, side_px: int) -> torch.Tensor:
    """(count,) timesteps drawn towards high noise, the more so the larger the picture (its noise averages out)."""
    power = 0.5 if side_px <= 300 else 0.4
    return (torch.rand(count) ** power * TRAIN_TIMESTEPS).long().clamp(max=TRAIN_TIMESTEPS - 1)


def train_denoiser(vae: AutoencoderKL, text: TextEncoders, work_folder: Path) -> UNet2DConditionModel:
    lessons = dict(cached_lessons(vae, text, work_folder))
    torch.manual_seed(2)
    unet = build()
    average = copy.deepcopy(unet).requires_grad_(False)
    levels = signal_levels()

    def loss_at(shape: tuple[int, int, int], _: int) -> torch.Tensor:
        count, width_px, height_px = shape
        lesson = lessons[(width_px, height_px)]
        chosen = torch.randint(len(lesson.latents), (count,))
        keep = (torch.rand(count) >= CAPTION_DROP_SHARE).float()
        clean = lesson.latents[chosen].float()
        states = lesson.states[chosen].float() * keep.view(-1, 1, 1)
        pooled = lesson.pooled[chosen].float() * keep.view(-1, 1)
        timesteps = noisy_timesteps(count, min(width_px, height_px))
        level = levels[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn_like(clean)
        noised = level.sqrt() * clean + (1 - level).sqrt() * noise
        velocity = level.sqrt() * noise - (1 - level).sqrt() * clean
        sizes = torch.tensor([[height_px, width_px, 0, 0, height_px, width_px]] * count, dtype=torch.float32)
        conditions = {"text_embeds": pooled, "time_ids": sizes}
        predicted = unet(noised, timesteps, states, added_cond_kwargs=conditions).sample
        return torch.nn.functional.mse_loss(predicted, velocity)

    train(
        "denoiser",
        {"unet": unet, "average": average},
        PHASES,
        loss_at,
        work_folder,
        peak_learning_rate=1e-3,
        after_step=lambda step: average_into(average, unet, min(0.999, (step + 1) / (step + 20))),
        weight_decay=0.01,
    )
    return average.eval()
