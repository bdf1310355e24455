"""Stable Diffusion XL: a UNet that is told what to draw by two text encoders and the picture's size.

Knows tensors of SDXL; knows no jobs, queues or other families.
Invariant: for the same seed the picture is the one that diffusers' StableDiffusionXL pipelines draw.
Source: Podell et al., "SDXL" (2023); diffusers 0.42 for every convention that the paper leaves open.
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
from pipelines.weights.load import SdxlComponents


def sdxl_model(parts: SdxlComponents, options: FamilyOptions) -> UnetModel:
    return UnetModel("sdxl", parts, SdxlPrompts(parts), options)


class SdxlPrompts:
    """How SDXL reads prompts."""

    def __init__(self, parts: SdxlComponents) -> None:
        self._parts = parts

    @property
    def encoders(self) -> dict[str, torch.nn.Module]:
        return {"text_encoder": self._parts.text_encoder, "text_encoder_2": self._parts.text_encoder_2}

    def texts(self, params: DrawParams) -> list[str]:
        """Without guidance no negative prompt, and none where zeros stand for it."""
        if not is_guided(params.guidance_scale) or self._has_zeros(params):
            return [params.prompt]
        return [params.negative_prompt or "", params.prompt]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Token states (1, 77, D1 + D2), one layer below the last of each encoder, and the pooled (1, P)."""
        parts = self._parts
        pairs = ((parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2))
        outputs = [
            encoder(token_ids(tokenizer, texts, tokenizer.model_max_length, parts.device), output_hidden_states=True)
            for tokenizer, encoder in pairs
        ]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1).to(parts.dtype)
        return separated(states, outputs[1].text_embeds.to(parts.dtype))

    def condition(self, params: DrawParams, encoded: dict[str, Encoded]) -> Conditioning:
        rows = [encoded[text] for text in self.texts(params)]
        states = torch.cat([row.states for row in rows])
        pooled = torch.cat([row.pooled for row in rows if row.pooled is not None])
        if is_guided(params.guidance_scale) and self._has_zeros(params):
            states = torch.cat([torch.zeros_like(states), states])
            pooled = torch.cat([torch.zeros_like(pooled), pooled])
        size = [params.height_px, params.width_px]
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=pooled.dtype, device=pooled.device)
        return Conditioning(states, {"text_embeds": pooled, "time_ids": sizes.repeat(len(pooled), 1)})

    def _has_zeros(self, params: DrawParams) -> bool:
        return params.negative_prompt is None and self._parts.force_zeros_for_empty_prompt
