"""Stable Diffusion XL: what each verb means for its two text encoders, UNet and autoencoder.

Knows tensors of SDXL; knows no jobs, queues or other families.
Invariant: for the same seed the picture is the one that diffusers' StableDiffusionXL pipelines draw.
Source: Podell et al., "SDXL" (2023); diffusers 0.42 for every convention that the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from pipelines.denoise.beginning import Canvas, begin_all
from pipelines.denoise.decode import decode_pictures, footprint_bytes
from pipelines.denoise.guidance import is_guided
from pipelines.denoise.preview import predicted_clean
from pipelines.denoise.prompts import Encoded, PromptCache, separated, token_ids
from pipelines.denoise.sampler import build_sampler
from pipelines.denoise.state import Conditioning, DenoiseState
from pipelines.denoise.stepping import advance_all
from pipelines.denoise.unet import predict
from pipelines.families.contract import FamilyOptions
from pipelines.messages import DrawParams
from pipelines.weights.load import SdxlComponents


class Sdxl:
    """A loaded SDXL checkpoint of any size. Not thread-safe: one thread owns it."""

    def __init__(self, parts: SdxlComponents, options: FamilyOptions | None = None) -> None:
        self._parts, self._options = parts, options or FamilyOptions()
        self._is_padded = self._options.padded_rows is not None
        self._prompts = PromptCache(self._encode, self._options.prompt_cache_bytes, one_by_one=self._is_padded)
        self._canvas = Canvas(
            parts.vae,
            parts.unet.config.in_channels,
            2 ** (len(parts.vae.config.block_out_channels) - 1),
            parts.device,
            parts.dtype,
        )

    @torch.inference_mode()
    def prepare(self, batch: Sequence[DrawParams]) -> list[DenoiseState]:
        encoded = self._prompts.encoded(text for params in batch for text in self._texts(params))
        conditions = [self._condition(params, encoded) for params in batch]
        return begin_all(self._canvas, "sdxl", batch, conditions, self._sampler, self._is_padded)

    def batch_key(self, state: DenoiseState) -> Hashable:
        """Latent shape, conditioning shape and dtype: guidance, steps, seed, sampler and task may all differ."""
        return (tuple(state.latents.shape[1:]), tuple(state.conditioning.states.shape[1:]), state.latents.dtype)

    @torch.inference_mode()
    def denoise_step(self, states: Sequence[DenoiseState]) -> None:
        advance_all(states, predict(self._parts.unet, states, self._options.padded_rows))

    @torch.inference_mode()
    def decode(self, states: Sequence[DenoiseState], *, in_tiles: bool = False) -> torch.Tensor:
        return decode_pictures(self._parts.vae, torch.cat([state.latents for state in states]), in_tiles)

    @torch.inference_mode()
    def preview(self, state: DenoiseState) -> torch.Tensor:
        return decode_pictures(self._parts.vae, predicted_clean(state))

    def rows(self, params: DrawParams) -> int:
        return 2 if is_guided(params.guidance_scale) else 1

    def footprint(self, params: DrawParams) -> int:
        return footprint_bytes(params, self._parts.dtype)

    def _sampler(self, params: DrawParams) -> Any:
        return build_sampler(self._parts.sampler, params.sampler, params.steps, self._parts.device)

    def _texts(self, params: DrawParams) -> list[str]:
        """What has to be encoded for a job: without guidance no negative prompt, and none where zeros stand for it."""
        if not is_guided(params.guidance_scale) or self._has_zeros(params):
            return [params.prompt]
        return [params.negative_prompt or "", params.prompt]

    def _has_zeros(self, params: DrawParams) -> bool:
        return params.negative_prompt is None and self._parts.force_zeros_for_empty_prompt

    def _condition(self, params: DrawParams, encoded: dict[str, Encoded]) -> Conditioning:
        rows = [encoded[text] for text in self._texts(params)]
        states = torch.cat([row.states for row in rows])
        pooled = torch.cat([row.pooled for row in rows if row.pooled is not None])
        if is_guided(params.guidance_scale) and self._has_zeros(params):
            states = torch.cat([torch.zeros_like(states), states])
            pooled = torch.cat([torch.zeros_like(pooled), pooled])
        size = [params.height_px, params.width_px]
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=pooled.dtype, device=pooled.device)
        return Conditioning(states, {"text_embeds": pooled, "time_ids": sizes.repeat(len(pooled), 1)})

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Token states (1, 77, D1 + D2), one layer below the last of each encoder, and the pooled (1, P)."""
        parts = self._parts
        pairs = ((parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2))
        outputs = [
            encoder(token_ids(tokenizer, texts, tokenizer.model_max_length, parts.device), output_hidden_states=True)
            for tokenizer, encoder in pairs
        ]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1).to(parts.dtype)
        pooled = outputs[1].text_embeds.to(parts.dtype)
        return separated(states, pooled)
