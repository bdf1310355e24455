"""From settings to a server that has ended: what `safelight serve` does, and what its terminal reads.

Knows the terminal, the socket and every reason why a server does not start; builds no part of it.
"""

from __future__ import annotations

import asyncio
import sys

import typer

from server.access.door import door_of
from server.access.records import KeysProblem
from server.api.services import Services
from server.core import log
from server.core.catalogue import Catalogue
from server.core.settings import Settings
from server.idempotency.shelf import ShelfProblem
from server.ledger.problem import LedgerProblem
from server.listener import bind, serve
from server.policy.building import PolicyProblem
from server.terminal import fail


def serve_until_stopped(settings: Settings, catalogue: Catalogue) -> None:
    """Until SIGTERM or SIGINT; ends the process with a reason where the server cannot start."""
    try:
        door_of(settings)  # before anything listens
    except KeysProblem as problem:
        fail(str(problem))
    log.configure(settings.log_level)
    if not settings.is_loopback and settings.public_base_url is None:
        note = "SAFELIGHT_PUBLIC_BASE_URL is not set: result URLs will lead other machines nowhere, or to themselves"
        typer.secho(f"note: {note}", fg="yellow", err=True)
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        fail(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Is another server running?")
    with listener:
        try:
            asyncio.run(serve(settings, catalogue, listener, print_welcome))
        except LedgerProblem as problem:
            fail(f"SAFELIGHT_LEDGER: {problem}")
        except ShelfProblem as problem:
            fail(f"SAFELIGHT_IDEMPOTENCY_FOLDER: {problem}")
        except KeysProblem as problem:
            fail(str(problem))
        except PolicyProblem as problem:
            fail(*problem.problems)


def print_welcome(address: str, services: Services) -> None:
    """The address, and a line that draws a first picture when pasted into a shell."""
    reports = [services.dispatcher.reports(model)[0] for model in services.catalogue.models]
    served = ", ".join(report.id for report in reports if not report.problem) or "no model at all"
    typer.echo(f"\nSafelight serves {served} on {address}")
    for report in reports:
        if report.problem:
            typer.secho(f"  {report.id} is unavailable: {report.problem}", fg="yellow")
    key = '-H "Authorization: Bearer $SAFELIGHT_KEY" ' if services.door.asks_for_keys else ""
    body = '{"prompt": "a large red circle on a blue background", "response_format": "b64_json"}'
    typer.echo(
        "\nA first picture, into picture.png:\n\n"
        f"  curl -s {address}/v1/images/generations {key}-H 'Content-Type: application/json' -d '{body}' \\\n"
        """    | python3 -c 'import base64, json, sys; """
        """sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)["data"][0]["b64_json"]))' > picture.png\n"""
    )
    sys.stdout.flush()
