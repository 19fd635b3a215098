"""The synthetic shop: a procedural catalogue in pictures, shoppers with tastes, and the log of what they did.

`write_synthetic_snapshot` writes a whole snapshot, deterministic by (config, seed). `shapes` and `render` make
products, `views` photographs them, `shoppers`, `searches` and `log` simulate behaviour, `oracle` publishes ceilings.
"""

from __future__ import annotations

from pathlib import Path

from onevision.data.config import SnapshotConfig
from onevision.report import StageReport


def write_synthetic_snapshot(out: Path, config: SnapshotConfig, seed: int) -> StageReport:
    """Write a synthetic snapshot to the folder `out`; the same config and seed give the same bytes."""
    from onevision.data.synthetic.shop import write_shop

    return write_shop(out, config, seed)
