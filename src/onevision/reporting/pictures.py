"""Pictures in reports: small JPEG thumbnails as data URIs, and contact sheets, with Pillow alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.images import ImageError, decode_image
from onevision.data.snapshot import Snapshot
from onevision.errors import ContractError

TILE = 96
_GAP, _LABEL = 6, 18
_INK = (112, 122, 136, 255)
"""A grey that reads on a light and on a dark page; the ground is transparent."""


class Thumbnails:
    """Small pictures of a snapshot's images and items; None where a picture is missing or damaged."""

    def __init__(self, shop: Snapshot, size: int = TILE) -> None:
        self._shop = shop
        self._size = size

    def image(self, image_id: str) -> str | None:
        """Data URI of a picture."""
        pixels = self.pixels(image_id)
        return None if pixels is None else thumbnail_uri(pixels, self._size)

    def item(self, item_id: str) -> str | None:
        """Data URI of an item's main picture."""
        pixels = self.item_pixels(item_id)
        return None if pixels is None else thumbnail_uri(pixels, self._size)

    def item_pixels(self, item_id: str) -> np.ndarray | None:
        """An item's main picture, as `pixels` gives it."""
        image_id = self._picture_of.get(item_id)
        return None if image_id is None else self.pixels(image_id)

    def pixels(self, image_id: str) -> np.ndarray | None:
        """Square uint8 picture (size, size, 3)."""
        try:
            return decode_image(self._shop.images.read(image_id), self._size)
        except (ImageError, ContractError):
            return None

    @cached_property
    def _picture_of(self) -> dict[str, str]:
        """Item -> its first picture, of the first kind of view (`main` before `sku`)."""
        table = self._shop.table("images").select(["item_id", "view", "image_id"]).to_pylist()
        rows = [r for r in table if r["item_id"] is not None and r["view"] in CATALOGUE_VIEWS]
        rows.sort(key=lambda r: (CATALOGUE_VIEWS.index(r["view"]), r["image_id"]), reverse=True)
        return {r["item_id"]: r["image_id"] for r in rows}


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
