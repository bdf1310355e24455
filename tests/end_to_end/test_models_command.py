"""`safelight models` fetches, checks and carries models: real processes on copies of the embedded model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.weights.manifest import folder_name
from tests.pipelines.test_pull import COMMIT, REPO, Hub, serving

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


def models(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", "models", "--models", str(folder / "models.yaml"), *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


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
def test_what_cannot_be_done_is_refused_with_a_reason(tmp_path: Path, arguments: tuple[str, ...], reason: str) -> None:
    (tmp_path / "models.yaml").write_text(CATALOGUE)
    refused = models(tmp_path, *arguments)
    assert refused.returncode != 0
    assert reason in refused.stderr
    assert not (tmp_path / "elsewhere").exists()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(contents(DEMO))) as hub:
        yield hub


def hub_catalogue(folder: Path, hub: Hub) -> None:
    """A repository that is gone, and a mirror that has it."""
    with serving(Hub({})) as gone:
        pass
    sources = f"mirrors: [{gone.source()}, {hub.source()}]"
    entry = f'family: sdxl, hub: {{repository: {REPO}, revision: "{COMMIT}", {sources}}}'
    (folder / "models.yaml").write_text(f"default_model: Org/tiny\nmodels: {{Org/tiny: {{{entry}}}}}\n")


def test_a_model_of_a_hub_is_absent_until_it_is_pulled_by_its_id_alone(tmp_path: Path, hub: Hub) -> None:
    hub_catalogue(tmp_path, hub)
    listed = models(tmp_path).stdout
    assert "state     absent: " in listed
    assert "run: safelight models pull Org/tiny" in listed
    assert f"hub       {hub.source()}" in listed
    # No hub of the world is asked: the repository itself is looked for where nobody listens.
    pulled = models(tmp_path, "pull", "Org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert pulled.returncode == 0, pulled.stderr
    assert str(tmp_path / "models" / folder_name("Org/tiny")) in pulled.stdout
    assert "state     present" in models(tmp_path).stdout
    assert models(tmp_path, "verify").returncode == 0


def test_an_archive_is_unpacked_where_the_entry_looks(tmp_path: Path, hub: Hub) -> None:
    hub_catalogue(tmp_path, hub)
    assert models(tmp_path, "pull", "Org/tiny", HF_ENDPOINT="http://127.0.0.1:9").returncode == 0
    assert models(tmp_path, "export", "Org/tiny", "carried.archive").returncode == 0
    there = tmp_path / "there"
    there.mkdir()
    shutil.copy(tmp_path / "models.yaml", there)
    imported = models(there, "import", str(tmp_path / "carried.archive"), SAFELIGHT_OFFLINE="true")
    assert imported.returncode == 0, imported.stderr
    assert "state     present" in models(there, SAFELIGHT_OFFLINE="true").stdout


def test_offline_nothing_is_pulled(tmp_path: Path, hub: Hub) -> None:
    hub_catalogue(tmp_path, hub)
    refused = models(tmp_path, "pull", "Org/tiny", SAFELIGHT_OFFLINE="true")
    assert refused.returncode == 1
    assert "offline is set, so nothing is fetched" in refused.stderr
    assert hub.requests == []


def test_a_model_without_a_hub_is_pulled_from_named_sources_only(folder: Path) -> None:
    refused = models(folder, "pull", "mine")
    assert refused.returncode == 2
    assert "models.yaml names no hub for mine (it does for: none)" in refused.stderr
