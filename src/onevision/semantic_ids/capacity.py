"""Buckets of at most `capacity` items: the surplus of a semantic ID moves inside its prefix, at the least added error.

A node of the trie has room for `capacity` items a semantic ID below it. From the root down, the items of every child
with more items than room are assigned anew to the children of the same node, by the Hungarian method; items of
children with room stay. In practice this happens at the last code. Only a prefix that is full as a whole passes its
surplus on to a neighbouring prefix, one level up; the report counts such items apart. Published items hold their
places and never move.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from onevision.errors import OneVisionError
from onevision.quantization.residual import ResidualQuantizer

Positions = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Rows (n,) of the items -> the means of their projected views (n, d)."""


class Limited(NamedTuple):
    """`codes` (I, L) int16; `changed` (I,) the first position at which an item's ID differs now, L for none."""

    codes: NDArray[np.int16]
    changed: NDArray[np.int64]


@torch.inference_mode()
def limit_buckets(
    quantizer: ResidualQuantizer,
    codes: NDArray[np.int16],
    positions: Positions,
    capacity: int,
    published: NDArray[np.int16] | None = None,
) -> Limited:
    """Move items so that no semantic ID has more than `capacity` of them.

    Args:
        codes: (I, L) in the order of the item ids; it decides equal costs.
        positions: asked for the items of overfull buckets only.
        published: (P, L) IDs that are taken and stay as they are, whatever their number.

    Raises:
        OneVisionError: more items than places.
    """
    sizes = quantizer.codebook_sizes
    places = capacity * math.prod(sizes)
    taken, held = _taken(published, sizes, capacity)
    if len(codes) + int(held.sum()) > places:
        raise OneVisionError(
            f"{len(codes) + int(held.sum())} items do not fit: codebooks of {'-'.join(map(str, sizes))} codes with "
            f"semantic_ids.capacity={capacity} have {places} places; raise the capacity or quantization.codebook_sizes"
        )
    codes = codes.copy()
    changed = np.full(len(codes), len(sizes))
    for level in range(len(sizes)):
        room = capacity * math.prod(sizes[level + 1 :])
        node = _number(codes, sizes, level + 1)
        nodes, count = np.unique(node, return_counts=True)
        free = np.maximum(room - _held(nodes, taken // math.prod(sizes[level + 1 :]), held), 0)
        rows = np.flatnonzero(np.isin(node, nodes[count > free]))
        parents = node[rows] // sizes[level]
        for parent in np.unique(parents):
            group = rows[parents == parent]
            children = parent * sizes[level] + np.arange(sizes[level])
            open_places = np.maximum(room - _held(children, taken // math.prod(sizes[level + 1 :]), held), 0)
            stay = (nodes // sizes[level] == parent) & (count <= free)
            open_places[nodes[stay] % sizes[level]] -= count[stay]
            rest = _rest(quantizer, torch.from_numpy(positions(group)), codes[group], level)
            new = _reassign(quantizer.distances(rest, level).double().numpy(), codes[group, level], open_places)
            moved = new != codes[group, level]
            changed[group[moved]] = np.minimum(changed[group[moved]], level)
            codes[group[moved], level:] = _complete(quantizer, rest[moved], new[moved], level)
    return Limited(codes, changed)


def _taken(
    published: NDArray[np.int16] | None, sizes: tuple[int, ...], capacity: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the published IDs, sorted, and how many places each holds."""
    if published is None or not len(published):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    taken, count = np.unique(_number(published, sizes, len(sizes)), return_counts=True)
    return taken, np.minimum(count, capacity)


def _number(codes: NDArray[np.int16], sizes: tuple[int, ...], length: int) -> NDArray[np.int64]:
    """Prefixes of a length as numbers (N,), in lexicographic order."""
    return np.ravel_multi_index(tuple(codes[:, :length].T.astype(np.int64)), sizes[:length]).astype(np.int64)


def _held(nodes: NDArray[np.int64], taken: NDArray[np.int64], held: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places held below each of `nodes`; `taken` are the nodes of the published IDs, sorted."""
    sums = np.r_[0, held.cumsum()]
    return sums[np.searchsorted(taken, nodes, "right")] - sums[np.searchsorted(taken, nodes, "left")]


def _reassign(distance: NDArray[np.float64], own: NDArray[np.int16], places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Codes (n,) of least added squared error, at most `places` (K,) items a code; `own` (n,) are overfull."""
    rows = np.arange(len(own))
    added = np.maximum(distance - distance[rows, own][:, None], 0)
    overfull = np.unique(own)
    surplus = len(own) - int(places[overfull].sum())
    # An overfull code stays full, so no other code can take more than the whole surplus.
    offered = np.minimum(places, surplus)
    offered[overfull] = places[overfull]
    slots = np.repeat(np.arange(len(places)), offered)
    return slots[linear_sum_assignment(added[:, slots])[1]]


def _rest(quantizer: ResidualQuantizer, z: Tensor, codes: NDArray[np.int16], level: int) -> Tensor:
    table = torch.from_numpy(codes.astype(np.int64))
    for above in range(level):
        z = quantizer.advance(z, above, table[:, above])
    return z


def _complete(quantizer: ResidualQuantizer, rest: Tensor, code: NDArray[np.int64], level: int) -> NDArray[np.int16]:
    """Codes (n, L - level): the given one of `level`, then the nearest ones."""
    columns = [torch.from_numpy(code)]
    for below in range(level + 1, len(quantizer.codebook_sizes)):
        rest = quantizer.advance(rest, below - 1, columns[-1])
        columns.append(quantizer.distances(rest, below).argmin(1))
    return torch.stack(columns, 1).numpy().astype(np.int16)
