"""The client behind `safelight models load`, `unload`, `pin` and `unpin`: asks a running server, and follows the model.

Knows the admin routes and GET /v1/models; knows nothing of the server's inside.
Invariant: a command ends when the model is where it was to be, or with the reason why it is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

TIMEOUT_SECONDS = 10.0
LOOK_SECONDS = 0.2
Model = dict[str, Any]


class SteeringFailed(Exception):
    """The model is not where it was to be; the text is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a verb asks for: `is_met` by the model as the server describes it."""

    verb: str
    is_met: Callable[[Model], bool]


WISHES = {
    wish.verb: wish
    for wish in (
        Wish("load", lambda model: model["state"] == "device"),
        Wish("unload", lambda model: model["state"] in ("disk", "absent", "failed")),
        Wish("pin", lambda model: model["pinned"] and model["state"] == "device"),
        Wish("unpin", lambda model: not model["pinned"]),
    )
}


def steer(server: str, key: str | None, wish: Wish, model: str, patience_seconds: float) -> Model:
    """Ask, and wait until it is so. Raises SteeringFailed."""
    name = quote(model, safe="/")
    with _client(server, key) as client:
        before = _described(client.get(f"/v1/models/{name}"))
        now = _described(client.post(f"/admin/models/{name}/{wish.verb}"))
        deadline = time.monotonic() + patience_seconds
        while not wish.is_met(now):
            if now["problem"] is not None and now["problem"] != before["problem"]:
                raise SteeringFailed(f"{model}: {now['problem']}")
            if time.monotonic() > deadline:
                raise SteeringFailed(f"{model} is still {now['state']} after {patience_seconds:g} seconds.")
            time.sleep(LOOK_SECONDS)
            now = _described(client.get(f"/v1/models/{name}"))
    return now


@contextmanager
def _client(server: str, key: str | None) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.Client(base_url=server, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            yield client
    except httpx2.ConnectError:
        raise SteeringFailed(f"No server answers at {server}. Start one with `safelight serve`.") from None
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise SteeringFailed(f"The connection to {server} failed: {type(error).__name__}.") from None


def _described(answer: httpx2.Response) -> Model:
    try:
        body: Model = answer.json()
        if answer.is_success:
            return body
        message = str(body["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = "The answer is none of Safelight's. Is another program listening there?"
    raise SteeringFailed(message)
