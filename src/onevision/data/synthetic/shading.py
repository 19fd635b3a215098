"""Colour for what the ray caster saw: palette, pattern, the brand's emblem and light."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from onevision.data.synthetic.render import FAR, PRIMARY, Floats, Pose, Surface, pixel_centers

PATTERN_WEIGHTS = np.array(
    [(0, 0, 0, 1), (0, 1, 0, 0.1), (1, 0, 0, 0.1), (0, 0, 1, 0.0), (-0.6, -0.6, 0, 0.62)], np.float32
)
"""Plain, bands, stripes, checks, dots: weights of cos(u), cos(v), cos(u) cos(v), and a threshold."""
EMBLEM_NORMS = np.array([(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0, 0.5), (0, 1.6, -0.6)], np.float32)
"""Five emblems as mixtures of the 1-, 2- and max-norm: diamond, disc, square, octagon, star."""


@dataclass(frozen=True)
class Look:
    """Colours of a batch of B products.

    Attributes:
        palette: (B, ROLES, 3) RGB in [0, 1].
        pattern: (B,) index into `PATTERN_WEIGHTS`, drawn in `second` (B, 3) with `frequency` (B,) in radians a unit.
        emblem: (B, 4) x, y, half size, width over height; of kind `emblem_kind` (B,) and colour `emblem_colour` (B, 3).
    """

    palette: Floats
    second: Floats
    pattern: Floats
    frequency: Floats
    emblem: Floats
    emblem_kind: Floats
    emblem_colour: Floats

    def __getitem__(self, rows: slice) -> Look:
        return Look(*(getattr(self, field.name)[rows] for field in fields(self)))


def shade(surface: Surface, pose: Pose, look: Look, ambient: float) -> Floats:
    """(B, 3, S, S) float32 colours where something is seen, 0 elsewhere."""
    batch, size = surface.depth.shape[:2]
    picture = np.zeros((batch, 3, size * size), np.float32)
    flat = np.flatnonzero(surface.depth.reshape(-1) < FAR)
    row = flat // (size * size)
    pixel = flat - row * (size * size)
    role = surface.role.reshape(-1)[flat]
    rgb = look.palette[row, role]
    patterned = np.flatnonzero(role == PRIMARY)
    if len(patterned):
        rgb[patterned] = _decorate(rgb[patterned], flat[patterned], row[patterned], surface, pose, look)
    light = np.maximum(surface.light.reshape(-1)[flat], 0)
    gloss = np.maximum(surface.gloss.reshape(-1)[flat], 0)
    gloss *= gloss
    gloss *= gloss
    gloss *= gloss
    gloss *= gloss
    rgb *= (ambient + (1.0 - ambient) * light)[:, None]
    rgb += (0.28 * gloss)[:, None]
    picture.transpose(0, 2, 1)[row, pixel] = rgb
    return picture.reshape(batch, 3, size, size)


def _decorate(rgb: Floats, flat: Floats, row: Floats, surface: Surface, pose: Pose, look: Look) -> Floats:
    """Pattern and emblem on the main surface, fixed to the object."""
    size = surface.depth.shape[1]
    centers = pixel_centers(size)
    pixel = flat - row * (size * size)
    shift, scale = pose.shift[row], pose.scale[row]
    x = (centers[pixel % size] - shift[:, 0]) / scale
    y = (-centers[pixel // size] - shift[:, 1]) / scale
    z = -surface.depth.reshape(-1)[flat]
    turned = pose.rotation[row]
    obj = [turned[:, 0, i] * x + turned[:, 1, i] * y + turned[:, 2, i] * z for i in range(3)]
    frequency = look.frequency[row]
    u, v = np.cos(frequency * (obj[0] + 0.6 * obj[2])), np.cos(frequency * obj[1])
    w = PATTERN_WEIGHTS[look.pattern[row]]
    ink = np.clip((w[:, 0] * u + w[:, 1] * v + w[:, 2] * u * v - w[:, 3]) * 4.0 + 0.5, 0, 1)
    rgb += ink[:, None] * (look.second[row] - rgb)
    emblem = look.emblem[row]
    dx, dy = np.abs(obj[0] - emblem[:, 0]) / emblem[:, 3], np.abs(obj[1] - emblem[:, 1])
    norms = EMBLEM_NORMS[look.emblem_kind[row]]
    distance = norms[:, 0] * (dx + dy) + norms[:, 1] * np.sqrt(dx * dx + dy * dy) + norms[:, 2] * np.maximum(dx, dy)
    stamp = np.clip((emblem[:, 2] - distance) * (scale * (size / 2.0)) + 0.5, 0, 1) * (obj[2] > 0)
    rgb += stamp[:, None] * (look.emblem_colour[row] - rgb)
    return rgb
