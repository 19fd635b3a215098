"""What a stage says about its work: counts, metrics, tables and figures, as JSON beside its artifact."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onevision.artifacts import read_json, write_json

REPORT = "report.json"


@dataclass
class Figure:
    """A picture for the report: `svg` markup, or `png`/`html` as text (png base64-encoded)."""

    title: str
    kind: str
    content: str
    caption: str = ""


@dataclass
class ReportTable:
    """A small table for the report: column names and rows of text or numbers."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    caption: str = ""


@dataclass
class StageReport:
    """The report of one stage.

    Attributes:
        stage: name of the stage.
        counts: things in, out and aside; keys such as `items_in`, `items_out`, `items_quarantined`.
        metrics: flat name -> finite number; systems are prefixed, such as `generator_sft/hr@10`.
        warnings: sentences that a person should read.
        seconds: wall-clock time.
        reused: whether the artifact was taken from the stage cache; the seconds are then those of the first run.
    """

    stage: str
    counts: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    tables: list[ReportTable] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    reused: bool = False

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """`ValueError` if a metric is not a finite Python number (JSON and KFP take nothing else)."""
        for name, value in self.metrics.items():
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"stage {self.stage}: metric {name!r} is {value!r}, not a finite number")

    def save(self, folder: Path) -> None:
        """Write `report.json` into an artifact folder (it is no part of the artifact's identity)."""
        self.check()
        write_json(folder / REPORT, asdict(self))

    @classmethod
    def load(cls, folder: Path) -> StageReport:
        """Read `report.json` of an artifact folder."""
        raw = read_json(folder / REPORT)
        raw["tables"] = [ReportTable(**t) for t in raw["tables"]]
        raw["figures"] = [Figure(**f) for f in raw["figures"]]
        return cls(**raw)
