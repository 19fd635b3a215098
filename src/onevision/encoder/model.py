"""The image encoder: tower, projection and category fusion; with its preprocessing, saved as one folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onevision.artifacts import read_json, write_json
from onevision.encoder.augmentation import second_look
from onevision.encoder.backbone import TransformersTower
from onevision.encoder.config import EncoderConfig
from onevision.encoder.patch_pruning import PatchLayers
from onevision.encoder.towers import EfficientNetLite2Tower, SmallConvTower, Tower, TowerOutput
from onevision.errors import ArtifactError

EMBED_BATCH = 256
TOWER_PIXELS = 2**21
"""Most that the tower looks at in one go: 256 pictures of 64 x 64 pixels, twice. Of 256 pictures of 260 x 260 the
layers' outputs would take 18 GB."""


class EncoderOutput(NamedTuple):
    """`embedding` (N, d) of unit length, `category_logits` (N, K), `tokens` (N, T, C)."""

    embedding: Tensor
    category_logits: Tensor
    tokens: Tensor


class Embedded(NamedTuple):
    """Embedded pictures as arrays.

    `embedding` (N, d) float32 of unit length; `category` (N, K) float16, the predicted mixture of leaf categories;
    `tokens` (N, T, C) float16, the tower's patch tokens.
    """

    embedding: NDArray[np.float32]
    category: NDArray[np.float16]
    tokens: NDArray[np.float16]


def to_arrays(output: EncoderOutput) -> Embedded:
    """The encoder's output as arrays."""
    category = output.category_logits.softmax(1).half()
    return Embedded(output.embedding.cpu().numpy(), category.cpu().numpy(), output.tokens.half().cpu().numpy())


def join(parts: list[Embedded]) -> Embedded:
    """Put batches of embedded pictures together; there must be at least one."""
    return Embedded(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


class Encoder(nn.Module):
    """e = normalize((1 - w) x + w c), x the projected picture and c a category vector.

    c is the vector of the known category for catalogue pictures and the predicted mixture for a shopper's.

    Args:
        config: recipe section `encoder`.
        categories: ids of the leaf categories, in the order of the category vectors.
        backbone: description of a saved `transformers` tower; without it the recipe's `backbone` is loaded.
    """

    lda: Tensor | None

    def __init__(self, config: EncoderConfig, categories: list[str], *, backbone: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.categories = categories
        self._frozen = False
        self.tower = _make_tower(config, backbone)
        self.norm = nn.LayerNorm(self.tower.pooled_dim)
        self.dropout = nn.Dropout(config.head_dropout)
        self.projection = nn.Linear(self.tower.pooled_dim, config.embedding_dim)
        self.category_head = nn.Linear(self.tower.pooled_dim, len(categories))
        self.category_vectors = nn.Parameter(torch.randn(len(categories), config.embedding_dim) * 0.1)
        self.log_scale = nn.Parameter(torch.tensor(1.0 / config.temperature).log())
        identity = torch.eye(config.embedding_dim) if config.lda_shrinkage is not None else None
        self.register_buffer("lda", identity)

    @property
    def image_size(self) -> int:
        """Pixels a side of the pictures that the encoder takes."""
        return self.config.image_size or self.tower.image_size

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.log_scale.device

    @property
    def patch_layers(self) -> PatchLayers | None:
        """The tower's layers, where patches can leave them on the way; else None."""
        return self.tower.patch_layers

    @property
    def looks(self) -> int:
        """How often the tower looks at a picture."""
        return self.tower.looks * (1 + self.config.test_time_augmentation)

    @property
    def scale(self) -> Tensor:
        """Learnt inverse temperature, at most 100."""
        return self.log_scale.exp().clamp(max=100.0)

    def fuse(self, pooled: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled vectors (N, D) and known category rows (N,), -1 for unknown -> embedding (N, d), logits (N, K)."""
        pooled = self.dropout(self.norm(pooled.float()))
        logits = self.category_head(pooled)
        x = F.normalize(self.projection(pooled), dim=1)
        weights = logits.softmax(1)
        one_hot = F.one_hot(known.clamp_min(0), len(self.categories)).to(weights.dtype)
        weights = torch.where((known >= 0)[:, None], one_hot, weights)
        c = F.normalize(weights @ self.category_vectors, dim=1)
        w = self.config.category_weight
        return self.apply_lda(F.normalize((1 - w) * x + w * c, dim=1)), logits

    def apply_lda(self, embedding: Tensor) -> Tensor:
        """Map embeddings (N, d) by LDA, if the recipe asks for it; until it is fitted the map is the identity."""
        return embedding if self.lda is None else F.normalize(embedding @ self.lda, dim=1)

    def look(self, pixels: Tensor) -> TowerOutput:
        """The tower's patch tokens of pictures (N, S, S, 3), and its pooled vectors: means over all looks at them."""
        parts = [self._look(part) for part in in_parts(pixels, 1 + self.config.test_time_augmentation)]
        return TowerOutput(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _look(self, pixels: Tensor) -> TowerOutput:
        if not self.config.test_time_augmentation:
            return self.tower(pixels)
        tokens, pooled = self.tower(torch.cat([pixels, second_look(pixels)]))
        return TowerOutput(tokens[: len(pixels)], pooled.unflatten(0, (2, -1)).mean(0))

    def forward(self, pixels: Tensor, known: Tensor) -> EncoderOutput:
        """Run uint8 pixels (N, S, S, 3) with known category rows (N,), -1 for unknown."""
        tokens, pooled = self.look(pixels)
        embedding, logits = self.fuse(pooled, known)
        return EncoderOutput(embedding, logits, tokens)

    def category_rows(self, category_ids: list[str | None]) -> Tensor:
        """Rows of the category vectors, -1 for None or a category the encoder has not seen."""
        row = {category: i for i, category in enumerate(self.categories)}
        return torch.tensor([-1 if c is None else row.get(c, -1) for c in category_ids], dtype=torch.long)

    @torch.inference_mode()
    def embed(self, pixels: NDArray[np.uint8], category_ids: list[str | None] | None = None) -> Embedded:
        """Embed pictures (N, S, S, 3) in evaluation mode; a picture's result does not depend on its neighbours."""
        was_training = self.training
        if was_training:
            self.eval()
        known = self.category_rows(category_ids if category_ids is not None else [None] * len(pixels))
        parts = []
        for start in range(0, len(pixels), EMBED_BATCH):
            batch = slice(start, start + EMBED_BATCH)
            parts.append(to_arrays(self(torch.from_numpy(pixels[batch]).to(self.device), known[batch].to(self.device))))
        if was_training:
            self.train()
        return join(parts)

    def freeze(self) -> Self:
        """Make ready for embedding and nothing else: its weights must not change any more, and it cannot be saved. What
        it embeds is the same but for the last digits."""
        self.eval().requires_grad_(False)
        self.tower.freeze()
        self._frozen = True
        return self

    @property
    def clearest(self) -> int:
        """Which of its `views` says most of a photo alone: the enlarged copy, where there is one (docs/encoder.md)."""
        return self.tower.looks if self.config.test_time_augmentation else 0

    def views(self, pixels: Tensor) -> list[Tensor]:
        """All that the tower looks at of pictures (N, S, S, 3); first the pictures as they are."""
        copies = [pixels, second_look(pixels)] if self.config.test_time_augmentation else [pixels]
        return [view for copy in copies for view in self.tower.views(copy)]

    def fingerprint(self) -> str:
        """Hash of all weights."""
        digest = hashlib.sha256()
        for name, value in self.state_dict().items():
            digest.update(name.encode() + value.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def save_pretrained(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`, also of a tower that is not trained; not of a frozen encoder,
        whose weights lie otherwise."""
        if self._frozen:
            raise RuntimeError("a frozen encoder cannot be saved; save it before `freeze`")
        folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {"encoder": self.config.model_dump(), "categories": self.categories}
        if isinstance(self.tower, TransformersTower):
            config["backbone"] = self.tower.describe()
        write_json(folder / "config.json", config)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors")

    @staticmethod
    def read_categories(folder: Path) -> list[str]:
        """Leaf categories of a saved encoder, in the order of its category vectors, without loading the weights."""
        categories: list[str] = read_json(folder / "config.json")["categories"]
        return categories

    @classmethod
    def from_pretrained(cls, folder: Path) -> Encoder:
        """Load an encoder that `save_pretrained` wrote; it comes in evaluation mode."""
        try:
            raw = json.loads((folder / "config.json").read_text())
            config = EncoderConfig.model_validate(raw["encoder"])
            model = cls(config, raw["categories"], backbone=raw["backbone"] if config.backbone else None)
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{folder}: not an encoder of this library ({error})") from None
        return model.eval()


def in_parts(pixels: Tensor, looks: int) -> tuple[Tensor, ...]:
    """Pictures (N, S, S, 3) in parts that a tower may look at so often in one go."""
    return pixels.split(max(1, TOWER_PIXELS // (looks * pixels.shape[1] * pixels.shape[2])))


def _make_tower(config: EncoderConfig, backbone: dict[str, Any] | None) -> Tower:
    """Build the tower that the recipe names; a backbone from its description if it was saved, else from its weights."""
    if config.backbone is None:
        return SmallConvTower(config.width) if config.tower == "small-conv" else EfficientNetLite2Tower()
    if backbone is not None:
        return TransformersTower.restore(backbone, frozen=config.freeze_tower, image_size=config.image_size)
    return TransformersTower.load(config.backbone, frozen=config.freeze_tower, image_size=config.image_size)
