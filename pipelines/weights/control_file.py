"""Says whether a ControlNet's files are sound, and whether it was made for a UNet like the model's.

Knows folders, configurations and safetensors headers; imports no torch, so that checking is quick.
Invariant: what is wrong with a ControlNet is never a problem of the model; who names it is told, and all others drawn.
Source: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models" (2023); diffusers 0.42's
ControlNetModel for the configuration and for what is the default of each value.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.messages import ControlKind
from pipelines.weights.files import CheckpointProblem, read_json
from pipelines.weights.layout import Layout, Source, Weights, weights_in
from pipelines.weights.verify import refuse_unsafe_files, verify_weights

# What a ControlNet's component is called, before its kind.
PREFIX = "control_"
DAMAGED = "its files are missing, damaged or no diffusers ControlNet in safetensors"
UNFIT = "it does not fit this model, so it was made for another one"
NOT_SOUND = "its weights do not fit its own configuration, or are not finite"
# Value of the configuration -> its default: where these differ from the UNet's, its residuals have another form.
SHARED: dict[str, Any] = {"in_channels": 4, "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2}
CROSS_ATTENTION, POOLED = "cross_attention_dim", "projection_class_embeddings_input_dim"
EMBEDDING, EMBEDDING_CHANNELS = "conditioning_embedding_out_channels", [16, 32, 96, 256]


class ControlProblem(CheckpointProblem):
    """A ControlNet that cannot be used. The message, for logs, says which file and why; reason: what callers may know,
    as the end of a sentence, out of our own words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def verify_controls(
    source: Source | Path, layout: Layout
) -> tuple[dict[str, Weights], dict[ControlKind, ControlProblem]]:
    """The sound ones by the names of their components, and what is wrong with the others by their kinds."""
    sound: dict[str, Weights] = {}
    problems: dict[ControlKind, ControlProblem] = {}
    for kind, folder in source.controls.items() if isinstance(source, Source) else ():
        if folder is not None:
            try:
                sound[PREFIX + kind] = _verified(kind, folder, layout)
            except ControlProblem as problem:
                problems[kind] = problem
    return sound, problems


def _verified(kind: ControlKind, folder: Path, layout: Layout) -> Weights:
    """Raises ControlProblem."""
    if layout.family == "flux":
        raise ControlProblem(f"{folder}: FLUX.1 takes hints into its transformer, by no ControlNet here", UNFIT)
    if not folder.is_dir():
        raise ControlProblem(f"the folder {folder} does not exist", DAMAGED)
    try:
        refuse_unsafe_files(folder)
        part = weights_in(folder, PREFIX + kind)
        verify_weights(part, ("ControlNetModel",))
        config = read_json(part.config)
        unet, vae = (read_json(layout.weights[name].config) for name in ("unet", "vae"))
    except CheckpointProblem as problem:
        raise ControlProblem(str(problem), DAMAGED) from problem
    unfit = _unfit(config, unet, vae)
    if unfit is not None:
        raise ControlProblem(f"{part.config}: {unfit}", UNFIT)
    return part


def _unfit(config: dict[str, Any], unet: dict[str, Any], vae: dict[str, Any]) -> str | None:
    """The first value in which the configurations do not go together."""
    for name, default in SHARED.items():
        if config.get(name, default) != unet.get(name, default):
            return f"{name} is {config.get(name, default)!s:.100}, and the model's is {unet.get(name, default)!s:.100}"
    blocks = [*_listed(config.get("down_block_types")), config.get("mid_block_type", "UNetMidBlock2DCrossAttn")]
    reads_prompt = config.get("down_block_types") is None or any("Cross" in str(block) for block in blocks)
    if reads_prompt and config.get(CROSS_ATTENTION, 1280) != unet.get(CROSS_ATTENTION, 1280):
        return (
            f"{CROSS_ATTENTION} is {config.get(CROSS_ATTENTION, 1280)!s:.100}, not {unet.get(CROSS_ATTENTION)!s:.100}"
        )
    if config.get("addition_embed_type") not in (None, unet.get("addition_embed_type")):
        return f"addition_embed_type is {config['addition_embed_type']!s:.100}, which the model has not"
    if config.get("addition_embed_type") is not None and config.get(POOLED) != unet.get(POOLED):
        return f"{POOLED} is {config.get(POOLED)!s:.100}, and the model's is {unet.get(POOLED)!s:.100}"
    return _unreadable(config, vae)


def _unreadable(config: dict[str, Any], vae: dict[str, Any]) -> str | None:
    """What keeps it from reading an RGB picture of the size that is drawn."""
    if config.get("conditioning_channels", 3) != 3:  # noqa: PLR2004  (RGB)
        return f"conditioning_channels is {config['conditioning_channels']!s:.100}, and hints have 3"
    if config.get("global_pool_conditions"):
        return "global_pool_conditions is set, which is not supported here"
    levels, vae_levels = _listed(config.get(EMBEDDING, EMBEDDING_CHANNELS)), _listed(vae.get("block_out_channels"))
    if len(levels) != len(vae_levels):  # each level but the last halves the picture, as in the autoencoder
        return f"{EMBEDDING} has {len(levels)} levels, and the model's autoencoder {len(vae_levels)}"
    return None


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []
