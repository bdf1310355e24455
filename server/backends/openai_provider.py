"""Asks an upstream that speaks OpenAI's image API, through OpenAI's own SDK: one call, one connection, one answer.

Knows the SDK and the wire; what is sent, `openai_forms` knows, and what comes back means, `openai_answers`. Import it
where a provider is built and not before: the SDK takes seconds to load.
Invariant: nothing leaves but what stands here, nothing of the environment; the key goes to this upstream alone, and
into no exception, log or repr.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
from openai import APIConnectionError, APIStatusError, AsyncOpenAI

from server.backends.credentials import read_secret
from server.backends.openai_answers import Sent, broken, failure, file_of, read_answer, tells
from server.backends.openai_forms import Call, UnsendableRequest, call_for
from server.backends.provider import Answer, RawPicture
from server.backends.trouble import Facts, Trouble
from server.core.providers import OPENAI_URL, BackendEntry, Form
from server.core.request import RemoteRequest
from server.images.fetch import (
    INTERNET,
    FetchPolicy,
    Network,
    UnfetchableUrl,
    fetch_picture,
    parse_url,
    trusted_authorities,
)

# At level info it would log a line of its own for each call.
logging.getLogger("httpx2").setLevel(logging.WARNING)

CONNECT_SECONDS = 10.0
LEAST_CAP_BYTES = 64 * 1024 * 1024
# What a picture may take of an answer: RGBA that did not shrink at all, in base64, and some words beside it.
BYTES_A_PIXEL, BYTES_BESIDE = 4 * 4 / 3, 256 * 1024
ERROR_CAP_BYTES = 64 * 1024
# The SDK's others tell the upstream our operating system and Python, and what variables of the environment name.
SENT_HEADERS = frozenset({"accept", "content-type", "content-length"})
READ_HEADERS = ("content-type", "retry-after", "retry-after-ms", "x-request-id")
NO_KEY = "none"


@dataclass
class _Progress:
    """How far one call has come. cap_bytes: of its answer. failed_status: known before the failure's words are."""

    cap_bytes: int
    is_connected: bool = False
    is_sent: bool = False
    failed_status: int | None = None
    failed_headers: Mapping[str, str] = field(default_factory=dict)

    async def follow(self, event: str, _info: Mapping[str, Any]) -> None:
        """What httpcore tells of each step."""
        self.is_connected |= event == "http11.send_request_headers.started"
        self.is_sent |= event == "http11.send_request_body.complete"


_PROGRESS: ContextVar[_Progress] = ContextVar("progress of a call")


class _Wire(httpx2.AsyncBaseTransport):
    """The last hands that a request goes through, and the first that hold an answer. What is handed back to the SDK
    is the request as the SDK made it, so that its exceptions hold no key."""

    def __init__(self, key: str | None) -> None:
        # A connection for each call: one that was kept, and that the upstream closed meanwhile, would fail a call.
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._http = httpx2.AsyncHTTPTransport(verify=trusted_authorities(), trust_env=False, limits=limits)
        self._key = key
        self._headers = {"User-Agent": "safelight", "Accept-Encoding": "identity", "Connection": "close"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        progress = _PROGRESS.get()
        response = await self._http.handle_async_request(self._outgoing(request, progress))
        headers, stream = self._told_by(response), cast(httpx2.AsyncByteStream, response.stream)
        if response.is_success:
            await _refuse_at_sight(response, progress.cap_bytes)
            return httpx2.Response(response.status_code, headers=headers, stream=_Bounded(stream, progress.cap_bytes))
        progress.failed_status, progress.failed_headers = response.status_code, headers
        return httpx2.Response(response.status_code, headers=headers, stream=_Beginning(stream))

    def _outgoing(self, request: httpx2.Request, progress: _Progress) -> httpx2.Request:
        kept = {name: value for name, value in request.headers.items() if name.lower() in SENT_HEADERS}
        headers = {"Host": request.url.netloc.decode("ascii")} | kept | self._headers
        extensions = {**request.extensions, "trace": progress.follow}
        return httpx2.Request(
            request.method, request.url, headers=headers, stream=request.stream, extensions=extensions
        )

    def _told_by(self, response: httpx2.Response) -> dict[str, str]:
        """Without an encoding, which nobody undoes here, and without what the SDK would log."""
        heads = {name.lower(): value for name, value in response.headers.items()}
        return {name: heads[name] for name in READ_HEADERS if name in heads and not tells(heads[name], self._key)}

    async def aclose(self) -> None:
        await self._http.aclose()


async def _refuse_at_sight(response: httpx2.Response, cap_bytes: int) -> None:
    """What the headers tell already. Raises Trouble."""
    declared = response.headers.get("content-length", "0")
    is_plain = response.headers.get("content-encoding", "identity").strip().lower() == "identity"
    if is_plain and declared.isascii() and declared.isdigit() and int(declared) <= cap_bytes:
        return
    await response.aclose()
    raise broken(_too_long(cap_bytes) if is_plain else "an answer in another encoding than was asked for")


def _too_long(cap_bytes: int) -> str:
    return f"an answer of more than {cap_bytes} bytes"


class _Bounded(httpx2.AsyncByteStream):
    """An answer that is worth reading whole. Raises Trouble when it does not end."""

    def __init__(self, stream: httpx2.AsyncByteStream, cap_bytes: int) -> None:
        self._stream, self._cap_bytes = stream, cap_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read_bytes = 0
        async for piece in self._stream:
            read_bytes += len(piece)
            if read_bytes > self._cap_bytes:
                raise broken(_too_long(self._cap_bytes))
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Beginning(httpx2.AsyncByteStream):
    """An error's body, of which the status has told most: cut short."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left_bytes = ERROR_CAP_BYTES
        async for piece in self._stream:
            yield piece[:left_bytes]
            left_bytes -= len(piece)
            if left_bytes <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


class OpenAiProvider:
    """One backend of models.yaml of the kind openai.

    base_url: such as https://api.openai.com/v1. form_of: how each of its models is spoken to. pictures: from where a
    picture may be fetched that an answer names by a URL; over https from the upstream's own host if absent.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None,
        form_of: Mapping[str, Form],
        *,
        pictures: FetchPolicy | None = None,
        network: Network = INTERNET,
    ) -> None:
        self._form_of, self._key, self._network = dict(form_of), key, network
        self._pictures = own_host_only(base_url) if pictures is None else pictures
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        http = httpx2.AsyncClient(transport=_Wire(key), timeout=timeout, follow_redirects=False, trust_env=False)
        # The wire puts the key in; the SDK has none to lose.
        self._sdk = AsyncOpenAI(base_url=base_url, api_key=NO_KEY, max_retries=0, http_client=http, timeout=timeout)

    async def ask(self, request: RemoteRequest, first: int, count: int, timeout_seconds: float) -> Answer:
        """As Provider says."""
        progress = _Progress(_cap_bytes(request, count))
        _PROGRESS.set(progress)
        try:
            async with asyncio.timeout(timeout_seconds):
                return await self._answer(request, first, count)
        except Trouble as one:
            trouble = one
        except Exception as error:  # of the SDK's and the wire's many kinds none may pass
            trouble = _trouble_of(error, progress, self._key)
        # Outside of the handler: an error of the SDK holds the request, and that the prompt.
        trouble.__context__ = trouble.__cause__ = None
        raise trouble

    async def close(self) -> None:
        await self._sdk.close()

    async def _answer(self, request: RemoteRequest, first: int, count: int) -> Answer:
        form = self._form_of.get(request.model)
        if form is None:
            raise UnsendableRequest("a model that this provider was not given")
        call = call_for(request, form, first, count)
        response = await self._send(call)
        # Megabytes of base64 are not read on the event loop.
        reading = await asyncio.to_thread(read_answer, response.content, count, self._key)
        return Answer(tuple([await self._picture(one) for one in reading.pictures]), reading.tokens)

    async def _send(self, call: Call) -> httpx2.Response:
        extra: Any = dict(call.extra) or None
        files: dict[str, Any] = {name: (f"{name}.png", file, "image/png") for name, file in call.files.items()}
        images = self._sdk.images.with_raw_response
        if call.route != "variations":
            draw: Any = images.generate if call.route == "generations" else images.edit
            answered = await draw(**call.fields, **files, extra_body=extra)
            return cast(httpx2.Response, answered.http_response)
        # The SDK warns of its own method, which OpenAI has retired; other servers have not.
        return await self._sdk.post(
            "/images/variations",
            cast_to=httpx2.Response,
            body={**call.fields, **call.extra},
            files=files,
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )

    async def _picture(self, sent: Sent) -> RawPicture:
        if sent.base64:
            file = await asyncio.to_thread(file_of, sent.base64)
        else:
            file = await self._fetched(sent.url or "")
        return RawPicture(file, sent.revised_prompt, sent.seed)

    async def _fetched(self, url: str) -> bytes:
        """Without our credentials, and only from where it may be: the URL is an upstream's word, not ours."""
        try:
            is_secure = parse_url(url).scheme == "https"
            file = await fetch_picture(url, self._pictures, network=self._network) if is_secure else b""
        except UnfetchableUrl as error:
            raise broken(f"a picture at a URL that {error.reason}") from None
        if not file:
            raise broken("a picture at a URL that is not https, or leads to nothing")
        return file


def own_host_only(base_url: str) -> FetchPolicy:
    """Pictures from the upstream itself; from nowhere if no picture's URL could name it."""
    try:
        return FetchPolicy("listed", ((urlsplit(base_url).hostname or "").lower(),))
    except ValueError:
        return FetchPolicy("off")


def _cap_bytes(request: RemoteRequest, count: int) -> int:
    pixels = request.drawn_size.width_px * request.drawn_size.height_px
    return max(LEAST_CAP_BYTES, int(count * (pixels * BYTES_A_PIXEL + BYTES_BESIDE)))


def _trouble_of(error: Exception, progress: _Progress, key: str | None) -> Trouble:
    if isinstance(error, APIStatusError):
        response = error.response
        headers = {name.lower(): value for name, value in response.headers.items()}
        return failure(response.status_code, response.content, headers, key)
    if isinstance(error, UnsendableRequest):
        return Trouble("refused", Facts(detail=str(error)))
    if progress.failed_status is not None:
        return failure(progress.failed_status, b"", progress.failed_headers, key)
    facts = Facts(detail=_kind_of(error), is_charged=progress.is_sent)
    if isinstance(error, (APIConnectionError, TimeoutError)) and not progress.is_connected:
        return Trouble("unreachable", facts)
    return Trouble("timeout" if isinstance(error, TimeoutError) else "broken", facts)


def _kind_of(error: Exception) -> str:
    """Class names alone."""
    cause = error.__cause__ if isinstance(error, APIConnectionError) else None
    return type(cause or error).__name__


def provider_of(entry: BackendEntry, environment: Mapping[str, str]) -> OpenAiProvider:
    """Raises CredentialProblem."""
    key = read_secret(entry.key_variable, entry.key_file, environment)
    return OpenAiProvider(entry.base_url or OPENAI_URL, key, entry.forms)
