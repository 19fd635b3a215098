"""Batched beam search over the prefix trie: only semantic IDs that exist can be written.

A fixed number of steps, one a code. The context's keys and values are computed once a query and shared by its beams.
Fails closed: a beam without children dies, and nothing opens the constraint.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from onevision.generator.modelling import Generator, Memory
from onevision.semantic_ids.trie import Trie


class Beams(NamedTuple):
    """Best semantic IDs of every query, best first; ties go to the smaller leaf.

    `leaves` (B, W) int64, -1 for a dead beam; `scores` (B, W) log-probability; `codes` (B, W, L) as they were written.
    """

    leaves: Tensor
    scores: Tensor
    codes: Tensor


@torch.inference_mode()
def beam_search(model: Generator, memory: Memory, trie: Trie, width: int) -> Beams:
    """The `width` most probable semantic IDs of every query.

    Args:
        memory: B queries that the model has read.
        trie: of the same codebooks as the model.
        width: beams a query; at most `trie.leaves` are returned.
    """
    batch = len(memory.mask)
    nodes = torch.zeros(batch, 1, dtype=torch.long)
    scores = torch.zeros(batch, 1)
    rest = memory.point[:, None]
    code: Tensor | None = None
    written = torch.zeros(batch, 1, 0, dtype=torch.long)
    past: list[tuple[Tensor, Tensor]] | None = None
    for level in range(trie.length):
        log_probability, past = model.step(memory, level, code, rest, past)
        children = trie.children(level, nodes.clamp_min(0))
        gathered = log_probability.gather(2, children.codes)
        candidate = (scores[..., None] + gathered).masked_fill(~children.valid | (nodes < 0)[..., None], -torch.inf)
        keep = min(width, candidate[0].numel())
        # Beams stand in the order of their nodes, so a stable sort breaks ties by node.
        flat, order = candidate.flatten(1).sort(dim=1, descending=True, stable=True)
        order, scores = order[:, :keep], flat[:, :keep]
        nodes = children.nodes.flatten(1).gather(1, order).masked_fill(scores == -torch.inf, -1)
        code = children.codes.flatten(1).gather(1, order)
        parent = order // candidate.shape[2]
        written = torch.cat([_pick(written, parent), code[..., None]], 2)
        if level == trie.length - 1:
            break
        by_node = nodes.masked_fill(nodes < 0, torch.iinfo(torch.long).max).argsort(dim=1, stable=True)
        nodes, scores, code, parent = (t.gather(1, by_node) for t in (nodes, scores, code, parent))
        written = _pick(written, by_node)
        past = [(_pick(key, parent), _pick(value, parent)) for key, value in past]
        rest = model.quantizer.advance(_pick(rest, parent), level, code)
    return Beams(nodes, scores, written)


def _pick(x: Tensor, parent: Tensor) -> Tensor:
    """Rows `parent` (B, W') of x (B, W, ...)."""
    index = parent.view(*parent.shape, *(1,) * (x.ndim - 2)).expand(*parent.shape, *x.shape[2:])
    return x.gather(1, index)
