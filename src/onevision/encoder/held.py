"""What an `encoder` artifact has embedded already, known again by content.

A picture's content is its bytes and the category that the encoder was told; with the same weights the same content
gives the same embedding. A refresh therefore embeds new pictures alone, whatever they are called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from onevision.arrays import map_arrays
from onevision.data.images import ImageStore
from onevision.encoder.model import Embedded
from onevision.shards import ROWS_A_BATCH

EMBEDDINGS, TOKENS, IMAGES = "embeddings.safetensors", "tokens.safetensors", "images.parquet"
FILES = {"embedding": EMBEDDINGS, "category": EMBEDDINGS, "tokens": TOKENS}
"""Array -> file of it."""
CONTENT = "content"
_DIGITS = 32


def picture_contents(images: ImageStore, image_ids: Sequence[str], known: Sequence[str | None]) -> pa.Array:
    """SHA-256 of every picture's category, "" where the encoder has to guess it, and bytes; its first 32 digits."""
    pictures = zip(known, images.read_many(image_ids), strict=True)
    digests = (hashlib.sha256(f"{category or ''}\n".encode() + data) for category, data in pictures)
    return pa.array([digest.hexdigest()[:_DIGITS] for digest in digests], pa.string())


class HeldPictures:
    """Embedded pictures of an artifact, read as they are used.

    Args:
        encoder: folder of the artifact; it may hold none, as the part of a bundle does.
        content: what is looked for.

    Attributes:
        row: (N,) row of every picture of `content` in the artifact's arrays, -1 where it holds none such.
    """

    def __init__(self, encoder: Path, content: pa.Array) -> None:
        self.row: NDArray[np.int64] = np.full(len(content), -1)
        if not (encoder / IMAGES).exists() or CONTENT not in pq.read_schema(encoder / IMAGES).names:
            return
        self._arrays = map_arrays(encoder / EMBEDDINGS) | map_arrays(encoder / TOKENS)
        first = 0
        for batch in pq.ParquetFile(encoder / IMAGES).iter_batches(ROWS_A_BATCH, columns=[CONTENT]):
            place = pc.index_in(content, batch[CONTENT])
            found = pc.is_valid(place).to_numpy(zero_copy_only=False)
            self.row[found] = first + place.drop_null().to_numpy()
            first += len(batch)

    def take(self, rows: NDArray[np.int64]) -> Embedded:
        """Copies of some of the artifact's rows."""
        return Embedded(**{name: self._arrays[name][rows] for name in FILES})
