"""Nearest centroids against brute force, k-means on blobs, and the fast products that may not cost precision."""

from __future__ import annotations

import pytest
import torch

from onevision.quantization import kmeans as kmeans_module
from onevision.quantization.gemm import _is_still_float32, fast_matmul
from onevision.quantization.kmeans import kmeans, nearest


@pytest.mark.parametrize("k", [1, 3, 128, 129, 192, 300])
@pytest.mark.parametrize("rows", [0, 1, 77])
def test_nearest_is_brute_force(k, rows, monkeypatch):
    monkeypatch.setattr(kmeans_module, "ROWS", 20)
    generator = torch.Generator().manual_seed(k)
    x, centroids = torch.randn(rows, 16, generator=generator), torch.randn(k, 16, generator=generator)
    squared = (x.double()[:, None] - centroids.double()[None]).square().sum(2)
    codes, distances = nearest(x, centroids)
    torch.testing.assert_close(codes, squared.argmin(1))
    torch.testing.assert_close(distances.double(), squared.amin(1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("k", [8, 256])
def test_ties_go_to_the_smaller_code(k):
    centroids = torch.zeros(k, 4)
    centroids[: k // 2] = torch.tensor([9.0, 0, 0, 0])
    codes, _ = nearest(torch.tensor([[8.0, 0, 0, 0], [0, 1, 0, 0]]), centroids)
    assert codes.tolist() == [0, k // 2]


@pytest.mark.parametrize("k", [40, 300])
def test_kmeans_finds_separate_groups_and_repeats_itself(k):
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(k, 8, generator=generator)
    x = centres.repeat_interleave(20, 0) + 0.01 * torch.randn(20 * k, 8, generator=generator)
    found = kmeans(x, k, iterations=20, seed=1)
    assert torch.equal(found, kmeans(x, k, iterations=20, seed=1))
    assert (nearest(centres, found)[1] < 0.1).float().mean() > 0.98
    assert len(nearest(x, found)[0].unique()) == k


def test_more_codes_than_distinct_rows():
    x = torch.eye(4).repeat(3, 1)
    found = kmeans(x, 9, iterations=5, seed=0)
    assert found.shape == (9, 4)
    assert nearest(x, found)[1].max() < 1e-6


def test_fast_products_are_float32_and_the_setting_is_put_back():
    before = torch.backends.mkldnn.matmul.fp32_precision
    a, b = torch.randn(300, 200), torch.randn(200, 400)
    with fast_matmul():
        product = a @ b
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    exact = a.double() @ b.double()
    assert ((product - exact).abs() / (a.norm(dim=1)[:, None] * b.norm(dim=0))).max() < 1e-6


def test_a_cpu_that_would_lose_precision_is_left_alone(monkeypatch):
    monkeypatch.setattr("onevision.quantization.gemm.TOLERANCE", 0.0)
    _is_still_float32.cache_clear()
    before = torch.backends.mkldnn.matmul.fp32_precision
    with fast_matmul():
        assert torch.backends.mkldnn.matmul.fp32_precision == before
    _is_still_float32.cache_clear()
