"""What SDXL and SD 2.1 have in common: a UNet in the latents of an autoencoder, told what to draw by token states.

Knows tensors; knows no family's prompts, no jobs and no queues.
Invariant: for the same seed the picture is the one that diffusers' pipelines draw.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from pipelines.denoise.adapters import DENOISER
from pipelines.denoise.beginning import Canvas, begin_all
from pipelines.denoise.compiled import Denoiser
from pipelines.denoise.control import residuals_of
from pipelines.denoise.decode import decode_pictures, footprint_bytes
from pipelines.denoise.guidance import is_guided
from pipelines.denoise.preview import predicted_clean
from pipelines.denoise.prompts import Encoded, PromptCache
from pipelines.denoise.rows import conditioning_rows, joined, latent_rows, timestep_rows
from pipelines.denoise.sampler import SamplerSource, build_sampler
from pipelines.denoise.state import Conditioning, DenoiseState
from pipelines.denoise.stepping import advance_all
from pipelines.families.adapters import AdapterShelf
from pipelines.families.contract import CachedBytes, FamilyOptions
from pipelines.families.controls import guide_of
from pipelines.messages import DrawParams, FamilyName
from pipelines.weights.control import ControlNets


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
    @property
    def controls(self) -> ControlNets: ...


class Prompts(Protocol):
    """How a family reads prompts."""

    @property
    def encoders(self) -> Mapping[str, torch.nn.Module]:
        """The text encoders by their names."""
        ...

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
        self._cache = PromptCache(prompts.encode, options.prompt_cache_bytes, self._encodes_alone, options.prompt_use)
        self._canvas = Canvas(parts.vae, parts.unet.config.in_channels, parts.device, parts.dtype)
        self._denoiser = Denoiser(parts.unet, options.compiling)
        models = {DENOISER: parts.unet, **prompts.encoders}
        self._adapters = AdapterShelf(family, options.loras, models, options.lora_cache_bytes)

    @property
    def parts(self) -> UnetParts:
        return self._parts

    @torch.inference_mode()
    def prepare(self, batch: Sequence[DrawParams]) -> list[DenoiseState]:
        parts = self._parts
        guides = [guide_of(params, parts.controls, parts.device, parts.dtype) for params in batch]
        sets = [self._adapters.chosen(params.loras) for params in batch]
        encoded = self._cache.encoded_under(sets, [self._prompts.texts(params) for params in batch])
        conditions = [self._prompts.condition(params, texts) for params, texts in zip(batch, encoded, strict=True)]
        states = begin_all(self._canvas, self._family, batch, conditions, self._sampler, self._encodes_alone, sets)
        for state, guide in zip(states, guides, strict=True):
            state.guide = guide
        return states

    def batch_key(self, state: DenoiseState) -> Hashable:
        """Latent shape, conditioning shape, dtype and adapters; guidance, steps, sampler, task and hint may differ."""
        shapes = (tuple(state.latents.shape[1:]), tuple(state.conditioning.states.shape[1:]))
        return (*shapes, state.latents.dtype, state.adapters.key(DENOISER))

    @torch.inference_mode()
    def denoise_step(self, states: Sequence[DenoiseState]) -> None:
        row_count = self._options.padded_rows
        token_states, extras = conditioning_rows(states, row_count)
        latents = [latent_rows(state) for state in states]
        down, middle = residuals_of(states, latents, row_count) or (None, None)
        predictions = self._denoiser(
            states[0].adapters,
            joined(latents, row_count),
            joined([timestep_rows(state) for state in states], row_count),
            encoder_hidden_states=token_states,
            added_cond_kwargs=extras or None,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
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

    def cached_bytes(self) -> CachedBytes:
        return CachedBytes(self._cache.size_bytes, self._adapters.size_bytes)

    def _sampler(self, params: DrawParams) -> Any:
        return build_sampler(self._parts.sampler, params.sampler, params.steps, self._parts.device)
