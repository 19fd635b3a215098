"""Where in a photo the product is: what stands out from the photo's border is proposed, and the catalogue decides.

A part stands out by its colour, and by what must be crossed on the way to it from the border (geodesic saliency: Wei
et al. 2012, "Geodesic Saliency Using Background Priors", ECCV). It becomes the crop if it looks more like something in
the catalogue than the whole photo does. Photos that a product fills are left whole, and so is what no rule is sure of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from onevision.data.images import MAX_PIXELS, decode_image
from onevision.serving.search import Searcher

DETAIL = 4
"""A photo is looked at in so many times the resolution of the encoder, so that a part of it is still sharp."""
SIDE = 48
"""Saliency is computed of a picture with as many pixels as a square of this side."""
YCBCR_WEIGHTS = np.array([0.6, 1.5, 1.5], np.float32)
"""Colour says more of a product than brightness, which a shadow changes too."""
NOISE = 4.0
"""A step between neighbours that costs nothing on the way from the border, in weighted 8-bit levels."""
BACKGROUND = 0.05
"""Quantile of a pixel's distances from the border's colours that counts, so that a product may touch the border."""
MARGIN = 1.12
"""Side of a crop in units of the longer side of what stands out: about as catalogue pictures frame their product."""
LEAST_SHARE = 0.4
"""Share of all that stands out which a part must hold to be proposed."""
LEAD = 0.1
"""A part's cosine with its nearest item must exceed the whole photo's by so much for each of the photo's shorter sides
that it is long: of a product far away the whole shows little, and a part as large as the photo gains little."""


class Box(NamedTuple):
    """A part of a picture, in fractions of its width and height."""

    left: float
    top: float
    right: float
    bottom: float


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


def detect_crop(image: bytes, searcher: Searcher, max_pixels: int = MAX_PIXELS) -> Box:
    """The square of a photo that shows its product; `WHOLE` if no part does so better than the photo.

    Raises:
        ImageError: the bytes are no usable picture.
    """
    size = searcher.image_size
    photo = decode_image(image, DETAIL * size, whole=True, max_pixels=max_pixels)
    parts = propose(photo)
    if not parts:
        return WHOLE
    looks = np.stack([_square(photo, part, size) for part in (WHOLE, *parts)])
    whole, *cosine = searcher.nearest_cosine(looks)
    height, width = photo.shape[:2]
    sides = np.array([part.right - part.left for part in parts]) * width / min(height, width)
    lead = np.array(cosine) - whole - LEAD * sides
    return parts[int(lead.argmax())] if lead.max() > 0 else WHOLE


def propose(pixels: NDArray[np.uint8]) -> list[Box]:
    """Squares around the parts that stand out of a picture (H, W, 3), the most salient first; none in a plain one."""
    saliency = _saliency(pixels)
    if not saliency.any():
        return []
    labels, count = ndimage.label(saliency > _otsu(saliency))
    mass = ndimage.sum_labels(saliency, labels, np.arange(1, count + 1))
    places = ndimage.find_objects(labels)
    large = [n for n in np.argsort(-mass, kind="stable") if mass[n] >= LEAST_SHARE * mass.sum()]
    scale = pixels.shape[0] / saliency.shape[0], pixels.shape[1] / saliency.shape[1]
    return [_around(places[n], scale, pixels.shape) for n in large]


def _saliency(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w): geometric mean of both distances of a pixel from the border, of colour and of way.

    In `SIDE` squared pixels, fewer of a very oblong picture.
    """
    height, width = pixels.shape[:2]
    scale = min(SIDE / (height * width) ** 0.5, 4 * SIDE / max(height, width))
    shape = max(2, round(width * scale)), max(2, round(height * scale))
    small = Image.fromarray(pixels).resize(shape, Image.Resampling.BOX).convert("YCbCr")
    colour = ndimage.gaussian_filter(np.asarray(small, np.float32) * YCBCR_WEIGHTS, (0.7, 0.7, 0))
    saliency: NDArray[np.float32] = np.sqrt(_border_distance(colour) * _geodesic_distance(colour))
    return saliency


def _border_distance(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance of each pixel's colour (h, w, 3) from the colours of the border."""
    border = np.concatenate([colour[0], colour[-1], colour[1:-1, 0], colour[1:-1, -1]])[::3]
    squared = ((colour[:, :, None] - border) ** 2).sum(-1)
    rank = int(BACKGROUND * len(border))
    distance: NDArray[np.float32] = np.sqrt(np.partition(squared, rank, axis=-1)[..., rank])
    return distance


def _geodesic_distance(colour: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smallest sum of colour steps on a way from the border to each pixel; two rounds of sweeps along the axes."""
    down, right = (
        np.maximum(np.linalg.norm(np.diff(colour, axis=axis), axis=-1) - NOISE, 0).astype(np.float32) for axis in (0, 1)
    )
    distance = np.full(colour.shape[:2], np.inf, np.float32)
    distance[[0, -1]] = 0
    distance[:, [0, -1]] = 0
    for _ in range(2):
        for lines, steps in (
            (distance, down),
            (distance[::-1], down[::-1]),
            (distance.T, right.T),
            (distance.T[::-1], right.T[::-1]),
        ):
            for line in range(1, len(lines)):
                np.minimum(lines[line], lines[line - 1] + steps[line - 1], out=lines[line])
    return distance


def _otsu(values: NDArray[np.float32]) -> float:
    """The threshold that parts values into two classes of the smallest variance within them (Otsu 1979)."""
    counts, edges = np.histogram(values, 48)
    below = counts.cumsum()[:-1]
    sums = (counts * (edges[:-1] + edges[1:]) / 2).cumsum()
    apart = (sums[-1] * below / counts.sum() - sums[:-1]) ** 2 / np.maximum(below * (counts.sum() - below), 1)
    return float(edges[apart.argmax() + 1])


def _around(place: tuple[slice, slice], scale: tuple[float, float], shape: tuple[int, ...]) -> Box:
    """The square with a margin around rows and columns of saliency, moved into the picture where it juts out.

    Args:
        scale: pixels of the picture, of this shape, to one of saliency, down and across.
    """
    height, width = shape[:2]
    top, left = (part.start * step for part, step in zip(place, scale, strict=True))
    bottom, right = (part.stop * step for part, step in zip(place, scale, strict=True))
    side = min(MARGIN * max(bottom - top, right - left), height, width)
    x = min(max((left + right - side) / 2, 0.0), width - side)
    y = min(max((top + bottom - side) / 2, 0.0), height - side)
    return Box(x / width, y / height, (x + side) / width, (y + side) / height)


def _square(photo: NDArray[np.uint8], part: Box, size: int) -> NDArray[np.uint8]:
    """The greatest square in the middle of a part, (size, size, 3)."""
    height, width = photo.shape[:2]
    left, top, right, bottom = part.left * width, part.top * height, part.right * width, part.bottom * height
    side = min(right - left, bottom - top)
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    square = Image.fromarray(photo).resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
    return np.asarray(square)
