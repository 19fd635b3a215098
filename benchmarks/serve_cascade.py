"""`onevision serve` with a cascade in the generator's place: `python benchmarks/serve_cascade.py serve --bundle DIR`

The same server, encoder, batches and answers. A photo's vector then recalls items from a faiss index, and LightGBM
ranks them (`cascade_peer`, where the candidates' features cost nothing: a floor of what a cascade takes).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import faiss
import numpy as np
from cascade_peer import SEED, make_index, make_ranker

from onevision import cli
from onevision.decoding.ranker import GeneratorRanker, Ranking
from onevision.evaluation.cascade_features import FEATURES
from onevision.evaluation.config import EvaluationConfig
from onevision.features.queries import QuerySet

CONFIG = EvaluationConfig()


@lru_cache(maxsize=2)
def cascade(ranker: GeneratorRanker) -> tuple[Any, Any, np.ndarray]:
    """Index, ranker, and features of the candidates of one query."""
    faiss.omp_set_num_threads(1)
    vectors = np.ascontiguousarray(ranker.catalogue.embedding, dtype=np.float32)
    candidates = min(CONFIG.recall_candidates, len(vectors))
    features = np.random.default_rng(SEED).standard_normal((candidates, len(FEATURES)))
    return make_index(vectors)[0], make_ranker(CONFIG.ranker_trees), features


def rank(self: GeneratorRanker, queries: QuerySet, _beam_width: int, k: int, **_: Any) -> Ranking:
    """Items and scores of the best `k` for every query, as `GeneratorRanker.rank` gives them."""
    index, ranker, features = cascade(self)
    count, candidates = len(queries), len(features)
    _, items = index.search(np.ascontiguousarray(queries.embedding, dtype=np.float32), candidates)
    predicted = ranker.predict(np.tile(features, (count, 1)), num_threads=1)
    scores = predicted.astype(np.float32).reshape(count, candidates)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    none = np.zeros(count, np.int64)  # it reads no tokens and writes no codes
    return Ranking(
        np.take_along_axis(items, best, 1), np.take_along_axis(scores, best, 1), none[:, None], none, none, 0.0
    )


if __name__ == "__main__":
    GeneratorRanker.rank = rank  # type: ignore[assignment, method-assign]
    cli.main()
