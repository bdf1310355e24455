"""Guards what a key means once it is let in: which models it gets, what stays here, and whose the picture is."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp

from server.api.parse import Reach, parse
from server.app import build_app, build_services
from server.core.caller import Caller
from server.core.catalogue import Catalogue
from server.core.catalogue_file import load_catalogue
from server.core.errors import SafelightError
from server.core.settings import load_settings
from server.images.decoder import Decoder
from server.remotes import remote_backends
from tests.server.access.parts import issue
from tests.server.parts import local_backend, local_router
from tests.server.test_image_routes import FakeDispatcher

MODELS = """\
default_model: tiny
models:
  tiny: {family: sdxl, source: nowhere, limits: {min_side_px: 64, max_side_px: 2048, side_multiple_px: 16}}
  other: {family: sd21, source: nowhere, limits: {min_side_px: 64, max_side_px: 2048, side_multiple_px: 16}}
backends:
  openai: {kind: openai, base_url: "http://127.0.0.1:1/v1", models: {gpt-image-2: {}}}
names:
  dall-e-3: {route: [local:tiny, openai:gpt-image-2]}
  gpt-image-2: {route: [openai:gpt-image-2]}
"""


class Site:
    """A server with keys; what it would have drawn is remembered."""

    def __init__(self, folder: Path) -> None:
        (folder / "models.yaml").write_text(MODELS)
        self.path, self.books, self.drawn = folder / "keys.json", folder / "ledger.sqlite", FakeDispatcher()
        self.admin = issue(self.path, "admin", scopes=("admin",))
        settings = load_settings({"keys": self.path})
        catalogue = load_catalogue(folder / "models.yaml")
        services = build_services(settings, catalogue, "http://test", folder)
        local = local_backend(self.drawn)
        self.services = replace(
            services,
            local=local,
            router=local_router(local, services.ledger),
        )
        self.app: ASGIApp = build_app(self.services)

    def key(self, name: str, **what: Any) -> str:
        """A new one, which the server takes over."""
        text = issue(self.path, name, **what).text
        self.services.door.look()
        return text

    def ask(self, key: str, method: str, path: str, **body: Any) -> httpx.Response:
        async def exchange() -> httpx.Response:
            await self.services.ledger.open()
            transport = httpx.ASGITransport(app=self.app)
            headers = {"authorization": f"Bearer {key}"}
            try:
                async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as client:
                    return await client.request(method, path, json=body or None)
            finally:
                await self.services.router.finish()
                await self.services.ledger.close()

        return asyncio.run(exchange())

    def draw(self, key: str, **body: Any) -> httpx.Response:
        asked = {"prompt": "x", "response_format": "b64_json", "size": "64x64", **body}
        return self.ask(key, "POST", "/v1/images/generations", **asked)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_whose_a_picture_is_stands_in_the_workers_job_and_in_the_books(site: Site) -> None:
    ids = []
    for name in ("alice", "bob"):
        issued = issue(site.path, name)
        site.services.door.look()
        ids.append(issued.record.id)
        assert site.draw(issued.text, n=2).status_code == 200
    assert [job.caller for job in site.drawn.jobs] == [ids[0], ids[0], ids[1], ids[1]]
    with sqlite3.connect(site.books) as books:
        rows = books.execute("SELECT key_id, count(*) FROM ledger_entries GROUP BY key_id").fetchall()
    books.close()
    assert dict(rows) == dict.fromkeys(ids, 2)


def test_only_what_a_key_may_ask_for_is_listed_described_and_drawn(site: Site) -> None:
    key = site.key("few", models=("tiny",), scopes=("generate",))
    listed = site.ask(key, "GET", "/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["tiny", "dall-e-3"]
    assert [[step["backend"] for step in model["route"]] for model in listed] == [["local"], ["local"]]
    for path, status in (("dall-e-3", 200), ("other", 403), ("gpt-image-2", 403), ("nothing", 404)):
        assert site.ask(key, "GET", f"/v1/models/{path}").status_code == status
    assert [site.draw(key, model=name).status_code for name in ("tiny", "dall-e-3", None)] == [200, 200, 200]
    refused = site.draw(key, model="other")
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (403, "model_not_found", "model")
    assert "'other'" in error["message"]
    assert len(site.drawn.jobs) == 3


def test_an_admins_key_steers_no_model_that_is_not_its_own(site: Site) -> None:
    key = site.key("chief", models=("other",), scopes=("admin",))
    # There is no worker: whoever comes as far as the change hears of that.
    assert site.ask(key, "POST", "/admin/models/other/load").status_code == 503
    assert site.ask(key, "POST", "/admin/models/tiny/load").status_code == 403
    assert site.ask(key, "POST", "/admin/models/tyny/load").json()["error"]["message"].count("tiny") == 0


def test_an_admins_key_may_do_all_but_ask_for_models_that_are_not_its_own(site: Site) -> None:
    key = site.key("chief", models=("other",), scopes=("admin",))
    assert site.draw(key, model="other").status_code == 200
    assert site.draw(key, model="tiny").status_code == 403


@pytest.fixture
def reach(tmp_path: Path) -> Reach:
    """With a provider that is set up, and not asked."""
    (tmp_path / "models.yaml").write_text(MODELS)
    catalogue = load_catalogue(tmp_path / "models.yaml")
    return Reach(catalogue, upstreams_of(catalogue))


def upstreams_of(catalogue: Catalogue) -> Any:
    async def build() -> Any:
        remotes = remote_backends(load_settings({}), catalogue, Decoder())
        for backend in remotes.backends.values():
            await backend.close()
        return remotes.upstreams

    return asyncio.run(build())


ANY = Caller("a", "a", frozenset({"generate"}))
STAYS = replace(ANY, local_only=True)
ASKED = {"prompt": "x", "size": "1024x1024"}


def test_without_a_word_of_the_key_a_name_leads_to_a_provider_too(reach: Reach) -> None:
    both = [str(one.target) for one in parse("generation", {**ASKED, "model": "dall-e-3"}, reach, ANY)]
    assert both == ["local:tiny", "openai:gpt-image-2"]


@pytest.mark.parametrize("wish", [{}, {"local_only": False}, {"local_only": None}, {"provider": "local"}])
def test_no_request_lifts_what_its_key_keeps_here(reach: Reach, wish: dict[str, Any]) -> None:
    (only,) = parse("generation", {**ASKED, **wish, "model": "dall-e-3"}, reach, STAYS)
    assert str(only.target) == "local:tiny"


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ({"model": "gpt-image-2"}, 403, "model_not_found"),
        ({"model": "gpt-image-2", "local_only": False}, 403, "model_not_found"),
        ({"model": "dall-e-3", "provider": "openai"}, 400, "invalid_parameter"),
    ],
)
def test_who_asks_for_a_provider_with_a_key_that_stays_here_is_refused(
    reach: Reach, asked: dict[str, Any], status: int, code: str
) -> None:
    with pytest.raises(SafelightError) as refusal:
        parse("generation", {**ASKED, **asked}, reach, STAYS)
    assert (refusal.value.status, refusal.value.code) == (status, code)
    if status == 400:
        assert "with this key" in refusal.value.message


def test_the_description_says_which_routes_want_a_key_and_how_it_is_sent(site: Site) -> None:
    made = site.ask("", "GET", "/openapi.json").json()
    assert set(made["components"]["securitySchemes"]) == {"bearer", "api_key"}
    locked = {path for path, methods in made["paths"].items() for one in methods.values() if one.get("security")}
    assert locked == {path for path in made["paths"] if path.startswith(("/v1/", "/admin/", "/metrics"))}
    assert {"401", "403"} <= set(made["paths"]["/v1/images/edits"]["post"]["responses"])
    assert "security" not in made["paths"]["/files/{name}"]["get"]


def test_a_server_without_keys_describes_none(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(MODELS)
    catalogue = load_catalogue(tmp_path / "models.yaml")
    services = build_services(load_settings({}), catalogue, "http://test", tmp_path)
    assert "security" not in httpx_get(build_app(services), "/openapi.json").text.casefold()


def httpx_get(app: ASGIApp, path: str) -> httpx.Response:
    async def exchange() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(exchange())
