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

from server.api.services import Services
from server.app import build_app, build_services
from server.core.catalogue import Catalogue
from server.core.settings import Settings
from server.protocol import EnvelopeProtocol

READY_POLL_SECONDS = 0.05
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
    """uvicorn, stopped in good order: the first signal drains, the second ends at once."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's own, which raises the signal again and so skips everybody's clean-up."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in STOP_SIGNALS:
                loop.remove_signal_handler(number)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._services.dispatcher.drain()
        self._services.router.drain(self._services.settings.drain_seconds)


async def serve(
    settings: Settings, catalogue: Catalogue, listener: socket.socket, on_ready: Callable[[str, Services], None]
) -> None:
    """Serve until SIGTERM or SIGINT. `on_ready` is called once, when a worker takes jobs for the first time. Raises
    LedgerProblem when the books cannot be opened, ShelfProblem when there is no place for answers."""
    address = address_of(listener)
    with tempfile.TemporaryDirectory(prefix="safelight-") as own_folder:
        base_url = settings.public_base_url or address
        services = build_services(settings, catalogue, base_url, Path(own_folder))
        server = _Server(_config(services), services)
        await services.desk.open()
        # Before anything is accepted, and until the last of it is settled.
        await services.ledger.open()
        announcer = asyncio.create_task(_announce(server, services, lambda: on_ready(address, services)))
        try:
            await server.serve(sockets=[listener])
        finally:
            announcer.cancel()
            await asyncio.gather(announcer, return_exceptions=True)
            await services.ledger.close()


def _config(services: Services) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(services),
        log_config=None,
        access_log=False,
        http=EnvelopeProtocol,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=services.settings.drain_seconds + REPLY_SECONDS,
        lifespan="on",
    )


async def _announce(server: uvicorn.Server, services: Services, on_ready: Callable[[], None]) -> None:
    await services.dispatcher.is_ready.wait()
    while not server.started:  # noqa: ASYNC110 (uvicorn offers no event to wait for)
        await asyncio.sleep(READY_POLL_SECONDS)
    on_ready()
