"""The tests that openai-python brings in its source distribution: obtained once, unpacked, and run against a server.

Knows PyPI's package, its layout and pytest's words; knows nothing of Safelight.
Invariant: what runs is the published file of the version that is installed, byte for byte, but for what a caller alters
by name; a second run needs no network.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import openai

# To be renewed with the lock file, and with it the counts in the tests.
VERSION = "3.54.0"
SHA256 = "2e393e63f8a38be6452806f9ef0b6534fecd6d41ab3b2165180dfce3599249cd"
# Kept with the environment, as it belongs to the version that is installed there.
KEPT = Path(sys.prefix) / "share" / "openai-source" / f"openai-{VERSION}.tar.gz"
WANTED = (
    "pyproject.toml",
    "tests/__init__.py",
    "tests/conftest.py",
    "tests/utils.py",
    "tests/respx2/",
    "tests/api_resources/__init__.py",
    "tests/api_resources/test_images.py",
    "tests/api_resources/test_models.py",
)
DOWNLOAD_SECONDS, RUN_SECONDS = 240, 280


@dataclass(frozen=True, slots=True)
class Finished:
    """What pytest reports: how many tests ended in each way, and all that it printed."""

    counts: Mapping[str, int]
    output: str


@dataclass(frozen=True, slots=True)
class Suite:
    """The unpacked tests. The folder is theirs alone, so that `tests` means their package and not ours."""

    folder: Path

    def alter(self, name: str, altered: str, changes: Mapping[str, str]) -> None:
        """Write a copy of one file of tests in which texts are replaced. Each must be there."""
        source = (self.folder / name).read_text(encoding="utf-8")
        for old, new in changes.items():
            assert old in source, f"{old} is not in {name}"
            source = source.replace(old, new)
        (self.folder / altered).write_text(source, encoding="utf-8")

    def run(self, base_url: str, choice: str, *names: str) -> Finished:
        """Run the tests in these files that pytest's -k chooses, with their own configuration."""
        # Their options ask for a plugin that spreads tests over processes; it is not needed.
        options = ["-c", "pyproject.toml", "-o", "addopts=", "-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider"]
        finished = subprocess.run(
            [sys.executable, "-m", "pytest", *options, "--color=no", "--tb=native", "-q", "-k", choice, *names],
            cwd=self.folder,
            env=_environment(base_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        last_line = finished.stdout.rstrip().rpartition("\n")[2]
        counts = re.findall(r"(\d+) ([a-z]+)", last_line.partition(" in ")[0])
        return Finished({word: int(number) for number, word in counts}, finished.stdout)


def obtain_suite(folder: Path) -> Suite:
    """Unpack the tests of the installed version into an empty folder. It fails, and is never skipped, without them."""
    assert openai.__version__ == VERSION, "VERSION and SHA256 are those of another version than the installed one"
    if not KEPT.exists():
        _download()
    assert _digest(KEPT) == SHA256, f"{KEPT} is not what was published: remove it"
    _unpack(KEPT, folder)
    return Suite(folder)


def _download() -> None:
    """By pip, so that its settings (mirrors, certificates) hold here too; it checks the digest before all else."""
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT.parent) as folder:
        requirement = Path(folder) / "requirement"
        requirement.write_text(f"openai=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "openai"]
        finished = subprocess.run(
            [*pip, "--require-hashes", "--requirement", requirement, "--dest", folder],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
        assert finished.returncode == 0, f"openai's source distribution could not be obtained: {finished.stderr}"
        (Path(folder) / KEPT.name).replace(KEPT)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as files:
        for member in files:
            name = member.name.removeprefix(f"openai-{VERSION}/")
            content = files.extractfile(member) if member.isfile() and name.startswith(WANTED) else None
            if content is not None:
                path = (folder / name).resolve()
                assert path.is_relative_to(folder.resolve()), f"{member.name} leads out of the folder"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())


def _environment(base_url: str) -> dict[str, str]:
    """Ours, without what would steer their client or add to their pytest."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "PYTEST_"))}
    return {**kept, "TEST_API_BASE_URL": base_url, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
