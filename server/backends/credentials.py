"""Reads a provider's secret from where models.yaml says it is: an environment variable, or a file.

Knows variables and files; knows no provider.
Invariant: no message and no exception here ever holds a secret, or a part of one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

MAX_SECRET_BYTES = 16 * 1024
# A space, too, is in no provider's key, and would only hide that two lines were pasted into one.
SECRET = re.compile(r"[!-~]+", re.ASCII)
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class CredentialProblem(Exception):
    """A secret that cannot be used, as a sentence for the operator."""


def read_secret(variable: str | None, file: str | None, environment: Mapping[str, str]) -> str | None:
    """None where neither is named. Raises CredentialProblem."""
    if variable is not None:
        return _from_variable(variable, environment)
    return None if file is None else _from_file(Path(file))


def _from_variable(name: str, environment: Mapping[str, str]) -> str:
    if not environment.get(name):
        raise CredentialProblem(f"The environment variable {name} is not set, or is empty.")
    return _one_line(environment[name], f"The environment variable {name}")


def _from_file(path: Path) -> str:
    content = own_content(path)
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        text = ""
    return _one_line(text, f"The file {path}")


def own_content(path: Path) -> bytes:
    """Of a file that none but its owner may touch. Judged once it is open, so that what is judged is what is read."""
    try:
        descriptor = os.open(_real_place(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError) as error:  # the latter of links that lead in a circle
        reason = getattr(error, "strerror", None) or "it is no file"
        raise CredentialProblem(f"The file {path} cannot be read: {reason}.") from None
    try:
        _judge(path, os.fstat(descriptor).st_mode)
        return os.read(descriptor, MAX_SECRET_BYTES + 3)
    finally:
        os.close(descriptor)


def _judge(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise CredentialProblem(f"{path} is no file.")
    if mode & OTHERS:
        raise CredentialProblem(f"Others than its owner may read or write the file {path}: chmod 600 it.")


def _real_place(path: Path) -> Path:
    """A link may lead on within its own folder, as Kubernetes' do, and nowhere else."""
    folder, real = path.parent.resolve(strict=True), path.resolve(strict=True)
    if not real.is_relative_to(folder):
        raise CredentialProblem(f"The file {path} is a link that leads out of its folder.")
    return real


def _one_line(text: str, place: str) -> str:
    secret = text.removesuffix("\n").removesuffix("\r")
    if len(secret) > MAX_SECRET_BYTES or SECRET.fullmatch(secret) is None:
        raise CredentialProblem(f"{place} does not hold one line of printable ASCII without spaces.")
    return secret
