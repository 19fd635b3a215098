"""What a shopper picks among the products that the generator writes: a choice model with two intents [ours].

Some shoppers want the very product of the photo, others one like it that is more to their taste. Each intent i is a
softmax over the candidates j (a latent class logit), and the two are mixed:

    p(j | photo, shopper) = sum_i m_i softmax_j(w_i . f_j),    taste_j = u . v_j

f_j holds how alike the photo and the item are (its views, its mean vector, the photos after which it was clicked), how
alike the item and what was probably photographed are on the shop's own pictures, the log-probability of its semantic
ID, its category, how often it is clicked, whether it is new, how often and how lately this shopper took that very item
before, and the taste: v_j (k,) is a linear map of the item's traits, and the shopper's u is made of their profile and
of the v of what they have clicked, searched and ordered. Few parameters on purpose: a shop has thousands of clicks to
learn them from, not billions.

The decoder reads it too: `node_traits` and `pull` say which branches of the trie are to this shopper's taste,
`node_looks` and `pull_alike` which look like what was photographed, so that beams go where the choice will be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from onevision.artifacts import read_json, write_json
from onevision.encoder.thumbnails import PHOTO_SHARPNESS, PHOTOGRAPHED
from onevision.errors import ArtifactError
from onevision.features.queries import QuerySet
from onevision.generator.branches import branch_means
from onevision.generator.choice_items import ItemTable, item_keys, items_digest, padded_views
from onevision.generator.products import VectorTable
from onevision.generator.reranker import Page, Reranker, read_page
from onevision.quantization.gemm import fast_matmul
from onevision.semantic_ids.catalogue import Catalogue
from onevision.semantic_ids.trie import Trie

FEATURES = ("view", "item", "chosen_after", "category", "popularity", "new", "again", "alike", "semantic_id", "taste")
COSINE_SCALE = 10.0
"""Cosines differ by tenths between neighbours; log-probabilities by units."""
INTENTS = ("this very product", "one like it")
HISTORIES = ("recent_clicked", "recent_searched", "recent_ordered", "long_history")
AGAIN_LIFE = 30.0
"""After so many items an item in a shopper's history counts an e-th of what it did when it was the last one."""
HISTORY_SLOTS = 4096
"""Most candidates fall into a slot, by the last bits of their number, where no item of the history is: they are not in
it, and are not looked for. A power of two."""
PSEUDO_ITEMS = 10.0
"""So many items of the usual shopper's are added to a shopper's own, or the last one would be all they want."""
RERANK_SHARPNESS, RERANK_POPULARITY = 2 * PHOTO_SHARPNESS, 0.5
"""The reranker is surer of what was photographed, and knows that popular items are photographed more often."""
PSEUDO_PHOTOS = 2.0
"""An item's own vector counts as so many photos among those after which it was clicked."""
HOPELESS = -1e6
"""Instead of minus infinity, whose gradient is not a number."""
GUIDING = 16
"""First directions of a thumbnail that beams are chosen by; all of them find no more."""
WEIGHTS, SETTINGS, ITEM_KEY, RERANKER = "choice.safetensors", "choice.json", "item_key", "reranker."


class Shoppers(NamedTuple):
    """B searches: photo vectors (B, d), log of the category mixture (B, K), profile row (B,), 0 for unknown, and the
    item numbers of the four histories (B, 4, H), -1 for none."""

    embedding: Tensor
    category: Tensor
    segment: Tensor
    histories: Tensor


class ChoiceModel(nn.Module):
    """Scores candidates for shoppers.

    Args:
        items: what is known of each item; `taste` (I, k) starts at zero and is set by training.
        segments: profiles.
        rank: k, dimensions of taste.
        history_length: items read of each history.

    Attributes:
        guidance: how much taste counts against the log-probability while beams are chosen.
        reranker: orders the first places anew; None where preference alignment gave none.
    """

    reranker: Reranker | None
    taste: Tensor
    item_category: Tensor
    item_photos: Tensor
    item_clicks: Tensor
    item_expected: Tensor
    item_new: Tensor
    item_thumbnail: Tensor

    def __init__(self, items: ItemTable, segments: list[str], rank: int, history_length: int) -> None:
        super().__init__()
        self.segments, self.history_length = segments, history_length
        self.guidance, self.reranker = 1.0, None
        self.register_buffer("taste", torch.zeros(len(items.new), rank))
        self.register_buffer("item_category", items.category)
        self.register_buffer("item_photos", items.photos)
        self.register_buffer("item_clicks", items.clicks)
        self.register_buffer("item_expected", items.expected)
        self.register_buffer("item_new", items.new)
        self.register_buffer("item_thumbnail", items.thumbnail)
        self.segment = nn.Embedding(len(segments) + 1, rank)
        nn.init.normal_(self.segment.weight, std=0.1)
        self.bias = nn.Parameter(torch.zeros(rank))
        self.reading = nn.Parameter(torch.tensor([0.5, -0.2, 0.2, 0.5]))
        self.log_pseudo_items = nn.Parameter(torch.tensor(1.5))
        start = torch.zeros(len(INTENTS), len(FEATURES))
        start[:, 0] = torch.tensor([4.0, 1.0])
        start[:, -1] = torch.tensor([0.1, 1.0])
        self.weights = nn.Parameter(start)
        self.intent = nn.Parameter(torch.zeros(len(INTENTS)))
        self.dropout = nn.Dropout(0.2)

    def attach(self, catalogue: Catalogue) -> ChoiceModel:
        """Use the vectors of a catalogue; `ArtifactError` if it is another one than the items were read from."""
        if len(catalogue.item_ids) != len(self.item_new):
            raise ArtifactError(
                f"{catalogue.artifact.path}: {len(catalogue.item_ids)} items, and the generator's choice model knows "
                f"{len(self.item_new)}; run the stage sft again"
            )
        embedding = torch.from_numpy(catalogue.embedding)
        self._embedding = VectorTable(embedding)
        self._views = VectorTable(torch.from_numpy(catalogue.view_embedding))
        self._view_rows = torch.from_numpy(padded_views(catalogue.view_item, len(catalogue.item_ids)))
        chosen_after = self.item_photos + PSEUDO_PHOTOS * embedding
        self._chosen_after, self._chosen_after_square = VectorTable(chosen_after), chosen_after.square().sum(1)
        self._long_thumbnail = VectorTable(_with_square(self.item_thumbnail))
        self._popularity_sum = _popularity(self.item_clicks, self.item_expected).exp().sum()
        self._number = catalogue.numbers()
        self._digest = items_digest(catalogue)
        return self

    def read(self, queries: QuerySet) -> Shoppers:
        """What is known of the shoppers before they choose; items that are not in the catalogue are left out."""
        category = torch.from_numpy(queries.category.astype(np.float32)).clamp_min(1e-3).log()
        lists = [getattr(queries, name) for name in HISTORIES]
        return self._shoppers(torch.from_numpy(queries.embedding), category, queries.segment, lists)

    def read_without_photo(self, segments: Sequence[str | None], lists: Sequence[list[list[str]]]) -> Shoppers:
        """The same of shoppers without a search, by their profiles (B,) and each of the `HISTORIES` (B, any number)."""
        photo, category = self.item_photos.shape[1], int(self.item_category.max()) + 1
        return self._shoppers(torch.zeros(len(segments), photo), torch.zeros(len(segments), category), segments, lists)

    def _shoppers(
        self, embedding: Tensor, category: Tensor, segments: Sequence[str | None], lists: Sequence[list[list[str]]]
    ) -> Shoppers:
        histories = np.full((len(segments), len(HISTORIES), self.history_length), -1)
        for place, rows in enumerate(lists):
            for row, items in enumerate(rows):
                known = [self._number[item] for item in items if item in self._number][: self.history_length]
                histories[row, place, : len(known)] = known
        code = {name: n for n, name in enumerate(self.segments, 1)}
        segment = torch.tensor([code.get(name or "", 0) for name in segments], dtype=torch.long)
        return Shoppers(embedding, category, segment, torch.from_numpy(histories))

    def known(self, shoppers: Shoppers, items: Tensor, own: Tensor | None = None) -> Tensor:
        """All features (B, C, 8) but the last two, of candidates `items` (B, C), -1 for none: those that training does
        not change.

        Args:
            own: (B, C) clicks on the candidate that these very searches made; they are taken out, or training would
                learn to look the answer up.
        """
        photo, there, items = shoppers.embedding, items >= 0, items.clamp_min(0)
        view = self._views.products(self._view_rows[items], photo).amax(-1)
        item, dot = (table.products(items, photo) for table in (self._embedding, self._chosen_after))
        square, clicks = self._chosen_after_square[items], self.item_clicks[items]
        if own is not None:
            # |s - n e|^2 and (s - n e) . e of photos e of length 1 that were summed n times into s
            dot, square, clicks = dot - own, square - 2 * own * dot + own.square(), clicks - own
        chosen_after = dot / square.clamp_min(1e-6).sqrt()
        category = shoppers.category.gather(1, self.item_category[items])
        popularity, new = _popularity(clicks, self.item_expected[items]), self.item_new[items].float()
        cosines = [COSINE_SCALE * c for c in (view, item, chosen_after)]
        alike = self._alike(items, view.masked_fill(~there, -torch.inf))
        again = self._again(shoppers, items, popularity)
        return torch.stack([*cosines, category, popularity, new, again, alike], -1)

    def tastes(self, items: Tensor) -> Tensor:
        """Tastes (..., k) of items (...).

        As of an embedding, whose gradient is the same to the bit for any number of threads; that of `taste[items]` is
        summed in whatever order threads come.
        """
        return F.embedding(items, self.taste)

    def user(self, shoppers: Shoppers) -> Tensor:
        """u (B, k): profile, and what the histories hold, each shrunk towards nothing when it is short."""
        there = shoppers.histories >= 0
        summed = (self.tastes(shoppers.histories.clamp_min(0)) * there[..., None]).sum(2)
        mean = summed / (there.sum(2, keepdim=True) + self.log_pseudo_items.exp())
        u = self.bias + self.segment(shoppers.segment) + (self.reading[:, None] * mean).sum(1)
        dropped: Tensor = self.dropout(u)
        return dropped

    def forward(
        self, known: Tensor, log_p: Tensor, taste: Tensor, valid: Tensor, stands_for: Tensor | None = None
    ) -> Tensor:
        """log p(j | photo, shopper) (B, C) among the valid candidates; hopelessly low for the others.

        Args:
            known: (B, C, 8); log_p: (B, C) log-probability of the semantic ID; taste: (B, C) of `user` and `taste`.
            stands_for: (B, C) how many items of the shop a candidate is a sample of; by default 1, itself.
        """
        scores = self.intent_scores(known, log_p, taste, valid)
        counted = scores if stands_for is None else scores + stands_for.log()[..., None]
        scores = scores - counted.logsumexp(1, keepdim=True)
        return (scores + self.intent.log_softmax(0)).logsumexp(-1)

    def intent_scores(self, known: Tensor, log_p: Tensor, taste: Tensor, valid: Tensor) -> Tensor:
        """w_i . f_j (B, C, intents), of what `forward` takes."""
        features = torch.cat([known, log_p[..., None], taste[..., None]], -1)
        return (features @ self.weights.T).masked_fill(~valid[..., None], HOPELESS)

    @torch.inference_mode()
    def score(self, shoppers: Shoppers, items: Tensor, log_p: Tensor) -> Tensor:
        """`choose` among candidates (B, C), -1 for none, and their log-probabilities; -inf where there is none."""
        valid = items >= 0
        scores = self.choose(shoppers, items, self.known(shoppers, items), log_p.masked_fill(~valid, 0.0))
        return scores.masked_fill(~valid, -torch.inf)

    def choose(self, shoppers: Shoppers, items: Tensor, known: Tensor, log_p: Tensor) -> Tensor:
        """log p(j | photo, shopper) (B, C) of candidates (B, C) as it is served: after the reranker, if any.

        Args:
            items: -1 for none; known: (B, C, 8); log_p: (B, C) log-probability of the semantic ID.
        """
        scores: Tensor = self(known, log_p, self.taste_for(shoppers, items), items >= 0)
        if self.reranker is None:
            return scores
        return self.reranker.rerank(scores, self.page(shoppers, items, known, log_p, scores))

    @torch.no_grad()
    def page(self, shoppers: Shoppers, items: Tensor, known: Tensor, log_p: Tensor, scores: Tensor) -> Page:
        """What a reranker reads of what `choose` takes and its scores (B, C) before they are reranked."""
        features = torch.cat([known, log_p[..., None], self.taste_for(shoppers, items)[..., None]], -1)
        view, popularity = (known[..., FEATURES.index(name)] for name in ("view", "popularity"))
        photographed = RERANK_SHARPNESS * view / COSINE_SCALE + RERANK_POPULARITY * popularity
        histories = (shoppers.histories >= 0).sum((1, 2))
        return read_page(features, scores, items, photographed, self.item_thumbnail, histories)

    def taste_for(self, shoppers: Shoppers, items: Tensor) -> Tensor:
        """u . v_j (B, C) of items (B, C), -1 for none."""
        return (self.tastes(items.clamp_min(0)) @ self.user(shoppers)[..., None]).squeeze(-1)

    @torch.inference_mode()
    def history_effect(self, shoppers: Shoppers, items: Tensor) -> Tensor:
        """(B, C) log-probability that a shopper picks each of the items (B, C) among these, less that of somebody of
        whom nothing is known, with the same photo; 0 where there is no item (-1).
        """
        if not (shoppers.segment.any() or (shoppers.histories >= 0).any()):
            return torch.zeros(items.shape)
        stranger = shoppers._replace(
            segment=torch.zeros_like(shoppers.segment), histories=torch.full_like(shoppers.histories, -1)
        )
        valid, tastes = items >= 0, self.tastes(items.clamp_min(0))
        known, log_p = self.known(shoppers, items), torch.zeros(items.shape)
        strangers = known.clone()
        strangers[..., FEATURES.index("again")] = 0.0
        own, others = (
            self(features, log_p, (tastes @ self.user(who)[..., None]).squeeze(-1), valid)
            for features, who in ((known, shoppers), (strangers, stranger))
        )
        return (own - others).masked_fill(~valid, 0.0)

    def flops(self, found: float) -> float:
        """FLOPs (2 a multiply-add) to choose among so many candidates, the mean of several searches."""
        likeness = (self._view_rows.shape[1] + 2) * self.item_photos.shape[1]
        alike = PHOTOGRAPHED * self.item_thumbnail.shape[1]
        each = 2 * (likeness + alike + self.taste.shape[1] + len(INTENTS) * len(FEATURES))
        return each * found + (self.reranker.flops(found, alike) if self.reranker else 0)

    # --- Guidance of the beams

    def node_traits(self, trie: Trie, bucket: Tensor) -> list[Tensor]:
        """For each depth of the trie, the mean (nodes, k + 2) of taste, popularity and newness below its nodes."""
        popularity = _popularity(self.item_clicks, self.item_expected)
        return branch_means(trie, bucket, torch.cat([self.taste, popularity[:, None], self.item_new[:, None]], 1))

    def node_looks(self, trie: Trie, bucket: Tensor) -> list[Tensor]:
        """For each depth of the trie, the mean (nodes, `GUIDING` + 1) of thumbnails and of their squared lengths."""
        return branch_means(trie, bucket, _with_square(self.item_thumbnail[:, :GUIDING]))

    @torch.inference_mode()
    def pull(self, shoppers: Shoppers) -> Tensor:
        """(B, k + 2): its product with `node_traits` is added to the log-probability when beams are chosen.

        The weights are those of the intents together, as often as each is there: an intent that few have may ask for
        what the others do not want.
        """
        weight = self._mean_weight()
        priors = torch.stack([weight["popularity"], weight["new"]]).expand(len(shoppers.segment), -1)
        return self.guidance * torch.cat([weight["taste"] * self.user(shoppers), priors], 1)

    def pull_alike(self) -> float:
        """What a branch loses by each unit of distance between its thumbnails and that of what was photographed."""
        return self.guidance * float(self._mean_weight()["alike"])

    def _mean_weight(self) -> dict[str, Tensor]:
        return dict(zip(FEATURES, self.intent.softmax(0) @ self.weights, strict=True))

    def _alike(self, items: Tensor, view: Tensor) -> Tensor:
        """Mean distance of the thumbnails of items (B, C) to that of what was photographed, negative.

        The photo says by its best views' cosines (B, C) which of the candidates it may be, and the shop's pictures,
        which can be compared better than photos, what looks like those.
        """
        cosine, place = view.topk(min(PHOTOGRAPHED, view.shape[1]), dim=1)
        probability = (PHOTO_SHARPNESS * cosine).softmax(1)
        own = F.embedding(items.gather(1, place), self._long_thumbnail.vectors)
        # [y, |y|^2] [-2 x, 1] + |x|^2
        asked = F.pad(-2 * own[..., :-1], (0, 1), value=1.0).transpose(1, 2)
        with fast_matmul():
            square = self._long_thumbnail.gathered(items, asked).add_(own[..., -1][:, None])
        return -(square.clamp_min_(0).sqrt_() @ probability[..., None]).squeeze(-1)

    def _again(self, shoppers: Shoppers, items: Tensor, popularity: Tensor) -> Tensor:
        """Log of how much likelier items (B, C) of `popularity` (B, C) are to this shopper than to the usual one.

        log ((x + m p) / m p), with p the item's share of the usual shopper's clicks, m pseudo-items, and x how often it
        is in the long history, its newest items counting most: the mean of the Dirichlet posterior against that of its
        prior. What this search led to is not in there, so training sees what serving does.
        """
        history = shoppers.histories[:, HISTORIES.index("long_history")]
        weight = (-torch.arange(history.shape[1]) / AGAIN_LIFE).exp()
        slots, last_bits = torch.zeros(len(items), HISTORY_SLOTS, dtype=torch.bool), HISTORY_SLOTS - 1
        slots.scatter_(1, history & last_bits, True)
        row, place = slots.gather(1, items & last_bits).nonzero(as_tuple=True)
        taken = torch.zeros(items.shape)
        taken[row, place] = (items[row, place][:, None] == history[row]).float() @ weight
        ratio: Tensor = taken / (PSEUDO_ITEMS * popularity.exp() / self._popularity_sum)
        return ratio.log1p()

    # --- Files

    def save_pretrained(self, folder: Path) -> None:
        """Write `choice.safetensors` and `choice.json`."""
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(tensors | {ITEM_KEY: torch.from_numpy(item_keys(self._number))}, folder / WEIGHTS)
        settings = {
            "segments": self.segments,
            "history_length": self.history_length,
            "guidance": self.guidance,
            "items": self._digest,
            "features": list(FEATURES),
            "intents": list(INTENTS),
        }
        write_json(folder / SETTINGS, settings)

    @classmethod
    def from_pretrained(cls, folder: Path, catalogue: Catalogue) -> ChoiceModel:
        """Read what `save_pretrained` wrote, for the same catalogue."""
        settings, tensors = read_choice(folder)
        if settings["items"] != items_digest(catalogue):
            raise ArtifactError(
                f"{folder}: its choice model was trained on other items than {catalogue.artifact.path} holds; "
                "run the stage sft again"
            )
        names = ("item_category", "item_photos", "item_clicks", "item_expected", "item_new", "item_thumbnail")
        items = ItemTable(*(tensors[name] for name in names))
        model = cls(items, settings["segments"], tensors["taste"].shape[1], settings["history_length"])
        model.load_state_dict({name: tensors[name] for name in model.state_dict()})
        model.guidance = float(settings["guidance"])
        reranker = {name.removeprefix(RERANKER): tensors[name] for name in tensors if name.startswith(RERANKER)}
        model.reranker = Reranker.of(reranker) if reranker else None
        return model.attach(catalogue).eval().requires_grad_(False)


def _popularity(clicks: Tensor, expected: Tensor) -> Tensor:
    """Log of an item's clicks against what is expected of any; 0 for what was not there to be clicked."""
    return ((clicks + 0.5) / (expected + 0.5)).log()


def _with_square(vectors: Tensor) -> Tensor:
    """Vectors (N, d) and the square of their lengths, (N, d + 1)."""
    return torch.cat([vectors, vectors.square().sum(1, keepdim=True)], 1)


def read_choice(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and tensors as written; of a feature that was not known then the weight is 0, and so are thumbnails."""
    settings, tensors = read_json(folder / SETTINGS), load_file(folder / WEIGHTS)
    tensors.setdefault("item_thumbnail", torch.zeros(len(tensors["taste"]), 1))
    weights = torch.zeros(len(INTENTS), len(FEATURES))
    weights[:, [FEATURES.index(name) for name in settings["features"]]] = tensors["weights"]
    return settings, tensors | {"weights": weights}
