"""Reads the deployment files as Docker and systemd do, as far as the tests need it.

Knows the instructions of a Dockerfile, the patterns of .dockerignore and the lines of a unit; runs nothing.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile.cuda"
UNIT = ROOT / "deploy" / "safelight.service"
# Large folders that no pattern lets into the context.
NEVER_WALKED = {".git", ".venv", "node_modules"}


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction on one line. `stage`: the name after AS, or the empty text for the stage without one."""

    stage: str
    keyword: str
    value: str


def instructions() -> list[Instruction]:
    """Dockerfile.cuda, its comments left out and continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    found: list[Instruction] = []
    stage = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        keyword, _, value = line.strip().partition(" ")
        if keyword == "FROM":
            stage = value.partition(" AS ")[2].strip()
        if keyword:
            found.append(Instruction(stage, keyword, value.strip()))
    return found


def values(keyword: str, stage: str) -> list[str]:
    return [one.value for one in instructions() if (one.keyword, one.stage) == (keyword, stage)]


def environment(stage: str) -> dict[str, str]:
    """What the ENV lines of one stage set."""
    pairs = (word.partition("=") for value in values("ENV", stage) for word in shlex.split(value))
    return {name: value for name, _, value in pairs}


def run_lines(stage: str) -> list[str]:
    """What /bin/sh gets to run, without the mounts."""
    return [re.sub(r"--mount=\S+\s+", "", value) for value in values("RUN", stage)]


def copied(*, from_context: bool) -> list[tuple[str, list[str]]]:
    """Every COPY as its stage and its sources: those out of the build context, or those out of other stages."""
    found = [(one.stage, one.value.split()) for one in instructions() if one.keyword == "COPY"]
    return [
        (stage, [word for word in words[:-1] if not word.startswith("--")])
        for stage, words in found
        if any(word.startswith("--from=") for word in words) != from_context
    ]


def context() -> list[str]:
    """The files that .dockerignore lets into the build context, relative to the root of the repository."""
    found: list[str] = []
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [name for name in inner if name not in NEVER_WALKED]
        paths = (str((Path(folder) / name).relative_to(ROOT)) for name in names)
        found.extend(path for path in paths if not is_ignored(path))
    return sorted(found)


def is_ignored(path: str) -> bool:
    """As the last pattern says that matches the path or a folder above it."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and re.match(_expression(line.removeprefix("!")), path):
            ignored = not line.startswith("!")
    return ignored


def _expression(pattern: str) -> str:
    """A regular expression for one pattern: ** stands for any folders, * for anything inside one name."""
    parts = {"**/": "(?:.*/)?", "*": "[^/]*"}
    words = re.split(r"(\*\*/|\*)", pattern)
    return "".join(parts.get(word) or re.escape(word) for word in words) + r"(?:/.*)?\Z"


def unit() -> dict[str, list[str]]:
    """Each key of the unit's file with all its values, in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def tool(name: str) -> str | None:
    """The path of a program: of this Python's environment, else of the machine."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
