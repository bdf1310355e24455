"""The client behind `safelight models load`, `unload`, `pin` and `unpin`: asks a running server, and follows the model;
and behind `safelight reload`.

Knows the admin routes and GET /v1/models; knows nothing of the server's inside.
Invariant: a command ends when the model is where it was to be, or with the reason why it is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from server.connection import ServerProblem, connected, message_of

TIMEOUT_SECONDS, RELOAD_SECONDS = 10.0, 60.0
LOOK_SECONDS = 0.2
Model = dict[str, Any]


class SteeringFailed(ServerProblem):
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
    """Ask, and wait until it is so. Raises ServerProblem."""
    name = quote(model, safe="/")
    with connected(server, key, TIMEOUT_SECONDS) as client:
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


def reload(server: str, key: str | None) -> dict[str, Any]:
    """Have models.yaml read again; what was taken over of it. Raises ServerProblem."""
    with connected(server, key, RELOAD_SECONDS) as client:
        return _described(client.post("/admin/reload"))


def _described(answer: httpx2.Response) -> Model:
    if not answer.is_success:
        raise SteeringFailed(message_of(answer.content))
    try:
        body: Model = answer.json()
    except ValueError:
        raise SteeringFailed(message_of(answer.content)) from None
    return body
