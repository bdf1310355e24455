"""What SDXL and SD 2.1 have in common: a UNet in the latents of an autoencoder, told what to draw by token states.

Knows tensors; knows no family's prompts, no jobs and no queues.
Invariant: for the same seed the picture is the one that diffusers' pipelines draw.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from pipelines.denoise.beginning import Canvas, begin_all
from pipelines.denoise.decode import decode_pictures, footprint_bytes
from pipelines.denoise.guidance import is_guided
from pipelines.denoise.preview import predicted_clean
from pipelines.denoise.prompts import Encoded, PromptCache
from pipelines.denoise.rows import conditioning_rows, joined, latent_rows, timestep_rows
from pipelines.denoise.sampler import SamplerSource, build_sampler
from pipelines.denoise.state import Conditioning, DenoiseState
from pipelines.denoise.stepping import advance_all
from pipelines.families.contract import FamilyOptions
from pipelines.messages import DrawParams, FamilyName


class UnetParts(Protocol):
    """The components that act alike in both families."""

    @property
    def unet(self) -> UNet2DConditionModel: ...
    @property
    def vae(self) -> AutoencoderKL: ...
    @property
    def sampler(self) -> SamplerSource: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


class Prompts(Protocol):
    """How a family reads prompts."""

    def texts(self, params: DrawParams) -> list[str]:
        """What has to be encoded for a job."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode several texts in one forward."""
        ...

    def condition(self, params: DrawParams, encoded: dict[str, Encoded]) -> Conditioning:
        """What the UNet is told, out of the job's encoded texts."""
        ...


class UnetModel:
    """A loaded checkpoint of any size. Not thread-safe: one thread owns it."""

    def __init__(self, family: FamilyName, parts: UnetParts, prompts: Prompts, options: FamilyOptions) -> None:
        self._family, self._parts, self._prompts = family, parts, prompts
        self._options, self._encodes_alone = options, options.encodes_alone(parts.device)
        self._cache = PromptCache(prompts.encode, options.prompt_cache_bytes, self._encodes_alone)
        self._canvas = Canvas(parts.vae, parts.unet.config.in_channels, parts.device, parts.dtype)

    @property
    def parts(self) -> UnetParts:
        return self._parts

    @torch.inference_mode()
    def prepare(self, batch: Sequence[DrawParams]) -> list[DenoiseState]:
        encoded = self._cache.encoded(text for params in batch for text in self._prompts.texts(params))
        conditions = [self._prompts.condition(params, encoded) for params in batch]
        return begin_all(self._canvas, self._family, batch, conditions, self._sampler, self._encodes_alone)

    def batch_key(self, state: DenoiseState) -> Hashable:
        """Latent shape, conditioning shape and dtype: guidance, steps, seed, sampler and task may all differ."""
        return (tuple(state.latents.shape[1:]), tuple(state.conditioning.states.shape[1:]), state.latents.dtype)

    @torch.inference_mode()
    def denoise_step(self, states: Sequence[DenoiseState]) -> None:
        row_count = self._options.padded_rows
        token_states, extras = conditioning_rows(states, row_count)
        predictions = self._parts.unet(
            joined([latent_rows(state) for state in states], row_count),
            joined([timestep_rows(state) for state in states], row_count),
            encoder_hidden_states=token_states,
            added_cond_kwargs=extras or None,
            return_dict=False,
        )[0]
        advance_all(states, predictions)

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
