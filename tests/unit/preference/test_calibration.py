import math

import numpy as np
import pytest
import torch

from onevision.preference.calibration import (
    Bin,
    MonotoneNetwork,
    calibrators,
    expected_calibration_error,
    reliability,
    smooth_calibration_loss,
)
from onevision.preference.reward_fitting import chance_error


def overconfident(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are twice too large and shifted, and more so for the large ones, with labels by the truth."""
    generator = torch.Generator().manual_seed(seed)
    truth = 1.2 * torch.randn(count, generator=generator) - 1.5
    labels = torch.bernoulli(truth.sigmoid(), generator=generator)
    return 2 * truth + 0.7 + 0.5 * truth.clamp_min(0).square(), labels


@pytest.mark.parametrize("name", ["Platt", "isotonic", "UMNN"])
def test_calibration_at_least_halves_the_error_on_what_it_was_not_fitted_on(name: str) -> None:
    (logits, labels), (unseen, truth) = overconfident(4000, 0), overconfident(20000, 1)
    before = expected_calibration_error(reliability(unseen.sigmoid(), truth))
    after = expected_calibration_error(reliability(calibrators()[name].fit(logits, labels).probability(unseen), truth))
    assert before > 0.05
    assert after < before / 2


@pytest.mark.parametrize("name", ["temperature", "Platt", "isotonic", "UMNN"])
def test_calibration_never_changes_the_order(name: str) -> None:
    logits, labels = overconfident(500, 2)
    line = torch.linspace(-9, 9, 200)
    steps = calibrators()[name].fit(logits, labels).probability(line).diff()
    assert (steps >= -1e-6).all()


def test_the_monotone_network_is_the_integral_of_its_slope() -> None:
    torch.manual_seed(0)
    network = MonotoneNetwork()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    at = torch.tensor([-3.03, -0.4, 0.0, 1.77, 6.0])
    got = network(at)
    for z, value in zip(at.tolist(), got.tolist(), strict=True):
        line = torch.linspace(0, z, 4001)
        slope = torch.nn.functional.elu(network.slope(line[:, None] / 3.0)[:, 0]) + 1
        assert (slope > 0).all()
        assert value == pytest.approx(float(torch.trapezoid(slope, line) + network.offset), abs=2e-3)


def test_untrained_the_network_changes_nothing() -> None:
    logits = torch.linspace(-8, 8, 33)
    torch.testing.assert_close(MonotoneNetwork().probability(logits), logits.sigmoid())


def test_the_smooth_loss_equals_a_loop_over_bins_and_has_a_gradient() -> None:
    generator = torch.Generator().manual_seed(3)
    p = torch.rand(30, generator=generator, dtype=torch.double).requires_grad_()
    labels = torch.bernoulli(torch.full((30,), 0.4, dtype=torch.double), generator=generator)
    bins = torch.arange(30) % 4
    total = 0.0
    for number in range(4):
        inside = [n for n in range(30) if n % 4 == number]
        gap = sum(float(p[n]) for n in inside) / len(inside) - sum(float(labels[n]) for n in inside) / len(inside)
        total += len(inside) / 30 * gap**2
    assert smooth_calibration_loss(p, labels, bins).item() == pytest.approx(total)
    assert torch.autograd.gradcheck(lambda x: smooth_calibration_loss(x, labels, bins), (p,))


def test_ece_is_the_weighted_distance_from_the_diagonal() -> None:
    probability = torch.tensor([0.05, 0.05, 0.95, 0.95])
    labels = torch.tensor([0.0, 1.0, 1.0, 1.0])
    bins = reliability(probability, labels, 10)
    assert bins == [Bin(pytest.approx(0.05), 0.5, 2), Bin(pytest.approx(0.95), 1.0, 2)]
    assert expected_calibration_error(bins) == pytest.approx((0.45 + 0.05) / 2)


def test_bins_of_equal_mass_keep_equal_values_together() -> None:
    bins = reliability(torch.tensor([0.1] * 6 + [0.2, 0.3, 0.4, 0.5]), torch.zeros(10), 5, equal_mass=True)
    assert sum(b.size for b in bins) == 10
    assert bins[0].size >= 6


def test_perfect_probabilities_have_an_error_by_chance_that_falls_with_their_number() -> None:
    rng = np.random.default_rng(0)
    few, many = (torch.from_numpy(rng.random(count)).float() for count in (300, 30000))
    assert chance_error(few) > 5 * chance_error(many)
    labels = torch.bernoulli(many, generator=torch.Generator().manual_seed(9))
    observed = expected_calibration_error(reliability(many, labels))
    assert math.isclose(observed, chance_error(many), abs_tol=0.004)
