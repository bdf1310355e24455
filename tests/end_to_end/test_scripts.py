"""The scripts say clearly what is missing, from any directory; a half-made environment never counts as made."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def run_script(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPTS / name, "--help"],
        cwd=folder,
        env={**os.environ, "SAFELIGHT_VENV": str(folder / "venv"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def only_tools(folder: Path) -> str:
    """A PATH with the few commands that the scripts need, and no Python."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "sha256sum", "cut", "cat", "flock"):
        (tools / name).symlink_to(
            next(path for path in (Path("/usr/bin") / name, Path("/bin") / name) if path.exists())
        )
    return str(tools)


def test_without_a_python_that_is_new_enough_the_script_says_which_is_needed(tmp_path: Path) -> None:
    finished = run_script("serve", tmp_path, PATH=only_tools(tmp_path), SAFELIGHT_PYTHON="")
    assert finished.returncode == 1
    assert "Python 3.11 or newer" in finished.stderr


def test_without_a_package_index_the_script_says_so_and_tries_again_the_next_time(tmp_path: Path) -> None:
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": ""}
    for _ in range(2):
        finished = run_script("serve", tmp_path, **nothing)
        assert finished.returncode == 1
        assert "Is the package index reachable?" in finished.stderr
    assert not (tmp_path / "venv" / ".safelight-run").exists()


def test_the_environment_in_use_is_found_from_any_directory(tmp_path: Path) -> None:
    in_use = Path(os.environ.get("SAFELIGHT_VENV", SCRIPTS.parent / ".venv"))
    finished = run_script("serve", tmp_path, SAFELIGHT_VENV=str(in_use))
    assert finished.returncode == 0
    assert "Serve pictures over HTTP" in finished.stdout


def test_a_wheelhouse_needs_a_folder_that_is_named(tmp_path: Path) -> None:
    finished = run_script("wheelhouse", tmp_path)
    assert finished.returncode == 1
    assert "scripts/wheelhouse FOLDER" in finished.stderr


def test_a_wheelhouse_that_is_not_whole_has_no_list_of_sums(tmp_path: Path) -> None:
    nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": ""}
    finished = subprocess.run(
        [SCRIPTS / "wheelhouse", "wheels"],
        cwd=tmp_path,
        env={**os.environ, **nothing},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.returncode == 1
    assert "Is the package index reachable?" in finished.stderr
    assert list((tmp_path / "wheels").iterdir()) == []
