import numpy as np
from support.generators import make_catalogue, make_queries

from onevision.preference.config import PreferenceConfig
from onevision.preference.guards import guarded_items
from onevision.preference.levels import (
    CARTED,
    CLICKED,
    ORDERED,
    ORDERED_ELSEWHERE,
    OTHER,
    SAME_CATEGORY,
    SHOWN,
    gains_of,
    levels_of,
)
from onevision.preference.lists import PreferenceLists, build_lists

CATALOGUE, _ = make_catalogue()


def lists_for(own: np.ndarray | None = None, **changes: object) -> PreferenceLists:
    """Of three searches: one that led to a click, one to a click and a cart, one to all three."""
    queries = make_queries(CATALOGUE, 3)
    queries.embedding = CATALOGUE.embedding[[0, 1, 2]]
    queries.clicked = [["i003"], ["i002", "i010"], ["i004", "i005", "i011"]]
    queries.carted, queries.ordered = [[], ["i010"], ["i005", "i011"]], [[], [], ["i011"]]
    queries.shown = [["i003", "i006", "i007"], ["i002", "i010", "i001"], ["i004", "i005", "i008", "i011"]]
    own = np.array([[9, 3, 10], [10, 13, -1], [5, 12, -1]]) if own is None else own
    return build_lists(queries, own, CATALOGUE, PreferenceConfig(**{"losers": 6} | changes))


def rewards(lists: PreferenceLists, n: int) -> dict[int, float]:
    return {int(i): round(float(r), 3) for i, r in zip(lists.losers[n], lists.loser_reward[n], strict=True) if i >= 0}


def test_orders_beat_carts_beat_clicks_beat_shown_beat_own_beams() -> None:
    lists = lists_for()
    assert lists.winner.tolist() == [3, 10, 11]
    assert lists.winner_reward.tolist() == [CLICKED, CARTED, ORDERED]
    # Categories go round by threes: i009 is of i003's, i013 of i010's, i010 and i012 are not of their winners'.
    assert rewards(lists, 0) == {6: SHOWN, 7: SHOWN, 9: SAME_CATEGORY, 10: OTHER}
    assert rewards(lists, 1) == {2: CLICKED, 1: SHOWN, 13: SAME_CATEGORY}
    assert rewards(lists, 2) == {5: CARTED, 4: CLICKED, 8: SHOWN, 12: OTHER}
    assert lists.counts["lists"] == 3
    assert [lists.counts[f"losers_{kind}"] for kind in ("wanted", "shown", "own")] == [3, 4, 4]


def test_what_came_of_an_item_counts_at_its_highest_level_only() -> None:
    queries = make_queries(CATALOGUE, 1)
    queries.shown, queries.clicked = [["i001", "i002", "i003", "gone"]], [["i003", "i002"]]
    queries.carted = queries.ordered = [["i002"]]
    assert list(levels_of(queries, 0, CATALOGUE.numbers()).items()) == [(2, ORDERED), (3, CLICKED), (1, SHOWN)]


def test_an_own_item_that_was_shown_is_one_loser_and_counted_as_a_duplicate() -> None:
    lists = lists_for(own=np.array([[6, 9, -1], [10, -1, -1], [8, 12, -1]]))
    for row, item in ((0, 6), (2, 8)):
        there = lists.losers[row] == item
        assert there.sum() == 1
        assert lists.loser_reward[row][there] == SHOWN
    assert lists.counts["losers_duplicate"] == 2
    assert lists.counts["losers_own"] == 2
    assert lists.counts["losers_shown"] == 4


def test_what_was_ordered_before_in_the_category_is_no_mistake_but_below_an_order() -> None:
    queries = make_queries(CATALOGUE, 2)
    queries.clicked, queries.ordered, queries.shown = [["i003"], ["i003"]], [[], ["i003"]], [["i003"], ["i003", "i006"]]
    queries.recent_ordered = [["i009", "i010"], ["i009", "i010", "i006", "gone"]]
    lists = build_lists(queries, np.array([[9, 10, 12], [9, 6, 12]]), CATALOGUE, PreferenceConfig())
    assert rewards(lists, 0) == {10: OTHER, 12: SAME_CATEGORY}
    assert rewards(lists, 1) == {6: SHOWN, 9: ORDERED_ELSEWHERE, 12: SAME_CATEGORY}


def guarded(own: list[int], winner: int = 3, **changes: object) -> tuple[set[int], dict[str, int]]:
    """Of a search with the photo of an item, which was clicked, and then i014; i015 was shown."""
    queries = make_queries(CATALOGUE, 1)
    queries.embedding, queries.shown = CATALOGUE.embedding[[winner]], [["i015"]]
    queries.clicked = [[f"i{winner:03d}", "i014"]]
    config = PreferenceConfig(**changes)
    items, counts = guarded_items(queries, np.array([winner]), np.array([own]), CATALOGUE, config)
    assert items.shape == (1, min(len(own), config.guard_places))
    return set(items[0].tolist()) - {-1}, counts


def test_guards_are_of_first_items_that_are_less_alike_or_elsewhere() -> None:
    own = [3, 9, 10, 6, 11, -1]
    cosine = CATALOGUE.embedding @ CATALOGUE.embedding[3]
    less, more = (9, 6) if cosine[9] < cosine[6] else (6, 9)
    between = 1 - float(cosine[[9, 6]].mean())
    alone = {"category_guard": False}
    assert guarded(own, visual_guard_margin=2.0) == ({10, 11}, {"guards_visual": 0, "guards_category": 2})
    assert guarded(own, visual_guard_margin=2.0, **alone) == (set(), {"guards_visual": 0, "guards_category": 0})
    assert guarded([less, more], visual_guard_margin=between, **alone)[0] == {less}
    assert guarded(own, visual_guard_margin=0.0, **alone)[0] == {9, 10, 6, 11}
    assert guarded(own, visual_guard_margin=0.0, guard_places=3)[0] == {9, 10}


def test_what_was_shown_or_wanted_or_has_the_winners_id_is_not_guarded() -> None:
    assert CATALOGUE.bucket[9] == CATALOGUE.bucket[10]
    assert guarded([9, 10, 14, 15, 13], winner=9, visual_guard_margin=0.0)[0] == {13}


def test_gains_are_reward_levels_of_what_was_wanted() -> None:
    queries = make_queries(CATALOGUE, 2)
    queries.clicked, queries.carted = [["i003"], ["i004", "i005", "i012"]], [[], ["i012", "i005"]]
    queries.ordered, queries.shown = [[], ["i005", "elsewhere"]], [["i003", "i009"], []]
    gains = gains_of(queries, np.array([[9, 3, -1, 1], [5, 12, 4, 3]]), CATALOGUE)
    assert gains.tolist() == [[0, CLICKED, 0, 0], [ORDERED, CARTED, CLICKED, 0]]


def test_a_loser_with_the_winners_id_is_left_out() -> None:
    shared = next(b for b in range(CATALOGUE.trie.leaves) if (CATALOGUE.bucket == b).sum() > 1)
    a, b = np.flatnonzero(CATALOGUE.bucket == shared)[:2]
    queries = make_queries(CATALOGUE, 1)
    queries.clicked, queries.ordered = [[CATALOGUE.item_ids[a]]], [[]]
    queries.shown = [[CATALOGUE.item_ids[a], CATALOGUE.item_ids[b]]]
    lists = build_lists(queries, np.array([[-1]]), CATALOGUE, PreferenceConfig())
    assert len(lists) == 0
    assert lists.counts["queries_without_list"] == 1
