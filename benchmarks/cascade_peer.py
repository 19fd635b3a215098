"""What a cascade costs beside the generator: a faiss index, then a LightGBM ranker on what it recalls.

Everything that would make it slower is left out: candidates' features are random and ready in memory, where a real
cascade fetches and computes them for every request; only vectors of the items are kept, one an item.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import faiss
import lightgbm
import numpy as np

from onevision.evaluation.cascade_features import FEATURES
from onevision.evaluation.config import EvaluationConfig

LISTS_PROBED = 1 / 128
SEED = 7


def make_index(vectors: np.ndarray) -> tuple[Any, float]:
    """An inverted file over raw vectors (I, d), as many lists as the root of I, and its memory in bytes an item."""
    lists = 2 ** round(np.log2(len(vectors)) / 2)
    index: Any = faiss.index_factory(vectors.shape[1], f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = 64
    index.cp.seed = SEED
    index.train(vectors)
    index.add(vectors)
    index.nprobe = max(1, round(lists * LISTS_PROBED))
    return index, faiss.serialize_index(index).nbytes / len(vectors)


def make_ranker(trees: int) -> lightgbm.Booster:
    """A ranker with as many trees, leaves and features as the cascade of the evaluation, on noise."""
    rng = np.random.default_rng(SEED)
    features = rng.standard_normal((20_000, len(FEATURES)))
    labels = (features[:, :3].sum(1) + rng.standard_normal(len(features)) > 2).astype(int)
    settings = {"objective": "lambdarank", "num_leaves": 31, "num_threads": 1, "seed": SEED, "verbosity": -1}
    data = lightgbm.Dataset(features, labels, group=[200] * (len(features) // 200))
    return lightgbm.train(settings, data, num_boost_round=trees)


def cascade_figures(
    vectors: np.ndarray, queries: np.ndarray, cpu_ms: Callable[[Callable[[], Any], int], float]
) -> dict[str, float]:
    """CPU ms a query of index and ranker (single queries), and the index's bytes an item and build time."""
    faiss.omp_set_num_threads(1)
    config = EvaluationConfig()
    began = time.process_time()
    index, size = make_index(vectors)
    built = time.process_time() - began
    ranker = make_ranker(config.ranker_trees)
    features = np.random.default_rng(SEED).standard_normal((config.recall_candidates, len(FEATURES)))
    singles = np.split(queries, len(queries))
    recall = cpu_ms(lambda: [index.search(query, config.recall_candidates) for query in singles], 10) / len(singles)
    rank = cpu_ms(lambda: [ranker.predict(features, num_threads=1) for _ in singles], 5) / len(singles)
    return {"index_ms": recall, "ranker_ms": rank, "bytes_an_item": size, "build_cpu_s": built}
