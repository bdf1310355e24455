"""Guards where models come from: pinned to commits or refused with a reason, and found where a pull puts them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.weights.layout import source_of
from pipelines.weights.manifest import folder_name
from pipelines.weights.verify import find_problem
from server.core.catalogue import Catalogue
from server.core.catalogue_file import CatalogueProblem, load_catalogue

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HEAD = """\
default_model: Org/mine
models:
  Org/mine:
    family: sdxl
"""
HUB = f'    hub: {{repository: owner/name, revision: "{COMMIT}"'


def load(folder: Path, entry: str, models_folder: Path | None = None) -> Catalogue:
    path = folder / "models.yaml"
    path.write_text(HEAD + entry)
    return load_catalogue(path, models_folder)


def problem_of(folder: Path, entry: str) -> str:
    with pytest.raises(CatalogueProblem) as caught:
        load(folder, entry)
    (problem,) = caught.value.problems
    return problem.removeprefix(f"{folder / 'models.yaml'}:")


def test_a_model_of_a_hub_lies_in_the_models_folder_where_a_pull_puts_it(tmp_path: Path) -> None:
    (spec,) = load(tmp_path, HUB + "}\n").specs()
    assert spec.folder == str(tmp_path / "models" / folder_name("Org/mine"))
    assert spec.is_pulled
    (spec,) = load(tmp_path, HUB + "}\n", tmp_path / "elsewhere").specs()
    assert spec.folder == str(tmp_path / "elsewhere" / folder_name("Org/mine"))


def test_a_single_file_of_a_hub_is_the_model_itself(tmp_path: Path) -> None:
    (spec,) = load(tmp_path, HUB + ", files: [deep/one.safetensors]}\n").specs()
    assert spec.folder == str(tmp_path / "models" / "Org--mine" / "deep" / "one.safetensors")


def test_before_it_was_pulled_a_model_says_what_to_run(tmp_path: Path) -> None:
    for files in ("", ", files: [one.safetensors]"):
        (spec,) = load(tmp_path, HUB + files + "}\n").specs()
        problem = find_problem(source_of(spec), spec.family)
        assert problem is not None
        assert problem.endswith(" does not exist yet; run: safelight models pull Org/mine")


def test_sources_are_asked_in_their_order(tmp_path: Path) -> None:
    mirrors = [f"https://hub.example.org/deep/owner/name@{COMMIT}", f"other/name@{'f' * 40}"]
    hub = load(tmp_path, HUB + f", mirrors: {mirrors}}}\n").models["Org/mine"].hub
    assert hub is not None
    assert hub.sources == (f"owner/name@{COMMIT}", *mirrors)


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:39], COMMIT + "0", COMMIT.upper(), ""])
def test_what_is_pinned_to_no_commit_is_refused_with_the_reason(tmp_path: Path, revision: str) -> None:
    at_the_entry = problem_of(tmp_path, f'    hub: {{repository: owner/name, revision: "{revision}"}}\n')
    assert at_the_entry.startswith("5: models.Org/mine.hub.revision: ")
    mirror = f"https://hub.example.org/owner/name@{revision}"
    at_the_mirror = problem_of(tmp_path, HUB + f', mirrors: ["{mirror}"]}}\n')
    assert at_the_mirror.startswith("5: models.Org/mine.hub.mirrors.0: ")
    for problem in (at_the_entry, at_the_mirror):
        assert f"'{revision}' is no commit" in problem
        assert "other bytes tomorrow" in problem


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("", "needs either source"),
        (f"    source: here\n{HUB}}}\n", "needs either source"),
        (f"{HUB}, mirors: []}}\n", "unknown key. Did you mean 'mirrors'?"),
        (f"{HUB}, mirrors: [owner/name]}}\n", "a mirror is written"),
        (f"{HUB}, mirrors: ['ftp://h/owner/name@{COMMIT}']}}\n", "a mirror is written"),
        (f"{HUB}, mirrors: ['https://user:key@h/owner/name@{COMMIT}']}}\n", "a mirror is written"),
        (f"{HUB}, files: [../one.safetensors]}}\n", "a file is named as in the repository"),
        (f"    hub: {{repository: 'https://h/owner/name', revision: '{COMMIT}'}}\n", "OWNER/NAME"),
        ("    hub: {repository: owner/name}\n", "Field required"),
    ],
)
def test_what_is_no_hub_is_refused(tmp_path: Path, entry: str, words: str) -> None:
    assert words in problem_of(tmp_path, entry)


def test_two_models_never_share_a_folder(tmp_path: Path) -> None:
    second = f"  Org--mine:\n    family: sdxl\n{HUB}}}\n"
    assert "'Org/mine' and 'Org--mine' would be pulled into the same folder" in problem_of(
        tmp_path, HUB + "}\n" + second
    )


def test_the_ready_made_entries_of_the_documents_load(tmp_path: Path) -> None:
    """As they are to be pasted; those without a commit with any."""
    page = (ROOT / "docs" / "models.md").read_text()
    (entries,) = re.findall(r"```yaml\n(models:\n  sdxl-base:.*?)```", page, re.DOTALL)
    path = tmp_path / "models.yaml"
    path.write_text("default_model: sdxl-base\n" + entries)
    models = load_catalogue(path).models
    assert models.keys() == {"sdxl-base", "sd21", "sd21-base", "flux-schnell"}
    assert all(entry.hub is not None for entry in models.values())
    assert [entry.defaults.size for entry in models.values()] == ["1024x1024", "768x768", "512x512", "1024x1024"]
