"""The training of the embedded models runs from beginning to end, in small, and what it writes is a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import T5Tokenizer

from pipelines.demo.training import autoencoder, flux, t5, text
from pipelines.demo.training.assemble import write_flux, write_sd21, write_sdxl
from pipelines.demo.training.denoiser import train_sd21_denoiser, train_sdxl_denoiser
from pipelines.demo.training.lessons import Lessons, Size, make_lessons
from pipelines.demo.training.run import Phase
from pipelines.messages import FamilyName
from tests.pipelines.stock import load, ours, params

FEW = (Phase(2, ((2, 256, 256),)),)
MODELS: dict[str, FamilyName] = {"demo-sdxl": "sdxl", "demo-sd21": "sd21", "demo-flux": "flux"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three checkpoints after two steps of each stage."""
    work, output = (tmp_path_factory.mktemp(name) for name in ("work", "output"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(autoencoder, "PHASES", (Phase(2, ((2, 64, 64),)),))
        for stage in (text, t5):
            patched.setattr(stage, "PHASES", (Phase(2, ((4, 0, 0),)),))
        vae, encoders = autoencoder.train_autoencoder(work), text.train_text_encoders(work)
        lessons: dict[Size, Lessons] = {(256, 256): make_lessons(vae, 256, 256, 4, play=1.0)}
        unet = train_sdxl_denoiser(lessons, encoders, work, FEW)
        sd21_text, t5_text = text.without_last_layer(encoders), t5.train_t5(work)
        sd21_unet = train_sd21_denoiser(lessons, sd21_text, unet, work, FEW)
        clip = text.with_pooled_output(encoders)
        transformer = flux.train_transformer(lessons, t5_text, clip, encoders.tokenizer, work, FEW)
    write_sdxl(vae, encoders, unet, output / "demo-sdxl")
    write_sd21(vae, sd21_text, sd21_unet, output / "demo-sd21")
    write_flux(vae, clip, encoders.tokenizer, t5_text, transformer, output / "demo-flux")
    return output


@pytest.mark.parametrize("model", MODELS)
def test_what_training_writes_is_loaded_by_us_and_by_diffusers(trained: Path, model: str) -> None:
    DiffusionPipeline.from_pretrained(trained / model, dtype=torch.float32)
    family = load(trained / model, MODELS[model])
    drawn = ours(family, params(width_px=256, height_px=256, steps=2))
    assert drawn.pixels.shape == (256, 256, 3)


def test_all_three_checkpoints_fit_into_64_megabytes(trained: Path) -> None:
    assert sum(file.stat().st_size for file in trained.rglob("*") if file.is_file()) <= 64_000_000


def test_the_second_tokenizer_of_flux_knows_the_words_also_when_they_begin_a_sentence(trained: Path) -> None:
    tokenizer = T5Tokenizer.from_pretrained(trained / "demo-flux" / "tokenizer_2")
    words_and_end = 8 + 1
    assert len(tokenizer("A large red circle on a blue background").input_ids) == words_and_end
