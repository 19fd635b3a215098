"""The products: one builder a category turns shape parameters in [0, 1] into parts for the ray caster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onevision.data.synthetic.render import ACCENT, DARK, NEUTRAL, PRIMARY, SECONDARY, Floats, Part

SHAPE_PARAMETERS = 5


@dataclass(frozen=True)
class Category:
    """A leaf of the category tree and how its products look.

    Attributes:
        build: shape parameters (B, 5) -> parts.
        price: typical price.
        yaw: degrees that the catalogue picture is turned by.
        emblem: x, y of the brand's emblem in object space, and its half size.
    """

    key: str
    name: str
    department: str
    build: Callable[[Floats], list[Part]]
    price: float
    yaw: float
    emblem: tuple[float, float, float]


def _stack(*values: Any, batch: int) -> Floats:
    return np.stack([np.broadcast_to(np.asarray(v, np.float32), (batch,)) for v in values], axis=1)


class _Builder:
    """Collects parts; centres and sizes may mix numbers and (B,) arrays."""

    def __init__(self, shape: Floats) -> None:
        self.shape = shape.astype(np.float32)
        self.parts: list[Part] = []

    def between(self, index: int, low: float, high: float) -> Floats:
        """Shape parameter `index` mapped to [low, high]."""
        return np.float32(low) + np.float32(high - low) * self.shape[:, index]

    def add(self, kind: Any, center: tuple, size: tuple, role: int, turn: Floats | None = None, **more: Any) -> None:
        batch = len(self.shape)
        if turn is not None:
            turn = np.broadcast_to(turn, (batch, 3, 3)).astype(np.float32)
        self.parts.append(Part(kind, _stack(*center, batch=batch), _stack(*size, batch=batch), role, turn=turn, **more))

    def ball(self, center: tuple, size: tuple, role: int, **more: Any) -> None:
        self.add("quadric", center, size, role, e=1.0, **more)

    def tube(self, center: tuple, size: tuple, role: int, **more: Any) -> None:
        """Cylinder along y, or with `k` a cone: radius 1 - k at the bottom, 1 + k at the top."""
        self.add("quadric", center, size, role, e=0.0, **more)

    def box(self, center: tuple, size: tuple, role: int, **more: Any) -> None:
        self.add("box", center, size, role, **more)

    def ring(self, center: tuple, size: tuple, role: int, inner: float, **more: Any) -> None:
        self.add("ring", center, size, role, e=inner, **more)


def _tilt(angle: Floats | float) -> Floats:
    """Rotation about z (in the picture plane), radians: (3, 3) or (B, 3, 3)."""
    c, s = np.cos(angle), np.sin(angle)
    zero, one = np.zeros_like(c), np.ones_like(c)
    return np.stack([np.stack([c, -s, zero], -1), np.stack([s, c, zero], -1), np.stack([zero, zero, one], -1)], -2)


def _lean(angle: float) -> Floats:
    """Rotation about x: y leans towards the viewer; a quarter turn points a tube at the viewer."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)


QUARTER = np.pi / 2


def _sneaker(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    sole, top = b.between(0, 0.07, 0.17), b.between(2, 0.3, 0.85)
    b.box((0.03, -0.5 + sole, 0), (0.98, sole, 0.34), NEUTRAL)
    b.ball((0.55, -0.5 + 2 * sole, 0), (0.46, b.between(1, 0.28, 0.42), 0.33), SECONDARY, low=0.0)
    b.ball((0.0, -0.5 + 2 * sole, 0), (0.85, 0.52, 0.33), PRIMARY, low=0.0)
    b.tube((-0.52, -0.5 + 2 * sole + top / 2 + 0.1, 0), (0.4, top / 2 + 0.1, 0.29), PRIMARY, k=-0.1, cap_role=DARK)
    b.box((-0.9, -0.1, 0), (0.05, b.between(3, 0.12, 0.3), 0.12), ACCENT)
    b.box((0.03, 0.12, 0), (0.26, 0.06, 0.13), ACCENT, turn=_tilt(-0.55))
    return b.parts


def _shirt(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    width, length = b.between(0, 0.46, 0.62), b.between(1, 0.65, 0.95)
    sleeve, spread = b.between(2, 0.22, 0.62), b.between(3, 0.45, 0.95)
    b.tube((0, 0, 0), (width, length, 0.24), PRIMARY, k=b.between(4, -0.12, 0.1))
    for side in (-1.0, 1.0):
        x = side * (width + np.sin(spread) * sleeve * 0.85)
        y = length - 0.16 - np.cos(spread) * sleeve * 0.8
        b.tube((x, y, 0), (0.2, sleeve, 0.17), SECONDARY, turn=_tilt(side * spread), k=0.12)
    b.ball((0, length, 0.03), (0.24, 0.16, 0.22), DARK)
    b.box((0, length * 0.35, 0.235), (0.035, length * 0.5, 0.02), ACCENT)
    return b.parts


def _handbag(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    height, width = b.between(0, 0.4, 0.7), b.between(1, 0.6, 0.95)
    flap = b.between(2, 0.12, 0.42)
    b.box((0, 0, 0), (width, height, 0.26), PRIMARY)
    b.box((0, height - flap, 0.05), (width * 1.03, flap, 0.25), SECONDARY)
    b.ring((0, height - 0.02, 0.0), (width * 0.62, b.between(3, 0.35, 0.85), 0.2), NEUTRAL, inner=0.84, low=0.0)
    b.box((0, height - 2 * flap, 0.31), (0.09, 0.075, 0.03), ACCENT)
    return b.parts


def _chair(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    width, seat = b.between(0, 0.42, 0.62), b.between(1, -0.2, 0.02)
    back, thick = b.between(2, 0.28, 0.55), b.between(3, 0.05, 0.13)
    leg = (seat + 1.0) / 2
    for x in (-1.0, 1.0):
        for z in (-0.4, 0.4):
            b.box((x * (width - 0.06), leg - 1.0, z), (0.055, leg, 0.055), NEUTRAL)
    b.box((0, seat, 0), (width, thick, 0.48), SECONDARY)
    b.box((0, seat + 0.18 + back, -0.42), (width, back, 0.06), PRIMARY)
    b.box((0, seat + 0.22 + 2 * back, -0.42), (width * 0.9, 0.05, 0.075), ACCENT)
    return b.parts


def _lamp(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    shade, radius = b.between(0, 0.28, 0.46), b.between(1, 0.46, 0.72)
    b.tube((0, 1.0 - shade, 0), (radius, shade, radius), PRIMARY, k=b.between(2, -0.48, -0.08), cap_role=NEUTRAL)
    b.tube((0, 0.0, 0), (0.045, 0.85, 0.045), NEUTRAL)
    b.ball((0, b.between(3, -0.6, -0.35), 0), (b.between(4, 0.1, 0.34), 0.26, b.between(4, 0.1, 0.34)), SECONDARY)
    b.tube((0, -0.93, 0), (0.42, 0.07, 0.42), ACCENT)
    return b.parts


def _vase(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    belly, middle = b.between(0, 0.42, 0.72), b.between(1, -0.4, -0.1)
    neck, top = b.between(2, 0.14, 0.34), b.between(3, 0.5, 0.95)
    b.ball((0, middle, 0), (belly, 0.58, belly), PRIMARY, low=-0.9)
    b.tube((0, (middle + top) / 2, 0), (neck, (top - middle) / 2, neck), SECONDARY, k=b.between(4, -0.25, 0.3))
    b.tube((0, top, 0), (neck * (1.25 + 0.3 * b.shape[:, 4]), 0.06, neck * 1.4), ACCENT, cap_role=DARK)
    return b.parts


def _mug(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    radius, height = b.between(0, 0.42, 0.62), b.between(1, 0.45, 0.8)
    reach = b.between(2, 0.26, 0.44)
    b.ring((radius * 0.95, 0, 0), (reach, height * b.between(3, 0.5, 0.8), 0.15), SECONDARY, inner=0.62)
    b.tube((0, 0, 0), (radius, height, radius), PRIMARY, k=b.between(4, -0.08, 0.2), cap_role=DARK)
    b.tube((0, -height + 0.07, 0), (radius * (1.01 - 0.2 * b.shape[:, 4]), 0.07, radius), ACCENT)
    return b.parts


def _bottle(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    radius, shoulder = b.between(0, 0.26, 0.46), b.between(1, -0.05, 0.35)
    neck = b.between(2, 0.09, 0.2)
    b.tube((0, (shoulder - 1.0) / 2, 0), (radius, (shoulder + 1.0) / 2, radius), PRIMARY)
    b.ball((0, shoulder, 0), (radius, b.between(3, 0.2, 0.5), radius), SECONDARY, low=0.0)
    b.tube((0, 0.6, 0), (neck, 0.3, neck), SECONDARY)
    b.tube((0, 0.9, 0), (neck * 1.25, b.between(4, 0.07, 0.16), neck * 1.25), ACCENT)
    return b.parts


def _kettle(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    width, height = b.between(0, 0.5, 0.7), b.between(1, 0.4, 0.62)
    b.ring((0, height * 0.5, 0), (width * 0.9, b.between(2, 0.55, 0.85), 0.2), NEUTRAL, inner=0.84, low=0.1)
    b.tube((width * 1.05, 0.12, 0), (0.13, 0.36, 0.13), SECONDARY, turn=_tilt(-b.between(3, 0.5, 1.0)), k=-0.3)
    b.ball((0, 0, 0), (width, height, width), PRIMARY, low=-0.8)
    b.ball((0, height * 0.82, 0), (width * 0.55, 0.16, width * 0.55), SECONDARY)
    b.ball((0, height * 0.82 + 0.2, 0), (b.between(4, 0.08, 0.14), 0.1, 0.1), ACCENT)
    return b.parts


def _camera(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    height, lens = b.between(0, 0.42, 0.64), b.between(1, 0.26, 0.42)
    x, length = b.between(2, -0.25, 0.25), b.between(3, 0.2, 0.42)
    b.box((0, 0, 0), (0.9, height, 0.3), PRIMARY)
    b.box((0, height + 0.02, 0), (0.905, 0.1, 0.305), SECONDARY)
    b.box((x, height + 0.2, 0), (b.between(4, 0.18, 0.36), 0.12, 0.2), SECONDARY)
    b.tube((x, -0.05, 0.3 + length), (lens, length, lens), NEUTRAL, turn=_lean(QUARTER), cap_role=DARK)
    b.tube((x, -0.05, 0.32 + length), (lens * 1.08, 0.07, lens * 1.08), ACCENT, turn=_lean(QUARTER))
    b.tube((-0.68, height + 0.15, 0), (0.12, 0.06, 0.12), ACCENT)
    return b.parts


def _headphones(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    width, drop = b.between(0, 0.58, 0.74), b.between(1, -0.4, -0.15)
    cup, thick = b.between(2, 0.36, 0.54), b.between(3, 0.15, 0.28)
    b.ring((0, drop + 0.1, 0), (width + 0.08, 1.05, 0.2), SECONDARY, inner=0.8, low=0.0)
    b.ring((0, drop + 0.1, 0.02), (width + 0.1, 1.09, 0.2), ACCENT, inner=0.84, low=0.72)
    for side in (-1.0, 1.0):
        b.tube((side * width, drop, 0), (cup, thick, cup), PRIMARY, turn=_tilt(QUARTER * side), cap_role=PRIMARY)
        b.tube((side * (width - thick), drop, 0), (cup * 0.92, 0.1, cup * 0.92), DARK, turn=_tilt(QUARTER))
        b.ball((side * (width + thick), drop, 0), (0.08, cup * 0.55, cup * 0.55), NEUTRAL)
    return b.parts


def _toy_car(shape: Floats) -> list[Part]:
    b = _Builder(shape)
    wheel, body = b.between(0, 0.22, 0.34), b.between(1, 0.2, 0.32)
    cabin, x = b.between(2, 0.3, 0.6), b.between(3, -0.3, 0.1)
    floor = -0.35
    b.box((0, floor + body, 0), (0.98, body, 0.4), PRIMARY)
    b.box((0.9, floor + 0.08, 0), (0.12, 0.06, 0.42), ACCENT)
    b.box((x, floor + 2 * body + 0.2, 0), (cabin, 0.22, 0.34), DARK)
    b.box((x, floor + 2 * body + 0.44, 0), (cabin * 0.92, b.between(4, 0.04, 0.12), 0.34), SECONDARY)
    for side in (-0.6, 0.6):
        for z in (-0.36, 0.36):
            b.tube((side, floor, z), (wheel, 0.1, wheel), DARK, turn=_lean(QUARTER), cap_role=NEUTRAL)
    return b.parts


CATEGORIES: tuple[Category, ...] = (
    Category("sneaker", "Sneakers", "fashion", _sneaker, 80.0, -15.0, (-0.2, -0.08, 0.14)),
    Category("shirt", "Shirts", "fashion", _shirt, 35.0, 0.0, (0.24, 0.3, 0.12)),
    Category("handbag", "Handbags", "fashion", _handbag, 120.0, 20.0, (0.0, -0.25, 0.16)),
    Category("chair", "Chairs", "home", _chair, 95.0, -28.0, (0.0, 0.45, 0.13)),
    Category("lamp", "Lamps", "home", _lamp, 60.0, 0.0, (0.0, 0.62, 0.14)),
    Category("vase", "Vases", "home", _vase, 30.0, 0.0, (0.0, -0.3, 0.16)),
    Category("mug", "Mugs", "kitchen", _mug, 14.0, 15.0, (0.0, 0.0, 0.18)),
    Category("bottle", "Bottles", "kitchen", _bottle, 22.0, 0.0, (0.0, -0.35, 0.15)),
    Category("kettle", "Kettles", "kitchen", _kettle, 45.0, 15.0, (-0.05, -0.05, 0.17)),
    Category("camera", "Cameras", "leisure", _camera, 400.0, 18.0, (0.62, -0.1, 0.15)),
    Category("headphones", "Headphones", "leisure", _headphones, 130.0, 25.0, (0.66, -0.28, 0.13)),
    Category("toy_car", "Toy cars", "leisure", _toy_car, 18.0, -20.0, (-0.3, -0.15, 0.13)),
)
"""Every leaf of the shop, grouped by department."""

DEPARTMENTS: dict[str, str] = {"fashion": "Fashion", "home": "Home", "kitchen": "Kitchen", "leisure": "Leisure"}
