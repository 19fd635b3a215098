"""The shoppers: stable tastes over colour, price, pattern and brand, in segments, and heavy-tailed activity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from onevision.data.config import SnapshotConfig
from onevision.data.synthetic.catalogue import BRANDS, DAY, END, Catalogue, first_day, utc
from onevision.data.synthetic.render import Floats
from onevision.data.synthetic.shapes import CATEGORIES

SEGMENTS = ("classic", "bold", "thrifty", "minimal", "refined", "playful")
AXES = 6
"""Taste axes: warmth, lightness, price, pattern, and two of brand character."""
TASTE_STRENGTH = 3.0
"""Standard deviation of taste over items, in units of log-odds."""
SEASON_DAYS = 28
"""Days after which the season of a category comes again."""
SEGMENT_SHARE = 0.5
"""Share of a taste's variance that its segment explains."""


@dataclass(frozen=True)
class Shoppers:
    """All users, one row each: latent tastes (U, AXES), category interests (U, C), and when they came."""

    taste: Floats
    interest: Floats
    segment: Floats
    activity: Floats
    created: Floats
    cold: Floats

    def __len__(self) -> int:
        return len(self.segment)

    @property
    def ids(self) -> list[str]:
        """User ids; row i is `user-%06d`."""
        return [f"user-{i:06d}" for i in range(len(self))]


def make_shoppers(config: SnapshotConfig, rng: np.random.Generator) -> Shoppers:
    """Draw users; cold ones first come in the last days."""
    n = config.users
    segment = rng.integers(len(SEGMENTS), size=n)
    centers = rng.standard_normal((len(SEGMENTS), AXES))
    centers *= np.sqrt(AXES) / np.linalg.norm(centers, axis=1, keepdims=True)
    own = rng.standard_normal((n, AXES))
    cold = np.zeros(n, bool)
    cold[rng.permutation(n)[: round(n * config.cold_user_share)]] = True
    days_before_end = np.where(cold, rng.uniform(0.25, config.cold_days, n), config.days + rng.uniform(1, 300, n))
    return Shoppers(
        taste=np.sqrt(SEGMENT_SHARE) * centers[segment] + np.sqrt(1 - SEGMENT_SHARE) * own,
        interest=rng.standard_normal((n, len(CATEGORIES))),
        segment=segment,
        activity=rng.lognormal(0.0, 0.9, n),
        created=END - (days_before_end * DAY).astype("timedelta64[us]"),
        cold=cold,
    )


def taste_axes(catalogue: Catalogue) -> Floats:
    """(I, AXES) what tastes look at: standardised inside each category, so that taste never prefers a category."""
    angle = 2 * np.pi * catalogue.brand / len(BRANDS)
    features = np.stack(
        [
            catalogue.primary[:, 0] - catalogue.primary[:, 2],
            catalogue.primary @ np.array([0.3, 0.59, 0.11]),
            np.log(catalogue.price),
            (catalogue.pattern > 0) + 0.5 * catalogue.frequency,
            np.cos(angle),
            np.sin(angle),
        ],
        axis=1,
    ).astype(np.float64)
    for category in range(len(CATEGORIES)):
        rows = catalogue.category == category
        features[rows] -= features[rows].mean(axis=0)
        features[rows] /= features[rows].std(axis=0) + 1e-9
    return features * (TASTE_STRENGTH / np.sqrt(AXES))


def seasonal_interest(config: SnapshotConfig, category: Floats, time: Floats) -> Floats:
    """How much more the categories of drawn items (Q, K) are wanted at (Q,) times, in log-odds; each has its weeks."""
    weeks = ((time - END) / np.timedelta64(DAY, "us") / SEASON_DAYS)[:, None]
    return config.season * np.cos(2 * np.pi * (weeks - category / len(CATEGORIES)))


def visit_times(
    config: SnapshotConfig, shoppers: Shoppers, count: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Who comes when: user rows and times (datetime64[us]) of `count` visits, sorted by time."""
    close = END - np.timedelta64(DAY // 24, "us")
    opened = np.maximum(shoppers.created, first_day(config)) + np.timedelta64(60_000_000, "us")
    window = (close - opened) / np.timedelta64(1, "us")
    weight = shoppers.activity * window
    user = rng.choice(len(shoppers), size=count, p=weight / weight.sum())
    time = opened[user] + (rng.random(count) * window[user]).astype("timedelta64[us]")
    order = np.lexsort((user, time))
    return user[order], time[order]


def users_table(shoppers: Shoppers) -> pd.DataFrame:
    """The contract's `users` table; the shop knows the segment of those who have shopped for a while."""
    segment = [None if cold else SEGMENTS[s] for s, cold in zip(shoppers.segment, shoppers.cold, strict=True)]
    return pd.DataFrame({"user_id": shoppers.ids, "created_at": utc(shoppers.created), "segment": segment})
