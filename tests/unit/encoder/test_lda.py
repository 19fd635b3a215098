import numpy as np
import pytest

from onevision.encoder.lda import fit_lda


def points(products: int = 60, views: int = 6, dim: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Products differ in the first four dimensions; views of one product scatter most in the last one."""
    rng = np.random.default_rng(0)
    centre, noise = np.zeros(dim), np.full(dim, 0.05)
    centre[:4], noise[-1] = 1.0, 3.0
    product = np.repeat(np.arange(products), views)
    x = (rng.normal(size=(products, dim)) * centre)[product] + rng.normal(size=(len(product), dim)) * noise
    return x.astype(np.float32), product


def test_it_solves_the_generalised_eigenproblem() -> None:
    x, product = points()
    mapping = fit_lda(x, product, 0.0).astype(np.float64)
    means = np.stack([x[product == p].mean(0) for p in range(60)]).astype(np.float64)
    residual = x - means[product]
    within = residual.T @ residual / (len(x) - 60)
    between = np.cov(means[product], rowvar=False, ddof=1) - within / 6
    mapped_within, mapped_between = mapping.T @ within @ mapping, mapping.T @ between @ mapping
    # Both scatters are diagonal there, and within is the weight l / (1 + l) that l = between / within gives.
    for scatter in (mapped_within, mapped_between):
        assert np.abs(scatter - np.diag(np.diag(scatter))).max() < 1e-3 * scatter.max()
    ratio = (np.diag(mapped_between) / np.diag(mapped_within).clip(1e-12)).clip(0)
    np.testing.assert_allclose(np.diag(mapped_within), ratio / (1 + ratio), rtol=2e-3)


@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
def test_it_finds_products_under_noise(shrinkage: float) -> None:
    x, product = points()

    def recall(e: np.ndarray) -> float:
        e = e / np.linalg.norm(e, axis=1, keepdims=True)
        similarity = e @ e.T - 2 * np.eye(len(e))
        return float((product[similarity.argmax(1)] == product).mean())

    assert recall(x) < 0.75
    assert recall(x @ fit_lda(x, product, shrinkage)) > 0.95


def test_more_dimensions_than_views_are_no_trouble() -> None:
    x, product = points(products=3, views=2, dim=16)
    assert np.isfinite(fit_lda(x, product, 0.0)).all()
