"""Stable Diffusion 2.1, the 768 (velocity) and the base 512 (noise) model, and what is built like them: a UNet that is
told what to draw by one text encoder. What it predicts its sampler configuration says.

Knows tensors of SD 2.1; knows no jobs, queues or other families.
Invariant: for the same seed the picture is the one that diffusers' StableDiffusion pipelines draw.
Source: Rombach et al., "Latent Diffusion" (2022); diffusers 0.42 for every convention that the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.denoise.guidance import is_guided
from pipelines.denoise.prompts import Encoded, separated, token_ids
from pipelines.denoise.state import Conditioning
from pipelines.families.contract import FamilyOptions
from pipelines.families.unet import UnetModel
from pipelines.messages import DrawParams
from pipelines.weights.load import Sd21Components


def sd21_model(parts: Sd21Components, options: FamilyOptions) -> UnetModel:
    return UnetModel("sd21", parts, Sd21Prompts(parts), options)


class Sd21Prompts:
    """How SD 2.1 reads prompts."""

    def __init__(self, parts: Sd21Components) -> None:
        self._parts = parts

    @property
    def encoders(self) -> dict[str, torch.nn.Module]:
        return {"text_encoder": self._parts.text_encoder}

    def texts(self, params: DrawParams) -> list[str]:
        """In the order of the job's rows; an absent negative prompt is the empty one."""
        negatives = [params.negative_prompt or ""] if is_guided(params.guidance_scale) else []
        return [*negatives, params.prompt]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Token states (1, 77, D) of the last layer; the published encoder itself ends one layer early."""
        parts = self._parts
        ids = token_ids(parts.tokenizer, texts, parts.tokenizer.model_max_length, parts.device)
        return separated(parts.text_encoder(ids).last_hidden_state.to(parts.dtype))

    def condition(self, params: DrawParams, encoded: dict[str, Encoded]) -> Conditioning:
        return Conditioning(torch.cat([encoded[text].states for text in self.texts(params)]))
