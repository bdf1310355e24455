"""Stable Diffusion 2.1, both the 768 (velocity) and the base 512 (noise) models, and what is built like them.

Knows tensors of SD 2.1; knows no jobs, queues or other families.
Invariant: for the same seed the picture is the one that diffusers' StableDiffusion pipelines draw.
Source: Rombach et al., "Latent Diffusion" (2022); diffusers 0.42 for every convention that the paper leaves open.
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
from pipelines.weights.load import Sd21Components


class Sd21:
    """A loaded SD 2.1 checkpoint of any size. Whether it predicts noise or velocity its sampler configuration says.
    Not thread-safe: one thread owns it."""

    def __init__(self, parts: Sd21Components, options: FamilyOptions | None = None) -> None:
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
        encoded = self._prompts.encoded(text for params in batch for text in _texts(params))
        conditions = [Conditioning(torch.cat([encoded[text].states for text in _texts(params)])) for params in batch]
        return begin_all(self._canvas, "sd21", batch, conditions, self._sampler, self._is_padded)

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
        return len(_texts(params))

    def footprint(self, params: DrawParams) -> int:
        return footprint_bytes(params, self._parts.dtype)

    def _sampler(self, params: DrawParams) -> Any:
        return build_sampler(self._parts.sampler, params.sampler, params.steps, self._parts.device)

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Token states (1, 77, D) of the encoder's last layer; the published encoder ends one layer early by itself."""
        parts = self._parts
        ids = token_ids(parts.tokenizer, texts, parts.tokenizer.model_max_length, parts.device)
        states = parts.text_encoder(ids).last_hidden_state.to(parts.dtype)
        return separated(states)


def _texts(params: DrawParams) -> list[str]:
    """What has to be encoded for a job, in the order of its rows; an absent negative prompt is the empty one."""
    negatives = [params.negative_prompt or ""] if is_guided(params.guidance_scale) else []
    return [*negatives, params.prompt]
