"""Weights that are corrupt, cut, missing, pickled or somebody else's cost their own model alone, and run no code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.invariants import DEMO, TINY, House

pytestmark = pytest.mark.whole  # tests/end_to_end/test_survival.py tries two of them in the quick run
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
TRACE = "pickles-were-run"


class Evil:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, (str(self._trace),)


def evil_pickle(folder: Path) -> bytes:
    return pickle.dumps(Evil(folder.parent / TRACE))


def truncated(folder: Path) -> None:
    whole = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(whole[:-1000])


def empty(folder: Path) -> None:
    (folder / UNET).write_bytes(b"")


def missing(folder: Path) -> None:
    (folder / UNET).unlink()


def of_a_bad_head(folder: Path) -> None:
    whole = (folder / UNET).read_bytes()
    (folder / UNET).write_bytes(b"\xff" * 8 + whole[8:])


def of_a_head_that_is_no_json(folder: Path) -> None:
    whole = bytearray((folder / UNET).read_bytes())
    whole[8:12] = b"\0\0\0\0"
    (folder / UNET).write_bytes(whole)


def pickled(folder: Path) -> None:
    (folder / UNET).with_suffix(".bin").write_bytes(evil_pickle(folder))
    (folder / UNET).unlink()


def a_pickle_named_safetensors(folder: Path) -> None:
    (folder / UNET).write_bytes(evil_pickle(folder))


def of_another_component(folder: Path) -> None:
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    (folder / UNET).write_bytes(vae.read_bytes())


def without_a_configuration(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()


def of_a_configuration_that_is_no_json(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")


def of_a_foreign_class(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["os", "system"]
    (folder / "model_index.json").write_text(json.dumps(index))


def a_link_out_of_the_folder(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).symlink_to("/etc/passwd")


def a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).mkdir()


DAMAGES = (
    *(truncated, empty, missing, of_a_bad_head, of_a_head_that_is_no_json, pickled, a_pickle_named_safetensors),
    *(of_another_component, without_a_configuration, of_a_configuration_that_is_no_json, of_a_foreign_class),
    *(a_link_out_of_the_folder, a_folder_in_place_of_a_file),
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("weights")
    models = TINY.format(demo=DEMO)
    for damage in DAMAGES:
        shutil.copytree(DEMO, folder / damage.__name__)
        damage(folder / damage.__name__)
        models = models.replace(
            "names:\n", f"  {damage.__name__}: {{family: sdxl, source: {damage.__name__}}}\nnames:\n"
        )
    house = House(folder, models)
    yield house
    house.stop()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.replace("_", " "))
def test_damaged_weights_refuse_their_own_model_and_no_other(house: House, damage: Callable[[Path], None]) -> None:
    for _ in range(2):
        reply = house.ask(model=damage.__name__, size="256x256")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_unavailable"), reply.text
        assert reply.headers["x-should-retry"] == "false"
    assert not (house.books.parent / TRACE).exists()
    house.assert_sound()


def test_the_pickle_would_have_left_a_trace(tmp_path: Path) -> None:
    pickle.loads(evil_pickle(tmp_path / "model"))  # noqa: S301 (the test's own)
    assert (tmp_path / TRACE).exists()
