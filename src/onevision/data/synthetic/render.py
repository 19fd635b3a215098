"""A small analytic ray caster: batches of products made of quadrics, boxes and rings, in vectorised numpy.

Products of one category share a list of parts, so one part of a whole batch is cast with a few array operations.
Rays are parallel (orthographic), which makes every coefficient linear in the screen coordinates. Object space has
x to the right, y up and z towards the viewer; screen coordinates run from -1 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

PRIMARY, SECONDARY, ACCENT, NEUTRAL, DARK = range(5)
"""Colour roles of a part: the patterned main colour, the second colour, the brand's, the material's, a dark inside."""
ROLES = 5

FAR = np.float32(1e6)
Floats = np.ndarray


@dataclass(frozen=True)
class Part:
    """One convex part (or ring) of a product, for a batch of B products.

    A `quadric` is `x^2 + e y^2 + z^2 <= (1 + k y)^2` cut to `low <= y <= high` in units of its half sizes: an ellipsoid
    (e=1), a cylinder (e=0) or a cone (e=0, k != 0). A `ring` is a flat tube in its own x-y plane between
    radius `e` and 1, cut to `y >= low`.

    Attributes:
        center: (B, 3) in object space.
        size: (B, 3) half sizes.
        turn: (B, 3, 3) rotation of the part in the object, or None.
        role: colour role of its surface; `cap_role` that of the cut at the top of a quadric.
    """

    kind: Literal["quadric", "box", "ring"]
    center: Floats
    size: Floats
    role: int
    turn: Floats | None = None
    e: float = 1.0
    k: Floats | float = 0.0
    low: float = -1.0
    high: float = 1.0
    cap_role: int | None = None


@dataclass(frozen=True)
class Pose:
    """How a batch of B products is seen: `screen = scale * (rotation @ object)[:2] + shift`, lit from `light`."""

    rotation: Floats
    scale: Floats
    shift: Floats
    light: Floats

    def __getitem__(self, rows: slice) -> Pose:
        return Pose(self.rotation[rows], self.scale[rows], self.shift[rows], self.light[rows])


@dataclass(frozen=True)
class Surface:
    """What pixels see, each (B, S, S): depth (FAR where nothing), cosines of light and gloss, role, coverage 0..1."""

    depth: Floats
    light: Floats
    gloss: Floats
    role: Floats
    coverage: Floats

    @classmethod
    def empty(cls, batch: int, size: int) -> Surface:
        """Nothing seen anywhere."""
        shape = (batch, size, size)
        zeros = [np.zeros(shape, np.float32) for _ in range(3)]
        return cls(np.full(shape, FAR, np.float32), zeros[0], zeros[1], np.zeros(shape, np.uint8), zeros[2])

    def __getitem__(self, rows: slice) -> Surface:
        return Surface(self.depth[rows], self.light[rows], self.gloss[rows], self.role[rows], self.coverage[rows])


def rotation(yaw: Floats, pitch: Floats, roll: Floats) -> Floats:
    """(B, 3, 3) rotations: turn about the vertical, then nod towards the viewer, then tilt in the picture (radians)."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    zero, one = np.zeros_like(cy), np.ones_like(cy)
    turn = _matrices(((cy, zero, sy), (zero, one, zero), (-sy, zero, cy)))
    nod = _matrices(((one, zero, zero), (zero, cp, -sp), (zero, sp, cp)))
    tilt = _matrices(((cr, -sr, zero), (sr, cr, zero), (zero, zero, one)))
    return (tilt @ nod @ turn).astype(np.float32)


def extent(parts: Sequence[Part], rotations: Floats) -> tuple[Floats, Floats]:
    """Lowest and highest screen x, y (B, 2) of a product at scale 1, from its parts' boxes."""
    lows, highs = [], []
    for part in parts:
        axes = _axes(part, rotations) * part.size[:, None, :]
        cut, half_cut = (part.high + part.low) / 2.0, (part.high - part.low) / 2.0
        middle = np.einsum("bij,bj->bi", rotations, part.center)[:, :2] + cut * axes[:, :2, 1]
        half = (np.abs(axes) * np.array([1.0, half_cut, 1.0], np.float32)).sum(axis=2)[:, :2]
        lows.append(middle - half)
        highs.append(middle + half)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def cast(parts: Sequence[Part], pose: Pose, surface: Surface) -> None:
    """Cast every part of a batch into `surface`, in place; the nearest part wins."""
    size = surface.depth.shape[1]
    for part in parts:
        rows, columns = _window(part, pose, size)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        _cast_part(part, pose, surface, rows, columns)


def pixel_centers(size: int) -> Floats:
    """(size,) screen coordinates of pixel centres along x."""
    return ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)


def _matrices(rows: Sequence[Sequence[Floats]]) -> Floats:
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _axes(part: Part, rotations: Floats) -> Floats:
    return rotations if part.turn is None else rotations @ part.turn


def _window(part: Part, pose: Pose, size: int) -> tuple[slice, slice]:
    """Rows and columns of pixels that the part may touch in any picture of the batch."""
    low, high = extent([part], pose.rotation)
    low = (low * pose.scale[:, None] + pose.shift).min(axis=0)
    high = (high * pose.scale[:, None] + pose.shift).max(axis=0)

    def pixels(first: float, last: float) -> slice:
        start = int(np.floor((first + 1.0) * size / 2.0))
        stop = int(np.ceil((last + 1.0) * size / 2.0)) + 1
        return slice(min(max(start, 0), size), max(min(stop, size), 0))

    return pixels(-high[1], -low[1]), pixels(low[0], high[0])


class _Rays:
    """Rays of a window in a part's own coordinates: each coordinate is `(B, h, w)`, linear in the screen's x and y."""

    def __init__(self, part: Part, pose: Pose, size: int, rows: slice, columns: slice) -> None:
        axes = _axes(part, pose.rotation)
        inverse = np.swapaxes(axes, 1, 2) / part.size[:, :, None]
        centers = pixel_centers(size)
        self.x = ((centers[None, columns] - pose.shift[:, :1]) / pose.scale[:, None])[:, None, :]
        self.y = ((-centers[None, rows] - pose.shift[:, 1:]) / pose.scale[:, None])[:, :, None]
        turned = part.center if part.turn is None else np.einsum("bji,bj->bi", part.turn, part.center)
        self.by_x, self.by_y = inverse[:, :, 0], inverse[:, :, 1]
        self.origin = -turned / part.size
        self.direction = -inverse[:, :, 2]
        self.light = np.einsum("bji,bj->bi", axes, pose.light) / part.size
        half = pose.light + np.array([0.0, 0.0, 1.0], np.float32)
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        self.gloss = np.einsum("bji,bj->bi", axes, half) / part.size
        self.inverse_size = 1.0 / part.size

    def linear(self, by_x: Floats, by_y: Floats, constant: Floats) -> Floats:
        """`by_x * x + by_y * y + constant` on every pixel of the window; the coefficients are (B,)."""
        return by_x[:, None, None] * self.x + (by_y[:, None, None] * self.y + constant[:, None, None])

    def coordinate(self, axis: int) -> Floats:
        return self.linear(self.by_x[:, axis], self.by_y[:, axis], self.origin[:, axis])

    def slab(self, axis: int, at: float) -> Floats:
        """Depth at which each ray meets the plane `coordinate == at`."""
        slope = self.direction[:, axis]
        slope = np.where(np.abs(slope) < 1e-4, np.float32(1e-4), slope)
        return self.linear(
            -self.by_x[:, axis] / slope, -self.by_y[:, axis] / slope, (at - self.origin[:, axis]) / slope
        )


class _Hits(NamedTuple):
    """The n pixels that a part covers.

    Attributes:
        place: (n,) index into the flattened window (B, h, w); `batch` (n,) the picture.
        normal: three (n,) components of the surface's gradient in the part's own coordinates.
    """

    place: Floats
    batch: Floats
    depth: Floats
    coverage: Floats
    normal: list[Floats]
    role: Floats


def _cast_part(part: Part, pose: Pose, surface: Surface, rows: slice, columns: slice) -> None:
    size = surface.depth.shape[1]
    rays = _Rays(part, pose, size, rows, columns)
    pixel = (2.0 / size) / pose.scale
    hits = {"quadric": _hit_quadric, "box": _hit_box, "ring": _hit_ring}[part.kind](part, rays, pixel)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    line = hits.place // width
    column = hits.place - line * width
    flat = (line + hits.batch * (size - height) + rows.start) * size + column + columns.start
    front = np.flatnonzero(hits.depth < surface.depth.reshape(-1)[flat])
    flat, batch = flat[front], hits.batch[front]
    normal = [n[front] for n in hits.normal]
    inverse_size, light, gloss = rays.inverse_size[batch].T, rays.light[batch].T, rays.gloss[batch].T
    length = np.sqrt(sum((n * i) ** 2 for n, i in zip(normal, inverse_size, strict=True))) + np.float32(1e-6)
    surface.depth.reshape(-1)[flat] = hits.depth[front]
    surface.light.reshape(-1)[flat] = sum(n * cosine for n, cosine in zip(normal, light, strict=True)) / length
    surface.gloss.reshape(-1)[flat] = sum(n * cosine for n, cosine in zip(normal, gloss, strict=True)) / length
    surface.role.reshape(-1)[flat] = hits.role[front]
    covered = surface.coverage.reshape(-1)
    covered[flat] = np.maximum(covered[flat], hits.coverage[front])


def _found(mask: Floats) -> tuple[Floats, Floats]:
    """Places of the pixels of a mask (B, h, w) in its flattened form, and their pictures."""
    index = np.flatnonzero(mask)
    return index, index // (mask.shape[1] * mask.shape[2])


def _hit_quadric(part: Part, rays: _Rays, pixel: Floats) -> _Hits:
    k = np.broadcast_to(np.asarray(part.k, np.float32), pixel.shape)
    bend = np.float32(part.e) - k * k
    dx, dy, dz = rays.direction.T
    ox, oy, oz = (rays.coordinate(i) for i in range(3))
    # The ray o + t d meets the quadric where a t^2 + 2 b t + c = 0.
    a = np.maximum(dx * dx + bend * dy * dy + dz * dz, np.float32(1e-3))[:, None, None]
    weights = np.stack([dx, bend * dy, dz], axis=1)
    b = rays.linear(
        (weights * rays.by_x).sum(axis=1),
        (weights * rays.by_y).sum(axis=1),
        (weights * rays.origin).sum(axis=1) - k * dy,
    )
    c = bend[:, None, None] * oy
    c -= 2.0 * k[:, None, None]
    c *= oy
    c -= 1.0
    c += ox * ox
    c += oz * oz
    inside = b * b
    inside /= a
    inside -= c
    chord = np.sqrt(np.maximum(inside, 0) / a)
    b /= -a
    near, far = b - chord, b + chord
    mask = inside > 0
    cut = part.low > -1.0 or part.high < 1.0 or part.e == 0.0
    if cut:
        one, two = rays.slab(1, part.low), rays.slab(1, part.high)
        surface, entered = near, np.minimum(one, two)
        far = np.minimum(far, np.maximum(one, two))
        near = np.maximum(near, entered)
        mask &= far > near
    index, batch = _found(mask)
    t = near.reshape(-1)[index]
    radius = 0.5 * np.sqrt(part.size[:, 0] * part.size[:, 2]) / pixel
    coverage = np.minimum(inside.reshape(-1)[index] * radius[batch], (far.reshape(-1)[index] - t) / pixel[batch])
    px, py, pz = (o.reshape(-1)[index] + t * d[batch] for o, d in zip((ox, oy, oz), (dx, dy, dz), strict=True))
    normal = [px, bend[batch] * py - k[batch], pz]
    role = np.full(t.shape, part.role, np.uint8)
    if cut:
        capped = entered.reshape(-1)[index] > surface.reshape(-1)[index]
        up = -np.sign(dy)[batch]
        normal = [np.where(capped, flat, n) for flat, n in zip((np.float32(0), up, np.float32(0)), normal, strict=True)]
        if part.cap_role is not None:
            role[capped & (up > 0)] = part.cap_role
    return _Hits(index, batch, t, np.minimum(coverage, 1.0), normal, role)


def _hit_box(part: Part, rays: _Rays, pixel: Floats) -> _Hits:
    near = np.full((1, 1, 1), -FAR, np.float32)
    far = np.full((1, 1, 1), FAR, np.float32)
    entries = []
    for axis in range(3):
        one, two = rays.slab(axis, -1.0), rays.slab(axis, 1.0)
        entries.append(np.minimum(one, two))
        near = np.maximum(near, entries[axis])
        far = np.minimum(far, np.maximum(one, two))
    index, batch = _found(far > near)
    t = near.reshape(-1)[index]
    facing = -np.sign(rays.direction)
    normal = [np.where(entry.reshape(-1)[index] >= t, facing[batch, i], 0) for i, entry in enumerate(entries)]
    coverage = np.minimum((far.reshape(-1)[index] - t) / pixel[batch], 1.0)
    return _Hits(index, batch, t, coverage, normal, np.full(t.shape, part.role, np.uint8))


def _hit_ring(part: Part, rays: _Rays, pixel: Floats) -> _Hits:
    depth = rays.slab(2, 0.0)
    px = rays.coordinate(0) + depth * rays.direction[:, 0, None, None]
    py = rays.coordinate(1) + depth * rays.direction[:, 1, None, None]
    radius = np.sqrt(px * px + py * py)
    index, batch = _found((radius < 1.0) & (radius > part.e) & (py > part.low))
    px, py, radius, depth = (values.reshape(-1)[index] for values in (px, py, radius, depth))
    middle, half = (1.0 + part.e) / 2.0, (1.0 - part.e) / 2.0
    across = (radius - middle) / half
    outward = across / np.maximum(radius, 1e-3)
    towards = -np.sign(rays.direction[batch, 2]) * np.sqrt(np.maximum(1.0 - across * across, 0.0))
    scale = np.sqrt(part.size[:, 0] * part.size[:, 1])
    coverage = np.minimum((1.0 - np.abs(across)) * half * (scale / pixel)[batch] + 0.25, 1.0)
    normal = [outward * px, outward * py, towards * part.size[batch, 2] / scale[batch]]
    # The tube is as thick as it is wide: its front lies half a width before the plane.
    lift = np.maximum(1.0 - across * across, 0.0) * half * scale[batch] * 0.5
    return _Hits(index, batch, depth - lift, coverage, normal, np.full(radius.shape, part.role, np.uint8))
