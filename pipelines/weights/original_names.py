"""What tensors are called in the single files that the models' authors and the community publish.

Knows names alone; reads no files and imports no torch.
Invariant: a file is taken for a family only by names that no other family's files have.
Sources: CompVis/latent-diffusion, Stability-AI/stablediffusion and generative-models, black-forest-labs/flux, and the
all-in-one files of ComfyUI for FLUX.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pipelines.messages import FamilyName

DENOISER = "model.diffusion_model."
VAE_PREFIXES = ("first_stage_model.", "vae.")
# Family -> component -> what may stand before the component's names. An empty one: nothing does.
PREFIXES: dict[FamilyName, dict[str, tuple[str, ...]]] = {
    "sdxl": {
        "unet": (DENOISER,),
        "vae": VAE_PREFIXES,
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.",),
    },
    "sd21": {
        "unet": (DENOISER,),
        "vae": VAE_PREFIXES,
        "text_encoder": ("cond_stage_model.model.",),
    },
    "flux": {
        "transformer": (DENOISER, ""),
        "vae": VAE_PREFIXES,
        "text_encoder": ("text_encoders.clip_l.transformer.",),
        "text_encoder_2": ("text_encoders.t5xxl.transformer.",),
    },
}
# Only FLUX.1-dev and its descendants take the guidance scale as an input.
GUIDANCE = "guidance_in."
# Empty tensors by which the makers of SDXL fine-tunes say how they were trained.
SAMPLER_SIGNS: dict[str, dict[str, object]] = {
    "v_pred": {"prediction_type": "v_prediction"},
    "ztsnr": {"rescale_betas_zero_snr": True},
}


@dataclass(frozen=True, slots=True)
class Recognised:
    """What a file holds. family: which can draw with it, or None."""

    family: FamilyName | None
    description: str


# The first line of which a name holds the text decides.
SIGNS: tuple[tuple[str, Recognised], ...] = (
    ("lora_", Recognised(None, "an adapter (LoRA), no checkpoint")),
    (".lora_", Recognised(None, "an adapter (LoRA), no checkpoint")),
    ("control_model.", Recognised(None, "a ControlNet")),
    ("joint_blocks.", Recognised(None, "a Stable Diffusion 3 checkpoint")),
    ("single_stream_modulation.", Recognised(None, "a FLUX.2 checkpoint")),
    ("distilled_guidance_layer.", Recognised(None, "a Chroma checkpoint")),
    ("double_blocks.", Recognised("flux", "a FLUX.1 checkpoint")),
    ("conditioner.embedders.1.", Recognised("sdxl", "an SDXL checkpoint")),
    ("conditioner.embedders.0.model.", Recognised(None, "an SDXL refiner")),
    ("cond_stage_model.transformer.", Recognised(None, "a Stable Diffusion 1 checkpoint")),
    ("model.diffusion_model.label_emb.", Recognised("sdxl", "an SDXL denoiser")),
    ("cond_stage_model.model.", Recognised("sd21", "a Stable Diffusion 2 checkpoint")),
    ("model.diffusion_model.input_blocks.", Recognised("sd21", "a Stable Diffusion denoiser")),
    ("transformer_blocks.", Recognised(None, "one component of a diffusers folder")),
)


def recognised(names: Collection[str]) -> Recognised:
    """What a file with these tensors is."""
    for sign, found in SIGNS:
        if any(sign in name for name in names):
            return found
    return Recognised(None, "no model that is known here")


def prefix_of(family: FamilyName, component: str, names: Collection[str], *, is_alone: bool = False) -> str | None:
    """What stands before the component's names in a file, or None when the file does not hold the component.

    is_alone: the file may hold this component and nothing else, under names without a prefix.
    """
    for prefix in PREFIXES[family].get(component, ()):
        if prefix and any(name.startswith(prefix) for name in names):
            return prefix
    can_be_bare = is_alone or "" in PREFIXES[family].get(component, ())
    return "" if can_be_bare and names else None


def sampler_changes(names: Collection[str]) -> dict[str, object]:
    """What the file itself says about sampling."""
    return {key: value for sign, change in SAMPLER_SIGNS.items() if sign in names for key, value in change.items()}
