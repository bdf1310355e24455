"""Guards the settings: flags before environment before defaults, every value checked, every mistake a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from server.app import fetch_policy
from server.cli import app
from server.core.settings import DEFAULT_CATALOGUE, Settings, SettingsProblem, load_settings
from server.images.fetch import FetchPolicy

ANY_ADDRESS = ".".join("0000")


@pytest.fixture(autouse=True)
def _no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("SAFELIGHT_"):
            monkeypatch.delenv(name)


def problems_of(flags: dict[str, Any]) -> list[str]:
    with pytest.raises(SettingsProblem) as caught:
        load_settings(flags)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def test_the_defaults_are_complete_and_closed_to_strangers() -> None:
    settings = load_settings({})
    assert (settings.host, settings.port, settings.device, settings.log_level) == ("127.0.0.1", 8000, "auto", "info")
    assert settings.is_loopback
    assert settings.max_body_bytes == 50 * 1024 * 1024
    assert settings.file_lifetime_seconds == 3600
    assert settings.files_folder is None
    assert settings.public_base_url is None
    assert settings.threads >= 1


def test_the_default_catalogue_is_a_file_of_this_repository() -> None:
    assert load_settings({}).models == DEFAULT_CATALOGUE
    assert DEFAULT_CATALOGUE.is_file()


def test_the_environment_sets_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_PORT", "9000")
    monkeypatch.setenv("SAFELIGHT_FILES_FOLDER", "/srv/results")
    settings = load_settings({})
    assert (settings.port, settings.files_folder) == (9000, Path("/srv/results"))


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_PORT", "9000")
    assert load_settings({"port": 9001}).port == 9001


def test_a_flag_of_none_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_PORT", "9000")
    assert load_settings({"port": None, "host": None}).port == 9000


def test_a_lower_case_variable_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("safelight_port", "9000")
    assert load_settings({}).port == 9000


def test_a_wrong_value_in_the_environment_is_reported_by_the_names_that_the_command_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAFELIGHT_PORT", "eighty")
    (of_serve,), (of_check,) = problems_of({"port": None}), problems_of({})
    assert of_serve.startswith("SAFELIGHT_PORT (or --port): ")
    assert of_check.startswith("SAFELIGHT_PORT: ")


def test_a_value_in_a_wrong_form_is_told_the_right_one_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_LEDGER", "postgres://me:secret@host/books")
    (problem,) = problems_of({})
    assert "sqlite:///PATH or postgresql+psycopg://" in problem
    assert "secret" not in problem


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_an_empty_variable_is_refused_by_name_and_never_means_the_current_folder(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for empty in ("", " "):
        monkeypatch.setenv(f"SAFELIGHT_{name.upper()}", empty)
        assert problems_of({}) == [f"SAFELIGHT_{name.upper()}: is empty. Unset it, or give it a value."]


def test_a_list_that_is_none_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("https://a.example", "{}", "[" * 100_000):
        monkeypatch.setenv("SAFELIGHT_CORS_ORIGINS", text)
        assert problems_of({}) == ['SAFELIGHT_CORS_ORIGINS: is no JSON list, such as ["example.org"].']


@pytest.mark.parametrize(
    "flags",
    [
        ["serve", "--files-folder", ""],
        ["serve", "--models", ""],
        ["keys", "list", "--keys", ""],
        ["usage", "--keys", ""],
        ["models", "pull", "x", "--into", ""],
        ["models", "import", "x", "--into", " "],
        ["models", "pull", "x", "--manifest", ""],
        ["draw", "x", "--output", ""],
        ["draw", "x", "--image", ""],
    ],
)
def test_an_empty_path_is_refused_as_a_flag_too(flags: list[str]) -> None:
    refused = CliRunner().invoke(app, flags)
    assert (refused.exit_code, "a path is empty" in refused.output) == (2, True), refused.output


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("SAFELIGHT_PROT", " Did you mean 'SAFELIGHT_PORT'?"),
        ("SAFELIGHT_LOGLEVEL", " Did you mean 'SAFELIGHT_LOG_LEVEL'?"),
        ("SAFELIGHT_", ""),
        ("safelight_zzzzzz", ""),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_known_one(
    variable: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(SettingsProblem) as caught:
        load_settings({})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{variable}: unknown setting.")
    if hint:
        assert problem.endswith(hint)


def test_every_unknown_variable_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFELIGHT_B", "1")
    monkeypatch.setenv("SAFELIGHT_A", "1")
    with pytest.raises(SettingsProblem) as caught:
        load_settings({})
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["SAFELIGHT_A", "SAFELIGHT_B"]


@pytest.mark.parametrize(
    "variable", ["SAFELIGHT_VENV", "SAFELIGHT_PYTHON", "SAFELIGHT_FAULTS", "HOME", "XSAFELIGHT_PORT", "SAFELIGHT"]
)
def test_variables_of_others_are_no_business_of_ours(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "x")
    assert load_settings({}).port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("port", "x"),
        ("port", 1.5),
        ("public_base_url", "example.org"),
        ("public_base_url", "ftp://example.org"),
        ("public_base_url", "https://"),
        ("public_base_url", "https://example.org/?q"),
        ("public_base_url", "https://example.org/#f"),
        ("public_base_url", "https://exa mple.org"),
        ("public_base_url", "https://example.org\r\nx: y"),
        ("public_base_url", "https://example.org\n"),
        ("file_lifetime_seconds", 0),
        ("device", "gpu"),
        ("device", "cuda:"),
        ("device", "cuda:-1"),
        ("device", "cuda:0,1"),
        ("device", "cuda:\u0663"),
        ("device", ""),
        ("threads", 0),
        ("threads", 1025),
        ("max_body_bytes", 1023),
        ("receive_timeout_seconds", 0),
        ("receive_timeout_seconds", float("nan")),
        ("max_waiting_images", 0),
        ("worker_silence_seconds", 1.9),
        ("drain_seconds", -1),
        ("log_level", "loud"),
        ("scheduling_policy", "lifo"),
        ("scheduling_policy", ""),
        ("batch_max_rows", 0),
        ("batch_max_rows", 257),
        ("batch_exact_rows", 1),
        ("batch_exact_rows", 65),
        ("batch_exact_rows", "off"),
        ("job_memory_bytes", 0),
        ("job_memory_bytes", "8GiB"),
        ("prompt_cache_bytes", -1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: object) -> None:
    (problem,) = problems_of({name: value})
    assert problem.startswith(f"SAFELIGHT_{name.upper()} (or --{name.replace('_', '-')}): ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 0),
        ("port", 65535),
        ("public_base_url", "https://example.org"),
        ("public_base_url", "http://[::1]:8000/images"),
        ("device", "cpu"),
        ("device", "cuda"),
        ("device", "cuda:15"),
        ("threads", 1024),
        ("max_body_bytes", 1024),
        ("drain_seconds", 0),
        ("log_level", "debug"),
        ("scheduling_policy", "fifo"),
        ("batch_max_rows", 1),
        ("batch_max_rows", 256),
        ("batch_exact_rows", 2),
        ("batch_exact_rows", 64),
        ("job_memory_bytes", 1),
        ("prompt_cache_bytes", 0),
    ],
)
def test_a_value_at_the_edge_of_its_range_is_accepted(name: str, value: object) -> None:
    assert getattr(load_settings({name: value}), name) == value


def test_every_wrong_value_is_reported_at_once() -> None:
    problems = problems_of({"port": 70000, "device": "gpu", "threads": 0})
    assert [problem.split()[0] for problem in problems] == ["SAFELIGHT_PORT", "SAFELIGHT_DEVICE", "SAFELIGHT_THREADS"]


def test_a_flag_that_is_no_setting_is_refused() -> None:
    (problem,) = problems_of({"prot": 1})
    assert "SAFELIGHT_PROT" in problem


def test_settings_cannot_be_changed() -> None:
    settings = load_settings({})
    with pytest.raises(ValidationError):
        settings.port = 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback_addresses_are_known_as_such(host: str) -> None:
    assert load_settings({"host": host}).is_loopback


@pytest.mark.parametrize(
    "host",
    [ANY_ADDRESS, "::", "", "192.168.1.2", "127.0.0.1.example.org", "localhost.example.org", "2130706433", "127.1"],
)
def test_every_other_address_counts_as_open_to_strangers(host: str) -> None:
    assert not load_settings({"host": host}).is_loopback


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_offline_nothing_that_fetches_is_built_whatever_else_is_set() -> None:
    assert fetch_policy(Settings(image_urls="open")) == FetchPolicy("open")
    for image_urls in ("off", "listed", "open"):
        assert fetch_policy(load_settings({"offline": True, "image_urls": image_urls})) is None
