"""Guards what a reload of models.yaml takes over: all of it for the requests that come, nothing for those on their way,
and nothing at all where something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from starlette.datastructures import State

from pipelines.messages import Command, ModelSpec, Serve
from server.api.parse import parse
from server.api.reload import Reloaded
from server.api.services import Services
from server.app import build_services
from server.core.catalogue_changes import Difference
from server.core.catalogue_file import load_catalogue
from server.core.errors import SafelightError
from server.core.providers import Target
from server.core.settings import Settings
from server.core.worker_names import id_of, name_anew
from server.reload import Reloader

FIRST = """\
default_model: tiny
models:
  tiny: {family: sdxl, source: weights/tiny, price_usd: 0.01, defaults: {steps: 10}}
  other: {family: sd21, source: weights/other}
"""


class Stage:
    """A server's parts, none of them started, with a models.yaml that the test writes."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder / "models.yaml"
        self.write(FIRST)
        self.settings = Settings(models=self.path, host="127.0.0.1", **settings)
        services = build_services(self.settings, load_catalogue(self.path), "http://127.0.0.1", folder)
        self.reloader = Reloader(State({"services": services}))
        self.told: list[Command] = []
        services.dispatcher.lanes[0].send = self.told.append  # type: ignore[assignment,method-assign]

    def write(self, text: str) -> None:
        self.path.write_text(text)

    @property
    def now(self) -> Services:
        return self.reloader.editions.now

    def reload(self, text: str) -> Reloaded:
        self.write(text)
        return cast(Reloaded, self.run(self.reloader.reload()))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(work)

    def served(self) -> list[Serve]:
        return [command for command in self.told if isinstance(command, Serve)]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def steps_of(services: Services, name: str) -> int | None:
    request = parse("generation", {"prompt": "x", "model": name}, services.reach)[0].request
    return getattr(request, "steps", None)


def test_presets_defaults_prices_and_names_are_others_for_the_next_request(stage: Stage) -> None:
    before = stage.now
    text = FIRST.replace("steps: 10", "steps: 20").replace("0.01", "0.02")
    reloaded = stage.reload(text + "names:\n  dall-e-3: {route: [local:other]}\n")
    assert (steps_of(stage.now, "tiny"), stage.now.catalogue.models["tiny"].price_usd) == (20, 0.02)
    assert stage.now.catalogue.resolve("dall-e-3") == "other"
    assert (steps_of(before, "tiny"), before.catalogue.resolve("dall-e-3")) == (10, None)
    assert reloaded.changes.models == Difference(changed=("tiny",))
    assert reloaded.changes.names == Difference(added=("dall-e-3",))


def test_a_model_is_added_and_another_removed(stage: Stage) -> None:
    text = FIRST.replace(
        "  other: {family: sd21, source: weights/other}\n", "  new: {family: sd21, source: weights/new}\n"
    )
    reloaded = stage.reload(text)
    assert reloaded.changes.models == Difference(added=("new",), removed=("other",))
    with pytest.raises(SafelightError) as refused:
        parse("generation", {"prompt": "x", "model": "other"}, stage.now.reach)
    assert refused.value.code == "model_not_found"
    assert [spec.id for spec in stage.served()[-1].models] == ["tiny", "new"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("default_model: tiny\nmodels:\n  tiny: {family: sdxm, source: a}\n  b: {family: sdxl, sourse: b}\n", ":3: "),
        ("default_model: nobody\nmodels:\n  tiny: {family: sdxl, source: a}\n", "'nobody' is none of the models"),
        ("models: [", "not valid YAML"),
        ("", "must hold the keys"),
    ],
)
def test_a_file_with_a_mistake_changes_nothing_and_each_mistake_is_named(stage: Stage, text: str, named: str) -> None:
    before = stage.now
    with pytest.raises(SafelightError) as refused:
        stage.reload(text)
    assert (refused.value.status, refused.value.code) == (409, "catalogue_refused")
    assert named in refused.value.message
    assert stage.now is before
    assert stage.told == []


def test_all_mistakes_are_named_at_once(stage: Stage) -> None:
    with pytest.raises(SafelightError) as refused:
        stage.reload(
            "default_model: tiny\nmodels:\n  tiny: {family: sdxm, source: a}\n  b: {family: sdxl, sourse: b}\n"
        )
    assert ":3: models.tiny.family" in refused.value.message
    assert ":4: models.b.sourse" in refused.value.message


def test_content_checks_are_read_again_and_a_broken_one_changes_nothing(stage: Stage) -> None:
    words = stage.path.with_name("words.txt")
    words.write_text("blood\n")
    checked = FIRST + "policy: {checks: [{name: words, kind: words, file: words.txt}]}\n"
    assert stage.reload(checked).changes.other == ("policy",)
    (first,) = stage.now.policy.checks
    words.write_text("blood\ngore\n")
    stage.reload(checked)
    (second,) = stage.now.policy.checks
    assert second is not first
    words.unlink()
    with pytest.raises(SafelightError, match="words"):
        stage.reload(checked)
    assert stage.now.policy.checks == (second,)


def test_a_file_that_is_gone_changes_nothing(stage: Stage) -> None:
    before = stage.now
    stage.path.unlink()
    with pytest.raises(SafelightError, match="cannot be read"):
        stage.run(stage.reloader.reload())
    assert stage.now is before


def test_a_limit_that_a_restart_would_forget_is_refused_as_at_the_start(stage: Stage) -> None:
    backend = "backends:\n  far: {kind: openai, daily_usd: 5, models: {gpt-image-2: {}}}\n"
    with pytest.raises(SafelightError, match="needs books that outlive the server"):
        stage.reload(FIRST + backend)


def test_a_reload_of_the_same_file_says_that_nothing_changed_and_asks_nothing_of_the_models(stage: Stage) -> None:
    reloaded = stage.reload(FIRST)
    assert not reloaded.changes
    assert reloaded.told()["models"] == {"added": (), "removed": (), "changed": ()}
    assert [spec.id for spec in stage.served()[-1].models] == ["tiny", "other"]
    assert stage.served()[-1].leaving == ()


def test_a_model_with_other_files_has_another_name_for_the_workers_until_nobody_asks_for_the_old_one(
    stage: Stage,
) -> None:
    async def exchange() -> None:
        with stage.reloader.editions.lease() as before:
            stage.write(FIRST.replace("weights/tiny", "weights/better"))
            await stage.reloader.reload()
            assert before.specs["tiny"].id == "tiny"
            assert stage.now.specs["tiny"].id == "tiny@2"
            last = stage.served()[-1]
            assert ([spec.id for spec in last.models], [spec.id for spec in last.leaving]) == (
                ["tiny@2", "other"],
                ["tiny"],
            )
        assert stage.served()[-1].leaving == (), "the last request of the old edition has ended"

    asyncio.run(exchange())


def test_a_changed_price_or_preset_leaves_the_workers_model_as_it_is(stage: Stage) -> None:
    stage.reload(FIRST.replace("0.01", "0.05").replace("steps: 10", "steps: 11"))
    assert stage.now.specs["tiny"].id == "tiny"


def test_models_that_are_never_together_are_kept_apart_under_their_workers_names(stage: Stage) -> None:
    stage.reload(FIRST.replace("weights/tiny", "weights/better") + "never_together: [[tiny, other]]\n")
    assert stage.served()[-1].never_together == (("tiny@2", "other"),)


def test_a_worker_that_is_replaced_later_is_started_with_the_models_of_now(stage: Stage) -> None:
    stage.reload(FIRST.replace("weights/tiny", "weights/better"))
    lane = stage.now.dispatcher.lanes[0]
    assert [spec.id for spec in lane._settings.models] == ["tiny@2", "other"]


BACKEND = "backends:\n  far: {kind: openai, key_variable: FAR_KEY, models: {gpt-image-2: {}}}\n"


def test_a_provider_that_is_as_before_is_kept_with_its_connections_and_another_is_built_anew(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-not-a-key")
    stage.reload(FIRST + BACKEND)
    (first,) = stage.now.remotes
    target = Target("far", "gpt-image-2")
    assert target in stage.now.reach.upstreams
    stage.now.router.breakers.failed(target, "for_good", 0.0)
    stage.reload(FIRST.replace("0.01", "0.02") + BACKEND)
    assert stage.now.remotes == (first,)
    assert stage.now.router.breakers.is_gone(target)
    reloaded = stage.reload(FIRST + BACKEND.replace("kind: openai", "kind: openai, timeout_seconds: 33"))
    assert reloaded.changes.backends == Difference(changed=("far",))
    assert stage.now.remotes != (first,)
    assert not stage.now.router.breakers.is_gone(target), "another provider is not to blame for what the first did"


def test_a_provider_without_its_key_is_named_and_all_else_is_taken_over(stage: Stage) -> None:
    reloaded = stage.reload(FIRST.replace("steps: 10", "steps: 12") + BACKEND)
    assert "FAR_KEY" in reloaded.problems["far"]
    assert steps_of(stage.now, "tiny") == 12


def test_the_server_stops_for_all_editions(stage: Stage) -> None:
    before = stage.now
    stage.reload(FIRST.replace("0.01", "0.02"))

    async def drain() -> None:
        stage.now.router.drain(1)

    asyncio.run(drain())
    assert before.router.calls.are_ending


def spec(model: str, folder: str = "/a", **changes: Any) -> ModelSpec:
    return ModelSpec(model, "sdxl", folder, **changes)


def test_a_name_that_was_given_is_never_given_to_something_else() -> None:
    first = {"a": spec("a")}
    second = name_anew([spec("a", "/b")], first, {"a"})
    third = name_anew([spec("a", "/a")], second, {"a", "a@2"})
    assert (second["a"].id, third["a"].id) == ("a@2", "a@3")
    assert {id_of(one["a"].id) for one in (first, second, third)} == {"a"}


def test_when_a_model_is_loaded_makes_it_no_other_model() -> None:
    again = name_anew([spec("a", loading="pin")], {"a": spec("a@4")}, {"a@4"})["a"]
    assert (again.id, again.loading) == ("a@4", "pin")
    assert msgspec.structs.replace(again, id="a") == spec("a", loading="pin")
