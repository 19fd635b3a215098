"""Tastes decide clicks, and a shopper's past tells them; the ray caster agrees with geometry."""

import numpy as np
import pytest

from onevision.data.config import SnapshotConfig
from onevision.data.synthetic import oracle
from onevision.data.synthetic.catalogue import Catalogue, make_catalogue
from onevision.data.synthetic.render import FAR, Part, Pose, Surface, cast, extent, rotation
from onevision.data.synthetic.searches import Searches, make_searches, nearest
from onevision.data.synthetic.shapes import CATEGORIES
from onevision.data.synthetic.shoppers import Shoppers, make_shoppers, taste_axes
from onevision.data.synthetic.views import MAIN, USER_PHOTO, render_images

CONFIG = SnapshotConfig(items=1200, users=300, queries=3000)
Shop = tuple[Catalogue, Shoppers, Searches]


@pytest.fixture(scope="module")
def shop() -> Shop:
    rng = np.random.default_rng(11)
    catalogue = make_catalogue(CONFIG, rng)
    shoppers = make_shoppers(CONFIG, rng)
    return catalogue, shoppers, make_searches(CONFIG, catalogue, shoppers, rng)


def test_knowing_the_taste_predicts_clicks_better_than_looks_by_a_margin(shop: Shop) -> None:
    metrics = oracle.oracle_metrics(shop[2])
    assert metrics["with_taste/mrr@10"] > metrics["visual_only/mrr@10"] + 0.08
    assert metrics["with_taste/hr@10"] > 0.85
    assert metrics["personal/with_taste/mrr@10"] > metrics["personal/visual_only/mrr@10"] + 0.15
    assert metrics["with_taste/hr@1"] <= metrics["with_taste/hr@5"] <= metrics["with_taste/hr@10"]


def test_another_shoppers_taste_predicts_worse_than_no_taste(shop: Shop) -> None:
    catalogue, shoppers, searches = shop
    rows = np.flatnonzero(searches.clicked[:, 0] >= 0)[:600]
    near, distance = nearest(catalogue, searches.item[rows], searches.time[rows])
    axes = taste_axes(catalogue)[near]

    def mean_reciprocal_rank(taste: np.ndarray) -> float:
        score = -distance / 0.25 + np.einsum("qa,qka->qk", taste, axes)
        mine = np.where(near == searches.clicked[rows, :1], score, -np.inf).max(axis=1)
        return float((1.0 / (score >= mine[:, None]).sum(axis=1)).mean())

    true = shoppers.taste[searches.user[rows]]
    none = mean_reciprocal_rank(np.zeros_like(true))
    assert mean_reciprocal_rank(true) > none + 0.08
    assert mean_reciprocal_rank(np.roll(true, 37, axis=0)) < none


def test_about_half_of_first_clicks_are_personal_and_nearly_all_in_the_category(shop: Shop) -> None:
    catalogue, _, searches = shop
    clicked = np.flatnonzero(searches.clicked[:, 0] >= 0)
    first, photographed = searches.clicked[clicked, 0], searches.item[clicked]
    assert 0.85 < len(clicked) / len(searches) < 0.97
    assert 0.35 < (first != photographed).mean() < 0.6
    assert (catalogue.category[first] == catalogue.category[photographed]).mean() > 0.95


def test_look_alikes_are_nearer_to_each_other_than_to_the_rest_of_their_category(shop: Shop) -> None:
    catalogue = shop[0]
    rows = np.flatnonzero(catalogue.category == 0)
    points = catalogue.attributes[rows]
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    family = catalogue.family[rows][:, None] == catalogue.family[rows][None]
    others = distance[~family]
    np.fill_diagonal(family, False)
    assert np.quantile(distance[family], 0.9) < np.quantile(others, 0.1)


def test_nearest_agrees_with_a_loop_over_all_items(shop: Shop) -> None:
    catalogue, _, searches = shop
    rows = np.array([0, 500, 2999])
    near, distance = nearest(catalogue, searches.item[rows], searches.time[rows])
    for i, row in enumerate(rows):
        gaps = np.linalg.norm(catalogue.attributes - catalogue.attributes[searches.item[row]], axis=1)
        gaps[catalogue.created >= searches.time[row]] = np.inf
        np.testing.assert_allclose(np.sort(distance[i]), np.sort(gaps)[: near.shape[1]], atol=1e-4)


def test_a_ball_fills_a_disc_and_a_nearer_box_hides_it() -> None:
    one = np.ones((1, 3), np.float32)
    ball = Part("quadric", 0 * one, 0.8 * one, role=0)
    box = Part("box", np.array([[0.0, 0.0, 2.0]], np.float32), 0.3 * one, role=1)
    still = np.zeros(1, np.float32)
    light = np.array([[0.0, 0.0, 1.0]], np.float32)
    pose = Pose(rotation(still, still, still), np.ones(1, np.float32), np.zeros((1, 2), np.float32), light)
    surface = Surface.empty(1, 128)
    cast([box, ball], pose, surface)
    seen = surface.depth[0] < FAR
    assert seen.mean() == pytest.approx(np.pi * 0.8**2 / 4, rel=0.02)
    assert (surface.role[0] == 1).mean() == pytest.approx(0.3**2, rel=0.08)
    centre = surface.depth[0, 64, 64]
    assert centre == pytest.approx(-2.3, abs=0.01)


def test_every_product_fills_the_frame_it_is_fitted_to() -> None:
    shape = np.random.default_rng(0).random((8, 5)).astype(np.float32)
    turned = rotation(*(np.full(8, a, np.float32) for a in (0.4, 0.2, 0.0)))
    for category in CATEGORIES:
        parts = category.build(shape)
        low, high = extent(parts, turned)
        scale = (1.8 / (high - low).max(axis=1)).astype(np.float32)
        shift = (-(low + high) / 2 * scale[:, None]).astype(np.float32)
        light = np.tile(np.array([[0.0, 0.0, 1.0]], np.float32), (8, 1))
        surface = Surface.empty(8, 64)
        cast(parts, Pose(turned, scale, shift, light), surface)
        seen = surface.depth < FAR
        assert seen[:, 3:-3, 3:-3].sum() > 0.97 * seen.sum(), category.key
        assert (seen.mean(axis=(1, 2)) > 0.08).all(), category.key


def test_a_picture_depends_on_its_place_and_seed_alone(shop: Shop) -> None:
    items, kinds = np.arange(300), np.where(np.arange(300) % 2, MAIN, USER_PHOTO)
    whole = list(render_images(shop[0], items, kinds, 64, seed=4, progress=False))
    part = list(render_images(shop[0], items[:240], kinds[:240], 64, seed=4, progress=False))
    other = list(render_images(shop[0], items[:240], kinds[:240], 64, seed=5, progress=False))
    assert whole[:240] == part
    assert part[0] != other[0]
