"""The console command `safelight`: serve, draw, inspect, check, reload, models, keys, usage.

Knows flags and what a person at a terminal wants to read; builds nothing itself.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.messages import Facts
from server import __version__, client, keys_commands, models_commands, usage_command
from server.access.door import door_of
from server.access.findings import problems_of
from server.access.records import KeysProblem
from server.connection import ServerProblem
from server.core.catalogue import Catalogue
from server.core.settings import Settings
from server.fitting import fitting
from server.images.inspect import MAX_FILE_BYTES, NoFacts, facts_of
from server.policy.building import findings as findings_of_policy
from server.remotes import findings as findings_of_providers
from server.steering import reload
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
    policy_problems,
    visible,
)
from server.writable import unwritable

app = typer.Typer(help="Safelight: an image server for your own house.", no_args_is_help=True, add_completion=False)
app.add_typer(models_commands.app, name="models")
app.add_typer(keys_commands.app, name="keys")
app.command("usage")(usage_command.usage_command)


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Safelight: an image server for your own house."""
    if version:
        typer.echo(f"safelight {__version__}")
        raise typer.Exit


@app.command("serve")
def serve_command(
    host: Annotated[str | None, typer.Option(help="The address to listen on; without keys loopback only.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; 0 takes a free one.")] = None,
    models: MODELS_FLAG = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of the worker.")] = None,
    public_base_url: Annotated[str | None, typer.Option(help="What result URLs start with.")] = None,
    files_folder: Annotated[
        Path | None, typer.Option(parser=path_of, metavar="PATH", help="Where result files live for their hour.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    offline: Annotated[
        bool | None, typer.Option("--offline/--no-offline", help="Build nothing that could go out.")
    ] = None,
) -> None:
    """Serve pictures over HTTP until stopped."""
    settings, catalogue = configured(
        host=host,
        port=port,
        models=models,
        device=device,
        threads=threads,
        public_base_url=public_base_url,
        files_folder=files_folder,
        log_level=log_level,
        offline=offline,
    )
    # The other commands start in a third of the time without all that serving needs.
    from server.serving import serve_until_stopped  # noqa: PLC0415

    serve_until_stopped(settings, catalogue)


@app.command("draw")
def draw_command(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", parser=path_of, metavar="PATH", help="The file to write; named by seed if absent."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model's id or alias.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT or auto.")] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="How many pictures.")] = None,
    seed: Annotated[int | None, typer.Option(help="The first picture's seed.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoise steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How strongly the prompt acts.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to draw.")] = None,
    sampler: Annotated[str | None, typer.Option(help="A sampler of the model's family.")] = None,
    quality: Annotated[str | None, typer.Option(help="low, standard or hd.")] = None,
    style: Annotated[str | None, typer.Option(help="natural or vivid.")] = None,
    image: Annotated[
        Path | None, typer.Option(parser=path_of, metavar="PATH", help="A picture file to start from.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(parser=path_of, metavar="PATH", help="A picture file: where the image may change.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How far the image may be left, above 0 and at most 1.")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(help="An adapter, as NAME or NAME:SCALE; may be given several times.")
    ] = None,
    control: Annotated[str | None, typer.Option(help="What the control image shows: canny or depth.")] = None,
    control_image: Annotated[
        Path | None, typer.Option(parser=path_of, metavar="PATH", help="A picture file: edges or depth to keep to.")
    ] = None,
    control_scale: Annotated[float | None, typer.Option(help="How strongly the control image acts.")] = None,
    server: SERVER_FLAG = DEFAULT_SERVER,
    key: KEY_FLAG = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and no progress.")] = False,
) -> None:
    """Have a server draw, with a progress bar, and write the pictures."""
    values: dict[str, Any] = {
        "prompt": prompt,
        "model": model,
        "size": size,
        "n": n,
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": negative_prompt,
        "sampler": sampler,
        "quality": quality,
        "style": style,
        "strength": strength,
        "loras": [client.lora_of(text) for text in lora] if lora else None,
        "control": control,
        "control_scale": control_scale,
    }
    try:
        order = order_of(values, {"image": image, "mask": mask, "control_image": control_image}, output, server, key)
        with client.progress_bars(is_quiet=as_json) as bars:
            drawn = client.draw(order, bars)
    except (ServerProblem, OSError) as problem:
        fail(str(problem), status=NOT_GOOD)
    print_drawn(drawn, as_json=as_json)


def order_of(
    values: dict[str, Any], files: dict[str, Path | None], output: Path | None, server: str, key: str | None
) -> client.Order:
    """What the flags ask for, without those that were not given. Raises DrawingFailed, and OSError for the files."""
    if output is not None:
        values = {**values, "output_format": client.format_of(output)}
    given = {name: value for name, value in values.items() if value is not None}
    pictures = {name: client.picture_text(path) for name, path in files.items() if path is not None}
    return client.Order(server, given | pictures, output, key)


def print_drawn(drawn: list[client.Drawn], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"files": [{"path": str(one.path), "seed": one.seed} for one in drawn]}))
        return
    for one in drawn:
        typer.echo(f"{one.path}  seed {one.seed}")


@app.command("reload")
def reload_command(server: SERVER_FLAG = DEFAULT_SERVER, key: KEY_FLAG = None) -> None:
    """Have a running server take over what models.yaml says now; exit 1 when it does not, or when something of it
    cannot be served."""
    try:
        taken_over = reload(server, key)
    except ServerProblem as problem:
        fail(str(problem), status=NOT_GOOD)
    for line in lines_of(taken_over):
        typer.echo(visible(line))
    raise typer.Exit(NOT_GOOD if taken_over["problems"] else 0)


def lines_of(taken_over: dict[str, Any]) -> list[str]:
    """What a reload changed, a line each."""
    lines = [
        f"{kind[:-1]} {name}: {change}"
        for kind in ("models", "names", "backends")
        for change, names in taken_over[kind].items()
        for name in names
    ]
    lines += [f"{key}: changed" for key in taken_over["other"]]
    problems = [f"{name}: {problem}" for name, problem in taken_over["problems"].items()]
    return [*(lines or ["nothing has changed"]), *problems]


@app.command()
def check(models: MODELS_FLAG = None) -> None:
    """Check the settings, the keys, models.yaml, every model's files, the content checks, the folders that are written
    to, and which models fit on which device; exit 1 when one of these cannot be used."""
    settings, catalogue = configured(models=models)
    findings = check_models(catalogue.specs())
    for finding in findings:
        typer.echo(f"{finding.id}: {finding.problem or 'ok'}")
        for name, problem in finding.loras.items():
            typer.echo(visible(f"{finding.id}, adapter {name}: {problem}"))
        for kind, problem in finding.controls.items():
            typer.echo(visible(f"{finding.id}, control {kind}: {problem}"))
    for line in findings_of_providers(settings, catalogue):
        typer.echo(visible(line))
    key_problems = problems_of_access(settings, catalogue)
    for line in key_problems:
        typer.echo(f"keys: {line}")
    against_policy = policy_problems(settings, catalogue)
    for line in against_policy or findings_of_policy(catalogue):
        typer.echo(visible(line))
    of_folders = unwritable(settings)
    for line in of_folders:
        typer.echo(visible(line))
    fittings = fitting(settings.devices, settings.weights_memory, findings, catalogue.specs())
    for line in (line for one in fittings for line in one.lines()):
        typer.echo(line)
    nowhere = set.intersection(*(set(one.too_large()) for one in fittings))
    broken = {finding.id for finding in findings if finding.problem or finding.loras or finding.controls} | nowhere
    typer.echo(f"{settings.models}: {len(findings)} models, {len(broken)} with problems")
    if key_problems or against_policy or of_folders:
        counts = f"{len(key_problems)} problems of keys, {len(against_policy)} of content checks"
        typer.echo(f"{counts}, {len(of_folders)} of folders")
    raise typer.Exit(1 if broken or key_problems or against_policy or of_folders else 0)


def problems_of_access(settings: Settings, catalogue: Catalogue) -> list[str]:
    """What keeps a server with these settings from listening, or its keys from what they were made for."""
    if settings.keys is not None:
        return problems_of(settings.keys, catalogue, time.time())
    try:
        door_of(settings)
    except KeysProblem as problem:
        return [str(problem)]
    return []


@app.command("inspect")
def inspect_command(
    file: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP picture.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the facts that a picture holds about how it was drawn; exit 1 when it holds none."""
    facts = read_facts(file)
    if as_json:
        typer.echo(json.dumps(facts, sort_keys=True))
        return
    for name, value in sorted(facts.items()):
        typer.echo(visible(f"{name}: {value}"))


def read_facts(file: Path) -> Facts:
    """The facts, or the end of the command. Reads no more of the file than may be judged."""
    try:
        with file.open("rb") as stream:
            return facts_of(stream.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}")
    except NoFacts as problem:
        fail(f"{file} {problem.reason}", status=NOT_GOOD)


if __name__ == "__main__":
    app()
