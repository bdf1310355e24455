"""From a request to the jobs of its pictures.

Knows requests and messages; knows no process.
Invariant: a job says all that its picture depends on, so that a second try draws the same one.
"""

from __future__ import annotations

import hashlib

import msgspec

from pipelines.messages import DrawParams, Facts, Output, Submit
from pipelines.work import forwards
from server.core.request import LocalRequest


def job_of(
    request: LocalRequest,
    request_id: str,
    index: int,
    *,
    has_facts: bool,
    wants_progress: bool,
    caller: str = "",
) -> Submit:
    """The job of picture `index`. has_facts: whether the file tells how it was drawn. caller: whose share it takes."""
    params = DrawParams(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width_px=request.size.width_px,
        height_px=request.size.height_px,
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        sampler=request.sampler,
        seed=request.seed_of(index),
        image=request.image,
        mask=request.mask,
        strength=request.strength,
        loras=request.loras,
        control=request.control,
    )
    facts = facts_of(request, params.seed) if has_facts else {}
    return Submit(
        job_id=f"{request_id}-{index}",
        model=request.model,
        params=params,
        caller=caller,
        wants_progress=wants_progress,
        preview_steps=evenly_spaced(request.partial_images, forwards(request.family, params)),
        output=Output(request.output_format, request.output_compression, facts),
        is_checked=request.is_checked,
    )


def facts_of(request: LocalRequest, seed: int) -> Facts:
    """What the picture can be drawn again from; the worker adds the digest of the weights. Of a hint it is the digest
    of its pixels in the size that was drawn."""
    facts: Facts = {
        "model": request.model,
        "prompt": request.prompt,
        "seed": seed,
        "sampler": request.sampler,
        "steps": request.steps,
        "guidance_scale": request.guidance_scale,
        "width": request.size.width_px,
        "height": request.size.height_px,
    }
    if request.negative_prompt is not None:
        facts["negative_prompt"] = request.negative_prompt
    if request.image is not None:
        facts["strength"] = request.strength
    if request.control is not None:
        facts |= {
            "control": request.control.kind,
            "control_scale": request.control.scale,
            "control_start": request.control.start,
            "control_end": request.control.end,
            "control_sha256": hashlib.sha256(request.control.hint).hexdigest(),
        }
    if request.loras:
        # As a request may say it again: facts have no lists of their own.
        facts["loras"] = msgspec.json.encode(request.loras).decode()
    return facts


def evenly_spaced(count: int, steps: int) -> tuple[int, ...]:
    """Up to `count` different steps from 1 to the last but one, evenly spaced: the last one's picture is the result."""
    places = (round(steps * number / (count + 1)) for number in range(1, count + 1))
    return tuple(sorted({place for place in places if 0 < place < steps}))
