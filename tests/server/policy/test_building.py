"""Checks that cannot be made as they are written keep a server from starting; each mistake has its line or its name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.app import worker_settings
from server.cli import app
from server.core.caller import ANYBODY, Caller
from server.core.catalogue import Catalogue
from server.core.catalogue_file import CatalogueProblem, load_catalogue
from server.core.settings import load_settings
from server.ledger.decisions import Decision
from server.policy.building import PolicyProblem, build_policy, findings
from server.policy.policy import Policy, Texts
from server.policy.question import Question, Subject

MODELS = """\
default_model: tiny
models:
  tiny: {family: sdxl, source: weights/tiny}
backends:
  away: {kind: openai, models: {best: {form: compatible}}}
names:
  both: {route: ["local:tiny", "away:best"]}
  away-only: {route: ["away:best"]}
policy:
  checks:
"""
FIRST_LINE = MODELS.count("\n") + 1
ALICE, BOB = (Caller(f"key_{name}", name, frozenset()) for name in ("alice", "bob"))


def loaded(folder: Path, *checks: str) -> Catalogue:
    (folder / "models.yaml").write_text(MODELS + "".join(f"    - {check}\n" for check in checks))
    return load_catalogue(folder / "models.yaml")


def problems(folder: Path, *checks: str, **settings: object) -> list[str]:
    with pytest.raises(PolicyProblem) as caught:
        build_policy(load_settings(settings), loaded(folder, *checks))
    return caught.value.problems


@pytest.mark.parametrize(
    ("check", "problem"),
    [
        ("{name: a, kind: words}", "policy.checks.0: the kind words needs a file"),
        ("{name: a, kind: words, file: f, url: 'http://x'}", "url means nothing for the kind words"),
        ("{name: a, kind: words, file: f, reads: [picture]}", "reads texts only"),
        ("{name: a, kind: words, file: f, reads: []}", "policy.checks.0.reads"),
        ("{name: a, kind: words, file: f, levels: [high]}", "policy.checks.0.levels.0"),
        ("{name: a, kind: words, file: f, keys: []}", "policy.checks.0.keys"),
        ("{name: A b, kind: words, file: f}", "policy.checks.0.name"),
        ("{name: a, kind: word, file: f}", "Did you mean 'words'?"),
        ("{name: a, kind: words, fiel: f}", "unknown key. Did you mean 'file'?"),
        ("{name: a, kind: hook, url: 'ftp://x'}", "http(s) URL"),
        ("{name: a, kind: hook, url: 'http://u:p@x'}", "without user"),
        ("{name: a, kind: hook, url: 'http://x', deadline_seconds: 0}", "policy.checks.0.deadline_seconds"),
        ("{name: a, kind: hook, url: 'http://x', on_failure: ignore}", "policy.checks.0.on_failure"),
        ("{name: a, kind: image, source: s, on_failure: allow}", "on_failure means nothing for the kind image"),
        ("{name: a, kind: image}", "the kind image needs a source"),
    ],
)
def test_a_check_that_promises_what_its_kind_cannot_do_is_refused_with_its_line(
    tmp_path: Path, check: str, problem: str
) -> None:
    with pytest.raises(CatalogueProblem) as caught:
        loaded(tmp_path, check)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'models.yaml'}:{FIRST_LINE}: ")


def test_two_checks_of_one_name_or_two_safety_checkers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueProblem, match="two checks are called 'a'"):
        loaded(tmp_path, "{name: a, kind: words, file: f}", "{name: a, kind: patterns, file: f}")
    with pytest.raises(CatalogueProblem, match="one safety checker"):
        loaded(tmp_path, "{name: a, kind: image, source: f}", "{name: b, kind: image, source: g}")


def test_every_mistake_in_lists_keys_and_folders_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("good\n...\n")
    found = problems(
        tmp_path,
        "{name: words, kind: words, file: words.txt}",
        "{name: patterns, kind: patterns, file: missing.txt}",
        "{name: moderator, kind: hook, url: 'http://127.0.0.1:9', key_variable: NOT_SET_ANYWHERE}",
        "{name: pictures, kind: image, source: nowhere}",
    )
    assert found[0].startswith(f"{tmp_path / 'words.txt'}:2: ")
    assert "missing.txt: cannot be read" in found[1]
    assert found[2] == "policy, check moderator: The environment variable NOT_SET_ANYWHERE is not set, or is empty."
    assert found[3].startswith("policy, check pictures: ")
    assert len(found) == 4


@pytest.mark.parametrize("mode", ["offline", "local_only"])
def test_offline_and_local_only_no_moderator_is_asked_that_may_be_elsewhere(tmp_path: Path, mode: str) -> None:
    (problem,) = problems(tmp_path, "{name: m, kind: hook, url: 'https://moderator.example.org/v1'}", **{mode: True})
    assert "no address of this machine or of an intranet" in problem
    near = loaded(tmp_path, "{name: m, kind: hook, url: 'http://10.0.0.7:9000/v1'}")
    assert len(build_policy(load_settings({mode: True}), near).checks) == 1


def concerning(policy: Policy, caller: Caller, level: str = "auto") -> list[str]:
    subject = Subject("req_1", caller, "tiny", level)  # type: ignore[arg-type]
    return [check.entry.name for check in policy.judge_of(subject).checks]


def test_a_check_concerns_the_keys_and_levels_that_it_names_and_everybody_where_there_are_no_keys(
    tmp_path: Path,
) -> None:
    (tmp_path / "f").write_text("word\n")
    policy = build_policy(
        load_settings({}),
        loaded(
            tmp_path,
            "{name: all, kind: words, file: f}",
            "{name: alice, kind: words, file: f, keys: [alice]}",
            "{name: strict, kind: words, file: f, levels: [auto]}",
        ),
    )
    assert concerning(policy, ALICE) == ["all", "alice", "strict"]
    assert concerning(policy, BOB) == ["all", "strict"]
    assert concerning(policy, BOB, "low") == ["all"]
    assert concerning(policy, ANYBODY) == ["all", "alice", "strict"]


def test_a_check_that_crashes_refuses_and_whoever_counts_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("word\n")
    counted: list[Decision] = []
    policy = build_policy(
        load_settings({}), loaded(tmp_path, "{name: a, kind: words, file: f}"), on_decision=counted.append
    )

    async def crash(_: Question) -> bool:
        raise ZeroDivisionError

    object.__setattr__(policy.checks[0], "ask", crash)
    judge = policy.judge_of(Subject("req_1", ALICE, "tiny"))
    with pytest.raises(Exception, match="cannot be made"):
        asyncio.run(judge.prompt(Texts(("a text",))))
    assert [(one.decision, one.problem, one.key_id) for one in counted] == [("refuse", "broken", "key_alice")]


def test_every_worker_is_told_where_the_safety_checker_is(tmp_path: Path) -> None:
    catalogue = loaded(tmp_path, "{name: pictures, kind: image, source: checker}")
    workers = worker_settings(load_settings({"device": "cpu,cpu"}), catalogue)
    folders = [worker.options.safety_checker for worker in workers]
    assert folders == [str(tmp_path.resolve() / "checker")] * 2


def test_the_command_check_says_what_the_checks_are_and_whom_they_leave_out(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("word\n")
    (tmp_path / "checker").mkdir()
    catalogue = loaded(
        tmp_path,
        "{name: words, kind: words, file: f, keys: [alice], levels: [auto]}",
        "{name: pictures, kind: image, source: checker}",
    )
    assert findings(catalogue) == [
        "policy, check words: ok (only for keys alice; moderation auto)",
        "policy, check pictures: ok",
        "policy, check pictures: cannot see what away:best draws for both: it is left out",
        "policy, check pictures: cannot see what away:best draws for away-only: nobody is left who may draw it",
    ]
    (tmp_path / "checker" / "config.json").write_text("{}")
    printed = CliRunner().invoke(app, ["check", "--models", str(tmp_path / "models.yaml")])
    assert printed.exit_code == 1
    assert "policy, safety checker: " in printed.output
    assert "does not describe a StableDiffusionSafetyChecker" in printed.output
    (tmp_path / "f").write_text("word\n...\n")
    printed = CliRunner().invoke(app, ["check", "--models", str(tmp_path / "models.yaml")])
    assert f"{tmp_path / 'f'}:2: holds no letter" in printed.output
