"""The prefix trie of all semantic IDs, as sorted ranges in plain tensors (compressed sparse rows a level).

Distinct IDs are sorted; the node of a prefix is its rank among the distinct prefixes of its length, so children of a
node are neighbours and a leaf's number *is* its bucket.

    depth 0        root                        offsets[0] = [0, 2]
    depth 1      0       1      codes[0]=[3,7]  offsets[1] = [0, 2, 3]
    depth 2    0   1     2      codes[1]=[1,4,0]
"""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from onevision.errors import ArtifactError


class Children(NamedTuple):
    """Children of some nodes, padded to the widest: `codes` int64, `nodes` and `valid`, all (..., W).

    What is not valid is some other node; nobody may follow it.
    """

    codes: Tensor
    nodes: Tensor
    valid: Tensor


class Trie:
    """Prefix trie.

    Attributes:
        offsets: for each depth l in 0 .. L-1, (nodes_l + 1,): children of node n are `offsets[n]:offsets[n+1]`.
        codes: for each depth l, (nodes_{l+1},): the code that leads to each node of depth l + 1.

    Both are kept in the smallest integers that hold them: for most catalogues int32 offsets and int16 codes.
    """

    def __init__(self, offsets: list[Tensor], codes: list[Tensor]) -> None:
        self.offsets = offsets
        self.codes = codes

    @property
    def length(self) -> int:
        """Codes of a semantic ID, L."""
        return len(self.codes)

    @property
    def leaves(self) -> int:
        """Distinct semantic IDs."""
        return len(self.codes[-1])

    @classmethod
    def build(cls, sids: NDArray[np.integer]) -> tuple[Trie, NDArray[np.int64]]:
        """Build from semantic IDs (I, L), duplicates welcome.

        Returns:
            the trie, and the bucket (leaf number) of every row (I,).
        """
        if sids.ndim != 2 or len(sids) == 0:
            raise ValueError(f"a trie needs semantic IDs (I, L) with I >= 1, not shape {sids.shape}")
        distinct, bucket = _distinct_rows(sids.astype(np.int64))
        offsets, codes = [], []
        parent = np.zeros(len(distinct), np.int64)
        for level in range(distinct.shape[1]):
            change = np.r_[True, (np.diff(parent) != 0) | (np.diff(distinct[:, level]) != 0)]
            first = np.flatnonzero(change)
            codes.append(_smallest(distinct[first, level], torch.int16, torch.int32))
            counts = np.bincount(parent[first], minlength=int(parent[-1]) + 1)
            offsets.append(_smallest(np.r_[0, counts.cumsum()], torch.int32))
            parent = change.cumsum() - 1
        return cls(offsets, codes), bucket

    def children(self, level: int, nodes: Tensor) -> Children:
        """Children at depth `level` + 1 of nodes (...,) of depth `level`; padded to the widest node *given*."""
        offsets, codes = self.offsets[level], self.codes[level]
        if level == 0:  # the root's row is dense: all nodes of depth 1, nothing to look up
            shape = (*nodes.shape, len(codes))
            node = torch.arange(len(codes), dtype=offsets.dtype)
            return Children(
                codes.long().expand(shape), node.expand(shape), torch.ones(1, dtype=torch.bool).expand(shape)
            )
        start, end = offsets[nodes], offsets[nodes + 1]
        width = int((end - start).max()) if nodes.numel() else 0
        index = start[..., None] + torch.arange(width, dtype=offsets.dtype)
        valid = index < end[..., None]
        index = index.clamp_max_(len(codes) - 1)
        return Children(codes[index].long(), index, valid)

    def masks(self, allowed: Tensor) -> list[Tensor]:
        """Masks of a request: for each level, the nodes (nodes_{l+1},) bool with an allowed leaf below them.

        Args:
            allowed: (leaves,) bool.
        """
        masks = [allowed]
        for offsets in reversed(self.offsets[1:]):
            below = F.pad(masks[0].cumsum(0, dtype=offsets.dtype), (1, 0))
            bounds = below[offsets]
            masks.insert(0, bounds[1:] > bounds[:-1])
        return masks

    @cached_property
    def leaf_ranges(self) -> list[Tensor]:
        """For each depth 1 .. L, (nodes + 1,): the leaves below node n are `range(ranges[n], ranges[n + 1])`."""
        ranges = [torch.arange(self.leaves + 1)]
        for offsets in self.offsets[:0:-1]:
            ranges.append(ranges[-1][offsets])
        return ranges[::-1]

    def sids(self) -> NDArray[np.int64]:
        """The distinct semantic IDs (N, L), sorted: row n is leaf n."""
        columns: list[Tensor] = []
        node = torch.arange(self.leaves)
        for level in range(self.length - 1, -1, -1):
            columns.append(self.codes[level][node].long())
            node = torch.bucketize(node, self.offsets[level], right=True) - 1
        return torch.stack(columns[::-1], 1).numpy()

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors = {f"offsets_{level}": t for level, t in enumerate(self.offsets)}
        tensors |= {f"codes_{level}": t for level, t in enumerate(self.codes)}
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> Trie:
        """Read what `save` wrote; the file is mapped, so that only what a search touches is read."""
        try:
            tensors = load_file(path)
            length = len(tensors) // 2
            return cls(
                [tensors[f"offsets_{level}"] for level in range(length)],
                [tensors[f"codes_{level}"] for level in range(length)],
            )
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise ArtifactError(f"{path}: not a trie of this library ({error})") from None


def _distinct_rows(sids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows in lexicographic order, and the place of every row among them."""
    least = sids.min(0)
    spans = tuple((sids.max(0) - least + 1).tolist())
    if math.prod(spans) > np.iinfo(np.int64).max:
        distinct, place = np.unique(sids, axis=0, return_inverse=True)
        return distinct, place.reshape(-1)
    # One number a row sorts ten times as fast as a row of numbers.
    keys, place = np.unique(np.ravel_multi_index(tuple((sids - least).T), spans), return_inverse=True)
    return np.stack(np.unravel_index(keys, spans), 1) + least, place


def _smallest(values: NDArray[np.int64], *dtypes: torch.dtype) -> Tensor:
    """As the first of these types that holds all values, or int64."""
    for dtype in dtypes:
        if -torch.iinfo(dtype).max <= values.min() and values.max() <= torch.iinfo(dtype).max:
            return torch.from_numpy(values).to(dtype)
    return torch.from_numpy(values)
