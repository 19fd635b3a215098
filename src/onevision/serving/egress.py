"""Connections that a request makes the server open: only to public addresses, and to the very address that was checked.

A name is resolved once, every address that it has must be public, and TCP goes to one of these addresses. TLS and HTTP
above know the name alone, so that its certificate is checked, and a second, other answer of the DNS has no effect.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network

import httpcore2

log = logging.getLogger(__name__)
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""The addresses of a host name; `OSError` if it has none."""

UNICAST = ip_network("2000::/3")
"""The part of IPv6 that is handed out; what maps or translates IPv4 is outside of it, or below."""
NOT_PUBLIC = [
    ip_network(text)
    for text in ("192.0.0.0/24", "168.63.129.16/32", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
]
"""Protocol assignments and metadata services (Oracle, Azure), tunnels to IPv4 and documentation, which `is_global` of
some Python versions lets pass."""


class NotPublicError(Exception):
    """A name has an address that the server must not be made to connect to."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet: no loopback, private, link-local, shared, multicast,
    reserved or documentation address, no metadata service, and no IPv4 address inside an IPv6 one.
    """
    ip = ip_address(address)
    if ip.version == 6 and ip not in UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in net for net in NOT_PUBLIC)


class SystemResolver:
    """Asks the system, in threads of its own: the system's resolver cannot be given up, and may hang."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    async def __call__(self, host: str) -> list[str]:
        """The addresses of a name, in the order in which to try them."""
        absolute = f"{host}."  # so that no search domain, such as the cluster's, is appended to it
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(absolute, 443, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class PublicBackend(httpcore2.AsyncNetworkBackend):
    """Opens the connections of HTTP requests.

    Args:
        resolve: finds the addresses of a name.
        backend: connects to an address.
    """

    def __init__(self, resolve: Resolve, backend: httpcore2.AsyncNetworkBackend) -> None:
        self._resolve = resolve
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to the first address of `host` that takes one; each has its share of `timeout` seconds.

        Raises:
            NotPublicError: one of the addresses is not public; none is connected to.
            OSError, httpcore2.NetworkError, httpcore2.TimeoutException: no address, or none that answers.
        """
        addresses = await self._resolve(host)
        if not addresses:
            raise OSError(f"{host} has no address")
        if private := [address for address in addresses if not is_public(address)]:
            log.warning("%s has the address %s, which is not public; nothing is fetched from it", host, private[0])
            raise NotPublicError(host)
        share = None if timeout is None else timeout / len(addresses)
        for address in addresses[:-1]:
            try:
                return await self._backend.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore2.NetworkError, httpcore2.TimeoutException):
                continue
        return await self._backend.connect_tcp(addresses[-1], port, share, local_address, socket_options)
