"""What draws beams towards branches of the trie beside their probability: the shopper's taste, and what looks like what
was probably photographed. It is added when beams are chosen, never to their scores.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from onevision.encoder.thumbnails import PHOTOGRAPHED
from onevision.generator.products import VectorTable

CLOSED = -1e4
"""Instead of minus infinity, of which no share can be told."""


class Guide(NamedTuple):
    """A guide of B queries.

    Attributes:
        pull: (B, m), whose product with a node's traits is added.
        traits: for each depth of the trie (nodes, m).
        looks: for each depth of the trie (nodes, D + 1), the mean thumbnail of the items below a node, and the mean of
            their squared lengths.
        alike: what is taken off for each unit of a node's distance.
    """

    pull: Tensor
    traits: list[VectorTable]
    looks: list[VectorTable]
    alike: float

    def take(self, rows: Tensor) -> Guide:
        """Of these queries."""
        return self._replace(pull=self.pull[rows])

    def at(self, level: int, nodes: Tensor, log_probability: Tensor) -> Tensor:
        """What is added (B, W, C) for nodes (B, W, C) of depth `level` + 1.

        Args:
            log_probability: (B, W, C) of the nodes, -inf for those that are closed.
        """
        taste = self.traits[level].products(nodes, self.pull)
        return taste - self.alike * self._distance(level, nodes, log_probability)

    def _distance(self, level: int, nodes: Tensor, log_probability: Tensor) -> Tensor:
        """Root mean square distance (B, W, C) of the thumbnails below nodes to that of what was photographed, which is
        one of the likeliest nodes, by their probabilities."""
        looks, flat = self.looks[level], log_probability.flatten(1)
        likely = flat.topk(min(PHOTOGRAPHED, flat.shape[1]), dim=1)
        share = likely.values.clamp_min(CLOSED).softmax(1)
        seen = looks.vectors[nodes.flatten(1).gather(1, likely.indices), :-1]
        picture = (share[..., None] * seen).sum(1)
        square = looks.products(nodes, F.pad(-2 * picture, (0, 1), value=1.0))
        return (square + picture.square().sum(1)[:, None, None]).clamp_min(0).sqrt()
