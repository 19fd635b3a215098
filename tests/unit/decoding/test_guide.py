"""The guide of the beams: against plain loops, and where everything is closed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onevision.decoding.guide import Guide
from onevision.encoder.thumbnails import PHOTOGRAPHED
from onevision.generator.products import VectorTable

DIM, NODES = 5, 40


def make_guide(seed: int = 0, alike: float = 0.7) -> tuple[Guide, torch.Tensor, torch.Tensor]:
    """A guide of three queries, whose nodes hold two pictures each; and these, (NODES, 2, DIM)."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(NODES, 2, DIM, generator=generator)
    looks = torch.cat([pictures.mean(1), pictures.square().sum(2).mean(1, keepdim=True)], 1)
    traits = torch.randn(NODES, 4, generator=generator)
    pull = torch.randn(3, 4, generator=generator)
    return Guide(pull, [VectorTable(traits)], [VectorTable(looks)], alike), pictures, traits


@pytest.mark.parametrize("columns", [30, 1])  # of few nodes vectors are gathered, of many all products are made
def test_it_is_that_of_plain_loops(columns: int) -> None:
    guide, pictures, traits = make_guide()
    generator = torch.Generator().manual_seed(1)
    nodes = torch.randint(0, NODES, (3, 2, columns), generator=generator)
    log_p = torch.randn(nodes.shape, generator=generator) - 3
    added = guide.at(0, nodes, log_p)
    for query in range(3):
        rows, values = nodes[query].flatten(), log_p[query].flatten()
        likeliest = values.argsort(descending=True)[:PHOTOGRAPHED]
        share = np.exp(values[likeliest].double()) / np.exp(values[likeliest].double()).sum()
        photographed = sum(s * pictures[rows[n]].mean(0) for s, n in zip(share, likeliest, strict=True))
        for node, got in zip(rows.tolist(), added[query].flatten().tolist(), strict=True):
            square = (pictures[node] - photographed).square().sum(1).mean()
            expected = float(guide.pull[query] @ traits[node]) - guide.alike * float(square.sqrt())
            assert got == pytest.approx(expected, abs=1e-4)


def test_closed_nodes_say_nothing_of_the_photo() -> None:
    guide, _, _ = make_guide()
    nodes = torch.arange(NODES).view(1, 1, NODES).repeat(3, 1, 1)
    log_p = torch.full(nodes.shape, -torch.inf)
    assert torch.isfinite(guide.at(0, nodes, log_p)).all()
    log_p[:, :, :3] = torch.tensor([-1.0, -2.0, -3.0])
    open_only = guide.at(0, nodes[:, :, :3], log_p[:, :, :3])
    torch.testing.assert_close(guide.at(0, nodes, log_p)[:, :, :3], open_only)


def test_queries_are_taken_with_what_pulls_them() -> None:
    guide, _, _ = make_guide()
    nodes, log_p = torch.randint(0, NODES, (3, 2, 9)), torch.randn(3, 2, 9)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(guide.take(rows).at(0, nodes[rows], log_p[rows]), guide.at(0, nodes, log_p)[rows])
