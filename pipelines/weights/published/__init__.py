"""The configurations that models were published with, for weights that come without one.

Knows names, folders and published sizes; imports no torch. Vocabularies of tokenizers are not among them: they are data
of megabytes.
Invariant: each folder is laid out like the published one, without weights and tokenizers.
Sources: the JSON files of the repositories named below; of FLUX.1, black-forest-labs/flux as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.messages import FamilyName

ROOT = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Published:
    """repository: where it was published. parameters: of each component, as published or counted there."""

    family: FamilyName
    repository: str
    parameters: Mapping[str, int]


# SDXL and FLUX have the same small text encoder, all have autoencoders of nearly one size.
CLIP_L_PARAMETERS = 123_060_480
SD_VAE_PARAMETERS = 83_653_863
FLUX_REST = {"vae": 83_819_683, "text_encoder": CLIP_L_PARAMETERS, "text_encoder_2": 4_762_310_656}
SD21_SIZES = {"unet": 865_910_724, "vae": SD_VAE_PARAMETERS, "text_encoder": 340_387_840}
PUBLISHED: dict[str, Published] = {
    "sdxl-base": Published(
        "sdxl",
        "stabilityai/stable-diffusion-xl-base-1.0",
        {
            "unet": 2_567_463_684,
            "vae": SD_VAE_PARAMETERS,
            "text_encoder": CLIP_L_PARAMETERS,
            "text_encoder_2": 694_659_840,
        },
    ),
    "sd21-768": Published("sd21", "stabilityai/stable-diffusion-2-1", SD21_SIZES),
    "sd21-base": Published("sd21", "stabilityai/stable-diffusion-2-1-base", SD21_SIZES),
    "flux-schnell": Published("flux", "black-forest-labs/FLUX.1-schnell", {"transformer": 11_891_178_560, **FLUX_REST}),
    "flux-dev": Published("flux", "black-forest-labs/FLUX.1-dev", {"transformer": 11_901_408_320, **FLUX_REST}),
}


def published_folder(name: str) -> Path:
    """Where the configuration of this name lies."""
    return ROOT / name
