"""Asks models on Amazon Bedrock through boto3: one call, one connection, one answer. Import it where a provider is
built and not before: boto3 takes a second to load.

Knows threads and deadlines; what is sent and what an answer means, the families know, and how, `bedrock_wire`.
Invariant: whoever waits is free at once when it gives up or its time is over, and the connection is closed soon after;
an error holds neither a request nor a credential.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial

import msgspec
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ClientError

from server.backends import stability, titan
from server.backends.aws_credentials import AwsCredentials, read_aws_credentials
from server.backends.bedrock_client import BedrockClients
from server.backends.bedrock_faults import trouble_of, unread
from server.backends.bedrock_replies import Family
from server.backends.bedrock_wire import Exchange
from server.backends.capabilities import Capabilities, row_of
from server.backends.credentials import CredentialProblem
from server.backends.provider import Answer
from server.backends.trouble import Facts, Trouble
from server.core.providers import BackendEntry, Form
from server.core.request import RemoteRequest
from server.images.fetch import trusted_authorities

FAMILIES: dict[Form, Family] = {"titan": titan, "stability": stability}
# Threads that only wait. A call that finds none free waits in line, within its own time.
MAX_CALLS = 32
JSON = "application/json"
_EXCHANGE: ContextVar[Exchange] = ContextVar("the exchange of a call")


class BedrockProvider:
    """One backend of models.yaml of the kind bedrock.

    credentials: asked for at each call, so that a file whose keys change serves on; raises CredentialProblem, here too.
    forms: how each of its models is spoken to. tls: the authorities that an https endpoint is trusted by.
    """

    def __init__(
        self,
        region: str,
        endpoint_url: str | None,
        credentials: Callable[[], AwsCredentials],
        forms: Mapping[str, Form],
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._credentials, self._forms = credentials, dict(forms)
        self._tls = trusted_authorities() if tls is None else tls
        self._clients = BedrockClients(region, endpoint_url, _send)
        self._clients.client(credentials())
        self._pool = ThreadPoolExecutor(MAX_CALLS, "bedrock")
        self._open: set[Exchange] = set()

    async def ask(self, request: RemoteRequest, first: int, count: int, timeout_seconds: float) -> Answer:
        """As Provider says. Where a seed was given, one picture comes of each call to Titan, so that picture i has
        seed + i."""
        exchange = Exchange(time.monotonic() + timeout_seconds, self._tls)
        self._open.add(exchange)
        try:
            async with asyncio.timeout(timeout_seconds):
                outcome = await self._in_a_thread(exchange, request, first, count)
        except TimeoutError:
            outcome = exchange.expired()
        finally:
            self._open.discard(exchange)
            exchange.cut()
        if isinstance(outcome, Trouble):
            raise outcome
        return outcome

    async def close(self) -> None:
        for exchange in self._open:
            exchange.cut()
        self._pool.shutdown(wait=False)

    async def _in_a_thread(
        self, exchange: Exchange, request: RemoteRequest, first: int, count: int
    ) -> Answer | Trouble:
        try:
            call = asyncio.get_running_loop().run_in_executor(
                self._pool, self._outcome, exchange, request, first, count
            )
        except RuntimeError:
            return Trouble("unreachable", Facts(detail="the provider is closed"))
        return await call

    def _outcome(self, exchange: Exchange, request: RemoteRequest, first: int, count: int) -> Answer | Trouble:
        """Trouble is handed over, not raised: what is raised keeps the errors that led to it, and those the request."""
        _EXCHANGE.set(exchange)
        try:
            return self._answer(request, first, count)
        except Trouble as trouble:
            return Trouble(trouble.cause, trouble.facts)
        except ClientError as error:
            return trouble_of(error)
        except CredentialProblem as problem:
            return Trouble("unauthorised", Facts(detail=str(problem)))
        except Exception as error:  # botocore's many kinds, and what odd errors do to its parser
            return unread(error, exchange.status, exchange.is_sent)

    def _answer(self, request: RemoteRequest, first: int, count: int) -> Answer:
        form = self._forms[request.model]
        _check(request, row_of(form, request.model))
        family = FAMILIES[form]
        share = family.share_of(request, first, count, secrets.randbelow(2**31 - 1))
        client = self._clients.client(self._credentials())
        response = client.invoke_model(
            modelId=request.model, body=msgspec.json.encode(family.body(request, share)), accept=JSON, contentType=JSON
        )
        return family.answer(response["body"].read(), share)


def provider_of(entry: BackendEntry, environment: Mapping[str, str]) -> BedrockProvider:
    """Raises CredentialProblem."""
    credentials = partial(read_aws_credentials, entry, environment)
    return BedrockProvider(entry.region or "", entry.endpoint_url, credentials, entry.forms)


def _send(request: AWSPreparedRequest) -> AWSResponse:
    """boto3 calls it in the thread that it was called in."""
    return _EXCHANGE.get().send(request)


def _check(request: RemoteRequest, can: Capabilities) -> None:
    """Nothing is sent that must fail; its Capabilities should have told that before. Raises Trouble."""
    problem = next((words for words, is_so in _problems(request, can).items() if is_so), None)
    if problem is not None:
        raise Trouble("refused", Facts(detail=problem))


def _problems(request: RemoteRequest, can: Capabilities) -> dict[str, bool]:
    guidance, allowed = request.guidance_scale, can.guidance_range
    return {
        "a task that the model does not know": _task(request) not in can.tasks,
        "a size that it does not draw": request.drawn_size not in can.sizes,
        "too long a prompt": len(request.prompt) > can.max_prompt_characters,
        "too long a negative prompt": len(request.negative_prompt or "") > can.max_negative_characters,
        "a guidance that it does not know": guidance is not None
        and (allowed is None or not allowed[0] <= guidance <= allowed[1]),
        "too large a picture": max(len(request.image or b""), len(request.mask or b"")) > can.max_image_bytes,
    }


def _task(request: RemoteRequest) -> str:
    if request.image is None:
        return "text"
    if request.mask is not None:
        return "mask"
    return "variation" if request.operation == "variation" else "image"
