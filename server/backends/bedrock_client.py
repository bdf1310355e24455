"""Makes boto3's client for Bedrock so that nothing but what it is given decides what it does. Slow to import.

Knows boto3 and where it looks for things; knows no models.
Invariant: of the environment, the AWS tools' files and the instance's metadata nothing is read; a request is tried
once; boto3 logs nothing that holds a request.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import boto3.session
import botocore.session
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.config import Config
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConstantProvider
from botocore.credentials import CredentialResolver
from botocore.loaders import Loader
from botocore.tokens import TokenProviderChain

from server.backends.aws_credentials import AwsCredentials

LOUD = ("botocore", "boto3", "s3transfer")
# Which files the AWS tools share is not asked, or they would be read.
NO_FILES = {"config_file": os.devnull, "credentials_file": os.devnull}


class BedrockClients:
    """Makes clients of one region, one at a time. endpoint_url: AWS's own for the region if absent. send: what carries
    requests."""

    def __init__(
        self, region: str, endpoint_url: str | None, send: Callable[[AWSPreparedRequest], AWSResponse]
    ) -> None:
        self._region, self._endpoint_url, self._send = region, endpoint_url, send
        self._session = _sealed_session()
        self._lock = threading.Lock()
        self._made: tuple[AwsCredentials, Any] | None = None

    def client(self, credentials: AwsCredentials) -> Any:
        """That of the last call, if the credentials are still the same. Any thread may ask and use it."""
        with self._lock:
            if self._made is None or self._made[0] != credentials:
                self._made = (credentials, self._new_client(credentials))
                silence()
            return self._made[1]

    def _new_client(self, credentials: AwsCredentials) -> Any:
        client = self._session.client(
            "bedrock-runtime",
            region_name=self._region,
            endpoint_url=self._endpoint_url,
            verify=True,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.session_token,
            config=CONFIG,
        )
        client.meta.events.register("before-send.bedrock-runtime.*", self._carry)
        return client

    def _carry(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        return self._send(request)


CONFIG = Config(
    # Named here, so that no bearer token of the environment is preferred.
    signature_version="v4",
    retries={"total_max_attempts": 1, "mode": "standard"},
    user_agent="safelight",
    proxies={},
    ignore_configured_endpoint_urls=True,
    use_fips_endpoint=False,
    use_dualstack_endpoint=False,
    disable_request_compression=True,
    defaults_mode="legacy",
)


def _sealed_session() -> boto3.session.Session:
    core = botocore.session.Session()
    values = core.get_component("config_store")
    for name, (_, _, default, _) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items():
        values.set_config_provider(name, ConstantProvider(NO_FILES.get(name, default)))
    core.register_component("data_loader", _own_data())
    core.register_component("credential_provider", CredentialResolver(providers=[]))
    core.register_component("token_provider", TokenProviderChain(providers=[]))
    return boto3.session.Session(botocore_session=core)


@functools.cache
def _own_data() -> Any:
    """What AWS's services are like, without what the home folder says of it. Keeps what it has read."""
    return Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)


class _OnlyNews(logging.Filter):
    """Below the level info the SDK logs headers, bodies, and what it signs."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.INFO


_ONLY_NEWS = _OnlyNews()


def silence() -> None:
    """A filter, not a level: who sets the level of all loggers to debug does not mean to log credentials."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in LOUD]
    for name in {*LOUD, *names}:
        logging.getLogger(name).addFilter(_ONLY_NEWS)


silence()
