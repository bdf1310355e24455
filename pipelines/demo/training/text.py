"""Makes the demo's tokenizer and trains its two CLIP text encoders to know what a caption says.

Knows captions and scenes; paints only the 8 x 8 thumbnail that the pooled embedding must predict.
Invariant: all that a caption says can be read off the pooled embedding, and off the token states, by a linear map,
so that the denoiser need not learn English from noise.
"""

from __future__ import annotations

import copy
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pipelines.demo.captions import amid_filler, reworded, training_scene
from pipelines.demo.scenes import COLOURS, OUTLINES, SIZES, Scene, paint
from pipelines.demo.training.run import Phase, train
from pipelines.denoise.prompts import token_ids

MERGED_VOCABULARY_SIZE = 640
TOKENS = 77
THUMBNAIL_PX = 8
CPU = torch.device("cpu")
NARROW_WIDTH, WIDE_WIDTH = 64, 128
PHASES = (Phase(1500, ((96, 0, 0),)),)
# Short batches are quick, for nothing that follows a caption changes it; some long ones teach the late positions.
LONG_CAPTION_EVERY_STEPS = 6
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


@dataclass(frozen=True, slots=True)
class TextEncoders:
    """SDXL's pair of encoders; both read the same tokens."""

    tokenizer: CLIPTokenizer
    narrow: CLIPTextModel
    wide: CLIPTextModelWithProjection

    def tokens(self, captions: list[str], padding: str = "max_length") -> torch.Tensor:
        """(count, 77) token ids, or as many as the longest caption has with `padding="longest"`."""
        encoded = self.tokenizer(captions, padding=padding, max_length=TOKENS, truncation=True, return_tensors="pt")
        ids: torch.Tensor = encoded.input_ids
        return ids

    def encode(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Token states (B, 77, 192) as SDXL reads them, one layer below the last, and the pooled (B, 128)."""
        narrow = self.narrow(tokens, output_hidden_states=True)
        wide = self.wide(tokens, output_hidden_states=True)
        states = torch.cat([narrow.hidden_states[-2], wide.hidden_states[-2]], dim=-1)
        return states, wide.text_embeds


@dataclass(frozen=True, slots=True)
class Sd21TextEncoder:
    """SD 2.1's one encoder: the wide one without its last layer, as the published model leaves out OpenCLIP's."""

    tokenizer: CLIPTokenizer
    encoder: CLIPTextModel

    def encode(self, captions: list[str]) -> torch.Tensor:
        """Token states (B, 77, 128)."""
        states: torch.Tensor = self.encoder(token_ids(self.tokenizer, captions, TOKENS, CPU)).last_hidden_state
        return states


def without_last_layer(text: TextEncoders) -> Sd21TextEncoder:
    config = copy.deepcopy(text.wide.config)
    config.num_hidden_layers -= 1
    return Sd21TextEncoder(text.tokenizer, _taking_over(CLIPTextModel(config), text.wide))


def with_pooled_output(text: TextEncoders) -> CLIPTextModel:
    """FLUX's CLIP encoder: the wide one, of which only the pooled output before the projection is used."""
    return _taking_over(CLIPTextModel(copy.deepcopy(text.wide.config)), text.wide)


def _taking_over(encoder: CLIPTextModel, donor: CLIPTextModelWithProjection) -> CLIPTextModel:
    """The donor's weights, as far as the encoder has such layers."""
    given = donor.text_model.state_dict()
    encoder.load_state_dict({name: given[name] for name in encoder.state_dict()})
    return encoder.eval()


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-level BPE learned from captions: known words become one token each, all else falls to letters."""
    rng = random.Random(0)
    corpus = [reworded(training_scene(rng), rng) for _ in range(20_000)]
    blank = CLIPTokenizer()
    learned = blank.train_new_from_iterator(corpus, vocab_size=MERGED_VOCABULARY_SIZE, show_progress=False)
    merges = [tuple(merge) for merge in _byte_pairs(learned)["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    _write_vocabulary(_vocabulary(merges), merges, folder)
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=TOKENS
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write both of CLIP's forms: vocab.json with merges.txt, and tokenizer.json."""
    tokenizer.save_pretrained(folder)
    model = _byte_pairs(tokenizer)
    _write_vocabulary(model["vocab"], [tuple(merge) for merge in model["merges"]], folder)


def _byte_pairs(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return model


def _write_vocabulary(vocabulary: dict[str, int], merges: list[tuple[str, ...]], folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _vocabulary(merges: list[tuple[str, ...]]) -> dict[str, int]:
    """CLIP's order: every byte, every byte that ends a word, the merges, the special tokens. No text is unknown."""
    letters = sorted(ByteLevel.alphabet())
    endings = [f"{letter}</w>" for letter in letters]
    tokens = dict.fromkeys([*letters, *endings, *("".join(merge) for merge in merges), *SPECIAL_TOKENS])
    return {token: number for number, token in enumerate(tokens)}


def build(tokenizer: CLIPTokenizer) -> TextEncoders:
    def config(width: int, layers: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width * 4,
            projection_dim=WIDE_WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            max_position_embeddings=TOKENS,
            hidden_act="gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    narrow = CLIPTextModel(config(NARROW_WIDTH, 3))
    wide = CLIPTextModelWithProjection(config(WIDE_WIDTH, 4))
    return TextEncoders(tokenizer, narrow, wide)


class Reader(nn.Module):
    """Linear maps that read a scene off an embedding: the training signal of the encoders, thrown away after."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.background = nn.Linear(width, len(COLOURS))
        self.shape = nn.Linear(width, 2 * (len(OUTLINES) + 1))
        self.colour = nn.Linear(width, 2 * (len(COLOURS) + 1))
        self.size = nn.Linear(width, 2 * (len(SIZES) + 1))
        self.centre = nn.Linear(width, 4)
        self.thumbnail = nn.Linear(width, 3 * THUMBNAIL_PX**2)

    def loss(self, embedding: torch.Tensor, answers: Answers) -> torch.Tensor:
        """Cross-entropy of the words plus squared errors of places and thumbnail. embedding: (B, width)."""
        count = len(embedding)
        words = nn.functional.cross_entropy(self.background(embedding), answers.background)
        for head, right in ((self.shape, answers.shape), (self.colour, answers.colour), (self.size, answers.size)):
            logits = head(embedding).view(count * 2, -1)
            words = words + nn.functional.cross_entropy(logits, right.flatten())
        places = (self.centre(embedding) - answers.centre).square().mean()
        thumbnail = (self.thumbnail(embedding) - answers.thumbnail).square().mean()
        total: torch.Tensor = words + 10 * places + 5 * thumbnail
        return total


@dataclass(frozen=True, slots=True)
class Answers:
    """What the captions of a batch say, as class numbers (0 means: no such thing), shares and a thumbnail."""

    background: torch.Tensor
    shape: torch.Tensor
    colour: torch.Tensor
    size: torch.Tensor
    centre: torch.Tensor
    thumbnail: torch.Tensor


def answers(scenes: list[Scene]) -> Answers:
    def classes(attribute: str, names: dict[str, object]) -> torch.Tensor:
        order = list(names)
        rows = [[order.index(getattr(thing, attribute)) + 1 for thing in scene.things] for scene in scenes]
        return torch.tensor([row + [0] * (2 - len(row)) for row in rows])

    centres = [[share for thing in scene.things for share in thing.centre] for scene in scenes]
    thumbnails = [np.asarray(paint(scene, THUMBNAIL_PX, THUMBNAIL_PX, oversample=4)) / 127.5 - 1 for scene in scenes]
    return Answers(
        background=torch.tensor([list(COLOURS).index(scene.background) for scene in scenes]),
        shape=classes("shape", dict(OUTLINES)),
        colour=classes("colour", dict(COLOURS)),
        size=classes("size", dict(SIZES)),
        centre=torch.tensor([row + [0.5] * (4 - len(row)) for row in centres]),
        thumbnail=torch.from_numpy(np.stack(thumbnails)).float().flatten(1),
    )


def train_text_encoders(work_folder: Path) -> TextEncoders:
    torch.manual_seed(1)
    encoders = build(make_tokenizer(work_folder / "tokenizer"))
    from_pooled, from_states = Reader(WIDE_WIDTH), Reader(NARROW_WIDTH + WIDE_WIDTH)
    models = {
        "narrow": encoders.narrow,
        "wide": encoders.wide,
        "from_pooled": from_pooled,
        "from_states": from_states,
    }

    def loss_at(shape: tuple[int, int, int], step: int) -> torch.Tensor:
        rng = random.Random(step)
        scenes = [training_scene(rng) for _ in range(shape[0])]
        captions = [reworded(scene, rng) for scene in scenes]
        if step % LONG_CAPTION_EVERY_STEPS == 0:
            captions = [amid_filler(caption, rng) for caption in captions]
        tokens = encoders.tokens(captions, padding="longest")
        states, pooled = encoders.encode(tokens)
        right = answers(scenes)
        return from_pooled.loss(pooled, right) + from_states.loss(states[:, -1], right)

    train("text", models, PHASES, loss_at, work_folder, peak_learning_rate=1e-3, weight_decay=0.01)
    encoders.narrow.eval()
    encoders.wide.eval()
    return encoders
