"""What it costs to change models: one that is drawn with while there is room for one, against loading stock pipelines.

python -m tests.benchmarks.swap --swaps 50
Two embedded models take turns. Ours: the engine with a budget for one. Rivals, in the same run: diffusers' pipelines
loaded anew for each turn, and the engine with room for both, which never loads again. Memory is the process's.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from pipelines.residency.holding import Budgets
from pipelines.weights.load import Opened
from pipelines.weights.treatment import Treatment, bytes_on_device
from tests.benchmarks.report import show
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import CPU, PLENTY, Engine, submit

DEMOS = Path(__file__).resolve().parents[2] / "pipelines" / "demo"
MODELS: Mapping[str, Checkpoint] = {
    "sdxl": Checkpoint("sdxl", DEMOS / "demo-sdxl"),
    "sd21": Checkpoint("sd21", DEMOS / "demo-sd21"),
}
STOCK = {"sdxl": StableDiffusionXLPipeline, "sd21": StableDiffusionPipeline}
SIDE_PX = 256
MEBIBYTE = 1024**2
Turn = Callable[[int, str], None]


def engine_turns(budgets: Budgets) -> Turn:
    engine = Engine(MODELS, budgets=budgets)

    def turn(number: int, model: str) -> None:
        engine.draw([submit(f"{number}", model=model, steps=1, width_px=SIDE_PX, height_px=SIDE_PX)])

    return turn


def stock_turn(_: int, model: str) -> None:
    """Load, draw and let go, as a program without a cache does."""
    pipeline = STOCK[model].from_pretrained(MODELS[model].folder, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline("a red circle", num_inference_steps=1, guidance_scale=1.0, height=SIDE_PX, width=SIDE_PX)
    del pipeline
    gc.collect()


def measure(turn: Turn, swaps: int) -> tuple[list[float], list[int]]:
    """Seconds of each turn, and the resident bytes after it."""
    seconds, resident = [], []
    for number in range(swaps):
        began = time.perf_counter()
        turn(number, list(MODELS)[number % len(MODELS)])
        seconds.append(time.perf_counter() - began)
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    return seconds, resident


def largest_bytes() -> int:
    opened = [Opened(one.folder, one.family) for one in MODELS.values()]
    held = Treatment(torch.float32)
    return max(sum(bytes_on_device(part, held) for part in one.modules(CPU, torch.float32).values()) for one in opened)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=50)
    swaps = parser.parse_args().swaps
    one = largest_bytes()
    turns = {
        "room for one": engine_turns(Budgets(one)),
        "room for both": engine_turns(PLENTY),
        "stock pipelines": stock_turn,
    }
    figures: dict[str, dict[str, float]] = {}
    for name, turn in turns.items():
        seconds, resident = measure(turn, swaps)
        settled = len(resident) // 5
        figures[name] = {
            "median_s": statistics.median(seconds[settled:]),
            "worst_s": max(seconds[settled:]),
            "first_mib": max(resident[:settled]) / MEBIBYTE,
            "last_mib": max(resident[-settled:]) / MEBIBYTE,
        }
    base = figures["stock pipelines"]["median_s"]
    table = [
        (name, *(f"{figure:.2f}" for figure in (f["median_s"], f["median_s"] / base, *list(f.values())[1:])))
        for name, f in figures.items()
    ]
    header = ("turns", "median s", "of stock", "worst s", "MiB after 1/5", "MiB at end")
    show("swap", header, table, {"swaps": swaps, "model_mib": one / MEBIBYTE, "figures": figures})


if __name__ == "__main__":
    main()
