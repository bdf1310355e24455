"""Painted scenes with their captions, encoded once: what every denoiser of the demo is trained on.

Knows scenes and the autoencoder; knows no text encoder and no denoiser.
Invariant: no lesson shows a scene that is held out for measuring.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from pipelines.demo.captions import reworded, training_scene
from pipelines.demo.training.autoencoder import to_pixels

Size = tuple[int, int]
# How many scenes of each size (width, height) are painted and encoded: enough that none is seen more than some twenty
# times.
CACHED_SCENES: dict[Size, int] = {
    (256, 256): 13_000,
    (448, 256): 1200,
    (256, 448): 1200,
    (512, 512): 4200,
    (1024, 1024): 550,
    (1792, 1024): 220,
    (1024, 1792): 220,
}
PAIR_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Lessons:
    """The scenes of one size: latents (N, 8, H/16, W/16) in half precision, and a caption each."""

    latents: torch.Tensor
    captions: list[str]

    def some(self, count: int) -> tuple[torch.Tensor, list[str]]:
        """`count` lessons drawn at random, latents in float32."""
        chosen = torch.randint(len(self.latents), (count,))
        return self.latents[chosen].float(), [self.captions[number] for number in chosen.tolist()]


@torch.no_grad()
def make_lessons(vae: AutoencoderKL, width_px: int, height_px: int, count: int, play: float) -> Lessons:
    rng = random.Random(f"{width_px}x{height_px}")
    chunk = max(1, 8 * 256 * 256 // (width_px * height_px))
    latents: list[torch.Tensor] = []
    captions: list[str] = []
    for start in range(0, count, chunk):
        scenes = [training_scene(rng, PAIR_SHARE) for _ in range(min(chunk, count - start))]
        latents.append(vae.encode(to_pixels(scenes, width_px, height_px, rng, play)).latent_dist.mode().half())
        captions += [reworded(scene, rng) for scene in scenes]
    return Lessons(torch.cat(latents), captions)


def cached_lessons(vae: AutoencoderKL, folder: Path, play: float = 1.0) -> dict[Size, Lessons]:
    """All sizes, from files where they are there, else made and written. play: of `paint`."""
    lessons: dict[Size, Lessons] = {}
    for (width_px, height_px), count in CACHED_SCENES.items():
        file = folder / f"lessons-{width_px}x{height_px}-{play:g}.pt"
        if not file.exists():
            made = make_lessons(vae, width_px, height_px, count, play)
            torch.save((made.latents, made.captions), file)
            print(f"encoded {count} scenes of {width_px}x{height_px}", flush=True)
        lessons[(width_px, height_px)] = Lessons(*torch.load(file, weights_only=True))
    return lessons
