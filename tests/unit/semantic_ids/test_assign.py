import numpy as np
import pytest

from onevision.quantization.residual import ResidualKMeans
from onevision.semantic_ids.assign import assign, find_outliers
from onevision.semantic_ids.config import SemanticIdsConfig

CONFIG = SemanticIdsConfig()


def catalogue(items: int = 60, dim: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    views = rng.integers(1, 5, items)
    owner = np.repeat(np.arange(items), views)
    x = rng.normal(size=(items, dim))[owner] + 0.3 * rng.normal(size=(len(owner), dim))
    is_main = np.r_[True, owner[1:] != owner[:-1]]
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), owner, is_main


@pytest.fixture(scope="module")
def quantizer() -> ResidualKMeans:
    return ResidualKMeans(8, (6, 5), opq_subspaces=2, opq_size=4).fit(catalogue(200)[0])


def test_an_id_depends_on_the_items_own_views_alone(quantizer: ResidualKMeans) -> None:
    x, owner, is_main = catalogue()
    whole = assign(quantizer, x, owner, is_main, CONFIG)
    for first in range(0, 60, 7):
        some = (owner >= first) & (owner < first + 7)
        part = assign(quantizer, x[some], owner[some] - first, is_main[some], CONFIG)
        np.testing.assert_array_equal(part.codes, whole.codes[first : first + 7])
    for item in (0, 13, 59):
        mine = owner == item
        alone = assign(quantizer, x[mine], np.zeros(mine.sum(), int), is_main[mine], CONFIG)
        np.testing.assert_array_equal(alone.codes[0], whole.codes[item])


def test_an_item_with_one_view_gets_that_views_code(quantizer: ResidualKMeans) -> None:
    x, _, _ = catalogue(30)
    assigned = assign(quantizer, x, np.arange(len(x)), np.ones(len(x), bool), CONFIG)
    np.testing.assert_array_equal(assigned.codes, quantizer.encode(x))
    np.testing.assert_allclose(assigned.embedding, x, atol=1e-6)


def test_the_main_view_counts_twice_and_wins_a_tie_against_two(quantizer: ResidualKMeans) -> None:
    x, _, _ = catalogue(60)
    first = quantizer.encode(x)[:, 0]
    a, b = next((i, j) for i in range(len(x)) for j in range(len(x)) if first[i] != first[j])
    views = x[[a, b]]
    assigned = assign(quantizer, views, np.zeros(2, int), np.array([True, False]), CONFIG)
    assert assigned.codes[0, 0] == first[a]
    assigned = assign(quantizer, views, np.zeros(2, int), np.array([False, True]), CONFIG)
    assert assigned.codes[0, 0] == first[b]


def by_hand(quantizer: ResidualKMeans, x: np.ndarray, weight: np.ndarray, voted: int, own_path: bool) -> list[int]:
    """Codes of one item, view by view; with `own_path` every view goes on from the code that it chose itself."""
    books = [quantizer.codebook(level).numpy() for level in range(len(quantizer.residual_sizes))]
    rest, codes = x.copy(), []
    for level, book in enumerate(books):
        mean = np.average(rest, axis=0, weights=weight)
        to_mean = np.square(book - mean).sum(1)
        choice = np.square(rest[:, None] - book).sum(2).argmin(1)
        votes = np.bincount(choice, weight, len(book))
        code = np.where(votes == votes.max(), to_mean, np.inf).argmin() if level < voted else to_mean.argmin()
        codes.append(int(code))
        rest = rest - book[choice if own_path and level < voted else code]
    return codes


@pytest.mark.parametrize("voted", [0, 1, 2, 3])
def test_views_that_differ_vote_along_the_voted_path(voted: int) -> None:
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(40), 4)
    x = (rng.normal(size=(40, 8))[owner] + 0.8 * rng.normal(size=(160, 8))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    quantizer = ResidualKMeans(8, (6, 5, 4), opq_subspaces=0).fit(x)
    is_main = np.tile([True, False, False, False], 40)
    config = CONFIG.model_copy(update={"voted_levels": voted, "outlier_cosine": -1.0})
    codes = assign(quantizer, x, owner, is_main, config).codes.tolist()
    weight = np.array([2.0, 1, 1, 1])
    ours, theirs = (
        [by_hand(quantizer, x[owner == item], weight, voted, own_path) for item in range(40)]
        for own_path in (False, True)
    )
    assert codes == ours
    if voted:
        assert sum(a != b for a, b in zip(ours, theirs, strict=True)) > 5, "the views agree too much to tell"


def test_a_view_far_from_the_medoid_does_not_vote(quantizer: ResidualKMeans) -> None:
    x, _, _ = catalogue(10)
    same = np.stack([x[0], x[0], -x[0]])
    assert find_outliers(same, np.zeros(3, int), 0.5).tolist() == [False, False, True]
    assert find_outliers(same[[0, 2]], np.zeros(2, int), 0.5).tolist() == [False, False]
    assigned = assign(quantizer, same, np.zeros(3, int), np.array([False, False, True]), CONFIG)
    np.testing.assert_array_equal(assigned.codes[0], quantizer.encode(x[:1])[0])
    assert assigned.vote.tolist() == [1, 1, 0]
