"""What a quantiser must offer to be measured beside others."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Encoding(Protocol):
    """A fitted quantiser: vectors to codes, codes to vectors."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes of every position."""

    def encode(self, x: NDArray[np.float32]) -> NDArray[np.int16]:
        """(N, d) -> (N, L)."""

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """(N, L) -> (N, d)."""
