"""Pictures of the shop's views: camera, background and the damage that a shopper's phone does, then JPEG.

Pictures are made in chunks of fixed size, each from its own random stream, so the bytes of a picture depend on the
seed and its place alone and memory stays constant.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from tqdm import tqdm

from onevision.data.synthetic.backdrops import Backdrops, soften
from onevision.data.synthetic.catalogue import BRAND_COLOURS, MATERIALS, Catalogue
from onevision.data.synthetic.render import Floats, Pose, Surface, cast, extent, rotation
from onevision.data.synthetic.shading import EMBLEM_NORMS, Look, shade
from onevision.data.synthetic.shapes import CATEGORIES

CHUNK_PIXELS = 240 * 64 * 64
"""Pixels rendered at once: at 64 a side about twenty pictures a category, so that a part's arrays stay in cache."""
MAIN, SKU_ANGLE, SKU_DETAIL, SKU_VARIANT, USER_PHOTO, VIDEO_FRAME = range(6)
VIEW_NAMES = ("main", "sku", "sku", "sku", "user_photo", "video_frame")
"""The contract's view of each kind of picture."""

_CATALOGUE_LIGHT = np.array([-0.35, 0.55, 0.76], np.float32)


def render_images(
    catalogue: Catalogue, items: Floats, kinds: Floats, size: int, seed: int, *, progress: bool = True
) -> Iterator[bytes]:
    """JPEG bytes of one picture for each (item row, kind of view), in order."""
    backdrops = Backdrops(size, np.random.default_rng([seed, 1]))
    step = max(1, CHUNK_PIXELS // size**2)
    starts = range(0, len(items), step)
    bar = tqdm(total=len(items), desc="render", unit="image", disable=None if progress else True)
    for chunk, start in enumerate(starts):
        rng = np.random.default_rng([seed, 2, chunk])
        rows = slice(start, start + step)
        pixels, quality = render_chunk(catalogue, items[rows], kinds[rows], size, backdrops, rng)
        yield from encode_jpegs(pixels, quality)
        bar.update(len(pixels))
    bar.close()


def render_chunk(
    catalogue: Catalogue, items: Floats, kinds: Floats, size: int, backdrops: Backdrops, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Pixels (B, S, S, 3) uint8 and JPEG quality (B,) of a chunk of pictures."""
    order = np.argsort(catalogue.category[items], kind="stable")
    items, kinds = items[order], kinds[order]
    picture, alpha = cut_outs(catalogue, items, kinds, size, rng)
    batch, shopper = len(items), kinds >= USER_PHOTO
    ground = np.ones_like(picture)
    ground[shopper] = backdrops.draw(int(shopper.sum()), rng)
    _drop_shadow(ground, shopper)
    picture = ground + alpha * (picture - ground)
    if shopper.any():
        picture[shopper] = _photograph(picture[shopper], kinds[shopper] == VIDEO_FRAME, backdrops, rng)
    quality = np.where(shopper, rng.integers(35, 80, batch), 92)
    pixels = np.clip(picture * 255.0 + 0.5, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    back = np.argsort(order, kind="stable")
    return np.ascontiguousarray(pixels[back]), quality[back]


def cut_outs(
    catalogue: Catalogue, items: Floats, kinds: Floats, size: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Products before nothing, in the order of their categories: colours (B, 3, S, S) and coverage (B, 1, S, S)."""
    pose = _draw_pose(catalogue.category[items], kinds, rng)
    surface, look = Surface.empty(len(items), size), _look(catalogue, items, kinds)
    picture = np.empty((len(items), 3, size, size), np.float32)
    bounds = np.searchsorted(catalogue.category[items], np.arange(len(CATEGORIES) + 1))
    for category, first, last in zip(CATEGORIES, bounds[:-1], bounds[1:], strict=True):
        if first < last:
            rows = slice(int(first), int(last))
            parts = category.build(catalogue.shape[items[rows]])
            _frame(pose, rows, *extent(parts, pose.rotation[rows]))
            cast(parts, pose[rows], surface[rows])
            picture[rows] = shade(surface[rows], pose[rows], look[rows], ambient=0.45)
    return picture, surface.coverage[:, None]


def encode_jpegs(pixels: Floats, quality: Floats) -> Iterator[bytes]:
    """JPEG bytes of (B, S, S, 3) uint8 pictures."""
    for picture, q in zip(pixels, quality, strict=True):
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=int(q))
        yield stream.getvalue()


def _draw_pose(category: Floats, kinds: Floats, rng: np.random.Generator) -> Pose:
    """Camera and light of every picture; `scale` is the share of the frame to fill, until `_frame` sees the product."""
    n = len(kinds)
    yaw = np.radians([c.yaw for c in CATEGORIES])[category]
    shopper = kinds >= USER_PHOTO
    spread = np.choose(kinds, [0.03, 0.0, 0.08, 0.08, 0.55, 0.55])
    yaw = yaw + spread * rng.standard_normal(n).clip(-1.7, 1.7)
    yaw += np.where(kinds == SKU_ANGLE, rng.choice([-1.0, 1.0], n) * rng.uniform(0.5, 1.0, n), 0.0)
    pitch = np.where(shopper, rng.uniform(0.0, 0.65, n), np.where(kinds == SKU_ANGLE, 0.3, 0.17))
    roll = np.where(shopper, rng.normal(0, 0.16, n).clip(-0.45, 0.45), 0.0)
    roll = np.where(kinds == VIDEO_FRAME, roll * 1.5, roll)
    fill = np.where(shopper, rng.uniform(0.66, 1.08, n), 0.9)
    fill = np.where(kinds == SKU_DETAIL, 1.6, fill)
    shift = np.where(shopper, 0.12, np.where(kinds == SKU_DETAIL, 0.2, 0.0))[:, None] * rng.uniform(-1, 1, (n, 2))
    light = np.where(shopper[:, None], rng.normal(0, 0.5, (n, 3)), 0.0) + _CATALOGUE_LIGHT
    light[:, 2] = np.abs(light[:, 2]) + 0.2
    light /= np.linalg.norm(light, axis=1, keepdims=True)
    return Pose(rotation(yaw, pitch, roll), fill.astype(np.float32), shift.astype(np.float32), light.astype(np.float32))


def _frame(pose: Pose, rows: slice, low: Floats, high: Floats) -> None:
    """Turn the share of the frame into a scale, and centre the products, in place."""
    scale = pose.scale[rows] / np.maximum((high - low).max(axis=1) / 2.0, 1e-3)
    pose.shift[rows] -= (low + high) / 2.0 * scale[:, None]
    pose.scale[rows] = scale


def _look(catalogue: Catalogue, items: Floats, kinds: Floats) -> Look:
    """Colours of the products; a colour variant shows its two colours swapped."""
    swapped = (kinds == SKU_VARIANT)[:, None]
    primary, secondary = catalogue.primary[items], catalogue.secondary[items]
    first, second = np.where(swapped, secondary, primary), np.where(swapped, primary, secondary)
    accent = BRAND_COLOURS[catalogue.brand[items]]
    dark = np.broadcast_to(np.array([0.14, 0.14, 0.16], np.float32), first.shape)
    category = catalogue.category[items]
    emblem = np.array([(*c.emblem, 1.0) for c in CATEGORIES], np.float32)[category]
    emblem[:, 3] = np.where(catalogue.brand[items] % 2, 1.5, 1.0)
    return Look(
        palette=np.stack([first, second, accent, MATERIALS[catalogue.material[items]], dark], axis=1),
        second=second,
        pattern=catalogue.pattern[items],
        frequency=7.0 + 9.0 * catalogue.frequency[items],
        emblem=emblem,
        emblem_kind=catalogue.brand[items] % len(EMBLEM_NORMS),
        emblem_colour=accent,
    )


def _drop_shadow(ground: Floats, shopper: Floats) -> None:
    """A soft shadow under the product, in place."""
    size = ground.shape[2]
    across = np.linspace(-1, 1, size, dtype=np.float32)
    wide = np.exp(-((across / 0.62) ** 4))
    low = np.exp(-(((across - 0.86) / 0.09) ** 2))
    depth = np.where(shopper, 0.0, 0.16).astype(np.float32)
    ground *= 1.0 - depth[:, None, None, None] * (low[:, None] * wide[None, :])


def _photograph(picture: Floats, video: Floats, backdrops: Backdrops, rng: np.random.Generator) -> Floats:
    """What a phone does to (B, 3, S, S) pictures: a hand in front, light, white balance, blur, motion, noise."""
    n, _, size, _ = picture.shape
    picture = _occlude(picture, rng)
    gain = rng.uniform(0.55, 1.25, (n, 1, 1, 1)) * rng.uniform(0.86, 1.14, (n, 3, 1, 1))
    picture *= gain.astype(np.float32)
    soft = rng.uniform(0.1, 0.9, (n, 1, 1, 1)).astype(np.float32)
    blurred = soften(picture)
    picture += soft * (blurred - picture)
    if video.any():
        picture[video] = _move(picture[video], rng)
    return picture + backdrops.noise(n, size, rng) * rng.uniform(0.01, 0.045, (n, 1, 1, 1)).astype(np.float32)


def _occlude(picture: Floats, rng: np.random.Generator) -> Floats:
    """A finger or an object reaches in from an edge of every third picture."""
    n, _, size, _ = picture.shape
    chosen = np.flatnonzero(rng.random(n) < 0.35)
    m = len(chosen)
    angle, reach = rng.uniform(0, 2 * np.pi, m), rng.uniform(0.55, 0.85, m)
    width, skew = rng.uniform(0.12, 0.28, m), rng.uniform(-0.4, 0.4, m)
    tone = np.array([(0.85, 0.65, 0.52), (0.55, 0.38, 0.28), (0.2, 0.2, 0.22), (0.6, 0.6, 0.58)])[
        rng.integers(4, size=m)
    ]
    grid = np.linspace(-1, 1, size, dtype=np.float32)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    along = cos[:, None, None] * grid[None, None, :] + sin[:, None, None] * grid[None, :, None]
    aside = -sin[:, None, None] * grid[None, None, :] + cos[:, None, None] * grid[None, :, None]
    aside = np.abs(aside - skew.astype(np.float32)[:, None, None]) / width.astype(np.float32)[:, None, None]
    tip = along - reach.astype(np.float32)[:, None, None] - 0.15 * aside * aside
    mask = (np.clip(tip * (size / 3.0), 0, 1) * np.clip((1.0 - aside) * 4.0, 0, 1))[:, None]
    colour = (tone * rng.uniform(0.7, 1.1, (m, 1))).astype(np.float32)[:, :, None, None]
    picture[chosen] += mask * (colour - picture[chosen])
    return picture


def _move(picture: Floats, rng: np.random.Generator) -> Floats:
    """Motion blur along one of four directions, three to seven pixels at 64."""
    n, _, size, _ = picture.shape
    step = max(1, round(size / 64))
    direction = rng.integers(4, size=n)
    length = rng.integers(1, 4, size=n)
    out = picture.copy()
    for which, (dy, dx) in enumerate(((0, 1), (1, 0), (1, 1), (1, -1))):
        for reach in (1, 2, 3):
            rows = (direction == which) & (length == reach)
            if rows.any():
                offsets = [k * step for k in range(-reach, reach + 1)]
                shifted = [np.roll(picture[rows], (dy * k, dx * k), axis=(2, 3)) for k in offsets]
                out[rows] = np.mean(shifted, axis=0)
    return out
