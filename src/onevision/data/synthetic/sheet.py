"""A contact sheet, so that a person sees what the shop sells: a row a category."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from onevision.data.synthetic.catalogue import Catalogue
from onevision.data.synthetic.shapes import CATEGORIES
from onevision.data.synthetic.views import MAIN, SKU_ANGLE, SKU_DETAIL, USER_PHOTO, VIDEO_FRAME, render_images
from onevision.report import Figure

LOOK_ALIKES = 3
VIEWS_OF_FIRST = (SKU_ANGLE, SKU_DETAIL, USER_PHOTO, USER_PHOTO, VIDEO_FRAME)


def contact_sheet(catalogue: Catalogue, size: int, seed: int) -> Figure:
    """Three look-alikes of a family of each category, then five more views of the first of them, as a PNG."""
    items, kinds = [], []
    for category in range(len(CATEGORIES)):
        family = catalogue.family[np.flatnonzero(catalogue.category == category)[0]]
        members = np.flatnonzero(catalogue.family == family)
        items += [members[i % len(members)] for i in range(LOOK_ALIKES)] + [members[0]] * len(VIEWS_OF_FIRST)
        kinds += [MAIN] * LOOK_ALIKES + list(VIEWS_OF_FIRST)
    jpegs = render_images(catalogue, np.array(items), np.array(kinds), size, seed, progress=False)
    pictures = np.stack([np.asarray(Image.open(io.BytesIO(jpeg))) for jpeg in jpegs])
    columns = LOOK_ALIKES + len(VIEWS_OF_FIRST)
    grid = pictures.reshape(len(CATEGORIES), columns, size, size, 3).transpose(0, 2, 1, 3, 4)
    sheet = Image.fromarray(np.ascontiguousarray(grid.reshape(len(CATEGORIES) * size, columns * size, 3)))
    stream = io.BytesIO()
    sheet.quantize(256).save(stream, "PNG", optimize=True)
    return Figure(
        "The shop",
        "png",
        base64.b64encode(stream.getvalue()).decode(),
        "A row a category: three look-alikes of one family, then another angle, a detail, two shoppers' photos "
        "and a video frame of the first.",
    )
