"""What is below the branches of a trie, on the mean: what beams are guided by before they have reached an item."""

from __future__ import annotations

import torch
from torch import Tensor

from onevision.semantic_ids.trie import Trie

ITEMS_AT_ONCE = 65536
"""Summed in double precision, whose copy should stay small."""


def branch_means(trie: Trie, bucket: Tensor, values: Tensor) -> list[Tensor]:
    """For each depth of the trie, the mean (nodes, m) of the items' values (I, m) below its nodes."""
    means = []
    for start in trie.leaf_ranges:
        node = torch.searchsorted(start, bucket, right=True) - 1
        total = torch.zeros(len(start) - 1, values.shape[1], dtype=torch.double)
        for rows in torch.arange(len(values)).split(ITEMS_AT_ONCE):
            total.index_add_(0, node[rows], values[rows].double())
        size = torch.bincount(node, minlength=len(total))
        means.append((total / size[:, None]).float())
    return means
