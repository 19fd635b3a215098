"""The champion beside the challenger: what the shop gets if the night leaves everything as it is.

The champion answers the same queries as it is served: its own generator, pruning and catalogue, without the items
that are new. It is measured on all queries, and on those whose answer it could have found; for these the items that
it does not know are taken out of the challenger's ranking, and items that have left out of its own, so that the models
are compared and not their catalogues.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onevision.artifacts import Artifact, open_artifact
from onevision.data.snapshot import Snapshot
from onevision.evaluation.comparison import PLACES, Comparison
from onevision.evaluation.gate import CHALLENGER, ITEMS_MOVED
from onevision.evaluation.items import UNKNOWN, Items
from onevision.evaluation.systems import PAGE, Clock, System
from onevision.features.queries import QuerySet
from onevision.metrics import hit_rate, mean_interval, mrr
from onevision.semantic_ids.lookup import diff

CHAMPION = "champion"
KNOWN = "known"
_GATED = {"hr@10": hit_rate, "mrr@10": mrr}


@dataclass(frozen=True)
class Beside:
    """A champion that was asked.

    Attributes:
        system: its answers, in the challenger's item rows.
        item_known: (I,) whether its catalogue has the item; known: (Q,) whether it has the one clicked first.
        codes: `champion/items_moved`, `items_new` and `items_gone`, between its semantic IDs and the challenger's.
    """

    system: System
    item_known: NDArray[np.bool_]
    known: NDArray[np.bool_]
    codes: dict[str, float]

    @classmethod
    def ask(
        cls,
        champion: Artifact,
        semantic_ids: Path,
        queries: QuerySet,
        shop: Snapshot,
        items: Items,
        clock: Clock,
    ) -> Beside:
        """Rank the queries with a champion's bundle, by the pruning and the beam width that it is served with."""
        from onevision.decoding.ranker import GeneratorRanker
        from onevision.pruning.photos import as_served

        parts = [champion.path / part for part in ("encoder", "semantic_ids", "generator", "pruning")]
        ranker = GeneratorRanker.open(*parts)
        queries = as_served(queries, ranker, parts[0], shop.images)
        width = int(champion.extra["beam_width"])
        ranking = ranker.rank(queries, width, PLACES, progress=CHAMPION)
        latency = clock.time(lambda row: ranker.rank(queries.take([row]), width, PAGE))
        ids = ranker.catalogue.item_ids
        row_of = np.array([*(items.row(item) for item in ids), UNKNOWN])  # -1, nothing found, is the last one
        changed = diff(open_artifact(parts[1]), open_artifact(semantic_ids)).counts
        item_known = np.isin(np.arange(len(items)), row_of)
        return cls(
            System(row_of[ranking.items], float(ranking.invalid_rate), latency),
            item_known,
            item_known[[items.row(clicked[0]) for clicked in queries.clicked]],
            {
                ITEMS_MOVED: changed["moved"],
                "champion/items_new": changed["new"],
                "champion/items_gone": changed["gone"],
            },
        )

    def metrics(self, challenger: System, comparison: Comparison) -> dict[str, float]:
        """The codes, and the paired differences over queries whose answer the champion knows."""
        flat: dict[str, float] = {**self.codes, f"queries/{CHAMPION}_{KNOWN}": float(self.known.sum())}
        if not self.known.any():
            return flat
        rankings = [self.only_known(system.items[self.known]) for system in (challenger, self.system)]
        relevant = [comparison.truth.relevant[row] for row in np.flatnonzero(self.known)]
        for name, metric in _GATED.items():
            own, other = (metric(items, relevant, 10) for items in rankings)
            interval = mean_interval(own - other, comparison.samples, comparison.seed)
            key = f"{CHALLENGER}_minus_{CHAMPION}/{KNOWN}/{name}"
            flat |= {key: interval.mean, f"{key}/low": interval.low, f"{key}/high": interval.high}
        return flat

    def only_known(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rankings (Q, PLACES) of the items that both catalogues hold alone: what the champion does not know goes, and
        the holes of what has left the shop since; the others move up."""
        out = np.full_like(items, UNKNOWN)
        for row, ranking in enumerate(items):
            kept = ranking[(ranking != UNKNOWN) & self.item_known[ranking]]
            out[row, : len(kept)] = kept
        return out
