"""A short process that fetches, carries, adds and verifies models: `python -m pipelines.shelf COMMAND ...`.

Knows the commands and what they answer; knows no HTTP server and no tensors. Imports no torch.
Invariant: progress goes to standard error, one line of JSON to standard output; 0 is done, 1 a problem, 2 wrong use,
130 interrupted; and only `pull` imports what could go online.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from pipelines.messages import FamilyName
from pipelines.weights import archive
from pipelines.weights.archive_layout import Index
from pipelines.weights.files import CheckpointProblem, read_json, tensor_names
from pipelines.weights.manifest import (
    Advance,
    Damage,
    Manifest,
    Origin,
    describe,
    files_of,
    find_damage,
    folder_name,
    is_single_file,
    read_manifest,
    read_manifest_file,
    stamped,
    write_manifest,
)
from pipelines.weights.original_names import recognised
from pipelines.weights.verify import COMPONENTS_BY_FAMILY, find_problem

DONE, PROBLEM, INTERRUPTED = 0, 1, 130
# With telemetry on, huggingface_hub asks its home for a list of programs to look for, whichever mirror was named, and
# tells it which of them runs this one. It reads its environment when it is imported.
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
}
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
PIXELS_PER_LATENT = 8
SIDES_PX = range(256, 2049)
Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    flags = _parser().parse_args(arguments)
    try:
        result = flags.run(flags)
    except CheckpointProblem as problem:
        result = {"ok": False, "problem": str(problem)}
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        result = {"ok": False, "problem": f"{place}{error.strerror or type(error).__name__}"}
    except KeyboardInterrupt:
        result = {"ok": False, "problem": "interrupted; the same command goes on where this one stopped"}
        _print(flags.command, result)
        return INTERRUPTED
    _print(flags.command, result)
    return DONE if result["ok"] else PROBLEM


def _print(command: str, result: Result) -> None:
    print(json.dumps({"command": command, **result}), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="safelight models", description="Fetch, carry and verify models.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], Result], text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text)
        one.set_defaults(run=run)
        return one

    pull = command("pull", run_pull, "fetch a model from a hub or a mirror; the one command that goes online")
    pull.add_argument("id")
    pull.add_argument("--into", type=Path, required=True, help="the folder that holds the models' folders")
    pull.add_argument("--source", action="append", required=True, help="[https://MIRROR/]OWNER/NAME@COMMIT, in order")
    pull.add_argument("--variant", help="which variant of the weights, such as fp16")
    pull.add_argument("--file", action="append", default=[], help="only this file of the repository")
    pull.add_argument("--manifest", type=Path, help="of an earlier pull: other bytes are refused, whoever sends them")

    export = command("export", run_export, "write models into one archive")
    export.add_argument("archive", type=Path)
    export.add_argument("models", nargs="+", metavar="ID=PATH")

    unpack = command("import", run_import, "unpack an archive")
    unpack.add_argument("archive", type=Path)
    unpack.add_argument("--into", type=Path, required=True)

    verify = command("verify", run_verify, "compare models with their manifests, or an archive with its index")
    verify.add_argument("places", nargs="+", type=Path)
    verify.add_argument("--quick", action="store_true", help="sizes and times; hash only what was written to since")

    add = command("add", run_add, "check a model, write its manifest, answer with its entry for models.yaml")
    add.add_argument("place", type=Path)
    add.add_argument("--id", help="by default the name of the folder or file")
    add.add_argument("--family", choices=get_args(FamilyName), help="by default what its files say")
    for name in ("source", "revision", "licence"):
        add.add_argument(f"--{name}", help="a note for the manifest")
    return parser


@contextlib.contextmanager
def _progress(text: str) -> Iterator[Callable[[int], Advance]]:
    """A bar on standard error, whose total is told when it is known."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(text, total=None)

        def start(total_bytes: int) -> Advance:
            bars.reset(task, total=total_bytes)
            return lambda count: bars.advance(task, count)

        yield start


def run_pull(flags: argparse.Namespace) -> Result:
    for name in OFFLINE_VARIABLES:
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}:
            raise CheckpointProblem(f"{name} is set, so nothing is fetched: unset it to pull")
    os.environ.update(QUIET)
    from huggingface_hub import constants  # noqa: PLC0415 (it is slow, and reads its environment now)

    from pipelines.weights import choice, pull  # noqa: PLC0415

    pins = choice.pins_of(read_manifest_file(flags.manifest), str(flags.manifest)) if flags.manifest else None
    wanted = choice.Wanted(flags.variant, tuple(flags.file))
    sources = [pull.parse_source(text, constants.ENDPOINT) for text in flags.source]
    target = flags.into / folder_name(flags.id)
    with _progress(f"pull {flags.id}") as start:
        manifest = pull.pull(sources, target, wanted, pins=pins, start=start)
    return {"ok": True, "id": flags.id, "path": str(target), **_facts(manifest)}


def run_export(flags: argparse.Namespace) -> Result:
    models = [_named_place(text) for text in flags.models]
    total_bytes = sum(path.stat().st_size for _, place in models for path in files_of(place).values())
    with _progress(f"export to {flags.archive.name}") as start:
        index = archive.export_models(models, flags.archive, start(total_bytes))
    size_bytes = flags.archive.stat().st_size
    return {"ok": True, "path": str(flags.archive), "size_bytes": size_bytes, "models": _models(index)}


def _named_place(text: str) -> tuple[str, Path]:
    model_id, separator, place = text.partition("=")
    if not separator or not place:
        raise CheckpointProblem(f"{text!r} names no model: write ID=PATH")
    return model_id, Path(place)


def _models(index: Index) -> list[Result]:
    return [{"id": model.id, **_facts(model.manifest)} for model in index.models]


def run_import(flags: argparse.Namespace) -> Result:
    with _progress(f"import {flags.archive.name}") as start:
        total_bytes = flags.archive.stat().st_size if flags.archive.exists() else 0
        places = archive.import_archive(flags.archive, flags.into, start(total_bytes))
    models = [{"path": str(place), **_facts(read_manifest(place))} for place in places]
    return {"ok": True, "models": models}


def _facts(manifest: Manifest) -> Result:
    origin = manifest.origin
    return {
        "files": len(manifest.files),
        "size_bytes": manifest.size_bytes,
        "source": origin.source,
        "revision": origin.revision,
        "licence": origin.licence,
    }


def run_verify(flags: argparse.Namespace) -> Result:
    reports = [_verified(place, is_quick=flags.quick) for place in flags.places]
    for report in reports:
        for damage in report["damages"]:
            print(damage["sentence"], file=sys.stderr)
    return {"ok": not any(report["damages"] for report in reports), "models": reports}


def _verified(place: Path, *, is_quick: bool) -> Result:
    with _progress(f"verify {place.name}") as start:
        try:
            damages = _damages(place, start, is_quick=is_quick)
        except CheckpointProblem as problem:
            damages = (Damage("unreadable", place.name, str(problem)),)
    listed = [{"kind": one.kind, "file": one.name, "sentence": one.sentence} for one in damages]
    return {"path": str(place), "damages": listed}


def _damages(place: Path, start: Callable[[int], Advance], *, is_quick: bool) -> tuple[Damage, ...]:
    if place.is_file() and not is_single_file(place):
        archive.check_archive(place, start(place.stat().st_size))
        return ()
    manifest = read_manifest(place)
    found = find_damage(place, manifest, "touched" if is_quick else "all", start(manifest.size_bytes))
    if not found and stamped(place, manifest) != manifest:
        # So that the next quick check need not hash again. On a read-only disk it must.
        with contextlib.suppress(OSError):
            write_manifest(place, stamped(place, manifest))
    return found


def run_add(flags: argparse.Namespace) -> Result:
    place = flags.place.resolve()
    family = flags.family or detect_family(place)
    model_id = flags.id or place.stem
    folder_name(model_id)
    if is_single_file(place):
        tensor_names(place)
    elif problem := find_problem(place, family):
        raise CheckpointProblem(problem)
    with _progress(f"add {model_id}") as start:
        total_bytes = sum(path.stat().st_size for path in files_of(place).values())
        manifest = describe(place, Origin(flags.source, flags.revision, flags.licence), start(total_bytes))
    write_manifest(place, manifest)
    entry = catalogue_entry(model_id, family, place)
    return {"ok": True, "id": model_id, "path": str(place), "family": family, "entry": entry, **_facts(manifest)}


def detect_family(place: Path) -> FamilyName:
    """What the tensors' names of a single file say, or the index of a folder. Raises CheckpointProblem."""
    if is_single_file(place):
        found = recognised(tensor_names(place))
        if found.family is None:
            raise CheckpointProblem(f"{place} holds {found.description}")
        return found.family
    if not place.is_dir():
        raise CheckpointProblem(f"{place} does not exist, or is neither a folder nor a .safetensors file")
    named = {name for name, value in read_json(place / "model_index.json").items() if isinstance(value, list)}
    fitting = [family for family, components in COMPONENTS_BY_FAMILY.items() if components.keys() <= named]
    if not fitting:
        raise CheckpointProblem(f"{place / 'model_index.json'} names the components of no family that is known here")
    # SDXL has all that SD 2.1 has, and more.
    return max(fitting, key=lambda family: len(COMPONENTS_BY_FAMILY[family]))


def catalogue_entry(model_id: str, family: FamilyName, place: Path) -> str:
    """Lines for models.yaml, below `models:`. JSON's strings are YAML's too."""
    size, steps, guidance_scale = _defaults(family, place)
    lines = [
        f"{json.dumps(model_id)}:",
        f"  family: {family}",
        f"  source: {json.dumps(str(place))}",
        f"  defaults: {{size: {size}, steps: {steps}, guidance_scale: {guidance_scale}}}",
    ]
    if is_single_file(place):
        lines.append("  # a single file holds no tokenizers: name a diffusers folder that does under rest")
    if is_single_file(place) and family == "sd21":
        lines.append("  # and say what it predicts: config: sd21-768 or config: sd21-base")
    return "".join(f"  {line}\n" for line in lines)


def _defaults(family: FamilyName, place: Path) -> tuple[str, int, float]:
    """Size, steps and guidance as the model's authors use them."""
    if family == "flux":
        return ("1024x1024", 28, 3.5) if _takes_guidance(place) else ("1024x1024", 4, 0.0)
    side_px = 1024 if family == "sdxl" else 768
    if not is_single_file(place):
        sample_size = read_json(place / "unet" / "config.json").get("sample_size")
        told_px = sample_size * PIXELS_PER_LATENT if isinstance(sample_size, int) else side_px
        side_px = told_px if told_px in SIDES_PX else side_px
    return f"{side_px}x{side_px}", 30, 5.0 if family == "sdxl" else 7.5


def _takes_guidance(place: Path) -> bool:
    if is_single_file(place):
        return any("guidance_in." in name for name in tensor_names(place))
    return read_json(place / "transformer" / "config.json").get("guidance_embeds") is True


if __name__ == "__main__":
    sys.exit(main())
