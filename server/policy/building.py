"""From models.yaml's checks to checks that can be asked: files read, the moderator's key found, nothing asked yet.

Knows entries, settings and the kinds of check; knows no request.
Invariant: a server whose checks cannot all be made as they are written does not start.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from server.backends.credentials import CredentialProblem, read_secret
from server.core.catalogue import Catalogue
from server.core.policy_entry import CheckEntry
from server.core.providers import LOCAL
from server.core.settings import Settings
from server.images.networks import is_near
from server.policy.hook import Hook
from server.policy.lists import ListProblem, read_patterns, read_words
from server.policy.policy import Check, OnDecision, Policy, Record, nowhere, uncounted
from server.policy.searching import Searching


class PolicyProblem(Exception):
    """The checks cannot be made as they are written; `problems` are sentences, those of files with their lines."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def build_policy(
    settings: Settings, catalogue: Catalogue, record: Record = nowhere, on_decision: OnDecision = uncounted
) -> Policy:
    """record: writes decisions down. on_decision: told of each. Raises PolicyProblem with every mistake found."""
    entry = catalogue.policy
    checks: list[Check] = []
    problems: list[str] = []
    for one in entry.checks:
        try:
            checks.append(_check(one, settings, catalogue, os.environ))
        except ListProblem as problem:
            problems += problem.problems
        except (CredentialProblem, ValueError) as problem:
            problems.append(f"policy, check {one.name}: {problem}")
    if problems:
        raise PolicyProblem(problems)
    return Policy(checks, record, keeps_prompts=entry.keep_prompts, on_decision=on_decision)


def findings(catalogue: Catalogue) -> list[str]:
    """What `safelight check` says of checks that are sound, a line each."""
    entry = catalogue.policy
    lines = [f"policy, check {one.name}: ok{_limits(one)}" for one in entry.checks]
    strict = next((one for one in entry.checks if one.kind == "image" and one.providers == "leave_out"), None)
    if strict is None:
        return lines
    whose = "" if strict.keys is None else f" for the keys {', '.join(strict.keys)}"
    for name in catalogue.names():
        targets = catalogue.targets(name)
        away = [str(target) for target in targets if target.backend != LOCAL]
        if away:
            left = "nobody is left who may draw it" if len(away) == len(targets) else "it is left out"
            lines.append(
                f"policy, check {strict.name}: cannot see what {', '.join(away)} draws for {name}: {left}{whose}"
            )
    return lines


def _limits(entry: CheckEntry) -> str:
    keys = [] if entry.keys is None else [f"keys {', '.join(entry.keys)}"]
    levels = [] if len(entry.levels) > 1 else [f"moderation {entry.levels[0]}"]
    told = "; ".join([*keys, *levels])
    return f" (only for {told})" if told else ""


def _check(entry: CheckEntry, settings: Settings, catalogue: Catalogue, environment: Mapping[str, str]) -> Check:
    """Raises ListProblem, CredentialProblem and ValueError."""
    match entry.kind:
        case "words":
            return Check(entry, Searching(read_words(_place(entry.file, catalogue))).allows)
        case "patterns":
            return Check(entry, Searching(read_patterns(_place(entry.file, catalogue))).allows)
        case "hook":
            hook = _hook(entry, settings, environment)
            return Check(entry, hook.allows, hook.close)
        case "image":
            _refuse_missing(catalogue.safety_checker)
            return Check(entry, None)


def _hook(entry: CheckEntry, settings: Settings, environment: Mapping[str, str]) -> Hook:
    url = str(entry.url)
    if (settings.offline or settings.local_only) and not is_near(url):
        which = "offline" if settings.offline else "local only"
        raise ValueError(
            f"this server is {which}, and {url} is no address of this machine or of an intranet, written as a number"
        )
    return Hook(url, read_secret(entry.key_variable, None, environment), entry.deadline_seconds)


def _refuse_missing(folder: str | None) -> None:
    """What is in the folder `safelight check` looks at, as the worker does."""
    if folder is None or not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder} holds no safety checker (it has no config.json)")


def _place(file: str | None, catalogue: Catalogue) -> Path:
    return Path(catalogue.absolute(str(file)))
