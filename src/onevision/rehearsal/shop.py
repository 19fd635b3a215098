"""The days that are rehearsed: one long log, cut at the end of each day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

from onevision.data.config import SnapshotConfig
from onevision.data.days import cut_snapshot
from onevision.data.grocery import write_grocery_snapshot
from onevision.data.snapshot import Snapshot
from onevision.recipe import load_recipe
from onevision.runner import make_snapshot

SYNTHETIC, GROCERY = "synthetic", "grocery"
SEASON = 1.0
"""How far the interest in categories swings, so that a champion grows old (`snapshot.season`)."""


class RehearsedShop:
    """The days of one shop.

    Args:
        folder: where the log and the days are kept; what is there already is not made again.
        source: `synthetic`, `grocery`, or a snapshot whose last days are the nights.
        data: folder of the grocery data.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        nights: int,
        recipe: str,
        overrides: Sequence[str],
        data: Path | None = None,
    ) -> None:
        self.folder = folder
        self.log = folder / "log" if source in (SYNTHETIC, GROCERY) else Path(source)
        if self.log.parent == folder and not (self.log / "manifest.json").exists():
            if source == GROCERY:
                write_grocery_snapshot(self.log, data, daily=True)
            else:
                longer = longer_shop(load_recipe(recipe, overrides).snapshot, nights)
                make_snapshot(self.log, recipe=recipe, overrides=[*overrides, *longer])
        self.nights = nights
        found = Snapshot.open(self.log, verify=False)
        self.end, self.has_baskets = found.as_of, found.source == GROCERY

    def date(self, night: int) -> datetime:
        """Date of a night's snapshot; night 0 is the day of the full training."""
        return self.end - timedelta(days=self.nights - night)

    def day(self, night: int) -> Path:
        """The snapshot of a night."""
        if night == self.nights:
            return self.log
        path = self.folder / f"day-{night:02d}"
        if not (path / "manifest.json").exists():
            cut_snapshot(self.log, path, self.date(night))
        return path


def longer_shop(config: SnapshotConfig, nights: int) -> list[str]:
    """Overrides of a recipe whose shop goes on for some nights: as many searches and new items a day as before."""
    new_a_day = config.items * config.cold_item_share / config.cold_days
    items = round(config.items + nights * new_a_day)
    values = {
        "days": config.days + nights,
        "queries": round(config.queries * (config.days + nights) / config.days),
        "items": items,
        "cold_days": config.cold_days + nights,
        "cold_item_share": min(0.5, (config.cold_days + nights) * new_a_day / items),
        "season": SEASON,
    }
    return [f"snapshot.{name}={value}" for name, value in values.items()]
