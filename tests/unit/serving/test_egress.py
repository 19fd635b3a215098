"""What a request makes the server connect to: public addresses alone, and the very one that was checked."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from support.picture_hosts import HOST, PUBLIC, PUBLIC_V6, UNCERTIFIED, Internet, PictureHost

from onevision.serving.egress import SystemResolver, is_public


@pytest.mark.parametrize(
    "addresses",
    [
        "127.0.0.1 127.8.8.8 0.0.0.0 ::1 ::",
        "10.1.2.3 172.16.0.1 192.168.1.1 100.64.0.1 fc00::1",
        "169.254.1.1 fe80::1 fe80::1%eth0",
        "169.254.169.254 100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254",
        "224.0.0.1 ff02::1 240.0.0.1 255.255.255.255 4000::1",
        "192.0.2.1 198.18.0.1 2001:db8::1 3fff::1",
        "::ffff:169.254.169.254 ::ffff:93.184.215.14 64:ff9b::a9fe:a9fe 2002:7f00:1:: 2001:0:7f00:1::",
    ],
    ids=["loopback", "private", "link-local", "metadata", "multicast and reserved", "documentation", "IPv4 in IPv6"],
)
def test_nothing_is_connected_to_if_one_address_is_not_public(host: PictureHost, addresses: str) -> None:
    for address in addresses.split():
        assert not is_public(address), address
        internet = Internet(host, [PUBLIC, address, PUBLIC_V6])
        internet.refuse(424, "not public")
        assert internet.connected == []


def test_what_the_dns_says_later_has_no_effect(host: PictureHost) -> None:
    assert is_public(PUBLIC)
    assert is_public(PUBLIC_V6)
    internet = Internet(host, [PUBLIC], ["127.0.0.1"])
    assert internet.fetch() == b"the photo"
    assert (internet.resolved, internet.connected) == ([HOST], [(PUBLIC, 443)])
    internet.refuse(424, "not public")
    assert internet.connected == [(PUBLIC, 443)]


def test_another_address_is_tried_where_one_is_dead(host: PictureHost) -> None:
    internet = Internet(host, [PUBLIC_V6, PUBLIC], dead=(PUBLIC_V6,))
    assert internet.fetch() == b"the photo"
    assert internet.connected == [(PUBLIC_V6, 443), (PUBLIC, 443)]
    Internet(host, [PUBLIC], dead=(PUBLIC,)).refuse(424, "cannot be reached")
    Internet(host, []).refuse(424, "cannot be reached")


def test_the_system_is_asked_for_the_absolute_name(host: PictureHost, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def getaddrinfo(name: str, port: int, **options: Any) -> list[Any]:
        asked.append(name)
        if name != f"{HOST}.":
            raise socket.gaierror("no such name")
        return [(0, 0, 0, "", (PUBLIC_V6, port, 0, 0)), (0, 0, 0, "", (PUBLIC, port)), (0, 0, 0, "", (PUBLIC, port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert asyncio.run(SystemResolver(1)(HOST)) == [PUBLIC_V6, PUBLIC]
    internet = Internet(host)
    internet.resolve = SystemResolver(1)  # type: ignore[assignment, method-assign]
    internet.refuse(424, "cannot be reached", f"https://{UNCERTIFIED}/")
    assert asked == [f"{HOST}.", f"{UNCERTIFIED}."]
