"""Anybody's embeddings for an encoding report: vectors, which of them show one product, and their categories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from onevision.errors import ContractError
from onevision.quantization.view_pairs import ViewPairs

Read = TypeVar("Read")

HELD_OUT_SHARE = 0.2
"""Products with two or more pictures that no quantiser is fitted on."""


@dataclass(frozen=True)
class EncodingData:
    """What quantisers are fitted and measured on.

    A product's item vector is the normalised mean of its pictures, of those alone that are no held-out photo: the photo
    is the view that the item's code is compared with.

    Attributes:
        x: (N, d) float32, unit length.
        product: (N,) product number of each row, 0 .. M-1; -1 where it is not known.
        item: (M, d) item vectors.
        category: (M,) category number of each product, None if not known.
        train: rows that may be trained on, none of a held-out product.
        pairs: training pairs, as rows of `x[train]`.
        photo: (H,) rows of the held-out photos; a held-out product has one or more.
        kinds: kind -> (P, 2) rows of held-out pairs of that kind of views, each of one product.
    """

    x: NDArray[np.float32]
    product: NDArray[np.int64]
    item: NDArray[np.float32]
    category: NDArray[np.int64] | None
    train: NDArray[np.int64]
    pairs: ViewPairs
    photo: NDArray[np.int64]
    kinds: dict[str, NDArray[np.int64]]

    @property
    def target(self) -> NDArray[np.int64]:
        """(H,) product numbers of the held-out photos."""
        return self.product[self.photo]


def read_encoding_data(embeddings: Path, pairs: Path | None, categories: Path | None, seed: int) -> EncodingData:
    """Read the inputs of an encoding report and hold products out.

    Args:
        embeddings: (N, d) array, `.npy` or `.safetensors` (tensor `embedding`, or the only one).
        pairs: rows of the same product: `.npy` (P, 2), or `.csv` / `.parquet` with columns `a` and `b` and, if the
            report shall tell them apart, the `kind` of the pair (such as "user_photo-main"); rows that are joined by
            pairs are one product. Without it every row is a product of its own.
        categories: one a row: `.npy` (N,), or a table with a column `category`.

    Raises:
        ContractError: a file that cannot be read, a wrong shape, a value that is not finite, a row that is not there.
    """
    x = read_embeddings(embeddings)
    edges, kind = read_pairs(pairs, len(x)) if pairs is not None else (np.zeros((0, 2), dtype=np.int64), None)
    product = _products(len(x), edges)
    counts = np.bincount(product)
    rng = np.random.default_rng(seed)
    several = np.flatnonzero(counts > 1)
    held = np.zeros(len(counts), dtype=bool)
    held[rng.permutation(several)[: round(HELD_OUT_SHARE * len(several))]] = True
    target = np.flatnonzero(held)
    order = np.argsort(product, kind="stable")
    photo = order[np.searchsorted(product[order], target) + (rng.random(len(target)) * counts[target]).astype(np.int64)]
    shown = np.ones(len(x), dtype=bool)
    shown[photo] = False
    train = np.flatnonzero(~held[product])
    unseen = held[product[edges[:, 0]]]
    category = None
    if categories is not None:
        category = read_categories(categories, len(x))[order[np.searchsorted(product[order], np.arange(len(counts)))]]
    return EncodingData(
        x=x,
        product=product,
        item=item_vectors(x[shown], product[shown], len(counts)),
        category=category,
        train=train,
        pairs=_training_pairs(edges[~unseen], train, product, category),
        photo=photo,
        kinds={} if kind is None else {str(k): edges[unseen & (kind == k)] for k in np.unique(kind[unseen])},
    )


def item_vectors(x: NDArray[np.float32], product: NDArray[np.int64], products: int) -> NDArray[np.float32]:
    """Normalised means (M, d) of the rows (N, d) of each product."""
    sums = np.zeros((products, x.shape[1]), dtype=np.float64)
    np.add.at(sums, product, x)
    return (sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def read_embeddings(path: Path) -> NDArray[np.float32]:
    """(N, d) vectors of unit length."""
    if path.suffix == ".safetensors":
        tensors = _read(path, load_file)
        if "embedding" not in tensors and len(tensors) != 1:
            raise ContractError(f"{path}: wanted is one tensor, or one named 'embedding'; it has {sorted(tensors)}")
        x = tensors.get("embedding", next(iter(tensors.values())))
    else:
        x = _read_array(path)
    if x.ndim != 2 or not np.issubdtype(x.dtype, np.floating) or len(x) < 2:
        raise ContractError(f"{path}: wanted is a floating (N, d) array, this is {x.dtype} of shape {x.shape}")
    x = x.astype(np.float32)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norm[:, 0]) & (norm[:, 0] > 0)))
    if len(bad):
        raise ContractError(f"{path}: row {bad[0]} is zero or not finite ({len(bad)} such rows); leave them out")
    return x / norm


def read_pairs(path: Path, rows: int) -> tuple[NDArray[np.int64], NDArray[np.str_] | None]:
    """(P, 2) row numbers from 0, each pair of two different rows; and (P,) their kinds, if the file names them."""
    kind = None
    if path.suffix == ".npy":
        pairs = _read_array(path)
    else:
        table = _read_table(path, ("a", "b"))
        pairs = table[["a", "b"]].to_numpy()
        if "kind" in table.columns:
            kind = table["kind"].to_numpy().astype(str)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ContractError(f"{path}: wanted are two whole row numbers a pair; this is {pairs.dtype} {pairs.shape}")
    outside = np.flatnonzero((pairs < 0).any(axis=1) | (pairs >= rows).any(axis=1))
    if len(outside):
        raise ContractError(f"{path}: pair {outside[0]} is {pairs[outside[0]].tolist()}; rows go from 0 to {rows - 1}")
    different = pairs[:, 0] != pairs[:, 1]
    return pairs[different].astype(np.int64), None if kind is None else kind[different]


def read_categories(path: Path, rows: int) -> NDArray[np.int64]:
    """(N,) category numbers."""
    named = _read_array(path) if path.suffix == ".npy" else _read_table(path, ("category",))["category"].to_numpy()
    if named.shape != (rows,):
        raise ContractError(f"{path}: {named.shape} categories for {rows} embeddings; one a row is wanted")
    return np.unique(named.astype(str), return_inverse=True)[1].astype(np.int64)


def _read(path: Path, reader: Callable[[Path], Read]) -> Read:
    try:
        return reader(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ContractError(f"{path}: cannot be read ({error})") from None


def _read_array(path: Path) -> NDArray:
    if path.suffix != ".npy":
        raise ContractError(f"{path}: an array ends in .npy (embeddings may be .safetensors)")
    return _read(path, lambda file: np.load(file, allow_pickle=False))


def _read_table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if path.suffix not in readers:
        raise ContractError(f"{path}: wanted is .npy, .csv or .parquet")
    table = _read(path, readers[path.suffix])
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ContractError(f"{path}: no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}")
    return table


def _products(rows: int, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows joined by pairs, directly or through others, are one product."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(rows, rows))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _training_pairs(
    edges: NDArray[np.int64],
    train: NDArray[np.int64],
    product: NDArray[np.int64],
    category: NDArray[np.int64] | None,
) -> ViewPairs:
    shown = product[edges[:, 0]]
    number = np.full(len(product), -1, dtype=np.int64)
    number[train] = np.arange(len(train))
    return ViewPairs(number[edges[:, 0]], number[edges[:, 1]], shown, None if category is None else category[shown])
