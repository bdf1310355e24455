"""Dockerfile.cuda says what it means: what it copies is there, nothing else is, and its versions are those we test."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from server import __version__
from server.core.settings import PREFIX, Settings
from tests.deploy.files import DOCKERFILE, ROOT, context, copied, environment, instructions, tool, values

WEIGHTS = {".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".gguf", ".onnx"}
DEPLOYMENT_FILES = [
    DOCKERFILE,
    ROOT / "docs" / "deploy.md",
    *sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file()),
]
# Read by the scripts.
SCRIPT_VARIABLES = {"SAFELIGHT_VENV", "SAFELIGHT_PYTHON"}


def pins(name: str) -> dict[str, str]:
    rows = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {package.lower().replace("_", "-"): version for package, version in (row.split("==") for row in rows)}


def test_whatever_is_copied_is_in_the_context() -> None:
    files = context()
    for _, sources in copied(from_context=True):
        for source in sources:
            assert any(path == source or path.startswith(f"{source}/") for path in files), source


def test_nothing_is_in_the_context_that_is_not_copied() -> None:
    sources = {source for _, group in copied(from_context=True) for source in group}
    assert {path for path in context() if not any((path + "/").startswith(f"{source}/") for source in sources)} == set()


def test_no_weights_are_in_the_context() -> None:
    assert [path for path in context() if Path(path).suffix in WEIGHTS or path.startswith("pipelines/demo/")] == []


def test_all_code_that_serves_is_in_the_context() -> None:
    code = [*ROOT.glob("server/**/*.py"), *ROOT.glob("pipelines/**/*.py"), *ROOT.glob("pipelines/weights/**/*.json")]
    wanted = {str(path.relative_to(ROOT)) for path in code if "demo" not in path.relative_to(ROOT).parts}
    assert len(wanted) > 100
    assert wanted <= set(context())


def test_nothing_that_serves_needs_the_embedded_models_code() -> None:
    for path in context():
        assert not re.search(r"^\s*(from|import) pipelines\.demo", (ROOT / path).read_text(), re.MULTILINE), path


def test_torch_is_installed_first_and_by_the_pin_of_the_locks() -> None:
    (line,) = (value for value in values("RUN", "libraries") if "install" in value)
    first = line.split(" install ")[1]
    assert f"torch=={pins('requirements.lock')['torch']};" in first
    assert f"torch=={pins('requirements.lock')['torch']}" in (ROOT / "scripts" / "environment").read_text()


def test_what_cuda_adds_is_locked_apart_from_what_every_machine_installs() -> None:
    added = pins("requirements-cuda.lock")
    assert added.keys() & pins("requirements.lock").keys() == set()
    assert {name.split("-")[0] for name in added} == {"cuda", "nvidia", "triton"}


def test_the_image_tells_the_version_it_holds() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert f'version="{__version__}"' in " ".join(values("LABEL", ""))
    for name in ("compose.yaml", "compose.gpus.yaml"):
        assert f"image: safelight:{__version__}-cuda\n" in (ROOT / "deploy" / name).read_text()


def test_the_base_is_pinned_to_an_exact_version_of_the_python_we_test() -> None:
    (base,) = (one.value for one in instructions() if one.keyword == "ARG")
    version = re.fullmatch(r"PYTHON_IMAGE=python:(\d+\.\d+)\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    assert version
    mypy = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert version[1] == mypy["python_version"]
    bases = {one.value.split(" AS ")[0] for one in instructions() if one.keyword == "FROM"}
    assert bases == {"scratch", "${PYTHON_IMAGE}", "libraries"}


def test_no_frontend_is_fetched() -> None:
    assert not DOCKERFILE.read_text().lower().startswith("# syntax")


def test_the_server_runs_as_nobody_in_particular_and_is_asked_whether_it_can_draw() -> None:
    (user,) = values("USER", "")
    assert user == "10001:10001"
    (check,) = values("HEALTHCHECK", "")
    assert "healthcheck.py" in check
    assert values("STOPSIGNAL", "") == ["SIGTERM"]


def test_the_image_is_offline_and_writes_to_one_folder() -> None:
    set_ = environment("")
    assert (set_["HF_HUB_OFFLINE"], set_["TRANSFORMERS_OFFLINE"]) == ("1", "1")
    for name in ("HOME", "HF_HOME", "CUDA_CACHE_PATH", "TRITON_CACHE_DIR"):
        assert (set_[name] + "/").startswith("/tmp/"), name  # noqa: S108


@pytest.mark.parametrize("path", DEPLOYMENT_FILES, ids=lambda path: path.name)
def test_the_settings_that_a_deployment_file_names_exist(path: Path) -> None:
    named = set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", path.read_text())) - SCRIPT_VARIABLES
    assert named <= {PREFIX + name.upper() for name in Settings.model_fields}


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = tool("hadolint")
    assert hadolint, "requirements-test.lock installs it"
    finished = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False, timeout=60)
    assert (finished.stdout, finished.returncode) == ("", 0)
