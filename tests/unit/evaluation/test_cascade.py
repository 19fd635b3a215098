"""The cascade learns taste, never looks ahead, treats cold items fairly, is deterministic, and is kept whole."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from support.shelves import DAY, make_items, make_searches

from onevision.artifacts import read_json, write_json
from onevision.errors import ArtifactError, OneVisionError
from onevision.evaluation.cascade import _SETTINGS, SETTINGS, Cascade
from onevision.evaluation.cascade_features import FEATURES, PAGE, FeatureBuilder
from onevision.evaluation.click_log import PHOTOS_AN_ITEM, ClickLog
from onevision.evaluation.dense import DenseSearch
from onevision.evaluation.items import Items
from onevision.evaluation.searches import HISTORIES, Searches, deal_histories
from onevision.metrics import hit_rate

ITEMS = make_items(120, cold=16)
TRAIN = make_searches(ITEMS, 500, start=0, end=10 * DAY, seed=1)
VALIDATION = make_searches(ITEMS, 120, start=10 * DAY, end=12 * DAY, seed=2)
TEST = make_searches(ITEMS, 250, start=12 * DAY, end=14 * DAY, seed=3)


THUMBNAILS = ITEMS.embedding + 0.1 * np.random.default_rng(5).normal(size=ITEMS.embedding.shape).astype(np.float32)
DENSE = DenseSearch(ITEMS.view_embedding, ITEMS.view_item, len(ITEMS))


def make_log(training: Searches = TRAIN) -> ClickLog:
    return ClickLog.of(training, np.concatenate(training.clicked), training.ts, 10 * DAY)


def make_builder(training: Searches = TRAIN) -> FeatureBuilder:
    return FeatureBuilder(ITEMS, make_log(training), THUMBNAILS)


def make_cascade(items: Items = ITEMS, trees: int = 40) -> Cascade:
    return Cascade(items, DENSE, make_log(), THUMBNAILS, candidates=40, trees=trees, seed=5)


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return make_cascade().fit(TRAIN, VALIDATION)


def column(features: np.ndarray, name: str) -> np.ndarray:
    return features[:, FEATURES.index(name)]


def test_the_ranker_beats_the_search_that_feeds_it_by_learning_taste(cascade):
    first = [c.tolist() for c in TEST.clicked]
    dense = DENSE.search(TEST.embedding, 10)[0]
    ranked = cascade.rank(TEST, 10)[0]
    assert hit_rate(ranked, first, 1).mean() > hit_rate(dense, first, 1).mean() + 0.2


def test_a_strangers_history_costs_it_that_gain(cascade):
    dealt = np.random.default_rng(0).permutation(len(TEST))
    strangers = {name: [TEST.histories[name][row] for row in dealt] for name in HISTORIES}
    first = [c.tolist() for c in TEST.clicked]
    own = hit_rate(cascade.rank(TEST, 10)[0], first, 1).mean()
    shuffled = replace(TEST, histories=strangers, segment=TEST.segment[dealt])
    assert own > hit_rate(cascade.rank(shuffled, 10)[0], first, 1).mean() + 0.2


def test_cold_items_are_not_buried(cascade):
    first = [c.tolist() for c in TEST.clicked]
    cold = np.array([ITEMS.cold[c[0]] for c in TEST.clicked])
    assert cold.sum() > 15
    hits = hit_rate(cascade.rank(TEST, 10)[0], first, 5)
    assert hits[cold].mean() > hits[~cold].mean() - 0.1


def test_same_seed_gives_the_same_ranking(cascade):
    a, b = cascade.rank(TEST, 20), make_cascade().fit(TRAIN, VALIDATION).rank(TEST, 20)
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_array_equal(a[1], b[1])


def test_a_ranking_does_not_depend_on_the_other_queries(cascade):
    rows, scores = cascade.rank(TEST.take(slice(0, 30)), 10)
    one_by_one = [cascade.rank(TEST.take(slice(q, q + 1)), 10) for q in range(30)]
    np.testing.assert_array_equal(rows, np.concatenate([r for r, _ in one_by_one]))
    np.testing.assert_allclose(scores, np.concatenate([s for _, s in one_by_one]), rtol=1e-5)


def test_behind_what_is_ranked_come_the_next_of_the_recall(cascade):
    asked = TEST.take(slice(0, 2))
    places = len(ITEMS) + 5
    rows, scores = cascade.rank(asked, places)
    recalled = DENSE.search(asked.embedding, places)[0]
    np.testing.assert_array_equal(np.sort(rows[:, :40]), np.sort(recalled[:, :40]))
    np.testing.assert_array_equal(rows[:, 40:], recalled[:, 40:])
    assert (rows[:, -5:] == -1).all()
    assert np.isneginf(scores[:, 40:]).all()
    np.testing.assert_array_equal(cascade.rank(asked, 50)[0], rows[:, :50])


def test_training_never_shows_an_item_before_its_time():
    early = replace(ITEMS, created=np.where(np.arange(len(ITEMS)) % 2, 0, 20 * DAY))
    cascade = make_cascade(early)
    found = DENSE.search(TRAIN.embedding[:1], 40)[0][0]
    chosen = cascade._training_candidates(TRAIN, 0, found, np.random.default_rng(0))
    assert len(chosen) > 5
    assert (chosen % 2 == 1).all()


def test_features_of_a_search_do_not_see_its_own_click():
    row = 40
    other_click = np.array([(TRAIN.clicked[row][0] + 4) % 100])
    changed = replace(TRAIN, clicked=[*TRAIN.clicked[:row], other_click, *TRAIN.clicked[row + 1 :]])
    candidates = np.arange(100)
    a, b = (make_builder(t).build(t, row, candidates, candidates[:20]) for t in (TRAIN, changed))
    np.testing.assert_array_equal(a, b)


def test_alike_is_the_distance_to_what_was_probably_photographed():
    candidates = np.arange(len(ITEMS))
    for row in (0, 7):
        photo = TEST.embedding[row]
        best = np.array([(ITEMS.view_embedding[ITEMS.view_item == i] @ photo).max() for i in candidates])
        near = np.argsort(-best)[:8]
        likely = np.exp(40 * best[near]) / np.exp(40 * best[near]).sum()
        far = np.linalg.norm(THUMBNAILS[:, None] - THUMBNAILS[near], axis=2) @ likely
        features = make_builder(TRAIN).build(TEST, row, candidates, np.argsort(-best)[:20])
        np.testing.assert_allclose(column(features, "alike"), -far, rtol=1e-4)
        shown = np.argsort(-best)[:20]
        np.testing.assert_allclose(column(features, "alike_gap"), far - far[shown].min(), rtol=1e-3, atol=1e-5)
        apart = np.linalg.norm(THUMBNAILS[:, None] - THUMBNAILS[near], axis=2)
        for name, decay in (("alike_any_gap", 1.0), ("alike_nearest_gap", 3.0)):
            alike = np.log(np.exp(-decay * apart) @ likely) / decay
            np.testing.assert_allclose(column(features, name), alike[shown].max() - alike, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(column(features, "photo_certainty"), likely.max(), rtol=1e-5)


def test_features_look_no_further_than_the_end_of_training():
    late = make_searches(ITEMS, 200, start=10 * DAY, end=12 * DAY, seed=9)
    both = Searches(
        embedding=np.concatenate([TRAIN.embedding, late.embedding]),
        ts=np.concatenate([TRAIN.ts, late.ts]),
        histories={name: TRAIN.histories[name] + late.histories[name] for name in HISTORIES},
        segment=np.concatenate([TRAIN.segment, late.segment]),
        clicked=TRAIN.clicked + late.clicked,
        ordered=TRAIN.ordered + late.ordered,
        shown=TRAIN.shown + late.shown,
    )
    candidates = np.arange(len(ITEMS))
    a, b = (make_builder(t).build(TEST, 3, candidates, candidates[:20]) for t in (TRAIN, both))
    np.testing.assert_array_equal(a, b)


def test_an_unseen_item_looks_like_its_category_and_its_own_views():
    candidates = np.arange(100)
    features = make_builder().build(TEST, 0, candidates, candidates[:20], np.ones(100, dtype=bool))
    np.testing.assert_allclose(column(features, "item_popularity"), column(features, "category_popularity"))
    np.testing.assert_allclose(column(features, "photo_max"), column(features, "view_max"))


def test_history_features_equal_plain_cosines():
    candidates = np.arange(30)
    features = make_builder().build(TEST, 7, candidates, candidates[:20])
    history = TEST.histories["recent_clicked"][7]
    cosine = ITEMS.embedding[candidates] @ ITEMS.embedding[history].T
    np.testing.assert_allclose(column(features, "max_recent_clicked"), cosine.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(column(features, "mean_recent_clicked"), cosine.mean(axis=1), rtol=1e-5)
    views = (ITEMS.view_embedding @ TEST.embedding[7]).reshape(-1, 2)[:30]
    np.testing.assert_allclose(column(features, "view_max"), views.max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(column(features, "view_mean"), views.mean(axis=1), rtol=1e-5)


def test_no_history_is_missing_and_not_zero():
    empty = replace(TEST, histories={name: [np.zeros(0, dtype=np.int64)] * len(TEST) for name in HISTORIES})
    features = make_builder().build(empty, 0, np.arange(10), np.arange(10))
    assert np.isnan(column(features, "max_long_history")).all()
    assert np.isnan(column(features, "price_distance")).all()
    assert np.isfinite(column(features, "view_max")).all()


def test_without_the_page_no_tree_reads_it():
    cascade = make_cascade(trees=20)
    groups = cascade._groups(TRAIN, np.random.default_rng(0))
    for name, setting in _SETTINGS.items():
        gain = dict(
            zip(FEATURES, cascade._train(groups.dataset(), 20, setting).feature_importance("gain"), strict=True)
        )
        assert (sum(gain[page] for page in PAGE) > 0) == ("without the page" not in name)


@pytest.mark.parametrize("scores", [(0.3, 0.4, 0.2, 0.1), (0.4, 0.3, 0.2, 0.5)])
def test_the_setting_that_validation_likes_best_learns_from_both(monkeypatch, scores):
    cascade = make_cascade(trees=5)
    trees = (3, 4, 6, 7)
    tuned = iter(zip(trees, scores, strict=True))
    trained = []

    def train(data, count, setting):
        data.construct()
        trained.append((count, setting, len(data.get_group())))
        return "ranker"

    monkeypatch.setattr(cascade, "_tune", lambda *_: next(tuned))
    monkeypatch.setattr(cascade, "_train", train)
    cascade.fit(TRAIN, VALIDATION)
    assert cascade._ranker == "ranker"
    best = int(np.argmax(scores))
    searches = sum(len(clicked) > 0 for clicked in [*TRAIN.clicked, *VALIDATION.clicked])
    assert trained == [(trees[best], list(_SETTINGS.values())[best], searches)]
    assert list(cascade.validation_ndcg_.values()) == list(scores)


def test_trees_that_do_not_help_on_validation_are_not_grown():
    stopped = make_cascade(trees=60).fit(TRAIN, VALIDATION)
    assert stopped._ranker.num_trees() < 20
    free = make_cascade(trees=20).fit(TRAIN, VALIDATION.take(slice(0, 0)))  # nothing to stop by
    assert free._ranker.num_trees() == 20


def test_a_log_without_clicks_is_refused():
    nothing = replace(TRAIN, clicked=[c[:0] for c in TRAIN.clicked])
    with pytest.raises(OneVisionError, match="no training search has a click"):
        make_cascade(trees=5).fit(nothing, VALIDATION)


@pytest.mark.parametrize("allowed", [None, ITEMS.brand != "b1"])
def test_a_loaded_cascade_ranks_exactly_as_the_trained_one(cascade, tmp_path, allowed):
    cascade.save(tmp_path / "cascade")
    kept = Cascade.load(tmp_path / "cascade", ITEMS)
    for trained, loaded in zip(
        cascade.rank(TEST, 60, allowed=allowed), kept.rank(TEST, 60, allowed=allowed), strict=True
    ):
        np.testing.assert_array_equal(trained, loaded)
    assert kept.importance() == pytest.approx(cascade.importance())


def test_a_saved_cascade_does_not_depend_on_the_number_of_threads(tmp_path, monkeypatch):
    for threads in "12":
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        make_cascade(trees=5).fit(TRAIN, VALIDATION).save(tmp_path / threads)
    one, two = (sorted((tmp_path / threads).iterdir()) for threads in "12")
    assert [(file.name, file.read_bytes()) for file in one] == [(file.name, file.read_bytes()) for file in two]


def test_a_cascade_of_other_features_is_refused(cascade, tmp_path):
    cascade.save(tmp_path / "cascade")
    settings = read_json(tmp_path / "cascade" / SETTINGS)
    write_json(tmp_path / "cascade" / SETTINGS, settings | {"features": settings["features"][1:]})
    with pytest.raises(ArtifactError, match="evaluate again"):
        Cascade.load(tmp_path / "cascade", ITEMS)


def test_what_is_kept_of_the_log_is_bounded_and_ends_with_training(tmp_path):
    popular = replace(TRAIN, clicked=[np.array([3])] * len(TRAIN))
    end = int(TRAIN.ts[300])
    ClickLog.of(popular, np.full(len(TRAIN), 3), TRAIN.ts, end).save(tmp_path)
    log = ClickLog.load(tmp_path)
    assert len(log.photo) == PHOTOS_AN_ITEM
    np.testing.assert_array_equal(np.sort(log.photo_ts), TRAIN.ts[300 - PHOTOS_AN_ITEM : 300])
    assert len(log.clicked) == len(log.segment) == 300
    assert max(log.clicked_ts.max(), log.segment_day.max() * DAY) < log.end == end
    for field in fields(ClickLog):
        kept = getattr(ClickLog.of(popular, np.full(len(TRAIN), 3), TRAIN.ts, end), field.name)
        np.testing.assert_array_equal(getattr(log, field.name), kept)


def test_a_filter_changes_who_is_ranked_and_nobodys_score(cascade):
    allowed = (ITEMS.price < 45) & (ITEMS.brand != "b0")
    rows, scores = cascade.rank(TEST, 40, allowed=allowed)
    assert allowed[rows].all()
    free, free_scores = cascade.rank(TEST, 40)
    for query in range(len(TEST)):
        known = dict(zip(free[query].tolist(), free_scores[query].tolist(), strict=True))
        shared = [place for place, row in enumerate(rows[query].tolist()) if row in known]
        assert scores[query, shared].tolist() == pytest.approx([known[row] for row in rows[query, shared].tolist()])
        nearest = [row for row in DENSE.search(TEST.embedding[[query]], 120)[0][0].tolist() if allowed[row]][:40]
        assert set(rows[query].tolist()) <= set(nearest)


def test_where_a_filter_leaves_nothing_nothing_is_found(cascade):
    rows, scores = cascade.rank(TEST.take(slice(0, 3)), 5, allowed=np.zeros(len(ITEMS), dtype=bool))
    assert (rows == -1).all()
    assert np.isneginf(scores).all()


def test_nobody_keeps_their_own_history_when_histories_are_dealt():
    users = [f"u{u}" for u in np.random.default_rng(0).integers(0, 9, 60)]
    dealt = deal_histories(users, seed=1)
    assert sorted(dealt.tolist()) == list(range(60))
    assert all(users[row] != users[other] for row, other in enumerate(dealt))
    np.testing.assert_array_equal(dealt, deal_histories(users, seed=1))
