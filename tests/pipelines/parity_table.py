"""Prints how far our pictures are from diffusers' own, at worst, for every family, sampler, task, guidance and shape.

python -m tests.pipelines.parity_table > docs/benchmarks/parity.md

The same cases are tests (`scripts/test --all`); this is their table, alone and in random mixes.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers

from pipelines.messages import SAMPLERS_BY_FAMILY, DrawParams
from tests.pipelines.conftest import KINDS, Checkpoint, write_checkpoints
from tests.pipelines.stock import Result, differences, load, ours, params, stock
from tests.pipelines.test_parity import GUIDANCE, SHAPES, TASKS, drawn_in_a_mix, random_params, task

MIXES, JOBS_IN_A_MIX = 12, 6
HEAD = """\
# Parity with diffusers' own pipelines

`python -m tests.pipelines.parity_table`, CPU, float32, torch {torch}. Every sampler of the family, guidance 1, 2 and
12, 128x128 and 192x64, images and masks at strengths 0.3, 0.6 and 1.0; 4 steps. In the mixes six jobs of any task,
sampler, guidance and 4 to 7 steps join and pause at random steps. The tests allow 1e-4 of the largest latent, in mixes
2e-4, and 1 of 255 in a pixel.

| checkpoint | task | cases | worst latents | as a share | worst pixel of 255 |
|---|---|---|---|---|---|
"""


@dataclass(slots=True)
class Worst:
    """The largest differences of some cases: in latents, also as a share of the largest one, and in pixels of 255."""

    cases: int = 0
    latents: float = 0.0
    share: float = 0.0
    pixels: int = 0

    def add(self, mine: Result, theirs: Result) -> None:
        latents, pixels = differences(mine, theirs)
        self.cases += 1
        self.latents = max(self.latents, latents)
        self.share = max(self.share, latents / max(1.0, float(theirs.latents.abs().max())))
        self.pixels = max(self.pixels, pixels)


def combinations(checkpoint: Checkpoint) -> Iterator[tuple[str, DrawParams]]:
    """Every case of a checkpoint, with its task's name."""
    samplers = SAMPLERS_BY_FAMILY[checkpoint.family]
    for sampler, (name, strength), scale, shape in itertools.product(samplers, TASKS, GUIDANCE.values(), SHAPES):
        yield name, params(sampler=sampler, guidance_scale=scale, **task(name, *SHAPES[shape], strength))


def measure_alone(kind: str, checkpoint: Checkpoint, worst: dict[tuple[str, str], Worst]) -> None:
    family = load(checkpoint.folder, checkpoint.family)
    for name, asked in combinations(checkpoint):
        worst[(kind, name)].add(ours(family, asked), stock(checkpoint.folder, checkpoint.family, asked))


def measure_mixed(kind: str, checkpoint: Checkpoint, worst: dict[tuple[str, str], Worst]) -> None:
    family = load(checkpoint.folder, checkpoint.family)
    for seed in range(1, MIXES + 1):
        rng = random.Random(seed)
        batch = [random_params(rng, checkpoint.family) for _ in range(JOBS_IN_A_MIX)]
        for asked, mine in zip(batch, drawn_in_a_mix(family, batch, rng), strict=True):
            worst[(kind, "random mixes")].add(mine, stock(checkpoint.folder, checkpoint.family, asked))


def main() -> None:
    torch.set_num_threads(1)
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    worst: dict[tuple[str, str], Worst] = defaultdict(Worst)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = write_checkpoints(Path(folder))
        for kind in KINDS:
            measure_alone(kind, checkpoints[kind], worst)
            measure_mixed(kind, checkpoints[kind], worst)
            print(f"{kind} done", file=sys.stderr, flush=True)
    print(HEAD.format(torch=torch.__version__), end="")
    for (kind, name), row in worst.items():
        print(f"| {kind} | {name} | {row.cases} | {row.latents:.1e} | {row.share:.1e} | {row.pixels} |")
    rows = list(worst.values())
    total = {
        "cases": sum(row.cases for row in rows),
        "worst_latents": max(row.latents for row in rows),
        "worst_share": max(row.share for row in rows),
        "worst_pixel": max(row.pixels for row in rows),
    }
    print(f"\n```json\n{json.dumps(total)}\n```")


if __name__ == "__main__":
    main()
