"""What stands where a Redis was and answers something else: a socket that sends the same bytes to whatever it is asked.

Knows sockets; knows nothing of what is asked.
Invariant: nothing of it is left once it was closed.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def answering(place: Path, answer: bytes, *, is_endless: bool = False) -> Iterator[None]:
    """At this path of a socket, until it is left. is_endless: once asked, it never ends to answer."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, answer, is_endless), daemon=True)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            place.unlink()
            thread.join(10)


def _serve(listener: socket.socket, answer: bytes, is_endless: bool) -> None:
    lines: list[threading.Thread] = []
    with suppress(OSError):
        while True:
            line, _ = listener.accept()
            lines.append(threading.Thread(target=_talk, args=(line, answer, is_endless), daemon=True))
            lines[-1].start()
    for thread in lines:
        thread.join(10)


def _talk(line: socket.socket, answer: bytes, is_endless: bool) -> None:
    with line, suppress(OSError):
        while line.recv(65536):
            line.sendall(answer)
            while is_endless:
                line.sendall(answer)
