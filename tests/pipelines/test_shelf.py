"""The short process answers with one line of JSON and an exit status, imports no torch, and goes online for no command
but one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml
from safetensors.numpy import save_file

from pipelines.shelf import catalogue_entry, detect_family
from pipelines.weights.arrival import staging_of
from pipelines.weights.files import CheckpointProblem
from pipelines.weights.manifest import find_damage, read_manifest
from server.core.catalogue_file import load_catalogue
from tests.pipelines.conftest import KINDS, Checkpoint
from tests.pipelines.test_manifest import UNET, contents, flip_bit, write_model

pytestmark = pytest.mark.usefixtures("may_go_online")

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "diffusers", "transformers", "numpy"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipelines.shelf", *map(str, arguments)]


def shelf(*arguments: object, status: int = 0) -> dict[str, Any]:
    """What a command answers: one line of JSON on standard output, as its exit status says."""
    finished = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == status, finished.stderr
    (line,) = finished.stdout.splitlines()
    answer: dict[str, Any] = json.loads(line)
    assert answer["command"] == arguments[0]
    assert answer["ok"] is (status == 0)
    assert "Traceback" not in finished.stderr
    return answer


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", unet_bytes=1_000_000)


def modules_after(code: str, *arguments: object) -> set[str]:
    """The top-level modules that a fresh interpreter holds after it ran this."""
    told = [sys.executable, "-c", f"import json, sys\n{code}\nprint(json.dumps([*sys.modules]))", *map(str, arguments)]
    finished = subprocess.run(told, cwd=ROOT, stdout=subprocess.PIPE, timeout=120, check=True, text=True)
    return {name.partition(".")[0] for name in json.loads(finished.stdout.splitlines()[-1])}


def test_no_command_imports_what_is_heavy_and_only_pull_what_could_go_online(model: Path) -> None:
    run = "from pipelines.shelf import main\nmain(sys.argv[1:])"
    imported = modules_after(run, "add", model)
    assert imported & (HEAVY | {"huggingface_hub", "httpx2", "httpx", "ssl"}) == set()
    unknown = ["pull", "m", "--into", model.parent / "into", "--source", "http://127.0.0.1:1/a/b@" + "0" * 40]
    imported = modules_after(run, *unknown)
    assert "huggingface_hub" in imported
    assert imported & HEAVY == set()


def test_a_model_is_added_verified_carried_and_verified_again(model: Path, tmp_path: Path) -> None:
    notes = ("--licence", "openrail++", "--source", "a shop", "--revision", "7")
    added = shelf("add", model, "--id", "a/b", *notes)
    facts = {"files": 12, "source": "a shop", "revision": "7", "licence": "openrail++"}
    assert added.items() >= ({"id": "a/b", "family": "sdxl", "path": str(model)} | facts).items()
    assert shelf("verify", model)["models"] == [{"path": str(model), "damages": []}]
    archive, into = tmp_path / "a.tar", tmp_path / "into"
    exported = shelf("export", archive, f"a/b={model}")
    assert exported["size_bytes"] == archive.stat().st_size
    assert [one["id"] for one in exported["models"]] == ["a/b"]
    assert shelf("verify", archive)["models"] == [{"path": str(archive), "damages": []}]
    (one,) = shelf("import", archive, "--into", into)["models"]
    assert one.items() >= ({"path": str(into / "a--b")} | facts).items()
    assert contents(into / "a--b") == contents(model)
    assert shelf("verify", into / "a--b", "--quick")["ok"]


def test_every_damage_is_in_the_answer(model: Path) -> None:
    shelf("add", model)
    flip_bit(model / UNET)
    (model / "vae/config.json").unlink()
    (report,) = shelf("verify", model, status=1)["models"]
    found = {one["file"]: one["kind"] for one in report["damages"]}
    assert found == {"vae/config.json": "missing", UNET: "changed"}


def test_one_damaged_model_does_not_hide_the_others(model: Path, tmp_path: Path) -> None:
    shelf("add", model)
    nothing = tmp_path / "nothing"
    reports = shelf("verify", nothing, model, status=1)["models"]
    assert [len(report["damages"]) for report in reports] == [1, 0]
    assert "is missing" in reports[0]["damages"][0]["sentence"]


def test_a_damaged_archive_is_a_damage(model: Path, tmp_path: Path) -> None:
    shelf("export", tmp_path / "a.tar", f"m={model}")
    flip_bit(tmp_path / "a.tar", 600_000)
    (report,) = shelf("verify", tmp_path / "a.tar", status=1)["models"]
    assert "is damaged" in report["damages"][0]["sentence"]


def test_a_good_check_makes_the_next_quick_one_cheap(model: Path) -> None:
    shelf("add", model)
    os.utime(model / UNET, (1, 1))
    assert find_damage(model, read_manifest(model), "nothing") != ()
    shelf("verify", model)
    assert find_damage(model, read_manifest(model), "nothing") == ()


@pytest.mark.parametrize("harm", ["missing", "family", "code", "weights"])
def test_what_cannot_be_served_is_not_added(model: Path, harm: str) -> None:
    if harm == "missing":
        (model / UNET).unlink()
    elif harm == "code":
        (model / "evil.py").write_text("")
    elif harm == "weights":
        (model / UNET).write_bytes(b"\x80\x04pickle")
    family = ["--family", "flux"] if harm == "family" else []
    assert str(model) in shelf("add", model, *family, status=1)["problem"]
    assert not (model / "safelight.manifest").exists()


@pytest.mark.parametrize("arguments", [[], ["steal"], ["add"], ["pull", "m"], ["add", "x", "--family", "sdlx"]])
def test_wrong_use_is_told_apart_from_failure(arguments: list[str]) -> None:
    finished = subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert "usage:" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "a.tar", "model"], "names no model: write ID=PATH"),
        (["export", "a.tar", "m="], "names no model: write ID=PATH"),
        (["export", "a.tar", "m=/nowhere"], "the folder /nowhere does not exist"),
        (["import", "/nowhere.tar", "--into", "/tmp/x"], "/nowhere.tar is missing"),  # noqa: S108 (never written)
        (["add", "/nowhere"], "/nowhere does not exist"),
        (["add", "/nowhere.safetensors"], "/nowhere.safetensors is missing"),
        (["pull", "../m", "--into", "/tmp/x", "--source", "a/b@c"], "no model id"),  # noqa: S108 (never written)
        (["pull", "m", "--into", "/tmp/x", "--source", "a/b"], "is no source: write OWNER/NAME@COMMIT"),  # noqa: S108
    ],
)
def test_what_is_asked_for_and_not_there_is_named(arguments: list[str], words: str) -> None:
    assert words in shelf(*arguments, status=1)["problem"]


def test_a_place_that_cannot_be_written_to_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert "cannot be written to" in shelf("export", tmp_path / "file" / "a.tar", f"m={model}", status=1)["problem"]


def test_an_import_that_is_interrupted_says_so_and_goes_on(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", unet_bytes=200_000_000)
    archive, into = tmp_path / "a.tar", tmp_path / "into"
    shelf("export", archive, f"m={model}")
    process = subprocess.Popen(
        command("import", archive, "--into", into), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    part = staging_of(into / "m") / f"{UNET}.part"
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "goes on where this one stopped" in json.loads(output)["problem"]
    assert not (into / "m").exists()
    shelf("import", archive, "--into", into)
    assert contents(into / "m") == contents(model)


@pytest.mark.parametrize("kind", KINDS)
def test_the_family_of_every_real_layout_is_seen_and_its_entry_is_good(
    checkpoints: Mapping[str, Checkpoint], kind: str, tmp_path: Path
) -> None:
    checkpoint = checkpoints[kind]
    assert detect_family(checkpoint.folder) == checkpoint.family
    entry = catalogue_entry("my/model", checkpoint.family, checkpoint.folder)
    (tmp_path / "models.yaml").write_text(f"default_model: my/model\nmodels:\n{entry}")
    catalogue = load_catalogue(tmp_path / "models.yaml")
    (spec,) = catalogue.specs()
    assert (spec.id, spec.family, Path(spec.folder)) == ("my/model", checkpoint.family, checkpoint.folder)
    defaults = catalogue.models["my/model"].defaults
    by_kind = {"flux-schnell": (4, 0.0), "flux-dev": (28, 3.5), "sdxl": (30, 5.0)}
    assert (defaults.steps, defaults.guidance_scale) == by_kind.get(kind, (30, 7.5))
    assert defaults.size == ("1024x1024" if checkpoint.family == "flux" else "512x512")


@pytest.mark.parametrize("name", ["a: b", 'quote"s', "#x", "\N{SNOWMAN}", "${HOME}", "'"])
def test_an_entry_quotes_a_path_that_yaml_would_read_otherwise(model: Path, name: str) -> None:
    place = model.rename(model.with_name(name))
    entry = yaml.safe_load(f"models:\n{catalogue_entry('m', 'sdxl', place)}")["models"]["m"]
    assert entry["source"] == str(place)
    assert entry["defaults"]["size"] == "1024x1024"


@pytest.mark.parametrize(
    ("names", "family"),
    [
        (["conditioner.embedders.1.model.x", "model.diffusion_model.input_blocks.0"], "sdxl"),
        (["cond_stage_model.model.x", "model.diffusion_model.input_blocks.0"], "sd21"),
        (["double_blocks.0.x"], "flux"),
    ],
)
def test_a_single_file_is_added_by_its_tensors_names(tmp_path: Path, names: list[str], family: str) -> None:
    file = tmp_path / "style.safetensors"
    save_file({name: numpy.zeros(4) for name in names}, file)
    added = shelf("add", file)
    assert (added["id"], added["family"], added["files"]) == ("style", family, 1)
    assert (tmp_path / "style.safetensors.manifest").exists()
    assert "holds no tokenizers" in added["entry"]
    assert ("config: sd21-768" in added["entry"]) == (family == "sd21")
    assert yaml.safe_load(added["entry"]).keys() == {"style"}
    assert shelf("verify", file)["ok"]


def test_what_is_of_no_family_is_not_added(tmp_path: Path, model: Path) -> None:
    save_file({"cond_stage_model.transformer.x": numpy.zeros(4)}, tmp_path / "old.safetensors")
    with pytest.raises(CheckpointProblem, match="holds a Stable Diffusion 1 checkpoint"):
        detect_family(tmp_path / "old.safetensors")
    (model / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    with pytest.raises(CheckpointProblem, match="of no family that is known here"):
        detect_family(model)


def test_a_file_name_that_is_no_text_is_refused_with_an_answer(model: Path) -> None:
    Path(os.fsdecode(os.fsencode(model) + b"/\xff.json")).write_bytes(b"{}")
    assert "not allowed" in shelf("add", model, status=1)["problem"]
