"""Models come to the device when jobs wait for them, leave when others need the room, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.messages import Failed, Image
from pipelines.residency.carrier import Carrier
from pipelines.residency.holding import Budgets, Rules
from pipelines.residency.models import Aside
from pipelines.weights.load import Opened
from pipelines.weights.treatment import Treatment, bytes_on_device
from tests.pipelines.conftest import Checkpoint
from tests.pipelines.engine_runs import CPU, Engine, submit

DEMOS = Path(__file__).resolve().parents[2] / "pipelines" / "demo"
FULL = Treatment(torch.float32)
ALL = ("sdxl", "sd21-velocity", "flux-schnell")


def bytes_of(checkpoint: Checkpoint) -> int:
    modules = Opened(checkpoint.folder, checkpoint.family).modules(CPU, torch.float32)
    return sum(bytes_on_device(module, FULL) for module in modules.values())


@pytest.fixture(scope="module")
def three(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
    return {name: checkpoints[name] for name in ALL}


@pytest.fixture(scope="module")
def largest_bytes(three: Mapping[str, Checkpoint]) -> int:
    return max(map(bytes_of, three.values()))


def held_bytes(engine: Engine) -> int:
    return sum(bytes_on_device(module, FULL) for module in engine.carrier.modules.values())


def states(engine: Engine) -> dict[str, str]:
    return {report.id: report.state for report in engine.models.reports()}


def settle(engine: Engine, seconds: float = 1.5) -> None:
    """Let the engine look at its models until nothing is under way."""
    for _ in range(int(seconds * 100)):
        engine.runner.work()


def test_a_model_is_on_disk_until_a_job_wants_it_and_then_on_the_device(three: Mapping[str, Checkpoint]) -> None:
    engine = Engine(three)
    assert set(states(engine).values()) == {"disk"}
    engine.draw([submit("a")])
    assert states(engine) == {"sdxl": "device", "sd21-velocity": "disk", "flux-schnell": "disk"}
    sizes = {report.id: report.device_bytes for report in engine.models.reports()}
    assert sizes == {"sdxl": bytes_of(three["sdxl"]), "sd21-velocity": 0, "flux-schnell": 0}


def test_where_not_all_fit_at_a_time_all_are_served_and_draw_to_the_byte_as_ever(
    three: Mapping[str, Checkpoint], largest_bytes: int
) -> None:
    requests = [submit(f"{model}-{turn}", model=model, seed=turn) for turn in range(3) for model in ALL]
    roomy, narrow = Engine(three), Engine(three, budgets=Budgets(largest_bytes))
    held: list[int] = []
    roomy.draw(requests)
    narrow.draw(requests, lambda: held.append(held_bytes(narrow)))
    assert len(narrow.pictures()) == len(requests)
    assert narrow.pictures() == roomy.pictures()
    assert max(held) <= largest_bytes
    assert "disk" in states(narrow).values()


def test_what_leaves_the_device_waits_in_host_memory_where_there_is_some(
    three: Mapping[str, Checkpoint], largest_bytes: int
) -> None:
    engine = Engine(three, budgets=Budgets(largest_bytes, host_bytes=1 << 40))
    for model in ALL:
        engine.draw([submit(model, model=model)])
    assert states(engine)["sdxl"] == "host"
    assert states(engine)["flux-schnell"] == "device"
    engine.draw([submit("again", model="sdxl", seed=1), submit("fresh", model="sdxl", seed=1)])
    assert engine.pictures()["again"] == engine.pictures()["fresh"]
    assert states(engine)["sdxl"] == "device"


def test_a_model_that_does_not_fit_refuses_its_own_jobs_and_the_others_are_served(
    three: Mapping[str, Checkpoint],
) -> None:
    sizes = {name: bytes_of(one) for name, one in three.items()}
    largest = max(sizes, key=lambda name: sizes[name])
    engine = Engine(three, budgets=Budgets(sizes[largest] - 100_000), changes={"fit": "full"})
    ends = engine.draw([submit(name, model=name) for name in ALL])
    (refused,) = ends.pop(largest)
    assert isinstance(refused, Failed)
    assert refused.code == "model_unavailable"
    assert "does not fit this device" in refused.detail
    assert all(isinstance(end, Image) for (end,) in ends.values())


def test_a_pinned_model_stays_whatever_is_asked_and_another_that_needs_its_room_is_refused(
    three: Mapping[str, Checkpoint], largest_bytes: int
) -> None:
    engine = Engine(three, budgets=Budgets(largest_bytes), rules=Rules(pinned=frozenset({"sdxl"})))
    settle(engine)
    assert states(engine)["sdxl"] == "device"
    ends = engine.draw([submit("other", model="flux-schnell"), submit("mine")])
    assert [type(end) for (end,) in (ends["other"], ends["mine"])] == [Failed, Image]
    engine.models.pin("sdxl", is_pinned=False)
    settle(engine)
    assert isinstance(engine.draw([submit("later", model="flux-schnell")])["later"][0], Image)


def test_models_that_must_never_be_together_take_turns(three: Mapping[str, Checkpoint]) -> None:
    pair = frozenset({"sdxl", "flux-schnell"})
    engine = Engine(three, rules=Rules(never_together=(pair,)))
    seen: list[set[str]] = []

    def watch() -> None:
        seen.append({model for model, state in states(engine).items() if state == "device"})

    engine.draw([submit(f"{model}-{turn}", model=model) for turn in range(2) for model in sorted(pair)], watch)
    assert len(engine.pictures()) == 4
    assert not any(pair <= together for together in seen)


def test_an_operator_can_bring_a_model_and_let_it_go(three: Mapping[str, Checkpoint]) -> None:
    engine = Engine(three)
    engine.models.load("flux-schnell", 0.0)
    settle(engine)
    assert states(engine)["flux-schnell"] == "device"
    engine.models.unload("flux-schnell")
    settle(engine)
    assert states(engine)["flux-schnell"] == "disk"
    assert engine.carrier.modules == {}


def test_a_model_that_is_let_go_while_a_job_works_with_it_goes_when_the_job_is_done(
    three: Mapping[str, Checkpoint],
) -> None:
    engine = Engine(three)
    engine.runner.submit(submit("a", steps=6))
    while engine.runner.has_work and not engine.models.family("sdxl"):
        engine.runner.work()
    engine.runner.work()
    engine.models.unload("sdxl")
    engine.draw([])
    assert isinstance(engine.ends()["a"][0], Image)
    settle(engine)
    assert states(engine)["sdxl"] == "disk"


def test_what_two_models_share_is_held_once_and_stays_while_one_needs_it(
    three: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    twin = tmp_path / "a copy in another place"
    shutil.copytree(three["flux-schnell"].folder, twin)
    two = {"flux-schnell": three["flux-schnell"], "twin": Checkpoint("flux", twin)}
    engine = Engine(two)
    engine.draw([submit(name, model=name) for name in two])
    assert len(engine.carrier.modules) == 4, "a transformer, a VAE and two text encoders"
    assert engine.pictures()["twin"] == engine.pictures()["flux-schnell"]
    engine.models.unload("twin")
    settle(engine)
    assert states(engine) == {"flux-schnell": "device", "twin": "disk"}
    assert len(engine.carrier.modules) == 4, "all of it is there for the other"
    engine.draw([submit("once more", model="twin")])
    assert engine.pictures()["once more"] == engine.pictures()["twin"]


def test_files_that_turn_out_bad_fail_their_own_model_and_are_served_when_they_were_mended(
    three: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(three["sdxl"].folder, broken)
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    sound = weights.read_bytes()
    not_a_number = np.float32("nan").tobytes()
    engine = Engine({"good": three["sdxl"], "bad": Checkpoint("sdxl", broken)})
    weights.write_bytes(sound[: -len(not_a_number)] + not_a_number)
    ends = engine.draw([submit("one", model="bad"), submit("other", model="good")])
    assert [type(end) for (end,) in (ends["one"], ends["other"])] == [Failed, Image]
    assert states(engine) == {"good": "device", "bad": "failed"}
    problem = {report.id: report.problem for report in engine.models.reports()}["bad"]
    assert problem is not None
    assert "not finite" in problem
    weights.write_bytes(sound)
    engine.models.load("bad", 0.0)
    assert isinstance(engine.draw([submit("two", model="bad")])["two"][0], Image)


def test_files_that_were_replaced_while_the_model_was_away_are_what_it_draws_with(
    three: Mapping[str, Checkpoint], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(three["sd21-velocity"].folder, mine)
    engine = Engine({"mine": Checkpoint("sd21", mine)})
    engine.draw([submit("before", model="mine")])
    engine.models.unload("mine")
    settle(engine)
    weights = load_file(mine / "unet" / "diffusion_pytorch_model.safetensors")
    halved = {name: tensor / 2 for name, tensor in weights.items()}
    save_file(halved, mine / "unet" / "diffusion_pytorch_model.safetensors")
    engine.draw([submit("after", model="mine")])
    assert engine.pictures()["after"] != engine.pictures()["before"]


def test_of_a_load_that_fails_nothing_is_kept(three: Mapping[str, Checkpoint], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(three["sdxl"].folder, broken)
    tokenizer = broken / "tokenizer_2" / "tokenizer.json"
    engine = Engine({"bad": Checkpoint("sdxl", broken)})
    tokenizer.write_text("{}")
    ends = engine.draw([submit("one", model="bad")])
    assert isinstance(ends["one"][0], Failed)
    settle(engine)
    assert engine.carrier.modules == {}


def test_while_one_model_loads_another_goes_on_serving(three: Mapping[str, Checkpoint]) -> None:
    gate, loading = threading.Event(), threading.Event()

    class Slow(Carrier):
        def _load(self, digest: str, origin: object, target: object) -> int:
            if origin.opened.family == "flux":  # type: ignore[attr-defined]
                loading.set()
                assert gate.wait(60)
            return super()._load(digest, origin, target)  # type: ignore[arg-type]

    with ThreadPoolExecutor(1) as surveyors, ThreadPoolExecutor(1) as carriers:
        engine = Engine(three, carrier=Slow(CPU), aside=Aside(surveyors, carriers))
        engine.draw([submit("first")])
        engine.runner.submit(submit("slow", model="flux-schnell"))
        while not loading.is_set():
            engine.runner.work()
        engine.runner.submit(submit("meanwhile", seed=2))
        while "meanwhile" not in engine.ends():
            engine.runner.work()
        assert "slow" not in engine.ends()
        assert states(engine)["flux-schnell"] == "loading"
        gate.set()
        engine.draw([])
    assert isinstance(engine.ends()["slow"][0], Image)


@pytest.mark.whole  # the soak of the quick run holds memory too; this holds it through swaps
@pytest.mark.parametrize("swaps", [15, 50])
def test_memory_comes_back_however_often_models_are_swapped(swaps: int) -> None:
    """Ten swaps to warm up what libraries keep for good; those after them must not add the size of a single model."""
    models = {"sdxl": Checkpoint("sdxl", DEMOS / "demo-sdxl"), "sd21": Checkpoint("sd21", DEMOS / "demo-sd21")}
    sizes = [bytes_of(one) for one in models.values()]
    engine = Engine(models, budgets=Budgets(max(sizes)))
    resident: list[int] = []
    for swap in range(swaps):
        model = list(models)[swap % 2]
        engine.draw([submit(f"{swap}", model=model, steps=1)])
        assert states(engine)[model] == "device"
        assert held_bytes(engine) <= max(sizes)
        resident.append(resident_bytes())
    assert len(engine.pictures()) == swaps
    assert max(resident[-5:]) - max(resident[5:10]) < min(sizes)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
