"""The server needs a /tmp and nothing else: the root is read-only, the user unknown, and there may be no home."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.deploy.files import environment
from tests.end_to_end.server_process import ServerProcess

# No line of /etc/passwd has it.
USER = "12345"
VIEW = (
    *("unshare", "--mount", "--map-root-user", sys.executable, str(Path(__file__).with_name("read_only_view.py"))),
    *("unshare", "--user", f"--map-user={USER}", f"--map-group={USER}"),
)
PROBE = """
import os, pathlib, pwd
try: pwd.getpwuid(os.getuid())
except KeyError: print("nobody", os.getuid())
for folder in (".", "/dev/shm", "/var/tmp", "/tmp"):
    try: (pathlib.Path(folder) / "written").write_text("")
    except OSError as error: print(folder, error.strerror)
"""


@pytest.fixture(autouse=True)
def _a_machine_that_gives_a_view_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    if any(Path(place).resolve().is_relative_to("/tmp") for place in (sys.prefix, __file__)):  # noqa: S108
        pytest.skip("the view has a /tmp of its own, and this checkout or its environment lies in the other one")
    if subprocess.run([*VIEW, "true"], check=False, capture_output=True, timeout=30).returncode != 0:
        pytest.skip("this machine gives no user and mount namespaces")


def test_the_view_is_closed_but_for_its_tmp() -> None:
    command = [*VIEW, sys.executable, "-c", PROBE]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    refused = [f"{folder} Read-only file system" for folder in (".", "/dev/shm", "/var/tmp")]  # noqa: S108
    assert printed.splitlines() == [f"nobody {USER}", *refused]


def draws_and_decodes(server: ServerProcess) -> None:
    """A picture kept as a file and read again, and one that starts from a caller's picture."""
    drawn = server.generate(prompt="a red circle").json()["data"][0]
    assert httpx.get(drawn["url"]).content.startswith(b"\x89PNG")
    sent = server.generate(prompt="a red circle", response_format="b64_json").json()["data"][0]["b64_json"]
    assert server.generate(prompt="a blue circle", image=sent).status_code == 200


@pytest.mark.whole
def test_it_draws_for_an_unknown_user_with_the_images_environment() -> None:
    own = {name: value for name, value in environment("").items() if name not in ("PATH", "SAFELIGHT_MODELS")}
    server = ServerProcess(environment=own, program=(*VIEW, sys.executable))
    draws_and_decodes(server)
    assert server.stop() == 0


@pytest.mark.whole
def test_it_draws_for_an_unknown_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    server = ServerProcess(program=(*VIEW, sys.executable))
    assert b"HOME=" not in Path(f"/proc/{server.process.pid}/environ").read_bytes()
    draws_and_decodes(server)
    assert server.stop() == 0
