"""The compose files hold what they promise, and the one for several GPUs differs from the other in two places."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from server.core.catalogue_file import load_catalogue
from server.core.settings import PREFIX, load_settings
from server.dispatch.worker_process import STOP_SECONDS
from server.listener import REPLY_SECONDS
from tests.deploy.files import ROOT

FILES = ("compose.yaml", "compose.gpus.yaml")


def service(name: str) -> dict[str, Any]:
    """The one service of a compose file."""
    (only,) = yaml.safe_load((ROOT / "deploy" / name).read_text())["services"].values()
    assert isinstance(only, dict)
    return only


def devices(of: dict[str, Any]) -> dict[str, Any]:
    (only,) = of["deploy"]["resources"]["reservations"]["devices"]
    assert isinstance(only, dict)
    return only


def test_one_gpu_or_all_of_them_is_the_only_difference() -> None:
    one, several = service("compose.yaml"), service("compose.gpus.yaml")
    assert (devices(one).pop("device_ids"), devices(several).pop("count")) == (["0"], "all")
    assert (one["environment"].pop("SAFELIGHT_DEVICE"), several["environment"].pop("SAFELIGHT_DEVICE")) == (
        "cuda",
        "cuda:0,cuda:1",
    )
    assert one == several
    assert devices(one) == {"driver": "nvidia", "capabilities": ["gpu"]}


@pytest.mark.parametrize("name", FILES)
def test_the_server_takes_the_settings_and_drains_before_it_is_killed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = service(name)
    for variable, value in asked["environment"].items():
        assert isinstance(value, str), f"{variable} is no text"
        monkeypatch.setenv(variable, value)
    settings = load_settings({})
    assert settings.keys is not None  # else it would refuse its address
    assert not settings.is_loopback  # else nobody could reach it from outside of the container
    assert asked["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]  # keys go over the wire as they are
    assert "network_mode" not in asked
    grace_seconds = int(re.fullmatch(r"(\d+)s", asked["stop_grace_period"])[1])  # type: ignore[index]
    assert grace_seconds >= settings.drain_seconds + REPLY_SECONDS + STOP_SECONDS + 5
    (tmpfs,) = asked["tmpfs"]
    size_bytes = int(re.search(r"size=(\d+)g", tmpfs)[1]) * 1024**3  # type: ignore[index]
    assert size_bytes >= settings.files_quota_bytes + settings.idempotency_quota_bytes + 512 * 1024**2


@pytest.mark.parametrize("name", FILES)
def test_a_container_may_do_nothing_that_drawing_does_not_need(name: str) -> None:
    asked = service(name)
    assert asked["read_only"] is True
    assert asked["cap_drop"] == ["ALL"]
    assert asked["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in asked  # the image's, which is not root
    assert asked["ulimits"]["core"] == 0
    assert asked["pull_policy"] == "never"
    mounted = [(one["target"], one["read_only"], one["bind"]["create_host_path"]) for one in asked["volumes"]]
    assert mounted == [("/models", True, False), ("/keys", True, False), ("/books", False, False)]
    assert asked["environment"]["SAFELIGHT_LEDGER"].startswith("sqlite:////books/"), "a day's limits outlive a restart"


def test_the_catalogue_to_start_from_is_sound() -> None:
    catalogue = load_catalogue(ROOT / "deploy" / "models.yaml")
    assert {entry.family for entry in catalogue.models.values()} == {"sdxl", "sd21", "flux"}
    for spec in catalogue.specs():
        assert spec.folder.startswith(str(ROOT / "deploy")), "relative, so that it works wherever it is mounted"


def test_the_proxy_lets_a_body_in_and_waits_as_long_as_the_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PREFIX + "PLAIN_ANSWER_SECONDS", raising=False)
    settings = load_settings({})
    proxy = (ROOT / "deploy" / "nginx.conf").read_text()
    megabytes = int(re.search(r"client_max_body_size (\d+)m;", proxy)[1])  # type: ignore[index]
    assert megabytes * 1024**2 >= settings.max_body_bytes
    patience = int(re.search(r"proxy_read_timeout (\d+)s;", proxy)[1])  # type: ignore[index]
    assert patience > settings.plain_answer_seconds
    assert "proxy_buffering off;" in proxy
