"""Photos as they are served: with the looks and the patches that a pruning setting leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onevision.data.images import ImageStore, load_pixels
from onevision.decoding.ranker import GeneratorRanker
from onevision.encoder.model import EMBED_BATCH, Encoder, join
from onevision.encoder.patch_pruning import PatchRule
from onevision.encoder.photos import SeenPhotos, embed_photos
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning.nearby import Nearby

ONE_LOOK = PruningSetting(second_look_below=-1)
"""No photo is less alike to an item than that."""


class PhotoEncoder:
    """An encoder, and the items that say whether its first look at a photo was enough."""

    def __init__(self, encoder: Encoder, nearby: Nearby) -> None:
        self.encoder, self.nearby = encoder, nearby

    @classmethod
    def of(cls, encoder: Encoder, ranker: GeneratorRanker) -> PhotoEncoder:
        """Of the encoder and the items that a ranker was made with."""
        return cls(encoder, Nearby(ranker.catalogue, ranker.model.quantizer))

    def embed(self, pixels: NDArray[np.uint8], setting: PruningSetting, patches: PatchRule | None = None) -> SeenPhotos:
        """Photos (N, S, S, 3) by a setting; `patches` takes the place of its rule for these."""
        below = setting.second_look_below
        doubt = None if below is None else lambda embedding: self.nearby.similarity(embedding) < below
        return embed_photos(self.encoder, pixels, patches=patches or setting.patches, doubt=doubt)


class Photos:
    """Pictures of a snapshot, and the encoder that sees them."""

    def __init__(self, encoder: PhotoEncoder, images: ImageStore) -> None:
        self.encoder, self.images = encoder, images

    def pixels(self, image_ids: Sequence[str]) -> NDArray[np.uint8]:
        """Pictures (N, S, S, 3) as the encoder takes them."""
        return load_pixels(self.images, image_ids, self.encoder.encoder.image_size)

    def look(
        self, queries: QuerySet, setting: PruningSetting, patches: PatchRule | None = None
    ) -> tuple[QuerySet, SeenPhotos]:
        """The queries with their photos embedded by a setting, and what it took; `patches` takes the place of its rule
        for these."""
        batches = (queries.image_id[start : start + EMBED_BATCH] for start in range(0, len(queries), EMBED_BATCH))
        parts = [self.encoder.embed(self.pixels(image_ids), setting, patches) for image_ids in batches]
        embedded = join([part.embedded for part in parts])
        stayed = [part.patches for part in parts if part.patches is not None]
        seen = SeenPhotos(
            embedded, np.concatenate([part.looks for part in parts]), np.concatenate(stayed) if stayed else None
        )
        return replace(queries, **embedded._asdict()), seen


def as_served(queries: QuerySet, ranker: GeneratorRanker, encoder: Path, images: ImageStore) -> QuerySet:
    """The queries with their photos as a ranker's setting has them: those of the encoder's artifact, or looked at again
    where the setting leaves looks or patches out."""
    if not ranker.setting.prunes_tower:
        return queries
    eye = PhotoEncoder.of(Encoder.from_pretrained(encoder).freeze(), ranker)
    return Photos(eye, images).look(queries, ranker.setting)[0]
