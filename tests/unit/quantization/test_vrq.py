import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.views import pairs_of, shop

import onevision.quantization.vrq as vrq_module
from onevision.errors import ArtifactError, OneVisionError
from onevision.metrics.encoding import view_consistency
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.key_training import Level, Trained, train_keys
from onevision.quantization.kmeans import kmeans, nearest
from onevision.quantization.opq import fit_opq
from onevision.quantization.residual import ResidualKMeans, ResidualQuantizer
from onevision.quantization.stage import check_collapse
from onevision.quantization.view_map import fit_view_map
from onevision.quantization.view_pairs import ViewPairs
from onevision.quantization.vrq import VRQ

CONFIG = QuantizationConfig(
    codebook_sizes=(8, 8, 4),
    opq_size=4,
    view_dims=8,
    steps=60,
    batch_size=128,
)


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
    agreement = vrq.loss_curve_["agreement, level 1"]
    assert np.mean(agreement[-10:]) < np.mean(agreement[:10])


def test_a_saved_vrq_encodes_and_decodes_the_same(tmp_path: Path) -> None:
    x, product = shop(products=40)
    vrq = VRQ(16, CONFIG.model_copy(update={"steps": 5})).fit(x, pairs_of(product))
    vrq.save(tmp_path)
    again = VRQ.from_pretrained(tmp_path)
    codes = vrq.encode(x)
    np.testing.assert_array_equal(again.encode(x), codes)
    np.testing.assert_array_equal(again.decode(codes), vrq.decode(codes))
    assert again.settings() == vrq.settings()
    assert (again.view_levels, again.view_dims) == (2, 8)


def test_the_example_in_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(
        r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs/encoding.md").read_text(), re.DOTALL
    )
    x, product = shop()
    pairs = pairs_of(product)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"x": x, "u": pairs.u, "v": pairs.v, "product": pairs.product}
    exec(example, names)
    assert names["codes"].shape == (len(x), 5)
    assert names["rebuilt"].shape == x.shape
    np.testing.assert_array_equal(names["again"].encode(x), names["codes"])


def test_every_level_is_trained_on_the_pairs_that_agree_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x, product = shop(products=60)
    given = []

    def watched(level: Level, start: torch.Tensor, pairs: ViewPairs, *rest: Any, **named: Any) -> Trained:
        given.append(pairs)
        return train_keys(level, start, pairs, *rest, **named)

    monkeypatch.setattr(vrq_module, "train_keys", watched)
    config = CONFIG.model_copy(update={"steps": 5, "view_levels": 3})
    pairs = pairs_of(product)
    codes = VRQ(16, config).fit(x, pairs).encode(x)
    for level, found in enumerate(given):
        agree = (codes[pairs.u, :level] == codes[pairs.v, :level]).all(1)
        np.testing.assert_array_equal(found.u, pairs.u[agree])
        np.testing.assert_array_equal(found.v, pairs.v[agree])
    assert len(pairs.u) == len(given[0].u) > len(given[1].u) > len(given[2].u) > 0


def test_vrq_is_deterministic_by_seed() -> None:
    x, product = shop(products=40)
    config = CONFIG.model_copy(update={"steps": 20})
    a, b, c = (VRQ(16, config).fit(x, pairs_of(product), seed=s).encode(x) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_a_deeper_level_learns_from_the_pairs_that_agree_so_far() -> None:
    pairs = ViewPairs(np.array([0, 1, 2]), np.array([3, 4, 5]), np.array([7, 8, 9]))
    left = pairs.agreeing(np.array([0, 1, 2, 0, 2, 2]))
    assert (left.u.tolist(), left.v.tolist(), left.product.tolist()) == ([0, 2], [3, 5], [7, 9])


def test_the_view_map_keeps_what_views_share_and_drops_where_they_differ() -> None:
    x, product = shop()
    pairs = pairs_of(product)
    mapping = fit_view_map(x, pairs.u, pairs.v, pairs.product, dims=8, shrinkage=0.01)
    assert mapping.shape == (16, 8)
    # In `shop` the first half of the directions tells products apart and the second differs between views.
    assert np.square(mapping[:8]).sum() > 5 * np.square(mapping[8:]).sum()
    assert (x @ mapping).var(0).sum() == pytest.approx(1, rel=1e-3)


def test_codebooks_of_aligned_levels_hold_the_mean_of_what_takes_them() -> None:
    x, product = shop()
    vrq = VRQ(16, CONFIG).fit(x, pairs_of(product), seed=0)
    codes = vrq.encode(x)[:, 0]
    for code in np.unique(codes):
        np.testing.assert_allclose(vrq.codebook(0)[code].numpy(), x[codes == code].mean(0), atol=1e-5)


def test_a_collapsed_codebook_raises_the_alarm(baseline: ResidualKMeans) -> None:
    x, _ = shop()
    assert check_collapse(baseline, x, CONFIG) == []
    with pytest.raises(OneVisionError, match="collapse: level 1 uses 1 of 8"):
        check_collapse(baseline, np.repeat(x[:1], 50, 0), CONFIG)


def test_codes_that_are_used_unevenly_raise_a_warning(baseline: ResidualKMeans) -> None:
    x, _ = shop()
    first = baseline.encode(x)[:, 0]
    rows = [np.flatnonzero(first == code)[0] for code in range(8)]
    piled = np.concatenate([x[rows], np.repeat(x[rows[:1]], 200, 0)])
    config = CONFIG.model_copy(update={"dead_code_share": 1.0})
    warnings = [warning for warning in check_collapse(baseline, piled, config) if warning.startswith("level 1 ")]
    shares = np.array([201] + [1] * 7) / 208
    alike = math.exp(-(shares * np.log(shares)).sum())
    assert warnings == [f"level 1 uses 8 codes like {alike:.1f} (perplexity)"]
