"""Training curves as a TensorBoard event file: `tensorboard --logdir FOLDER` shows them.

Written here and not by `SummaryWriter`, which puts host, process and clock into name and content: the same training
leaves the same bytes. Records and messages are those of TensorFlow (`TFRecord`, `event.proto`, `summary.proto`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import google_crc32c

DOUBLE, VARINT, LENGTH, FLOAT = 1, 0, 2, 5
"""Wire types of protocol buffers."""


def write_events(path: Path, curves: Mapping[str, Iterable[tuple[int, float]]]) -> None:
    """Write curves, name -> (step, value); `path` must have `tfevents` in its name, or TensorBoard passes it by."""
    points = sorted((step, name, value) for name, curve in curves.items() for step, value in curve)
    first = _field(1, DOUBLE, struct.pack("<d", 0)) + _text(3, b"brain.Event:2")
    path.write_bytes(_record(first) + b"".join(_record(_scalar(*point)) for point in points))


def _scalar(step: int, name: str, value: float) -> bytes:
    """An event with one number; its time is its step, in seconds."""
    number = _text(1, name.encode()) + _field(2, FLOAT, struct.pack("<f", value))
    return _field(1, DOUBLE, struct.pack("<d", step)) + _field(2, VARINT, _varint(step)) + _text(5, _text(1, number))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _text(number: int, content: bytes) -> bytes:
    return _field(number, LENGTH, _varint(len(content)) + content)


def _field(number: int, wire: int, content: bytes) -> bytes:
    return _varint(number << 3 | wire) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
