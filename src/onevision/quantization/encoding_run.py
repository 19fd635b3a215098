"""The embeddings of a pipeline's run for an encoding report: its cold items are the products held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.artifacts import open_artifact
from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.snapshot import Snapshot
from onevision.quantization.encoding_inputs import HELD_OUT_SHARE, EncodingData, item_vectors
from onevision.quantization.stage import Embedded, read_view_pairs


def run_encoding_data(
    snapshot: Path, pairs: Path, encoder: Path, *, validation_seed: int | None = None
) -> EncodingData:
    """What `train-vrq` of a run was fitted on, and the photos of the items that it never saw.

    Fitted is on the pictures of the split `train` and the pairs of one product among them. Held out are the items none
    of whose pictures is among these: their photos of validation and test days are compared with the item (the mean of
    its catalogue pictures), and, by kind of pair, with its main and SKU pictures, as are these with each other. A shop
    without such items holds out the photos of validation and test days alone, of products that were trained on.

    Args:
        snapshot, pairs, encoder: artifacts of one run.
        validation_seed: hold out a fifth of the products that were trained on, drawn by this seed, with their pictures
            of training days, and look at no cold item: what settings are chosen by.
    """
    data = Embedded.load(Snapshot.open(snapshot), open_artifact(encoder, "encoder").path)
    mined = pq.read_table(open_artifact(pairs, "pairs").file("image_pairs.parquet"))
    owner, view, split = (data.column(name) for name in ("item_id", "view", "split"))
    catalogue = np.flatnonzero(np.isin(view, CATALOGUE_VIEWS) & (owner != None))  # noqa: E711
    items = sorted(set(owner[catalogue]))
    number = {item: n for n, item in enumerate(items)}
    product = np.array([number.get(item, -1) for item in owner], dtype=np.int64)
    x = np.ascontiguousarray(data.embedding, dtype=np.float32)
    train = np.flatnonzero(split == "train")
    held = np.ones(len(items) + 1, dtype=bool)
    held[product[train]] = False
    held[-1] = False  # where the product is not known
    later = np.isin(split, ("validation", "test"))
    if validation_seed is not None:
        held, later = _drawn(~held, validation_seed), (split == "train") & ~np.isin(view, CATALOGUE_VIEWS)
        train = train[~held[product[train]]]
    elif not held.any():
        held[:-1] = True
    photo = np.flatnonzero(later & held[product])
    return EncodingData(
        x=x,
        product=product,
        item=item_vectors(x[catalogue], product[catalogue], len(items)),
        category=np.unique([data.category[item] for item in items], return_inverse=True)[1].astype(np.int64),
        train=train,
        pairs=read_view_pairs(data, mined, train),
        photo=photo,
        kinds=_kinds(np.concatenate([photo, catalogue[held[product[catalogue]]]]), product, view),
    )


def _drawn(trained: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """A share of the products that were trained on, as a mask; the last place, of no product, stays out."""
    known = np.flatnonzero(trained[:-1])
    held = np.zeros(len(trained), dtype=bool)
    held[np.random.default_rng(seed).permutation(known)[: round(HELD_OUT_SHARE * len(known))]] = True
    return held


def _kinds(
    rows: NDArray[np.int64], product: NDArray[np.int64], view: NDArray[np.object_]
) -> dict[str, NDArray[np.int64]]:
    """Pairs of one product between every other view and its catalogue views, by kind, such as "user_photo-main"."""
    of_product: dict[tuple[int, str], list[int]] = {}
    for row in rows:
        of_product.setdefault((product[row], view[row]), []).append(row)
    kinds: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        for other in CATALOGUE_VIEWS:
            if view[row] == other or (view[row], other) == ("main", "sku"):  # sku-main is there already
                continue
            found = of_product.get((product[row], other), [])
            kinds.setdefault(f"{view[row]}-{other}", []).extend((row, mate) for mate in found)
    return {kind: np.array(found, dtype=np.int64) for kind, found in sorted(kinds.items()) if found}
