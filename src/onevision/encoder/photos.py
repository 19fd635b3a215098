"""Shoppers' photos embedded with less work: fewer patches, and further looks only where the first one leaves a doubt.

A picture's pooled vector is the mean over all looks at it (`Encoder.views`): at the whole, at the enlarged copy of
test-time augmentation, at the middles that EfficientNet-Lite2 adds. One of them says much of most photos, so that the
others can be kept for the rest [ours]; catalogue pictures, which are embedded once, are always looked at in full.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.encoder.model import Embedded, Encoder, EncoderOutput, in_parts, join, to_arrays
from onevision.encoder.patch_pruning import PatchRule
from onevision.encoder.towers import TowerOutput, mean_over_looks
from onevision.errors import ArtifactError

Doubt = Callable[[NDArray[np.float32]], NDArray[np.bool_]]
"""Embeddings (N, d) of first looks at photos -> which of the photos (N,) are looked at further."""


class SeenPhotos(NamedTuple):
    """Embedded photos, and what it took: `looks` (N,) at each; `patches` (N,) that stayed, mean over the looks at a
    photo, or None where no rule said which do."""

    embedded: Embedded
    looks: NDArray[np.int64]
    patches: NDArray[np.float32] | None


@torch.inference_mode()
def embed_photos(
    encoder: Encoder, pixels: NDArray[np.uint8], *, patches: PatchRule | None = None, doubt: Doubt | None = None
) -> SeenPhotos:
    """Embed photos (N, S, S, 3) with an encoder in evaluation mode: the first look, `Encoder.clearest`, is at all of
    them, the others are at those alone that it leaves in doubt, in a batch of their own. A photo's result does not
    depend on its neighbours.

    Args:
        patches: the rule for patches that stay in the tower; by default all do.
        doubt: which photos are looked at further; by default all are.

    Raises:
        ArtifactError: the tower has no patches that could leave it, or the encoder looks at a photo only once.
    """
    name = encoder.config.backbone or encoder.config.tower
    if patches and encoder.patch_layers is None:
        raise ArtifactError(
            f"no patches can leave a {name} tower on the way, as the pruning setting asks; run calibrate-pruning "
            "again with this encoder"
        )
    if doubt and encoder.looks == 1:
        raise ArtifactError(
            f"an encoder with the tower {name} looks at a photo once, and the pruning setting says when it looks "
            "further; run calibrate-pruning again with this encoder"
        )
    if not patches and not doubt:
        return SeenPhotos(encoder.embed(pixels), np.full(len(pixels), encoder.looks), None)
    pruned = encoder.patch_layers.pruned(patches) if patches and encoder.patch_layers else nullcontext()
    parts = []
    with pruned as under_way:
        for part in in_parts(torch.from_numpy(pixels), 1):
            output, again = _look(encoder, part.to(encoder.device), doubt)
            looks = np.where(again, encoder.looks, 1)
            stayed = _mean_kept(under_way.kept, again, looks) if under_way else None
            parts.append(SeenPhotos(to_arrays(output), looks, stayed))
    embedded, looked, kept = zip(*parts, strict=True)
    return SeenPhotos(join(list(embedded)), np.concatenate(looked), np.concatenate(kept) if patches else None)


def _look(encoder: Encoder, pixels: Tensor, doubt: Doubt | None) -> tuple[EncoderOutput, NDArray[np.bool_]]:
    """Embed photos (N, S, S, 3), and which of them (N,) were looked at further; the others have the tokens of the first
    look."""
    unknown = torch.full((len(pixels),), -1, device=pixels.device)
    views = encoder.views(pixels)
    tokens, pooled = encoder.tower.see(views.pop(encoder.clearest))
    again = doubt(encoder.fuse(pooled, unknown)[0].cpu().numpy()) if doubt else np.full(len(pixels), bool(views))
    if again.any():
        rows = torch.from_numpy(again).to(pixels.device)
        looks = [encoder.tower.see(view[rows]) for view in views]
        looks.insert(encoder.clearest, TowerOutput(tokens[rows], pooled[rows]))
        tokens[rows], pooled[rows] = mean_over_looks(looks)
    return EncoderOutput(*encoder.fuse(pooled, unknown), tokens), again


def _mean_kept(passes: list[Tensor], again: NDArray[np.bool_], looks: NDArray[np.int64]) -> NDArray[np.float32]:
    """Patches that stayed of each photo (N,), mean over the `looks` (N,) at it, from the passes through the tower: the
    first of all photos, the others of those that were looked at `again` (N,). The passes are forgotten."""
    first, *others = (kept.float().cpu().numpy() for kept in passes)
    for kept in others:
        first[again] += kept
    passes.clear()
    return (first / looks).astype(np.float32)
