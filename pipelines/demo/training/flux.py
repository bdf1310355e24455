"""Trains the demo's FLUX transformer: flow matching, good in the four steps that schnell takes.

Knows lessons and token states; knows no pixels.
Invariant: what it is trained on is what the sampler configuration it ships with asks of it: no shift, and most of the
time the sigmas 1, 3/4, 1/2 and 1/4.
Source: Lipman et al., "Flow Matching" (2023); Black Forest Labs' transformer, in small.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer

from pipelines.demo.training.lessons import Lessons, Size
from pipelines.demo.training.run import Phase, train_average
from pipelines.demo.training.t5 import WIDTH, T5TextEncoder
from pipelines.demo.training.text import CPU, TOKENS
from pipelines.denoise.packing import pack, token_positions
from pipelines.denoise.prompts import token_ids

SQUARE, LARGE = (24, 256, 256), (8, 512, 512)
# Larger pictures would take most of the time, and outlines at 512 px need all of it.
PHASES = (Phase(14_000, (LARGE, LARGE, SQUARE, LARGE)),)
FEW_STEPS = (1.0, 0.75, 0.5, 0.25)
# How much place, size and turn of a shape vary (of `paint`): little, so that the first of four steps can decide them.
PLAY = 0.25
# schnell pads captions to 256 tokens. Mostly shorter ones are quicker, and whoever ignores 40 pads ignores 240.
TEXT_TOKENS, LONG_TEXT_TOKENS, LONG_TEXT_EVERY_STEPS = 40, 256, 20


def build() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=32,
        num_layers=1,
        num_single_layers=5,
        # Tokens know their place by rotary phases alone. Wide heads have several whose periods fit a picture's 16 to 32
        # tokens; with 32 channels a head there are two.
        attention_head_dim=64,
        num_attention_heads=3,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(8, 28, 28),
    )


def sampler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)


def some_sigmas(count: int) -> torch.Tensor:
    """(count,) noise levels: mostly the four that schnell steps through, and pure noise, which decides, most of all."""
    few = torch.tensor(FEW_STEPS)[torch.multinomial(torch.tensor([0.55, 0.2, 0.15, 0.1]), count, replacement=True)]
    return torch.where(torch.rand(count) < 0.85, few, torch.rand(count))


def train_transformer(
    lessons: dict[Size, Lessons],
    t5: T5TextEncoder,
    clip: CLIPTextModel,
    clip_tokenizer: CLIPTokenizer,
    work_folder: Path,
    phases: tuple[Phase, ...] = PHASES,
) -> FluxTransformer2DModel:
    """The running average of the trained weights."""
    torch.manual_seed(5)
    transformer = build()

    def pooled(captions: list[str]) -> torch.Tensor:
        embedding: torch.Tensor = clip(token_ids(clip_tokenizer, captions, TOKENS, CPU)).pooler_output
        return embedding

    def loss_at(shape: tuple[int, int, int], step: int) -> torch.Tensor:
        count, width_px, height_px = shape
        clean, captions = lessons[(width_px, height_px)].some(count)
        length = LONG_TEXT_TOKENS if step % LONG_TEXT_EVERY_STEPS == 0 else random.Random(step).randint(24, TEXT_TOKENS)
        with torch.no_grad():
            states, projections = t5.encode(t5.tokens(captions, length)), pooled(captions)
        noise, sigmas = torch.randn_like(clean), some_sigmas(count)
        level = sigmas.view(-1, 1, 1, 1)
        predicted = transformer(
            hidden_states=pack((1 - level) * clean + level * noise),
            timestep=sigmas,
            pooled_projections=projections,
            encoder_hidden_states=states,
            txt_ids=torch.zeros(length, 3),
            img_ids=token_positions(clean.shape[2] // 2, clean.shape[3] // 2).float(),
        ).sample
        return torch.nn.functional.mse_loss(predicted, pack(noise - clean))

    return train_average("flux", transformer, phases, loss_at, work_folder)
