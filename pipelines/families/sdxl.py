"""Stable Diffusion XL: what each of the five verbs means for its two text encoders, UNet and autoencoder.

Knows tensors of SDXL; knows no jobs, queues or other families.
Invariant: for the same seed the picture is the one that diffusers' StableDiffusionXLPipeline draws.
Source: Podell et al., "SDXL" (2023); diffusers 0.42 for every convention that the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch

from pipelines.denoise.guidance import guided, is_guided, rows_of
from pipelines.denoise.latents import first_noise, seeded_generator, to_autoencoder_scale, to_uint8
from pipelines.denoise.sampler import build_sampler
from pipelines.denoise.state import Conditioning, DenoiseState
from pipelines.denoise.stepping import advance
from pipelines.families.contract import NonFiniteResult
from pipelines.messages import DrawParams
from pipelines.weights.load import SdxlComponents

# Rough peak of the decoder's activations: bytes per pixel of the picture for each byte of an element.
DECODE_BYTES_PER_PIXEL = 2200


class Sdxl:
    """A loaded SDXL checkpoint of any size. Not thread-safe: one thread owns it."""

    def __init__(self, parts: SdxlComponents) -> None:
        self._parts = parts
        self._latent_scale = 2 ** (len(parts.vae.config.block_out_channels) - 1)

    @torch.inference_mode()
    def prepare(self, params: DrawParams) -> DenoiseState:
        parts = self._parts
        generator = seeded_generator(params.seed)
        sampler = build_sampler(params.sampler, parts.sampler_class, parts.sampler_config, params.steps, parts.device)
        noise = first_noise(
            parts.unet.config.in_channels,
            params.height_px // self._latent_scale,
            params.width_px // self._latent_scale,
            generator,
            parts.device,
            parts.dtype,
        )
        return DenoiseState(
            latents=noise * sampler.init_noise_sigma,
            conditioning=self._condition(params),
            sampler=sampler,
            generator=generator,
            guidance_scale=params.guidance_scale,
        )

    def batch_key(self, state: DenoiseState) -> Hashable:
        """Latent shape, conditioning shape and dtype: guidance, steps, seed and sampler may all differ."""
        states = state.conditioning.states
        return (tuple(state.latents.shape[1:]), tuple(states.shape[1:]), state.latents.dtype)

    @torch.inference_mode()
    def denoise_step(self, states: Sequence[DenoiseState]) -> None:
        predictions = self._parts.unet(
            torch.cat([self._scaled_rows(state) for state in states]),
            torch.cat([state.timestep.reshape(1).expand(rows_of(state.guidance_scale)) for state in states]),
            encoder_hidden_states=torch.cat([state.conditioning.states for state in states]),
            added_cond_kwargs={
                "text_embeds": torch.cat([state.conditioning.pooled for state in states]),
                "time_ids": torch.cat([state.conditioning.time_ids for state in states]),
            },
            return_dict=False,
        )[0]
        scales = [state.guidance_scale for state in states]
        for state, prediction in zip(states, guided(predictions, scales), strict=True):
            advance(state, prediction)

    @torch.inference_mode()
    def decode(self, states: Sequence[DenoiseState]) -> torch.Tensor:
        vae = self._parts.vae
        latents = to_autoencoder_scale(vae, torch.cat([state.latents for state in states]))
        images = vae.decode(latents, return_dict=False)[0]
        if not bool(torch.isfinite(images).all()):
            raise NonFiniteResult("the decoded picture holds values that are not finite")
        return to_uint8(images)

    def footprint(self, params: DrawParams) -> int:
        """The decoder's activations, which dwarf the latents and the UNet's at every size."""
        return params.width_px * params.height_px * DECODE_BYTES_PER_PIXEL * self._parts.dtype.itemsize

    def _scaled_rows(self, state: DenoiseState) -> torch.Tensor:
        """The state's latents once or twice, (R, C, h, w), as its sampler wants the model to see them."""
        rows = state.latents.repeat(rows_of(state.guidance_scale), 1, 1, 1)
        return state.sampler.scale_model_input(rows, state.timestep)

    def _condition(self, params: DrawParams) -> Conditioning:
        states, pooled = self._encode(params.prompt)
        if is_guided(params.guidance_scale):
            negative_states, negative_pooled = self._encode_negative(params.negative_prompt, states, pooled)
            states = torch.cat([negative_states, states])
            pooled = torch.cat([negative_pooled, pooled])
        size = [params.height_px, params.width_px]
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=pooled.dtype, device=pooled.device)
        return Conditioning(states, pooled, sizes.repeat(len(pooled), 1))

    def _encode_negative(
        self, negative_prompt: str | None, states: torch.Tensor, pooled: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if negative_prompt is None and self._parts.force_zeros_for_empty_prompt:
            return torch.zeros_like(states), torch.zeros_like(pooled)
        return self._encode(negative_prompt or "")

    def _encode(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Token states (1, 77, D1 + D2), one layer below the last of each encoder, and the pooled (1, P)."""
        parts = self._parts
        pairs = ((parts.tokenizer, parts.text_encoder), (parts.tokenizer_2, parts.text_encoder_2))
        outputs = [encoder(self._tokens(tokenizer, prompt), output_hidden_states=True) for tokenizer, encoder in pairs]
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return states.to(parts.dtype), outputs[1].text_embeds.to(parts.dtype)

    def _tokens(self, tokenizer: object, prompt: str) -> torch.Tensor:
        """(1, 77) token ids; what does not fit is cut off, as CLIP's text window demands."""
        encoded = tokenizer(  # type: ignore[operator]  # transformers' tokenizers are untyped callables
            prompt,
            padding="max_length",
            max_length=tokenizer.model_max_length,  # type: ignore[attr-defined]
            truncation=True,
            return_tensors="pt",
        )
        ids: torch.Tensor = encoded.input_ids
        return ids.to(self._parts.device)
