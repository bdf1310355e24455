"""How much work a picture is, told from what was asked: for estimates of time, and for what quotas count.

Knows parameters and families; knows no device and no clock. Both processes reckon by it.
Invariant: no picture is no work.
"""

from __future__ import annotations

from pipelines.messages import DrawParams, FamilyName, SamplerName

# Samplers of second order do two forwards a step, but for the last.
SECOND_ORDER: tuple[SamplerName, ...] = ("heun",)
# What encoding, decoding and writing cost beside a denoise step of one row.
FRAME_STEPS = 2.0


def steps_after(family: FamilyName, steps: int, strength: float) -> int:
    """How many of `steps` denoise steps an image of this strength goes through; may be 0.

    Source: `get_timesteps` of diffusers' image-to-image pipelines, which round differently by family.
    """
    if family == "flux":
        return steps - int(max(steps - min(steps * strength, steps), 0))
    return min(int(steps * strength), steps)


def forwards(family: FamilyName, params: DrawParams) -> int:
    """About how many forwards of the denoiser a picture takes; never less than 1."""
    steps = params.steps if params.image is None else steps_after(family, params.steps, params.strength)
    return max(1, 2 * steps - 1 if params.sampler in SECOND_ORDER else steps)


def work_of(family: FamilyName, params: DrawParams) -> float:
    """Pixels times rows times steps, about, for estimates of time."""
    rows = 2 if params.guidance_scale > 1 and family != "flux" else 1
    return params.width_px * params.height_px * (rows * forwards(family, params) + FRAME_STEPS)
