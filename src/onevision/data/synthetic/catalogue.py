"""The catalogue: families of look-alikes, their attributes, and the space in which they are alike."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from onevision.data.config import SnapshotConfig
from onevision.data.synthetic.render import Floats
from onevision.data.synthetic.shapes import CATEGORIES, DEPARTMENTS, SHAPE_PARAMETERS

FAMILY_SIZE = 6
END = np.datetime64(datetime(2026, 7, 1), "us")
"""The snapshot's date (the end of its last day); fixed, never the clock."""
DAY = 86_400_000_000
"""Microseconds in a day."""

BRANDS = ("Arlo", "Borea", "Cinder", "Dunlin", "Ember", "Fjell", "Grove", "Halden", "Iris", "Juno")
BRANDS_PER_CATEGORY = 5
BRAND_COLOURS = np.array(
    [
        (0.90, 0.12, 0.14), (0.06, 0.30, 0.85), (0.98, 0.75, 0.05), (0.05, 0.60, 0.28), (0.95, 0.45, 0.05),
        (0.10, 0.75, 0.85), (0.45, 0.12, 0.60), (0.95, 0.35, 0.65), (0.08, 0.08, 0.10), (0.60, 0.85, 0.15),
    ],
    np.float32,
)  # fmt: skip
"""Accent colour and emblem of each brand: what a picture shows of it."""
PATTERNS = ("plain", "bands", "stripes", "checks", "dots")
MATERIALS = np.array(
    [(0.93, 0.92, 0.90), (0.16, 0.16, 0.18), (0.62, 0.42, 0.24), (0.70, 0.72, 0.76), (0.80, 0.70, 0.52)], np.float32
)
"""Colours of the neutral parts: white, black, wood, metal, linen."""

SHAPE_WEIGHT, PRIMARY_WEIGHT, SECONDARY_WEIGHT = 1.6, 1.8, 0.5
PATTERN_WEIGHT, BRAND_WEIGHT, MATERIAL_WEIGHT, PRICE_WEIGHT = 0.3, 0.2, 0.3, 0.1
CATEGORY_WEIGHT = 2.0


@dataclass(frozen=True)
class Catalogue:
    """All items, one row each, in the order of their ids.

    Attributes:
        attributes: (I, A) float32; Euclidean distance between rows is how different two products look.
        created: (I,) datetime64[us]; `cold` (I,) bool are those that enter during the last days.
        popularity: (I,) heavy-tailed, sums to 1.
    """

    category: Floats
    family: Floats
    brand: Floats
    shape: Floats
    primary: Floats
    secondary: Floats
    material: Floats
    pattern: Floats
    frequency: Floats
    price: Floats
    created: Floats
    cold: Floats
    in_stock: Floats
    popularity: Floats
    attributes: Floats

    def __len__(self) -> int:
        return len(self.category)

    @property
    def ids(self) -> list[str]:
        """Item ids; row i is `item-%06d`."""
        return [f"item-{i:06d}" for i in range(len(self))]


def make_catalogue(config: SnapshotConfig, rng: np.random.Generator) -> Catalogue:
    """Draw families of six look-alikes, spread evenly over the categories."""
    n = config.items
    families = -(-n // FAMILY_SIZE)
    family_category = np.arange(families) % len(CATEGORIES)
    # Items are dealt to families at random, so that an id or a row number says nothing about looks.
    family = rng.permutation(np.repeat(np.arange(families), FAMILY_SIZE)[:n])
    category = family_category[family]
    brands = np.stack([rng.permutation(len(BRANDS))[:BRANDS_PER_CATEGORY] for _ in CATEGORIES])
    brand = brands[category, rng.integers(BRANDS_PER_CATEGORY, size=n)]
    shape = np.clip(rng.random((families, SHAPE_PARAMETERS))[family] + rng.normal(0, 0.07, (n, SHAPE_PARAMETERS)), 0, 1)
    primary, secondary = _colours(family, families, rng)
    pattern = np.where(
        rng.random(n) < 0.65, rng.integers(len(PATTERNS), size=families)[family], rng.integers(5, size=n)
    )
    frequency = np.clip(rng.uniform(0, 1, families)[family] + rng.normal(0, 0.15, n), 0, 1)
    material = rng.integers(len(MATERIALS), size=families)[family]
    tier = np.linspace(-0.5, 0.5, len(BRANDS))[rng.permutation(len(BRANDS))]
    base = np.log([c.price for c in CATEGORIES])
    log_price = base[category] + tier[brand] + rng.normal(0, 0.25, families)[family] + rng.normal(0, 0.2, n)
    created, cold = _creation(config, rng)
    popularity = rng.pareto(1.6, n) + 0.3
    attributes = np.concatenate(
        [
            CATEGORY_WEIGHT * np.eye(len(CATEGORIES))[category],
            SHAPE_WEIGHT * shape,
            PRIMARY_WEIGHT * primary,
            SECONDARY_WEIGHT * secondary,
            PATTERN_WEIGHT * np.eye(len(PATTERNS))[pattern],
            PATTERN_WEIGHT * frequency[:, None],
            BRAND_WEIGHT * np.eye(len(BRANDS))[brand],
            MATERIAL_WEIGHT * np.eye(len(MATERIALS))[material],
            PRICE_WEIGHT * (log_price - base[category])[:, None],
        ],
        axis=1,
    )
    return Catalogue(
        category=category,
        family=family,
        brand=brand,
        shape=shape.astype(np.float32),
        primary=primary.astype(np.float32),
        secondary=secondary.astype(np.float32),
        material=material,
        pattern=pattern,
        frequency=frequency.astype(np.float32),
        price=np.round(np.exp(log_price), 2),
        created=created,
        cold=cold,
        in_stock=rng.random(n) < 0.96,
        popularity=popularity / popularity.sum(),
        attributes=attributes.astype(np.float32),
    )


def items_table(catalogue: Catalogue) -> pd.DataFrame:
    """The contract's `items` table."""
    leaf = [CATEGORIES[c] for c in catalogue.category]
    brand = [BRANDS[b] for b in catalogue.brand]
    words = [PATTERNS[p] for p in catalogue.pattern]
    return pd.DataFrame(
        {
            "item_id": catalogue.ids,
            "title": [f"{b} {w} {c.name[:-1].lower()}" for b, w, c in zip(brand, words, leaf, strict=True)],
            "category_id": [c.key for c in leaf],
            "brand": brand,
            "price": catalogue.price,
            "in_stock": catalogue.in_stock,
            "created_at": utc(catalogue.created),
        }
    )


def categories_table() -> pd.DataFrame:
    """The contract's `categories` table: departments, then leaves."""
    rows: list[tuple[str, str, str | None]] = [(key, name, None) for key, name in DEPARTMENTS.items()]
    rows += [(c.key, c.name, c.department) for c in CATEGORIES]
    return pd.DataFrame(rows, columns=["category_id", "name", "parent_id"])


def utc(times: Floats) -> pd.Series:
    """datetime64 values as a UTC pandas series in microseconds."""
    return pd.Series(times).dt.tz_localize(UTC).astype("datetime64[us, UTC]")


def first_day(config: SnapshotConfig) -> np.datetime64:
    """Start of the log."""
    return END - np.timedelta64(config.days * DAY, "us")


def _colours(family: Floats, families: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """RGB (I, 3) of main and second colour: a family shares a hue and has three second colours.

    A quarter of the families are nearly grey, and a second colour is always lighter or darker than the main one.
    """
    n = len(family)
    grey = rng.random(families) < 0.25
    hue, strength = (
        rng.random(families),
        np.where(grey, rng.uniform(0.0, 0.15, families), rng.uniform(0.35, 0.9, families)),
    )
    value = rng.uniform(0.25, 0.98, families)
    second_hue = hue[:, None] + rng.choice([0.0, 0.08, -0.08, 0.5], (families, 3))
    second_strength = rng.uniform(0.05, 0.6, (families, 3))
    second_value = 0.15 + 0.8 * ((value[:, None] + rng.uniform(0.35, 0.65, (families, 3))) % 1.0)
    choice = rng.integers(3, size=n)
    primary = hsv_to_rgb(
        hue[family] + rng.normal(0, 0.035, n),
        np.clip(strength[family] + rng.normal(0, 0.08, n), 0, 1),
        np.clip(value[family] + rng.normal(0, 0.08, n), 0.15, 1),
    )
    return primary, hsv_to_rgb(
        second_hue[family, choice], second_strength[family, choice], second_value[family, choice]
    )


def hsv_to_rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Hue (turns), saturation and value in [0, 1] to RGB (N, 3)."""
    turns = (np.asarray(hue)[:, None] * 6.0 + np.array([5.0, 3.0, 1.0])) % 6.0
    ramp = np.clip(np.minimum(turns, 4.0 - turns), 0.0, 1.0)
    return value[:, None] * (1.0 - saturation[:, None] * ramp)


def _creation(config: SnapshotConfig, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Creation times: cold items evenly over the last days, the rest mostly long before the log begins."""
    n, cold_count = config.items, round(config.items * config.cold_item_share)
    cold = np.zeros(n, bool)
    cold[rng.permutation(n)[:cold_count]] = True
    training_days = config.days - config.cold_days
    # One warm item in eight enters while the log runs, but early enough to be seen.
    age = np.where(
        rng.random(n) < 0.125,
        -rng.uniform(0, 0.7 * training_days, n),
        rng.uniform(1, 300, n),
    )
    warm = first_day(config) - (age * DAY).astype("timedelta64[us]")
    fresh = END - (rng.uniform(0.25, config.cold_days, n) * DAY).astype("timedelta64[us]")
    return np.where(cold, fresh, warm), cold
