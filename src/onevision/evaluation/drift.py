"""Codebook drift: whether frozen codebooks still fit the shop, by the measures that they were trained with.

The codes are measured tonight as `train-vrq` measured them, over the whole catalogue and the held-out photos, and
once more over the newest day alone. The reference is the full training: every bundle hands it on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.artifacts import Artifact, read_json
from onevision.data.snapshot import Snapshot
from onevision.metrics.encoding import view_consistency
from onevision.quantization.residual import ResidualQuantizer
from onevision.quantization.stage import Embedded, measure
from onevision.report import ReportTable

TONIGHT, AT_TRAINING = "vrq", "vrq_at_training"
ADVICE = "full training advised"
_COMPARED = ("cur@1", "cur@2", "cur@3", "icr", "vc@1", "vc@2")


@dataclass(frozen=True)
class Drift:
    """Measures of the codes by name: tonight's, those at the full training, and those of the newest day's photos."""

    tonight: dict[str, float]
    at_training: dict[str, float]
    day: dict[str, float]
    tolerance: float

    @classmethod
    def measure(
        cls, shop: Snapshot, pairs: Path, encoder: Path, quantizer: Path, champion: Artifact, tolerance: float
    ) -> Drift:
        """Measure the codes of tonight's pictures, beside what the champion's bundle knows of its full training."""
        data = Embedded.load(shop, encoder)
        model = ResidualQuantizer.from_pretrained(quantizer)
        held = read_json(champion.file("metrics.json"))
        origin = _of(held, AT_TRAINING) or _of(held, TONIGHT)
        return cls(measure(model, data), origin, _newest_day(model, data, pairs), tolerance)

    def metrics(self) -> dict[str, float]:
        """Flat: `vrq/<measure>`, `vrq_at_training/<measure>`, `day/<measure>`."""
        groups = {TONIGHT: self.tonight, AT_TRAINING: self.at_training, "day": self.day}
        return {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}

    def warnings(self) -> list[str]:
        """What fell by more than the tolerance, and by more than chance for as few photos as a day has."""
        found = [
            f"{name} was {self.at_training[name]:.3f} at the full training and is {self.tonight[name]:.3f}"
            for name in _COMPARED
            if name in self.tonight and self._fell(name, self.tonight[name])
        ]
        photos = self.day.get("photos", 0)
        for name in ("vc@1", "vc@2"):
            if name in self.day and self._fell(name, self.day[name], photos):
                found.append(
                    f"{name} of the newest day's {photos:.0f} photos is {self.day[name]:.3f}, "
                    f"at the full training it was {self.at_training[name]:.3f}"
                )
        return [f"{ADVICE}: {'; '.join(found)}"] if found else []

    def table(self) -> ReportTable:
        """Every compared measure, then and now."""
        rows = [
            [name, self.at_training.get(name), self.tonight.get(name), self.day.get(name)]
            for name in _COMPARED
            if name in self.tonight
        ]
        caption = f"A fall by more than {self.tolerance:g} advises a full training."
        return ReportTable("Codebook drift", ["measure", "at full training", "tonight", "newest day"], rows, caption)

    def _fell(self, name: str, value: float, photos: float = np.inf) -> bool:
        if name not in self.at_training:
            return False
        before = self.at_training[name]
        chance = 2 * np.sqrt(before * (1 - before) / photos) if photos else np.inf
        return before - value > max(self.tolerance, chance)


def _of(metrics: dict[str, float], group: str) -> dict[str, float]:
    prefix = f"{group}/"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def _newest_day(model: ResidualQuantizer, data: Embedded, pairs: Path) -> dict[str, float]:
    """View agreement of the photos that were searched with in the last 24 hours and their products' main pictures."""
    queries = pq.read_table(pairs / "queries.parquet", columns=["image_id", "ts"])
    end = read_json(pairs / "splits.json")["as_of"]
    since = pa.scalar(end).cast(pa.timestamp("us", tz="UTC")).as_py() - timedelta(days=1)
    fresh = queries.filter(pc.greater(queries["ts"], pa.scalar(since, queries["ts"].type)))
    owner, view = data.column("item_id"), data.column("view")
    main = {item: row for row, item in enumerate(owner) if item is not None and view[row] == "main"}
    row_of = {image: row for row, image in enumerate(data.column("image_id"))}
    photos = [row_of[image] for image in dict.fromkeys(fresh["image_id"].to_pylist()) if image in row_of]
    rows: NDArray[np.int64] = np.array([row for row in photos if owner[row] in main], dtype=np.int64)
    if not len(rows):
        return {"photos": 0.0}
    catalogue = np.array([main[owner[row]] for row in rows])
    agreement = view_consistency(model.encode(data.embedding[rows]), model.encode(data.embedding[catalogue]))
    return {"photos": float(len(rows)), **{f"vc@{level}": float(v) for level, v in enumerate(agreement, 1)}}
