"""What a soak sends: requests of every kind that ends differently, in a fixed order, so that a run can be repeated.

Knows the API; keeps nothing but what the replies delivered.
Invariant: the number of a request says all of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

import httpx

from tests.server.picture_files import RED, file_of, plain, text_of

PICTURE = text_of(file_of(plain("RGB", (64, 64), RED)))
GENERATIONS, EDITS, VARIATIONS = (f"/v1/images/{word}" for word in ("generations", "edits", "variations"))


class Mix:
    """Safe to use from several threads, each with a client of its own. delivered: pictures in replies so far."""

    def __init__(self) -> None:
        self.delivered, self.statuses = 0, dict[int, int]()
        self._lock = threading.Lock()

    def send(self, client: httpx.Client, number: int) -> None:
        """Raises AssertionError when the answer is another than it must be."""
        kind = KINDS[number % len(KINDS)]
        status, pictures = kind(client, number)
        with self._lock:
            self.delivered += pictures
            self.statuses[status] = self.statuses.get(status, 0) + 1


Ended = tuple[int, int]


def good(client: httpx.Client, number: int) -> Ended:
    body = {"prompt": f"a red circle {number}", "seed": number, "response_format": "b64_json"}
    return _answered(client.post(GENERATIONS, json=body), 200)


def two(client: httpx.Client, number: int) -> Ended:
    body = {"prompt": "a blue star", "seed": number, "n": 2, "steps": 2, "output_format": "jpeg"}
    return _answered(client.post(GENERATIONS, json=body), 200)


def edit(client: httpx.Client, number: int) -> Ended:
    body = {"prompt": "a star", "seed": number, "image": PICTURE, "strength": 1.0, "size": "64x64"}
    return _answered(client.post(EDITS, json=body), 200)


def form(client: httpx.Client, _: int) -> Ended:
    files = {"image": ("x.png", file_of(plain("RGB", (64, 64), RED)), "image/png")}
    return _answered(client.post(VARIATIONS, data={"strength": "1"}, files=files), 200)


def streamed(client: httpx.Client, number: int) -> Ended:
    body = {"prompt": "a heart", "seed": number, "steps": 3, "stream": True, "partial_images": 2}
    with client.stream("POST", GENERATIONS, json=body) as reply:
        text = reply.read().decode()
    assert "image_generation.completed" in text, text[:300]
    return reply.status_code, 1


def gone(client: httpx.Client, number: int) -> Ended:
    """The client leaves: before, while or after it is drawn, as it happens."""
    body = {"prompt": "a ring", "seed": number, "steps": 30, "n": 2, "response_format": "b64_json"}
    with contextlib.suppress(httpx.ReadTimeout):
        return _answered(client.post(GENERATIONS, json=body, timeout=0.02 + number % 7 * 0.02), 200)
    return 499, 0


def bad_size(client: httpx.Client, number: int) -> Ended:
    return _answered(client.post(GENERATIONS, json={"prompt": "a", "size": f"{number}x1"}), 400)


def bad_picture(client: httpx.Client, number: int) -> Ended:
    body = {"prompt": "a", "image": PICTURE[: 40 + number % 10 * 4]}
    return _answered(client.post(GENERATIONS, json=body), 400)


def bad_body(client: httpx.Client, number: int) -> Ended:
    return _answered(client.post(GENERATIONS, content=b"[" * number, headers={"content-type": "application/json"}), 400)


def nowhere(client: httpx.Client, number: int) -> Ended:
    return _answered(client.get(f"/nope/{number}"), 404)


def models(client: httpx.Client, _: int) -> Ended:
    reply = client.get("/v1/models")
    assert reply.status_code == httpx.codes.OK
    return 200, 0


def _answered(reply: httpx.Response, status: int) -> Ended:
    assert reply.status_code == status, reply.text[:300]
    return status, len(reply.json()["data"]) if status == httpx.codes.OK else 0


KINDS: tuple[Callable[[httpx.Client, int], Ended], ...] = (
    *(good, good, bad_size, streamed, good, edit, nowhere, good, gone, two),
    *(good, bad_picture, good, models, form, good, bad_body, streamed, good, gone),
)
