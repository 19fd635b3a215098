"""What items are described by."""

from __future__ import annotations

import numpy as np

from onevision.generator.traits import whiten, within_groups


def test_groups_are_centred_and_constant_columns_vanish() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 60)
    values = np.stack([rng.normal(size=60) + 10 * group, np.full(60, 7.0)], 1)
    out = within_groups(values, group)
    for g in range(3):
        np.testing.assert_allclose(out[group == g].mean(0), 0, atol=1e-9)
    assert out[:, 0].std() == 1 or abs(out[:, 0].std() - 1) < 1e-9
    assert (out[:, 1] == 0).all()


def test_whitened_directions_are_uncorrelated_and_those_without_variance_are_left_out() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 6))
    values -= values.mean(0)
    out = whiten(values, 5)
    assert out.shape == (200, 3)
    np.testing.assert_allclose(out.T @ out / 200, np.eye(3), atol=1e-8)
