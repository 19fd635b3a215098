"""Bytes that somebody else sends, up to a cap that is held while they come."""

from __future__ import annotations

from collections.abc import AsyncIterable

from onevision.serving.errors import RequestError


async def read_capped(parts: AsyncIterable[bytes], length: str, cap_mb: float, too_large: str) -> bytes:
    """All parts of a stream.

    Args:
        length: the `Content-Length` that was declared, empty for none; one over the cap is believed at once.
        cap_mb: in megabytes (10^6 bytes).
        too_large: what to say if they are more.

    Raises:
        RequestError: 413.
    """
    cap = int(cap_mb * 1e6)
    if length.isdecimal() and int(length) > cap:
        raise RequestError(413, "too_large", too_large)
    read = bytearray()  # and no list, which many small parts would make much larger than their bytes
    async for part in parts:
        read += part
        if len(read) > cap:
            raise RequestError(413, "too_large", too_large)
    return bytes(read)
