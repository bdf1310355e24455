"""How much of a device a model takes, by how it is held; and which way of holding it has room.

Knows counts of weights, by component; knows no tensors and no files. Both processes reckon by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pipelines.messages import Fit

DENOISERS = ("unet", "transformer")
# What is worth it to be held otherwise: the rest is small, or computed once a picture.
HELD_OTHERWISE: dict[Fit, tuple[str, ...]] = {
    "full": (),
    "float8": DENOISERS,
    "offload": (*DENOISERS, "text_encoder_2"),
}
# What a weight takes of the device where it is held so. Of offloaded ones two blocks are there at a time, which is
# measured when they are loaded.
OTHERWISE_BYTES: dict[Fit, int] = {"float8": 1, "offload": 0}


def fit_of(component: str, fit: Fit) -> Fit:
    """How a component of a model that is held so is held itself."""
    return fit if component in HELD_OTHERWISE[fit] else "full"


def bytes_on_device(counts: Mapping[str, int], fit: Fit, bytes_per_weight: int) -> int:
    """About what a model takes. counts: weights by component."""
    return sum(OTHERWISE_BYTES.get(fit_of(name, fit), bytes_per_weight) * count for name, count in counts.items())


def choose_fit(
    wanted: Fit | Literal["auto"],
    counts: Mapping[str, int],
    bytes_per_weight: int,
    budget_bytes: int,
    *,
    can_offload: bool,
) -> Fit:
    """What is wanted; for auto the first that has room, or `full` where none has."""
    if wanted != "auto":
        return wanted
    ways: Sequence[Fit] = ("full", "float8", "offload") if can_offload else ("full", "float8")
    roomy = (fit for fit in ways if bytes_on_device(counts, fit, bytes_per_weight) <= budget_bytes)
    return next(roomy, "full")
