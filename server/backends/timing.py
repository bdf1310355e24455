"""Where one picture's time went, as its worker tells it: how long it waited, and the hops of its trace.

Knows timelines and seconds; knows no jobs.
"""

from __future__ import annotations

from pipelines.figures import Timeline
from server.core.tracing import mark


def queue_seconds(timeline: Timeline, seconds: float) -> float:
    """How long a picture waited that was there after so many seconds: until the work began that it came of."""
    return max(0.0, seconds - timeline.seconds)


def mark_parts(timeline: Timeline, queue: float) -> None:
    """The parts of a picture that has just come, as hops of what is being done."""
    parts = (
        ("encode", timeline.encode_seconds),
        ("decode", timeline.decode_seconds),
        ("denoise", timeline.denoise_seconds),
        ("prepare", timeline.prepare_seconds),
        ("queue", queue),
    )
    ago = 0.0
    for name, seconds in parts:
        mark(name, ago, seconds)
        ago += seconds
