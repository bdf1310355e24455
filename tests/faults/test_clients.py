"""Clients that leave, dawdle or come all at once cost the house nothing that lasts."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from typing import Any

import pytest

from tests.hostile.case import asking, message
from tests.hostile.pictures import SMALL
from tests.invariants import House, counts, read_only
from tests.server.picture_files import text_of

LONG: dict[str, Any] = {"size": "512x512", "steps": 60, "n": 2, "response_format": "b64_json"}
# How much of the request is sent, or how long its client waits then, before it leaves.
PHASES = {
    "in the midst of the head": (asking(**LONG)[:30], 0.0),
    "in the midst of the body": (asking(**LONG)[:-10], 0.05),
    "as soon as all is sent": (asking(**LONG), 0.0),
    "while it waits": (asking(**LONG), 0.05),
    "while its picture is decoded": (asking(image=text_of(SMALL), **LONG), 0.01),
    "while it is drawn": (asking(**LONG), 1.5),
    "while it is streamed": (asking(**LONG, stream=True, partial_images=3), 1.5),
    "before the stream begins": (asking(**LONG, stream=True), 0.0),
}
QUICK = ("while it is drawn", "while it is streamed")
# In waves, as one machine has ports and descriptors for so many at once.
AT_ONCE, IN_ALL = 1000, 10_000


def connection_to(house: House) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(house.server.url.rpartition(":")[2])), timeout=60)


def uncounted(house: House) -> None:
    """Pictures that were drawn while their client left are in the books and in no reply."""
    deadline = time.monotonic() + 30
    while True:
        with read_only(house.books) as books:
            still_open, good = counts(books, "sum(outcome IS NULL), sum(outcome = 'succeeded')", "ledger_entries")
        if not still_open:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 0 <= good - house.told.pictures <= 2
    house.told.pictures = good


@pytest.mark.parametrize(
    "reset", [pytest.param(False, id="politely"), pytest.param(True, id="by a reset", marks=pytest.mark.whole)]
)
@pytest.mark.parametrize(
    "phase", [pytest.param(phase, marks=[] if phase in QUICK else [pytest.mark.whole]) for phase in PHASES]
)
def test_a_client_that_leaves_takes_its_work_with_it(house: House, phase: str, reset: bool) -> None:
    sent, seconds = PHASES[phase]
    with connection_to(house) as connection:
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(sent)
        time.sleep(seconds)
    uncounted(house)
    house.assert_sound()


@pytest.mark.whole
def test_a_reader_of_one_byte_a_second_keeps_nobody_waiting(house: House) -> None:
    with connection_to(house) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(asking(n=4, size="512x512", response_format="b64_json"))
        for _ in range(10):
            assert slow.recv(1)
            began = time.monotonic()
            house.draw()
            assert time.monotonic() - began < 10
            time.sleep(1)
    house.told.pictures += 4
    house.assert_sound()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "total", [pytest.param(60, id="60"), pytest.param(IN_ALL, id="10,000", marks=pytest.mark.whole)]
)
def test_thousands_at_once_are_each_answered_once_with_pictures_or_with_a_time_to_come_back(
    house: House, total: int
) -> None:
    port = int(house.server.url.rpartition(":")[2])
    body = json.dumps({"prompt": "a red circle", "response_format": "b64_json"}).encode()
    sent = message(body, Connection="close")
    answers: Counter[int] = Counter()

    async def one(gate: asyncio.Semaphore) -> None:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            reply = await reader.read()
            writer.close()
        head, _, content = reply.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        answers[status] += 1
        if status == 200:
            house.told.add(json.loads(content))
        else:
            assert json.loads(content)["error"]["code"] == "server_is_overloaded"
            assert b"retry-after: " in head

    async def all_at_once() -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(one(gate) for _ in range(total)))

    asyncio.run(all_at_once())
    assert answers[200] + answers[503] == total, answers
    assert answers[200] >= 1
    house.assert_sound()
