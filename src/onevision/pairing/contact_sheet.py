"""A contact sheet of sample pairs, one row a kind, for the report."""

from __future__ import annotations

import base64
import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from onevision.data.images import ImageStore, decode_image
from onevision.pairing.mining import KINDS
from onevision.report import Figure

_TILE = 72
_GAP = 8
_LABEL = 96
_PAIRS = 6


def contact_sheet(store: ImageStore, pairs: pa.Table, seed: int) -> Figure:
    """Draw up to six pairs of each kind, chosen by `seed`, as a PNG (base64)."""
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in KINDS if pc.any(pc.equal(pairs["kind"], kind)).as_py()]
    pair_width, row_height = 2 * _TILE + 2 * _GAP, _TILE + _GAP
    sheet = Image.new("RGB", (_LABEL + _PAIRS * pair_width, max(1, len(kinds)) * row_height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, kind in enumerate(kinds):
        top = row * row_height + _GAP // 2
        draw.text((_GAP, top + _TILE // 2 - 6), kind, fill="black")
        rows = pairs.filter(pc.equal(pairs["kind"], kind))
        chosen = np.sort(rng.choice(rows.num_rows, size=min(_PAIRS, rows.num_rows), replace=False))
        for column, pair in enumerate(rows.take(chosen).to_pylist()):
            left = _LABEL + column * pair_width
            for place, image_id in enumerate((pair["image_a"], pair["image_b"])):
                tile = Image.fromarray(decode_image(store.read(image_id), _TILE))
                sheet.paste(tile, (left + place * _TILE, top))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    caption = "Up to six pairs of each kind, left and right picture side by side, after cleaning."
    return Figure("Sample pairs", "png", base64.b64encode(stream.getvalue()).decode(), caption)
