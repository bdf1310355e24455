"""How the commands reach a running server, and what they say when it cannot be reached or refuses.

Knows HTTP and a server's address; knows no routes.
Invariant: whatever goes wrong on the way is one sentence for the person at the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2


class ServerProblem(Exception):
    """A server did not do what was asked; the text is for the person at the terminal."""


@contextmanager
def connected(server: str, key: str | None, timeout: httpx2.Timeout | float) -> Iterator[httpx2.Client]:
    """A client of the server, without the environment's proxies. Raises ServerProblem."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.Client(base_url=server, headers=headers, timeout=timeout, trust_env=False) as client:
            yield client
    except httpx2.ConnectError:
        raise ServerProblem(f"No server answers at {server}. Start one with `safelight serve`.") from None
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise ServerProblem(f"The connection to {server} failed: {type(error).__name__}.") from None


def message_of(body: bytes) -> str:
    """What a refusal says."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "The answer is none of Safelight's. Is another program listening there?"
