"""The photos of queries, looked at again by an image tower that patches leave on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onevision.data.images import ImageStore, load_pixels
from onevision.encoder.model import EMBED_BATCH, Embedded, Encoder, join
from onevision.encoder.patch_pruning import PatchRule
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting


class Photos:
    """Pictures of a snapshot, and the encoder that sees them."""

    def __init__(self, encoder: Encoder, images: ImageStore) -> None:
        self.encoder, self.images = encoder, images

    def pixels(self, image_ids: Sequence[str]) -> NDArray[np.uint8]:
        """Pictures (N, S, S, 3) as the encoder takes them."""
        return load_pixels(self.images, image_ids, self.encoder.image_size)

    def embed(self, pixels: NDArray[np.uint8], rule: PatchRule | None) -> Embedded:
        """Photos (N, S, S, 3) with the patches that a rule keeps, or with all of them."""
        return self.encoder.embed_pruned(pixels, rule)[0] if rule else self.encoder.embed(pixels)

    def look(self, queries: QuerySet, rule: PatchRule) -> tuple[QuerySet, NDArray[np.float32]]:
        """The queries with their photos as they are with the patches alone that a rule keeps, and how many these were
        (Q,), mean over the looks at a photo."""
        batches = (queries.image_id[start : start + EMBED_BATCH] for start in range(0, len(queries), EMBED_BATCH))
        seen = [self.encoder.embed_pruned(self.pixels(image_ids), rule) for image_ids in batches]
        photos = join([embedded for embedded, _ in seen])
        return replace(queries, **photos._asdict()), np.concatenate([kept for _, kept in seen])


def as_served(queries: QuerySet, setting: PruningSetting, encoder: Path, images: ImageStore) -> QuerySet:
    """The queries with their photos as they are served: those of the encoder's artifact, or looked at again where the
    setting leaves patches out."""
    if setting.patches is None:
        return queries
    return Photos(Encoder.from_pretrained(encoder), images).look(queries, setting.patches)[0]
