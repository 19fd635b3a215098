"""Events are counted against the log, whatever a delivery lacks, adds or repeats."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.snapshots import AS_OF

from onevision.rehearsal.counting import count_events

TIMES = {f"e{n}": AS_OF - timedelta(hours=10 * n) for n in range(6)} | {"tomorrow": AS_OF + timedelta(hours=1)}


def folder(path: Path, ids: list[str], aside: list[str] | None = None) -> Path:
    (path / "quarantine").mkdir(parents=True)
    times = pa.array([TIMES.get(name, AS_OF) for name in ids], pa.timestamp("us", tz="UTC"))
    pq.write_table(pa.table({"event_id": pa.array(ids, pa.string()), "ts": times}), path / "events.parquet")
    if aside is not None:
        pq.write_table(pa.table({"event_id": aside, "reason": ["r"] * len(aside)}), path / "quarantine/events.parquet")
    return path


@pytest.mark.parametrize(
    ("delivered", "taken", "aside", "found"),
    [
        ("e0 e1 e2 e3 e4 e5", "e0 e1 e2 e3 e4", "e5", {"taken": 5, "aside": 1, "late": 0, "lost": 0, "doubled": 0}),
        ("e1 e2 e3 e4 e5", "e1 e2 e3 e4 e5", "", {"late": 1, "lost": 0}),  # of the newest day: it may come tomorrow
        ("e0 e1 e2 e3 e5", "e0 e1 e2 e3 e5", "", {"late": 0, "lost": 1}),  # of the day before: it should be here
        ("e0 e1 e2 e3 e4 e5", "e0 e1 e2 e3 e4", "", {"lost": 1, "late": 0}),
        ("e0 e1 e2 e3 e4 e5", "e0 e1 e2 e3 e4 e5 e5", "e1", {"doubled": 2, "lost": 0}),
        ("e0 e1 e2 e3 e4 e5 bot", "e0 e1 e2 e3 e4 e5 bot", "", {"foreign": 1, "foreign_taken": 1, "lost": 0}),
        ("e0 e1 e2 e3 e4 e5 bot", "e0 e1 e2 e3 e4 e5", "bot", {"foreign": 1, "foreign_taken": 0, "doubled": 0}),
    ],
)
def test_every_event_is_taken_set_aside_late_or_lost(
    tmp_path: Path, delivered: str, taken: str, aside: str, found: dict[str, int]
) -> None:
    log = folder(tmp_path / "log", list(TIMES))
    day = folder(tmp_path / "day", delivered.split())
    counts = count_events(log, day, folder(tmp_path / "clean", taken.split(), aside.split() or None), AS_OF)
    assert counts["happened"] == 6
    assert {name: counts[name] for name in found} == found
