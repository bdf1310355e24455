"""Trains demo-sdxl from nothing but code: autoencoder, then text encoders, then denoiser; each resumes by itself."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pipelines.demo.training.assemble import write_checkpoint
from pipelines.demo.training.autoencoder import train_autoencoder
from pipelines.demo.training.denoiser import train_denoiser
from pipelines.demo.training.text import train_text_encoders

DEMO_FOLDER = Path(__file__).resolve().parents[1] / "demo-sdxl"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/train-demo", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("demo-training"), help="checkpoints and encoded scenes")
    parser.add_argument("--output", type=Path, default=DEMO_FOLDER, help="the checkpoint folder to write")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    vae = train_autoencoder(arguments.work)
    text = train_text_encoders(arguments.work)
    unet = train_denoiser(vae, text, arguments.work)
    write_checkpoint(vae, text, unet, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
