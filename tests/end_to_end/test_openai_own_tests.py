"""openai-python's own tests pass against Safelight: pictures and models, sync, async and aiohttp, loose and strict."""

from __future__ import annotations

import io
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from server.core.settings import DEFAULT_CATALOGUE
from tests.end_to_end.openai_own_suite import Suite, obtain_suite
from tests.end_to_end.server_process import ServerProcess

IMAGES, MODELS = "tests/api_resources/test_images.py", "tests/api_resources/test_models.py"
ALTERED = "tests/api_resources/test_images_altered.py"
# 30 tests of images and 30 of models. Left out are those of models.delete, as ours cannot be deleted, and those of an
# empty path, which the client refuses without asking a server.
AS_PUBLISHED = "(generate and not all_params) or (models and (list or retrieve) and not path_params)"
# The other 70 tests of images cannot pass as published. They are written for a server that answers from a description
# and looks at nothing: they send b"Example data" as a picture, and ask for transparency, which no model here paints.
WITH_PLACEHOLDERS = "all_params or edit or variation"
OTHER_TESTS_OF_IMAGES, OTHER_TESTS_OF_MODELS = 70, 25
# What their tests of models retrieve.
RETRIEVED = "gpt-6-astra"
# One forward a picture, also for edits and variations, which do a share of the steps.
CHEAP = {"size": "256x256", "steps": 1, "guidance_scale": 1.0}
WHOLE = dict.fromkeys(("strength", "faithful_strength", "masked_strength", "variation_strength"), 1.0)


def cheap_catalogue(folder: Path) -> Path:
    """The shipped models, where a request that leaves the work to the server costs little."""
    catalogue = yaml.safe_load(DEFAULT_CATALOGUE.read_text(encoding="utf-8"))
    catalogue["default_aliases"].append(RETRIEVED)
    for entry in catalogue["models"].values():
        entry["source"] = str(DEFAULT_CATALOGUE.parent / entry["source"])
        entry["defaults"] |= CHEAP | WHOLE
        entry["presets"]["quality"] = {"low": {"steps": 1}, "hd": {"steps": 1}}
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump(catalogue), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def cheap_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    # More threads than idle cores would spin for each other: pictures this small take longer with them.
    process = ServerProcess(("--models", str(cheap_catalogue(tmp_path_factory.mktemp("cheap"))), "--threads", "1"))
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    return obtain_suite(tmp_path_factory.mktemp("openai"))


def answered(server: ServerProcess, since: int, expected: int) -> list[tuple[str, int]]:
    """Path and status of the requests that the log tells of from this line on. That of a closed stream comes late."""
    deadline = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in server.lines[since:] if '"event": "request"' in line]
        if len(lines) >= expected or time.monotonic() > deadline:
            return [(line["path"], line["status"]) for line in lines]
        time.sleep(0.05)


@pytest.mark.parametrize(
    "prefix", ["/v1", pytest.param("/api", marks=pytest.mark.whole), pytest.param("", marks=pytest.mark.whole)]
)
def test_their_tests_pass_as_published_under_every_prefix(
    cheap_server: ServerProcess, suite: Suite, prefix: str
) -> None:
    since = len(cheap_server.lines)
    finished = suite.run(cheap_server.url + prefix, AS_PUBLISHED, IMAGES, MODELS)
    others = OTHER_TESTS_OF_IMAGES + OTHER_TESTS_OF_MODELS
    assert finished.counts == {"passed": 60, "deselected": others}, finished.output
    # Their client tries again when it is refused for load or by a crash: that would be seen here.
    expected = {f"{prefix}/images/generations": 30, f"{prefix}/models": 15, f"{prefix}/models/{RETRIEVED}": 15}
    assert Counter(answered(cheap_server, since, 60)) == {(path, 200): count for path, count in expected.items()}


@pytest.mark.whole
def test_the_others_are_refused_for_their_placeholders(cheap_server: ServerProcess, suite: Suite) -> None:
    since = len(cheap_server.lines)
    finished = suite.run(f"{cheap_server.url}/v1", WITH_PLACEHOLDERS, IMAGES)
    assert finished.counts == {"failed": OTHER_TESTS_OF_IMAGES, "deselected": 30}, finished.output
    refusals = re.findall(r"^openai\.BadRequestError: Error code: 400 - (.*)$", finished.output, re.MULTILINE)
    of_transparency = sum("The model 'demo-sdxl' paints every pixel." in refusal for refusal in refusals)
    of_pictures = sum("PNG, JPEG" in refusal for refusal in refusals)
    assert (of_transparency, of_pictures) == (20, 50), finished.output
    assert {status for _, status in answered(cheap_server, since, OTHER_TESTS_OF_IMAGES)} == {400}


def half_transparent() -> bytes:
    """A picture that is also a mask of its own size."""
    picture = Image.new("RGBA", (256, 256), "red")
    picture.paste((0, 0, 0, 0), (64, 64, 192, 192))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.mark.whole
def test_the_others_pass_with_a_picture_for_their_placeholder_and_without_transparency(
    cheap_server: ServerProcess, suite: Suite
) -> None:
    changes = {
        'b"Example data"': repr(half_transparent()),
        'background="transparent"': 'background="opaque"',
        # A picture of sixteen times the pixels takes sixteen times as long, and their tests look at none.
        'size="1024x1024"': 'size="256x256"',
    }
    suite.alter(IMAGES, ALTERED, changes)
    since = len(cheap_server.lines)
    finished = suite.run(f"{cheap_server.url}/v1", WITH_PLACEHOLDERS, ALTERED)
    assert finished.counts == {"passed": OTHER_TESTS_OF_IMAGES, "deselected": 30}, finished.output
    expected = {"generations": 10, "edits": 40, "variations": 20}
    paths = {(f"/v1/images/{name}", 200): count for name, count in expected.items()}
    assert Counter(answered(cheap_server, since, OTHER_TESTS_OF_IMAGES)) == paths
