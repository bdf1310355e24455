"""Guards `safelight keys`: a key is shown once and alone on standard output; what cannot be is said in a sentence."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from server.access.key_text import is_key
from server.access.keys_file import read_keys
from server.access.live import LiveKeys
from server.cli import app

runner = CliRunner()
MODELS = "default_model: tiny\nmodels: {tiny: {family: sdxl, source: nowhere, aliases: [small]}}\n"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAFELIGHT_KEYS", str(tmp_path / "keys.json"))
    (tmp_path / "models.yaml").write_text(MODELS)
    return tmp_path / "keys.json"


def run(*arguments: str) -> Result:
    return runner.invoke(app, ["keys", *arguments])


def test_a_new_key_stands_alone_on_standard_output_and_works(path: Path) -> None:
    made = run("create", "--name", "alice", "--scope", "usage", "--scope", "generate", "--model", "tiny")
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert is_key(key.encode())
    assert key not in made.stderr
    caller = LiveKeys(path).find(key.encode())
    assert caller is not None
    assert caller.scopes == {"generate", "usage"}
    assert caller.models == frozenset({"tiny"})


def test_all_flags_arrive_in_the_file(path: Path) -> None:
    limits = {
        "requests_per_minute": 60, "images_per_minute": 20, "concurrent_images": 4, "work_units_per_day": 1e9,
        "usd_per_day": 0.5,
    }  # fmt: skip
    flags = [part for name, value in limits.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    made = run("create", "--name", "bob", "--local-only", "--expires", "2099-01-31", "--json", *flags)
    told: dict[str, Any] = json.loads(made.stdout)
    assert is_key(told["key"].encode())
    (record,) = read_keys(path).file.keys
    assert (record.local_only, record.expires_unix_seconds, record.scopes) == (True, 4_073_500_800, ("generate",))
    assert told["limits"] == limits
    assert record.caller().limits.usd_per_day == 0.5


def test_the_list_tells_states_and_no_texts_nor_hashes(path: Path) -> None:
    keys = [run("create", "--name", name, *more).stdout.strip() for name, *more in (
        ("alice", "--images-per-minute", "5", "--work-units-per-day", "2097152000"),
        ("bob", "--expires", "9d", "--local-only"), ("carol", "--scope", "admin")
    )]  # fmt: skip
    assert run("revoke", "carol").exit_code == 0
    listed, as_json = run("list").stdout, run("list", "--json").stdout
    assert re.search(r"\(alice\)\n  state   usable\n", listed)
    assert re.search(r"\(bob\)\n  state   usable until 20..-..-.. ..:..Z\n  may     generate, local only\n", listed)
    assert re.search(r"\(carol\)\n  state   revoked 20", listed)
    assert "limits  images_per_minute 5, work_units_per_day 2,097,152,000\n" in listed
    assert [key["usable"] for key in json.loads(as_json)["keys"]] == [True, True, False]
    hashes = [kept.hmac_sha256 for record in read_keys(path).file.keys for kept in record.kept]
    for text in (*keys, *hashes):
        assert text not in listed + as_json


def test_rotating_shows_the_new_key_and_lets_the_old_one_work_for_the_grace(path: Path) -> None:
    old = run("create", "--name", "alice").stdout.strip()
    new = run("rotate", "alice", "--grace", "1h").stdout.strip()
    keys = LiveKeys(path)
    assert old != new
    assert keys.find(old.encode()) == keys.find(new.encode()) is not None
    last = run("rotate", "alice").stdout.strip()
    keys.look()
    assert [keys.find(key.encode()) is not None for key in (old, new, last)] == [False, False, True]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("create", "--name", "alice"), 1, "exists"),
        (("create", "--name", "x\ny"), 1, "name is"),
        (("create", "--name", "x", "--scope", "root"), 2, "there is no 'root'"),
        (("create", "--name", "x", "--expires", "soon"), 2, "no duration"),
        (("create", "--name", "x", "--expires", "2020-01-01"), 1, "past"),
        (("create", "--name", "x", "--requests-per-minute", "0"), 2, "requests-per-minute"),
        (("create", "--name", "x", "--usd-per-day", "nan"), 2, "usd-per-day"),
        (("create",), 2, "--name"),
        (("rotate", "bob"), 1, "'bob'"),
        (("rotate", "alice", "--grace", "-1s"), 2, "no duration"),
        (("revoke", "bob"), 1, "'bob'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence_and_changes_nothing(
    path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    run("create", "--name", "alice")
    before = path.read_bytes()
    refused = run(*arguments)
    assert refused.exit_code == status
    assert said in refused.stderr
    assert refused.stdout == ""
    assert path.read_bytes() == before


def test_check_finds_what_a_server_would_stumble_over(path: Path) -> None:
    models = ("--models", str(path.with_name("models.yaml")))
    assert "cannot be read" in run("check", *models).stderr
    run("create", "--name", "alice", "--model", "small", "--model", "local:tiny")
    assert run("check", *models).exit_code == 0
    run("create", "--name", "bob", "--model", "tyni")
    found = run("check", *models)
    assert (found.exit_code, "allows 'tyni'" in found.stderr) == (1, True)
    for name in ("alice", "bob"):
        run("revoke", name)
    assert "no usable key" in run("check", *models).stderr
    path.write_text("{")
    assert "cannot be used" in run("check", *models).stderr


def test_check_finds_a_content_check_for_a_key_that_was_never_made(path: Path) -> None:
    models = path.with_name("models.yaml")
    path.with_name("words.txt").write_text("word\n")
    checks = "{name: words, kind: words, file: words.txt, keys: [alice, alcie]}"
    models.write_text(MODELS + f"policy: {{checks: [{checks}]}}\n")
    run("create", "--name", "alice")
    found = run("check", "--models", str(models))
    assert found.exit_code == 1
    assert found.stderr == "error: the content check 'words' names 'alcie', which no key is called.\n"
    run("create", "--name", "alcie")
    run("revoke", "alcie")
    assert run("check", "--models", str(models)).exit_code == 0, "a revoked key needs no check any more"


@pytest.mark.parametrize("page", ["README.md", "docs/keys.md", "docs/operations.md"])
def test_what_a_page_says_to_type_makes_keys(page: str, path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / page).read_text()
    lines = [line.partition(" #")[0] for line in text.splitlines() if line.startswith(".venv/bin/safelight keys")]
    for line in lines:
        assert run(*shlex.split(line)[2:]).exit_code == 0
    assert read_keys(path).file.keys[0].name == "alice"
