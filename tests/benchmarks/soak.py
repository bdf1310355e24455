"""Ten thousand tiny requests of every kind to one server: what of it grows?

python -m tests.benchmarks.soak --requests 10000 --checkpoints /tmp/soak.jsonl
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.benchmarks.report import show
from tests.invariants import House
from tests.soak.soak import ALLOWED, MIB, SETTINGS, Sample, leaks_in, soak
from tests.soak.trend import growth

SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--checkpoints", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder), **SETTINGS)
        samples = list(soak(house, arguments.requests, arguments.samples, arguments.checkpoints))
        house.server.stop()
    tell(samples)


def tell(samples: list[Sample]) -> None:
    names = list(asdict(samples[0]))
    rows = [
        [cell(name, value) for name, value in asdict(sample).items()] for sample in samples[:: len(samples) // SHOWN]
    ]
    grown = {name: growth([float(asdict(sample)[name]) for sample in samples]).by_slope for name in ALLOWED}
    figures = {
        "requests": samples[-1].requests,
        "seconds": samples[-1].seconds,
        "growth": grown,
        "leaks": leaks_in(samples),
    }
    show("soak", names, rows, figures)


def cell(name: str, value: float) -> object:
    return f"{value / MIB:.1f} MiB" if name.endswith("_bytes") else value


if __name__ == "__main__":
    main()
