"""The command `safelight usage`: a table of what was drawn per day, key and model, or the same as JSON.

Knows flags, a terminal and, where it is at hand, the file of keys; asks and adds nothing itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from server.access.keys_file import read_keys
from server.access.records import KEY_ID, KeyRecord, KeysProblem
from server.connection import ServerProblem
from server.terminal import DEFAULT_SERVER, KEY_FLAG, NOT_GOOD, SERVER_FLAG, fail, path_of, visible
from server.usage_report import Line, NoUsage, Wanted, lines, total

USUAL_DAYS = 7
# Of what is no terminal: rich takes that for a narrow one, and would cut names short.
FILE_COLUMNS = 200
_encoder = msgspec.json.Encoder(decimal_format="number")
DAY = ["%Y-%m-%d"]
COLUMNS: dict[str, Literal["left", "right"]] = {
    **dict.fromkeys(("day", "key", "model"), "left"),
    **dict.fromkeys(("pictures", "work units", "failures", "cancelled", "USD"), "right"),
}


def usage_command(
    since: Annotated[
        datetime | None, typer.Option(formats=DAY, help="The first day (UTC); a week until the last if absent.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(formats=DAY, help="The last day (UTC); today if absent.")] = None,
    key_id: Annotated[
        list[str] | None, typer.Option(help="Whose, by the key's id; may be given several times. All if absent.")
    ] = None,
    server: SERVER_FLAG = DEFAULT_SERVER,
    key: KEY_FLAG = None,
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            envvar="SAFELIGHT_KEYS",
            parser=path_of,
            metavar="PATH",
            help="The file of keys, to tell a name's id.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what was drawn and what it cost, per day, key and model: one's own, or with an admin key everybody's."""
    last = until.date() if until else datetime.now(UTC).date()
    first = since.date() if since else last - timedelta(days=USUAL_DAYS - 1)
    if first > last:
        fail(f"--since {first} lies after --until {last}")
    try:
        found = lines(Wanted(server, key, first, last, key_id or ()))
    except NoUsage as refusal:
        fail(str(refusal), *(hint for one in key_id or () for hint in hints(one, keys)), status=NOT_GOOD)
    except ServerProblem as problem:
        fail(str(problem), status=NOT_GOOD)
    for line in notes(key_id or (), found, first, last, keys):
        typer.secho(f"note: {visible(line)}", fg="yellow", err=True)
    if as_json:
        typer.echo(_encoder.encode({"lines": [asdict(one) for one in found], "total": asdict(total(found))}).decode())
        return
    typer.echo(f"{first} to {last}, days of UTC")
    console = Console()
    (console if console.is_terminal else Console(width=FILE_COLUMNS)).print(table(found))


def notes(wanted: Sequence[str], found: list[Line], first: date, last: date, keys: Path | None) -> list[str]:
    """What was asked for and is not in the table, a line each: an id was mistyped, or a name was taken for one."""
    there = {line.key_id for line in found}
    return [
        " ".join((f"no rows of --key-id {one!r} from {first} to {last}.", *hints(one, keys)))
        for one in dict.fromkeys(wanted)
        if one not in there
    ]


def hints(wanted: str, keys: Path | None) -> list[str]:
    """What may have been meant by what finds nothing."""
    ids = [f"{record.id}{' (revoked)' * (record.revoked_unix_seconds is not None)}" for record in called(wanted, keys)]
    if ids:
        return [f"The books know keys by their ids; the key named {wanted!r} is {' or '.join(ids)}."]
    is_id = KEY_ID.search(wanted) is not None
    return [] if is_id else ["The books know keys by their ids, which `safelight keys list` prints."]


def called(name: str, keys: Path | None) -> list[KeyRecord]:
    """The keys of this name, those that work first; none where the file is not at hand, which is most often the
    server's alone."""
    if keys is None:
        return []
    try:
        records = read_keys(keys).file.keys
    except KeysProblem:
        return []
    named = (record for record in records if record.name == name)
    return sorted(named, key=lambda record: record.revoked_unix_seconds is not None)


def table(found: list[Line]) -> Table:
    """A row each, and their sum below."""
    made = Table(box=box.SIMPLE_HEAD, show_footer=True)
    footers = [Text("total"), Text(), Text(), *cells(total(found))[3:]]
    for (name, justify), footer in zip(COLUMNS.items(), footers, strict=True):
        made.add_column(name, footer=footer, justify=justify, overflow="fold")
    for one in found:
        made.add_row(*cells(one))
    return made


def cells(one: Line) -> list[Text]:
    """As plain text: a name may look like rich's own markup."""
    numbers = (one.images, one.work_units, one.failures, one.cancelled)
    names = (str(one.day), one.key_id or "-", one.model or "-")
    return [Text(visible(text)) for text in (*names, *(f"{value:,.0f}" for value in numbers), f"{one.cost_usd:,f}")]
