"""A photo that a search names by its URL: one HTTPS request to a host that the operator has listed, within limits.

What a shopper may choose is the path on such a host. Scheme, port and host are checked as the URL is read, addresses
as the connection is opened (`egress`). There are no redirects, proxies, cookies or content encodings, and one
connection serves one request, so that none is used under another name than that its certificate was checked for.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
from typing import Annotated

import httpcore2
from pydantic import AfterValidator, AnyUrl, UrlConstraints

from onevision import __version__
from onevision.serving.capped import read_capped
from onevision.serving.config import ServingConfig
from onevision.serving.egress import NotPublicError, PublicBackend, Resolve, SystemResolver
from onevision.serving.engine import OverloadedError
from onevision.serving.errors import RequestError
from onevision.serving.telemetry import Telemetry

log = logging.getLogger(__name__)
MAX_URL = 2048
HEADERS = [("Accept", "image/*"), ("Accept-Encoding", "identity"), ("User-Agent", f"onevision/{__version__}")]


def _https_alone(url: AnyUrl) -> AnyUrl:
    if url.port != 443:
        raise ValueError("only port 443")
    if url.username or url.password:
        raise ValueError("a URL with a user name or password is not fetched")
    return url


PhotoUrl = Annotated[
    AnyUrl, UrlConstraints(max_length=MAX_URL, allowed_schemes=["https"]), AfterValidator(_https_alone)
]
"""Its host is in ASCII and lower case, as in `ServingConfig.photo_hosts`."""


class PhotoFetcher:
    """Fetches photos from the hosts of `config.photo_hosts`.

    Args:
        resolve: finds the addresses of a host; by default the system does.
        backend: connects to an address.
        context: decides which certificates are trusted; by default the system's authorities.
    """

    def __init__(
        self,
        config: ServingConfig,
        telemetry: Telemetry,
        *,
        resolve: Resolve | None = None,
        backend: httpcore2.AsyncNetworkBackend | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._config = config
        self._telemetry = telemetry
        self._backend = PublicBackend(
            resolve or SystemResolver(config.photo_fetches), backend or httpcore2.AnyIOBackend()
        )
        self._context = context or httpcore2.default_ssl_context()
        self._fetching = 0

    async def fetch(self, url: AnyUrl) -> bytes:
        """What is at the URL, whether it is a picture or not.

        Raises:
            RequestError: a host that is not listed (403), a photo over the cap (413), or a host that does not give it
                as it should (424).
            OverloadedError: too many photos are being fetched.
        """
        if url.host not in self._config.photo_hosts:
            raise RequestError(403, "host_not_allowed", "image_url: photos are not fetched from this host")
        if self._fetching >= self._config.photo_fetches:
            self._telemetry.shed.inc()
            raise OverloadedError(self._fetching, math.ceil(self._config.photo_timeout_s))
        self._fetching += 1
        try:
            with self._telemetry.stage.labels("fetch").time(), self._telemetry.tracing.span("fetch"):
                async with asyncio.timeout(self._config.photo_timeout_s):
                    return await self._get(url)
        except TimeoutError:
            raise _failed(f"did not send the photo within {self._config.photo_timeout_s:g} s") from None
        except NotPublicError:
            raise _failed("has an address that is not public") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as error:
            log.warning("no photo from %s: %s: %s", url.host, type(error).__name__, error)
            raise _failed("cannot be reached by HTTPS, or broke off") from None
        finally:
            self._fetching -= 1

    async def _get(self, url: AnyUrl) -> bytes:
        host = str(url.host)
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        asked = httpcore2.URL(scheme="https", host=host, target=target)
        pool = httpcore2.AsyncConnectionPool(ssl_context=self._context, network_backend=self._backend)
        limits = {"timeout": {"connect": self._config.photo_timeout_s}}
        async with pool, pool.stream("GET", asked, headers=HEADERS, extensions=limits) as response:
            if response.status != 200:
                raise _failed(f"answered {response.status}; redirects are not followed")
            headers = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
            if headers.get("content-encoding", "identity") != "identity":
                raise _failed("sent the photo in a content encoding, which was not asked for")
            cap = self._config.max_body_mb
            too_large = f"the photo at image_url is over {cap:g} MB"
            return await read_capped(response.aiter_stream(), headers.get("content-length", ""), cap, too_large)


def _failed(what: str) -> RequestError:
    return RequestError(424, "fetch_failed", f"image_url: the host {what}")
