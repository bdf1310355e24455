"""Runs the application on a socket that is already bound, and says when it can draw.

Knows uvicorn and signals; knows no routes.
Invariant: when `serve` returns, the worker is gone and the port is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from starlette.datastructures import State
from starlette.types import ASGIApp

from server.api.services import Services
from server.app import build_app, build_services
from server.core.catalogue import Catalogue
from server.core.loop_lag import LagListener
from server.core.settings import Settings
from server.leaving import STOP_SIGNALS, Leaving, signals
from server.protocol import EnvelopeProtocol
from server.reload import Reloader

READY_POLL_SECONDS = 0.05
# After the drain time, how long the refusals may take to reach their callers.
REPLY_SECONDS = 2


def bind(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError when the address is taken or not ours."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket) -> str:
    """The URL of a bound socket, as a client on this machine writes it; loopback's, where it has all addresses."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's own, which raises the signal again and so skips everybody's clean-up."""
        yield


async def serve(
    settings: Settings,
    catalogue: Catalogue,
    listener: socket.socket,
    on_ready: Callable[[str, Services], None],
    on_lag: LagListener | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP has models.yaml read again. `on_ready` is called once, when a worker takes
    jobs for the first time. on_lag: hears how late the event loop is, in the place of the metrics.

    Raises LedgerProblem when the books cannot be opened, ShelfProblem when there is no place for answers.
    """
    address = address_of(listener)
    with tempfile.TemporaryDirectory(prefix="safelight-") as own_folder:
        services = build_services(settings, catalogue, settings.public_base_url or address, Path(own_folder))
        reloader = Reloader(State({"services": services}))
        server = _Server(_config(build_app(services, reloader, on_lag)))
        leaving = Leaving(server, services, reloader.editions, Path(own_folder))
        with signals((signal.SIGHUP,), lambda _: reloader.by_signal()):
            await services.desk.open()
            # Before anything is accepted, and until the last of it is settled.
            if not await _opened(services):
                return
            announcer = asyncio.create_task(_announce(server, services, lambda: on_ready(address, services)))
            try:
                with signals(STOP_SIGNALS, leaving.signalled):
                    await server.serve(sockets=[listener])
            finally:
                announcer.cancel()
                await asyncio.gather(announcer, return_exceptions=True)
                await services.ledger.close()
                leaving.finish()


async def _opened(services: Services) -> bool:
    """Open the books; False when a signal came first."""
    opening = asyncio.create_task(services.ledger.open())
    with signals(STOP_SIGNALS, lambda _: opening.cancel()):
        try:
            await opening
        except asyncio.CancelledError:
            return False
    return True


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=EnvelopeProtocol,
        ws="none",
        server_header=False,
        # The drain time has passed by then.
        timeout_graceful_shutdown=REPLY_SECONDS,
        lifespan="on",
    )


async def _announce(server: uvicorn.Server, services: Services, on_ready: Callable[[], None]) -> None:
    await services.dispatcher.is_ready.wait()
    while not server.started:  # noqa: ASYNC110 (uvicorn offers no event to wait for)
        await asyncio.sleep(READY_POLL_SECONDS)
    on_ready()
