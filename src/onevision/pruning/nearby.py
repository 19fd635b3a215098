"""How alike a photo is to the nearest item near it: what says whether one look at it was enough.

The catalogue is not searched: compared are the items that have the first code of the photo's own semantic ID, the cell
of an inverted file with one probe (Jegou et al. 2011). Of N items with K first codes these are about N / K.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from onevision.quantization.kmeans import nearest
from onevision.quantization.residual import ResidualQuantizer
from onevision.semantic_ids.catalogue import Catalogue


class Nearby:
    """The items of a catalogue by their first code."""

    def __init__(self, catalogue: Catalogue, quantizer: ResidualQuantizer) -> None:
        self._embedding, self._quantizer = catalogue.embedding, quantizer
        first = catalogue.codes[:, 0]
        order = np.argsort(first, kind="stable")
        self._items = np.split(order, np.searchsorted(first[order], np.arange(1, quantizer.codebook_sizes[0])))

    def similarity(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosine (N,) of photos' embeddings (N, d) with the nearest item of their first code; -1 where it has none."""
        out = np.full(len(embedding), -1, np.float32)
        for row, code in enumerate(self._codes(embedding)):
            if len(items := self._items[code]):
                out[row] = (self._embedding[items] @ embedding[row]).max()
        return out

    def flops(self, embedding: NDArray[np.float32]) -> float:
        """FLOPs (2 a multiply-add) of one photo, mean over embeddings (N, d): keys of the first level, and items."""
        keys, dim = self._quantizer.keys(0), embedding.shape[1]
        mapped = dim * keys.shape[1] if self._quantizer.view_levels else 0
        items = np.mean([len(self._items[code]) for code in self._codes(embedding)])
        return 2.0 * (mapped + keys.numel() + float(items) * dim)

    @torch.inference_mode()
    def _codes(self, embedding: NDArray[np.float32]) -> list[int]:
        """First codes of embeddings (N, d)."""
        rest = torch.from_numpy(np.ascontiguousarray(embedding))
        codes: list[int] = nearest(self._quantizer.part(rest, 0), self._quantizer.keys(0))[0].tolist()
        return codes
