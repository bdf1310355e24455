"""Writes down every attempt of a Python process to reach another machine: Python runs this file before anything else.

Knows Python's audit events of sockets; what compiled code does by itself it does not see (the kernel's count does).
It writes beside itself, as some processes are given no environment: copy it into a folder of its own, and put that on
PYTHONPATH.
Invariant: an attempt is in the file before it is made, or the process ends: none goes by unseen.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import socket
import sys
from pathlib import Path

RECORD = "attempts"
# Of each event: where among its arguments the host or the address stands.
COUNTED = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.getnameinfo": 0,
}


def is_local(target: object) -> bool:
    """Whether a host or a socket's address is this machine by number, a path of this machine, or nobody at all."""
    if isinstance(target, tuple):
        return is_local(target[0])
    if target is None:
        return True
    text = target.decode("latin-1") if isinstance(target, bytes) else str(target)
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(text).is_loopback
    return False


def start_counting(path: str) -> None:
    # Opened now: some processes may open and write no file later.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(**facts: object) -> None:
        os.write(descriptor, json.dumps({"pid": os.getpid(), **facts}).encode() + b"\n")

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if event not in COUNTED:
            return
        first, target = arguments[0], arguments[COUNTED[event]]
        if isinstance(first, socket.socket) and first.family == socket.AF_UNIX:
            return
        if not is_local(target):
            try:
                write(attempt=event, target=repr(target))
            except OSError:
                os.abort()

    offline = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")}
    write(began=sys.orig_argv, **offline)
    sys.addaudithook(count)


if __name__ == "sitecustomize":
    start_counting(str(Path(__file__).with_name(RECORD)))
