"""Search with a bundle: the same answers as the evaluation, and clear words for everything hostile or missing."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from onevision.artifacts import open_artifact
from onevision.data.images import ImageError
from onevision.data.snapshot import Snapshot
from onevision.decoding.filters import ItemFilter
from onevision.decoding.ranker import GeneratorRanker, Ranking
from onevision.errors import ArtifactError, OneVisionError
from onevision.features.definitions import UserSequences
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting
from onevision.preference.reward import RewardModel
from onevision.pruning.canary import Seen
from onevision.serving.answers import only_matches
from onevision.serving.search import Searcher

BEAM_WIDTH = 64
"""What `support.bundles` says the evaluation was measured with."""


class KnownUsers:
    """Stands for the online store, which takes seconds to load."""

    def __init__(self, users: dict[str, UserSequences]) -> None:
        self.users = users

    def sequences(self, user_id: str) -> UserSequences:
        return self.users.get(user_id, UserSequences())


def test_hits_are_items_of_the_shop_best_first_and_each_once(searcher: Searcher, photo: bytes) -> None:
    hits = searcher.search(photo, None, 10)
    assert len(hits) == 10
    assert len({hit.item_id for hit in hits}) == 10
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    number = int(hits[0].item_id.removeprefix("i"))
    assert hits[0].title == f"item {number}"
    assert hits[0].category == f"category {number % 4}"
    assert hits[0].price > 0


def test_serving_ranks_a_held_out_query_as_the_evaluation_did(
    searcher: Searcher, bundle: Path, models: dict[str, Path], tiny_snapshot: Path
) -> None:
    queries = QuerySet.load(models["pairs"], models["encoder"], models["features"], split="test")
    parts = [models[name] for name in ("encoder", "semantic_ids", "generator_aligned", "pruning")]
    offline = GeneratorRanker.open(*parts).rank(queries, BEAM_WIDTH, 10)
    users = {
        f"{row}": UserSequences(
            queries.recent_clicked[row],
            queries.recent_searched[row],
            queries.recent_ordered[row],
            queries.long_history[row],
            queries.segment[row],
        )
        for row in range(len(queries))
    }
    online = Searcher(searcher.bundle, searcher._photos.encoder, searcher._ranker, KnownUsers(users))  # type: ignore[arg-type]
    images = [Snapshot.open(tiny_snapshot).images.read(image) for image in queries.image_id]
    answers = online.search_many(images, list(users), 10)
    assert any(users[name].recent_clicked for name in users)
    ids = searcher._ranker.catalogue.item_ids
    for row, answer in enumerate(answers):
        found = [ids[item] for item in offline.items[row] if item >= 0]
        assert [hit.item_id for hit in answer.hits] == found
        np.testing.assert_allclose([hit.score for hit in answer.hits], offline.scores[row][: len(found)], atol=1e-3)


def test_a_photo_is_answered_the_same_alone_and_among_others(
    searcher: Searcher, photo: bytes, tiny_snapshot: Path
) -> None:
    shop = Snapshot.open(tiny_snapshot)
    others = [shop.images.read(image) for image in shop.images.ids[:3]]
    together = searcher.search_many([*others, photo], [None] * 4, 5)[3].hits
    alone = searcher.search(photo, None, 5)
    assert [hit.item_id for hit in together] == [hit.item_id for hit in alone]


def test_history_of_a_known_user_reaches_the_generator(searcher: Searcher, photo: bytes) -> None:
    users = KnownUsers({"ann": UserSequences(recent_clicked=["i003"], segment="regular")})
    personal = Searcher(searcher.bundle, searcher._photos.encoder, searcher._ranker, users)  # type: ignore[arg-type]
    known, stranger = personal.answer(photo, "ann", 5), personal.answer(photo, "bob", 5)
    assert known.notes == []
    assert "features do not know" in stranger.notes[0]
    assert [hit.score for hit in known.hits] != [hit.score for hit in stranger.hits]
    assert stranger.hits == searcher.search(photo, None, 5)


def test_without_features_a_user_is_cold_and_that_is_said(searcher: Searcher, photo: bytes) -> None:
    answer = searcher.answer(photo, "ann", 3)
    assert "no features were given" in answer.notes[0]
    assert answer.hits == searcher.search(photo, None, 3)


@pytest.mark.parametrize("image", [b"", b"GIF89a", b"not a picture", b"\xff\xd8\xff\xe0" + b"\x00" * 100])
def test_bytes_that_are_no_picture_are_refused(searcher: Searcher, image: bytes) -> None:
    with pytest.raises(ImageError):
        searcher.search(image, None, 5)


def test_truncated_photo_is_refused_and_named_among_many(searcher: Searcher, photo: bytes) -> None:
    with pytest.raises(ImageError, match=r"(?i)truncated"):
        searcher.search(photo[: len(photo) // 2], None, 5)
    with pytest.raises(ImageError, match="photo 2 of 2"):
        searcher.search_many([photo, b"?"], [None, None], 5)


def test_nonsense_arguments_are_refused(searcher: Searcher, photo: bytes) -> None:
    with pytest.raises(OneVisionError, match="at least one item"):
        searcher.search(photo, None, 0)
    with pytest.raises(OneVisionError, match="1 photos but 2 users"):
        searcher.search_many([photo], [None, None], 1)
    assert searcher.search_many([], [], 3) == []


def test_a_filter_lets_through_what_it_asks_for_and_nothing_else(searcher: Searcher, photo: bytes) -> None:
    every = searcher.search(photo, None, 1000)
    middle = sorted(hit.price for hit in every)[len(every) // 2]
    for only, fits in (
        (ItemFilter(category=every[0].category), lambda hit: hit.category == every[0].category),
        (ItemFilter(max_price=middle), lambda hit: hit.price <= middle),
        (ItemFilter(min_price=middle), lambda hit: hit.price >= middle),
    ):
        wanted = [hit for hit in every if fits(hit)]
        assert 0 < len(wanted) < len(every)
        found = searcher.search(photo, None, 1000, only)
        assert {h.item_id for h in found} == {h.item_id for h in wanted}
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    assert searcher.search(photo, None, 10, ItemFilter(min_price=1e9)) == []
    with pytest.raises(OneVisionError, match="no item is of category 'boat'; there are category 0"):
        searcher.search(photo, None, 10, ItemFilter(category="boat"))


def test_more_places_than_items_gives_what_there_is(searcher: Searcher, photo: bytes) -> None:
    assert 0 < len(searcher.search(photo, None, 1000)) <= 24


def test_a_bundle_that_is_half_written_altered_or_none_is_refused(bundle: Path, tmp_path: Path) -> None:
    half = shutil.copytree(bundle, tmp_path / "half")
    (half / "manifest.json").unlink()
    altered = shutil.copytree(bundle, tmp_path / "altered")
    weights = altered / "generator" / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for path, message in ((half, "did not finish"), (altered, "differs|bytes"), (tmp_path / "none", "no such")):
        with pytest.raises(ArtifactError, match=message):
            Searcher.open(path)


def test_an_artifact_that_is_no_bundle_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(ArtifactError, match="'bundle' artifact is wanted"):
        Searcher.open(models["encoder"])


def test_the_bundle_names_the_version_that_answers(searcher: Searcher, bundle: Path) -> None:
    assert searcher.bundle.identity == open_artifact(bundle).identity


@pytest.fixture
def own_searcher(bundle: Path) -> Searcher:
    """One that a test may spoil."""
    return Searcher.open(bundle)


def test_hits_have_a_click_probability_and_a_threshold_leaves_only_matches(searcher: Searcher, photo: bytes) -> None:
    counts = torch.ones(len(searcher._ranker.catalogue.item_ids), 4)
    reward = RewardModel(counts).eval().requires_grad_(False)
    answer = Searcher(searcher.bundle, searcher._photos.encoder, searcher._ranker, None, reward).answer(photo, None, 10)
    probabilities = [hit.click_probability for hit in answer.hits]
    assert all(p is not None and 0 < p < 1 for p in probabilities)
    middle = sorted(p for p in probabilities if p is not None)[5]
    matches = only_matches(answer, middle)
    assert [hit for hit in answer.hits if (hit.click_probability or 0) >= middle] == matches.hits
    assert matches.notes == answer.notes
    assert all(hit.click_probability is None for hit in searcher.search(photo, None, 3))
    rewarded = Searcher(searcher.bundle, searcher._photos.encoder, searcher._ranker, None, reward)
    filtered = rewarded.answer(photo, None, 10, ItemFilter(min_price=0.0))
    assert [hit.item_id for hit in filtered.hits] == [hit.item_id for hit in answer.hits]
    assert {hit.click_probability for hit in filtered.hits} == {None}  # another choice than it is calibrated for
    nothing = only_matches(answer, 1.0)
    assert nothing.hits == []
    assert "no match" in nothing.notes[-1]
    with pytest.raises(OneVisionError, match="probability"):
        only_matches(answer, 7)
    with pytest.raises(OneVisionError, match="publish"):
        only_matches(replace(answer, hits=[replace(answer.hits[0], click_probability=None)]), 0.5)


def test_bundles_are_ranked_one_at_a_time_whichever_thread_asks(
    searcher: Searcher, bundle: Path, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, most = 0, 0
    rank = GeneratorRanker.rank

    def watched(self: GeneratorRanker, *arguments: Any, **named: Any) -> Ranking:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)
        found = rank(self, *arguments, **named)
        inside -= 1
        return found

    monkeypatch.setattr(GeneratorRanker, "rank", watched)
    before = torch.backends.mkldnn.matmul.fp32_precision
    searchers = [searcher, Searcher.open(bundle)]
    with ThreadPoolExecutor(2) as pool:
        for answer in [pool.submit(searchers[n % 2].search, photo, None, 3) for n in range(6)]:
            assert len(answer.result()) == 3
    assert most == 1
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_a_bundle_pruned_unlike_its_calibration_warns_and_searches_in_full(
    own_searcher: Searcher, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    online = Searcher(
        own_searcher.bundle,
        own_searcher._photos.encoder,
        own_searcher._ranker,
        None,
        seen=Seen({"image tokens": (0, 1e9), "codes read by beams": (1e8, 1e9)}, BEAM_WIDTH),
    )
    online._ranker.use_pruning(PruningSetting(open_below=5))
    for _ in range(5):
        online.search_many([photo] * 10, [None] * 10, 3)
    assert online._ranker.setting == PruningSetting()
    assert "pruning is off" in caplog.text
    assert "codes read by beams" in caplog.text
