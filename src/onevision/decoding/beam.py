"""Batched beam search over the prefix trie: only semantic IDs that exist can be written.

A fixed number of steps, one a code. The context's keys and values are computed once a query and shared by its beams.
Fails closed: a beam without children dies, and nothing opens the constraint.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from onevision.generator.modelling import Generator, Memory, Past
from onevision.semantic_ids.trie import Trie


class Beams(NamedTuple):
    """Best semantic IDs of every query, best first; at every level ties go to the smaller node, so to the smaller leaf.

    `leaves` (B, W) int64, -1 for a dead beam; `scores` (B, W) log-probability; `codes` (B, W, L) as they were written.
    """

    leaves: Tensor
    scores: Tensor
    codes: Tensor


class Guide(NamedTuple):
    """What draws beams towards branches beside their probability: `pull` (B, m) of each query, and for each depth of
    the trie the `traits` (nodes, m) of its nodes; their product is added when beams are chosen, never to their scores.
    """

    pull: Tensor
    traits: list[Tensor]

    def at(self, level: int, nodes: Tensor) -> Tensor:
        """(B, W, C) for nodes (B, W, C) of depth `level` + 1."""
        return (self.traits[level][nodes] @ self.pull[:, None, :, None]).squeeze(-1)


@torch.inference_mode()
def beam_search(
    model: Generator,
    memory: Memory,
    trie: Trie,
    width: int,
    masks: list[Tensor] | None = None,
    guide: Guide | None = None,
) -> Beams:
    """The `width` most probable semantic IDs of every query; with a guide those of the largest probability times pull.

    Args:
        memory: B queries that the model has read.
        trie: of the same codebooks as the model.
        width: beams a query; at most `trie.leaves` are returned.
        masks: what a request allows (`Trie.masks`); by default every leaf.
        guide: a shopper's taste; beams come in the order that it gives, their scores stay log-probabilities.
    """
    batch = len(memory.mask)
    nodes = torch.zeros(batch, 1, dtype=torch.long)
    scores = torch.zeros(batch, 1)
    rest = memory.point[:, None]
    code: Tensor | None = None
    written = torch.zeros(batch, 1, 0, dtype=torch.long)
    past: Past | None = None
    for level in range(trie.length):
        children = trie.children(level, nodes.clamp_min(0))
        log_probability, past = model.step(memory, level, code, rest, past, children.codes)
        closed = ~children.valid | (nodes < 0)[..., None]
        if masks is not None:
            closed |= ~masks[level][children.nodes]
        candidate = (scores[..., None] + log_probability).masked_fill_(closed, -torch.inf)
        worth = candidate if guide is None else candidate + guide.at(level, children.nodes)
        worth, chosen = best(worth.flatten(1), width)
        scores = candidate.flatten(1).gather(1, chosen)
        nodes = children.nodes.flatten(1).gather(1, chosen).long().masked_fill_(scores == -torch.inf, -1)
        code = children.codes.flatten(1).gather(1, chosen)
        parent = chosen // candidate.shape[2]
        written = torch.cat([_pick(written, parent), code[..., None]], 2)
        if level < trie.length - 1:
            past = past.follow(parent)
            rest = model.quantizer.advance(_pick(rest, parent), level, code)
    order = worth.sort(dim=1, descending=True, stable=True).indices
    return Beams(nodes.gather(1, order), scores.gather(1, order), _pick(written, order))


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best columns of scores (B, N), in the order of the columns; of equal ones those that come first.

    Parents stand in the order of their nodes, so the columns are in the order of nodes, and so are those chosen.

    Returns:
        scores and columns, both (B, min(count, N)).
    """
    count = min(count, scores.shape[1])
    top = scores.topk(min(count + 1, scores.shape[1]), dim=1)
    columns = top.indices[:, :count]
    if scores.shape[1] > count:
        tied = (top.values[:, -1] == top.values[:, -2]) & (top.values[:, -1] > -torch.inf)
        if tied.any():  # top-k leaves open which of equal scores it takes
            columns = scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
    columns = columns.sort(dim=1).values
    return scores.gather(1, columns), columns


def _pick(x: Tensor, parent: Tensor) -> Tensor:
    """Rows `parent` (B, W') of x (B, W, ...)."""
    index = parent.view(*parent.shape, *(1,) * (x.ndim - 2)).expand(*parent.shape, *x.shape[2:])
    return x.gather(1, index)
