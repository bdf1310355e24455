"""What counting costs the step loop: tiny pictures drawn with the tally and without, in turn.

OMP_NUM_THREADS=1 python -m tests.benchmarks.counting --pairs 100

The step loop's own CPU time is measured, so that others' work on the machine counts less.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from pipelines.engine.tally import Tally
from pipelines.figures import WorkKind
from pipelines.messages import to_frame
from pipelines.worker import figures_of
from tests.benchmarks.report import show
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import Engine, submit
from tests.pipelines.tiny_models import write_tiny_sd21

STEPS, CALLS, TELLINGS = 5, 200_000, 200


class Deaf(Tally):
    """Counts nothing."""

    def worked(self, model: str, kind: WorkKind, rows: int, seconds: float) -> None:
        pass


def engine(folder: Path, tally: Tally) -> Engine:
    made = Engine({"sd21": Checkpoint("sd21", folder)})
    made.tally = made.runner._tally = tally
    made.draw([submit("warm", model="sd21", steps=2)])
    return made


def drawn_seconds(made: Engine, number: int) -> float:
    started = time.thread_time()
    made.draw([submit(f"{number}", model="sd21", steps=STEPS)])
    return time.thread_time() - started


def nanoseconds_per_call() -> float:
    tally, started = Tally(), time.thread_time_ns()
    for _ in range(CALLS):
        tally.worked("sd21", "denoise", 3, 0.0123)
    return (time.thread_time_ns() - started) / CALLS


def telling_microseconds(made: Engine) -> float:
    """What the worker does once a second, without the socket."""
    started = time.thread_time()
    for _ in range(TELLINGS):
        to_frame(figures_of(made.tally, made.models, torch.device("cpu")))
    return (time.thread_time() - started) / TELLINGS * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_tiny_sd21(Path(scratch) / "tiny", predicts_velocity=True)
        counting, deaf = engine(folder, Tally()), engine(folder, Deaf())
        ratios, steps = [], []
        for number in range(pairs):
            order = (counting, deaf) if number % 2 else (deaf, counting)
            seconds = {id(one): drawn_seconds(one, number) for one in order}
            ratios.append(seconds[id(counting)] / seconds[id(deaf)])
            steps.append(seconds[id(deaf)] / STEPS * 1000)
        telling = telling_microseconds(counting)
    quarters = statistics.quantiles(ratios, n=4)
    figures = {
        "ratio": quarters[1],
        "ratio_quartiles": [quarters[0], quarters[2]],
        "step_ms": statistics.median(steps),
        "nanoseconds_per_item": nanoseconds_per_call(),
        "telling_us_a_second": telling,
    }
    row = (
        f"{quarters[1]:.4f} ({quarters[0]:.3f} to {quarters[2]:.3f})",
        f"{figures['step_ms']:.2f}",
        f"{figures['nanoseconds_per_item']:.0f}",
        f"{telling:.0f}",
    )
    show("counting", ("with / without", "step ms", "ns an item", "us a telling"), [row], {"pairs": pairs, **figures})


if __name__ == "__main__":
    main()
