"""Measures full-size models on a CUDA device: steps, images, memory, and how near they come to the arithmetic's floor.

python -m tests.gpu.measure --out DIR [--device cpu --tiny]
Writes DIR/gpu-check.json and DIR/gpu-check.md. `--tiny` takes tiny models instead, to try the program itself.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import torch

from pipelines.engine.encode import encode as encode_picture
from pipelines.engine.runner import Runner
from pipelines.families.contract import Family, FamilyOptions
from pipelines.families.flux import Flux
from pipelines.families.registry import load_family
from pipelines.families.sd21 import sd21_model
from pipelines.families.sdxl import sdxl_model
from pipelines.messages import DrawParams, FamilyName, Output, Submit
from pipelines.worker import choose_device
from tests.gpu import moving, stock_full_size
from tests.gpu.moving import Moves, measure_moves
from tests.gpu.published import build_flux, build_sd21, build_sdxl
from tests.gpu.timing import seconds_of, synchronised
from tests.pipelines.conftest import Checkpoint, write_checkpoints
from tests.pipelines.engine_runs import AtOnce

# Operations of one row's forward and of one decode, TFLOP, counted on the published configurations: 2 per multiply-add.
STEP_TFLOP = {
    ("sdxl", 512): 1.59,
    ("sdxl", 768): 3.64,
    ("sdxl", 1024): 6.76,
    ("sd21", 512): 0.80,
    ("sd21", 768): 2.15,
    ("sd21", 1024): 4.68,
    ("flux", 1024): 69.5,
}
DECODE_TFLOP = {512: 2.5, 768: 5.8, 1024: 10.5}
# The steps of one image, and rows of a step: with guidance two.
IMAGE_STEPS: dict[FamilyName, int] = {"sdxl": 20, "sd21": 25, "flux": 4}
ROWS = (1, 2, 4, 8, 16)
SIDES = (512, 768, 1024)
MANY_STEPS = 50  # so that no job is done before it is measured
BUDGET_SECONDS = 8 * 60.0
MOVES_SECONDS = 60.0  # what moving one denoiser about may take
FULL_SIZE: dict[FamilyName, Callable[[torch.device, torch.dtype], Family]] = {
    "sdxl": lambda device, dtype: sdxl_model(build_sdxl(device, dtype), FamilyOptions()),
    "sd21": lambda device, dtype: sd21_model(build_sd21(device, dtype), FamilyOptions()),
    "flux": lambda device, dtype: Flux(build_flux(device, dtype), FamilyOptions()),
}
TINY_KINDS: dict[FamilyName, str] = {"sdxl": "sdxl", "sd21": "sd21-velocity", "flux": "flux-schnell"}


@dataclass(frozen=True, slots=True)
class Context:
    """What every measurement needs to know."""

    device: torch.device
    dtype: torch.dtype
    peak_tflops: float
    is_tiny: bool
    sides: tuple[int, ...]
    rows: tuple[int, ...]
    deadline: float


@dataclass(frozen=True, slots=True)
class Step:
    """One measured forward: rows of one size. floor_share: of the time that its arithmetic takes at the matmul peak."""

    family: str
    side_px: int
    rows: int
    seconds: float
    images_per_second: float
    floor_share: float | None
    peak_gib: float


@dataclass(frozen=True, slots=True)
class Whole:
    """One image from prompt to PNG, in seconds: part by part, through the engine, and by the stock pipeline's call."""

    family: str
    side_px: int
    steps: int
    prepare: float
    denoise: float
    decode: float
    encode: float
    through_engine: float
    stock: float | None
    decode_floor_share: float | None


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product, what the shares of the floor refer to."""
    side = 8192 if device.type == "cuda" else 512
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(device, lambda: one @ other) / 1e12


def job(side_px: int, steps: int, seed: int, is_guided: bool) -> DrawParams:
    """Each side has a prompt of its own, so that no cache knows it yet."""
    prompt, guidance = f"a red circle on a blue background, {side_px} px wide", 5.0 if is_guided else 1.0
    return DrawParams(prompt, None, side_px, side_px, steps, guidance, "checkpoint", seed)


def measure_step(family: Family, name: FamilyName, side_px: int, rows: int, context: Context) -> Step:
    """A forward of so many unguided jobs."""
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(context.device)
    states = family.prepare([job(side_px, MANY_STEPS, seed, False) for seed in range(rows)])
    seconds = seconds_of(context.device, lambda: family.denoise_step(states))
    tflop = STEP_TFLOP.get((name, side_px))
    floor_seconds = None if tflop is None else tflop * rows / context.peak_tflops
    guided_rows = 1 if name == "flux" else 2
    return Step(
        family=name,
        side_px=side_px,
        rows=rows,
        seconds=seconds,
        images_per_second=rows / (seconds * IMAGE_STEPS[name] * guided_rows),
        floor_share=None if floor_seconds is None or context.is_tiny else floor_seconds / seconds,
        peak_gib=_peak_gib(context.device),
    )


def measure_whole(family: Family, name: FamilyName, side_px: int, context: Context) -> Whole:
    """One image, part by part."""
    asked = job(side_px, IMAGE_STEPS[name], 0, name != "flux")
    family.prepare([msgspec.structs.replace(asked, prompt="what warms up")])
    marks = [synchronised(context.device)]
    (state,) = family.prepare([asked])
    marks.append(synchronised(context.device))
    while not state.is_done:
        family.denoise_step([state])
    marks.append(synchronised(context.device))
    pixels = family.decode([state])[0].cpu().numpy()
    marks.append(synchronised(context.device))
    encode_picture(np.ascontiguousarray(pixels), Output())
    marks.append(synchronised(context.device))
    prepare, denoise, decode, encode = (after - before for before, after in itertools.pairwise(marks))
    return Whole(
        family=name,
        side_px=side_px,
        steps=asked.steps,
        prepare=prepare,
        denoise=denoise,
        decode=decode,
        encode=encode,
        through_engine=engine_seconds(family, asked, context.device),
        stock=None if context.is_tiny else stock_full_size.image_seconds(family, name, asked, context.device),
        decode_floor_share=None if context.is_tiny else DECODE_TFLOP[side_px] / context.peak_tflops / decode,
    )


@dataclass(frozen=True, slots=True)
class OneResident:
    """A model that is there and stays."""

    model: Family

    def family(self, _: str) -> Family:
        return self.model

    def problem(self, _: str) -> None:
        return None

    def digest(self, _: str) -> str:
        return "none"

    def used(self, model: str, now_seconds: float) -> None: ...

    def has_news(self, _: float) -> bool:
        return False

    def update(self, *_: object) -> frozenset[str]:
        return frozenset()


def engine_seconds(family: Family, asked: DrawParams, device: torch.device) -> float:
    """The same image as one job of the engine: what choosing, measuring and telling add to the parts. Its prompt is
    encoded already."""
    runner = Runner(OneResident(family), lambda _: None, AtOnce(), time.perf_counter)

    def draw() -> None:
        runner.submit(Submit("job", "it", asked))
        while runner.has_work:
            runner.work()

    return seconds_of(device, draw)


def measure_family(
    name: FamilyName, build: Callable[[torch.device, torch.dtype], Family], context: Context
) -> Iterator[Step | Whole | Moves]:
    """All sizes and rows of a family, largest last, until the time is up; a batch that does not fit ends its size. At
    last its denoiser is moved about, if there is time."""
    family = build(context.device, context.dtype)
    for side_px in context.sides:
        yield measure_whole(family, name, side_px, context)
        for rows in context.rows:
            if time.perf_counter() > context.deadline:
                return
            try:
                yield measure_step(family, name, side_px, rows, context)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
    if time.perf_counter() < context.deadline - MOVES_SECONDS:
        states = family.prepare([job(context.sides[-1], MANY_STEPS, 0, False)])
        yield measure_moves(name, family, states, context.device, context.dtype)


def report(steps: Sequence[Step], wholes: Sequence[Whole], moves: Sequence[Moves], facts: dict[str, Any]) -> str:
    """The Markdown page."""
    lines = ["# Full-size models on a GPU", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| model | side | rows | ms a step | images/s | share of the floor | peak GiB |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for step in steps:
        share = "" if step.floor_share is None else f"{step.floor_share:.0%}"
        figures = f"{step.seconds * 1000:.1f} | {step.images_per_second:.2f} | {share} | {step.peak_gib:.1f}"
        lines.append(f"| {step.family} | {step.side_px} | {step.rows} | {figures} |")
    lines += ["", "Seconds. Through the engine: all but reading the prompt, which it knows already by then.", ""]
    lines += ["| model | side | steps | prepare | denoise | decode | of the floor | encode | engine | stock |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for one in wholes:
        share = "" if one.decode_floor_share is None else f"{one.decode_floor_share:.0%}"
        bare = "" if one.stock is None else f"{one.stock:.3f}"
        parts = f"{one.prepare:.3f} | {one.denoise:.3f} | {one.decode:.3f} | {share} | {one.encode:.3f}"
        lines.append(f"| {one.family} | {one.side_px} | {one.steps} | {parts} | {one.through_engine:.3f} | {bare} |")
    return "\n".join([*lines, "", *moving.lines(moves)]) + "\n"


def _peak_gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def _tiny(folder: Path, name: FamilyName) -> Callable[[torch.device, torch.dtype], Family]:
    checkpoint: Checkpoint = write_checkpoints(folder)[TINY_KINDS[name]]
    return lambda device, dtype: load_family(name, checkpoint.folder, device, dtype, FamilyOptions())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    context = Context(
        device,
        dtype,
        matmul_peak(device, dtype),
        arguments.tiny,
        (64, 128) if arguments.tiny else SIDES,
        (1, 2) if arguments.tiny else ROWS,
        time.perf_counter() + BUDGET_SECONDS,
    )
    steps: list[Step] = []
    wholes: list[Whole] = []
    moves: list[Moves] = []
    with TemporaryDirectory() as folder:
        for name, full_size in FULL_SIZE.items():
            build = _tiny(Path(folder) / name, name) if arguments.tiny else full_size
            for figure in measure_family(name, build, context):
                print(json.dumps(asdict(figure)), flush=True)
                if isinstance(figure, Step):
                    steps.append(figure)
                elif isinstance(figure, Whole):
                    wholes.append(figure)
                else:
                    moves.append(figure)
            gc.collect()
    facts = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "torch": torch.__version__,
        "dtype": str(dtype),
        "matmul peak, TFLOP/s": round(context.peak_tflops, 2),
        "command": "scripts/gpu-check",
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = {"facts": facts, "steps": [asdict(step) for step in steps], "images": [asdict(one) for one in wholes]}
    result["moves"] = [asdict(one) for one in moves]
    (arguments.out / "gpu-check.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.out / "gpu-check.md").write_text(report(steps, wholes, moves, facts))


if __name__ == "__main__":
    main()
