"""Stage `pair`: split a snapshot by time, collect its queries, and mine and clean positive pairs of views."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from onevision.artifacts import finish_artifact, start_artifact, write_json
from onevision.data.snapshot import Snapshot
from onevision.errors import OneVisionError
from onevision.pairing.config import PairingConfig
from onevision.pairing.contact_sheet import contact_sheet
from onevision.pairing.engines import Engine, open_engine
from onevision.pairing.mining import KINDS
from onevision.pairing.splits import SPLITS, TimeSplit, require_training_events
from onevision.pairing.tables import PairTables, write_pairs
from onevision.report import ReportTable, StageReport

PAIRS_KIND = "pairs"
_OUTCOMES = ("clicked", "carted", "ordered")
_FLAGS = ("cold_item", "cold_user", "personal")
_NO_ENCODER = (
    "the similarity window (click-only pairs below 0.6, ordered pairs below 0.4) was not applied: "
    "it needs a trained encoder, and pairing comes before there is one"
)


def run(*, snapshot: Path, out: Path, config: PairingConfig, seed: int) -> StageReport:
    """Write the `pairs` artifact.

    Raises:
        OneVisionError: no event in the training days, or no search by photo at all.
        ContractError: events that point at nothing or lie in the future (the snapshot was not validated).
        MissingDependencyError: Spark is asked for and PySpark is not installed.
    """
    source = Snapshot.open(snapshot)
    with open_engine(config) as engine:
        return _pair(engine, source, out, config, seed)


def _pair(engine: Engine, source: Snapshot, out: Path, config: PairingConfig, seed: int) -> StageReport:
    split = TimeSplit.before(source.as_of, config.validation_days, config.test_days)
    tables = PairTables(engine, source, split, config, seed)
    require_training_events(split, tables.first_event(), config.validation_days + config.test_days)
    tables.require_sound()
    tables.collect_searches()
    searches = tables.count("SELECT COUNT(*) FROM searches")
    if searches == 0:
        raise OneVisionError(
            f"{source.path}: no searches by photo: no event (of an honest user) in table 'events' has query_id and "
            "query_image_id. Without them there is nothing to learn a search from and nothing to measure it on; "
            "fill these two columns for the events of a search"
        )
    image_splits = tables.split_pictures()
    queries = tables.queries()
    pairs, steps = tables.pairs()
    counts = _counts(tables, searches, image_splits, queries, steps)
    start_artifact(out)
    write_json(out / "splits.json", split.iso())
    pq.write_table(queries, out / "queries.parquet")
    write_pairs(pairs, out / "image_pairs.parquet")
    pq.write_table(image_splits, out / "image_splits.parquet")
    finish_artifact(out, PAIRS_KIND, parents={"snapshot": source.artifact}, counts=counts)
    return StageReport(
        stage="pair",
        counts=counts,
        warnings=[_NO_ENCODER, *_warnings(counts)],
        tables=[_pair_table(steps), _query_table(queries)],
        figures=[contact_sheet(source.images, pairs, seed)],
    )


def _counts(
    tables: PairTables,
    searches: int,
    image_splits: pa.Table,
    queries: pa.Table,
    steps: list[tuple[str, dict[str, int]]],
) -> dict[str, int]:
    left = [sum(kinds.values()) for _, kinds in steps]
    by_split, pictures = Counter(queries["split"].to_pylist()), Counter(image_splits["split"].to_pylist())
    return {
        "events_in": tables.count("SELECT COUNT(*) FROM events"),
        "events_of_bots_or_impossible_users": tables.count("SELECT COUNT(*) FROM log WHERE NOT honest"),
        "searches_in": searches,
        "queries_out": queries.num_rows,
        "queries_with_a_later_picture": searches - queries.num_rows,
        **{f"queries_{split}": by_split[split] for split in SPLITS},
        **{f"pictures_{split}": pictures[split] for split in (*SPLITS, "catalogue_cold")},
        "pairs_mined": left[0],
        **{f"pairs_dropped_{steps[i][0]}": left[i - 1] - left[i] for i in range(1, len(steps))},
        "pairs_out": left[-1],
    }


def _warnings(counts: dict[str, int]) -> list[str]:
    found = [f"no queries in the {split} days" for split in SPLITS if counts[f"queries_{split}"] == 0]
    if counts["pairs_out"] == 0:
        found.append("no pair was left after cleaning; the table of pairs says which rule took them")
    return found


def _pair_table(steps: list[tuple[str, dict[str, int]]]) -> ReportTable:
    rules = [rule.replace("_", " ") for rule, _ in steps[1:]]
    rows = []
    for kind in KINDS:
        left = [kinds[kind] for _, kinds in steps]
        rows.append([kind, left[0], *(before - after for before, after in pairwise(left)), left[-1]])
    caption = "Pairs mined, dropped by each rule in this order, and kept."
    return ReportTable("Pairs by kind", ["kind", "mined", *rules, "kept"], rows, caption)


def _query_table(queries: pa.Table) -> ReportTable:
    rows = []
    for split in SPLITS:
        of_split = queries.filter(pc.equal(queries["split"], split))
        outcomes = [pc.sum(pc.greater(pc.list_value_length(of_split[name]), 0)).as_py() or 0 for name in _OUTCOMES]
        flags = [pc.sum(of_split[name]).as_py() or 0 for name in _FLAGS]
        rows.append([split, of_split.num_rows, *outcomes, *flags])
    titles = [name.replace("_", " ") for name in (*_OUTCOMES, *_FLAGS)]
    caption = "Searches by photo, how many led to something, and how many concern what training has not seen."
    return ReportTable("Queries by split", ["split", "queries", *titles], rows, caption)
