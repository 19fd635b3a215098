"""The generator as a ranker of items: read the prompt, search the trie, open the buckets, choose for the shopper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from onevision.artifacts import open_artifact, read_json, require_same_generation
from onevision.attention_mass import KeepRule
from onevision.decoding.beam import Beams, beam_search, best
from onevision.decoding.guide import Guide
from onevision.features.queries import QuerySet
from onevision.generator.choice import ChoiceModel, Shoppers
from onevision.generator.memory import Memory
from onevision.generator.modelling import Generator
from onevision.generator.products import VectorTable
from onevision.generator.prompts import PromptBuilder, Task, without_shopper
from onevision.generator.token_pruning import PruningSetting
from onevision.precision import Precision, use_bf16
from onevision.quantization.gemm import fast_matmul
from onevision.semantic_ids.catalogue import Catalogue

QUERIES_A_BATCH = 64
Number = TypeVar("Number", np.int64, np.float32)


@dataclass
class Ranking:
    """Ranked items of Q queries.

    Attributes:
        items: (Q, k) int64 item numbers, best first, -1 where there are no more.
        scores: (Q, k) float32 log-probability that the item is chosen among those found; without a choice model, of its
            semantic ID.
        leaves: (Q, W) int64 semantic IDs (leaf numbers) in the order of the beams, -1 for a dead beam.
        kept_tokens, history_tokens: (Q,) tokens of the image and of the histories that were read.
        context_tokens, last_context: (Q,) tokens of the context that the first and the last code attended to.
        steps: (Q,) codes that the beams read in the decoder.
        invalid_rate: share of live beams whose codes begin no semantic ID of the catalogue.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    leaves: NDArray[np.int64]
    kept_tokens: NDArray[np.int64]
    history_tokens: NDArray[np.int64]
    context_tokens: NDArray[np.int64]
    last_context: NDArray[np.int64]
    steps: NDArray[np.int64]
    invalid_rate: float


class GeneratorRanker:
    """A generator, the catalogue it writes IDs of, what shoppers choose, and how many image tokens it may drop."""

    def __init__(
        self,
        model: Generator,
        catalogue: Catalogue,
        choice: ChoiceModel | None = None,
        pruning: PruningSetting | None = None,
    ) -> None:
        self.model = model.eval()
        self.catalogue = catalogue
        self.use_pruning(pruning or PruningSetting())
        self.use_choice(choice)
        self.prompts = PromptBuilder(model.config, catalogue)
        self.sid_sizes = np.array(model.codebook_sizes, dtype=np.int64)
        self.sid_steps = self.sid_sizes[::-1].cumprod()[::-1] // self.sid_sizes
        self.known_sids = np.unique(self._sid_keys(catalogue.codes.astype(np.int64)))

    @classmethod
    def open(
        cls,
        encoder: Path,
        semantic_ids: Path,
        generator: Path,
        pruning: Path | None = None,
        *,
        precision: Precision = "fp32",
    ) -> GeneratorRanker:
        """Open artifacts; `ArtifactError` unless they are of one generation.

        Args:
            precision: of the generator's layers; scores are float32 always.
        """
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
        catalogue = Catalogue.open(semantic_ids)
        choice = ChoiceModel.from_pretrained(generator, catalogue)
        layers = torch.bfloat16 if use_bf16(precision, torch.device("cpu")) else torch.float32
        return cls(Generator.from_pretrained(generator).freeze(layers), catalogue, choice, setting)

    def use_pruning(
        self, setting: PruningSetting, keep: KeepRule | None = None, keep_later: KeepRule | None = None
    ) -> None:
        """Search with this setting; `keep` and `keep_later` take the place of its rules for tokens."""
        self.keep, self.keep_later = keep or setting.keep, keep_later or setting.keep_later
        self.setting = setting

    def use_choice(self, choice: ChoiceModel | None) -> None:
        """Rank by this choice model; without one, by the log-probability of semantic IDs."""
        self.choice = choice
        bucket = torch.from_numpy(self.catalogue.bucket)
        trie = self.catalogue.trie
        self.node_traits = [VectorTable(level) for level in choice.node_traits(trie, bucket)] if choice else []
        self.node_looks = [VectorTable(level) for level in choice.node_looks(trie, bucket)] if choice else []

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
        """Rank items for queries: the items behind all beams.

        Args:
            allowed: (I,), the only items that may be found; by default all.
        """
        masks = None if allowed is None else self._masks(allowed)
        parts = []
        starts = range(0, len(queries), QUERIES_A_BATCH)
        for start in tqdm(starts, desc=progress, disable=None if progress else True):
            batch = self._known(queries.take(np.arange(start, min(start + QUERIES_A_BATCH, len(queries)))))
            parts.append(self._rank_batch(batch, beam_width, k, task, allowed, masks))
        widest = max(p.leaves.shape[1] for p in parts)

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in parts])

        return Ranking(
            joined("items"),
            joined("scores"),
            np.concatenate([_widened(p.leaves, widest) for p in parts]),
            joined("kept_tokens"),
            joined("history_tokens"),
            joined("context_tokens"),
            joined("last_context"),
            joined("steps"),
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
        shoppers = self.choice.read(queries) if self.choice else None
        memory, beams = self._search(queries, beam_width, task, masks, shoppers)
        found, log_p = self._open_buckets(beams, allowed)
        items, scores = torch.from_numpy(found), torch.from_numpy(log_p)
        if self.choice and shoppers:
            scores = self.choice.score(shoppers, items, scores)
        else:  # items of one semantic ID stand as near as they are to the photo
            table, photos = VectorTable(torch.from_numpy(self.catalogue.embedding)), torch.from_numpy(queries.embedding)
            order = table.gathered(items.clamp_min(0), photos).argsort(dim=1, descending=True, stable=True)
            items, scores = items.gather(1, order), scores.gather(1, order)
        scores, columns = best(scores, k)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        items = items.gather(1, columns.gather(1, order))
        return Ranking(
            _widened(items.numpy(), k),
            _widened(scores.numpy(), k, -np.inf),
            beams.leaves.numpy(),
            memory.kept.numpy(),
            memory.history.numpy(),
            memory.mask.sum(1).numpy(),
            beams.context.numpy(),
            beams.steps.numpy(),
            self._invalid_rate(beams),
        )

    def find(self, queries: QuerySet, beam_width: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What a choice was made among: items (Q, C) behind the beams, -1 for none, and the log-probabilities (Q, C) of
        their semantic IDs. Items that entered the shop after a search are left out."""
        parts = []
        for start in range(0, len(queries), QUERIES_A_BATCH):
            batch = self._known(queries.take(np.arange(start, min(start + QUERIES_A_BATCH, len(queries)))))
            shoppers = self.choice.read(batch) if self.choice else None
            parts.append(self._open_buckets(self._search(batch, beam_width, Task.CLICKED, None, shoppers)[1], None))
        widest = max(items.shape[1] for items, _ in parts)
        found = np.concatenate([_widened(items, widest) for items, _ in parts])
        log_p = np.concatenate([_widened(log_p, widest, -np.inf) for _, log_p in parts])
        there = self.catalogue.entered(found, queries.ts)
        return np.where(there, found, -1), np.where(there, log_p, -np.inf).astype(np.float32)

    def _known(self, queries: QuerySet) -> QuerySet:
        """Queries with what the generator was made to know of shoppers."""
        return queries if self.model.config.shopper else without_shopper(queries)

    @torch.inference_mode()
    def _search(
        self, queries: QuerySet, beam_width: int, task: Task, masks: list[Tensor] | None, shoppers: Shoppers | None
    ) -> tuple[Memory, Beams]:
        guide = None
        if self.choice and shoppers:
            pull, alike = self.choice.pull(shoppers), self.choice.pull_alike()
            guide = Guide(pull, self.node_traits, self.node_looks, alike)
        with fast_matmul():
            setting, trie = self.setting, self.catalogue.trie
            prompt = self.prompts.build(queries, task, setting.history)
            memory = self.model.read(prompt, self.keep, setting.prunable)
            early = (setting.open_below, setting.margin, self.keep_later)
            return memory, beam_search(self.model, memory, trie, beam_width, masks, guide, *early)

    def _masks(self, allowed: NDArray[np.bool_]) -> list[Tensor]:
        """The trie's masks for items (I,): a bucket is open if one of its items is allowed."""
        trie = self.catalogue.trie
        leaves = torch.zeros(trie.leaves, dtype=torch.bool)
        leaves[torch.from_numpy(self.catalogue.bucket[allowed])] = True
        return trie.masks(leaves)

    def _open_buckets(
        self, beams: Beams, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Allowed items behind the live beams (B, C), in the order of the beams, -1 where a query has fewer, and the
        log-probabilities (B, C) of their semantic IDs, -inf there."""
        catalogue = self.catalogue
        leaves = beams.leaves.numpy()
        row, beam = np.nonzero(leaves >= 0)
        live = leaves[row, beam]
        sizes = catalogue.bucket_offsets[live + 1] - catalogue.bucket_offsets[live]
        within = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
        item = catalogue.bucket_items[np.repeat(catalogue.bucket_offsets[live], sizes) + within]
        row, log_p = np.repeat(row, sizes), np.repeat(beams.scores.numpy()[row, beam], sizes)
        if allowed is not None:
            row, log_p, item = row[allowed[item]], log_p[allowed[item]], item[allowed[item]]
        counts = np.bincount(row, minlength=len(leaves))
        place = np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)
        items = np.full((len(leaves), int(counts.max(initial=0))), -1, np.int64)
        scores = np.full(items.shape, -np.inf, np.float32)
        items[row, place], scores[row, place] = item, log_p
        return items, scores

    def _invalid_rate(self, beams: Beams) -> float:
        """Measured on the codes as written, against the items' table and not the trie: 0 by construction."""
        codes = beams.codes[beams.codes[..., 0] >= 0].numpy()
        first = self._sid_keys(codes.clip(0))
        after = first + np.where(codes < 0, self.sid_steps * (self.sid_sizes - 1), 0).sum(1) + 1
        known = np.searchsorted(self.known_sids, after) > np.searchsorted(self.known_sids, first)
        return float((~known).mean()) if len(codes) else 0.0

    def _sid_keys(self, codes: NDArray[np.int64]) -> NDArray[np.int64]:
        """One number (N,) for each row of codes (N, L), in the order of the rows."""
        return (codes * self.sid_steps).sum(1)


def _widened(values: NDArray[Number], width: int, fill: float = -1) -> NDArray[Number]:
    """Columns (Q, C) with `fill` after them, (Q, width)."""
    wide = np.full((len(values), width), fill, values.dtype)
    wide[:, : values.shape[1]] = values
    return wide


def read_setting(path: Path) -> PruningSetting | None:
    """The chosen pruning setting of `pruning.json`; None where calibration chose not to prune."""
    chosen = read_json(path)["chosen"]
    return None if chosen is None else PruningSetting.model_validate(chosen)
