"""Trains the demo's autoencoder: 16 times smaller on each side, 8 channels, so that a 1024 px picture is 64 x 64.

Knows pictures; knows no captions.
Invariant: the latents it hands on have zero mean and unit variance per channel.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from pipelines.demo.scenes import Scene, paint, random_scene
from pipelines.demo.training.run import Phase, train

# Whole scenes, mostly small ones: what is learned is local, and small pictures teach it sooner.
PHASES = (
    Phase(1200, ((8, 128, 128),)),
    Phase(320, ((4, 192, 192), (3, 256, 192), (3, 192, 256), (2, 256, 256))),
)
# The decoder must forgive the small errors that a denoiser leaves.
LATENT_NOISE = 0.06
QUIET_LOG_VARIANCE = -12.0


def build() -> AutoencoderKL:
    """A narrow AutoencoderKL. One normalisation group: narrow ones normalise flat colours away."""
    levels = 5
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8, 16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=1,
        sample_size=512,
        scaling_factor=1.0,
        force_upcast=False,
        mid_block_add_attention=False,
    )


def _silence_variance(model: AutoencoderKL) -> None:
    """Make the posterior's variance a small constant: the autoencoder is trained as a plain one."""
    half = model.config.latent_channels
    with torch.no_grad():
        model.encoder.conv_out.weight[half:] = 0
        model.encoder.conv_out.bias[half:] = QUIET_LOG_VARIANCE


# The eight channels that carry colour through every level: red, green, blue, their negatives, two constants.
COLOUR_CHANNELS, CARRIED_CHANNELS = 3, 8
ANCHOR = 5.0


@torch.no_grad()
def pass_colours_through(model: AutoencoderKL, images: torch.Tensor) -> None:
    """Start as the autoencoder that keeps each 16 x 16 block's mean colour, exactly; the rest is then learned.

    From random weights a narrow autoencoder learns flat colours last: its group normalisations divide by the spread
    of the whole picture, so a shape's colour comes out scaled by its background. Here the skip connections carry
    colour c as the pair (c, -c), for silu(c) - silu(-c) = c, and two large constants hold the spread nearly fixed.
    images: (B, 3, H, W), to measure that spread on.
    """
    for name, module in model.named_modules():
        if name in ("quant_conv", "post_quant_conv"):
            _make_identity(module)
        elif isinstance(module, nn.Conv2d):
            _carry(name, module)
        elif isinstance(module, nn.GroupNorm):
            module.weight.fill_(2.0)
    norms = (model.encoder.conv_norm_out, model.decoder.conv_norm_out)
    hooks = [norm.register_forward_hook(_undo_spread) for norm in norms]
    model.decode(model.encode(images).latent_dist.mode())
    for hook in hooks:
        hook.remove()


def _bias(conv: nn.Conv2d) -> torch.Tensor:
    if conv.bias is None:
        raise ValueError("every convolution of an AutoencoderKL has a bias")
    return conv.bias


def _make_identity(conv: nn.Conv2d) -> None:
    """These two stay as they are in training; afterwards they carry the latents' statistics."""
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(_bias(conv))
    conv.requires_grad_(False)


def _carry(name: str, conv: nn.Conv2d) -> None:
    """Give one convolution its part of the path; `conv1` stays random, `conv2` starts silent."""
    middle = conv.kernel_size[0] // 2
    if name.endswith("conv1"):
        return
    if name.endswith("conv2"):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(_bias(conv))
        return
    if name.endswith("conv_out"):
        conv.weight.mul_(0.5)
    kept = COLOUR_CHANNELS if name.endswith("conv_out") else CARRIED_CHANNELS
    conv.weight[:kept] = 0
    _bias(conv)[:kept] = 0
    if name.endswith("conv_in"):
        for channel in range(COLOUR_CHANNELS):
            conv.weight[channel, channel, middle, middle] = 1
            conv.weight[channel + COLOUR_CHANNELS, channel, middle, middle] = -1
        _bias(conv)[CARRIED_CHANNELS - 2 : CARRIED_CHANNELS] = torch.tensor([ANCHOR, -ANCHOR])
    elif name.endswith("conv_out"):
        for channel in range(COLOUR_CHANNELS):
            conv.weight[channel, channel, middle, middle] = 1
            conv.weight[channel, channel + COLOUR_CHANNELS, middle, middle] = -1
    else:
        for channel in range(CARRIED_CHANNELS):
            if "downsamplers" in name:
                conv.weight[channel, channel, :2, :2] = 0.25
            else:
                conv.weight[channel, channel, middle, middle] = 1


def _undo_spread(norm: nn.GroupNorm, inputs: tuple[torch.Tensor], _: torch.Tensor) -> torch.Tensor:
    """Let the last normalisation of a half give the carried colours back unscaled, and drop the constants."""
    features = inputs[0]
    norm.weight.fill_(features.flatten(1).std(dim=1).mean().item())
    norm.bias.zero_()
    norm.bias[: 2 * COLOUR_CHANNELS] = features.mean()
    norm.weight[CARRIED_CHANNELS - 2 : CARRIED_CHANNELS] = 0
    return nn.functional.group_norm(features, norm.num_groups, norm.weight, norm.bias, norm.eps)


def evenly_weighted(error: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean absolute and squared error in which shapes count as much as the (larger) background. Both (B, 3, H, W)."""
    background = images[:, :, :1, :1]
    is_shape = ((images - background).abs().amax(dim=1, keepdim=True) > 0.02).float()
    share = is_shape.mean(dim=(1, 2, 3), keepdim=True).clamp(0.02, 0.5)
    weight = is_shape * (0.5 / share) + (1 - is_shape) * (0.5 / (1 - share))
    return (weight * (error.square() + 0.3 * error.abs())).mean()


def to_pixels(
    scenes: list[Scene], width_px: int, height_px: int, rng: random.Random, play: float = 1.0
) -> torch.Tensor:
    """The scenes, painted, as (count, 3, H, W) in [-1, 1]."""
    painted = np.stack([np.asarray(paint(scene, width_px, height_px, rng, play=play)) for scene in scenes])
    return torch.from_numpy(painted).permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures(count: int, width_px: int, height_px: int, rng: random.Random) -> torch.Tensor:
    """Fresh scenes as (count, 3, H, W) in [-1, 1]."""
    return to_pixels([random_scene(rng) for _ in range(count)], width_px, height_px, rng)


def train_autoencoder(work_folder: Path) -> AutoencoderKL:
    torch.manual_seed(0)
    model = build()
    pass_colours_through(model, pictures(16, 128, 128, random.Random(-1)))
    _silence_variance(model)

    def loss_at(shape: tuple[int, int, int], step: int) -> torch.Tensor:
        images = pictures(*shape, random.Random(step))
        latents: torch.Tensor = model.encode(images).latent_dist.mode()
        noisy = latents + LATENT_NOISE * latents.detach().std() * torch.randn_like(latents)
        error: torch.Tensor = model.decode(noisy).sample - images
        return evenly_weighted(error, images) + 1e-4 * latents.square().mean()

    train("autoencoder", {"autoencoder": model}, PHASES, loss_at, work_folder, peak_learning_rate=1e-3)
    model.eval()
    standardise_latents(model)
    return model


@torch.no_grad()
def standardise_latents(model: AutoencoderKL) -> None:
    """Put the latents' mean and spread into the two 1 x 1 convolutions around them.

    `latents_mean` and `latents_std` in the configuration would say the same, but stock pipelines take these for four
    channels only.
    """
    rng = random.Random(10_000)
    latents = torch.cat([model.encode(pictures(8, 256, 256, rng)).latent_dist.mode() for _ in range(16)])
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    channels = len(mean)
    model.quant_conv.weight.copy_(torch.diag(torch.cat([1 / std, torch.ones(channels)]))[:, :, None, None])
    model.quant_conv.bias.copy_(torch.cat([-mean / std, -2 * std.log()]))
    model.post_quant_conv.weight.copy_(torch.diag(std)[:, :, None, None])
    model.post_quant_conv.bias.copy_(mean)
