"""`safelight models` fetches, checks and carries models: real processes on copies of the embedded model."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("may_go_online")

DEMO = Path(__file__).resolve().parents[2] / "pipelines" / "demo" / "demo-sdxl"
CATALOGUE = """\
default_model: mine
models:
  mine:
    family: sdxl
    source: mine
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """models.yaml with one model beside it, which has its manifest."""
    shutil.copytree(DEMO, tmp_path / "mine")
    (tmp_path / "models.yaml").write_text(CATALOGUE)
    assert models(tmp_path, "add", "mine").returncode == 0
    return tmp_path


def models(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", "models", "--models", str(folder / "models.yaml"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_a_model_that_is_added_has_an_entry_to_paste_and_verifies(folder: Path) -> None:
    entry = models(folder, "add", "mine").stdout
    assert "family: sdxl" in entry
    assert str(folder / "mine") in entry
    verified = models(folder, "verify")
    assert (verified.returncode, verified.stdout) == (0, "1 models are as their manifests say\n")


def test_a_flipped_bit_is_found_and_its_file_named(folder: Path) -> None:
    weights = folder / "mine" / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    verified = models(folder, "verify", "mine")
    assert verified.returncode == 1
    assert "vae/diffusion_pytorch_model.safetensors" in verified.stderr


def test_an_archive_carries_a_model_to_another_place(folder: Path) -> None:
    assert models(folder, "export", "mine", "models.archive").returncode == 0
    imported = models(folder, "import", "models.archive", "--into", "elsewhere")
    assert imported.returncode == 0, imported.stderr
    first, second = folder / "mine", folder / "elsewhere" / "mine"
    assert contents(first) == contents(second)


def contents(place: Path) -> dict[str, bytes]:
    """All files but the manifest, which notes when they were written."""
    paths = (path for path in place.rglob("*") if path.is_file() and path.name != "safelight.manifest")
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("export", "nobody", "models.archive"), "models.yaml has no model nobody; it has mine"),
        (("import", "models.yaml", "--into", "elsewhere"), "models.yaml"),
        (("add", "nowhere"), "nowhere does not exist"),
        (("pull", "x", "--into", "there", "--source", "http://127.0.0.1:9/some/model@main"), "cannot be reached"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(folder: Path, arguments: tuple[str, ...], reason: str) -> None:
    refused = models(folder, *arguments)
    assert refused.returncode != 0
    assert reason in refused.stderr
    assert not (folder / "elsewhere").exists()
