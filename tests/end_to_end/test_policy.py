"""A server with content checks, a real worker with a real safety checker, and its books on the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.server_process import ServerProcess
from tests.pipelines.tiny_models import write_safety_checker

SOURCE = Path("pipelines/demo/demo-sdxl").resolve()
CATALOGUE = f"""\
default_model: demo
models:
  demo: {{family: sdxl, source: {SOURCE}, defaults: {{size: 256x256, steps: 2, guidance_scale: 2.0}}}}
policy:
  checks:
    - {{name: words, kind: words, file: words.txt}}
    - {{name: patterns, kind: patterns, file: patterns.txt}}
    - {{name: pictures, kind: image, source: checker, levels: [auto]}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    write_safety_checker(folder / "checker", bar=-2.0)  # refuses all that it sees
    (folder / "models.yaml").write_text(CATALOGUE)
    (folder / "words.txt").write_text("forbidden\n")
    (folder / "patterns.txt").write_text(r"\d{4}-\d{4}" + "\n")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    books = {"SAFELIGHT_LEDGER": f"sqlite:///{folder / 'books.sqlite'}"}
    process = ServerProcess(("--models", str(folder / "models.yaml")), books)
    yield process
    assert process.stop() == 0


def code_of(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


@pytest.mark.whole
def test_prompts_and_pictures_are_refused_and_the_books_say_by_which_check(server: ServerProcess, folder: Path) -> None:
    refused = (400, "content_policy_violation")
    by_word = server.generate(prompt="a for\u200bbidden circle", moderation="low")
    by_pattern = server.generate(prompt="call 1234-5678", moderation="low")
    by_checker = server.generate(prompt="a red circle", response_format="b64_json")
    assert [code_of(reply) for reply in (by_word, by_pattern, by_checker)] == [refused] * 3
    streamed = server.generate(prompt="a red circle", stream=True, partial_images=1)
    assert "content_policy_violation" in streamed.text
    assert "b64_json" not in streamed.text
    unseen = server.generate(prompt="a red circle", moderation="low", response_format="b64_json")
    assert unseen.status_code == 200
    assert "policy_decisions" in tables(folder)
    expected = [
        (by_word, [("words", "refuse")]),
        (by_pattern, [("words", "allow"), ("patterns", "refuse")]),
        (by_checker, [("words", "allow"), ("patterns", "allow"), ("pictures", "refuse")]),
        (unseen, [("words", "allow"), ("patterns", "allow")]),
    ]
    for reply, decisions in expected:
        assert written(folder, reply.headers["x-request-id"]) == decisions


def tables(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "books.sqlite")) as books:
        return {name for (name,) in books.execute("SELECT name FROM sqlite_master")}


def written(folder: Path, request_id: str) -> list[tuple[str, str]]:
    query = "SELECT check_name, decision FROM policy_decisions WHERE request_id = ? ORDER BY number"
    with closing(sqlite3.connect(folder / "books.sqlite")) as books:
        return books.execute(query, (request_id,)).fetchall()
