"""A picture host for tests: a TLS server at 127.0.0.1, and an internet in which public addresses lead to it."""

from __future__ import annotations

import asyncio
import datetime as dt
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpcore2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import AnyUrl

from onevision.serving.config import ServingConfig
from onevision.serving.errors import RequestError
from onevision.serving.photo_url import PhotoFetcher
from onevision.serving.telemetry import Telemetry

HOST, IDNA, UNCERTIFIED = "img.shop.example", "xn--bcher-kva.example", "other.shop.example"
PUBLIC, PUBLIC_V6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
URL = f"https://{HOST}/photo.jpg"
Answer = Callable[[ssl.SSLSocket], None]


def answering(body: bytes, head: str = "", status: str = "200 OK") -> Answer:
    length = "" if "ength" in head or "ransfer" in head else f"Content-Length: {len(body)}\r\n"
    return lambda to: to.sendall(f"HTTP/1.1 {status}\r\n{length}{head}\r\n".encode() + body)


class PictureHost(socketserver.ThreadingTCPServer):
    """A TLS server at 127.0.0.1 that answers each request with `answer`, and keeps what was asked."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), self._serve)  # type: ignore[arg-type]
        self.certificate = folder / "host.pem"
        self.certificate.write_bytes(certificate(HOST, IDNA))
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.certificate)
        self._tls.sni_callback = lambda _, name, __: self.names.append(name)
        self.forget()

    def forget(self) -> None:
        self.answer: Answer = answering(b"the photo")
        self.asked: list[bytes] = []
        self.names: list[str] = []
        self.broken = threading.Event()
        """The client left before it had everything."""

    def _serve(self, connection: socket.socket, *_: Any) -> None:
        with suppress(OSError), self._tls.wrap_socket(connection, server_side=True) as secure:
            self.asked.append(secure.recv(65_536))
            try:
                self.answer(secure)
            except OSError:
                self.broken.set()


def certificate(*names: str) -> bytes:
    """A key and a certificate that it has signed itself, for a day."""
    key, today = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - dt.timedelta(days=1))
        .not_valid_after(today + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + made.public_bytes(serialization.Encoding.PEM)


class Internet(httpcore2.AsyncNetworkBackend):
    """Where every public address but those of `dead` is the picture host, and the DNS answers as it is told."""

    def __init__(self, host: PictureHost, *answers: list[str], dead: tuple[str, ...] = ()) -> None:
        self.host, self.answers, self.dead = host, list(answers) or [[PUBLIC]], dead
        self.resolved: list[str] = []
        self.connected: list[tuple[str, int]] = []

    async def resolve(self, name: str) -> list[str]:
        self.resolved.append(name)
        return self.answers[min(len(self.resolved), len(self.answers)) - 1]

    async def connect_tcp(self, host: str, port: int, *arguments: Any, **options: Any) -> Any:
        self.connected.append((host, port))
        if host in self.dead:
            raise httpcore2.ConnectError("refused")
        return await httpcore2.AnyIOBackend().connect_tcp("127.0.0.1", self.host.server_address[1])

    def fetcher(self, **settings: Any) -> PhotoFetcher:
        config = ServingConfig(**({"photo_hosts": (HOST, "bücher.example", UNCERTIFIED)} | settings))
        trusted = ssl.create_default_context(cafile=str(self.host.certificate))
        return PhotoFetcher(config, Telemetry(), resolve=self.resolve, backend=self, context=trusted)

    def fetch(self, url: str = URL, **settings: Any) -> bytes:
        return asyncio.run(self.fetcher(**settings).fetch(AnyUrl(url)))

    def refuse(self, status: int, word: str, url: str = URL, **settings: Any) -> None:
        with pytest.raises(RequestError, match=word) as refused:
            self.fetch(url, **settings)
        assert refused.value.status == status
