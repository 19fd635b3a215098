"""Every baseline encodes within its sizes, rebuilds better than the mean, and repeats itself by seed."""

from __future__ import annotations

import numpy as np
import pytest

from onevision.quantization.baselines.autoencoder import Budget
from onevision.quantization.baselines.fsq import FSQ, scalar_levels
from onevision.quantization.baselines.hierarchical import HierarchicalKMeans
from onevision.quantization.baselines.opq import OPQ
from onevision.quantization.baselines.rq_vae import RQVAE
from onevision.quantization.config import QuantizationConfig

DIM, SIZES = 16, (16, 8, 4)
BUDGET = Budget(steps=120, rows=128)
FITS = {
    "hierarchical": lambda x: HierarchicalKMeans(SIZES).fit(x, iterations=10, seed=0),
    "rq_vae": lambda x: RQVAE(DIM, SIZES, hidden=32).fit(x, BUDGET, seed=0),
    "fsq": lambda x: FSQ(DIM, SIZES, hidden=32).fit(x, Budget(steps=300, rows=128), seed=0),
    "opq": lambda x: OPQ(4, 16).fit(x, seed=0),
}


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, DIM))[rng.integers(0, 40, 600)] + 0.2 * rng.normal(size=(600, DIM))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("name", FITS)
def test_codes_are_in_range_and_rebuild_most_of_the_variance(name, x):
    method = FITS[name](x)
    codes = method.encode(x)
    assert codes.dtype == np.int16
    assert codes.shape == (len(x), len(method.codebook_sizes))
    assert (codes >= 0).all()
    assert (codes < method.codebook_sizes).all()
    error = np.square(x - method.decode(codes)).sum() / np.square(x - x.mean(0)).sum()
    assert error < (0.6 if name == "fsq" else 0.35)


@pytest.mark.parametrize("name", FITS)
def test_same_seed_same_codes_and_a_row_is_encoded_by_itself(name, x):
    method = FITS[name](x)
    codes = method.encode(x)
    np.testing.assert_array_equal(FITS[name](x).encode(x), codes)
    np.testing.assert_array_equal(np.concatenate([method.encode(x[:7]), method.encode(x[7:9])]), codes[:9])


def test_hierarchical_codes_lead_to_the_nearest_child_of_every_parent(x):
    tree = HierarchicalKMeans((4, 3, 8)).fit(x, iterations=10, seed=0)
    for row, codes in zip(x[:50], tree.encode(x[:50]).tolist(), strict=True):
        for level, code in enumerate(codes):
            children = tree._children[tuple(codes[:level])].numpy()
            assert code == np.square(children - row).sum(1).argmin()


def test_a_hierarchy_finer_than_its_rows_gives_each_its_own_end():
    x = np.eye(6, dtype=np.float32)
    tree = HierarchicalKMeans((2, 8, 8)).fit(x, seed=0)
    codes = tree.encode(x)
    assert len(np.unique(codes, axis=0)) == len(x)
    np.testing.assert_allclose(tree.decode(codes), x, atol=1e-6)


def test_rq_vae_learns_beyond_its_first_codebooks(x):
    def error(steps):
        method = RQVAE(DIM, SIZES, hidden=32).fit(x, Budget(steps, 128), seed=0)
        return np.square(x - method.decode(method.encode(x))).mean()

    assert error(200) < 0.95 * error(0)


@pytest.mark.parametrize(("levels", "steps"), [(0, 30), (1, 30), (2, 60), (5, 90)])
def test_baselines_take_as_many_steps_as_vrq_at_all_its_aligned_levels(levels, steps):
    config = QuantizationConfig(codebook_sizes=(8, 4, 4), steps=30, batch_size=16, view_levels=levels)
    assert Budget.of(config) == Budget(steps=steps, rows=32)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 16, 64, 100, 128, 256, 4096])
def test_scalar_levels_fit_the_size_of_the_codebook(size):
    levels = scalar_levels(size)
    assert size / 2 < np.prod(levels) <= size
    assert set(levels) <= {2, 4, 8}


def test_opq_gives_rebuilt_vectors_their_codes_again(x):
    opq = FITS["opq"](x)
    codes = opq.encode(x)
    np.testing.assert_array_equal(opq.encode(opq.decode(codes)), codes)
