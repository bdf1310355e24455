"""What all commands share: how they end with a reason, and how they come by settings, catalogue and models' states.

Knows the terminal and the configuration; knows no single command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from pipelines.messages import Finding, ModelSpec
from server.core.catalogue import Catalogue
from server.core.catalogue_file import CatalogueProblem, load_catalogue
from server.core.settings import OFFLINE_VARIABLES, Settings, SettingsProblem, load_settings
from server.images.fetch import FetchPolicy
from server.policy.building import PolicyProblem, build_policy
from server.remotes import NO_LASTING_BOOKS, needs_lasting_books


def path_of(text: str) -> Path:
    """A flag's value. Nothing would be the current folder, which nobody means who says nothing."""
    if not text.strip():
        raise typer.BadParameter("a path is empty")
    return Path(text)


MODELS_FLAG = Annotated[
    Path | None, typer.Option("--models", parser=path_of, metavar="PATH", help="The catalogue, models.yaml.")
]
SERVER_FLAG = Annotated[str, typer.Option("--server", envvar="SAFELIGHT_SERVER", help="Where the server is.")]
DEFAULT_SERVER = "http://127.0.0.1:8000"
KEY_FLAG = Annotated[
    str | None, typer.Option("--key", envvar="SAFELIGHT_KEY", help="The key for a server that wants one.")
]
NOT_GOOD, USAGE_ERROR = 1, 2


def fail(*problems: str, status: int = USAGE_ERROR) -> NoReturn:
    for problem in problems:
        typer.secho(f"error: {problem}", fg="red", err=True)
    raise typer.Exit(status)


def visible(text: str) -> str:
    """One line that does nothing to a terminal: a stranger may have written it."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def configured(**flags: Any) -> tuple[Settings, Catalogue]:
    """Settings and catalogue, or the end of the command with every problem named."""
    try:
        settings = load_settings(flags)
        FetchPolicy(settings.image_urls, settings.image_url_hosts)
        catalogue = load_catalogue(settings.models, settings.models_folder)
    except ValueError as problem:
        fail(f"SAFELIGHT_IMAGE_URL_HOSTS: {problem}")
    except (SettingsProblem, CatalogueProblem) as problem:
        fail(*problem.problems)
    if needs_lasting_books(settings, catalogue):
        fail(NO_LASTING_BOOKS)
    if settings.offline:
        os.environ.update(OFFLINE_VARIABLES)
    return settings, catalogue


def policy_problems(settings: Settings, catalogue: Catalogue) -> list[str]:
    """What keeps the content checks from being made, a sentence each."""
    try:
        build_policy(settings, catalogue)
    except PolicyProblem as problem:
        return problem.problems
    folder = catalogue.safety_checker
    found = [] if folder is None else _asked_aside(msgspec.json.encode(folder) + b"\n")
    return [f"policy, safety checker: {one.problem}" for one in found if one.problem is not None]


def check_models(specs: tuple[ModelSpec, ...]) -> list[Finding]:
    """What the worker's side finds in the models' files."""
    return _asked_aside(b"".join(msgspec.json.encode(spec) + b"\n" for spec in specs))


def _asked_aside(lines: bytes) -> list[Finding]:
    """Ask a short process of the worker's side: only that side knows what a sound folder is."""
    command = [sys.executable, "-m", "pipelines.check"]
    finished = subprocess.run(command, input=lines, stdout=subprocess.PIPE, check=True)
    return [msgspec.json.decode(line, type=Finding) for line in finished.stdout.splitlines()]
