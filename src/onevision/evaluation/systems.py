"""The systems that are compared, each asked for the same number of places for the same queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.artifacts import read_json
from onevision.data.images import decode_image
from onevision.data.snapshot import Snapshot
from onevision.encoder.thumbnails import item_thumbnails
from onevision.evaluation.cascade import MAX_TRAINING_SEARCHES, Cascade
from onevision.evaluation.click_log import ClickLog
from onevision.evaluation.comparison import PLACES
from onevision.evaluation.config import EvaluationConfig
from onevision.evaluation.dense import DenseSearch
from onevision.evaluation.items import Items
from onevision.evaluation.latency import latencies_ms
from onevision.evaluation.searches import Searches, microseconds
from onevision.features.queries import QuerySet

if TYPE_CHECKING:
    from onevision.decoding.ranker import GeneratorRanker
    from onevision.generator.token_pruning import PruningSetting
    from onevision.pruning.photos import Photos

ORACLES = {"oracle_with_taste": "with_taste", "oracle_visual": "visual_only"}
"""System -> column of the synthetic shop's `oracle_queries.parquet`."""
PAGE = 50
"""Items that a system is asked for when it is timed."""


@dataclass
class System:
    """One system's answers.

    Attributes:
        items: (Q, PLACES) item rows, best first, -1 where there is none; an oracle names fewer.
        invalid_rate: share of beams that were no item; None for systems that cannot write one.
        latency: `latency_ms_p50`, ... of one query at batch size 1; empty where it was not timed.
    """

    items: NDArray[np.int64]
    invalid_rate: float | None = None
    latency: dict[str, float] = field(default_factory=dict)


class Clock:
    """Times systems on the same queries, evenly taken from all of them."""

    def __init__(self, queries: int, timed: int) -> None:
        self._rows = np.unique(np.linspace(0, queries - 1, min(timed, queries)).astype(np.int64))

    def time(self, answer: Callable[[int], object]) -> dict[str, float]:
        """Latencies of `answer(row)`."""
        return latencies_ms(lambda turn: answer(int(self._rows[turn])), len(self._rows))


def train_cascade(
    items: Items,
    dense: DenseSearch,
    shop: Snapshot,
    pairs: Path,
    encoder: Path,
    features: Path,
    config: EvaluationConfig,
    seed: int,
) -> Cascade:
    """Fit the cascade, whose first stage is `dense`, on the training and validation queries."""
    end = microseconds(read_json(pairs / "splits.json")["train_end"])
    loaded = (
        QuerySet.load(pairs, encoder, features, split=split, limit=MAX_TRAINING_SEARCHES)
        for split in ("train", "validation")
    )
    training, validation = (Searches.of(queries, items) for queries in loaded)
    log = ClickLog.of(training, *_clicks(shop, items), end)
    thumbnail = item_thumbnails(shop, items.item_id.tolist())
    size = {"candidates": config.recall_candidates, "trees": config.ranker_trees}
    return Cascade(items, dense, log, thumbnail, **size, seed=seed).fit(training, validation)


def dense_system(dense: DenseSearch, searches: Searches, clock: Clock) -> System:
    """Nearest neighbours; timed from the photo's embedding."""
    found = dense.search(searches.embedding, PLACES)[0]
    return System(found, latency=clock.time(lambda row: dense.search(searches.embedding[row : row + 1], PAGE)))


def cascade_system(cascade: Cascade, searches: Searches, clock: Clock) -> System:
    """Recall, features and ranker; timed from the photo's embedding and the user's sequences."""
    found = cascade.rank(searches, PLACES, progress="cascade")[0]
    return System(found, latency=clock.time(lambda row: cascade.rank(searches.take(slice(row, row + 1)), PAGE)))


def generator_system(
    name: str, ranker: GeneratorRanker, queries: QuerySet, beam_width: int, clock: Clock | None
) -> System:
    """A generator; timed, with a clock, from embedding, patch tokens and sequences: prompt, beams and buckets."""
    ranking = ranker.rank(queries, beam_width, PLACES, progress=name)
    timed = clock.time(lambda row: ranker.rank(queries.take([row]), beam_width, PAGE)) if clock else {}
    return System(np.asarray(ranking.items, dtype=np.int64), float(ranking.invalid_rate), timed)


def oracle_systems(shop: Snapshot, queries: QuerySet, items: Items) -> dict[str, System]:
    """The synthetic shop's ceilings as systems; none for another shop."""
    path = shop.path / "oracle_queries.parquet"
    if not path.exists():
        return {}
    table = pq.read_table(path)
    place = pc.index_in(pa.array(queries.query_id, pa.string()), value_set=table["query_id"].combine_chunks())
    known = table.take(place)
    return {system: System(_padded(items.row_lists(known[column].to_pylist()))) for system, column in ORACLES.items()}


def image_tower_latency(photos: Photos, queries: QuerySet, clock: Clock, setting: PruningSetting) -> dict[str, float]:
    """Decoding and embedding one photo by a setting: what every system needs before it starts."""

    def answer(row: int) -> object:
        pixels = decode_image(photos.images.read(queries.image_id[row]), photos.encoder.encoder.image_size)
        return photos.encoder.embed(pixels[None], setting)

    return clock.time(answer)


def _clicks(shop: Snapshot, items: Items) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Item row and time (microseconds) of every click on a known item."""
    events = shop.table("events")
    events = events.filter(pc.equal(events["event_type"], "click"))
    rows = pc.index_in(events["item_id"], value_set=items.arrow_ids())
    known = pc.is_valid(rows)
    ts = events["ts"].cast("int64").filter(known).to_numpy()
    return rows.filter(known).to_numpy().astype(np.int64), ts


def _padded(lists: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    out = np.full((len(lists), max(len(found) for found in lists)), -1, dtype=np.int64)
    for row, found in enumerate(lists):
        out[row, : len(found)] = found
    return out
