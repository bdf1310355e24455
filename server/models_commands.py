"""The commands `safelight models ...`: list, verify, pull, add, export, import, load, unload, pin.

Knows the catalogue and what a person at a terminal wants to read; the work on files is done by `pipelines.shelf`, a
process of the worker's side. Of all commands `pull` alone goes online.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from server.steering import WISHES, SteeringFailed, steer
from server.terminal import (
    DEFAULT_SERVER,
    KEY_FLAG,
    MODELS_FLAG,
    NOT_GOOD,
    SERVER_FLAG,
    check_models,
    configured,
    fail,
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
        state = f"unavailable: {report.problem}" if report.problem else "present"
        defaults = f"{entry.defaults.size}, {entry.defaults.steps} steps, guidance {entry.defaults.guidance_scale:g}"
        typer.echo(f"  family    {spec.family}\n  folder    {spec.folder}\n  state     {state}\n  defaults  {defaults}")


@app.command("pull", **HANDED_ON)
def pull_command(context: typer.Context) -> None:
    """Fetch a model from a hub or a mirror: pull ID --into FOLDER --source OWNER/NAME@COMMIT."""
    result = run_shelf("pull", *context.args)
    typer.echo(f"{result['id']}: {result['files']} files, {result['size_bytes']} bytes, in {result['path']}")


@app.command("add", **HANDED_ON)
def add_command(context: typer.Context) -> None:
    """Check a folder or file, write its manifest, and print its entry for models.yaml: add PATH."""
    typer.echo(run_shelf("add", *context.args)["entry"])


@app.command("import", **HANDED_ON)
def import_command(context: typer.Context) -> None:
    """Unpack an archive: import FILE --into FOLDER."""
    for model in run_shelf("import", *context.args)["models"]:
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
        except SteeringFailed as problem:
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
