"""The prefix trie of all semantic IDs, as sorted ranges in plain tensors (compressed sparse rows a level).

Distinct IDs are sorted; the node of a prefix is its rank among the distinct prefixes of its length, so children of a
node are neighbours and a leaf's number *is* its bucket.

    depth 0        root                        offsets[0] = [0, 2]
    depth 1      0       1      codes[0]=[3,7]  offsets[1] = [0, 2, 3]
    depth 2    0   1     2      codes[1]=[1,4,0]
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from onevision.errors import ArtifactError


class Children(NamedTuple):
    """Children of some nodes, padded to the widest: `codes`, `nodes` and `valid`, all (..., W)."""

    codes: Tensor
    nodes: Tensor
    valid: Tensor


class Trie:
    """Prefix trie.

    Attributes:
        offsets: for each depth l in 0 .. L-1, (nodes_l + 1,) int64: children of node n are `offsets[n]:offsets[n+1]`.
        codes: for each depth l, (nodes_{l+1},) int64: the code that leads to each node of depth l + 1.
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
        distinct, bucket = np.unique(sids.astype(np.int64), axis=0, return_inverse=True)
        offsets, codes = [], []
        parent = np.zeros(len(distinct), np.int64)
        for level in range(distinct.shape[1]):
            change = np.r_[True, (np.diff(parent) != 0) | (np.diff(distinct[:, level]) != 0)]
            first = np.flatnonzero(change)
            codes.append(torch.from_numpy(distinct[first, level]))
            counts = np.bincount(parent[first], minlength=int(parent[-1]) + 1)
            offsets.append(torch.from_numpy(np.r_[0, counts.cumsum()]))
            parent = change.cumsum() - 1
        return cls(offsets, codes), bucket.reshape(-1)

    def children(self, level: int, nodes: Tensor) -> Children:
        """Children at depth `level` + 1 of nodes (...,) of depth `level`; padded to the widest node *given*."""
        start, end = self.offsets[level][nodes], self.offsets[level][nodes + 1]
        width = int((end - start).max()) if nodes.numel() else 0
        index = start[..., None] + torch.arange(width)
        valid = index < end[..., None]
        index = torch.where(valid, index, 0)
        return Children(self.codes[level][index], index, valid)

    def sids(self) -> NDArray[np.int64]:
        """All distinct semantic IDs (leaves, L), sorted: row n is leaf n."""
        columns: list[Tensor] = []
        node = torch.arange(self.leaves)
        for level in range(self.length - 1, -1, -1):
            columns.append(self.codes[level][node])
            node = torch.bucketize(node, self.offsets[level], right=True) - 1
        return torch.stack(columns[::-1], 1).numpy()

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        tensors = {f"offsets_{level}": t for level, t in enumerate(self.offsets)}
        tensors |= {f"codes_{level}": t for level, t in enumerate(self.codes)}
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path) -> Trie:
        """Read what `save` wrote."""
        try:
            tensors = load_file(path)
            length = len(tensors) // 2
            return cls(
                [tensors[f"offsets_{level}"] for level in range(length)],
                [tensors[f"codes_{level}"] for level in range(length)],
            )
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise ArtifactError(f"{path}: not a trie of this library ({error})") from None
