"""Fetches a picture from a URL that a client named: judged in full before it is dialled, bounded in bytes and time.

Knows URLs, names and HTTP; knows no pictures and no callers. Which addresses are public, `networks` knows.
Invariant: only an address that was judged is ever dialled, by its number; a name is looked up once for each visit.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Any, Literal
from urllib.parse import quote, urljoin

import httpcore2
import idna

from server.images.networks import Address, is_private, is_public

# At level debug it logs the headers of every answer, and so the signed URLs of redirects.
logging.getLogger("httpcore2").setLevel(logging.INFO)

FetchMode = Literal["off", "listed", "open"]

MAX_URL_CHARACTERS = 4096
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
HEADERS = (
    ("User-Agent", "safelight"),
    ("Accept", "image/png, image/jpeg, image/webp"),
    ("Accept-Encoding", "identity"),
    ("Connection", "close"),
)
# ASCII: otherwise a long s would pass for the one of https. What follows the target is a fragment, which is never sent.
URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<target>[^#]*)", re.ASCII | re.IGNORECASE)
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.ASCII | re.IGNORECASE)
AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[1-9][0-9]{0,4}))?", re.ASCII)
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*", re.ASCII)
MAX_NAME_CHARACTERS = 253
# Where the last label is a number, resolvers take the whole for an IPv4 address: 127.1, 0x7f.1, 2130706433.
NUMERIC_END = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)
# Threads of their own: names that resolve slowly must hold up other fetches only, not the threads that serve requests.
RESOLVERS = ThreadPoolExecutor(max_workers=4, thread_name_prefix="resolve")


class UnfetchableUrl(Exception):
    """No picture could be fetched; `reason` follows "the URL" in a sentence, and holds nothing that was found out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What the operator permits. Raises ValueError for a host that no URL could name.

    mode: off fetches nothing; listed only from allowed_hosts; open from every host whose addresses are all public.
    allowed_hosts: host names in lower-case ASCII, addresses without brackets, or "*.example.org" for its subdomains.
    A host that is listed by its own name may have private addresses; those that a wildcard admits may not.
    """

    mode: FetchMode
    allowed_hosts: tuple[str, ...] = ()
    max_bytes: int = 50 * 1024 * 1024
    timeout_seconds: float = 10.0

    def __post_init__(self) -> None:
        for entry in self.allowed_hosts:
            if not _is_canonical(entry.removeprefix("*.")):
                raise ValueError(f"{entry!r} is no host name in lower-case ASCII, no address and no '*.' before a name")

    def admits(self, host: str) -> bool:
        return self.mode == "open" or (self.mode == "listed" and (self.names(host) or self._has_wildcard_for(host)))

    def names(self, host: str) -> bool:
        return self.mode == "listed" and host in self.allowed_hosts

    def _has_wildcard_for(self, host: str) -> bool:
        return any(entry.startswith("*.") and host.endswith(entry[1:]) for entry in self.allowed_hosts)


@dataclass(frozen=True, slots=True)
class PictureUrl:
    """A URL after its only parse. host: a name in lower-case ASCII, or an address in its one spelling, unbracketed."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


async def look_up(host: str) -> Sequence[Address]:
    """Every address of a name. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.run_in_executor(RESOLVERS, lambda: socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
    return [ip_address(socket_address[0]) for *_, socket_address in found]


async def connect(address: Address, port: int) -> httpcore2.AsyncNetworkStream:
    return await httpcore2.AnyIOBackend().connect_tcp(str(address), port)


@functools.cache
def trusted_authorities() -> ssl.SSLContext:
    """This machine's own."""
    return httpcore2.default_ssl_context()


@dataclass(frozen=True, slots=True)
class Network:
    """The world that a fetch meets. It finds, connects and trusts; it judges nothing."""

    look_up: Callable[[str], Awaitable[Sequence[Address]]] = look_up
    connect: Callable[[Address, int], Awaitable[httpcore2.AsyncNetworkStream]] = connect
    trusted_authorities: Callable[[], ssl.SSLContext] = trusted_authorities


INTERNET = Network()


async def fetch_picture(url: str, policy: FetchPolicy, *, network: Network = INTERNET) -> bytes:
    """What the URL leads to, undecoded. Raises UnfetchableUrl, and nothing else."""
    if policy.mode == "off":
        raise UnfetchableUrl("is not fetched: this server fetches no pictures; send the picture itself")
    try:
        async with asyncio.timeout(policy.timeout_seconds):
            return await _follow(url, policy, network)
    except TimeoutError:
        raise UnfetchableUrl(f"gave no whole picture within {policy.timeout_seconds:g} seconds") from None


async def _follow(url: str, policy: FetchPolicy, network: Network) -> bytes:
    found = await _visit(parse_url(url), policy, network)
    for _ in range(MAX_REDIRECTS):
        if isinstance(found, bytes):
            return found
        try:
            found = await _visit(found, policy, network)
        except UnfetchableUrl as error:
            raise UnfetchableUrl(f"redirects to one that {error.reason}") from None
    if isinstance(found, bytes):
        return found
    raise UnfetchableUrl(f"redirects more than {MAX_REDIRECTS} times")


async def _visit(url: PictureUrl, policy: FetchPolicy, network: Network) -> bytes | PictureUrl:
    """A picture, or the URL that this one redirects to."""
    address = await _judge(url.host, policy, network)
    try:
        async with (
            _one_connection(url, address, network) as pool,
            pool.stream("GET", _as_parsed(url), headers=[("Host", url.authority), *HEADERS]) as response,
        ):
            return await _read(response, url, policy)
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as error:
        raise UnfetchableUrl(_what_failed(error)) from None


def parse_url(text: str) -> PictureUrl:
    """The only parse: strict, for whoever reads a URL in two ways can be led to two hosts. Raises UnfetchableUrl."""
    if len(text) > MAX_URL_CHARACTERS:
        raise UnfetchableUrl(f"is longer than {MAX_URL_CHARACTERS} characters")
    _check_characters(text)
    parts = URL.match(text)
    if parts is None:
        raise UnfetchableUrl("does not begin with http:// or https://")
    if "@" in parts["authority"]:
        raise UnfetchableUrl("holds a user name or a password")
    authority = AUTHORITY.fullmatch(parts["authority"])
    if authority is None:
        raise _no_valid_host()
    scheme = parts["scheme"].lower()
    return PictureUrl(scheme, _host(authority["host"]), _port(authority["port"], scheme), _target(parts["target"]))


def _check_characters(text: str) -> None:
    if " " in text or "\\" in text or not text.isprintable():
        raise UnfetchableUrl("holds a space, a backslash or a character that does not print")


def _no_valid_host() -> UnfetchableUrl:
    return UnfetchableUrl("names no valid host")


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6_address(text[1:-1])
    name = _ascii_name(text)
    if len(name) > MAX_NAME_CHARACTERS or not NAME.fullmatch(name):
        raise _no_valid_host()
    return _ipv4_address(name) if NUMERIC_END.fullmatch(name) else name


def _ascii_name(text: str) -> str:
    """Lower case in ASCII alone: nothing else is mapped, so that full-width digits, say, stay what no name holds."""
    if text.isascii():
        return text.lower()
    try:
        return idna.encode(text.encode().lower().decode(), strict=True).decode("ascii")
    except UnicodeError:
        raise _no_valid_host() from None


def _ipv4_address(text: str) -> str:
    try:
        return str(IPv4Address(text))
    except AddressValueError:
        raise _no_valid_host() from None


def _ipv6_address(text: str) -> str:
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise _no_valid_host() from None
    if address.scope_id is not None:
        raise _no_valid_host()
    return str(address)


def _port(digits: str | None, scheme: str) -> int:
    port = PORTS[scheme] if digits is None else int(digits)
    if port not in PORTS.values():
        raise UnfetchableUrl("names a port other than 80 and 443")
    return port


def _target(text: str) -> str:
    """Path and query as they were written; what is not ASCII in UTF-8 and percent signs, as browsers send it."""
    path = text if text.startswith("/") else f"/{text}"
    return re.sub(r"[^!-~]+", lambda found: quote(found[0]), path)


def _is_canonical(host: str) -> bool:
    try:
        return _host(f"[{host}]" if ":" in host else host) == host
    except UnfetchableUrl:
        return False


async def _judge(host: str, policy: FetchPolicy, network: Network) -> Address:
    """The address to dial. One that may not be dialled spoils all: who mixes them means to be looked up twice."""
    if not policy.admits(host):
        raise UnfetchableUrl("names a host that this server does not fetch from")
    addresses = await _addresses(host, network)
    if not addresses or not all(is_public(found) or (policy.names(host) and is_private(found)) for found in addresses):
        # One text for both: whether an intranet has a certain name is nothing to tell.
        raise UnfetchableUrl("names a host that has no address, or one that is not public")
    return addresses[0]


async def _addresses(host: str, network: Network) -> Sequence[Address]:
    try:
        return [ip_address(host)]
    except ValueError:
        pass
    try:
        return await network.look_up(host)
    except (OSError, ValueError):
        return []


class _OneAddress(httpcore2.AsyncNetworkBackend):
    """Dials one address and port, whichever host it is asked for."""

    def __init__(self, address: Address, port: int, network: Network) -> None:
        self._address, self._port, self._network = address, port, network
        self._stream: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
        self._stream = await self._network.connect(self._address, self._port)
        return self._stream

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()


@asynccontextmanager
async def _one_connection(
    url: PictureUrl, address: Address, network: Network
) -> AsyncIterator[httpcore2.AsyncConnectionPool]:
    """Without proxies, cookies and credentials: httpcore has none unless it is given them."""
    tls = network.trusted_authorities() if url.scheme == "https" else None
    backend = _OneAddress(address, url.port, network)
    try:
        async with httpcore2.AsyncConnectionPool(tls, max_connections=1, retries=0, network_backend=backend) as pool:
            yield pool
    finally:
        await backend.aclose()  # httpcore leaves a connection open whose TLS handshake ran out of time


def _as_parsed(url: PictureUrl) -> httpcore2.URL:
    return httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.target)


def _what_failed(error: Exception) -> str:
    if any(isinstance(part, ssl.SSLError) for part in (error, *error.args)):  # httpcore wraps it, and drops the cause
        return "leads to a host without a valid certificate, or with broken TLS"
    if isinstance(error, (httpcore2.ConnectError, httpcore2.ConnectTimeout)):
        return "leads to a host that cannot be reached"
    return "gave an answer that broke off or is not valid HTTP"


async def _read(response: httpcore2.Response, url: PictureUrl, policy: FetchPolicy) -> bytes | PictureUrl:
    if response.status in REDIRECTS:
        return _redirected(url, _values(response, b"location"))
    if response.status != 200:  # noqa: PLR2004
        raise UnfetchableUrl(f"was answered with status {response.status}")
    if any(value.lower() != b"identity" for value in _values(response, b"content-encoding")):
        raise UnfetchableUrl("gave an encoded answer, though it was asked for a plain one")
    if any(int(value) > policy.max_bytes for value in _values(response, b"content-length")):
        raise _too_large(policy)
    return await _content(response, policy)


async def _content(response: httpcore2.Response, policy: FetchPolicy) -> bytes:
    content = bytearray()
    async with aclosing(response.aiter_stream()) as pieces:
        async for piece in pieces:
            content += piece
            if len(content) > policy.max_bytes:
                raise _too_large(policy)
            await asyncio.sleep(0)  # a sender of one byte a piece must not hold the event loop
    return bytes(content)


def _too_large(policy: FetchPolicy) -> UnfetchableUrl:
    return UnfetchableUrl(f"leads to more than {policy.max_bytes} bytes")


def _values(response: httpcore2.Response, name: bytes) -> list[bytes]:
    return [value.strip() for header, value in response.headers if header.lower() == name]


def _redirected(url: PictureUrl, locations: Sequence[bytes]) -> PictureUrl:
    """Parsed like a client's own, and with no less care."""
    if len(locations) != 1:
        raise UnfetchableUrl("redirects to no place, or to several")
    try:
        target = parse_url(_absolute(locations[0].decode("ascii"), url))
    except UnfetchableUrl as error:
        raise UnfetchableUrl(f"redirects to one that {error.reason}") from None
    except ValueError:
        raise UnfetchableUrl("redirects to one that is no URL") from None
    if (url.scheme, target.scheme) == ("https", "http"):
        raise UnfetchableUrl("redirects from https to http")
    return target


def _absolute(location: str, base: PictureUrl) -> str:
    """Only paths are joined by the library, as it mends what is odd in the rest."""
    _check_characters(location)
    if location.startswith("//"):
        return f"{base.scheme}:{location}"
    return location if SCHEME.match(location) else urljoin(str(base), location)
