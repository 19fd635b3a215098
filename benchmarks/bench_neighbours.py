"""Whose 50 nearest items hold what shoppers click: the photo's, or those of the product that was photographed?

python benchmarks/bench_neighbours.py RUN [--json FILE]

RUN is a run on the synthetic shop, which tells what was photographed and how products truly differ. Percent of held-out
searches whose first clicked item is among the 1, 10 and 50 nearest, of all items.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.data.snapshot import Snapshot
from onevision.encoder.stage import ORACLE_ITEMS
from onevision.encoder.thumbnails import item_thumbnails
from onevision.evaluation.dense import DenseSearch
from onevision.evaluation.items import UNKNOWN, Items
from onevision.features.queries import QuerySet

CUTOFFS = (1, 10, 50)


def nearest(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(Q, 50) items nearest by Euclidean distance to the items `rows` (Q,), themselves first."""
    exact = vectors.astype(np.float64)
    square = (exact**2).sum(axis=1)
    distance = square[rows][:, None] + square - 2 * exact[rows] @ exact.T
    distance[np.arange(len(rows)), rows] = -1
    return np.argsort(distance, axis=1, kind="stable")[:, : CUTOFFS[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    run = arguments.run
    shop = Snapshot.open(run / "snapshot", verify=False)
    items = Items.load(run / "semantic_ids", shop)
    truth = pq.read_table(shop.path / ORACLE_ITEMS)
    attributes = dict(zip(truth["item_id"].to_pylist(), truth["attributes"].to_pylist(), strict=True))
    vectors = {
        "vector of what was photographed": items.embedding,
        "its thumbnail": item_thumbnails(shop, items.item_id.tolist()),
        "its true attributes": np.array([attributes[item] for item in items.item_id.tolist()]),
    }
    dense = DenseSearch(items.view_embedding, items.view_item, len(items))
    table = pq.read_table(run / "pairs" / "queries.parquet", columns=["query_id", "photographed_item"])
    photographed = dict(zip(table["query_id"].to_pylist(), table["photographed_item"].to_pylist(), strict=True))
    figures: dict[str, dict[str, dict[int, float]]] = {}
    for split in ("validation", "test"):
        queries = QuerySet.load(run / "pairs", run / "encoder", run / "features", split=split)
        own = np.array([items.row(photographed[query]) for query in queries.query_id])
        clicked = np.array([items.row(ids[0]) for ids in queries.clicked])
        known = (own != UNKNOWN) & (clicked != UNKNOWN)
        found = {"vector of the photo": dense.search(queries.embedding[known], CUTOFFS[-1])[0]}
        found |= {name: nearest(values, own[known]) for name, values in vectors.items()}
        for name, near in found.items():
            hit = near == clicked[known][:, None]
            shares = {k: 100 * float(hit[:, :k].any(axis=1).mean()) for k in CUTOFFS}
            figures.setdefault(name, {})[split] = shares
            print(f"{split:11}{name:34}" + "".join(f"{share:7.1f}" for share in shares.values()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
