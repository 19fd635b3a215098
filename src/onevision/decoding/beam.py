"""Batched beam search over the prefix trie: only semantic IDs that exist can be written.

A fixed number of steps, one a code. The context's keys and values are computed once a query and shared by its beams.
Fails closed: a beam without children dies, and nothing opens the constraint.

A query may stop writing early: once the branches that its beams have reached hold few semantic IDs, these are what it
found, and the batch goes on without it. And beams may be given up that are far behind their query's best one: they
leave the batch, which is as wide from then on as its widest query.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from onevision.attention_mass import KeepRule
from onevision.decoding.guide import Guide
from onevision.generator.memory import Memory, Past
from onevision.generator.modelling import Generator
from onevision.semantic_ids.trie import Trie


class Beams(NamedTuple):
    """Best semantic IDs of every query, best first; at every level ties go to the smaller node, so to the smaller leaf.

    `leaves` (B, W) int64, -1 for none; `scores` (B, W) log-probability of the codes that were written; `codes`
    (B, V, L) as the beams wrote them, -1 for a dead beam and for what was not written because branches were opened
    (where none were, these are the codes of the leaves); `steps` (B,) how many codes a query's beams read in the
    decoder, which is what they cost; `context` (B,) tokens of the context that the last of them attended to.
    """

    leaves: Tensor
    scores: Tensor
    codes: Tensor
    steps: Tensor
    context: Tensor


@torch.inference_mode()
def beam_search(
    model: Generator,
    memory: Memory,
    trie: Trie,
    width: int,
    masks: list[Tensor] | None = None,
    guide: Guide | None = None,
    open_below: int | None = None,
    margin: float | None = None,
    keep: KeepRule | None = None,
) -> Beams:
    """The `width` most probable semantic IDs of every query; with a guide those of the largest probability times pull.

    Args:
        memory: B queries that the model has read.
        trie: of the same codebooks as the model.
        width: beams a query; at most `trie.leaves` are returned.
        masks: what a request allows (`Trie.masks`); by default every leaf.
        guide: what draws beams beside their probability; they come in the order that it gives, their scores stay
            log-probabilities.
        open_below: a query stops writing when the branches of its beams hold at most so many semantic IDs together.
        margin: before the last code, beams whose log-probability (with the guide) is lower than the best one's by more
            than this are given up.
        keep: what stays in the context (`Memory.shorten`) after the first code, by the attention that wrote it, mean
            over layers and heads; a query has one beam then. By default all.
    """
    batch = len(memory.mask)
    rows, steps = torch.arange(batch), torch.zeros(batch, dtype=torch.long)
    finished: list[tuple[Tensor, Beams]] = []
    nodes = torch.zeros(batch, 1, dtype=torch.long)
    scores = torch.zeros(batch, 1)
    rest = memory.point[:, None]
    code: Tensor | None = None
    written = torch.zeros(batch, 1, 0, dtype=torch.long)
    past: Past | None = None
    for level in range(trie.length):
        steps += (nodes >= 0).sum(1)
        children = trie.children(level, nodes.clamp_min(0))
        looked: list[Tensor] | None = [] if level == 0 and keep is not None else None
        log_probability, past = model.step(memory, level, code, rest, past, children.codes, looked)
        closed = ~children.valid | (nodes < 0)[..., None]
        if masks is not None:
            closed |= ~masks[level][children.nodes]
        candidate = (scores[..., None] + log_probability).masked_fill_(closed, -torch.inf)
        worth = candidate
        if guide is not None:
            worth = candidate + guide.take(rows).at(level, children.nodes, candidate)
        worth, chosen = best(worth.flatten(1), width)
        scores = candidate.flatten(1).gather(1, chosen)
        nodes = children.nodes.flatten(1).gather(1, chosen).long().masked_fill_(scores == -torch.inf, -1)
        code = children.codes.flatten(1).gather(1, chosen)
        parent = chosen // candidate.shape[2]
        written = torch.cat([_pick(written, parent), code[..., None]], 2)
        if level == trie.length - 1:
            finished.append((rows, Beams(*_best_first(worth, nodes, scores, written), steps, memory.mask.sum(1))))
            break
        if margin is not None:
            near = _near(worth, margin)
            nodes, scores, code, parent = (value.gather(1, near) for value in (nodes, scores, code, parent))
            worth, written = worth.gather(1, near), _pick(written, near)
            behind = worth < worth.amax(1, keepdim=True) - margin
            nodes, scores, worth = (
                value.masked_fill(behind, empty)
                for value, empty in ((nodes, -1), (scores, -torch.inf), (worth, -torch.inf))
            )
        past = past.follow(parent)
        rest = model.quantizer.advance(_pick(rest, parent), level, code)
        if open_below is not None:
            held = torch.where(nodes >= 0, _leaves_below(trie, level, nodes)[1], 0).sum(1)
            small = held <= open_below
            if small.any():
                allowed = None if masks is None else masks[-1]
                branch, log_p, codes = _best_first(*(value[small] for value in (worth, nodes, scores, written)))
                leaves, found = _open(trie, level, branch, log_p, allowed)
                codes = F.pad(codes, (0, trie.length - level - 1), value=-1)
                finished.append((rows[small], Beams(leaves, found, codes, steps[small], memory.mask[small].sum(1))))
                going = torch.nonzero(~small).squeeze(1)
                if not len(going):
                    break
                memory, past = memory.take(going), past.take(going)
                rows, steps, nodes, scores, code, written, rest = (
                    value[going] for value in (rows, steps, nodes, scores, code, written, rest)
                )
        if looked and keep is not None:
            memory = memory.shorten(torch.stack(looked).float().mean(0)[rows], keep)
    return _together(finished, batch)


def _near(worth: Tensor, margin: float) -> Tensor:
    """Columns (B, W') of worth (B, W) that are within the margin of their row's best, in their order; W' is what the
    row with the most of them needs, and the others are filled up with what is not within it."""
    behind = worth < worth.amax(1, keepdim=True) - margin
    width = int((~behind).sum(1).max())
    return behind.to(torch.uint8).argsort(dim=1, stable=True)[:, :width]


def _leaves_below(trie: Trie, level: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """First leaf and number of leaves below nodes of depth `level` + 1."""
    bounds = trie.leaf_ranges[level]
    first = bounds[nodes.clamp_min(0)]
    return first, bounds[nodes.clamp_min(0) + 1] - first


def _best_first(worth: Tensor, nodes: Tensor, scores: Tensor, written: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes (B, W), scores (B, W) and written codes (B, W, l) in the order of their worth (B, W); -1 are the codes of
    dead beams, whose node is -1."""
    order = worth.sort(dim=1, descending=True, stable=True).indices
    nodes = nodes.gather(1, order)
    return nodes, scores.gather(1, order), _pick(written, order).masked_fill((nodes < 0)[..., None], -1)


def _open(trie: Trie, level: int, nodes: Tensor, scores: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """All allowed leaves (B, W') below live nodes (B, W) of depth `level` + 1, branch after branch, and the scores
    (B, W') of their branches; -1 and -inf where a query has fewer."""
    first, count = _leaves_below(trie, level, nodes)
    count = count.masked_fill(nodes < 0, 0)
    flat = count.flatten()
    leaf = first.flatten().repeat_interleave(flat)
    leaf = leaf + torch.arange(len(leaf)) - (flat.cumsum(0) - flat).repeat_interleave(flat)
    branch = torch.arange(len(flat)).repeat_interleave(flat)
    if allowed is not None:
        branch, leaf = branch[allowed[leaf]], leaf[allowed[leaf]]
    row = branch // nodes.shape[1]
    held = torch.bincount(row, minlength=len(nodes))
    place = torch.arange(len(row)) - (held.cumsum(0) - held).repeat_interleave(held)
    shape = (len(nodes), int(held.max()) if len(held) else 0)
    leaves, found = torch.full(shape, -1), torch.full(shape, -torch.inf)
    leaves[row, place], found[row, place] = leaf, scores.flatten()[branch]
    return leaves, found


def _together(parts: list[tuple[Tensor, Beams]], batch: int) -> Beams:
    """Beams of all queries in their order, padded with dead ones."""
    if len(parts) == 1:
        return parts[0][1]
    shape = (batch, max(beams.leaves.shape[1] for _, beams in parts))
    leaves, scores = torch.full(shape, -1), torch.full(shape, -torch.inf)
    codes = torch.full((batch, max(b.codes.shape[1] for _, b in parts), parts[0][1].codes.shape[2]), -1)
    steps, context = torch.zeros(2, batch, dtype=torch.long)
    for rows, beams in parts:
        width, beam_width = beams.leaves.shape[1], beams.codes.shape[1]
        leaves[rows, :width], scores[rows, :width] = beams.leaves, beams.scores
        codes[rows, :beam_width], steps[rows] = beams.codes, beams.steps
        context[rows] = beams.context
    return Beams(leaves, scores, codes, steps, context)


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
