"""Makes FLUX's second tokenizer and trains its small T5 encoder to know what a caption says.

Knows captions and scenes; knows no denoiser.
Invariant: all that a caption says can be read off the state of its end token by a linear map.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from pipelines.demo.captions import amid_filler, reworded, training_scene
from pipelines.demo.training.run import Phase, train
from pipelines.demo.training.text import CPU, LONG_CAPTION_EVERY_STEPS, Reader, answers
from pipelines.denoise.prompts import token_ids

WIDTH = 128
WORDS = 400
PHASES = (Phase(900, ((96, 0, 0),)),)
WORD_BEGIN = "\N{LOWER ONE EIGHTH BLOCK}"
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-_/+&%#@"
# Log probabilities of the unigram model: a word is always likelier than its letters.
WORD_SCORE, LETTER_SCORE = -3.0, -12.0


@dataclass(frozen=True, slots=True)
class T5TextEncoder:
    """The encoder and its tokenizer."""

    tokenizer: T5Tokenizer
    encoder: T5EncoderModel

    def tokens(self, captions: list[str], length: int) -> torch.Tensor:
        """(count, length) token ids, padded and cut off."""
        return token_ids(self.tokenizer, captions, length, CPU)

    def encode(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token states (B, T, 128). Padding is not masked, as FLUX does not mask it."""
        states: torch.Tensor = self.encoder(tokens)[0]
        return states


def make_t5_tokenizer() -> T5Tokenizer:
    """A unigram model of the captions' commonest words, also capitalised, and of single letters for all else."""
    rng = random.Random(0)
    counts = Counter(
        word for _ in range(20_000) for word in reworded(training_scene(rng), rng).replace(",", " ").split()
    )
    common = [word for word, _ in counts.most_common(WORDS)]
    words = dict.fromkeys([*common, *(word.capitalize() for word in common)])
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), (WORD_BEGIN, WORD_SCORE)]
    vocabulary += [(WORD_BEGIN + word, WORD_SCORE) for word in words]
    vocabulary += [(letter, LETTER_SCORE) for letter in LETTERS]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def build(tokenizer: T5Tokenizer) -> T5TextEncoder:
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=32,
        d_ff=256,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return T5TextEncoder(tokenizer, T5EncoderModel(config))


def train_t5(work_folder: Path) -> T5TextEncoder:
    torch.manual_seed(4)
    text = build(make_t5_tokenizer())
    reader = Reader(WIDTH)

    def loss_at(shape: tuple[int, int, int], step: int) -> torch.Tensor:
        rng = random.Random(step)
        scenes = [training_scene(rng) for _ in range(shape[0])]
        captions = [_spoken(reworded(scene, rng), rng) for scene in scenes]
        if step % LONG_CAPTION_EVERY_STEPS == 0:
            captions = [amid_filler(caption, rng) for caption in captions]
        tokens = text.tokens(captions, 96 if step % LONG_CAPTION_EVERY_STEPS == 0 else 40)
        states = text.encode(tokens)
        ends = (tokens == text.tokenizer.eos_token_id).int().argmax(dim=1)
        return reader.loss(states[torch.arange(len(states)), ends], answers(scenes))

    train("t5", {"t5": text.encoder, "reader": reader}, PHASES, loss_at, work_folder, peak_learning_rate=1e-3)
    text.encoder.eval()
    return text


def _spoken(caption: str, rng: random.Random) -> str:
    """Now and then as a sentence begins, or with every word capitalised."""
    return rng.choice([caption, caption, caption[:1].upper() + caption[1:], caption.title()])
