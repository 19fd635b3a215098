"""The calculator's expectations are those of its model, and a suggestion reaches the target with the fewest bits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onevision.metrics.encoding import collision_rate, independent_coding_rate
from onevision.quantization.sizing import OFFSET, PRODUCT_OF_SIZES, RESIDUAL_GAIN, candidates, expected, suggest


@pytest.mark.parametrize("items", [300, 2_400, 20_000])
def test_rates_are_those_of_random_ids(items):
    sizing = expected(items, (64, 32, 16))
    ids = round(2 ** (OFFSET + RESIDUAL_GAIN * 15))
    codes = np.random.default_rng(0).integers(0, ids, size=(items, 1))
    assert sizing.icr == pytest.approx(independent_coding_rate(codes), abs=0.02)
    assert sizing.collision_rate == pytest.approx(collision_rate(codes), abs=0.02)


@pytest.mark.parametrize(
    ("sizes", "opq", "icr"),
    [
        ((64, 32, 16), 0, 0.684),
        ((64, 32, 16), 16, 0.962),
        ((128, 64, 32), 0, 0.886),
        ((128, 64, 32), 256, 0.993),
        ((256, 128, 64), 0, 0.965),
    ],
)
def test_expectations_are_near_what_was_measured_on_quickstart(sizes, opq, icr):
    assert expected(2_400, sizes, opq).icr == pytest.approx(icr, abs=0.02)


@pytest.mark.parametrize("items", [50, 2_400, 81_000, 1_000_000, 30_000_000])
@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_the_suggestion_is_the_smallest_that_reaches_the_target(items, target):
    found = candidates(items)
    assert found
    low, high = PRODUCT_OF_SIZES
    assert all(low * items <= math.prod(sizing.codebook_sizes) <= high * items for sizing in found)
    chosen = suggest(items, target)
    for sizing in found:
        if sizing.icr >= target:
            assert chosen is not None
            assert chosen.bits <= sizing.bits
    assert chosen is None or chosen.icr >= target


def test_more_items_collide_more_and_more_codes_less():
    rates = [expected(items, (128, 64, 32)).collision_rate for items in (10, 1_000, 100_000)]
    assert rates == sorted(rates)
    assert expected(1, (128, 64, 32)).icr == 1
    assert expected(10_000, (128, 64, 32), 256).icr > expected(10_000, (128, 64, 32), 16).icr
