"""What the README tells a newcomer to type works as it is written: only the server's address is another one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.server_process import ServerProcess
from tests.end_to_end.test_node_client import PROGRAM

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    """The README's fenced blocks of one language that speak to the server."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in found if ADDRESS in block and "scripts/serve" not in block]


def run(command: list[str], server: ServerProcess, folder: Path) -> str:
    """What the command prints; it must succeed."""
    environment = {
        "SAFELIGHT_SERVER": server.url,
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
    }
    finished = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_first_curl_line_answers_with_a_url(server: ServerProcess, tmp_path: Path) -> None:
    first = blocks("sh")[0].replace(ADDRESS, server.url)
    reply = json.loads(run(["bash", "-euc", first], server, tmp_path))
    assert reply["data"][0]["url"].startswith(server.url)
    assert reply["data"][0]["seed"] == 1


def test_the_lines_to_try_next_change_vary_stream_and_inspect(server: ServerProcess, tmp_path: Path) -> None:
    lines = blocks("sh")[1].replace(ADDRESS, server.url).replace(".venv/bin/safelight", "safelight")
    printed = run(["bash", "-euc", lines], server, tmp_path)
    assert printed.count('"url"') == 3  # one edit, two variations
    assert printed.count("event: image_generation.partial_image") == 2
    assert "a large red circle on a blue background" in printed.split("image_generation.completed")[-1]


def test_the_python_example_prints_a_url_and_its_seed(server: ServerProcess, tmp_path: Path) -> None:
    (example,) = (block for block in blocks("python") if "images.generate" in block)
    url, seed = run([sys.executable, "-c", example.replace(ADDRESS, server.url)], server, tmp_path).split()
    assert url.startswith(server.url)
    assert seed == "7"


@pytest.mark.whole  # tests/end_to_end/test_node_client.py has the client in the quick run
def test_the_node_example_prints_a_url(server: ServerProcess, tmp_path: Path) -> None:
    shutil.copytree(PROGRAM, tmp_path, dirs_exist_ok=True)
    run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], server, tmp_path)
    (example,) = blocks("js")
    (tmp_path / "example.mjs").write_text(example.replace(ADDRESS, server.url))
    assert run(["node", "example.mjs"], server, tmp_path).startswith(server.url)
