"""A crash is answered as every failure is, and what was half sent is never taken for whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from server.api.envelope import Edge, install_handlers


async def crash() -> None:
    raise RuntimeError("words of an exception at 0x7f00")


async def break_off() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("words of an exception at 0x7f00")

    return StreamingResponse(parts())


@pytest.fixture
def edge() -> Edge:
    app = FastAPI(openapi_url=None)
    install_handlers(app)
    app.add_api_route("/crash", crash)
    app.add_api_route("/break-off", break_off, response_model=None)
    return Edge(app)


def get(edge: Edge, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_a_crash_is_answered_in_the_envelope_without_the_exceptions_words(edge: Edge) -> None:
    answer = get(edge, "/crash")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["x-request-id"].startswith("req_")
    assert "words" not in answer.text


def test_a_crash_behind_the_first_bytes_reaches_the_wire_as_one(edge: Edge) -> None:
    with pytest.raises(RuntimeError):
        get(edge, "/break-off")
