"""Banks of cluttered backgrounds and of noise: painted once a shop, cropped, flipped and tinted for each photo."""

from __future__ import annotations

import numpy as np

from onevision.data.synthetic.render import Floats

BANK = 192
_BLOCK = 16
"""Backgrounds painted at once, to bound memory at large sizes."""
NOISE = 1 << 20


class Backdrops:
    """Backgrounds for shoppers' photos of one size.

    Args:
        size: pixels a side of the photos; the bank's pictures are half as large again, for random crops.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self.size = size
        self.margin = size // 2
        blocks = [paint_backdrops(_BLOCK, size + self.margin, rng) for _ in range(BANK // _BLOCK)]
        self.bank = np.concatenate([(255.0 * block + 0.5).astype(np.uint8) for block in blocks])
        self._noise = rng.standard_normal(NOISE, dtype=np.float32)

    def draw(self, count: int, rng: np.random.Generator) -> Floats:
        """(count, 3, S, S) random crops, half of them mirrored, with a random tint."""
        out = np.empty((count, 3, self.size, self.size), np.float32)
        which = rng.integers(BANK, size=count)
        corner = rng.integers(self.margin + 1, size=(count, 2))
        mirrored = rng.random(count) < 0.5
        for i, (b, (y, x), mirror) in enumerate(zip(which, corner, mirrored, strict=True)):
            crop = self.bank[b, :, y : y + self.size, x : x + self.size]
            out[i] = crop[:, :, ::-1] if mirror else crop
        tint = rng.uniform(0.92, 1.08, (count, 3, 1, 1)) / 255.0
        out *= tint.astype(np.float32)
        return out

    def noise(self, count: int, size: int, rng: np.random.Generator) -> Floats:
        """(count, 1, S, S) standard normal noise, from random places of one long strip."""
        area = size * size
        starts = rng.integers(NOISE - area, size=count)
        return np.stack([self._noise[s : s + area] for s in starts]).reshape(count, 1, size, size)


def paint_backdrops(count: int, size: int, rng: np.random.Generator) -> Floats:
    """(count, 3, S, S) rooms: a wall, a table or floor below it, and a dozen things lying about."""
    grid = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = grid[None, None, :], -grid[None, :, None]
    wall, table = _muted(count, rng), _muted(count, rng)
    slope = rng.uniform(-0.2, 0.2, (count, 1, 1)).astype(np.float32)
    horizon = rng.uniform(-0.7, 0.5, (count, 1, 1)).astype(np.float32) + slope * x
    below = np.clip((horizon - y) * size / 3.0, 0, 1)[:, None]
    waves = rng.uniform((4, 0), (40, 9), (count, 2)).astype(np.float32)[:, :, None, None]
    grain = 0.05 * np.sin(waves[:, 0] * y + waves[:, 1] * x)[:, None]
    picture = wall + below * (table + grain - wall)
    for _ in range(12):
        cx, cy = rng.uniform(-1.1, 1.1, (2, count, 1, 1)).astype(np.float32)
        half = rng.uniform(0.06, 0.4, (2, count, 1, 1)).astype(np.float32)
        angle = rng.uniform(0, np.pi, (count, 1, 1)).astype(np.float32)
        u = np.abs(np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)) / half[0]
        v = np.abs(-np.sin(angle) * (x - cx) + np.cos(angle) * (y - cy)) / half[1]
        is_disc = rng.random((count, 1, 1)) < 0.5
        distance = np.where(is_disc, np.sqrt(u * u + v * v), np.maximum(u, v))
        mask = np.clip((1.0 - distance) * 8.0, 0, 1)[:, None] * (rng.random((count, 1, 1, 1)) < 0.6)
        thing = _muted(count, rng) * (1.1 - 0.4 * np.clip(distance, 0, 1))[:, None]
        picture = picture + mask * (thing - picture)
    return np.clip(soften(picture), 0, 1)


def soften(picture: Floats) -> Floats:
    """A binomial blur of (B, C, S, S) with three taps an axis, a 64th of the side apart; the outermost rim is kept."""
    step = max(1, picture.shape[2] // 64)
    out = picture.copy()
    for axis in (2, 3):
        blurred = np.swapaxes(out, 2, axis)
        sharp = blurred.copy()
        inner = sharp[:, :, : -2 * step] + sharp[:, :, 2 * step :]
        inner *= 0.25
        inner += 0.5 * sharp[:, :, step:-step]
        blurred[:, :, step:-step] = inner
    return out


def _muted(count: int, rng: np.random.Generator) -> Floats:
    """(count, 3, 1, 1) everyday colours: more grey than not."""
    grey = rng.uniform(0.15, 0.95, (count, 1))
    colour = grey + rng.normal(0, 0.07, (count, 3))
    return colour.clip(0.05, 1.0).astype(np.float32)[:, :, None, None]
