"""The safety checker says what diffusers' own pipeline would say of the same pixels, and without one nothing passes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image as Picture
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil

from pipelines.engine.encode import Pixels
from pipelines.engine.safety import CheckUnavailable, SafetyCheck, seen_by_clip
from pipelines.messages import Failed, Image, Preview, Refused
from pipelines.weights.safety_file import find_safety_problem
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import Engine, submit
from tests.pipelines.tiny_models import write_safety_checker

SIDE_PX = 32
NEVER, ALWAYS = 2.0, -2.0


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Refuses everything: no cosine is below its bar."""
    return write_safety_checker(tmp_path_factory.mktemp("strict"), bar=ALWAYS)


@pytest.fixture(scope="module")
def lax(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safety_checker(tmp_path_factory.mktemp("lax"), bar=NEVER)


def noise(seed: int, height_px: int = 48, width_px: int = 64) -> Pixels:
    """Smooth, as pictures are."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Picture.fromarray(small).resize((width_px, height_px), Picture.Resampling.BILINEAR))


def processor() -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE_PX}, crop_size={"height": SIDE_PX, "width": SIDE_PX})


@pytest.mark.parametrize(
    ("height_px", "width_px"), [(64, 64), (48, 64), (65, 47), (33, 200), (16, 24), (32, 32), (101, 57)]
)
def test_clip_sees_what_transformers_own_processor_shows_it(height_px: int, width_px: int) -> None:
    pixels = noise(1, height_px, width_px)
    theirs = processor()(Picture.fromarray(pixels), return_tensors="pt").pixel_values
    assert torch.allclose(seen_by_clip(pixels, SIDE_PX), theirs, atol=1e-6, rtol=0)


def stock_cosine(checker: StableDiffusionSafetyChecker, pixels: Pixels) -> float:
    """The largest, of all concepts."""
    seen = processor()(Picture.fromarray(pixels), return_tensors="pt").pixel_values
    with torch.no_grad():
        embeds = checker.visual_projection(checker.vision_model(seen)[1])
        return float(torch.nn.functional.cosine_similarity(embeds, checker.concept_embeds).max())


def test_the_verdict_is_that_of_diffusers_on_both_sides_of_every_bar(tmp_path: Path) -> None:
    """A bar in the midst of what twenty pictures reach: some are refused, some pass, and diffusers says the same."""
    pictures = [noise(seed) for seed in range(20)]
    folder = write_safety_checker(tmp_path / "first", bar=NEVER)
    reached = sorted(stock_cosine(StableDiffusionSafetyChecker.from_pretrained(folder), one) for one in pictures)
    folder = write_safety_checker(tmp_path / "second", bar=(reached[9] + reached[10]) / 2)
    stock, ours = StableDiffusionSafetyChecker.from_pretrained(folder), SafetyCheck(folder)
    theirs = []
    for pixels in pictures:
        seen = processor()(Picture.fromarray(pixels), return_tensors="pt").pixel_values
        theirs.append(stock(clip_input=seen, images=[np.zeros((2, 2, 3))])[1][0])
    assert [ours.refuses(pixels) for pixels in pictures] == theirs
    assert set(theirs) == {True, False}


def test_weights_under_the_names_of_older_transformers_are_the_same_checker(strict: Path, tmp_path: Path) -> None:
    """As the checker was published: one more level of `vision_model`, and a buffer that nobody needs."""
    tensors = load_file(strict / "model.safetensors")
    old = {name.replace("vision_model.", "vision_model.vision_model.", 1): one for name, one in tensors.items()}
    old["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((strict / "config.json").read_bytes())
    assert find_safety_problem(tmp_path) is None
    assert SafetyCheck(tmp_path).refuses(noise(1))


@pytest.fixture
def broken(strict: Path, tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((strict / name).read_bytes())
    return tmp_path


def test_files_that_are_missing_cut_or_of_something_else_are_named(broken: Path) -> None:
    weights, config = broken / "model.safetensors", broken / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    assert "copy it again" in str(find_safety_problem(broken))
    weights.write_bytes(whole)
    assert find_safety_problem(broken) is None
    (broken / "pytorch_model.bin").write_bytes(b"pickle")
    assert "can hold code" in str(find_safety_problem(broken))
    (broken / "pytorch_model.bin").unlink()
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["CLIPModel"]}))
    assert "does not describe" in str(find_safety_problem(broken))
    config.unlink()
    assert "is missing" in str(find_safety_problem(broken))
    assert "does not exist" in str(find_safety_problem(broken / "nowhere"))


def test_a_checker_whose_weights_do_not_fit_gives_no_verdict(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    del tensors["concept_embeds_weights"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    check = SafetyCheck(broken)
    for _ in range(2):
        with pytest.raises(CheckUnavailable, match="concept_embeds_weights"):
            check.refuses(noise(1))


def drawn(checkpoints: Mapping[str, Checkpoint], folder: Path | None, **changes: Any) -> Iterator[object]:
    safety = None if folder is None else SafetyCheck(folder)
    engine = Engine(checkpoints, safety=safety)
    engine.draw([submit("job", steps=3, **changes)])
    return (event for event in engine.events if isinstance(event, Image | Refused | Failed | Preview))


def test_of_a_refused_picture_no_byte_leaves_the_worker(checkpoints: Mapping[str, Checkpoint], strict: Path) -> None:
    (end,) = drawn(checkpoints, strict, is_checked=True, preview_steps=(1, 2))
    assert isinstance(end, Refused)
    assert end.device_seconds > 0
    assert not hasattr(end, "file")


def test_what_passes_is_the_same_picture_and_says_that_it_was_looked_at(
    checkpoints: Mapping[str, Checkpoint], strict: Path, lax: Path
) -> None:
    (checked,) = drawn(checkpoints, lax, is_checked=True, preview_steps=(1, 2))
    (unchecked,) = drawn(checkpoints, strict)
    assert isinstance(checked, Image)
    assert isinstance(unchecked, Image)
    assert checked.file == unchecked.file
    assert checked.check_ms is not None
    assert unchecked.check_ms is None


def test_without_a_sound_checker_nothing_passes_that_must_be_checked(
    checkpoints: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    for folder in (None, tmp_path):
        (end,) = drawn(checkpoints, folder, is_checked=True)
        assert isinstance(end, Failed)
        assert end.code == "check_unavailable"
        assert str(tmp_path) not in end.message
