"""Guards the way to Bedrock and back: the real boto3, real sockets, and an endpoint that checks each signature anew."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest

from server.backends import bedrock_client, bedrock_provider
from server.backends.aws_credentials import AwsCredentials
from server.backends.bedrock_client import BedrockClients
from server.backends.bedrock_provider import BedrockProvider, provider_of
from server.backends.credentials import CredentialProblem
from server.backends.provider import Answer
from server.backends.trouble import Trouble
from server.core.providers import BackendEntry
from server.core.request import RemoteRequest
from tests.server.picture_files import RED, file_of, plain
from tests.upstreams.bedrock_endpoint import (
    ACCESS_KEY,
    CANARIES,
    REGION,
    SECRET_KEY,
    SESSION_TOKEN,
    Endpoint,
    Received,
    Reply,
    fault,
    pictures,
    said,
    serving,
    until_closed,
    what_is_wrong,
)
from tests.upstreams.bedrock_requests import CORE, CREDENTIALS, FORMS, SD35, TITAN, TITAN_V1, asked, provider_at

SECONDS = 10.0


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving() as one:
        yield one


@asynccontextmanager
async def provider(url: str, **others: Any) -> AsyncIterator[BedrockProvider]:
    one = provider_at(url, **others)
    try:
        yield one
    finally:
        await one.close()


def answer_of(url: str, request: RemoteRequest | None = None, count: int = 1, **others: Any) -> Answer:
    async def ask() -> Answer:
        async with provider(url, **others) as one:
            return await one.ask(request or asked(), 0, count, SECONDS)

    return asyncio.run(ask())


def trouble_of(url: str, request: RemoteRequest | None = None, **others: Any) -> Trouble:
    with pytest.raises(Trouble) as caught:
        answer_of(url, request, **others)
    assert not any(secret in f"{caught.value!r}{caught.value.facts!r}" for secret in CANARIES)
    assert caught.value.__context__ is caught.value.__cause__ is None
    return caught.value


# What is sent


@pytest.mark.parametrize("model", FORMS)
def test_a_call_is_signed_so_that_bedrock_takes_it(endpoint: Endpoint, model: str) -> None:
    answer = answer_of(endpoint.url, asked(model))
    assert [picture.file for picture in answer.pictures] == [b"picture"]
    assert endpoint.refused == []
    (received,) = endpoint.received
    assert received.model == model
    assert received.headers["content-type"] == received.headers["accept"] == "application/json"


def test_keys_without_a_session_token_sign_too(endpoint: Endpoint) -> None:
    endpoint.session_token = None
    answer_of(endpoint.url, credentials=AwsCredentials(ACCESS_KEY, SECRET_KEY))
    assert endpoint.refused == []


def test_the_body_is_the_familys(endpoint: Endpoint) -> None:
    answer_of(endpoint.url, asked(TITAN, seed=7))
    answer_of(endpoint.url, asked(CORE, seed=7))
    titan, core = (received.body for received in endpoint.received)
    assert titan["textToImageParams"] == {"text": "a lighthouse at dusk"}
    assert titan["imageGenerationConfig"]["seed"] == core["seed"] == 7


def test_a_prompt_of_any_script_arrives_as_it_was(endpoint: Endpoint) -> None:
    answer_of(endpoint.url, asked(prompt="Ein Wal 🐋 «в море» 鯨"))
    assert endpoint.received[0].body["textToImageParams"]["text"] == "Ein Wal 🐋 «в море» 鯨"


def test_an_endpoint_may_lie_under_a_path(endpoint: Endpoint) -> None:
    answer_of(f"{endpoint.url}/gateway/v1")
    assert endpoint.received[0].model == f"/gateway/v1/model/{TITAN}"


def test_another_secret_is_refused_and_is_trouble_with_our_credentials(endpoint: Endpoint) -> None:
    endpoint.secret = "another"  # noqa: S105
    trouble = trouble_of(endpoint.url)
    assert trouble.cause == "unauthorised"
    assert endpoint.received == []


def test_the_check_of_signatures_sees_every_change(endpoint: Endpoint) -> None:
    """Or the tests above would show nothing."""
    answer_of(endpoint.url)
    headers = dict(endpoint.received[0].headers)
    path, content = f"/model/{TITAN.replace(':', '%3A')}/invoke", _sent_content(headers)

    def problem(**changes: Any) -> str | None:
        values = {"path": path, "headers": headers, "content": content, "secret": SECRET_KEY, "token": SESSION_TOKEN}
        return what_is_wrong(**(values | changes))

    assert problem(secret="") is not None
    assert problem(content=content + b" ") is not None
    assert problem(path=path.replace("v2", "v1")) is not None
    assert problem(headers=headers | {"host": "elsewhere"}) is not None
    assert problem(headers=headers | {"x-amz-security-token": "other"}) is not None
    assert problem(headers=headers | {"x-amz-date": "20200101T000000Z"}) is not None
    assert problem(headers=headers | {"x-amz-new": "unsigned"}) is not None
    assert problem(headers=headers | {"authorization": "Bearer x"}) is not None


def _sent_content(headers: dict[str, str]) -> bytes:
    """Any content will do: all that is looked at here is whether a change is seen."""
    return b"{" + headers["x-amz-date"].encode() + b"}"


def test_pictures_with_one_seed_come_one_a_call_each_with_its_own(endpoint: Endpoint) -> None:
    async def ask() -> list[Answer]:
        async with provider(endpoint.url) as one:
            return [await one.ask(asked(seed=40, count=3), first, 3 - first, SECONDS) for first in range(3)]

    answers = asyncio.run(ask())
    assert [[picture.seed for picture in answer.pictures] for answer in answers] == [[40], [41], [42]]
    configs = [received.body["imageGenerationConfig"] for received in endpoint.received]
    assert [(config["seed"], config["numberOfImages"]) for config in configs] == [(40, 1), (41, 1), (42, 1)]


def test_pictures_without_a_seed_come_in_one_call_and_another_call_has_others(endpoint: Endpoint) -> None:
    endpoint.answers = [pictures(b"a", b"b", b"c")]
    assert len(answer_of(endpoint.url, asked(count=3), count=3).pictures) == 3
    answer_of(endpoint.url, asked(count=3), count=3)
    one, other = (received.body["imageGenerationConfig"] for received in endpoint.received)
    assert one["numberOfImages"] == 3
    assert one["seed"] != other["seed"]


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        ("too long a prompt", asked(prompt="x" * 513)),
        ("too long a negative prompt", asked(negative_prompt="x" * 513)),
        ("a size that it does not draw", asked(size="1024x1792")),
        ("a guidance that it does not know", asked(guidance_scale=10.5)),
        ("a guidance that it does not know", asked(guidance_scale=1.0)),
        ("a guidance that it does not know", asked(CORE, guidance_scale=5.0)),
        ("a task that the model does not know", asked(CORE, image=b"x")),
        ("a task that the model does not know", asked(SD35, image=b"x", mask=b"x")),
        ("a task that the model does not know", asked(SD35, image=b"x", operation="variation")),
        ("too large a picture", asked(image=b"x" * 5_000_001)),
    ],
)
def test_what_must_fail_is_not_sent(endpoint: Endpoint, words: str, request_: RemoteRequest) -> None:
    trouble = trouble_of(endpoint.url, request_)
    assert (trouble.cause, trouble.facts.detail, trouble.facts.is_charged) == ("refused", words, False)
    assert endpoint.connections == 0


# What comes back


FILTERED = (
    "This request has been blocked by our content filters. ... may conflict our AUP or AWS Responsible AI Policy."
)
OLD = "This model version has reached the end of its life. Please refer to the AWS documentation for more details."
LEGACY = (
    "Access denied. This Model is marked by provider as Legacy and you have not been actively using the model in the "
    "last 30 days. Please upgrade to an active model on Amazon Bedrock"
)
ON_DEMAND = f"Invocation of model ID {TITAN} with on-demand throughput isn't supported. Retry your request with ..."


@pytest.mark.parametrize(
    ("cause", "code", "status", "message"),
    [
        ("refused", "ValidationException", 400, "Malformed input request: #/seed: expected type: Integer"),
        ("policy", "ValidationException", 400, FILTERED),
        ("unknown_model", "ValidationException", 400, "The provided model identifier is invalid."),
        ("unknown_model", "ValidationException", 400, ON_DEMAND),
        ("refused", "ValidationException", 400, "'end of its life. The provided model identifier is invalid'"),
        ("no_quota", "ServiceQuotaExceededException", 400, "Your account has used up its quota"),
        (
            "unauthorised",
            "AccessDeniedException",
            403,
            "You don't have access to the model with the specified model ID.",
        ),
        ("unauthorised", "UnrecognizedClientException", 403, "The security token included in the request is invalid."),
        ("unauthorised", "ExpiredTokenException", 403, "The security token included in the request is expired"),
        ("unauthorised", "InvalidSignatureException", 403, f"Canonical String ... {SESSION_TOKEN}"),
        ("retired", "ResourceNotFoundException", 404, OLD),
        ("retired", "ResourceNotFoundException", 404, LEGACY),
        ("retired", "AccessDeniedException", 403, LEGACY),
        ("unknown_model", "ResourceNotFoundException", 404, "Could not resolve the foundation model"),
        ("timeout", "ModelTimeoutException", 408, "Model has timed out in processing the request."),
        ("failed", "ModelErrorException", 424, "The system encountered an unexpected error during processing."),
        ("throttled", "ThrottlingException", 429, "Too many requests, please wait before trying again."),
        ("throttled", "ModelNotReadyException", 429, "Model is not ready for inference."),
        ("failed", "InternalServerException", 500, "The system encountered an unexpected error"),
        ("overloaded", "ServiceUnavailableException", 503, "Bedrock is unable to process your request."),
        ("failed", "SomethingNew", 500, ""),
        ("refused", "SomethingNew", 400, ""),
        ("unknown_model", "SomethingNew", 404, ""),
    ],
)
def test_each_of_awss_exceptions_has_its_cause(
    endpoint: Endpoint, cause: str, code: str, status: int, message: str
) -> None:
    endpoint.answers = [fault(code, status, message)]
    trouble = trouble_of(endpoint.url)
    assert (trouble.cause, trouble.facts.status) == (cause, status)
    assert trouble.facts.detail == f"{code} 7c0e5f3a-0000-4000-8000-000000000001"
    assert trouble.facts.is_charged == (code == "ModelTimeoutException")
    assert endpoint.connections == 1


@pytest.mark.parametrize(
    ("cause", "reply"),
    [
        ("failed", Reply(502, b"<html>bad gateway</html>")),
        ("failed", Reply(500, b"")),
        ("overloaded", Reply(503, b"busy")),
        ("timeout", Reply(504, b"<html>")),
        ("unauthorised", Reply(403, b"\xff\xfe\x00garbage")),
        ("throttled", Reply(429, b"null")),
        ("refused", Reply(400, b'{"message": {"a": [1]}}')),
        ("refused", Reply(418, b"[]")),
        ("broken", Reply(300, b"")),
        ("failed", Reply(500, b"x" * 1_000_000)),
        ("throttled", fault("ThrottlingException", 429, "x" * 1_000_000)),
        ("policy", said({"__type": "ValidationException", "message": FILTERED}, 400)),
    ],
)
def test_an_error_of_any_shape_has_a_cause(endpoint: Endpoint, cause: str, reply: Reply) -> None:
    endpoint.answers = [reply]
    assert trouble_of(endpoint.url).cause == cause
    assert endpoint.connections == 1


@pytest.mark.parametrize("body", [b"[" * 60_000, b'{"message":' * 6_000, b'{"message": "\\ud800"}'])
def test_an_error_that_breaks_its_reader_is_trouble_still(endpoint: Endpoint, body: bytes) -> None:
    endpoint.answers = [Reply(429, body, {"x-amzn-errortype": "ThrottlingException"})]
    assert trouble_of(endpoint.url).cause == "throttled"


@pytest.mark.parametrize(
    ("said_", "seconds"),
    [("7", 7.0), ("0", 1.0), ("86400", 60.0), ("2.5", 2.5), ("-3", None), ("inf", None), ("nan", None), ("soon", None)],
)
def test_a_wish_to_be_left_alone_is_passed_on_within_reason(
    endpoint: Endpoint, said_: str, seconds: float | None
) -> None:
    endpoint.answers = [fault("ThrottlingException", 429, retry_after=said_)]
    assert trouble_of(endpoint.url).facts.retry_after_seconds == seconds


def test_a_wish_may_be_a_date(endpoint: Endpoint) -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    endpoint.answers = [fault("ServiceUnavailableException", 503, retry_after=then)]
    assert trouble_of(endpoint.url).facts.retry_after_seconds == pytest.approx(30, abs=5)


def test_a_redirect_is_not_followed(endpoint: Endpoint) -> None:
    with serving() as elsewhere:
        for status in (301, 302, 307, 308):
            endpoint.answers = [Reply(status, b"", {"location": f"{elsewhere.url}/model/x/invoke"})]
            assert trouble_of(endpoint.url).cause == "broken"
        assert elsewhere.connections == 0


# Where nobody is


def test_a_port_without_a_server_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        trouble = trouble_of(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert (trouble.cause, trouble.facts.is_charged) == ("unreachable", False)


def test_a_name_without_an_address_is_unreachable() -> None:
    assert trouble_of("http://bedrock.invalid").cause == "unreachable"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, signed by itself."""
    place = tmp_path_factory.mktemp("tls") / "server.pem"
    openssl = shutil.which("openssl")
    assert openssl is not None
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=here -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [openssl, *command.split(), "-keyout", str(place), "-out", str(place) + ".crt"], check=True, capture_output=True
    )
    place.write_text(place.read_text() + Path(f"{place}.crt").read_text())
    return place


@pytest.fixture
def tls_endpoint(endpoint: Endpoint, certificate: Path) -> Endpoint:
    """The same endpoint behind TLS: a relay that ends it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    endpoint.wrap(context)
    return endpoint


def test_https_is_spoken_to_those_we_trust(tls_endpoint: Endpoint, certificate: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    assert answer_of(tls_endpoint.url, tls=trusting).pictures[0].file == b"picture"
    assert tls_endpoint.url.startswith("https://")


def test_a_certificate_that_nobody_signed_is_unreachable_and_sees_no_request(tls_endpoint: Endpoint) -> None:
    assert trouble_of(tls_endpoint.url).cause == "unreachable"
    assert tls_endpoint.received == []


# Where settings come from


def test_nothing_of_the_environment_and_the_aws_tools_files_is_followed(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "bedrock-runtime" / "2023-09-30").mkdir(parents=True)
    (tmp_path / "models" / "bedrock-runtime" / "2023-09-30" / "service-2.json").write_text("{}")
    monkeypatch.setattr("botocore.loaders.Loader.CUSTOMER_DATA_PATH", str(tmp_path / "models"))
    bedrock_client._own_data.cache_clear()
    with serving() as trap, socket.socket(type=socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        config = f"[default]\nregion=eu-west-1\nendpoint_url={trap.url}\nproxy={trap.url}\n"
        (tmp_path / "config").write_text(f"{config}[profile other]\nendpoint_url={trap.url}\n")
        (tmp_path / "credentials").write_text("[default]\naws_access_key_id=AKIATRAP\naws_secret_access_key=trap\n")
        hostile = {
            "AWS_PROFILE": "other",
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
            "AWS_ACCESS_KEY_ID": "AKIATRAP",
            "AWS_SECRET_ACCESS_KEY": "trap",
            "AWS_SESSION_TOKEN": "trap",
            "AWS_BEARER_TOKEN_BEDROCK": "trap",
            "AWS_ENDPOINT_URL": trap.url,
            "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": trap.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": trap.url,
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": trap.url,
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_USE_FIPS_ENDPOINT": "true",
            "AWS_USE_DUALSTACK_ENDPOINT": "true",
            "AWS_MAX_ATTEMPTS": "9",
            "AWS_RETRY_MODE": "adaptive",
            "AWS_DEFAULTS_MODE": "auto",
            "AWS_AUTH_SCHEME_PREFERENCE": "httpBearerAuth",
            "AWS_CA_BUNDLE": str(tmp_path / "none"),
            "AWS_DATA_PATH": str(tmp_path / "models"),
            "AWS_CSM_ENABLED": "true",
            "AWS_CSM_PORT": str(listening.getsockname()[1]),
            "AWS_SDK_UA_APP_ID": "canary-app",
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), trap.url),
        }
        for name, value in hostile.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        endpoint.answers = [fault("InternalServerException", 500), pictures(b"a")]
        assert trouble_of(endpoint.url).cause == "failed"
        assert answer_of(endpoint.url).pictures
        assert (endpoint.refused, endpoint.connections, trap.connections) == ([], 2, 0)
        assert "canary-app" not in str(endpoint.received)
        with pytest.raises(BlockingIOError):
            listening.recv(1, socket.MSG_DONTWAIT)
        assert _own_url() == "https://bedrock-runtime.us-west-2.amazonaws.com"


def _own_url() -> str:
    """Where requests go that no endpoint_url leads elsewhere."""

    def send(request: AWSPreparedRequest) -> Any:
        raise AssertionError(request)

    url: str = BedrockClients(REGION, None, send).client(CREDENTIALS).meta.endpoint_url
    return url


def test_a_backend_of_models_yaml_becomes_a_provider(endpoint: Endpoint) -> None:
    entry = BackendEntry.model_validate(
        {
            "kind": "bedrock",
            "region": REGION,
            "endpoint_url": endpoint.url,
            "access_variables": ["A", "B", "C"],
            "models": {TITAN_V1: {}, "arn:aws:bedrock:us-west-2:1:provisioned-model/x": {"form": "titan"}},
        }
    )

    async def ask() -> None:
        one = provider_of(entry, dict(zip("ABC", CANARIES, strict=True)))
        for model in entry.models:
            await one.ask(asked(model), 0, 1, SECONDS)
        await one.close()

    asyncio.run(ask())
    assert [received.model for received in endpoint.received] == list(entry.models)
    assert endpoint.refused == []


def test_keys_that_change_in_their_file_are_taken_at_the_next_call(endpoint: Endpoint, tmp_path: Path) -> None:
    place = tmp_path / "credentials"

    def write(secret: str) -> None:
        place.write_text(
            f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={secret}\naws_session_token={SESSION_TOKEN}\n"
        )
        place.chmod(0o600)

    words = {"kind": "bedrock", "region": REGION, "endpoint_url": endpoint.url, "models": {TITAN: {}}}
    entry = BackendEntry.model_validate(words | {"credentials_file": str(place)})
    write("old")

    async def ask() -> None:
        one = provider_of(entry, {})
        with pytest.raises(Trouble, match="unauthorised"):
            await one.ask(asked(), 0, 1, SECONDS)
        write(SECRET_KEY)
        await one.ask(asked(), 0, 1, SECONDS)
        place.chmod(0o644)
        with pytest.raises(Trouble, match="unauthorised") as caught:
            await one.ask(asked(), 0, 1, SECONDS)
        assert "chmod 600" in caught.value.facts.detail
        await one.close()

    asyncio.run(ask())


def test_credentials_that_cannot_be_read_are_a_problem_at_the_start() -> None:
    def none() -> AwsCredentials:
        raise CredentialProblem("none")

    with pytest.raises(CredentialProblem):
        BedrockProvider(REGION, None, none, FORMS)


# What is told


@pytest.fixture
def loud(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every logger there is at debug, those of the SDK included."""
    caplog.set_level(logging.DEBUG)
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    before = [(one, one.level) for one in loggers]
    for one in loggers:
        one.setLevel(logging.DEBUG)
    yield caplog
    for one, level in before:
        one.setLevel(level)


def test_no_credential_and_no_prompt_is_logged_at_any_level(endpoint: Endpoint, loud: pytest.LogCaptureFixture) -> None:
    endpoint.answers = [
        pictures(b"a"),
        fault("InvalidSignatureException", 403, " ".join(CANARIES)),
        fault("ValidationException", 400, "a lighthouse at dusk"),
        Reply(200, b"garbage"),
    ]
    answer_of(endpoint.url)
    for _ in range(3):
        trouble_of(endpoint.url)
    trouble_of("http://bedrock.invalid")
    logged = "\n".join(f"{record.getMessage()} {record.__dict__}" for record in loud.records)
    assert not any(word in logged for word in (*CANARIES, "lighthouse", "AWS4-HMAC-SHA256"))
    assert any(one.name == "asyncio" for one in loud.records), "nothing was listened to"


def test_a_provider_does_not_show_its_keys(endpoint: Endpoint) -> None:
    one = provider_at(endpoint.url)
    assert not any(secret in f"{one!r}{vars(one)!r}{vars(one._clients)!r}" for secret in CANARIES)
    asyncio.run(one.close())


def test_an_adapter_that_is_closed_is_trouble_and_those_who_wait_are_freed(endpoint: Endpoint) -> None:
    endpoint.answers = [until_closed(endpoint)]

    async def ask() -> tuple[str, float]:
        one = provider_at(endpoint.url)
        waiting = asyncio.create_task(one.ask(asked(), 0, 1, SECONDS))
        await asyncio.to_thread(endpoint.answering.wait, SECONDS)
        began = time.monotonic()
        await one.close()
        with pytest.raises(Trouble):
            await waiting
        seconds = time.monotonic() - began
        with pytest.raises(Trouble) as caught:
            await one.ask(asked(), 0, 1, SECONDS)
        return caught.value.cause, seconds

    cause, seconds = asyncio.run(ask())
    assert cause == "unreachable"
    assert seconds < SECONDS / 2


def test_many_ask_at_once(endpoint: Endpoint) -> None:
    """More than there are threads."""
    count = bedrock_provider.MAX_CALLS + 8

    async def ask() -> list[Answer]:
        async with provider(endpoint.url) as one:
            return await asyncio.gather(*(one.ask(asked(seed=seed), 0, 1, 60.0) for seed in range(count)))

    answers = asyncio.run(ask())
    assert [answer.pictures[0].seed for answer in answers] == list(range(count))
    assert sorted(map(_seed, endpoint.received)) == list(range(count))


def _seed(received: Received) -> int:
    seed: int = received.body["imageGenerationConfig"]["seed"]
    return seed


def test_a_large_picture_is_sent_whole(endpoint: Endpoint) -> None:
    noisy = file_of(plain("RGB", (1408, 768), RED)) + b"\0" * 3_000_000
    answer_of(endpoint.url, asked(size="1408x768", image=noisy))
    assert len(endpoint.received[0].body["imageVariationParams"]["images"][0]) > 4_000_000
    assert threading.active_count() < 100
