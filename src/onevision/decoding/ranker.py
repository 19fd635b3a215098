"""The generator as a ranker of items: read the prompt, search the trie, open the buckets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onevision.artifacts import open_artifact, read_json, require_same_generation
from onevision.decoding.beam import Beams, beam_search
from onevision.features.queries import QuerySet
from onevision.generator.modelling import Generator
from onevision.generator.prompts import PromptBuilder, Task
from onevision.generator.token_pruning import KeepRule, PruningSetting
from onevision.quantization.gemm import fast_matmul
from onevision.semantic_ids.catalogue import Catalogue

QUERIES_A_BATCH = 64


@dataclass
class Ranking:
    """Ranked items of Q queries.

    Attributes:
        items: (Q, k) int64 item numbers, best first, -1 where there are no more.
        scores: (Q, k) float32 log-probability of the item's semantic ID, plus the weighted cosine of photo and item.
        leaves: (Q, W) int64 semantic IDs (leaf numbers) in the order of the beams, -1 for a dead beam.
        kept_tokens: (Q,) image tokens that were read.
        invalid_rate: share of live beams whose codes are no semantic ID of the catalogue.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    leaves: NDArray[np.int64]
    kept_tokens: NDArray[np.int64]
    invalid_rate: float


class GeneratorRanker:
    """A generator, the catalogue it writes IDs of, and how many image tokens it may drop."""

    def __init__(self, model: Generator, catalogue: Catalogue, pruning: KeepRule | None = None) -> None:
        self.model = model.eval()
        self.catalogue = catalogue
        self.pruning = pruning
        self.prompts = PromptBuilder(model.config, catalogue)
        self.known_sids = {tuple(sid) for sid in catalogue.codes.tolist()}

    @classmethod
    def open(cls, encoder: Path, semantic_ids: Path, generator: Path, pruning: Path | None = None) -> GeneratorRanker:
        """Open artifacts; `ArtifactError` unless they are of one generation."""
        artifacts = [
            open_artifact(encoder, "encoder", verify=False),
            open_artifact(semantic_ids, "semantic_ids"),
            open_artifact(generator, "generator"),
        ]
        setting = None
        if pruning is not None:
            artifacts.append(open_artifact(pruning, "pruning"))
            setting = read_setting(artifacts[-1].file("pruning.json"))
        require_same_generation(*artifacts)
        return cls(Generator.from_pretrained(generator).freeze(), Catalogue.open(semantic_ids), setting)

    def rank(
        self,
        queries: QuerySet,
        beam_width: int,
        k: int,
        task: Task = Task.CLICKED,
        *,
        allowed: NDArray[np.bool_] | None = None,
        progress: str | None = None,
    ) -> Ranking:
        """Rank items for queries: the items behind all beams, by log-probability and weighted similarity.

        Args:
            allowed: (I,), the only items that may be found; by default all.
        """
        masks = None if allowed is None else self._masks(allowed)
        parts = []
        starts = range(0, len(queries), QUERIES_A_BATCH)
        for start in tqdm(starts, desc=progress, disable=None if progress else True):
            batch = queries.take(np.arange(start, min(start + QUERIES_A_BATCH, len(queries))))
            parts.append(self._rank_batch(batch, beam_width, k, task, allowed, masks))
        return Ranking(
            np.concatenate([p.items for p in parts]),
            np.concatenate([p.scores for p in parts]),
            np.concatenate([p.leaves for p in parts]),
            np.concatenate([p.kept_tokens for p in parts]),
            float(np.mean([p.invalid_rate for p in parts])),
        )

    @torch.inference_mode()
    def _rank_batch(
        self,
        queries: QuerySet,
        beam_width: int,
        k: int,
        task: Task,
        allowed: NDArray[np.bool_] | None,
        masks: list[Tensor] | None,
    ) -> Ranking:
        prompt = self.prompts.build(queries, task)
        with fast_matmul():
            memory = self.model.read(prompt, self.pruning)
            beams = beam_search(self.model, memory, self.catalogue.trie, beam_width, masks)
        leaves = beams.leaves.numpy()
        items = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        for row, query in enumerate(queries.embedding):
            found, score = self._open_buckets(leaves[row], beams.scores[row].numpy(), query, allowed)
            items[row, : len(found)] = found[:k]
            scores[row, : len(found)] = score[:k]
        return Ranking(items, scores, leaves, memory.kept.numpy(), self._invalid_rate(beams))

    def _masks(self, allowed: NDArray[np.bool_]) -> list[Tensor]:
        """The trie's masks for items (I,): a bucket is open if one of its items is allowed."""
        trie = self.catalogue.trie
        leaves = torch.zeros(trie.leaves, dtype=torch.bool)
        leaves[torch.from_numpy(self.catalogue.bucket[allowed])] = True
        return trie.masks(leaves)

    def _open_buckets(
        self,
        leaves: NDArray[np.int64],
        log_p: NDArray[np.float32],
        query: NDArray[np.float32],
        allowed: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Allowed items behind the live leaves by `log_p + similarity_weight * cosine`; equal scores by cosine."""
        catalogue = self.catalogue
        live, log_p = leaves[leaves >= 0], log_p[leaves >= 0]
        sizes = catalogue.bucket_offsets[live + 1] - catalogue.bucket_offsets[live]
        within = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
        found = catalogue.bucket_items[np.repeat(catalogue.bucket_offsets[live], sizes) + within]
        log_p = np.repeat(log_p, sizes)
        if allowed is not None:
            found, log_p = found[allowed[found]], log_p[allowed[found]]
        cosine = catalogue.embedding[found] @ query
        score = log_p + np.float32(self.model.config.similarity_weight) * cosine
        order = np.lexsort((-cosine, -score))
        return found[order], score[order]

    def _invalid_rate(self, beams: Beams) -> float:
        """Measured on the codes as written, against the items' table and not the trie: 0 by construction."""
        live = beams.codes[beams.leaves >= 0].tolist()
        return sum(tuple(codes) not in self.known_sids for codes in live) / max(1, len(live))


def read_setting(path: Path) -> PruningSetting | None:
    """The chosen pruning setting of `pruning.json`; None where calibration chose not to prune."""
    chosen = read_json(path)["chosen"]
    return None if chosen is None else PruningSetting.model_validate(chosen)
