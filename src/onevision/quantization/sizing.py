"""How large codebooks must be for a catalogue: the share of items that will be alone on their ID, before training.

If n items fell independently on N equally likely IDs, exp(-(n - 1) / N) of them would be alone. They do not:
look-alikes fall on the same codes at every level, so that a bit of codes separates less than a bit. N is therefore
taken as 2^(effective bits), a line through what residual k-means with OPQ reached on embeddings of a run
(docs/encoding.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

OFFSET, RESIDUAL_GAIN = 4.4, 0.55
"""Effective bits of residual levels: offset + gain x bits. The recipe quickstart, 2,400 items, 9 to 21 bits."""
OPQ_GAIN = {16: 0.40, 256: 0.32}
"""Effective bits a bit of two OPQ codes behind them, by their size."""
PRODUCT_OF_SIZES = (10, 200)
"""Residual IDs for each item: with fewer they are crowded, with more the generator learns codes that it rarely sees."""


@dataclass(frozen=True)
class Sizing:
    """Codebook sizes and what to expect of them.

    Attributes:
        codebook_sizes: of the residual levels; opq_size: of each of two OPQ codes, 0 for none.
        icr: share of items alone on their ID; collision_rate: (items - distinct IDs) / items.
    """

    codebook_sizes: tuple[int, int, int]
    opq_size: int
    icr: float
    collision_rate: float

    @property
    def bits(self) -> float:
        """Of a whole ID."""
        return _bits(self.codebook_sizes) + (2 * math.log2(self.opq_size) if self.opq_size else 0)


def expected(items: int, codebook_sizes: tuple[int, int, int], opq_size: int = 0) -> Sizing:
    """What `items` items can expect of these codebooks."""
    residual = _bits(codebook_sizes)
    bits = min(residual, OFFSET + RESIDUAL_GAIN * residual)
    if opq_size:
        bits += OPQ_GAIN[opq_size] * 2 * math.log2(opq_size)
    ids = 2.0**bits
    # Poisson: items on one ID are items / ids in the mean.
    distinct = -ids * math.expm1(-items / ids)
    return Sizing(codebook_sizes, opq_size, math.exp(-(items - 1) / ids), max(0.0, 1 - distinct / items))


def candidates(items: int) -> list[Sizing]:
    """Sizes (4s, 2s, s) that fit the items, without OPQ or with two codes of 16 or 256; fewest bits first."""
    low, high = (factor * items for factor in PRODUCT_OF_SIZES)
    steps = [2**n for n in range(1, 13) if low <= 8 * 8**n <= high]
    found = [expected(items, (4 * s, 2 * s, s), opq) for s in steps for opq in (0, *OPQ_GAIN)]
    return sorted(found, key=lambda sizing: sizing.bits)


def suggest(items: int, target_icr: float) -> Sizing | None:
    """The candidate of the fewest bits that reaches the target, if one does."""
    return next((sizing for sizing in candidates(items) if sizing.icr >= target_icr), None)


def _bits(sizes: tuple[int, ...]) -> float:
    return sum(math.log2(size) for size in sizes)
