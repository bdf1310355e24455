"""FLUX.1: what each verb means for its CLIP and T5 encoders, transformer and autoencoder.

Knows tensors of FLUX.1; knows no jobs, queues or other families.
Invariant: for the same seed the picture is the one that diffusers' Flux pipelines draw.
Source: Black Forest Labs, FLUX.1 (2024); diffusers 0.42 for its conventions. schnell is distilled to few steps without
guidance; dev takes the guidance scale as an input. Neither has a second row for a negative prompt. The Canny and Depth
variants of dev see a hint as latents beside those of the picture.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from pipelines.denoise.adapters import DENOISER
from pipelines.denoise.beginning import Canvas, begin_all
from pipelines.denoise.compiled import Denoiser
from pipelines.denoise.decode import decode_pictures, footprint_bytes
from pipelines.denoise.packing import pack, token_positions, unpack
from pipelines.denoise.preview import predicted_clean
from pipelines.denoise.prompts import Encoded, PromptCache, separated, token_ids
from pipelines.denoise.rows import conditioning_rows, joined, timestep_rows
from pipelines.denoise.sampler import build_flow_sampler
from pipelines.denoise.state import Conditioning, DenoiseState
from pipelines.denoise.stepping import advance_all
from pipelines.families.adapters import AdapterShelf
from pipelines.families.contract import CachedBytes, FamilyOptions
from pipelines.families.controls import ControlUnavailable
from pipelines.messages import DrawParams
from pipelines.weights.load import FluxComponents

# How many T5 tokens the models were trained with: schnell, and dev.
SCHNELL_TEXT_TOKENS, DEV_TEXT_TOKENS = 256, 512
# Two by two latents are one token of the transformer.
PATCH = 2


class Flux:
    """A loaded FLUX.1 checkpoint of any size, schnell or dev. Not thread-safe: one thread owns it."""

    def __init__(self, parts: FluxComponents, options: FamilyOptions) -> None:
        self._parts, self._options = parts, options
        self._encodes_alone = options.encodes_alone(parts.device)
        self._cache = PromptCache(self._encode, options.prompt_cache_bytes, self._encodes_alone, options.prompt_use)
        self._takes_guidance = bool(parts.transformer.config.guidance_embeds)
        self._canvas = Canvas(
            parts.vae,
            (parts.transformer.config.out_channels or parts.transformer.config.in_channels) // PATCH**2,
            parts.device,
            parts.dtype,
            pack,
            encodes_hints=takes_hint(parts.transformer),
        )
        self._denoiser = Denoiser(parts.transformer, options.compiling)
        models = {
            DENOISER: parts.transformer,
            "text_encoder": parts.text_encoder,
            "text_encoder_2": parts.text_encoder_2,
        }
        self._adapters = AdapterShelf("flux", options.loras, models, options.lora_cache_bytes)

    @property
    def parts(self) -> FluxComponents:
        return self._parts

    @torch.inference_mode()
    def prepare(self, batch: Sequence[DrawParams]) -> list[DenoiseState]:
        for params in batch:
            self._check_hint(params)
        sets = [self._adapters.chosen(params.loras) for params in batch]
        encoded = self._cache.encoded_under(sets, [[params.prompt] for params in batch])
        conditions = [
            self._condition(params, texts[params.prompt]) for params, texts in zip(batch, encoded, strict=True)
        ]
        return begin_all(self._canvas, "flux", batch, conditions, self._sampler, self._encodes_alone, sets)

    def batch_key(self, state: DenoiseState) -> Hashable:
        """Size, conditioning shape, dtype and adapters; the size, as pictures of one area may differ in positions."""
        size = (state.height_px, state.width_px)
        shape = tuple(state.conditioning.states.shape[1:])
        return (size, shape, state.latents.dtype, state.adapters.key(DENOISER))

    @torch.inference_mode()
    def denoise_step(self, states: Sequence[DenoiseState]) -> None:
        row_count = self._options.padded_rows
        token_states, extras = conditioning_rows(states, row_count)
        latents = joined([_seen(state) for state in states], row_count)
        predictions = self._denoiser(
            states[0].adapters,
            hidden_states=latents,
            timestep=joined([timestep_rows(state) for state in states], row_count).to(latents.dtype) / 1000,
            encoder_hidden_states=token_states,
            txt_ids=token_states.new_zeros(token_states.shape[1], 3),
            img_ids=token_positions(*self._token_grid(states[0].height_px, states[0].width_px)).to(latents),
            **extras,
            return_dict=False,
        )[0]
        advance_all(states, predictions)

    @torch.inference_mode()
    def decode(self, states: Sequence[DenoiseState], *, in_tiles: bool = False) -> torch.Tensor:
        return self._pictures(torch.cat([state.latents for state in states]), states[0], in_tiles)

    @torch.inference_mode()
    def preview(self, state: DenoiseState) -> torch.Tensor:
        return self._pictures(predicted_clean(state), state, in_tiles=False)

    def rows(self, params: DrawParams) -> int:  # noqa: ARG002  (one row whatever is asked)
        return 1

    def footprint(self, params: DrawParams) -> int:
        return footprint_bytes(params, self._parts.dtype)

    def cached_bytes(self) -> CachedBytes:
        return CachedBytes(self._cache.size_bytes, self._adapters.size_bytes)

    def _check_hint(self, params: DrawParams) -> None:
        """A transformer that was made for hints cannot do without one, and no other has a place for it."""
        if (params.control is not None) != self._canvas.encodes_hints:
            kind = params.control.kind if params.control is not None else "none"
            raise ControlUnavailable(kind, "the model was made to draw " + ("with" if kind == "none" else "without"))

    def _token_grid(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Height and width of a picture in tokens."""
        token_px = self._canvas.scale * PATCH
        return height_px // token_px, width_px // token_px

    def _sampler(self, params: DrawParams) -> Any:
        height, width = self._token_grid(params.height_px, params.width_px)
        source = self._parts.sampler
        return build_flow_sampler(source, params.sampler, params.steps, height * width, self._parts.device)

    def _pictures(self, tokens: torch.Tensor, state: DenoiseState, in_tiles: bool) -> torch.Tensor:
        latents = unpack(tokens, *self._token_grid(state.height_px, state.width_px))
        return decode_pictures(self._parts.vae, latents, in_tiles)

    def _condition(self, params: DrawParams, encoded: Encoded) -> Conditioning:
        extras = {} if encoded.pooled is None else {"pooled_projections": encoded.pooled}
        if self._takes_guidance:
            extras["guidance"] = torch.full((1,), params.guidance_scale, device=self._parts.device)
        return Conditioning(encoded.states, extras)

    def _encode(self, texts: Sequence[str]) -> list[Encoded]:
        """T5's token states (1, T, D) and CLIP's pooled (1, P)."""
        parts = self._parts
        clip_ids = token_ids(parts.tokenizer, texts, parts.tokenizer.model_max_length, parts.device)
        pooled = parts.text_encoder(clip_ids).pooler_output.to(parts.dtype)
        length = DEV_TEXT_TOKENS if self._takes_guidance else SCHNELL_TEXT_TOKENS
        states = parts.text_encoder_2(token_ids(parts.tokenizer_2, texts, length, parts.device))[0].to(parts.dtype)
        return separated(states, pooled)


def takes_hint(transformer: FluxTransformer2DModel) -> bool:
    """Whether a hint's latents stand beside those of the picture: FLUX.1-Canny and -Depth."""
    config = transformer.config
    return bool(config.in_channels == 2 * (config.out_channels or config.in_channels))


def _seen(state: DenoiseState) -> torch.Tensor:
    """The tokens (1, T, C) as the transformer sees them, with those of the hint beside them."""
    return state.latents if state.beside is None else torch.cat([state.latents, state.beside], dim=-1)
