"""The figures at the top of reports and model cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onevision.artifacts import Artifact, finish_artifact, start_artifact
from onevision.evaluation.comparison import Comparison, Truth
from onevision.publishing.headline import METRICS, Headline, read_headline

SAMPLES, SEED, ITEMS = 200, 3, 80


@pytest.fixture
def comparison() -> Comparison:
    rng = np.random.default_rng(0)
    rankings = {name: np.array([rng.permutation(ITEMS)[:50] for _ in range(60)]) for name in ("dense", "generator")}
    return Comparison.of(
        rankings, Truth.of([[int(rng.integers(ITEMS))] for _ in range(60)]), samples=SAMPLES, seed=SEED
    )


def write_ranks(path: Path, comparison: Comparison, order: list[int]) -> Artifact:
    start_artifact(path)
    rows = [
        {"query_id": f"q{99 - n}", "system": system, "rank": int(ranks[n]) or None}
        for system, ranks in comparison.ranks.items()
        for n in order
    ]
    pq.write_table(pa.Table.from_pylist(rows), path / "ranks.parquet")
    return finish_artifact(path, "evaluation", extra={"bootstrap_samples": SAMPLES, "seed": SEED})


def test_figures_and_intervals_are_those_of_the_evaluation(comparison: Comparison, tmp_path: Path) -> None:
    headline = read_headline(write_ranks(tmp_path / "evaluation", comparison, list(range(60))))
    assert headline.queries == 60
    for name in ("dense", "generator"):
        figures = headline.system(name)
        assert figures is not None
        wanted = comparison.intervals(name)
        for metric, interval in zip(METRICS, figures.intervals, strict=True):
            assert interval.mean == pytest.approx(wanted[metric].mean)
            assert (interval.low, interval.high) == pytest.approx((wanted[metric].low, wanted[metric].high))
    assert headline.system("cascade") is None


def test_the_same_queries_in_another_order_are_the_same_test_queries(comparison: Comparison, tmp_path: Path) -> None:
    def of(name: str, order: list[int]) -> Headline:
        return read_headline(write_ranks(tmp_path / name, comparison, order))

    everyone, backwards, fewer = of("a", list(range(60))), of("b", list(range(60))[::-1]), of("c", list(range(59)))
    assert everyone.test_queries == backwards.test_queries != fewer.test_queries
