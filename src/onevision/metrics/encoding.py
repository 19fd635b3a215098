"""Measures of semantic IDs that need no generator (method, section 4).

`codes` is (N, L): one row an item, one column a level, coarse to fine; `sizes` holds the L codebook sizes.
Levels are counted from 1: prefix `l` is the first `l` codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Codes = NDArray[np.integer]

PERPLEXITY_SHARE = 0.5
"""Below this share of its codes a level carries over one bit less than its size promises: half as many codes, used
evenly, would do the same."""


def prefix_ids(codes: Codes, length: int) -> NDArray[np.int64]:
    """Number of each row's prefix, (N,): equal prefixes get equal numbers, in lexicographic order from 0."""
    ids = np.zeros(len(codes), dtype=np.int64)
    for level in range(length):
        column = codes[:, level].astype(np.int64)
        # Re-numbered after every level, so that deep IDs never overflow a mixed-radix key.
        ids = np.unique(ids * (int(column.max(initial=0)) + 1) + column, return_inverse=True)[1]
    return ids


def codebook_utilisation(codes: Codes, sizes: Sequence[int]) -> NDArray[np.float64]:
    """CUR of each level, (L,): codes in use / codebook size."""
    return np.array([len(np.unique(codes[:, level])) / size for level, size in enumerate(sizes)])


def prefix_utilisation(codes: Codes, sizes: Sequence[int]) -> NDArray[np.float64]:
    """CUR of each prefix, (L,): distinct l-prefixes / product of the first l codebook sizes [OneSearch]."""
    distinct = [int(prefix_ids(codes, level + 1).max(initial=-1)) + 1 for level in range(len(sizes))]
    return np.array(distinct) / np.cumprod(np.asarray(sizes, dtype=np.float64))


def dead_codes(codes: Codes, sizes: Sequence[int]) -> NDArray[np.int64]:
    """Codes of each level that no item uses, (L,)."""
    return np.array([size - len(np.unique(codes[:, level])) for level, size in enumerate(sizes)], dtype=np.int64)


def perplexity(codes: Codes, sizes: Sequence[int]) -> NDArray[np.float64]:
    """`exp(-sum p_k log p_k)` of each level's usage, (L,): the number of codes that are really in use."""
    return np.array([_exp_entropy(usage) for usage in _usage(codes, sizes)])


def prefix_perplexity(codes: Codes) -> NDArray[np.float64]:
    """The same of each prefix, (L,): single levels may all be in even use while each first code has few seconds."""
    return np.array([_exp_entropy(np.bincount(prefix_ids(codes, n + 1))) for n in range(codes.shape[1])])


def gini(codes: Codes, sizes: Sequence[int]) -> NDArray[np.float64]:
    """Gini coefficient of each level's usage, (L,): 0 when all codes are used alike, near 1 when one takes all.

    `G = 2 * sum(i * x_(i)) / (n * sum(x)) - (n + 1) / n` over the ascending counts x_(1..n), unused codes included.
    """
    out = []
    for usage in _usage(codes, sizes):
        n, ascending = len(usage), np.sort(usage)
        out.append(2 * (np.arange(1, n + 1) * ascending).sum() / (n * usage.sum()) - (n + 1) / n)
    return np.array(out)


def independent_coding_rate(codes: Codes) -> float:
    """ICR: items that are alone on their SID / items [OneSearch]."""
    return float((_bucket_sizes(codes) == 1).sum() / len(codes))


def collision_rate(codes: Codes) -> float:
    """(items - distinct SIDs) / items."""
    return float((len(codes) - len(_bucket_sizes(codes))) / len(codes))


def largest_bucket(codes: Codes) -> int:
    """Items on the most crowded SID."""
    return int(_bucket_sizes(codes).max())


def shared_prefix_length(a: Codes, b: Codes) -> NDArray[np.int64]:
    """Leading codes that the rows of `a` and `b`, both (P, L), have in common, (P,)."""
    if a.shape != b.shape:
        raise ValueError(f"pairs of codes of shapes {a.shape} and {b.shape}")
    return np.cumprod(a == b, axis=1, dtype=np.int64).sum(axis=1)


def view_consistency(a: Codes, b: Codes) -> NDArray[np.float64]:
    """VC@l, (L,): P(two views of one product share an l-prefix), over the rows of `a` and `b`, both (P, L)."""
    shared = shared_prefix_length(a, b)
    return np.array([(shared > level).mean() for level in range(a.shape[1])])


def category_consistency(codes: Codes, categories: ArrayLike) -> NDArray[np.float64]:
    """CC@l, (L,): P(two items that share an l-prefix are of one category); 1 where no two items share one.

    `CC@l = sum_bc n_bc (n_bc - 1) / sum_b n_b (n_b - 1)`, with n_bc the items of category c on prefix b.
    """
    category = np.unique(np.asarray(categories), return_inverse=True)[1]
    out = []
    for length in range(1, codes.shape[1] + 1):
        prefix = prefix_ids(codes, length)
        together = _pairs(prefix)
        out.append(_pairs(prefix * (int(category.max()) + 1) + category) / together if together else 1.0)
    return np.array(out)


def separation(codes: Codes, categories: ArrayLike) -> float:
    """Share of items whose SID no other item *of their category* has: 1 when no two look-alikes are confused."""
    category = np.unique(np.asarray(categories), return_inverse=True)[1]
    keys = prefix_ids(codes, codes.shape[1]) * (int(category.max()) + 1) + category
    return float((np.unique(keys, return_counts=True)[1] == 1).sum() / len(codes))


def encoding_metrics(codes: Codes, sizes: Sequence[int], categories: ArrayLike | None = None) -> dict[str, float]:
    """All measures of a table of codes by name; those of a level end in `@<level>`, from 1.

    Keys: `icr`, `collision_rate`, `largest_bucket`, `cur@l`, `prefix_cur@l`, `gini@l`, `perplexity@l`,
    `prefix_perplexity@l`, `dead_codes@l`; with `categories` (N,) also `cc@l` and `separation`.
    """
    if codes.ndim != 2 or not len(codes) or codes.shape[1] != len(sizes):
        raise ValueError(f"codes of shape {codes.shape} for codebooks {tuple(sizes)}")
    flat = {
        "icr": independent_coding_rate(codes),
        "collision_rate": collision_rate(codes),
        "largest_bucket": float(largest_bucket(codes)),
    }
    by_level = {
        "cur": codebook_utilisation(codes, sizes),
        "prefix_cur": prefix_utilisation(codes, sizes),
        "gini": gini(codes, sizes),
        "perplexity": perplexity(codes, sizes),
        "prefix_perplexity": prefix_perplexity(codes),
        "dead_codes": dead_codes(codes, sizes),
    }
    if categories is not None:
        flat["separation"] = separation(codes, categories)
        by_level["cc"] = category_consistency(codes, categories)
    for name, values in by_level.items():
        flat |= {f"{name}@{level}": float(value) for level, value in enumerate(values, start=1)}
    return flat


def _usage(codes: Codes, sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    return [np.bincount(codes[:, level], minlength=size) for level, size in enumerate(sizes)]


def _exp_entropy(usage: NDArray[np.int64]) -> float:
    p = usage[usage > 0] / usage.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def _bucket_sizes(codes: Codes) -> NDArray[np.int64]:
    return np.bincount(prefix_ids(codes, codes.shape[1]))


def _pairs(ids: NDArray[np.int64]) -> int:
    counts = np.unique(ids, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1)).sum())
