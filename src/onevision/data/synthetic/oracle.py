"""Oracle ceilings: what a system could reach that knew every attribute, with and without the shopper's taste.

Read by evaluation and reports alone, never by training.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from onevision.data.synthetic.catalogue import DAY, END, Catalogue
from onevision.data.synthetic.log import query_id
from onevision.data.synthetic.render import Floats
from onevision.data.synthetic.searches import Searches

TEST_DAYS = 4
"""Days that the ceilings are measured on: the last ones, as the default split's test days."""
CUTOFFS = (1, 5, 10, 50)


def oracle_items_table(catalogue: Catalogue) -> pa.Table:
    """`item_id, family, attributes`: Euclidean distance between attributes is how different two products look."""
    return pa.table(
        {
            "item_id": catalogue.ids,
            "family": pa.array(catalogue.family, pa.int32()),
            "attributes": pa.array(list(catalogue.attributes), pa.list_(pa.float32())),
        }
    )


def oracle_queries_table(catalogue: Catalogue, searches: Searches) -> pa.Table:
    """`query_id, item_id` (photographed), and lists of up to 50 item ids, `with_taste` and `visual_only`."""
    ids = np.array(catalogue.ids, object)
    return pa.table(
        {
            "query_id": [query_id(q) for q in range(len(searches))],
            "item_id": pa.array(ids[searches.item], pa.string()),
            "with_taste": _item_lists(ids, searches.by_choice),
            "visual_only": _item_lists(ids, searches.by_looks),
        }
    )


def oracle_metrics(searches: Searches) -> dict[str, float]:
    """Hit rates and MRR of the first clicked item, over searches of the last days with a click.

    Keys are `with_taste/hr@10`, `visual_only/mrr@10`, ..., and `personal/...` for searches whose first click
    is not the photographed product.
    """
    first = searches.clicked[:, 0]
    late = searches.time >= END - np.timedelta64(TEST_DAYS * DAY, "us")
    counted = late & (first >= 0)
    personal = counted & (first != searches.item)
    metrics: dict[str, float] = {}
    for prefix, rows in (("", counted), ("personal/", personal)):
        metrics[f"{prefix}queries"] = int(rows.sum())
        if rows.any():
            for name, ranking in (("with_taste", searches.by_choice), ("visual_only", searches.by_looks)):
                found = _ranking_metrics(ranking[rows], first[rows])
                metrics |= {f"{prefix}{name}/{key}": value for key, value in found.items()}
    return metrics


def _ranking_metrics(ranking: Floats, wanted: Floats) -> dict[str, float]:
    match = ranking == wanted[:, None]
    rank = np.where(match.any(axis=1), match.argmax(axis=1) + 1.0, np.inf)
    metrics = {f"hr@{k}": float((rank <= k).mean()) for k in CUTOFFS}
    metrics["mrr@10"] = float(np.where(rank <= 10, 1.0 / rank, 0.0).mean())
    return metrics


def _item_lists(ids: Floats, rows: Floats) -> pa.Array:
    kept = rows >= 0
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids[rows[kept]], pa.string()))
