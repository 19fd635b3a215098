"""Balanced k-means deals rows to codes alike, and its transport plan is Sinkhorn's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.views import pairs_of, shop

from onevision.quantization import balance
from onevision.quantization.balance import balanced_kmeans, sinkhorn
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.kmeans import kmeans, nearest
from onevision.quantization.vrq import VRQ


def test_the_plan_is_sinkhorns_in_plain_loops() -> None:
    distances = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    plan = [[math.exp(-float(d) / 0.4) for d in row] for row in distances]
    for _ in range(4):
        plan = [[p / sum(row) / 5 for p in row] for row in plan]
        columns = [sum(row[k] for row in plan) for k in range(3)]
        plan = [[p / columns[k] / 3 for k, p in enumerate(row)] for row in plan]
    torch.testing.assert_close(sinkhorn(distances, 0.4, 4), torch.tensor(plan), rtol=1e-4, atol=1e-6)


def test_the_plan_serves_all_codes_alike_and_every_row_once() -> None:
    distances = torch.rand(400, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8) / 4
    plan = sinkhorn(distances, 0.1)
    torch.testing.assert_close(plan.sum(0), torch.full((8,), 1 / 8))
    torch.testing.assert_close(plan.sum(1), torch.full((400,), 1 / 400), rtol=0.02, atol=0)
    assert torch.bincount(distances.argmin(1), minlength=8).max() > 200  # the nearest are not


def crowded() -> torch.Tensor:
    """A dense clump of 900 rows and 100 rows far around it."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([0.2 * torch.randn(900, 4, generator=generator), 3 * torch.randn(100, 4, generator=generator)])


def test_codes_of_balanced_kmeans_are_used_more_evenly_by_the_nearest() -> None:
    x = crowded()
    plain = kmeans(x, 8, seed=0)
    even = balanced_kmeans(x, plain, iterations=20, seed=0)
    most = [torch.bincount(nearest(x, book)[0], minlength=8).max().item() for book in (plain, even)]
    assert most[1] < 0.75 * most[0]


def test_rows_beyond_the_limit_are_a_sample_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = crowded()
    start = kmeans(x, 4, seed=0)
    monkeypatch.setattr(balance, "ROWS", 200)
    a, b, c = (balanced_kmeans(x, start, iterations=3, seed=s) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_only_the_last_residual_codebook_is_balanced() -> None:
    x, product = shop()
    config = QuantizationConfig(codebook_sizes=(8, 8, 16), opq_size=4, view_dims=8, view_levels=1, steps=5)
    plain, even = (
        VRQ(16, config.model_copy(update={"balance_last_level": on})).fit(x, pairs_of(product)) for on in (False, True)
    )
    a, b = plain.encode(x), even.encode(x)
    np.testing.assert_array_equal(a[:, :2], b[:, :2])
    counts = [np.bincount(codes[:, 2], minlength=16) for codes in (a, b)]
    assert counts[1].std() < counts[0].std()
