"""Search by photo with a bundle: the core that the command line and every server wrap.

searcher = Searcher.open(bundle, features)
searcher.search(photo_bytes, "some-user", k=10)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from onevision.artifacts import Artifact
from onevision.data.images import MAX_PIXELS, ImageError, decode_image
from onevision.decoding.filters import ItemFilter
from onevision.decoding.ranker import GeneratorRanker, Ranking
from onevision.encoder.model import Encoder
from onevision.encoder.photos import SeenPhotos
from onevision.errors import ArtifactError, OneVisionError
from onevision.features.definitions import UserSequences
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting
from onevision.precision import Precision
from onevision.preference.reward import WEIGHTS as REWARD
from onevision.preference.reward import RewardModel, click_probabilities
from onevision.pruning.canary import LOOKS, PATCHES, Canary, Seen, counts_of
from onevision.pruning.photos import PhotoEncoder
from onevision.publishing.bundle import CATALOGUE, open_bundle
from onevision.serving.answers import Answer, Hit
from onevision.serving.cascade import ServedCascade

if TYPE_CHECKING:
    from onevision.features.online import OnlineFeatures

log = logging.getLogger(__name__)
System = Literal["generator", "cascade"]
GENERATOR: System = "generator"
CASCADE: System = "cascade"
_ranking = threading.Lock()
"""One pass at a time, whichever bundle's: `fast_matmul` sets what holds for the whole process, and oneDNN keeps what it
prepared for every setting that it meets, so that two passes at once leave hundreds of megabytes behind."""


class Searcher:
    """A loaded bundle. Use `Searcher.open`.

    Attributes:
        bundle: the verified artifact; its identity names the version that answers.
        cascade: what can be asked beside the generator; None without `use_cascade`.
    """

    def __init__(
        self,
        bundle: Artifact,
        encoder: Encoder,
        ranker: GeneratorRanker,
        features: OnlineFeatures | None,
        reward: RewardModel | None = None,
        seen: Seen | None = None,
    ) -> None:
        self.bundle = bundle
        self._photos = PhotoEncoder.of(encoder, ranker)
        self._ranker = ranker
        self._features = features
        self._reward = reward
        self._beam_width = int(bundle.extra["beam_width"])
        self._canary = self._canary_of(seen) if seen else None
        self._shown = pq.read_table(bundle.file(CATALOGUE)).to_pydict()
        self._price = ranker.catalogue.table["price"].to_pylist()
        if self._shown["item_id"] != ranker.catalogue.item_ids:
            raise ArtifactError(f"{bundle.path}: {CATALOGUE} and semantic_ids list different items; publish again")
        self._items = ranker.catalogue.table.append_column("category", [self._shown["category"]])
        self.cascade: ServedCascade | None = None

    @classmethod
    def open(cls, bundle: Path, features: Path | None = None, *, precision: Precision = "fp32") -> Searcher:
        """Verify and load a bundle.

        Args:
            features: the `features` artifact with the users' sequences; without it everybody is a cold user.
            precision: of the generator's layers.

        Raises:
            ArtifactError: half-written or altered, of mixed generations, or features of another version.
        """
        artifact, parts = open_bundle(bundle)
        paths = (parts[name].path for name in ("encoder", "semantic_ids", "generator", "pruning"))
        ranker = GeneratorRanker.open(*paths, precision=precision)
        online = None
        if features is not None:
            from onevision.features.online import OnlineFeatures

            online = OnlineFeatures.open(features)
        generator = parts["generator"].path
        reward = RewardModel.from_pretrained(generator) if (generator / REWARD).exists() else None
        seen = Seen.read(parts["pruning"].file("pruning.json"))
        return cls(artifact, Encoder.from_pretrained(parts["encoder"].path).freeze(), ranker, online, reward, seen)

    def use_cascade(self, evaluation: Artifact) -> None:
        """Let searches be answered by the evaluation's cascade too; `ArtifactError` if it is of other artifacts."""
        self.cascade = ServedCascade(evaluation, self.bundle, self._ranker.catalogue, self._shown["brand"])

    def search(self, image: bytes, user_id: str | None, k: int, only: ItemFilter | None = None) -> list[Hit]:
        """The `k` best items for a photo that `only` allows, best first; fewer where the beams found fewer.

        Raises:
            ImageError: the bytes are no usable picture.
        """
        return self.answer(image, user_id, k, only).hits

    def answer(self, image: bytes, user_id: str | None, k: int, only: ItemFilter | None = None) -> Answer:
        """As `search`, with the notes that belong to the answer."""
        return self.search_many([image], [user_id], k, only)[0]

    def search_many(
        self, images: Sequence[bytes], user_ids: Sequence[str | None], k: int, only: ItemFilter | None = None
    ) -> list[Answer]:
        """Answer several photos in one pass, in their order; `ImageError` names the place of one that is unusable."""
        if k < 1:
            raise OneVisionError(f"k is {k}; ask for at least one item")
        if len(images) != len(user_ids):
            raise OneVisionError(f"{len(images)} photos but {len(user_ids)} users; give one user (or none) a photo")
        if not images:
            return []
        users = [self._user(user_id) for user_id in user_ids]
        answers = self.rank(self._pixels(images), [sequences for sequences, _ in users], k, only)
        return [replace(answer, notes=notes) for answer, (_, notes) in zip(answers, users, strict=True)]

    @cached_property
    def categories(self) -> list[str]:
        """Names of the categories that items are of, sorted."""
        return sorted({name for name in self._shown["category"] if name is not None})

    def decode(self, image: bytes, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
        """A photo as `rank` takes it: (S, S, 3); `ImageError` if the bytes are no usable picture."""
        return decode_image(image, self.image_size, max_pixels=max_pixels)

    @property
    def image_size(self) -> int:
        """S, pixels a side of a photo as `rank` takes it."""
        return self._photos.encoder.image_size

    def nearest_cosine(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Cosine of decoded photos (N, S, S, 3) with the item that is nearest to each, (N,)."""
        with _ranking:
            seen = self._look(pixels).embedded
        return (seen.embedding @ self._ranker.catalogue.embedding.T).max(axis=1)

    def rank(
        self,
        pixels: NDArray[np.uint8],
        users: Sequence[UserSequences],
        k: int,
        only: ItemFilter | None = None,
        system: System = GENERATOR,
        *,
        watched: bool = True,
    ) -> list[Answer]:
        """Answer decoded photos (N, S, S, 3) of shoppers whose sequences are known, in one pass.

        Threads take turns: a bundle that warms up does so between the batches of the one that answers.

        Args:
            watched: the canary takes note; not of a warm-up, whose photos no shopper took.

        Raises:
            OneVisionError: the cascade is asked for, and there is none.
        """
        if system == CASCADE and self.cascade is None:
            raise OneVisionError(
                "system: no cascade answers beside this bundle; a server is given one of the same encoder and "
                "catalogue by --cascade"
            )
        with _ranking:
            return self._rank(pixels, users, k, only, self.cascade if system == CASCADE else None, watched)

    def _rank(
        self,
        pixels: NDArray[np.uint8],
        users: Sequence[UserSequences],
        k: int,
        only: ItemFilter | None,
        cascade: ServedCascade | None,
        watched: bool,
    ) -> list[Answer]:
        photos = self._look(pixels)
        queries = QuerySet.asked_now(*photos.embedded, users)
        allowed = None if only is None else only.allowed(self._items)
        clicks: list[list[float | None]] = [[None] * k for _ in users]
        history = clicks
        if cascade:
            items, scores = cascade.rank(queries, k, allowed)
        else:
            ranking = self._ranker.rank(queries, self._beam_width, k, allowed=allowed)
            items, scores = ranking.items, ranking.scores
            if watched and allowed is None:
                self._watch(ranking, photos)
            if choice := self._ranker.choice:
                shoppers = choice.read(queries)
                history = choice.history_effect(shoppers, torch.from_numpy(items)).tolist()
                if self._reward and allowed is None:  # it is calibrated among what the whole shop offers
                    clicks = click_probabilities(self._reward, choice, shoppers, items, scores).tolist()
        notes = ["answered by the cascade"] if cascade else []
        own = self._ranker.model.quantizer.encode(queries.embedding).tolist()
        return [
            Answer(self._hits(items[row], scores[row], clicks[row], history[row], photo), notes, tuple(own[row]))
            for row, photo in enumerate(queries.embedding)
        ]

    def _look(self, pixels: NDArray[np.uint8]) -> SeenPhotos:
        """Photos as the pruning setting sees them."""
        return self._photos.embed(pixels, self._ranker.setting)

    def _canary_of(self, seen: Seen) -> Canary | None:
        """None, loudly, where other beams are served than calibration counted with."""
        if seen.beam_width == self._beam_width:
            return Canary(seen)
        log.warning(
            "%s: pruning was calibrated with %d beams and %d are served, so that nobody knows what it loses and its "
            "first searches are not watched; evaluate with evaluation.beam_width=%d and publish again",
            self.bundle.path,
            seen.beam_width,
            self._beam_width,
            seen.beam_width,
        )
        return None

    def _watch(self, ranking: Ranking, photos: SeenPhotos) -> None:
        """Search in full from now on if pruning does not do what it was calibrated to do."""
        counted: dict[str, NDArray[Any]] = counts_of(ranking) | {LOOKS: photos.looks}
        if photos.patches is not None:
            counted[PATCHES] = photos.patches
        wrong = self._canary.watch(counted) if self._canary else None
        if wrong:
            log.warning("%s: %s", self.bundle.path, wrong)
            self._ranker.use_pruning(PruningSetting())

    def _user(self, user_id: str | None) -> tuple[UserSequences, list[str]]:
        if user_id is None:
            return UserSequences(), []
        if self._features is None:
            return UserSequences(), [f"user {user_id!r} is served as a cold user: no features were given"]
        sequences = self._features.sequences(user_id)
        if sequences == UserSequences():
            return sequences, [f"user {user_id!r} is served as a cold user: the features do not know them"]
        return sequences, []

    def _pixels(self, images: Sequence[bytes]) -> NDArray[np.uint8]:
        pixels = []
        for row, data in enumerate(images):
            try:
                pixels.append(self.decode(data))
            except ImageError as error:
                place = f"photo {row + 1} of {len(images)}: " if len(images) > 1 else ""
                raise ImageError(f"{place}{error}") from None
        return np.stack(pixels)

    def _hits(
        self,
        items: NDArray[np.int64],
        scores: NDArray[np.float32],
        clicks: Sequence[float | None],
        history: Sequence[float | None],
        photo: NDArray[np.float32],
    ) -> list[Hit]:
        codes, embedding = self._ranker.catalogue.codes, self._ranker.catalogue.embedding
        return [
            Hit(
                item_id=self._shown["item_id"][item],
                score=float(score),
                click_probability=click,
                similarity=float(embedding[item] @ photo),
                history=effect,
                sid=tuple(codes[item].tolist()),
                category=self._shown["category"][item],
                price=self._price[item],
                title=self._shown["title"][item],
                brand=self._shown["brand"][item],
            )
            for item, score, click, effect in zip(items.tolist(), scores.tolist(), clicks, history, strict=True)
            if item >= 0
        ]
