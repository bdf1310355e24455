"""Guards the address that a server gives for itself."""

from __future__ import annotations

import pytest

from server.listener import address_of, bind


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:"),
        ("::1", "http://[::1]:"),
        ("0.0.0.0", "http://127.0.0.1:"),  # noqa: S104 (nothing listens yet)
        ("::", "http://[::1]:"),
    ],
)
def test_a_client_on_this_machine_can_write_the_address(host: str, url: str) -> None:
    with bind(host, 0) as listener:
        assert address_of(listener) == f"{url}{listener.getsockname()[1]}"
