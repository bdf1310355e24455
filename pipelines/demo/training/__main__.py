"""Trains the embedded models from nothing but code; stop and start it at will, every stage resumes by itself.

All share one autoencoder and the words; demo-sd21's denoiser begins with demo-sdxl's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pipelines.demo.training import flux
from pipelines.demo.training.assemble import write_flux, write_sd21, write_sdxl
from pipelines.demo.training.autoencoder import train_autoencoder
from pipelines.demo.training.denoiser import train_sd21_denoiser, train_sdxl_denoiser
from pipelines.demo.training.lessons import cached_lessons
from pipelines.demo.training.t5 import train_t5
from pipelines.demo.training.text import train_text_encoders, with_pooled_output, without_last_layer

DEMO_FOLDER = Path(__file__).resolve().parents[1]
MODELS = ("demo-sdxl", "demo-sd21", "demo-flux")


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/train-demo", description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS, help=f"any of {', '.join(MODELS)}; all if none is named")
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="checkpoints and encoded scenes")
    parser.add_argument("--output", type=Path, default=DEMO_FOLDER, help="where the checkpoint folders are written")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if strangers := set(arguments.models) - set(MODELS):
        parser.error(f"no such model: {', '.join(sorted(strangers))}; there are {', '.join(MODELS)}")
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    train_models(arguments.models, arguments.work, arguments.output)


def train_models(models: list[str], work: Path, output: Path) -> None:
    vae = train_autoencoder(work)
    text = train_text_encoders(work)
    lessons = cached_lessons(vae, work)
    if "demo-sdxl" in models or "demo-sd21" in models:
        unet = train_sdxl_denoiser(lessons, text, work)
        write_sdxl(vae, text, unet, output / "demo-sdxl")
    if "demo-sd21" in models:
        encoder = without_last_layer(text)
        write_sd21(vae, encoder, train_sd21_denoiser(lessons, encoder, unet, work), output / "demo-sd21")
    if "demo-flux" in models:
        clip, t5 = with_pooled_output(text), train_t5(work)
        steady = cached_lessons(vae, work, flux.PLAY)
        transformer = flux.train_transformer(steady, t5, clip, text.tokenizer, work)
        write_flux(vae, clip, text.tokenizer, t5, transformer, output / "demo-flux")


if __name__ == "__main__":
    main()
