"""Trains the demos' UNets: velocity prediction, zero terminal signal, trailing timesteps, every served shape.

Knows lessons and token states; knows no pixels.
Invariant: what it is trained on is what the sampler configuration it ships with asks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.schedulers.scheduling_euler_discrete import rescale_zero_terminal_snr

from pipelines.demo.training.lessons import Lessons, Size
from pipelines.demo.training.run import Phase, train_average
from pipelines.demo.training.text import NARROW_WIDTH, WIDE_WIDTH, Sd21TextEncoder, TextEncoders

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
# SD 2.1's begins with SDXL's weights and has to learn its own way of reading, and to draw large.
SD21_PHASES = (
    Phase(1500, (SQUARE, LARGE, WIDE, LARGE, SQUARE, LARGE, HIGH, HUGE[0])),
    Phase(3500, (LARGE, HUGE[0], LARGE, HUGE[1], LARGE, HUGE[2], SQUARE, HUGE[3], LARGE)),
)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a UNet is told beside the noised latents: token states (B, 77, D), and extras by name."""

    states: torch.Tensor
    extras: dict[str, torch.Tensor] | None


def build_sdxl() -> UNet2DConditionModel:
    """SDXL's UNet in small: text and size conditioning are added to the time embedding. Attention where it is cheap,
    at a quarter of the latents' side and below."""
    return _build(
        NARROW_WIDTH + WIDE_WIDTH,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=WIDE_WIDTH + 6 * 16,
    )


def build_sd21() -> UNet2DConditionModel:
    """SD 2.1's UNet in small: all that it knows of the caption comes by attention, so it attends at one level more."""
    return _build(
        WIDE_WIDTH,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
        up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
    )


def _build(text_width: int, **particulars: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 96, 128, 128),
        layers_per_block=1,
        cross_attention_dim=text_width,
        attention_head_dim=(2, 3, 4, 4),
        transformer_layers_per_block=1,
        norm_num_groups=8,
        use_linear_projection=True,
        **particulars,
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


def noisy_timesteps(count: int, side_px: int) -> torch.Tensor:
    """(count,) timesteps drawn towards high noise, the more so the larger the picture (its noise averages out)."""
    power = 0.5 if side_px <= 300 else 0.4
    return (torch.rand(count) ** power * TRAIN_TIMESTEPS).long().clamp(max=TRAIN_TIMESTEPS - 1)


def deciding_timesteps(count: int, side_px: int) -> torch.Tensor:  # noqa: ARG001
    """(count,) timesteps, mostly where a picture is decided: a quarter at pure noise, whose prediction is the layout
    already, and half of the others among the noisiest 150."""
    early = torch.randint(TRAIN_TIMESTEPS - 150, TRAIN_TIMESTEPS, (count,))
    anywhere = torch.randint(TRAIN_TIMESTEPS, (count,))
    drawn = torch.where(torch.rand(count) < 0.5, early, anywhere)
    return torch.where(torch.rand(count) < 0.25, TRAIN_TIMESTEPS - 1, drawn)


def noised(clean: torch.Tensor, levels: torch.Tensor, timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (B, C, h, w) at their timesteps (B,), and the velocities that a denoiser should predict for them."""
    level = levels[timesteps].view(-1, 1, 1, 1)
    noise = torch.randn_like(clean)
    return level.sqrt() * clean + (1 - level).sqrt() * noise, level.sqrt() * noise - (1 - level).sqrt() * clean


def train_sdxl_denoiser(
    lessons: dict[Size, Lessons], text: TextEncoders, work_folder: Path, phases: tuple[Phase, ...] = PHASES
) -> UNet2DConditionModel:
    """Conditioned on both encoders' states, the pooled embedding and the size; without a caption all text is zero."""

    def condition(captions: list[str], width_px: int, height_px: int) -> Conditions:
        keep = (torch.rand(len(captions)) >= CAPTION_DROP_SHARE).float()
        states, pooled = text.encode(text.tokens(captions))
        sizes = torch.tensor([[height_px, width_px, 0, 0, height_px, width_px]] * len(captions), dtype=torch.float32)
        extras = {"text_embeds": pooled * keep.view(-1, 1), "time_ids": sizes}
        return Conditions(states * keep.view(-1, 1, 1), extras)

    torch.manual_seed(2)
    return _train("denoiser", build_sdxl(), lessons, condition, noisy_timesteps, work_folder, phases)


def train_sd21_denoiser(
    lessons: dict[Size, Lessons],
    text: Sd21TextEncoder,
    start: UNet2DConditionModel,
    work_folder: Path,
    phases: tuple[Phase, ...] = SD21_PHASES,
) -> UNet2DConditionModel:
    """Conditioned on one encoder's states alone; without a caption the text is empty. `start`: SDXL's, which knows how
    to draw already."""

    def condition(captions: list[str], width_px: int, height_px: int) -> Conditions:  # noqa: ARG001
        kept = [caption if torch.rand(()) >= CAPTION_DROP_SHARE else "" for caption in captions]
        return Conditions(text.encode(kept), None)

    torch.manual_seed(3)
    unet = grafted(build_sd21(), start)
    return _train("sd21-denoiser", unet, lessons, condition, deciding_timesteps, work_folder, phases)


def grafted(unet: UNet2DConditionModel, donor: UNet2DConditionModel) -> UNet2DConditionModel:
    """Take over the donor's weights where it has them; what attends where the donor did not adds nothing at first."""
    given = donor.state_dict()
    unet.load_state_dict({name: _inherited(name, given.get(name), own) for name, own in unet.state_dict().items()})
    return unet


def _inherited(name: str, given: torch.Tensor | None, own: torch.Tensor) -> torch.Tensor:
    """Of weights that read both of SDXL's encoders, the columns for the wide one, which come last."""
    if given is None:
        return torch.zeros_like(own) if ".proj_out." in name else own
    return given[:, -own.shape[1] :] if given.shape != own.shape else given


def _train(
    name: str,
    unet: UNet2DConditionModel,
    lessons: dict[Size, Lessons],
    condition: Callable[[list[str], int, int], Conditions],
    draw_timesteps: Callable[[int, int], torch.Tensor],
    work_folder: Path,
    phases: tuple[Phase, ...],
) -> UNet2DConditionModel:
    """The running average of the trained weights."""
    levels = signal_levels()

    def loss_at(shape: tuple[int, int, int], _: int) -> torch.Tensor:
        count, width_px, height_px = shape
        clean, captions = lessons[(width_px, height_px)].some(count)
        timesteps = draw_timesteps(count, min(width_px, height_px))
        mixed, velocity = noised(clean, levels, timesteps)
        with torch.no_grad():
            given = condition(captions, width_px, height_px)
        predicted = unet(mixed, timesteps, given.states, added_cond_kwargs=given.extras).sample
        return torch.nn.functional.mse_loss(predicted, velocity)

    return train_average(name, unet, phases, loss_at, work_folder)
