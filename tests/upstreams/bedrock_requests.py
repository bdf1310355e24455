"""Requests and providers for the tests of Bedrock."""

from __future__ import annotations

from typing import Any

from server.backends.aws_credentials import AwsCredentials
from server.backends.bedrock_provider import BedrockProvider
from server.core.providers import Form
from server.core.request import RemoteRequest, Size
from tests.upstreams.bedrock_endpoint import ACCESS_KEY, REGION, SECRET_KEY, SESSION_TOKEN

TITAN, TITAN_V1 = "amazon.titan-image-generator-v2:0", "amazon.titan-image-generator-v1"
CORE, ULTRA, SD35 = (
    "stability.stable-image-core-v1:1",
    "stability.stable-image-ultra-v1:1",
    "stability.sd3-5-large-v1:0",
)
FORMS: dict[str, Form] = {
    TITAN: "titan",
    TITAN_V1: "titan",
    CORE: "stability",
    ULTRA: "stability",
    SD35: "stability",
}
CREDENTIALS = AwsCredentials(ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)


def asked(model: str = TITAN, size: str = "1024x1024", **others: Any) -> RemoteRequest:
    width, height = map(int, size.split("x"))
    values: dict[str, Any] = {
        "operation": "generation",
        "model": model,
        "backend": "bedrock",
        "prompt": "a lighthouse at dusk",
        "sent_prompt": "a lighthouse at dusk",
        "negative_prompt": None,
        "count": 1,
        "size": Size(width, height),
        "drawn_size": Size(width, height),
        "response_format": "b64_json",
    }
    return RemoteRequest(**(values | others))


def provider_at(url: str, credentials: AwsCredentials = CREDENTIALS, **others: Any) -> BedrockProvider:
    return BedrockProvider(REGION, url, lambda: credentials, FORMS, **others)
