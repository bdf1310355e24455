"""The commands `safelight keys ...`: create, list, revoke, rotate, check.

Knows flags and what a person at a terminal wants to read; what becomes of the keys is decided in `server.access`.
Invariant: a key's text goes to standard output, once, when it is made, and nowhere else; all other words of the
commands that make one go to standard error.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer

from server.access import changes
from server.access.changes import Issued, Wish
from server.access.findings import problems_of
from server.access.keys_file import change_keys, read_keys
from server.access.moments import moment_in, moment_text, seconds_in
from server.access.records import KeyLimits, KeyRecord, KeysProblem
from server.core.caller import SCOPES, Scope
from server.terminal import MODELS_FLAG, NOT_GOOD, configured, fail, path_of

app = typer.Typer(help="Make, list, revoke, rotate and check the keys of callers.", no_args_is_help=True)
FILE_FLAG = Annotated[
    Path,
    typer.Option("--keys", envvar="SAFELIGHT_KEYS", parser=path_of, metavar="PATH", help="The file of the keys."),
]
KEY_ARGUMENT = Annotated[str, typer.Argument(help="A key's id or name.")]
EXPIRES_FLAG = Annotated[
    str | None, typer.Option("--expires", help="When it ends: 30d, 12h, 2027-01-31 or 2027-01-31T18:00+01:00.")
]
JSON_FLAG = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("create")
def create_command(
    file: FILE_FLAG,
    name: Annotated[str, typer.Option(help="Whose key it is; no two that work have the same.")],
    scope: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(SCOPES)}; may be given several times; generate if absent.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A name that it may ask for, or BACKEND:MODEL; may be given several times; all if absent."),
    ] = None,
    local_only: Annotated[
        bool, typer.Option("--local-only", help="Nothing that it asks for leaves the server.")
    ] = False,
    expires: EXPIRES_FLAG = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="Requests in a minute.")] = None,
    images_per_minute: Annotated[int | None, typer.Option(min=1, help="Pictures in a minute.")] = None,
    concurrent_images: Annotated[int | None, typer.Option(min=1, help="Pictures on their way at one time.")] = None,
    work_units_per_day: Annotated[
        float | None, typer.Option(min=1, help="Rows x pixels x steps in a day (UTC).")
    ] = None,
    usd_per_day: Annotated[float | None, typer.Option(min=0, help="USD in a day (UTC).")] = None,
    as_json: JSON_FLAG = False,
) -> None:
    """Make a key, and print it: it is shown this once. The first one makes the file, and its secret beside it."""
    now = int(time.time())
    limits = KeyLimits(requests_per_minute, images_per_minute, concurrent_images, work_units_per_day, usd_per_day)
    wish = Wish(name, scopes_of(scope), tuple(model) if model else None, limits, local_only, moment_of(expires, now))
    try:
        issued = change_keys(file, lambda keys: changes.created(keys.file, keys.hash_of, wish, now), may_begin=True)
    except KeysProblem as problem:
        refuse(problem)
    show_issued(issued, as_json=as_json)


@app.command("rotate")
def rotate_command(
    file: FILE_FLAG,
    key: KEY_ARGUMENT,
    grace: Annotated[str, typer.Option(help="How long the old text works beside the new one: 90s, 12h, 7d.")] = "0s",
    expires: EXPIRES_FLAG = None,
    as_json: JSON_FLAG = False,
) -> None:
    """Give a key a new text, and print it. In the books it stays the same key."""
    now = int(time.time())
    grace_seconds, ends = duration_of(grace), moment_of(expires, now)
    try:
        issued = change_keys(file, lambda keys: changes.rotated(keys.file, keys.hash_of, key, now, grace_seconds, ends))
    except KeysProblem as problem:
        refuse(problem)
    show_issued(issued, as_json=as_json)


@app.command("revoke")
def revoke_command(file: FILE_FLAG, key: KEY_ARGUMENT) -> None:
    """End a key, in a running server too, within two seconds. What it has begun is finished."""
    try:
        record = change_keys(file, lambda keys: changes.revoked(keys.file, key, int(time.time())))
    except KeysProblem as problem:
        refuse(problem)
    typer.echo(f"{record.id} ({record.name}) is revoked")


@app.command("list")
def list_command(file: FILE_FLAG, as_json: JSON_FLAG = False) -> None:
    """List all keys that were ever made, and what they may do; never their texts, which are kept nowhere."""
    now = time.time()
    try:
        records = read_keys(file).file.keys
    except KeysProblem as problem:
        refuse(problem)
    if as_json:
        typer.echo(json.dumps({"keys": [facts_of(record, now) for record in records]}))
        return
    for record in records:
        typer.echo("\n".join(lines_of(record, now)))


@app.command("check")
def check_command(file: FILE_FLAG, models: MODELS_FLAG = None) -> None:
    """Read the keys as a server would; exit 1 when they cannot be used, or allow what models.yaml does not have."""
    problems = problems_of(file, configured(models=models)[1], time.time())
    if problems:
        fail(*problems, status=NOT_GOOD)
    typer.echo(f"{file}: ok")


def show_issued(issued: Issued, *, as_json: bool) -> None:
    """Once, as nothing here could show it again."""
    if as_json:
        typer.echo(json.dumps({"key": issued.text, **facts_of(issued.record, time.time())}))
        return
    typer.echo("\n".join(lines_of(issued.record, time.time())), err=True)
    typer.echo("This is the key. It is shown once; only its hash is kept:", err=True)
    typer.echo(issued.text)


def facts_of(record: KeyRecord, now_unix_seconds: float) -> dict[str, Any]:
    """All of a record but its hashes."""
    facts: dict[str, Any] = msgspec.to_builtins(record)
    del facts["kept"]
    return {**facts, "usable": record.is_usable(now_unix_seconds)}


def lines_of(record: KeyRecord, now_unix_seconds: float) -> list[str]:
    limits = {name: value for name, value in msgspec.structs.asdict(record.limits).items() if value is not None}
    return [
        f"{record.id} ({record.name})",
        f"  state   {state_of(record, now_unix_seconds)}",
        f"  may     {', '.join(record.scopes)}{', local only' if record.local_only else ''}",
        f"  models  {'all' if record.models is None else ', '.join(record.models)}",
        *([f"  limits  {', '.join(f'{name} {value:,.15g}' for name, value in limits.items())}"] if limits else []),
    ]


def state_of(record: KeyRecord, now_unix_seconds: float) -> str:
    if record.revoked_unix_seconds is not None:
        return f"revoked {moment_text(record.revoked_unix_seconds)}"
    if record.expires_unix_seconds is None:
        return "usable"
    if record.is_usable(now_unix_seconds):
        return f"usable until {moment_text(record.expires_unix_seconds)}"
    return f"expired {moment_text(record.expires_unix_seconds)}"


def scopes_of(words: list[str] | None) -> tuple[Scope, ...]:
    """Each once, in the order in which they are listed; or the end of the command."""
    wanted = words or ["generate"]
    unknown = sorted(set(wanted) - set(SCOPES))
    if unknown:
        fail(f"--scope: there is no {', '.join(map(repr, unknown))}; there are {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in wanted)


def moment_of(text: str | None, now_unix_seconds: int) -> int | None:
    try:
        return None if text is None else moment_in(text, now_unix_seconds)
    except ValueError as problem:
        fail(f"--expires: {problem}")


def duration_of(text: str) -> int:
    try:
        return seconds_in(text)
    except ValueError as problem:
        fail(f"--grace: {problem}")


def refuse(problem: KeysProblem) -> NoReturn:
    fail(str(problem), status=NOT_GOOD)
