import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onevision.errors import ArtifactError, OneVisionError
from onevision.metrics.encoding import view_consistency
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.kmeans import kmeans, nearest
from onevision.quantization.losses import balanced_codes, code_agreement, product_margin, view_contrast
from onevision.quantization.opq import fit_opq
from onevision.quantization.residual import ResidualKMeans, ResidualQuantizer
from onevision.quantization.stage import check_collapse
from onevision.quantization.vrq import VRQ, ViewPairs

CONFIG = QuantizationConfig(
    codebook_sizes=(8, 8, 4),
    opq_size=4,
    projection_hidden=32,
    steps=120,
    batch_size=128,
    learning_rate=1e-3,
    contrast_weight=1.0,
)


def shop(products: int = 120, views: int = 6, dim: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of products and noisy views of them, the noise in directions of its own."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(products, dim)) * np.r_[np.ones(dim // 2), np.zeros(dim // 2)]
    noise = rng.normal(size=(products, views, dim)) * np.r_[np.full(dim // 2, 0.2), np.ones(dim // 2)]
    x = (centre[:, None] + noise).reshape(-1, dim)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), np.repeat(np.arange(products), views)


def pairs_of(product: np.ndarray) -> ViewPairs:
    u, v = np.nonzero((product[:, None] == product[None]) & ~np.eye(len(product), dtype=bool))
    path = np.stack([product[u] % 2, product[u] % 4], 1)
    return ViewPairs(u, v, product[u], path)


def test_kmeans_leaves_no_cluster_empty_and_is_deterministic() -> None:
    x = torch.cat([torch.zeros(50, 4), torch.randn(14, 4, generator=torch.Generator().manual_seed(0))])
    centroids = kmeans(x, 10, seed=1)
    assert len(nearest(x, centroids)[0].unique()) == 10
    assert torch.equal(centroids, kmeans(x, 10, seed=1))


def test_nearest_equals_brute_force() -> None:
    x, c = torch.randn(200, 6), torch.randn(9, 6)
    codes, distances = nearest(x, c)
    brute = torch.cdist(x, c).square()
    assert torch.equal(codes, brute.argmin(1))
    torch.testing.assert_close(distances, brute.min(1).values, atol=1e-4, rtol=1e-4)


def test_opq_rotation_is_orthonormal_and_beats_plain_product_quantisation() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    rotation, books = fit_opq(x, 2, 16)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(8), atol=1e-4, rtol=0)

    def error(y: torch.Tensor, codebooks: torch.Tensor) -> float:
        return sum(nearest(part, book)[1].sum().item() for part, book in zip(y.chunk(2, 1), codebooks, strict=True))

    plain = torch.stack([kmeans(part, 16, seed=s) for s, part in enumerate(x.chunk(2, 1))])
    assert error(x @ rotation, books) < error(x, plain)


@pytest.fixture(scope="module")
def baseline() -> ResidualKMeans:
    x, _ = shop()
    return ResidualKMeans(16, (8, 8, 4), opq_subspaces=2, opq_size=4).fit(x)


def test_longer_prefixes_reconstruct_better(baseline: ResidualKMeans) -> None:
    x, _ = shop()
    codes = baseline.encode(x)
    assert codes.shape == (len(x), 5)
    errors = [np.square(baseline.decode(codes[:, :n]) - x).sum() for n in range(1, 6)]
    assert all(b < a for a, b in itertools.pairwise(errors))


def test_codes_do_not_depend_on_the_other_rows(baseline: ResidualKMeans) -> None:
    x, _ = shop()
    np.testing.assert_array_equal(baseline.encode(x)[::7], baseline.encode(x[::7]))


def test_writing_code_by_code_gives_the_same_as_encoding(baseline: ResidualKMeans) -> None:
    x, _ = shop()
    rest, written = torch.from_numpy(x), []
    for level in range(5):
        code = baseline.distances(rest, level).argmin(-1)
        rest = baseline.advance(rest, level, code)
        written.append(code)
    np.testing.assert_array_equal(torch.stack(written, 1).numpy(), baseline.encode(x))


def test_a_saved_quantiser_encodes_the_same(baseline: ResidualKMeans, tmp_path: Path) -> None:
    x, _ = shop()
    baseline.save(tmp_path)
    np.testing.assert_array_equal(ResidualQuantizer.from_pretrained(tmp_path).encode(x), baseline.encode(x))
    with pytest.raises(ArtifactError):
        ResidualQuantizer.from_pretrained(tmp_path / "nothing")


def test_views_of_unseen_products_agree_more_under_vrq_than_under_residual_kmeans() -> None:
    x, product = shop(products=160)
    seen, unseen = product < 120, product >= 120
    vrq = VRQ(16, CONFIG).fit(x[seen], pairs_of(product[seen]), seed=0)
    rq = ResidualKMeans(16, (8, 8, 4), opq_subspaces=2, opq_size=4).fit(x[seen])
    held_out = x[unseen].reshape(40, 6, 16)

    def consistency(quantizer: ResidualQuantizer) -> float:
        a, b = (quantizer.encode(np.ascontiguousarray(held_out[:, n])) for n in (0, 1))
        return float(view_consistency(a, b)[0])

    assert consistency(vrq) > consistency(rq) + 0.1
    assert vrq.projection is not None
    assert vrq.loss_curve_["contrast"][-1] < vrq.loss_curve_["contrast"][0]


def test_vrq_is_deterministic_by_seed() -> None:
    x, product = shop(products=40)
    config = CONFIG.model_copy(update={"steps": 20})
    a, b, c = (VRQ(16, config).fit(x, pairs_of(product), seed=s).encode(x) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_losses_equal_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    u, v, n = (torch.randn(6, 4, generator=generator) for _ in range(3))
    margin = (
        sum(
            max(0.0, 0.5 + float((a - b).square().sum()) - float((a - c).square().sum()))
            for a, b, c in zip(u, v, n, strict=True)
        )
        / 6
    )
    assert product_margin(u, v, n, 0.5).item() == pytest.approx(margin, rel=1e-5)
    p, q = ((-d / 0.3).softmax(1) for d in (u.square(), v.square()))
    m = (p + q) / 2
    divergence = (F.kl_div(m.log(), p, reduction="batchmean") + F.kl_div(m.log(), q, reduction="batchmean")) / 2
    assert code_agreement(u.square(), v.square(), 0.3).item() == pytest.approx(divergence.item(), rel=1e-4)
    assert code_agreement(u.square(), u.square(), 0.3).item() == pytest.approx(0, abs=1e-6)
    same = torch.eye(6, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    cosine = F.normalize(u, dim=1) @ F.normalize(v, dim=1).T / 0.1
    rows = []
    for logits in (cosine, cosine.T):
        for i in range(6):
            allowed = [j for j in range(6) if j == i or not same[i, j]]
            rows.append(torch.logsumexp(logits[i, allowed], 0) - logits[i, i])
    expected = torch.stack(rows).mean() + (u - v).square().sum(1).mean()
    assert view_contrast(u, v, same, 0.1).item() == pytest.approx(expected.item(), rel=1e-4)


def test_balanced_codes_spread_what_nearest_codes_pile_up() -> None:
    distances = torch.rand(400, 8, generator=torch.Generator().manual_seed(0)) + torch.linspace(0, 0.5, 8)
    nearest_use = distances.argmin(1).bincount(minlength=8).max()
    assert balanced_codes(distances).bincount(minlength=8).max() < 0.6 * nearest_use


def test_a_collapsed_codebook_raises_the_alarm(baseline: ResidualKMeans) -> None:
    x, _ = shop()
    assert isinstance(check_collapse(baseline, x, CONFIG), list)
    with pytest.raises(OneVisionError, match="collapse: level 1 uses 1 of 8"):
        check_collapse(baseline, np.repeat(x[:1], 50, 0), CONFIG)
