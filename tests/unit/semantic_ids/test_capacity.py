from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from onevision.errors import OneVisionError
from onevision.quantization.residual import ResidualKMeans
from onevision.semantic_ids.capacity import Limited, limit_buckets

DIM = 4


def points(n: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def quantizer(sizes: tuple[int, ...], subspaces: int = 0, size: int = 3) -> ResidualKMeans:
    return ResidualKMeans(DIM, sizes, opq_subspaces=subspaces, opq_size=size).fit(points(200, 99))


def limit(model: ResidualKMeans, x: np.ndarray, capacity: int, published: np.ndarray | None = None) -> Limited:
    return limit_buckets(model, model.encode(x), lambda rows: x[rows], capacity, published)


def largest(*codes: np.ndarray) -> int:
    return int(np.unique(np.concatenate(codes), axis=0, return_counts=True)[1].max())


def error(model: ResidualKMeans, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return ((x - model.decode(codes)) ** 2).sum(1)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("capacity", [1, 2])
def test_the_surplus_moves_at_the_least_added_error(seed: int, capacity: int) -> None:
    model = quantizer((1, 4))
    x = points(4 * capacity if seed % 2 else 3 * capacity, seed)
    before, (after, changed) = model.encode(x), limit(model, x, capacity)
    count = np.bincount(before[:, 1], minlength=4)
    crowded = np.flatnonzero(count[before[:, 1]] > capacity)
    assert largest(after) <= capacity
    np.testing.assert_array_equal(np.delete(after, crowded, 0), np.delete(before, crowded, 0))
    np.testing.assert_array_equal(changed < 2, (after != before).any(1))
    best = np.inf
    for choice in itertools.product(range(4), repeat=len(crowded)):
        tried = before.copy()
        tried[crowded, 1] = choice
        if np.bincount(tried[:, 1]).max() <= capacity:
            best = min(best, error(model, x, tried).sum())
    np.testing.assert_allclose(error(model, x, after).sum(), best, rtol=1e-5)


@pytest.mark.parametrize(("sizes", "subspaces"), [((3, 2), 2), ((2, 3, 2), 0), ((4,), 1)])
@pytest.mark.parametrize("capacity", [1, 3])
def test_no_bucket_is_overfull_even_when_every_place_is_taken(
    sizes: tuple[int, ...], subspaces: int, capacity: int
) -> None:
    model = quantizer(sizes, subspaces)
    places = capacity * int(np.prod(model.codebook_sizes))
    x = points(places, 3)
    codes, changed = limit(model, x, capacity)
    assert largest(codes) == capacity
    assert (codes >= 0).all()
    assert (codes < model.codebook_sizes).all()
    assert (changed < len(model.codebook_sizes) - 1).any(), "some prefix was full, and passed items on"
    with pytest.raises(OneVisionError, match=rf"{places + 1} items do not fit.*{places} places"):
        limit(model, points(places + 1, 3), capacity)


def test_a_prefix_with_room_keeps_its_items() -> None:
    model = quantizer((3, 4), 2)
    x = points(40, 5)
    before = model.encode(x)
    after, changed = limit(model, x, 2)
    prefix = np.ravel_multi_index(before[:, :-1].T.astype(int), model.codebook_sizes[:-1])
    assert (np.bincount(prefix) <= 2 * 3).all()
    np.testing.assert_array_equal(after[:, :-1], before[:, :-1])
    assert set(changed.tolist()) == {3, 4}


def test_ample_room_changes_nothing_and_asks_for_no_position() -> None:
    model = quantizer((3, 4))
    codes = model.encode(points(30, 1))

    def positions(rows: np.ndarray) -> np.ndarray:
        raise AssertionError(rows)

    after, changed = limit_buckets(model, codes, positions, capacity=30)
    np.testing.assert_array_equal(after, codes)
    assert (changed == 2).all()


def test_the_result_does_not_depend_on_the_order_of_rows() -> None:
    model = quantizer((3, 2), 2)
    x = points(50, 8)
    order = np.random.default_rng(0).permutation(len(x))
    np.testing.assert_array_equal(limit(model, x[order], 2).codes, limit(model, x, 2).codes[order])


def test_published_items_hold_their_places() -> None:
    model = quantizer((2, 3), 1)
    old, new = points(12, 1), points(6, 2)
    published = limit(model, old, 1).codes
    codes, _ = limit(model, new, 1, published)
    assert largest(published, codes) == 1
    with pytest.raises(OneVisionError, match="19 items do not fit"):
        limit(model, points(7, 2), 1, published)


def test_a_published_bucket_that_is_overfull_already_takes_nobody_new() -> None:
    model = quantizer((2, 3))
    x = points(1, 4)
    crowded = np.repeat(model.encode(x), 5, axis=0)
    codes, _ = limit(model, x, 2, crowded)
    assert tuple(codes[0]) != tuple(crowded[0])
    places = 2 * 6 - 2  # five items hold the two places of their ID, no more
    assert largest(limit(model, points(places, 4), 2, crowded).codes) == 2
    with pytest.raises(OneVisionError, match="do not fit"):
        limit(model, points(places + 1, 4), 2, crowded)


def test_moved_items_take_the_nearest_codes_below() -> None:
    """Four like items and three places in their prefix: one goes to the neighbour and is encoded along that path."""
    model = quantizer((4, 3))
    x = np.repeat(points(1, 6), 4, axis=0)
    codes, changed = limit(model, x, 1)
    assert len(np.unique(codes, axis=0)) == 4
    assert (changed == 0).sum() == 1
    outside = codes[changed == 0]
    rest = torch.from_numpy(x[:1]) - model.codebook(0)[int(outside[0, 0])]
    assert outside[0, 1] == int(model.distances(rest, 1).argmin())
