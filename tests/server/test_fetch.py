"""Guards the fetching of clients' URLs: what may not be dialled is not dialled, and whatever answers stays in bounds.

Names and addresses are the tests' own, and every address that is dialled leads to one real server on loopback, which
counts its connections. What is judged, is judged by the real rules.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import httpcore2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.images.fetch import (
    MAX_URL_CHARACTERS,
    PORTS,
    FetchPolicy,
    Network,
    PictureUrl,
    UnfetchableUrl,
    connect,
    fetch_picture,
    look_up,
    parse_url,
    trusted_authorities,
)
from server.images.networks import Address, is_public

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
MAX_BYTES = 100_000
SECONDS = 5.0
OPEN = FetchPolicy("open", max_bytes=MAX_BYTES, timeout_seconds=SECONDS)
IMPATIENT = FetchPolicy("open", max_bytes=MAX_BYTES, timeout_seconds=0.2)
PUBLIC, PUBLIC_IPV6 = "93.184.216.34", "2606:2800:220:1::1"
URL = "http://pictures.example/a.png"
NOT_PUBLIC = "names a host that has no address, or one that is not public"
NO_VALID_HOST = "names no valid host"

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]


def listed(*hosts: str) -> FetchPolicy:
    return FetchPolicy("listed", hosts, MAX_BYTES, SECONDS)


def ok(body: bytes = PICTURE, *headers: str) -> bytes:
    return answer(200, f"Content-Length: {len(body)}", *headers) + body


def answer(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", *headers, "", ""]).encode()


def redirect(location: str, status: int = 302) -> bytes:
    return answer(status, f"Location: {location}", "Content-Length: 0")


@dataclass
class World:
    """names: what each resolves to. answers: by host and target. certificates: of the server behind port 443."""

    names: dict[str, list[str]] = field(default_factory=lambda: {"pictures.example": [PUBLIC]})
    answers: dict[str, Answer] = field(default_factory=lambda: {"pictures.example/a.png": ok()})
    names_after_a_look_up: dict[str, list[str]] = field(default_factory=dict)
    certificates: ssl.SSLContext | None = None
    trusted: ssl.SSLContext = field(default_factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    looked_up: list[str] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    ended_connections: int = 0

    def fetch(self, url: str = URL, policy: FetchPolicy = OPEN) -> bytes:
        return asyncio.run(self._fetch(url, policy))

    def refusal(self, url: str = URL, policy: FetchPolicy = OPEN) -> str:
        with pytest.raises(UnfetchableUrl) as caught:
            self.fetch(url, policy)
        return caught.value.reason

    def assert_untouched(self) -> None:
        assert self.dialled == []
        assert self.connections == 0

    async def _fetch(self, url: str, policy: FetchPolicy) -> bytes:
        async with self.opened() as network:
            return await fetch_picture(url, policy, network=network)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Network]:
        serving: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            serving.add(asyncio.create_task(self._serve(reader, writer)))

        plain = await asyncio.start_server(accept, "127.0.0.1", 0)
        secure = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=self.certificates)
        ports = {80: plain.sockets[0].getsockname()[1], 443: secure.sockets[0].getsockname()[1]}

        async def dial(address: Address, port: int) -> httpcore2.AsyncNetworkStream:
            self.dialled.append((str(address), port))
            return await connect(ip_address("127.0.0.1"), ports[port])

        try:
            yield Network(self._look_up, dial, lambda: self.trusted)
        finally:
            plain.close()
            secure.close()
            if serving:
                await asyncio.wait(serving, timeout=5.0)

    async def _look_up(self, host: str) -> Sequence[Address]:
        self.looked_up.append(host)
        found = self.names.get(host)
        self.names |= self.names_after_a_look_up
        if found is None:
            raise OSError("Name or service not known")
        return [ip_address(text) for text in found]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client closes the connection, whatever the answer does."""
        answering: asyncio.Task[None] | None = None
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.requests.append(request)
            answering = asyncio.create_task(self._answer(request, writer))
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        self.ended_connections += 1
        if answering is not None:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        writer.close()

    async def _answer(self, request: str, writer: asyncio.StreamWriter) -> None:
        answered = self.answers.get(header(request, "host") + request.split(" ")[1], answer(404, "Content-Length: 0"))
        if not isinstance(answered, bytes):
            await answered(writer)
            return
        writer.write(answered)
        if writer.can_write_eof():
            writer.write_eof()
        await writer.drain()


def header(request: str, name: str) -> str:
    lines = [line.partition(": ") for line in request.split("\r\n")]
    return next(value for found, _, value in lines if found.lower() == name)


@pytest.fixture
def world() -> World:
    return World()


def world_at(*addresses: str) -> World:
    return World(names={"pictures.example": list(addresses)})


# What is fetched


def test_a_picture_comes_as_it_was_sent(world: World) -> None:
    assert world.fetch() == PICTURE
    assert world.dialled == [(PUBLIC, 80)]


def test_a_picture_may_come_in_chunks_or_end_with_its_connection(world: World) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in PICTURE)
    world.answers["pictures.example/a.png"] = answer(200, "Transfer-Encoding: chunked") + chunks + b"0\r\n\r\n"
    assert world.fetch() == PICTURE
    world.answers["pictures.example/a.png"] = b"HTTP/1.0 200 OK\r\n\r\n" + PICTURE
    assert world.fetch() == PICTURE


def test_the_request_names_the_host_asks_for_plain_bytes_and_carries_nothing_else(world: World) -> None:
    world.fetch()
    [request] = world.requests
    assert request.split("\r\n") == [
        "GET /a.png HTTP/1.1",
        "Host: pictures.example",
        "User-Agent: safelight",
        "Accept: image/png, image/jpeg, image/webp",
        "Accept-Encoding: identity",
        "Connection: close",
        "",
        "",
    ]


def test_the_environments_proxies_are_not_asked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://10.0.0.1:3128")
    assert world.fetch() == PICTURE
    assert world.dialled == [(PUBLIC, 80)]
    assert world.requests[0].startswith("GET /a.png ")


def test_a_cookie_that_a_redirect_sets_is_not_sent_on(world: World) -> None:
    world.answers["pictures.example/b"] = answer(302, "Location: /a.png", "Set-Cookie: a=b", "Content-Length: 0")
    world.fetch("http://pictures.example/b")
    assert len(world.requests) == 2
    assert "cookie" not in world.requests[1].lower()


def test_the_connection_is_closed_after_the_picture(world: World) -> None:
    world.fetch()
    assert world.ended_connections == 1


def test_query_and_percent_signs_are_sent_as_they_were_written_and_the_fragment_is_not_sent(world: World) -> None:
    world.answers["pictures.example/%2e%2e/a%20b?x=%41&y=@:/?{}"] = ok()
    assert world.fetch("http://pictures.example/%2e%2e/a%20b?x=%41&y=@:/?{}#part") == PICTURE


# Modes


def test_where_fetching_is_off_no_name_is_looked_up(world: World) -> None:
    assert "fetches no pictures" in world.refusal(URL, FetchPolicy("off", ("pictures.example",)))
    assert world.looked_up == []
    world.assert_untouched()


@pytest.mark.parametrize("entry", ["pictures.example", "*.example"])
def test_a_listed_host_is_fetched_from(world: World, entry: str) -> None:
    assert world.fetch(URL, listed("other.example", entry)) == PICTURE


@pytest.mark.parametrize(
    "entries",
    [(), ("other.example",), ("*.pictures.example",), ("example",), ("ictures.example",), ("*.ictures.example",)],
)
def test_a_host_that_is_not_listed_is_not_even_looked_up(world: World, entries: tuple[str, ...]) -> None:
    assert world.refusal(URL, listed(*entries)) == "names a host that this server does not fetch from"
    assert world.looked_up == []
    world.assert_untouched()


def test_a_listed_host_is_found_in_any_case(world: World) -> None:
    assert world.fetch("HTTP://PICTURES.Example/a.png", listed("pictures.example")) == PICTURE


@pytest.mark.parametrize("address", ["10.1.2.3", "172.16.0.1", "192.168.1.1", "fd12:3456::1"])
def test_a_host_listed_by_its_own_name_may_have_a_private_address(address: str) -> None:
    world = world_at(address)
    assert world.fetch(URL, listed("pictures.example")) == PICTURE
    assert world.dialled == [(address, 80)]


def test_an_address_of_an_intranet_may_be_listed_itself() -> None:
    world = World(answers={"10.1.2.3/": ok(), "[fd12::1]/": ok()})
    assert world.fetch("http://10.1.2.3", listed("10.1.2.3")) == PICTURE
    assert world.fetch("http://[FD12:0::1]", listed("fd12::1")) == PICTURE
    assert world.dialled == [("10.1.2.3", 80), ("fd12::1", 80)]


@pytest.mark.parametrize("policy", [listed("*.example"), OPEN, FetchPolicy("open", ("pictures.example",))])
def test_a_host_that_is_not_listed_by_its_own_name_may_not_have_a_private_address(policy: FetchPolicy) -> None:
    world = world_at("10.1.2.3")
    assert world.refusal(URL, policy) == NOT_PUBLIC
    world.assert_untouched()


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0", "100.100.100.200", "fd00:ec2::254", "224.0.0.1"]
)
def test_no_list_opens_loopback_or_the_metadata_of_a_cloud(address: str) -> None:
    world = world_at(address)
    assert world.refusal(URL, listed("pictures.example")) == NOT_PUBLIC
    world.assert_untouched()


@pytest.mark.parametrize(
    "entry",
    [
        *(
            "",
            "*",
            "*.",
            "**.example",
            "*.*.example",
            "a.*.example",
            "Pictures.example",
            "pictures.example.",
            "[fd12::1]",
        ),
        *(
            "http://pictures.example",
            "pictures.example/",
            "pictures.example:80",
            "b\u00fccher.example",
            "127.1",
            "FD12::1",
        ),
    ],
)
def test_a_list_that_could_never_match_is_refused_at_once(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host name"):
        FetchPolicy("listed", ("pictures.example", entry))


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.1", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.8.8.8", "169.254.169.254", "172.31.255.255"),
        *("192.0.0.192", "192.168.0.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
        *("2001:0:7f00:1::", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001:db8::1"),
    ],
)
def test_a_name_that_leads_to_an_address_that_is_not_public_is_not_dialled(address: str) -> None:
    for addresses in ([address], [PUBLIC, address], [address, PUBLIC_IPV6], [PUBLIC, PUBLIC_IPV6, address]):
        world = world_at(*addresses)
        assert world.refusal() == NOT_PUBLIC
        world.assert_untouched()


def test_of_several_public_addresses_the_first_is_dialled() -> None:
    world = world_at(PUBLIC_IPV6, PUBLIC)
    assert world.fetch() == PICTURE
    assert world.dialled == [(PUBLIC_IPV6, 80)]


def test_a_name_without_addresses_is_refused_like_one_that_is_private() -> None:
    assert world_at().refusal() == World(names={}).refusal() == world_at("10.0.0.1").refusal() == NOT_PUBLIC


def test_a_name_that_changes_after_it_was_judged_is_dialled_where_it_was_judged(world: World) -> None:
    world.names_after_a_look_up = {"pictures.example": ["127.0.0.1"]}
    assert world.fetch() == PICTURE
    assert world.looked_up == ["pictures.example"]
    assert world.dialled == [(PUBLIC, 80)]


def test_a_name_that_changes_during_a_redirect_is_judged_again(world: World) -> None:
    world.answers["pictures.example/b"] = redirect("/a.png")
    world.names_after_a_look_up = {"pictures.example": ["127.0.0.1"]}
    assert world.refusal("http://pictures.example/b") == f"redirects to one that {NOT_PUBLIC}"
    assert world.looked_up == ["pictures.example"] * 2
    assert world.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize(("written", "dialled"), [(PUBLIC, PUBLIC), ("[2606:2800:0220:1:0::1]", PUBLIC_IPV6)])
def test_a_public_address_needs_no_look_up(world: World, written: str, dialled: str) -> None:
    host = f"[{dialled}]" if ":" in dialled else dialled
    world.answers[f"{host}/a.png"] = ok()
    assert world.fetch(f"http://{written}/a.png") == PICTURE
    assert world.looked_up == []
    assert world.dialled == [(dialled, 80)]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "[::]", "[fe80::1]", "0.0.0.1"]
)
def test_an_address_that_is_not_public_is_not_dialled(world: World, host: str) -> None:
    assert world.refusal(f"http://{host}/a.png") == NOT_PUBLIC
    assert world.looked_up == []
    world.assert_untouched()


# URLs


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("http://a.example", PictureUrl("http", "a.example", 80, "/")),
        ("HTTPS://A.Example", PictureUrl("https", "a.example", 443, "/")),
        ("http://a.example:80/x", PictureUrl("http", "a.example", 80, "/x")),
        ("http://a.example:443", PictureUrl("http", "a.example", 443, "/")),
        ("https://a.example:80?q#f", PictureUrl("https", "a.example", 80, "/?q")),
        ("https://a.example#f?x/y", PictureUrl("https", "a.example", 443, "/")),
        ("http://my_bucket.a-b.example/@x:y", PictureUrl("http", "my_bucket.a-b.example", 80, "/@x:y")),
        ("http://intranet/", PictureUrl("http", "intranet", 80, "/")),
        ("http://1.example/", PictureUrl("http", "1.example", 80, "/")),
        ("http://a.0x7g/", PictureUrl("http", "a.0x7g", 80, "/")),
        ("http://xn--bcher-kva.example/", PictureUrl("http", "xn--bcher-kva.example", 80, "/")),
        ("http://B\u00fccher.Example/", PictureUrl("http", "xn--bcher-kva.example", 80, "/")),
        ("http://a.example/b\u00fccher?\U0001f534", PictureUrl("http", "a.example", 80, "/b%C3%BCcher?%F0%9F%94%B4")),
        ("http://1.2.3.4/", PictureUrl("http", "1.2.3.4", 80, "/")),
        ("http://[0:0::1]:443/", PictureUrl("http", "::1", 443, "/")),
        (f"http://{'a' * 63}.example/", PictureUrl("http", f"{'a' * 63}.example", 80, "/")),
    ],
)
def test_a_url_is_read_in_one_way(url: str, parsed: PictureUrl) -> None:
    assert parse_url(url) == parsed


HOSTILE_HOSTS = [
    *("127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "0x7f.0x0.0x0.0x1", "017700000001", "0177.0.0.1", "0"),
    *("127.0.0.01", "127.0.0.1.", "1.2.3.4.5", "256.1.1.1", "1.2.3", "1.2.3.0x4", "a.1", "a.0x", "a.127.0.0.1", "0x"),
    *(
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020\u30020\u30021",
        "\u2460\u2461\u2466.0.0.1",
        "127.0.0.\u0661",
        "\u2488\u2488\u2488\u2488",
    ),
    *(
        "\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54",
        "\u24db\u24de\u24d2\u24d0\u24db",
        "\u212a.example",
        "a\uff0fb.example",
        "a\uff20b.example",
    ),
    *("", ".", "..", ".a", "a.", "a..b", "-a", "a-", "a.-b", "a_.b-", "%31%32%37.0.0.1", "%6c", "a%00b", "a,b", "a;b"),
    *("a'b", 'a"b', "a<b", "a|b", "a^b", "a`b", "{a}", "a*b", "*", "a!b", "$a", "a&b", "a=b", "a+b", "(a)", "~a"),
    *(
        "[",
        "]",
        "[]",
        "[::1",
        "::1",
        "[::1]]",
        "[[::1]]",
        "[::1]a",
        "a[::1]",
        "[::1%eth0]",
        "[::1%25eth0]",
        "[fe80::1%1]",
    ),
    *(
        "[127.0.0.1]",
        "[1.2.3.4]",
        "[a.example]",
        "[v1.a]",
        "[::g]",
        "[1:2]",
        "[1::2::3]",
        "[::127.1]",
        "[::0177.0.0.1]",
    ),
    *(
        "a" * 64,
        ".".join(["a" * 63] * 4),
        "a." * 127 + "a",
        "\u00e9" * 64,
        "\u00e9." * 200 + "a",
        "xn--\u00e9",
        "\u200d\u00e9x",
    ),
]


@pytest.mark.parametrize("host", [host for host in HOSTILE_HOSTS if host.isprintable()])
def test_a_host_in_an_odd_spelling_is_refused_and_not_looked_up(world: World, host: str) -> None:
    assert world.refusal(f"http://{host}/a.png") == NO_VALID_HOST
    assert world.looked_up == []
    world.assert_untouched()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://pictures.example/a b",
            " http://pictures.example/",
            "http://pictures.example/ ",
            "http://a\tb.example/",
        ),
        *(
            "http://pictures.example\\@127.0.0.1/",
            "http:\\\\pictures.example/",
            "http://pictures.example/\\",
            "\\\\a\\b",
        ),
        *(
            "http://pictures.example/\r\nHost: x",
            "http://pictures.example/\x00",
            "http://pictures.example/\x7f",
            "\x01http://a/",
        ),
        *(
            "ht\ntp://pictures.example/",
            "http://pictures.example/\u200b",
            "http://pictures\u00ad.example/",
            "http://a/\u202e",
        ),
        *(
            "http://pictures.example/\u3000",
            "http://pictures.example/\ud800",
            "http://\udcff/",
            "http://a/\u2028",
            "http://a/\u0085",
        ),
    ],
)
def test_spaces_backslashes_and_characters_that_do_not_print_are_refused(world: World, url: str) -> None:
    assert world.refusal(url) == "holds a space, a backslash or a character that does not print"
    world.assert_untouched()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "a.png",
            "/a.png",
            "//pictures.example/",
            "pictures.example",
            "http",
            "http:",
            "http:/",
            "http:/a.example/",
        ),
        *(
            "http:a.example",
            "file:///etc/passwd",
            "ftp://pictures.example/",
            "gopher://a:70/_x",
            "data:image/png;base64,AA==",
        ),
        *(
            "javascript:1",
            "jar:http://a!/b",
            "url:http://a/",
            "view-source:http://a/",
            "ws://a/",
            "http+unix://a/",
            "s3://a/b",
        ),
        *(
            "http\u017f://pictures.example/",
            "https:\u2215/a/",
            "\uff48ttp://a/",
            "xhttp://a/",
            "http://"[::-1],
            "httpss://a/",
        ),
    ],
)
def test_what_is_neither_http_nor_https_is_refused(world: World, url: str) -> None:
    assert world.refusal(url) == "does not begin with http:// or https://"
    world.assert_untouched()


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.png", "http://?x", "http://#x", "http://:80/", "https:////a.example/"]
)
def test_a_url_without_a_host_is_refused(world: World, url: str) -> None:
    assert world.refusal(url) == NO_VALID_HOST
    world.assert_untouched()


@pytest.mark.parametrize(
    "user", ["me@", "me:secret@", "@", ":@", "pictures.example@", "127.0.0.1:80@", "a@b@", "[::1]@"]
)
def test_a_user_name_or_password_is_refused(world: World, user: str) -> None:
    assert world.refusal(f"http://{user}pictures.example/a.png") == "holds a user name or a password"
    world.assert_untouched()


@pytest.mark.parametrize("port", ["22", "81", "8080", "65535", "99999", "8", "4430"])
def test_a_port_other_than_80_and_443_is_refused(world: World, port: str) -> None:
    assert world.refusal(f"http://pictures.example:{port}/a.png") == "names a port other than 80 and 443"
    world.assert_untouched()


@pytest.mark.parametrize(
    "port",
    ["", "0", "080", "+80", "-80", "80a", "8 0".replace(" ", "_"), "\uff18\uff10", "\u0668\u0660", "80:80", "000080"],
)
def test_a_port_in_an_odd_spelling_is_refused(world: World, port: str) -> None:
    assert world.refusal(f"http://pictures.example:{port}/a.png") == NO_VALID_HOST
    world.assert_untouched()


def test_a_url_may_be_as_long_as_the_limit_and_not_longer(world: World) -> None:
    longest = URL + "?" + "x" * (MAX_URL_CHARACTERS - len(URL) - 1)
    world.answers[longest.removeprefix("http://")] = ok()
    assert world.fetch(longest) == PICTURE
    world.dialled.clear()
    assert world.refusal(longest + "x") == f"is longer than {MAX_URL_CHARACTERS} characters"
    assert world.dialled == []


@pytest.mark.parametrize(
    "text", ["\u00e9" * 1_000_000, "http://" + "\u00e9" * 4000, "http://[" + ":" * 4000 + "]"], ids=len
)
def test_a_monstrous_url_is_refused_in_no_time(text: str) -> None:
    started = time.process_time()
    with pytest.raises(UnfetchableUrl):
        parse_url(text)
    assert time.process_time() - started < 0.5


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(world: World, status: int) -> None:
    world.names["other.example"] = [PUBLIC_IPV6]
    world.answers |= {
        "pictures.example/a.png": redirect("http://other.example/b.png", status),
        "other.example/b.png": ok(),
    }
    assert world.fetch() == PICTURE
    assert world.dialled == [(PUBLIC, 80), (PUBLIC_IPV6, 80)]
    assert [header(request, "host") for request in world.requests] == ["pictures.example", "other.example"]


@pytest.mark.parametrize(
    "location", ["/x/b.png", "b.png", "./b.png", "../x/b.png", "//pictures.example/x/b.png", "b.png#f"]
)
def test_a_relative_redirect_is_followed(world: World, location: str) -> None:
    world.answers |= {"pictures.example/x/a": redirect(location), "pictures.example/x/b.png": ok()}
    assert world.fetch("http://pictures.example/x/a") == PICTURE


def test_three_redirects_are_followed_and_not_a_fourth(world: World) -> None:
    world.answers |= {f"pictures.example/{step}": redirect(f"/{step + 1}") for step in range(4)}
    world.answers["pictures.example/4"] = ok()
    assert world.fetch("http://pictures.example/1") == PICTURE
    world.dialled.clear()
    assert world.refusal("http://pictures.example/0") == "redirects more than 3 times"
    assert len(world.dialled) == 4


def test_every_redirect_is_looked_up_once(world: World) -> None:
    world.answers |= {"pictures.example/0": redirect("/1"), "pictures.example/1": redirect("/a.png")}
    assert world.fetch("http://pictures.example/0") == PICTURE
    assert world.looked_up == ["pictures.example"] * 3


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1/", NOT_PUBLIC),
        ("http://169.254.169.254/latest/meta-data/", NOT_PUBLIC),
        ("http://[::ffff:127.0.0.1]/", NOT_PUBLIC),
        ("http://intra.example/", NOT_PUBLIC),
        ("//intra.example/", NOT_PUBLIC),
        ("http://mixed.example/", NOT_PUBLIC),
        ("http://unknown.example/", NOT_PUBLIC),
        ("http://127.1/", NO_VALID_HOST),
        ("http://2130706433/", NO_VALID_HOST),
        ("///", NO_VALID_HOST),
        ("///127.0.0.1/", NO_VALID_HOST),
        ("http:///", NO_VALID_HOST),
        ("http:a.png", "does not begin with http:// or https://"),
        ("http://pictures.example:8080/", "names a port other than 80 and 443"),
        ("http://me@pictures.example/", "holds a user name or a password"),
        ("file:///etc/passwd", "does not begin with http:// or https://"),
        ("data:image/png;base64,AA==", "does not begin with http:// or https://"),
        ("/a b", "holds a space, a backslash or a character that does not print"),
        ("http:\\\\127.0.0.1", "holds a space, a backslash or a character that does not print"),
        ("/a\tb", "holds a space, a backslash or a character that does not print"),
        ("http://[", NO_VALID_HOST),
        ("http://a]/", NO_VALID_HOST),
        ("//[::1", NO_VALID_HOST),
        ("/b\u00e9", "is no URL"),
        ("/" + "x" * 5000, "is longer than 4096 characters"),
    ],
)
def test_where_a_redirect_leads_is_judged_like_a_clients_own_url(world: World, location: str, reason: str) -> None:
    world.names |= {"intra.example": ["10.0.0.1"], "mixed.example": [PUBLIC, "::1"]}
    world.answers["pictures.example/a.png"] = redirect(location)
    assert world.refusal() == f"redirects to one that {reason}"
    assert world.dialled == [(PUBLIC, 80)]
    assert world.connections == 1


def test_a_redirect_to_a_host_that_is_not_listed_is_refused(world: World) -> None:
    world.names["other.example"] = [PUBLIC]
    world.answers["pictures.example/a.png"] = redirect("http://other.example/")
    assert "does not fetch from" in world.refusal(URL, listed("pictures.example"))
    assert world.looked_up == ["pictures.example"]


def test_a_public_host_cannot_lead_to_an_intranet_that_is_not_listed(world: World) -> None:
    world.names["intra.example"] = ["10.0.0.1"]
    world.answers["pictures.example/a.png"] = redirect("http://intra.example/")
    assert NOT_PUBLIC in world.refusal(URL, listed("*.example"))
    assert world.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize("headers", [[], ["Location: /b", "Location: /c"], ["Location: /b", "Location: /b"]])
def test_a_redirect_to_no_place_or_to_several_is_refused(world: World, headers: list[str]) -> None:
    world.answers["pictures.example/a.png"] = answer(302, "Content-Length: 0", *headers)
    assert world.refusal() == "redirects to no place, or to several"
    assert world.connections == 1


# Answers


@pytest.mark.parametrize("status", [201, 204, 206, 300, 304, 305, 400, 401, 403, 404, 407, 418, 429, 500, 503, 599])
def test_any_status_but_200_is_refused_by_its_number(world: World, status: int) -> None:
    world.answers["pictures.example/a.png"] = answer(status, f"Content-Length: {len(PICTURE)}") + PICTURE
    assert world.refusal() == f"was answered with status {status}"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "identity, gzip", "x", ""])
def test_an_encoded_answer_is_refused(world: World, encoding: str) -> None:
    world.answers["pictures.example/a.png"] = ok(gzip.compress(PICTURE), f"Content-Encoding: {encoding}")
    assert world.refusal() == "gave an encoded answer, though it was asked for a plain one"


@pytest.mark.parametrize("encoding", ["identity", "Identity", " identity "])
def test_the_identity_encoding_is_accepted(world: World, encoding: str) -> None:
    world.answers["pictures.example/a.png"] = ok(PICTURE, f"Content-Encoding: {encoding}")
    assert world.fetch() == PICTURE


def test_a_transfer_encoding_that_was_not_asked_for_is_refused(world: World) -> None:
    world.answers["pictures.example/a.png"] = answer(200, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"
    assert world.refusal() == "gave an answer that broke off or is not valid HTTP"


def test_a_picture_of_exactly_the_limit_is_accepted(world: World) -> None:
    world.answers["pictures.example/a.png"] = ok(b"x" * MAX_BYTES)
    assert len(world.fetch()) == MAX_BYTES


@pytest.mark.parametrize("declared", [MAX_BYTES + 1, 10**15, 10**19])
def test_a_declared_oversize_is_refused_before_its_body(world: World, declared: int) -> None:
    async def headers_only(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, f"Content-Length: {declared}"))
        await asyncio.Event().wait()

    world.answers["pictures.example/a.png"] = headers_only
    assert world.refusal() == f"leads to more than {MAX_BYTES} bytes"


@pytest.mark.parametrize("head", [answer(200), b"HTTP/1.0 200 OK\r\n\r\n", answer(200, "Transfer-Encoding: chunked")])
def test_an_endless_answer_is_refused_at_the_limit_and_its_connection_closed(world: World, head: bytes) -> None:
    piece = b"%x\r\n%b\r\n" % (50_000, b"x" * 50_000) if b"chunked" in head else b"x" * 50_000

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    world.answers["pictures.example/a.png"] = endless
    assert world.refusal() == f"leads to more than {MAX_BYTES} bytes"
    assert world.ended_connections == 1


@pytest.mark.parametrize(
    "raw",
    [
        *(
            b"",
            b"\r\n\r\n",
            b"\x89PNG\r\n\x1a\n" * 20,
            b"HTTP/2 200\r\n\r\n",
            b"HTTP/1.1 OK\r\n\r\n",
            b"HTTP/1.1 200",
            b"\x00" * 99,
        ),
        *(answer(200, "Content-Length: 300") + PICTURE, answer(200, "Content-Length: -1") + PICTURE),
        *(
            answer(200, "Content-Length: 264", "Content-Length: 5") + PICTURE,
            answer(200, "Content-Length: 9" + "9" * 30),
        ),
        *(
            answer(200, "Transfer-Encoding: chunked") + b"zz\r\n",
            answer(200, "Transfer-Encoding: chunked") + b"5\r\nabc",
        ),
        *(answer(200, "a b: c"), answer(200, "x: \x00"), answer(200, "x: " + "y" * 200_000), answer(100) * 50),
        *(answer(200, *["x: y"] * 100_000), b"HTTP/1.1 200 " + b"x" * 200_000, b"SSH-2.0-OpenSSH_9.2\r\n"),
    ],
)
def test_an_answer_that_breaks_off_or_is_no_http_is_refused(world: World, raw: bytes) -> None:
    world.answers["pictures.example/a.png"] = raw
    assert world.refusal() == "gave an answer that broke off or is not valid HTTP"


def test_a_switch_of_protocols_is_refused(world: World) -> None:
    world.answers["pictures.example/a.png"] = answer(101, "Upgrade: x", "Connection: upgrade") + PICTURE
    assert "picture" not in world.refusal()


def test_a_host_that_accepts_no_connection_is_refused() -> None:
    async def refused(_: Address, __: int) -> httpcore2.AsyncNetworkStream:
        return await connect(ip_address("127.0.0.1"), 1)

    async def found(_: str) -> Sequence[Address]:
        return [ip_address(PUBLIC)]

    with pytest.raises(UnfetchableUrl) as caught:
        asyncio.run(fetch_picture(URL, OPEN, network=Network(found, refused)))
    assert caught.value.reason == "leads to a host that cannot be reached"


# Time


async def silent(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def dripping(head: bytes, drop: bytes) -> Answer:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(0.01)

    return drip


@pytest.mark.parametrize(
    "slow",
    [
        silent,
        dripping(b"", b"H"),
        dripping(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        dripping(b"", answer(103)),
        dripping(answer(200), b"x"),
        dripping(answer(200, "Transfer-Encoding: chunked"), b"1\r\nx\r\n"),
        dripping(answer(200, "Transfer-Encoding: chunked") + b"0\r\n", b"x: y\r\n"),
    ],
)
def test_a_slow_answer_ends_at_the_deadline_and_its_connection_is_closed(world: World, slow: Answer) -> None:
    world.answers["pictures.example/a.png"] = slow
    started = time.monotonic()
    reason = world.refusal(URL, IMPATIENT)
    assert reason in ("gave no whole picture within 0.2 seconds", "gave an answer that broke off or is not valid HTTP")
    assert time.monotonic() - started < 3.0
    assert world.ended_connections == world.connections


def test_the_deadline_is_one_for_all_redirects(world: World) -> None:
    async def slow_redirect(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.12)
        writer.write(redirect("/a.png"))

    world.answers["pictures.example/a.png"] = slow_redirect
    assert world.refusal(URL, IMPATIENT) == "gave no whole picture within 0.2 seconds"


def test_a_name_that_is_looked_up_for_ever_ends_at_the_deadline() -> None:
    async def for_ever(_: str) -> Sequence[Address]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(UnfetchableUrl, match=r"0\.2 seconds"):
        asyncio.run(fetch_picture(URL, IMPATIENT, network=Network(look_up=for_ever)))


def test_a_host_that_never_accepts_ends_at_the_deadline() -> None:
    async def found(_: str) -> Sequence[Address]:
        return [ip_address(PUBLIC)]

    async def for_ever(_: Address, port: int) -> httpcore2.AsyncNetworkStream:
        await asyncio.Event().wait()
        raise AssertionError(port)

    with pytest.raises(UnfetchableUrl, match=r"0\.2 seconds"):
        asyncio.run(fetch_picture(URL, IMPATIENT, network=Network(found, for_ever)))


def test_a_fetch_that_is_cancelled_closes_its_connection(world: World) -> None:
    async def cancelled() -> None:
        begun = asyncio.Event()

        async def half(writer: asyncio.StreamWriter) -> None:
            writer.write(answer(200) + PICTURE[:9])
            begun.set()

        world.answers["pictures.example/a.png"] = half
        async with world.opened() as network:
            fetching = asyncio.create_task(fetch_picture(URL, OPEN, network=network))
            await begun.wait()
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching

    asyncio.run(cancelled())
    assert world.ended_connections == 1


def test_the_event_loop_runs_on_while_one_byte_pieces_arrive(world: World) -> None:
    async def turns_of_the_loop() -> int:
        async with world.opened() as network:
            fetching = asyncio.create_task(fetch_picture(URL, OPEN, network=network))
            turns = 0
            while not fetching.done():
                turns += 1
                await asyncio.sleep(0)
            assert len(await fetching) == 5_000
            return turns

    body = b"1\r\nx\r\n" * 5_000 + b"0\r\n\r\n"
    world.answers["pictures.example/a.png"] = answer(200, "Transfer-Encoding: chunked") + body
    assert asyncio.run(turns_of_the_loop()) >= 5_000


# TLS


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the tests' own, which made one certificate: for a name and an address."""

    folder: Path

    def server(self, seen: list[str | None]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        context.sni_callback = lambda _, name, __: seen.append(name)
        return context

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.folder / "authority.pem")


def openssl(folder: Path, arguments: str) -> None:
    program = shutil.which("openssl")
    assert program is not None
    subprocess.run([program, *arguments.split()], cwd=folder, check=True, capture_output=True, timeout=60)


def make_authority(folder: Path) -> Authority:
    key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    (folder / "names.txt").write_text(f"subjectAltName=DNS:pictures.example,IP:{PUBLIC},IP:{PUBLIC_IPV6}\n")
    openssl(folder, f"req -x509 {key} -subj /CN=Tests -days 2 -keyout authority.key -out authority.pem")
    openssl(folder, f"req {key} -subj /CN=server -keyout server.key -out server.csr")
    signing = "-CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names.txt"
    openssl(folder, f"x509 -req -in server.csr {signing} -out server.pem")
    return Authority(folder)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server_names() -> list[str | None]:
    return []


@pytest.fixture
def secure_world(authority: Authority, server_names: list[str | None]) -> World:
    return World(certificates=authority.server(server_names), trusted=authority.trusted())


def test_https_dials_the_address_and_names_and_verifies_the_host(
    secure_world: World, server_names: list[str | None]
) -> None:
    assert secure_world.fetch("https://pictures.example/a.png") == PICTURE
    assert secure_world.dialled == [(PUBLIC, 443)]
    assert server_names == ["pictures.example"]
    assert header(secure_world.requests[0], "host") == "pictures.example"


@pytest.mark.parametrize("host", [PUBLIC, f"[{PUBLIC_IPV6}]"])
def test_https_to_an_address_verifies_the_address(secure_world: World, host: str) -> None:
    secure_world.answers[f"{host}/"] = ok()
    assert secure_world.fetch(f"https://{host}") == PICTURE


@pytest.mark.parametrize("host", ["other.example", "8.8.8.8", "sub.pictures.example"])
def test_a_certificate_for_another_host_is_refused(secure_world: World, host: str) -> None:
    secure_world.names |= {"other.example": [PUBLIC], "sub.pictures.example": [PUBLIC]}
    secure_world.answers[f"{host}/"] = ok()
    assert secure_world.refusal(f"https://{host}/") == "leads to a host without a valid certificate, or with broken TLS"
    assert secure_world.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused(secure_world: World) -> None:
    secure_world.trusted = trusted_authorities()
    assert "without a valid certificate" in secure_world.refusal("https://pictures.example/a.png")
    assert secure_world.requests == []


def test_a_host_that_speaks_no_tls_is_refused(secure_world: World) -> None:
    secure_world.answers["pictures.example/a.png"] = ok()
    assert secure_world.refusal("https://pictures.example:80/a.png", IMPATIENT)
    assert secure_world.refusal("http://pictures.example:443/a.png", IMPATIENT)
    assert secure_world.requests == []


def test_a_tls_handshake_that_stalls_ends_at_the_deadline_and_its_connection_is_closed(world: World) -> None:
    assert world.refusal("https://pictures.example/a.png", IMPATIENT) == "gave no whole picture within 0.2 seconds"
    assert world.ended_connections == world.connections


def test_http_may_redirect_to_https(secure_world: World) -> None:
    secure_world.answers["pictures.example/b"] = redirect("https://pictures.example/a.png")
    assert secure_world.fetch("http://pictures.example/b") == PICTURE
    assert secure_world.dialled == [(PUBLIC, 80), (PUBLIC, 443)]


@pytest.mark.parametrize("location", ["http://pictures.example/a.png", "http://pictures.example:443/a.png"])
def test_https_may_not_redirect_to_http(secure_world: World, location: str) -> None:
    secure_world.answers["pictures.example/b"] = redirect(location)
    assert secure_world.refusal("https://pictures.example/b") == "redirects from https to http"
    assert secure_world.dialled == [(PUBLIC, 443)]


def test_https_stays_https_through_a_relative_redirect(secure_world: World) -> None:
    secure_world.answers["pictures.example/b"] = redirect("//pictures.example/a.png")
    assert secure_world.fetch("https://pictures.example/b") == PICTURE
    assert secure_world.dialled == [(PUBLIC, 443)] * 2


# The real network, as far as it can be tried without one


def test_the_machines_own_names_lead_to_loopback_and_are_refused() -> None:
    assert {found.is_loopback for found in asyncio.run(look_up("localhost"))} == {True}
    with pytest.raises(UnfetchableUrl) as caught:
        asyncio.run(fetch_picture("http://localhost/", OPEN))
    assert caught.value.reason == NOT_PUBLIC


def test_addresses_are_connected_to_without_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_look_up(*_: object, **__: object) -> None:
        raise AssertionError("a name was looked up")

    async def connected() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        monkeypatch.setattr("socket.getaddrinfo", no_look_up)
        stream = await connect(ip_address("127.0.0.1"), server.sockets[0].getsockname()[1])
        await stream.aclose()
        server.close()

    asyncio.run(connected())


def test_a_slow_look_up_leaves_the_threads_of_requests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def stuck(*_: object, **__: object) -> list[object]:
        let_go.wait(10)
        return []

    async def other_work() -> str:
        policy = FetchPolicy("open", timeout_seconds=0.5)
        fetching = [asyncio.create_task(fetch_picture(URL, policy)) for _ in range(100)]
        await asyncio.sleep(0.05)
        done = await asyncio.wait_for(asyncio.to_thread(lambda: "done"), 5)
        assert {type(found) for found in await asyncio.gather(*fetching, return_exceptions=True)} == {UnfetchableUrl}
        return done

    monkeypatch.setattr("socket.getaddrinfo", stuck)
    try:
        assert asyncio.run(other_work()) == "done"
    finally:
        let_go.set()


def test_what_answers_is_never_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    world.answers["pictures.example/b"] = redirect("/a.png?signature=secret")
    world.refusal("http://pictures.example/b")
    assert "secret" not in caplog.text
    assert "pictures.example" not in caplog.text


# Whatever comes


ADDRESSES = st.one_of(st.just(PUBLIC), st.just(PUBLIC_IPV6), st.ip_addresses().map(str))
HOSTS = st.one_of(
    st.sampled_from(["pictures.example", "127.0.0.1", "127.1", "localhost", *HOSTILE_HOSTS]),
    st.text(max_size=12),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
)
URLS = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="htps:/.@[]#?%\\0123456789ax \t\u3002\uff0f\u212a\u017f", max_size=30).map(
        lambda rest: "http://" + rest
    ),
    st.tuples(
        st.sampled_from(["http://", "https://", "HTTP://", "http:/", "//", "file://", ""]),
        st.sampled_from(["", "", "", "me@", "a:b@", "@"]),
        HOSTS,
        st.sampled_from(["", "", "", ":80", ":443", ":22", ":", ":080"]),
        st.one_of(st.just("/a.png"), st.text(max_size=10)),
    ).map("".join),
)


@settings(max_examples=150, deadline=None, database=None)
@given(URLS, st.lists(ADDRESSES, max_size=3), st.sampled_from([OPEN, listed("*.example"), FetchPolicy("off")]))
def test_any_url_gives_bytes_or_a_refusal_and_nothing_is_dialled_that_is_not_public(
    url: str, addresses: list[str], policy: FetchPolicy
) -> None:
    world = World()
    world._look_up = lambda host: any_name(world, host, addresses)  # type: ignore[method-assign]
    try:
        content = world.fetch(url, policy)
    except UnfetchableUrl as error:
        assert error.reason.isascii()  # noqa: PT017
    else:
        assert content == PICTURE
    assert all(is_public(ip_address(address)) and port in PORTS.values() for address, port in world.dialled)
    assert len(world.dialled) <= 1
    if world.looked_up and not all(is_public(ip_address(address)) for address in addresses):
        world.assert_untouched()


async def any_name(world: World, host: str, addresses: list[str]) -> list[IPv4Address | IPv6Address]:
    world.looked_up.append(host)
    return [ip_address(address) for address in addresses]


@settings(max_examples=150, deadline=None, database=None)
@given(st.text(max_size=20), URLS)
def test_a_url_that_was_parsed_is_read_in_the_same_way_again(text: str, url: str) -> None:
    for candidate in (url, f"http://{text}", f"http://pictures.example/{text}"):
        try:
            parsed = parse_url(candidate)
        except UnfetchableUrl:
            continue
        assert parse_url(str(parsed)) == parsed
        assert str(parsed).isascii()
        assert parsed.host.isprintable()


PIECES = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.0 200 OK\r\n",
            b"HTTP/1.1 302 Found\r\n",
            b"HTTP/1.1 100 X\r\n\r\n",
            b"\r\n",
        ),
        *(
            b"Content-Length: 5\r\n",
            b"Content-Length: 999999\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"5\r\nabcde\r\n",
        ),
        *(b"Location: /a.png\r\n", b"Location: \xff\r\n", b"Location: http://127.0.0.1/\r\n", b"0\r\n\r\n", b"abcde"),
        *(b"Content-Encoding: gzip\r\n", b"Content-Length: \xb2\r\n", b" folded\r\n", b"\x00", b"ffffffffffffffff\r\n"),
    ]
)


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.one_of(PIECES, st.binary(max_size=20)), max_size=8).map(b"".join))
def test_any_answer_gives_bounded_bytes_or_a_refusal(raw: bytes) -> None:
    world = World(answers={"pictures.example/a.png": raw})
    try:
        content = world.fetch(URL, FetchPolicy("open", max_bytes=8, timeout_seconds=SECONDS))
    except UnfetchableUrl as error:
        assert error.reason.isascii()  # noqa: PT017
    else:
        assert len(content) <= 8
    assert {address for address, _ in world.dialled} == {PUBLIC}
