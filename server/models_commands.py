"""The commands `safelight models ...`: list, verify, pull, add, export, import, load, unload, pin.

Knows the catalogue and what a person at a terminal wants to read; the work on files is done by `pipelines.shelf`, a
process of the worker's side. Of all commands `pull` alone goes online, and never where the settings say offline.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.messages import Finding, ModelSpec
from server.connection import ServerProblem
from server.core.catalogue import Catalogue
from server.steering import WISHES, steer
from server.terminal import (
    DEFAULT_SERVER,
    KEY_FLAG,
    MODELS_FLAG,
    NOT_GOOD,
    SERVER_FLAG,
    check_models,
    configured,
    fail,
    path_of,
)

app = typer.Typer(help="List, fetch, check and carry models.", invoke_without_command=True)
# pipelines.shelf knows its flags best, and prints their help.
HANDED_ON: dict[str, Any] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}


@app.callback()
def list_models(context: typer.Context, models: MODELS_FLAG = None) -> None:
    """List what is configured, what is present, and where."""
    context.obj = models
    if context.invoked_subcommand is not None:
        return
    _, catalogue = configured(models=models)
    specs = catalogue.specs()
    for spec, report in zip(specs, check_models(specs), strict=True):
        entry = catalogue.models[spec.id]
        marker = " (default)" if spec.id == catalogue.default_model else ""
        typer.echo(f"{spec.id}{marker}")
        defaults = f"{entry.defaults.size}, {entry.defaults.steps} steps, guidance {entry.defaults.guidance_scale:g}"
        typer.echo(f"  family    {spec.family}\n  folder    {spec.folder}")
        if entry.hub is not None:
            typer.echo("".join(f"  hub       {source}\n" for source in entry.hub.sources), nl=False)
        typer.echo(f"  state     {state_of(spec, report)}\n  defaults  {defaults}")


def state_of(spec: ModelSpec, report: Finding) -> str:
    if report.problem is None:
        return "present"
    return f"unavailable: {report.problem}" if Path(spec.folder).exists() else f"absent: {report.problem}"


@app.command("pull")
def pull_command(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="An id of models.yaml, or a new one.")],
    into: Annotated[
        Path | None,
        typer.Option(parser=path_of, metavar="PATH", help="Where its folder is made; the models folder if absent."),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="[https://MIRROR/]OWNER/NAME@COMMIT, in order; else as the entry says.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Which variant of the weights, such as fp16.")] = None,
    file: Annotated[list[str] | None, typer.Option(help="Only this file of the repository.")] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(parser=path_of, metavar="PATH", help="Of an earlier pull: other bytes are refused."),
    ] = None,
) -> None:
    """Fetch a model from its hub, or from the first of its mirrors that has it."""
    settings, catalogue = configured(models=context.obj)
    if settings.offline:
        fail("offline is set, so nothing is fetched: carry models here with export and import", status=NOT_GOOD)
    flags = [*_each("--source", source), *_each("--variant", variant), *_each("--file", file)]
    flags += _each("--manifest", manifest)
    if not source:
        flags = [*flags, *_flags_of(catalogue, model)]
    result = run_shelf("pull", model, "--into", str(into or catalogue.models_folder), *flags)
    typer.echo(f"{result['id']}: {result['files']} files, {result['size_bytes']} bytes, in {result['path']}")


def _flags_of(catalogue: Catalogue, model: str) -> list[str]:
    """What a model's entry says of where it comes from; the end of the command when it says nothing."""
    entry = catalogue.models.get(model)
    if entry is None or entry.hub is None:
        known = ", ".join(name for name, one in catalogue.models.items() if one.hub) or "none"
        fail(f"models.yaml names no hub for {model} (it does for: {known}); name a --source OWNER/NAME@COMMIT")
    hub = entry.hub
    flags = [*_each("--source", hub.sources), *_each("--variant", hub.variant or entry.variant)]
    return [*flags, *_each("--file", hub.files), *_each("--manifest", catalogue.pinned_manifest(model))]


def _each(flag: str, values: Sequence[str] | Path | None) -> list[str]:
    """The flag before each of its values."""
    listed = [str(values)] if isinstance(values, (str, Path)) else values or []
    return [part for value in listed for part in (flag, value)]


@app.command("add", **HANDED_ON)
def add_command(context: typer.Context) -> None:
    """Check a folder or file, write its manifest, and print its entry for models.yaml: add PATH."""
    typer.echo(run_shelf("add", *context.args)["entry"])


@app.command("import")
def import_command(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The archive to unpack.")],
    into: Annotated[
        Path | None,
        typer.Option(parser=path_of, metavar="PATH", help="Where the models go; the models folder if absent."),
    ] = None,
) -> None:
    """Unpack an archive to where the entries look for what is pulled, or into a folder."""
    folder = into or configured(models=context.obj)[1].models_folder
    for model in run_shelf("import", str(file), "--into", str(folder))["models"]:
        typer.echo(f"{model['path']}: {model['files']} files, {model['size_bytes']} bytes")


@app.command("export")
def export_command(
    context: typer.Context,
    models: Annotated[list[str], typer.Argument(help="Ids of models.yaml.")],
    file: Annotated[Path, typer.Argument(help="The archive to write.")],
) -> None:
    """Write models into one archive, with all that is needed to check them where it is unpacked."""
    places = places_of(context.obj, models)
    result = run_shelf("export", str(file), *(f"{model}={place}" for model, place in places.items()))
    typer.echo(f"{result['path']}: {len(result['models'])} models, {result['size_bytes']} bytes")


@app.command("verify")
def verify_command(
    context: typer.Context,
    models: Annotated[list[str] | None, typer.Argument(help="Ids of models.yaml; all if none is named.")] = None,
    quick: Annotated[bool, typer.Option(help="Hash only what was written to since the last time.")] = False,
) -> None:
    """Compare models with their manifests; exit 1 when one is damaged."""
    places = places_of(context.obj, models or [])
    run_shelf("verify", *places.values(), *(["--quick"] if quick else []))
    typer.echo(f"{len(places)} models are as their manifests say")


def _steering_command(verb: str, help_text: str) -> None:
    """Add a command that asks a running server."""

    @app.command(verb, help=help_text)
    def command(
        model: Annotated[str, typer.Argument(help="A model's id or alias.")],
        server: SERVER_FLAG = DEFAULT_SERVER,
        key: KEY_FLAG = None,
        patience_seconds: Annotated[float, typer.Option("--wait", help="Seconds to wait at most.")] = 600.0,
    ) -> None:
        try:
            now = steer(server, key, WISHES[verb], model, patience_seconds)
        except ServerProblem as problem:
            fail(str(problem), status=NOT_GOOD)
        marks = ", pinned" if now["pinned"] else ""
        typer.echo(f"{model}: {now['state']}{marks}, {now['device_bytes']} bytes on devices")


_steering_command("load", "Bring a model to a device of a running server, or look again at one that failed.")
_steering_command("unload", "Let a model go from the devices of a running server, once no picture needs it.")
_steering_command("pin", "Keep a model on its device, whatever else is asked for.")
_steering_command("unpin", "Let a pinned model leave again when others need the room.")


def places_of(catalogue_file: Path | None, models: list[str]) -> dict[str, str]:
    """Where these models lie, or all; the end of the command when the catalogue has no such model."""
    _, catalogue = configured(models=catalogue_file)
    places = {spec.id: spec.folder for spec in catalogue.specs()}
    unknown = [model for model in models if model not in places]
    if unknown:
        fail(f"models.yaml has no model {', '.join(unknown)}; it has {', '.join(places)}")
    return {model: places[model] for model in models or places}


def run_shelf(*arguments: str) -> dict[str, Any]:
    """What the process answers; the end of the command, with its reason, when it could not do it."""
    command = [sys.executable, "-m", "pipelines.shelf", *arguments]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    try:
        result: dict[str, Any] = json.loads(finished.stdout)
    except ValueError:  # its own flags were wrong or help was asked for: it has said so
        typer.echo(finished.stdout.decode(errors="replace"), nl=False)
        raise typer.Exit(finished.returncode) from None
    if not result["ok"]:
        fail(*([result["problem"]] if "problem" in result else []), status=finished.returncode or NOT_GOOD)
    return result
