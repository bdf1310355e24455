"""A whole day of one server, from its start to its stop, and what went out meanwhile: one JSON object at the end.

`python -m tests.end_to_end.offline_day FOLDER [--online] [--alone]`. FOLDER is empty, for models.yaml and records.
--online is a day without the setting `offline`. --alone says that this runs in a network namespace of its own: its
loopback is brought up, and the kernel's own count of packets without a way is read.
"""

from __future__ import annotations

import argparse
import array
import base64
import fcntl
import io
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from tests.end_to_end.server_process import SMALL, ServerProcess

ROOT = Path(__file__).resolve().parents[2]
COUNTER = Path(__file__).resolve().parent / "outbound" / "sitecustomize.py"
# Public addresses, so that the server would dial them; a name, so that it would be looked up.
ELSEWHERE, ELSEWHERE_BY_NAME = "http://1.1.1.1/picture.png", "https://pictures.example.com/picture.png"
PROXY = "http://10.255.255.1:3128"
CATALOGUE = """\
default_model: demo-sdxl
models:
  demo-sdxl:
    family: sdxl
    source: {demo}
    defaults: {{size: 256x256, steps: 2}}
    limits: {{side_multiple_px: 16}}
  not-here:
    family: sdxl
    hub: {{repository: owner/name, revision: "{commit}", mirrors: ["https://mirror.example.com/owner/name@{commit}"]}}
"""
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
# The kernel's names for packets that had no way to where they should go.
NO_ROUTE = {"/proc/net/snmp": "OutNoRoutes", "/proc/net/snmp6": "Ip6OutNoRoutes"}


@dataclass
class Day:
    """What happened: the status, or the exit status, of every step, its words, and how long it took."""

    steps: dict[str, tuple[int, str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def do(self, name: str, act: Callable[[], tuple[int, str]]) -> None:
        began = time.monotonic()
        self.steps[name] = act()
        self.seconds[name] = time.monotonic() - began


def raise_loopback() -> None:
    """A new network namespace has a loopback that is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = array.array("B", struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(any_socket, SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("h", request, 16)
        struct.pack_into("h", request, 16, flags | IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)


def packets_without_a_way() -> int:
    """Since this network namespace began, of all its processes, whatever they are written in."""
    rows = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")]
    counts = dict(zip(*rows, strict=True)) | dict(
        line.split() for line in Path("/proc/net/snmp6").read_text().splitlines()
    )
    return sum(int(counts[name]) for name in NO_ROUTE.values())


def environment_of(folder: Path, *, is_online: bool) -> dict[str, str]:
    """As open as an operator can leave it, but for the one setting that is tried."""
    return {
        "PYTHONPATH": os.pathsep.join(
            filter(None, (str(folder / "outbound"), str(ROOT), os.environ.get("PYTHONPATH")))
        ),
        "SAFELIGHT_OFFLINE": str(not is_online).lower(),
        "SAFELIGHT_IMAGE_URLS": "open",
        "SAFELIGHT_MODELS": str(folder / "models.yaml"),
        "HTTP_PROXY": PROXY,
        "HTTPS_PROXY": PROXY,
        "ALL_PROXY": PROXY,
        "HF_HOME": str(folder / "home"),
    }


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (256, 256), "red").save(file, "PNG")
    return file.getvalue()


def command(*arguments: str, environment: dict[str, str]) -> tuple[int, str]:
    """One command line of ours; its exit status and all that it printed."""
    finished = subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return finished.returncode, finished.stdout


def spend(folder: Path, *, is_online: bool) -> Day:
    """Start, draw, change, refuse, fail, stop; the command line beside it. Online only what could go out."""
    (folder / "outbound").mkdir()
    shutil.copy(COUNTER, folder / "outbound")
    demo = ROOT / "pipelines" / "demo" / "demo-sdxl"
    (folder / "models.yaml").write_text(CATALOGUE.format(demo=demo, commit="0" * 40))
    environment = environment_of(folder, is_online=is_online)
    day = Day()
    began = time.monotonic()
    server = ServerProcess(environment=environment)
    day.steps["start"], day.seconds["start"] = (0, ""), time.monotonic() - began
    try:
        # Not through the proxy that the server is given.
        with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
            reach_out(day, client, environment)
            if not is_online:
                ask_everything(day, client, folder, environment)
    finally:
        day.do("stop", lambda: (server.stop(), ""))
    (folder / "log").write_text("".join(server.lines))
    return day


def reach_out(day: Day, client: httpx.Client, environment: dict[str, str]) -> None:
    for name, url in {"picture by address": ELSEWHERE, "picture by name": ELSEWHERE_BY_NAME}.items():
        request = client.build_request("POST", "/v1/images/generations", json={**SMALL, "prompt": "a", "image": url})
        day.do(name, lambda request=request: answered(client.send(request)))  # type: ignore[misc]
    day.do("pull", lambda: command("models", "pull", "not-here", environment=environment))


def ask_everything(day: Day, client: httpx.Client, folder: Path, environment: dict[str, str]) -> None:
    def post(name: str, path: str = "/v1/images/generations", **request: Any) -> None:
        day.do(name, lambda: answered(client.post(path, **request)))

    def get(name: str, path: str) -> None:
        day.do(name, lambda: answered(client.get(path)))

    body = {**SMALL, "prompt": "a red circle", "response_format": "b64_json"}
    file = picture()
    get("ready", "/health/ready")
    get("models", "/v1/models")
    get("docs", "/docs")
    post("generation", json=body)
    post("image to image", json={**body, "image": base64.b64encode(file).decode(), "strength": 0.8})
    form = {name: str(value) for name, value in body.items()}
    post("edit", "/v1/images/edits", data=form, files={"image": ("x.png", file, "image/png")})
    post("unknown parameter", json={**body, "colour": "red"})
    post("absent model", json={**body, "model": "not-here"})
    drawn = ("draw", "a circle", "--size", "256x256", "--steps", "2", "--server", str(client.base_url))
    for name, arguments in {
        "draw": (*drawn, "--output", str(folder / "drawn.png")),
        "check": ("check",),
        "list": ("models",),
        "verify": ("models", "verify", "demo-sdxl"),
    }.items():
        day.do(name, lambda arguments=arguments: command(*arguments, environment=environment))  # type: ignore[misc]


def answered(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.text if answer.is_error or "html" in answer.headers["content-type"] else ""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--online", action="store_true")
    parser.add_argument("--alone", action="store_true")
    flags = parser.parse_args()
    if flags.alone:
        raise_loopback()
    day = spend(flags.folder, is_online=flags.online)
    lost = packets_without_a_way() if flags.alone else None
    print(json.dumps({"steps": day.steps, "seconds": day.seconds, "packets_without_a_way": lost}))


if __name__ == "__main__":
    main()
