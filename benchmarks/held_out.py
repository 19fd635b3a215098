"""The test searches of a run, as `evaluate` asks them."""

from __future__ import annotations

from pathlib import Path

from onevision.data.snapshot import Snapshot
from onevision.evaluation.comparison import Truth
from onevision.evaluation.config import EvaluationConfig
from onevision.evaluation.items import Items
from onevision.evaluation.searches import Searches
from onevision.evaluation.stage import held_out_queries
from onevision.features.queries import QuerySet


def test_searches(run: Path) -> tuple[QuerySet, Truth]:
    """Searches with a click on an item of the catalogue, and what was clicked and ordered."""
    items = Items.load(run / "semantic_ids", Snapshot.open(run / "snapshot", verify=False))
    limit = EvaluationConfig().max_queries
    queries, _ = held_out_queries(run / "pairs", run / "encoder", run / "features", items, limit)
    searches = Searches.of(queries, items)
    return queries, Truth.of([c.tolist() for c in searches.clicked], [o.tolist() for o in searches.ordered])
