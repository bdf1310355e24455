"""The command `safelight draw`: it draws, writes the files, and says what went wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from pipelines.demo.scenes import paint, single
from tests.end_to_end.server_process import ServerProcess


def safelight(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def draw(server: ServerProcess, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    small = ("--size", "256x256", "--steps", "2")
    return safelight(folder, "draw", "a red circle", "--server", server.url, *small, *arguments)


def facts_of_file(path: Path) -> tuple[str | None, tuple[int, int]]:
    with Image.open(path) as picture:
        return picture.format, picture.size


def test_it_writes_the_picture_and_says_where_and_with_which_seed(server: ServerProcess, tmp_path: Path) -> None:
    finished = draw(server, tmp_path, "--seed", "7")
    assert (finished.returncode, finished.stdout) == (0, "safelight-7.png  seed 7\n"), finished.stderr
    assert facts_of_file(tmp_path / "safelight-7.png") == ("PNG", (256, 256))


def test_a_second_picture_of_one_seed_does_not_take_the_place_of_the_first(
    server: ServerProcess, tmp_path: Path
) -> None:
    assert [draw(server, tmp_path, "--seed", "7").returncode for _ in range(2)] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["safelight-7-2.png", "safelight-7.png"]


def test_several_pictures_are_numbered_and_json_is_for_scripts(server: ServerProcess, tmp_path: Path) -> None:
    finished = draw(server, tmp_path, "--n", "2", "--seed", "1", "-o", "out.webp", "--json")
    files = json.loads(finished.stdout)["files"]
    assert sorted((one["path"], one["seed"]) for one in files) == [("out-1.webp", 1), ("out-2.webp", 2)]
    assert {facts_of_file(tmp_path / one["path"]) for one in files} == {("WEBP", (256, 256))}


def test_it_sends_a_picture_to_start_from(server: ServerProcess, tmp_path: Path) -> None:
    paint(single("circle", "red", "blue", "large"), 256, 256).save(tmp_path / "in.png")
    finished = draw(server, tmp_path, "--image", "in.png", "--strength", "0.5", "-o", "out.png")
    assert finished.returncode == 0, finished.stderr


def test_what_it_drew_can_be_inspected(server: ServerProcess, tmp_path: Path) -> None:
    draw(server, tmp_path, "--seed", "7", "-o", "out.jpg")
    facts = json.loads(safelight(tmp_path, "inspect", "out.jpg", "--json").stdout)
    assert (facts["prompt"], facts["seed"], facts["steps"], facts["model"]) == ("a red circle", 7, 2, "demo-sdxl")
    assert len(facts["weights_digest"]) == 64


def test_failures_are_told_and_exit_with_1(server: ServerProcess, tmp_path: Path) -> None:
    for arguments, words in (
        (["--n", "11"], "'n'"),
        (["--model", "no-such-model"], "does not exist"),
        (["--image", "missing.png"], "missing.png"),
        (["-o", "out.gif"], "a picture's name ends in"),
    ):
        finished = draw(server, tmp_path, *arguments)
        assert finished.returncode == 1
        assert words in finished.stderr
        assert "Traceback" not in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_server_it_says_how_to_start_one(tmp_path: Path) -> None:
    finished = safelight(tmp_path, "draw", "a red circle", "--server", "http://127.0.0.1:9")
    assert finished.returncode == 1
    assert "safelight serve" in finished.stderr
