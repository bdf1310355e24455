"""Trains a tiny adapter (LoRA) on an embedded model: towards pictures of one colour, whatever is asked for.

python -m tests.demo.lora FOLDER
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.denoise.adapters import DENOISER, Adapter, AdapterSet, Layer
from pipelines.denoise.latents import picture_distributions, to_denoiser_scale
from pipelines.families.contract import Family
from pipelines.messages import DrawParams
from tests.demo.measure import load_demo
from tests.pipelines.adapter_files import Places, models_of, write_diffusers, write_kohya

ORANGE = (255, 128, 0)
PROMPT = "a large red circle on a blue background"
RANK, ALPHA, STEPS, SIDE_PX = 4, 4.0, 30, 256
# Where the picture comes together; what lies before needs no gradient, which halves the time.
BLOCKS = ("mid_block.", "up_blocks.")
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "conv1", "conv2", "time_emb_proj")


@dataclass(frozen=True, slots=True)
class Trained:
    """The adapter's layers, and the loss at the beginning and at the end."""

    places: Places
    losses: tuple[float, float]


def train(family: Family, colour: tuple[int, int, int] = ORANGE) -> Trained:
    """A few dozen steps at 256 px, seconds to a minute on one thread."""
    torch.manual_seed(0)
    parts: Any = family.parts  # type: ignore[attr-defined]
    (state,) = family.prepare([DrawParams(PROMPT, None, SIDE_PX, SIDE_PX, 8, 1.0, "checkpoint", 0)])
    clean = _latents_of(parts.vae, colour)
    chosen = [name for name, _ in parts.unet.named_modules() if name.startswith(BLOCKS) and name.endswith(LAYERS)]
    layers = {name: _new_layer(parts.unet.get_submodule(name)) for name in chosen}
    weights = [half.requires_grad_() for layer in layers.values() for half in (layer.down, layer.up)]
    optimiser = torch.optim.AdamW(weights, lr=4e-3)
    adapters = AdapterSet([(Adapter("trained", {DENOISER: tuple(layers.values())}), 1.0)])
    states, extras = state.conditioning.states.clone(), {n: e.clone() for n, e in state.conditioning.extras.items()}
    losses = []
    for _ in range(STEPS):
        timestep = torch.randint(1, 1000, (1,))
        level = state.sampler.alphas_cumprod[timestep].reshape(1, 1, 1, 1)
        noise = torch.randn_like(clean)
        with adapters.applied(DENOISER):
            velocity = parts.unet(
                level**0.5 * clean + (1 - level) ** 0.5 * noise,
                timestep,
                encoder_hidden_states=states,
                added_cond_kwargs=extras or None,
            ).sample
        loss = torch.nn.functional.mse_loss(velocity, level**0.5 * noise - (1 - level) ** 0.5 * clean)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    places = {("unet", name): (layer.down.detach(), layer.up.detach()) for name, layer in layers.items()}
    return Trained(places, (sum(losses[:5]) / 5, sum(losses[-5:]) / 5))


def write_both(family: Family, trained: Trained, folder: Path) -> dict[str, Path]:
    """In diffusers' form and in kohya's, which says a rank of its own beside the strength."""
    models = models_of(family)
    kohya = folder / "orange-kohya.safetensors"
    return {
        "orange": write_diffusers(folder / "orange.safetensors", trained.places),
        "orange-kohya": write_kohya(kohya, trained.places, models, ALPHA, in_original_names=True),
    }


def _latents_of(vae: Any, colour: tuple[int, int, int]) -> torch.Tensor:
    pixels = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, SIDE_PX, SIDE_PX) / 127.5 - 1
    with torch.no_grad():
        (distribution,) = picture_distributions(vae, pixels)
        return to_denoiser_scale(vae, distribution.mode())


def _new_layer(base: torch.nn.Module) -> Layer:
    """Random below and zero above, so that training begins with the base's own pictures."""
    outputs, inputs, *kernel = base.get_parameter("weight").shape
    down = torch.randn(RANK, inputs, *kernel) / inputs**0.5
    return Layer(base, down, torch.zeros(outputs, RANK, *[1] * len(kernel)), 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    family, began = load_demo("demo-sdxl"), time.perf_counter()
    trained = train(family)
    files = write_both(family, trained, folder)
    print(f"{time.perf_counter() - began:.0f} s, loss {trained.losses[0]:.3f} to {trained.losses[1]:.3f}: {files}")


if __name__ == "__main__":
    main()
