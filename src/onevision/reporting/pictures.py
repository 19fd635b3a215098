"""Pictures in reports: small JPEG thumbnails as data URIs, and contact sheets, with Pillow alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 96
_GAP, _LABEL = 6, 18
_INK = (112, 122, 136, 255)
"""A grey that reads on a light and on a dark page; the ground is transparent."""


def thumbnail_uri(pixels: np.ndarray, size: int = TILE, quality: int = 80) -> str:
    """Data URI of a JPEG of an (H, W, 3) uint8 picture, at most `size` pixels a side."""
    image = Image.fromarray(pixels)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    *,
    tile: int = TILE,
) -> str:
    """Rows of (H, W, 3) uint8 pictures with a label over each row, as one base64-encoded PNG."""
    if len(rows) != len(labels):
        raise ValueError(f"{len(rows)} rows of pictures but {len(labels)} labels")
    font = ImageFont.load_default(size=13)
    columns = max((len(row) for row in rows), default=1)
    pitch = tile + _GAP
    widest = max((int(font.getlength(label)) for label in labels), default=0)
    width = max(columns * pitch, widest) + 2 * _GAP
    sheet = Image.new("RGBA", (width, max(len(rows), 1) * (pitch + _LABEL) + _GAP))
    draw = ImageDraw.Draw(sheet)
    for r, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = _GAP + r * (pitch + _LABEL)
        draw.text((_GAP, top), label, fill=_INK, font=font)
        for c, pixels in enumerate(row):
            picture = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.LANCZOS)
            sheet.paste(picture, (_GAP + c * pitch, top + _LABEL))
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
