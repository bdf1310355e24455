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
    strength = 1.0 if params.image is None else params.strength
    return forwards_for(family, params.steps, params.sampler, strength)


def forwards_for(family: FamilyName, steps: int, sampler: SamplerName, strength: float) -> int:
    """The same of what is no job yet. strength: 1 without an image."""
    done = steps_after(family, steps, strength)
    return max(1, 2 * done - 1 if sampler in SECOND_ORDER else done)


def rows_for(family: FamilyName, guidance_scale: float) -> int:
    """The rows of one forward that a picture fills. FLUX is told its guidance, and needs no second row for it."""
    return 2 if guidance_scale > 1 and family != "flux" else 1


def work_of(family: FamilyName, params: DrawParams) -> float:
    """Pixels times rows times steps, about, for estimates of time."""
    rows = rows_for(family, params.guidance_scale)
    return params.width_px * params.height_px * (rows * forwards(family, params) + FRAME_STEPS)
