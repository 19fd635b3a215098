"""Every loss of VRQ equals its formula, written as plain loops, and its gradient is right."""

from __future__ import annotations

import math

import pytest
import torch

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


def test_losses_equal_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.rand(6, 4, generator=generator) for _ in range(2))
    code = torch.tensor([0, 1, 2, 3, 0, 1])
    log_u, log_v = soft_codes(u, 0.3), soft_codes(v, 0.3)
    agreement, taken, share = 0.0, 0.0, [0.0] * 4
    for row, k in enumerate(code.tolist()):
        for d in (u[row], v[row]):
            weights = [math.exp(-float(x) / 0.3) for x in d]
            agreement -= math.log(weights[k] / sum(weights)) / 12
            share = [a + b / sum(weights) / 12 for a, b in zip(share, weights, strict=True)]
        taken += float(u[row, k]) / 6
    assert code_agreement(log_u, log_v, code).item() == pytest.approx(agreement, rel=1e-5)
    assert commitment(u, code).item() == pytest.approx(taken, rel=1e-5)
    entropy = -sum(a * math.log(a) for a in share)
    both = torch.cat([log_u, log_v])
    assert usage(both, 1.0).item() == pytest.approx(math.log(4) - entropy, abs=1e-5)
    assert usage(both, 0.5).item() == 0 < math.log(4) - entropy


def test_usage_asks_for_more_codes_only_below_its_floor() -> None:
    alike, piled = torch.eye(4).clamp_min(1e-6).log(), torch.eye(4)[[0, 0, 0, 1]].clamp_min(1e-6).log()
    assert usage(alike, 1.0) < usage(piled, 1.0)
    assert usage(piled, 0.4) == 0 < usage(piled, 0.6)


def prefixes(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prefixes (6, 3) of two views each, and of which product: two products are there twice."""
    generator = torch.Generator().manual_seed(1)
    u, v = (torch.randn(6, 3, generator=generator, dtype=dtype) for _ in range(2))
    return u, v, torch.tensor([0, 1, 2, 0, 1, 3])


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True))


def test_view_contrast_is_infonce_among_other_products_from_both_sides() -> None:
    u, v, product = prefixes()
    other = product[:, None] != product
    expected = 0.0
    for first, second in ((u, v), (v, u)):
        for row in range(6):
            kept = [n for n in range(6) if n == row or product[n] != product[row]]
            scores = {n: math.exp(-apart(first[row], second[n]) / 0.7) for n in kept}
            expected -= math.log(scores[row] / sum(scores.values())) / 12
    assert view_contrast(squared_distances(u, v), other, 0.7).item() == pytest.approx(expected, rel=1e-4)


def test_the_margin_is_asked_of_every_rival_of_the_batch() -> None:
    u, v, product = prefixes()
    category = torch.tensor([0, 0, 1, 0, 0, 1])
    rival = (product[:, None] != product) & (category[:, None] == category)
    found = [
        max(0.0, 1.5 + apart(u[row], v[row]) - apart(u[row], v[n]))
        for row in range(6)
        for n in range(6)
        if product[n] != product[row] and category[n] == category[row]
    ]
    assert 0 < sum(value > 0 for value in found) < len(found)
    shortfall = margin_shortfall(squared_distances(u, v), rival, 1.5)
    assert shortfall.item() == pytest.approx(sum(found) / len(found), rel=1e-4)
    assert margin_shortfall(squared_distances(u, v), torch.zeros_like(rival), 1.5) == 0


def test_the_category_head_starts_as_the_nearest_mean_and_is_charged_by_cross_entropy() -> None:
    x, _, _ = prefixes()
    category = torch.tensor([0, 0, 1, 1, 3, 3])  # none is of category 2
    head = nearest_mean_head(x, category, 0.5)
    expected = 0.0
    for row in x:
        means = [x[category == c].mean(0) if (category == c).any() else torch.zeros(3) for c in range(4)]
        scores = [math.exp(-apart(row, mean) / 0.5) for mean in means]
        torch.testing.assert_close(head(row).softmax(0), torch.tensor([s / sum(scores) for s in scores]))
    for row, own in zip(x, category.tolist(), strict=True):
        expected -= math.log(head(row).softmax(0)[own].item()) / 6
    assert category_error(x, category, head).item() == pytest.approx(expected, rel=1e-5)


def test_a_soft_prefix_adds_the_mean_of_the_keys_to_what_earlier_codes_say() -> None:
    before, _, _ = prefixes()
    keys = torch.arange(12.0).reshape(4, 3)
    log_codes = soft_codes(torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), 0.3)
    found = soft_prefix(before, log_codes, keys)
    for row in range(6):
        said = sum(math.exp(log_codes[row, k].item()) * keys[k] for k in range(4))
        torch.testing.assert_close(found[row], before[row] + said)


@pytest.mark.parametrize("name", ["contrast", "margin", "category"])
def test_gradients_of_the_prefix_losses_reach_the_keys_and_are_right(name: str) -> None:
    u, v, product = prefixes(torch.float64)
    keys = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    other = product[:, None] != product
    head = nearest_mean_head(u.float(), product, 1.0).double()

    def loss(keys: torch.Tensor) -> torch.Tensor:
        said = [
            soft_prefix(torch.zeros_like(view), soft_codes(squared_distances(view, keys), 0.8), keys) for view in (u, v)
        ]
        between = squared_distances(*said)
        losses = {
            "contrast": lambda: view_contrast(between, other, 0.5),
            "margin": lambda: margin_shortfall(between, other, 1.0),
            "category": lambda: category_error(torch.cat(said), product.repeat(2), head),
        }
        return losses[name]()

    assert torch.autograd.gradcheck(loss, (keys,))
    (gradient,) = torch.autograd.grad(loss(keys), keys)
    assert gradient.abs().max() > 1e-3
