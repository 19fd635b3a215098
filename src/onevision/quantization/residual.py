"""The residual quantiser that all our encodings share: residual codebooks, and OPQ codes of the rest.

    r_0 = e;  c_l = argmin_k ||A r_l - K_l[k]||^2;  r_{l+1} = r_l - C_l[c_l];  (o_1 .. o_S) = OPQ(r_L)

Residual k-means compares in the space of the vectors: A is the identity and the keys K_l are the codebooks C_l. VRQ
compares its first levels in a few directions A that views of a product agree on, against keys of their own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onevision.artifacts import write_json
from onevision.errors import ArtifactError
from onevision.quantization.balance import balanced_kmeans
from onevision.quantization.kmeans import BLOCK, kmeans, nearest
from onevision.quantization.opq import fit_opq


class ResidualQuantizer(nn.Module):
    """Semantic codes of vectors.

    Args:
        dim: d, of the vectors.
        codebook_sizes: codes a residual level, coarse to fine.
        opq_subspaces: OPQ codes that follow; `opq_size` codes each.
        view_dims: r, directions that the first levels compare in; 0 for all.
        view_levels: how many levels do.
    """

    rotation: Tensor
    opq_codebooks: Tensor
    view_map: Tensor

    def __init__(
        self,
        dim: int,
        codebook_sizes: tuple[int, ...],
        *,
        opq_subspaces: int = 2,
        opq_size: int = 16,
        view_dims: int = 0,
        view_levels: int = 0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.residual_sizes = tuple(codebook_sizes)
        self.opq_subspaces = opq_subspaces
        self.opq_size = opq_size
        self.view_dims = view_dims
        self.view_levels = view_levels
        if view_levels:
            self.register_buffer("view_map", torch.eye(dim)[:, :view_dims].clone())
            for level in range(view_levels):
                self.register_buffer(f"key_{level}", torch.zeros(self.residual_sizes[level], view_dims))
        for level, size in enumerate(self.residual_sizes):
            self.register_buffer(f"codebook_{level}", torch.zeros(size, dim))
        if opq_subspaces:
            self.register_buffer("rotation", torch.eye(dim))
            self.register_buffer("opq_codebooks", torch.zeros(opq_subspaces, opq_size, dim // opq_subspaces))

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Sizes of all L positions of a semantic ID: residual levels, then OPQ sub-spaces."""
        return self.residual_sizes + (self.opq_size,) * self.opq_subspaces

    def codebook(self, level: int) -> Tensor:
        """Codebook (K_l, d) of a residual level."""
        return self.get_buffer(f"codebook_{level}")

    # --- A semantic ID written one code at a time: what the generator's decoder needs.

    def distances(self, rest: Tensor, level: int) -> Tensor:
        """Squared distances (..., K_l) of what is left to explain, `rest` (..., d), to the codes of a level."""
        part, keys = self.part(rest, level), self.keys(level)
        cross = part @ keys.T
        return (part.square().sum(-1, keepdim=True) - 2 * cross + keys.square().sum(-1)).clamp_min(0)

    def part(self, rest: Tensor, level: int) -> Tensor:
        """What a level looks at of `rest` (..., d)."""
        if level < self.view_levels:
            return rest @ self.view_map
        if level < len(self.residual_sizes):
            return rest
        return rest.chunk(self.opq_subspaces, -1)[level - len(self.residual_sizes)]

    def keys(self, level: int) -> Tensor:
        """What a level compares that part with, one row a code."""
        if level < self.view_levels:
            return self.get_buffer(f"key_{level}")
        if level < len(self.residual_sizes):
            return self.codebook(level)
        return self.opq_codebooks[level - len(self.residual_sizes)]

    def advance(self, rest: Tensor, level: int, codes: Tensor) -> Tensor:
        """What is left after `codes` (...,) of a level; after the last residual level it is rotated for OPQ."""
        last = len(self.residual_sizes) - 1
        if level <= last:
            rest = rest - self.codebook(level)[codes]
        return rest @ self.rotation if level == last and self.opq_subspaces else rest

    # --- Whole tables of vectors.

    @torch.inference_mode()
    def encode(self, x: NDArray[np.float32]) -> NDArray[np.int16]:
        """Codes (N, L) of vectors (N, d), greedily level by level; a row's codes do not depend on other rows."""
        codes = np.empty((len(x), len(self.codebook_sizes)), np.int16)
        for start in range(0, len(x), BLOCK):
            rest = torch.from_numpy(np.ascontiguousarray(x[start : start + BLOCK], dtype=np.float32))
            for level in range(len(self.codebook_sizes)):
                best = nearest(self.part(rest, level), self.keys(level))[0]
                codes[start : start + BLOCK, level] = best.numpy()
                rest = self.advance(rest, level, best)
        return codes

    @torch.inference_mode()
    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """Reconstructed vectors (N, d) of codes (N, L) or of a prefix of them (N, l)."""
        table = torch.from_numpy(codes.astype(np.int64))
        z = torch.zeros(len(codes), self.dim)
        levels = len(self.residual_sizes)
        for level in range(min(levels, codes.shape[1])):
            z += self.codebook(level)[table[:, level]]
        given = range(levels, codes.shape[1])
        if given:
            parts = [self.opq_codebooks[level - levels][table[:, level]] for level in given]
            parts += [torch.zeros(len(codes), self.dim // self.opq_subspaces)] * (self.opq_subspaces - len(given))
            z += torch.cat(parts, 1) @ self.rotation.T
        return z.numpy()

    @torch.no_grad()
    def fit_codebooks(self, x: Tensor, *, iterations: int, seed: int) -> Self:
        """Residual k-means on vectors (N, d), level by level, then OPQ on what is left."""
        return self._fit_rest(x, 0, iterations=iterations, seed=seed)

    def _fit_rest(self, rest: Tensor, first: int, *, iterations: int, seed: int, balance_last: bool = False) -> Self:
        """Codebooks of the levels from `first` on, and OPQ, from what (N, d) the levels before leave.

        Args:
            balance_last: the last residual level is fitted by balanced k-means.
        """
        for level in range(first, len(self.residual_sizes)):
            book = kmeans(rest, self.residual_sizes[level], iterations=iterations, seed=seed + level)
            if balance_last and level == len(self.residual_sizes) - 1:
                book = balanced_kmeans(rest, book, iterations=iterations, seed=seed + level)
            self.codebook(level).copy_(book)
            rest = rest - book[nearest(rest, book)[0]]
        if self.opq_subspaces:
            rotation, books = fit_opq(rest, self.opq_subspaces, self.opq_size, seed=seed)
            self.rotation.copy_(rotation)
            self.opq_codebooks.copy_(books)
        return self

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self.settings())
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")

    def settings(self) -> dict[str, Any]:
        """Constructor arguments, as JSON."""
        return {
            "dim": self.dim,
            "codebook_sizes": list(self.residual_sizes),
            "opq_subspaces": self.opq_subspaces,
            "opq_size": self.opq_size,
            "view_dims": self.view_dims,
            "view_levels": self.view_levels,
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> ResidualQuantizer:
        """Build an empty quantiser from `settings()`."""
        settings = dict(settings)
        return ResidualQuantizer(settings.pop("dim"), tuple(settings.pop("codebook_sizes")), **settings)

    @classmethod
    def from_pretrained(cls, folder: Path) -> ResidualQuantizer:
        """Load a quantiser that `save` wrote; the result encodes and decodes, whatever class was fitted."""
        try:
            model = cls.from_settings(json.loads((folder / "config.json").read_text()))
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{folder}: not a quantiser of this library ({error})") from None
        return model.eval()


class ResidualKMeans(ResidualQuantizer):
    """RQ-KMeans, with OPQ codes behind it unless `opq_subspaces` is 0 (RQ-OPQ, OneSearch): the baseline of VRQ."""

    def fit(self, x: NDArray[np.float32], *, iterations: int = 20, seed: int = 0) -> Self:
        """Learn the codebooks from vectors (N, d)."""
        return self.fit_codebooks(torch.from_numpy(np.ascontiguousarray(x)), iterations=iterations, seed=seed)
