"""Every event of the log counted: taken, set aside, still on its way; lost or doubled is what must not be.

The log is what truly happened. A night is delivered a part of it, and may be delivered what never happened (a flood);
what it took is its validated snapshot, what it set aside is in the quarantine there.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.data.contract import TABLES

_EVENTS = TABLES["events"].file


def count_events(log: Path, delivered: Path, clean: Path, as_of: datetime) -> dict[str, int]:
    """What became of the log's events up to `as_of`.

    Args:
        log: the snapshot of everything that happens; delivered: the night's; clean: what its validation wrote.

    Returns:
        `happened`, and of these `taken`, `aside`, `late` (not delivered yet, of the newest day) and `lost`; `foreign`:
        delivered, but never happened, and of these `foreign_taken`; `doubled`: taken or set aside more than once.
    """
    times = pq.read_table(log / _EVENTS, columns=["event_id", "ts"])
    times = times.filter(pc.less_equal(times["ts"], pa.scalar(as_of, times["ts"].type)))
    happened, given, taken = times["event_id"], _ids(delivered / _EVENTS), _ids(clean / _EVENTS)
    aside = _ids(clean / "quarantine" / _EVENTS)
    handled = pa.chunked_array([*taken.chunks, *aside.chunks], pa.string())
    newest = pc.greater(times["ts"], pa.scalar(as_of - timedelta(days=1), times["ts"].type))
    late = pc.and_(newest, pc.invert(pc.is_in(happened, given.combine_chunks())))
    missing = pc.and_(pc.invert(pc.is_in(happened, handled.combine_chunks())), pc.invert(late))
    return {
        "happened": len(happened),
        "taken": _common(happened, taken),
        "aside": _common(happened, aside),
        "late": _true(late),
        "lost": _true(missing),
        "foreign": len(given) - _common(given, happened),
        "foreign_taken": len(taken) - _common(taken, happened),
        "doubled": len(handled) - len(handled.unique()),
    }


def _ids(path: Path) -> pa.ChunkedArray:
    if not path.exists():
        return pa.chunked_array([], pa.string())
    return pq.read_table(path, columns=["event_id"])["event_id"].cast(pa.string())


def _common(values: pa.ChunkedArray, among: pa.ChunkedArray) -> int:
    return _true(pc.is_in(values, among.combine_chunks()))


def _true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
