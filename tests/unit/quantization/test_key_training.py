"""Keys are trained by every loss that is on, dead ones restart, and the options do what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.views import pairs_of, shop

import onevision.quantization.vrq as vrq_module
from onevision.errors import OneVisionError
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.key_training import RESTART_EVERY, Level, Trained, _restart, train_keys
from onevision.quantization.kmeans import nearest
from onevision.quantization.losses import (
    category_error,
    code_agreement,
    commitment,
    margin_shortfall,
    nearest_mean_head,
    soft_codes,
    soft_prefix,
    squared_distances,
    usage,
    view_contrast,
)
from onevision.quantization.view_map import LearnedViewMap, fit_view_map
from onevision.quantization.view_pairs import ViewPairs
from onevision.quantization.vrq import VRQ

CONFIG = QuantizationConfig(codebook_sizes=(8, 8, 4), opq_size=4, view_dims=8, steps=60, batch_size=128)


def train(
    x: torch.Tensor, start: torch.Tensor, pairs: ViewPairs, config: QuantizationConfig, **of_level: Any
) -> Trained:
    """Keys trained on vectors (N, r) as a level's."""
    level = Level(x, before=torch.zeros_like(x), **of_level)
    return train_keys(level, start, pairs, config, np.random.default_rng(1), name="level")


@pytest.mark.parametrize("name", ["agreement", "usage", "commitment"])
def test_each_loss_by_itself_trains_the_keys(name: str) -> None:
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    pairs = ViewPairs(np.arange(200), np.arange(200, 400), np.arange(200))
    weights = {f"{loss}_weight": float(loss == name) for loss in ("agreement", "usage", "commitment")}
    config = CONFIG.model_copy(update={**weights, "view_spread": 1.0, "usage_floor": 1.0, "learning_rate": 0.05})
    start = x[:8] * torch.linspace(1, 3, 8)[:, None]  # keys far out, which few vectors take

    def loss(keys: torch.Tensor) -> float:
        u, v, unit = x[:200], x[200:], nearest(x, start)[1].mean()
        to_mean = squared_distances((u + v) / 2, keys)
        code = to_mean.argmin(1)
        log_u, log_v = (soft_codes(squared_distances(view, keys), config.temperature * unit.item()) for view in (u, v))
        losses = {
            "agreement": code_agreement(log_u, log_v, code),
            "usage": usage(torch.cat([log_u, log_v]), 1.0),
            "commitment": commitment(to_mean, code),
        }
        return losses[name].item()

    trained = train(x, start, pairs, config.model_copy(update={"steps": 40}))
    assert loss(trained.keys) < 0.9 * loss(start)
    assert set(trained.losses) == {"agreement", "usage", "commitment"}
    assert [key for key, values in trained.losses.items() if any(values)] == [name]


def test_keys_that_nothing_takes_are_moved_in_training() -> None:
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    pairs = ViewPairs(np.arange(200), np.arange(200, 400), np.arange(200))
    start = x[:8].clone()
    start[3] += 100
    before, after = (
        train(x, start, pairs, CONFIG.model_copy(update={"steps": steps}))
        for steps in (RESTART_EVERY - 1, RESTART_EVERY)
    )
    assert [before.restarted, after.restarted] == [0, 1]
    assert before.keys[3].norm() > 100
    assert after.keys[3].norm() < 20


def test_spreading_views_is_training_on_views_that_lie_further_apart() -> None:
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    start, mean = x[:8], (x[:200] + x[200:]) / 2
    pairs = ViewPairs(np.arange(200), np.arange(200, 400), np.arange(200))
    apart = torch.cat([mean, mean]) + 3 * (x - torch.cat([mean, mean]))
    # Distances are measured in units of those to the first keys, which are longer from views that lie apart.
    unit, longer = (nearest(views, start)[1].mean().item() for views in (x, apart))
    same = CONFIG.model_copy(
        update={
            "temperature": CONFIG.temperature * unit / longer,
            "commitment_weight": CONFIG.commitment_weight * longer / unit,
            "view_spread": 1.0,
        }
    )
    spread = CONFIG.model_copy(update={"view_spread": 3.0})
    keys = [train(views, start, pairs, config).keys for config, views in ((spread, x), (same, apart))]
    torch.testing.assert_close(keys[0], keys[1], rtol=1e-3, atol=1e-4)
    assert (keys[0] - start).abs().max() > 0.01


def test_a_key_that_nothing_takes_is_moved_to_a_view() -> None:
    keys, views = torch.zeros(3, 2), torch.arange(8.0).reshape(4, 2) + 1
    taken = torch.tensor([5, 0, 2])
    assert _restart(keys, taken, views, np.random.default_rng(0)) == 1
    assert any(torch.equal(keys[1], view) for view in views)
    assert torch.equal(keys[[0, 2]], torch.zeros(2, 2))
    assert taken.sum() == 0


def two_views(spread: float = 0.3) -> tuple[torch.Tensor, ViewPairs]:
    """200 products (2, in 4 categories) of two views each in 16 dimensions, rows u then v."""
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(200, 16, generator=generator)
    x = torch.cat([product + spread * torch.randn(200, 16, generator=generator) for _ in range(2)])
    # The category is in a direction that keys by distance alone do not care for.
    category = (product[:, 0] > 0).long() + 2 * (product[:, 1] > 0).long()
    return x, ViewPairs(np.arange(200), np.arange(200, 400), np.arange(200), category.numpy())


def prefixes_of(x: torch.Tensor, keys: torch.Tensor, unit: float) -> torch.Tensor:
    log_codes = soft_codes(squared_distances(x, keys), CONFIG.temperature * unit)
    return soft_prefix(torch.zeros_like(x), log_codes, keys)


@pytest.mark.parametrize("name", ["contrast", "category", "margin"])
def test_each_option_by_itself_trains_the_keys(name: str) -> None:
    x, pairs = two_views()
    off = {f"{loss}_weight": 0.0 for loss in ("agreement", "usage", "commitment")}
    config = CONFIG.model_copy(update={**off, f"{name}_weight": 1.0, "view_spread": 1.0, "learning_rate": 0.05})
    start = x[:8].clone()
    unit = nearest(x, start)[1].mean().item()
    product, category = torch.from_numpy(pairs.product), torch.from_numpy(pairs.category)
    other, both = product[:, None] != product, category.repeat(2)

    def loss(keys: torch.Tensor) -> float:
        said = prefixes_of(x, keys, unit)
        apart = squared_distances(said[:200], said[200:]) / unit
        losses = {
            "contrast": lambda: view_contrast(apart, other, config.temperature),
            "margin": lambda: margin_shortfall(apart, other & (category[:, None] == category), config.margin),
            "category": lambda: category_error(said, both, nearest_mean_head(said, both, unit)),
        }
        return losses[name]().item()

    trained = train(x, start, pairs, config.model_copy(update={"steps": 40}), deepest=True)
    assert loss(trained.keys) < 0.9 * loss(start)
    assert [key for key, values in trained.losses.items() if any(values)] == [name]


def test_only_the_deepest_aligned_level_has_a_margin() -> None:
    x, pairs = two_views()
    config = CONFIG.model_copy(update={"margin_weight": 1.0, "steps": 3})
    assert [("margin" in train(x, x[:8], pairs, config, deepest=deep).losses) for deep in (False, True)] == [
        False,
        True,
    ]


def test_without_categories_rivals_are_the_products_of_one_code() -> None:
    x, pairs = two_views()
    config = CONFIG.model_copy(update={"margin_weight": 1.0, "steps": 1, "batch_size": 200, "view_spread": 1.0})
    unknown = ViewPairs(pairs.u, pairs.v, pairs.product)
    start = x[:8].clone()
    (found,) = train(x, start, unknown, config, deepest=True).losses["margin"]
    rows = np.random.default_rng(1).integers(0, 200, 200)  # the batch
    unit = nearest(x, start)[1].mean().item()
    said = prefixes_of(x, start, unit)
    code = nearest((x[rows] + x[200 + rows]) / 2, start)[0]
    rival = torch.from_numpy(rows[:, None] != rows) & (code[:, None] == code)
    apart = squared_distances(said[rows], said[200 + rows]) / unit
    assert found == pytest.approx(margin_shortfall(apart, rival, config.margin).item(), rel=1e-3)
    (known,) = train(x, start, pairs, config, deepest=True).losses["margin"]
    assert known != pytest.approx(found, rel=1e-3)


def test_what_earlier_codes_say_is_a_part_of_the_prefix() -> None:
    x, pairs = two_views()
    config = CONFIG.model_copy(update={"contrast_weight": 1.0, "steps": 1})
    apart = 100 * torch.arange(200.0).repeat(2)[:, None].expand(-1, 16)  # earlier codes tell all products apart
    (alone,) = train(x, x[:8], pairs, config).losses["contrast"]
    level = Level(x, before=apart)
    (known,) = train_keys(level, x[:8], pairs, config, np.random.default_rng(1), name="level").losses["contrast"]
    assert known < 0.01 < alone


def test_a_category_loss_without_categories_is_refused() -> None:
    x, product = shop(products=20)
    config = CONFIG.model_copy(update={"category_weight": 1.0})
    with pytest.raises(OneVisionError, match=r"quantization\.category_weight needs the categories"):
        VRQ(16, config).fit(x, pairs_of(product))


def test_a_learnt_map_starts_in_closed_form_and_keeps_its_scale() -> None:
    x, product = shop()
    pairs = pairs_of(product)
    start = torch.from_numpy(fit_view_map(x, pairs.u, pairs.v, pairs.product, dims=8, shrinkage=0.1))
    learnt = LearnedViewMap(torch.from_numpy(x), start)
    torch.testing.assert_close(learnt.mapping(), start, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        learnt.free *= 7
    torch.testing.assert_close(learnt(torch.from_numpy(x)), torch.from_numpy(x) @ start, rtol=1e-4, atol=1e-5)


def test_a_learnt_map_is_what_all_levels_look_through() -> None:
    x, product = shop()
    config = CONFIG.model_copy(update={"learn_view_map": True})
    closed, learnt = (VRQ(16, c).fit(x, pairs_of(product), seed=0) for c in (CONFIG, config))
    assert (learnt.view_map - closed.view_map).abs().max() > 0.05
    spread = (torch.from_numpy(x) @ learnt.view_map).var(0, correction=0).sum()
    assert spread.item() == pytest.approx(1, rel=1e-3)
    codes = learnt.encode(x)
    first = codes[:, 0]
    seen = torch.from_numpy(x) @ learnt.view_map
    np.testing.assert_array_equal(first, nearest(seen, learnt.keys(0))[0].numpy())
    for code in np.unique(first):
        np.testing.assert_allclose(learnt.codebook(0)[code].numpy(), x[first == code].mean(0), atol=1e-5)
    rest = torch.from_numpy(x) - learnt.codebook(0)[first.astype(int)]
    np.testing.assert_array_equal(codes[:, 1], nearest(rest @ learnt.view_map, learnt.keys(1))[0].numpy())


def test_vrq_tells_each_level_what_came_before_it_and_which_is_the_deepest(monkeypatch: pytest.MonkeyPatch) -> None:
    x, product = shop(products=40)
    given = []

    def watched(level: Level, *rest: Any, **named: Any) -> Trained:
        given.append(level)
        return train_keys(level, *rest, **named)

    monkeypatch.setattr(vrq_module, "train_keys", watched)
    config = CONFIG.model_copy(update={"margin_weight": 1.0, "steps": 5, "view_levels": 3})
    vrq = VRQ(16, config).fit(x, pairs_of(product))
    assert [level.deepest for level in given] == [False, False, True]
    assert [name for name in vrq.loss_curve_ if "margin" in name] == ["margin, level 3"]
    codes = vrq.encode(x)
    for level, found in enumerate(given):
        said = torch.from_numpy(vrq.decode(codes[:, :level])) @ vrq.view_map
        torch.testing.assert_close(found.before, said, rtol=1e-3, atol=1e-4)
