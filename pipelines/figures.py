"""What a worker counts of its own work, as it tells the server: sums since its start, never an event each.

Knows plain frozen numbers; knows no clock, no tensors and no sockets. Both processes read it.
Invariant: a count never falls in one worker's life, so that whoever misses a telling loses nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

WorkKind = Literal["prepare", "denoise", "decode"]
# Upper bounds of the buckets for the seconds of one work item, each twice the one before: a step takes 10 ms for a
# small model on a large card and 20 s for a large one on a CPU, and a quantile read from them is off by a factor of 1.4
# at most. What takes longer counts above all of them.
SECONDS_BOUNDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48)
# Likewise for the rows of one forward; more than the last count above it.
ROWS_BOUNDS = (1, 2, 4, 8, 16, 32, 64)


class WorkFigures(msgspec.Struct, frozen=True):
    """The work items of one model, of one kind and of about so many rows.

    rows_bucket: place in ROWS_BOUNDS, or its length for more. items: how many; rows, seconds: their sums. buckets: how
    many were within each of SECONDS_BOUNDS and not within the one before, and last those beyond all.
    """

    model: str
    kind: WorkKind
    rows_bucket: int
    items: int
    rows: int
    seconds: float
    buckets: tuple[int, ...]


class ModelFigures(msgspec.Struct, frozen=True):
    """One model on one device.

    loads: how often it came to the device, in load_seconds altogether. evictions: how often it had to leave.
    out_of_memory: work items that memory did not suffice for. prompt_hits, prompt_misses: texts found encoded, or not.
    prompt_cache_bytes, adapter_bytes: what is kept of encoded prompts and of adapters now.
    """

    model: str
    loads: int = 0
    load_seconds: float = 0.0
    evictions: int = 0
    out_of_memory: int = 0
    prompt_hits: int = 0
    prompt_misses: int = 0
    prompt_cache_bytes: int = 0
    adapter_bytes: int = 0


class DeviceMemory(msgspec.Struct, frozen=True):
    """Of a device, whoever uses it; beside a CPU the host's."""

    total_bytes: int
    used_bytes: int


class Timeline(msgspec.Struct, frozen=True):
    """Where the seconds of one picture went, one part after the other, once its work had begun. denoise_seconds: from
    prepared to the last step, with the turns of others between its own."""

    prepare_seconds: float
    denoise_seconds: float
    decode_seconds: float
    encode_seconds: float

    @property
    def seconds(self) -> float:
        return self.prepare_seconds + self.denoise_seconds + self.decode_seconds + self.encode_seconds
