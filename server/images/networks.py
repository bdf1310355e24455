"""Judges internet addresses: which are public, which are private in the plain sense of an intranet, and which are near
enough for a server that keeps to itself.

Knows the registries of special-purpose networks, in a table of its own: `ipaddress.is_global` calls addresses public
that carry a private IPv4 address inside. Pure; knows no sockets, and looks no name up.
Invariant: an address is public only if no table here says otherwise, and then no intranet's.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address


def _networks(*blocks: str) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(block) for block in blocks)


# IANA's IPv4 special-purpose registry, whole: those that it calls reachable serve no pictures either. And multicast.
SPECIAL_IPV4 = _networks(
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private
    "100.64.0.0/10",  # shared by a provider's customers
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link-local; most clouds' metadata
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # protocol assignments
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # multicast tunnels
    "192.88.99.0/24",  # relays of 6to4
    "192.168.0.0/16",  # private
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarks
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast at its end
)
# Nothing outside of this block is public: neither ::/8 with its loopback, its NAT64 and IPv4-compatible addresses,
# nor 100::/64, 5f00::/16, unique local, link-local, site-local or multicast addresses.
GLOBAL_UNICAST = IPv6Network("2000::/3")
# What IANA's IPv6 special-purpose registry holds within it.
SPECIAL_IPV6 = _networks(
    "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
    "2001:db8::/32",  # documentation
    "2002::/16",  # 6to4: each carries an IPv4 address
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
)
# Addresses that look public or private, and at which clouds tell their machines' secrets.
METADATA = _networks(
    "168.63.129.16/32",  # Azure
    "fd00:ec2::254/128",  # Amazon
    "fd20:ce::254/128",  # Google
)
PRIVATE = _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")


def is_public(address: Address) -> bool:
    """Whether the open internet, and nothing nearer, is behind the address."""
    if isinstance(address, IPv4Address):
        return not _is_in(address, SPECIAL_IPV4) and not _is_in(address, METADATA)
    if address.scope_id is not None:
        return False
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    return address in GLOBAL_UNICAST and not _is_in(address, SPECIAL_IPV6)


def is_private(address: Address) -> bool:
    """Whether a host of an intranet may have the address: no loopback, no link-local, no cloud's metadata."""
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return False
    return _is_in(address, PRIVATE) and not _is_in(address, METADATA)


def is_near(url: str) -> bool:
    """Whether the URL's host, as written, is this machine or in an intranet. A name is neither, but `localhost`: who
    answers for it is known only once somebody else was asked."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or is_private(address)


def _is_in(address: Address, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return any(address in network for network in networks)
