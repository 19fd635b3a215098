"""The multi-stage cascade that the generator is measured against: dense recall by faiss, then a personalised ranker.

It is built to win: the ranker (LightGBM LambdaRank) sees the photo's embedding, the shopper's histories and profile,
brand, price and click rates, as the generator and its choice model do. Its setting, whether it reads the page, and its
number of trees are chosen on the validation days; recall depth is the recipe's. It learns from the newest training
searches, and once it is tuned from those of the validation days too, as the reranker does that alignment fits.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from onevision.artifacts import read_json, write_json
from onevision.errors import ArtifactError, OneVisionError
from onevision.evaluation.cascade_features import CATEGORICAL, FEATURES, NEIGHBOURS, PAGE, FeatureBuilder
from onevision.evaluation.click_log import ClickLog
from onevision.evaluation.dense import DenseSearch
from onevision.evaluation.items import Items
from onevision.evaluation.searches import Searches

FOLDER, RANKER, SETTINGS, THUMBNAILS = "cascade", "ranker.txt", "cascade.json", "thumbnails.safetensors"
CLICK_LABEL, ORDER_LABEL = 1, 2
LABEL_GAIN = (0, 2, 3)
"""Gain of nothing, a click, an order."""
NEAREST_NEGATIVES, RANDOM_NEGATIVES = 40, 40
"""Candidates of a training search: the nearest ones, and others of the recalled ones at random."""
UNSEEN_SHARE = 0.2
"""Training candidates that are shown to the ranker as if nobody had clicked them yet."""
MAX_TRAINING_SEARCHES, MAX_VALIDATION_SEARCHES = 20_000, 1_500
_FRACTIONS: dict[str, dict[str, Any]] = {
    "most features a tree": {"feature_fraction": 0.8},
    "bagged": {"feature_fraction": 0.5, "bagging_fraction": 0.5, "bagging_freq": 1},
}
_WITHOUT_PAGE = {"feature_contri": [float(name not in PAGE) for name in FEATURES]}
_SETTINGS = {
    name + without: setting | more
    for without, more in (("", {}), (", without the page", _WITHOUT_PAGE))
    for name, setting in _FRACTIONS.items()
}
"""What validation chooses among."""
_PATIENCE = 30


@dataclass
class _Groups:
    features: NDArray[np.float32]
    labels: NDArray[np.int32]
    sizes: NDArray[np.int32]

    def joined(self, others: _Groups) -> _Groups:
        """These searches and others."""
        columns = zip(vars(self).values(), vars(others).values(), strict=True)
        return _Groups(*(np.concatenate(pair) for pair in columns))

    def dataset(self, reference: Any = None) -> Any:
        """As LightGBM reads it; `reference` is the training set that a validation set is binned like."""
        import lightgbm

        return lightgbm.Dataset(
            self.features,
            self.labels,
            group=self.sizes,
            feature_name=list(FEATURES),
            categorical_feature=list(CATEGORICAL),
            reference=reference,
            params={"verbosity": -1},
            free_raw_data=False,
        )


class Cascade:
    """Recall of `candidates` items, then a ranker of at most `trees` trees.

    Args:
        items: all that may be found; training never shows one before it entered.
        dense: the recall, over the same items.
        log: the clicks that the ranker's features may know.
        thumbnail: (I, t) of the items (`encoder.thumbnails`).
    """

    def __init__(
        self,
        items: Items,
        dense: DenseSearch,
        log: ClickLog,
        thumbnail: NDArray[np.float32],
        *,
        candidates: int,
        trees: int,
        seed: int,
    ) -> None:
        self._dense, self._log, self._created, self._thumbnail = dense, log, items.created, thumbnail
        self._builder = FeatureBuilder(items, log, thumbnail)
        self._candidates, self._trees, self._seed = candidates, trees, seed
        self._ranker: Any = None
        self.validation_ndcg_: dict[str, float] = {}
        """NDCG@10 on the validation searches of every setting tried."""

    def fit(self, training: Searches, validation: Searches) -> Cascade:
        """Choose setting and number of trees on the newest validation searches with a click, of rankers that learn from
        the newest training searches; then train that one on both."""
        training = _newest_with_clicks(training, MAX_TRAINING_SEARCHES)
        if not len(training):
            raise OneVisionError("no training search has a click on a catalogue item: the cascade has nothing to learn")
        rng = np.random.default_rng(self._seed)
        groups = self._groups(training, rng)
        held_out = self._groups(_newest_with_clicks(validation, MAX_VALIDATION_SEARCHES), None)
        best, chosen = -1.0, (self._trees, next(iter(_SETTINGS.values())))
        for name, setting in _SETTINGS.items():
            trees, score = self._tune(groups, held_out, setting)
            self.validation_ndcg_[f"{name}, {trees} trees"] = score
            if score > best:
                best, chosen = score, (trees, setting)
        both = groups.joined(self._groups(_newest_with_clicks(validation, MAX_TRAINING_SEARCHES), rng))
        self._ranker = self._train(both.dataset(), *chosen)
        return self

    def save(self, folder: Path) -> None:
        """Write what was learned: `ranker.txt` (LightGBM's own text), `cascade.json` and the click log.

        Of the items only the thumbnails are written: the rest is in the semantic IDs that it was trained with.
        """
        folder.mkdir(parents=True)
        model = re.sub(r"\[num_threads: \d+\]", "[num_threads: 0]", self._ranker.model_to_string())
        (folder / RANKER).write_text(model)  # of the same features any number of threads grows the same trees
        settings = {"candidates": self._candidates, "trees": self._trees, "seed": self._seed, "features": FEATURES}
        write_json(folder / SETTINGS, settings)
        save_file({"thumbnail": self._thumbnail}, folder / THUMBNAILS)
        self._log.save(folder)

    @classmethod
    def load(cls, folder: Path, items: Items) -> Cascade:
        """Read what `save` wrote; `items` are those that it was trained with.

        Raises:
            ArtifactError: its ranker reads other features than this library computes.
        """
        import lightgbm

        settings = read_json(folder / SETTINGS)
        if tuple(settings.pop("features")) != FEATURES:
            raise ArtifactError(f"{folder}: its ranker reads other features than this library has; evaluate again")
        dense = DenseSearch(items.view_embedding, items.view_item, len(items))
        thumbnail = load_file(folder / THUMBNAILS)["thumbnail"]
        cascade = cls(items, dense, ClickLog.load(folder), thumbnail, **settings)
        cascade._ranker = lightgbm.Booster(model_file=folder / RANKER)
        return cascade

    def rank(
        self,
        searches: Searches,
        k: int,
        *,
        allowed: NDArray[np.bool_] | None = None,
        progress: str | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The `k` best items of each search: rows (Q, k), -1 where there are no more, and the ranker's scores.

        Behind what is ranked come the next of the recall, in its order, with the score -inf.

        Args:
            allowed: (I,), the only items that may be found; by default all. What is near the photo is judged by all.
        """
        rows = np.full((len(searches), k), -1, dtype=np.int64)
        scores = np.full((len(searches), k), -np.inf, dtype=np.float32)
        recalled = self._dense.search(searches.embedding, max(self._candidates, k), allowed)[0]
        near = recalled if allowed is None else self._dense.search(searches.embedding, self._candidates)[0]
        for row, nearest in enumerate(tqdm(recalled, desc=progress, disable=None if progress else True)):
            found, rest = nearest[: self._candidates], nearest[self._candidates :]
            candidates = found[found >= 0]
            if not len(candidates):
                continue
            features = self._builder.build(searches, row, candidates, near[row, : self._candidates])
            score = np.asarray(self._ranker.predict(features, num_threads=1))
            order = np.argsort(-score, kind="stable")[:k]  # ties keep the order of recall
            rows[row, : len(order)] = candidates[order]
            scores[row, : len(order)] = score[order]
            rest = rest[: k - len(order)]
            rows[row, len(order) : len(order) + len(rest)] = rest
        return rows, scores

    def importance(self) -> dict[str, float]:
        """Share of the ranker's gain that each feature brings, largest first."""
        gain = self._ranker.feature_importance("gain")
        shares = dict(zip(FEATURES, (gain / max(gain.sum(), 1e-12)).tolist(), strict=True))
        return dict(sorted(shares.items(), key=lambda entry: -entry[1]))

    def _tune(self, groups: _Groups, held_out: _Groups, setting: dict[str, Any]) -> tuple[int, float]:
        """How many trees a setting needs, and its NDCG@10 on `held_out` then; all trees, and 0, if that is empty."""
        import lightgbm

        if not len(held_out.sizes):
            return self._trees, 0.0
        data = groups.dataset()
        stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
        ranker = self._train(data, self._trees, setting, valid_sets=[held_out.dataset(data)], callbacks=[stop])
        return ranker.best_iteration, float(ranker.best_score["valid_0"]["ndcg@10"])

    def _train(self, data: Any, trees: int, setting: dict[str, Any], **watched: Any) -> Any:
        import lightgbm

        return lightgbm.train(self._parameters() | setting, data, num_boost_round=trees, **watched)

    def _parameters(self) -> dict[str, Any]:
        return {
            "objective": "lambdarank",
            "metric": "ndcg",
            "eval_at": [10],
            "label_gain": list(LABEL_GAIN),
            "learning_rate": 0.05,
            "num_leaves": 31,
            "min_data_in_leaf": 50,
            "lambda_l2": 1.0,
            "lambdarank_truncation_level": 20,
            "seed": self._seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": int(os.environ.get("OMP_NUM_THREADS", "2")),
            "verbosity": -1,
        }

    def _groups(self, searches: Searches, rng: np.random.Generator | None) -> _Groups:
        """Labelled candidates of every search; with `rng` (training) a sample of them, some made to look unseen."""
        matrices, labels = [], []
        recalled = self._dense.search(searches.embedding, self._candidates)[0]
        for row, found in enumerate(tqdm(recalled, desc="cascade features", unit="search", disable=None)):
            found = found[found >= 0]
            candidates, unseen = found, None
            if rng is not None:
                candidates = self._training_candidates(searches, row, found, rng)
                unseen = rng.random(len(candidates)) < UNSEEN_SHARE
            label = np.where(np.isin(candidates, searches.clicked[row]), CLICK_LABEL, 0)
            label[np.isin(candidates, searches.ordered[row])] = ORDER_LABEL
            matrices.append(self._builder.build(searches, row, candidates, found[:NEIGHBOURS], unseen))
            labels.append(label)
        if not matrices:
            return _Groups(np.zeros((0, len(FEATURES)), np.float32), np.zeros(0, np.int32), np.zeros(0, np.int32))
        sizes = np.array([len(label) for label in labels], dtype=np.int32)
        return _Groups(np.concatenate(matrices), np.concatenate(labels).astype(np.int32), sizes)

    def _training_candidates(
        self, searches: Searches, row: int, found: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """What could have been shown then: clicked, ordered and shown items, near neighbours, and some of the rest."""
        nearest, rest = found[:NEAREST_NEGATIVES], found[NEAREST_NEGATIVES:]
        drawn = rng.choice(rest, size=min(RANDOM_NEGATIVES, len(rest)), replace=False)
        seen = [searches.clicked[row], searches.ordered[row], searches.shown[row]]
        candidates = np.unique(np.concatenate([*seen, nearest, drawn]))
        return candidates[self._created[candidates] <= searches.ts[row]]


def _newest_with_clicks(searches: Searches, limit: int) -> Searches:
    clicked = np.flatnonzero([len(items) > 0 for items in searches.clicked])
    newest = clicked[np.argsort(searches.ts[clicked], kind="stable")][-limit:]
    return searches.take(newest)
