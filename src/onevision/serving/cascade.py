"""A cascade beside the generator: that of an evaluation of the very encoder and catalogue that a bundle serves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onevision.artifacts import Artifact, open_artifact
from onevision.errors import ArtifactError
from onevision.evaluation.cascade import FOLDER, Cascade
from onevision.evaluation.items import Items
from onevision.evaluation.searches import Searches
from onevision.features.queries import QuerySet
from onevision.semantic_ids.catalogue import Catalogue

TRAINED_WITH = ("encoder", "semantic_ids")


def open_evaluation(path: Path) -> Artifact:
    """Verify an `evaluation` artifact; `ArtifactError` if it holds no cascade, as that of a night does not."""
    evaluation = open_artifact(path, "evaluation")
    if not (path / FOLDER).is_dir():
        raise ArtifactError(f"{path}: holds no cascade; run evaluate again, without --champion")
    return evaluation


class ServedCascade:
    """The cascade of an evaluation, for the items of a bundle.

    Args:
        evaluation: of `open_evaluation`.
        brands: of the catalogue's items.

    Raises:
        ArtifactError: it was trained with another encoder or other semantic IDs than the bundle's.
    """

    def __init__(
        self, evaluation: Artifact, bundle: Artifact, catalogue: Catalogue, brands: Sequence[str | None]
    ) -> None:
        for name in TRAINED_WITH:
            if evaluation.parents.get(name) != bundle.parents[name]:
                raise ArtifactError(
                    f"{evaluation.path}: its cascade was trained with {name} {evaluation.parents.get(name)}, bundle "
                    f"{bundle.identity} has {bundle.parents[name]}; give the evaluation of the bundle's own artifacts"
                )
        self._items = Items.of(catalogue, brands)
        self._cascade = Cascade.load(evaluation.path / FOLDER, self._items)

    def rank(
        self, queries: QuerySet, k: int, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items (Q, k) that the ranker ranks, best first, -1 where it ranks no more, and its scores."""
        items, scores = self._cascade.rank(Searches.of(queries, self._items), k, allowed=allowed)
        return np.where(np.isfinite(scores), items, -1), scores
