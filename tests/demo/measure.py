"""Measures how often an embedded model draws what its caption says, on captions that training never saw.

python -m tests.demo.measure --model demo-sdxl --size 512x512 --singles 200 --pairs 100
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pipelines.demo.captions import held_out_scenes
from pipelines.demo.scenes import Scene
from pipelines.families.contract import Family
from pipelines.messages import DrawParams
from server.core.catalogue_file import load_catalogue
from server.core.model_entry import ModelEntry
from server.core.settings import DEFAULT_CATALOGUE
from tests.demo.oracle import read
from tests.pipelines.stock import load

DEMOS = ("demo-sdxl", "demo-sd21", "demo-flux")


def entry_of(model: str) -> ModelEntry:
    """The demo's entry in our own catalogue: what it draws with where nobody says."""
    return load_catalogue(DEFAULT_CATALOGUE).models[model]


def load_demo(model: str) -> Family:
    spec = next(spec for spec in load_catalogue(DEFAULT_CATALOGUE).specs() if spec.id == model)
    return load(Path(spec.folder), spec.family)


def draw(family: Family, params: DrawParams) -> Image.Image:
    """One picture by the family's verbs, as the engine calls them."""
    (state,) = family.prepare([params])
    while not state.is_done:
        family.denoise_step([state])
    return Image.fromarray(family.decode([state])[0].numpy())


def judged(
    family: Family, scenes: list[Scene], width_px: int, height_px: int, steps: int, guidance_scale: float
) -> Iterator[tuple[Scene, Image.Image, list[str]]]:
    """Each scene with its picture (seed: its number) and the oracle's complaints."""
    for seed, scene in enumerate(scenes):
        params = DrawParams(scene.caption, None, width_px, height_px, steps, guidance_scale, "checkpoint", seed)
        picture = draw(family, params)
        yield scene, picture, read(picture).mistakes(scene)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="512x512")
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, help="the model's default if absent")
    parser.add_argument("--guidance", type=float, help="the model's default if absent")
    parser.add_argument("--model", choices=DEMOS, default=DEMOS[0])
    parser.add_argument("--verbose", action="store_true", help="name every mistake")
    arguments = parser.parse_args()
    width_px, height_px = (int(side) for side in arguments.size.split("x"))
    family, defaults = load_demo(arguments.model), entry_of(arguments.model).defaults
    steps = arguments.steps or defaults.steps
    guidance_scale = defaults.guidance_scale if arguments.guidance is None else arguments.guidance
    results: dict[str, str] = {}
    started = time.perf_counter()
    for kind, count, pair_share in (("singles", arguments.singles, 0.0), ("pairs", arguments.pairs, 1.0)):
        scenes = held_out_scenes(count, seed=2026, pair_share=pair_share)
        right = 0
        for scene, _, mistakes in judged(family, scenes, width_px, height_px, steps, guidance_scale):
            right += not mistakes
            if mistakes and arguments.verbose:
                print(f"{scene.caption}: {'; '.join(mistakes)}", flush=True)
        results[kind] = f"{right}/{count}"
    seconds = (time.perf_counter() - started) / max(1, arguments.singles + arguments.pairs)
    figures = {"model": arguments.model, "size": arguments.size, "steps": steps, "guidance": guidance_scale}
    print(json.dumps({**figures, **results, "seconds_per_picture": round(seconds, 2)}))


if __name__ == "__main__":
    main()
