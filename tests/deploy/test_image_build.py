"""The RUN lines of Dockerfile.cuda, run in order in folders of their own, with no package index to be reached.

No image is built: there is no Docker here. What the lines install is put together as the COPY lines say, and serves.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.files import ROOT, context, environment, run_lines
from tests.end_to_end.server_process import ServerProcess

pytestmark = [pytest.mark.whole, pytest.mark.timeout(1800)]
UNREACHABLE = "http://127.0.0.1:9/simple"


@dataclass(frozen=True, slots=True)
class Build:
    """Where the lines run: a copy of the context, an empty Python before everything on the PATH, a folder of wheels."""

    folder: Path

    @property
    def venv(self) -> Path:
        return self.folder / "venv"

    def prepare(self) -> None:
        for path in context():
            (self.folder / "source" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, self.folder / "source" / path)
        subprocess.run([sys.executable, "-m", "venv", self.folder / "python"], check=True, timeout=120)

    def run(self, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """One line, as /bin/sh of the image would run it."""
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "SAFELIGHT_"))
        }
        path = f"{self.folder / 'python' / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self.folder / "source",
            env={**clean, "PATH": path, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )

    def run_stage(self, name: str) -> list[subprocess.CompletedProcess[str]]:
        """Every RUN of a stage, with the folders that its ENV names moved here and nothing to be fetched."""
        stages = environment("libraries") | environment(name)
        places = {key: str(self.folder / Path(value).name) for key, value in stages.items() if value.startswith("/")}
        places |= {"VENV": str(self.venv)}
        settings = {key: value for key, value in stages.items() if key not in places}
        offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": UNREACHABLE, "PIP_RETRIES": "0"}
        return [self.run(line, **settings, **places, **offline) for line in run_lines(name)]


def wheelhouse_line() -> str:
    """The command by which docs/deploy.md collects the wheels."""
    found = re.search(r"^pip download (?:.*\\\n)*.*$", (ROOT / "docs" / "deploy.md").read_text(), re.MULTILINE)
    assert found
    return found[0]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """With the wheels collected as the documentation says, the only step that goes online."""
    made = Build(tmp_path_factory.mktemp("image"))
    made.prepare()
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    collected = made.run(wheelhouse_line().replace("--dest wheelhouse", f"--dest {made.folder / 'wheelhouse'}"), **pip)
    assert collected.returncode == 0, collected.stderr
    return made


def test_the_image_is_made_without_a_network_and_serves_without_models_inside(build: Build) -> None:
    installed, guard = build.run_stage("libraries")
    assert installed.returncode == 0, installed.stderr
    is_cuda = next((build.folder / "wheelhouse").glob("nvidia_*.whl"), None) is not None
    assert (guard.returncode == 0) == is_cuda, "the CPU's build of torch, and no other, stops the build"

    (application,) = build.run_stage("application")
    assert application.returncode == 0, application.stderr
    own = build.folder / "application"
    assert [path for path in own.rglob("*") if path.suffix == ".safetensors"] == []
    shutil.copytree(own, build.venv, dirs_exist_ok=True, symlinks=True)
    assert not (build.venv / "bin" / "pip").exists()

    # From a folder without our sources: Python would take those.
    program = ("env", f"--chdir={build.venv}", str(build.venv / "bin" / "python"))
    server = ServerProcess(("--models", str(ROOT / "models.yaml")), program=program)
    assert server.generate(prompt="a red circle").status_code == 200
    assert server.stop() == 0
    without = subprocess.run(
        [build.venv / "bin" / "safelight", "serve"], cwd=build.venv, capture_output=True, text=True, check=False
    )
    assert without.returncode == 2
    assert "models.yaml: cannot be read" in without.stderr
