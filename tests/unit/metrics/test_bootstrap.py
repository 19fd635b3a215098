"""Bootstrap intervals are seeded, cover the truth as often as they say, and see paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from onevision.metrics import (
    crossed_interval,
    mean_gaps,
    mean_interval,
    mean_intervals,
    paired_difference_interval,
)


def test_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).random(50)
    assert mean_interval(values, 200, seed=4) == mean_interval(values, 200, seed=4)
    assert mean_interval(values, 200, seed=4) != mean_interval(values, 200, seed=5)


def test_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        interval = mean_interval(rng.random(80) < 0.3, 300, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert 176 <= covered <= 199


def test_width_agrees_with_the_normal_approximation():
    values = np.random.default_rng(2).normal(size=2000)
    interval = mean_interval(values, 2000, seed=0)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(2000), rel=0.1)


def test_columns_share_their_resamples():
    values = np.random.default_rng(5).random((40, 2))
    both = mean_intervals(values, 200, seed=9)
    assert both[0].low == pytest.approx(mean_interval(values[:, 0], 200, seed=9).low)
    assert both[1].high == pytest.approx(mean_interval(values[:, 1], 200, seed=9).high)


def test_rows_and_columns_that_are_both_draws_add_their_variances():
    rng = np.random.default_rng(6)
    rows, columns = rng.normal(size=(400, 1)), rng.normal(scale=0.4, size=(1, 50))
    interval = crossed_interval(rows + columns, 4000, seed=0)
    expected = 2 * 1.96 * np.sqrt(rows.var() / 400 + columns.var() / 50)
    assert expected > 1.2 * 2 * 1.96 * rows.std() / 20  # what the rows alone would give
    assert interval.high - interval.low == pytest.approx(expected, rel=0.06)
    assert interval.mean == pytest.approx((rows + columns).mean())


def test_one_column_has_the_interval_of_its_rows():
    values = np.random.default_rng(7).random((60, 1))
    assert crossed_interval(values, 200, seed=2) == mean_interval(values[:, 0], 200, seed=2)


def test_pairing_sees_what_two_separate_intervals_hide():
    rng = np.random.default_rng(3)
    hard = rng.random(400)
    a, b = hard + 0.02, hard + rng.normal(0, 0.01, 400)
    difference = paired_difference_interval(a, b, 500, seed=0)
    assert difference.low > 0.0
    assert mean_interval(a, 500, seed=0).low < mean_interval(b, 500, seed=0).high


def test_a_gap_of_two_samples_is_as_wide_as_theory_says():
    rng = np.random.default_rng(4)
    a, b = rng.normal(1.0, 1.0, size=(900, 2)), rng.normal(0.0, 2.0, size=(400, 2))
    for column, gap in enumerate(mean_gaps(a, b, 2000, seed=0)):
        assert gap.mean == pytest.approx(a[:, column].mean() - b[:, column].mean())
        expected = 2 * 1.96 * np.sqrt(a[:, column].var() / 900 + b[:, column].var() / 400)
        assert gap.high - gap.low == pytest.approx(expected, rel=0.1)
    assert mean_gaps(a, b, 200, seed=1) == mean_gaps(a, b, 200, seed=1)


def test_a_gap_of_two_like_samples_is_not_that_of_pairs():
    values = np.random.default_rng(5).normal(size=(300, 1))
    gap = mean_gaps(values, values, 500, seed=0)[0]
    assert gap.low < gap.mean == 0.0 < gap.high


def test_no_values_and_unequal_pairs_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([], 100)
    with pytest.raises(ValueError, match="at least one"):
        mean_gaps(np.ones((3, 1)), np.ones((0, 1)), 100)
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, float("nan")], 100)
    with pytest.raises(ValueError, match="same queries"):
        paired_difference_interval([1.0], [1.0, 2.0], 100)
