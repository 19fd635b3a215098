"""Which pictures of a snapshot cannot be used: no bytes, not an image, truncated, or too large to decode."""

from __future__ import annotations

import numpy as np

from onevision.data.images import ImageError, ImageStore, check_image
from onevision.data.threads import map_in_threads


def sample_pictures(image_ids: list[str], share: float, seed: int) -> list[str]:
    """A share of the ids (at least one, if there are any), chosen by `seed`, independent of their order."""
    ids = np.array(sorted(set(image_ids)), dtype=object)
    chosen = np.random.default_rng(seed).permutation(len(ids))[: int(np.ceil(share * len(ids)))]
    return list(ids[np.sort(chosen)])


def bad_pictures(store: ImageStore, image_ids: list[str], decoded: list[str], max_pixels: int) -> dict[str, str]:
    """Why pictures cannot be used.

    Args:
        image_ids: pictures that must have bytes in the store.
        decoded: those of them that are decoded as well (decoding leaves the interpreter lock, so threads help).

    Returns:
        image id -> reason, for the bad ones, sorted by id.
    """
    bad = {image_id: "has no bytes in the image store" for image_id in image_ids if image_id not in store}
    present = [image_id for image_id in decoded if image_id not in bad]

    def check(image_id: str) -> str | None:
        try:
            check_image(store.read(image_id), max_pixels=max_pixels)
        except ImageError as error:
            return str(error)
        return None

    reasons = map_in_threads(check, present, "check pictures")
    bad.update({image_id: why for image_id, why in zip(present, reasons, strict=True) if why is not None})
    return dict(sorted(bad.items()))
