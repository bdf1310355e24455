"""What the server costs: one request at a time over HTTP, against the bare diffusers call, in turn.

python -m tests.benchmarks.overhead --size 512x512 --pairs 20
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import httpx
import torch
from diffusers import StableDiffusionXLPipeline

from tests.benchmarks.report import ROOT, show
from tests.end_to_end.server_process import ServerProcess

PROMPT = "a large red circle on a blue background"
STEPS, GUIDANCE = 16, 2.0


def bare_seconds(pipeline: Any, width_px: int, height_px: int, seed: int) -> float:
    started = time.perf_counter()
    pipeline(
        PROMPT,
        width=width_px,
        height=height_px,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator("cpu").manual_seed(seed),
    )
    return time.perf_counter() - started


def served_seconds(client: httpx.Client, size: str, seed: int) -> float:
    body = {"prompt": PROMPT, "size": size, "seed": seed, "steps": STEPS, "guidance_scale": GUIDANCE}
    started = time.perf_counter()
    client.post("/v1/images/generations", json={**body, "response_format": "b64_json"}).raise_for_status()
    return time.perf_counter() - started


def measure(pipeline: Any, client: httpx.Client, size: str, pairs: int) -> dict[str, float]:
    """Medians of both, taken in turn, after one of each that does not count."""
    width_px, height_px = (int(side) for side in size.split("x"))
    bare, served = [], []
    for seed in range(pairs + 1):
        bare.append(bare_seconds(pipeline, width_px, height_px, seed))
        served.append(served_seconds(client, size, seed))
    medians = {"bare": statistics.median(bare[1:]), "served": statistics.median(served[1:])}
    return {**medians, "overhead": medians["served"] / medians["bare"] - 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["256x256", "512x512", "1024x1024"])
    parser.add_argument("--pairs", type=int, default=12)
    arguments = parser.parse_args()
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        ROOT / "pipelines" / "demo" / "demo-sdxl", dtype=torch.float32, add_watermarker=False
    ).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    server = ServerProcess()
    try:
        server.wait_until_ready()
        with httpx.Client(base_url=server.url, timeout=600) as client:
            figures = {size: measure(pipeline, client, size, arguments.pairs) for size in arguments.sizes}
    finally:
        server.stop()
    rows = [(s, f"{f['bare']:.3f}", f"{f['served']:.3f}", f"{f['overhead']:+.1%}") for s, f in figures.items()]
    show("overhead", ("size", "diffusers s", "server s", "overhead"), rows, {"sizes": figures})


if __name__ == "__main__":
    main()
