"""The encoding report takes any array, holds products out, measures what it says, and refuses what it cannot read."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

import onevision.quantization.encoding_report as encoding_report_module
from onevision.errors import ContractError, OneVisionError
from onevision.quantization.encoding_inputs import HELD_OUT_SHARE, read_encoding_data
from onevision.quantization.encoding_report import OPQ, _ranks, default_codebook_sizes, encoding_report
from onevision.report import StageReport

PRODUCTS, VIEWS, DIM = 60, 3, 8


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encodings")
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(PRODUCTS, DIM))
    owner = rng.permutation(np.repeat(np.arange(PRODUCTS), VIEWS))
    x = (centre[owner] + 0.1 * rng.normal(size=(len(owner), DIM))).astype(np.float32)
    rows = [np.flatnonzero(owner == p) for p in range(PRODUCTS)]
    pairs = np.array([(r[0], other) for r in rows for other in r[1:]])
    np.save(folder / "x.npy", x)
    save_file({"embedding": x, "other": x[:3]}, folder / "x.safetensors")
    np.save(folder / "pairs.npy", pairs)
    pd.DataFrame(pairs, columns=["a", "b"]).to_csv(folder / "pairs.csv", index=False)
    pd.DataFrame({"category": [f"c{o % 4}" for o in owner]}).to_parquet(folder / "categories.parquet")
    np.save(folder / "owner.npy", owner)
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding_report_module, "VRQ_STEPS", 10)
        yield


@pytest.fixture(scope="module")
def report(files):
    return encoding_report(
        files / "x.npy", files / "pairs.npy", files / "categories.parquet", files / "out", codebook_sizes=(8, 4)
    )


def test_products_are_held_out_whole_and_their_photo_is_in_no_item_vector(files):
    data = read_encoding_data(files / "x.npy", files / "pairs.csv", files / "categories.parquet", seed=1)
    owner = np.load(files / "owner.npy")
    assert all(len(set(owner[data.product == p])) == 1 for p in range(PRODUCTS))
    assert len(data.target) == round(HELD_OUT_SHARE * PRODUCTS)
    assert not set(data.product[data.train]) & set(data.target)
    assert set(data.u) | set(data.v) <= set(data.train)
    np.testing.assert_array_equal(data.product[data.photo], data.target)
    photo, target = data.photo[0], data.target[0]
    rest = np.setdiff1d(np.flatnonzero(data.product == target), [photo])
    mean = data.x[rest].mean(axis=0)
    np.testing.assert_allclose(data.item[target], mean / np.linalg.norm(mean), atol=1e-6)
    assert data.category[target] == owner[photo] % 4


def test_formats_hold_the_same(files):
    a = read_encoding_data(files / "x.npy", files / "pairs.npy", None, seed=1)
    b = read_encoding_data(files / "x.safetensors", files / "pairs.csv", None, seed=1)
    for name in ("x", "product", "item", "photo", "u"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_every_method_is_measured_on_the_same_products(report, files):
    assert {key.split("/")[0] for key in report.metrics} == {"rq_kmeans", "rq_opq", "opq", "vrq"}
    assert report.counts["products"] == PRODUCTS
    for method in ("rq_kmeans", "rq_opq", "opq", "vrq"):
        assert 0 <= report.metrics[f"{method}/collision_rate"] < 1
        assert report.metrics[f"{method}/vc@1"] >= report.metrics[f"{method}/vc@2"]
    assert report.metrics["rq_opq/relative_error"] < report.metrics["rq_kmeans/relative_error"] < 1
    assert json.loads((files / "out" / "metrics.json").read_text()) == report.metrics
    assert StageReport.load(files / "out").metrics == report.metrics


def test_same_seed_gives_the_same_figures(files, report):
    again = encoding_report(
        files / "x.npy", files / "pairs.npy", files / "categories.parquet", codebook_sizes=(8, 4), seed=7
    )
    assert again.metrics == report.metrics


def test_without_pairs_every_row_is_a_product_and_there_is_no_vrq(files):
    report = encoding_report(files / "x.npy")
    assert report.counts["products"] == PRODUCTS * VIEWS
    assert {key.split("/")[0] for key in report.metrics} == {"rq_kmeans", "rq_opq", "opq"}
    assert not [key for key in report.metrics if "vc@" in key]


@pytest.mark.parametrize(
    ("products", "sizes"),
    [
        (400, (16, 8, 4)),
        (2_400, (64, 32, 16)),
        (10_000, (128, 64, 32)),
        (100_000, (512, 256, 128)),
        (1_000_000, (1024, 512, 256)),
        (10_000_000, (4096, 1024, 512)),
    ],
)
def test_default_sizes_follow_the_rule(products, sizes):
    assert default_codebook_sizes(products) == sizes


def test_opq_rebuilds_what_it_encodes():
    x = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    opq = OPQ(4, 16).fit(x, seed=0)
    codes = opq.encode(x)
    assert codes.shape == (300, 4)
    rebuilt = opq.decode(codes)
    assert np.square(x - rebuilt).mean() < 0.5 * np.square(x).mean()
    np.testing.assert_array_equal(opq.encode(rebuilt), codes)


def test_products_with_one_code_share_the_worst_rank():
    rebuilt = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    photos = np.array([[1, 0.1], [0, 1]], dtype=np.float32)
    assert _ranks(photos, rebuilt, np.array([0, 2]), seed=0).tolist() == [2, 1]


def test_inputs_that_are_not_what_they_should_be_are_refused(files, tmp_path):
    x = np.load(files / "x.npy")
    bad = x.copy()
    bad[5] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    np.save(tmp_path / "flat.npy", x[0])
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "far.npy", np.array([[0, 1], [0, len(x)]]))
    np.save(tmp_path / "few.npy", np.arange(3))
    good = files / "x.npy"
    for embeddings, pairs, categories, message in (
        (tmp_path / "nan.npy", None, None, "row 5 is zero or not finite"),
        (tmp_path / "flat.npy", None, None, r"\(N, d\) array"),
        (tmp_path / "objects.npy", None, None, "cannot be read"),
        (tmp_path / "nothing.npy", None, None, "cannot be read"),
        (tmp_path / "x.csv", None, None, "ends in .npy"),
        (good, tmp_path / "far.npy", None, "pair 1 is"),
        (good, files / "categories.parquet", None, "no column 'a'"),
        (good, None, tmp_path / "few.npy", "one a row"),
    ):
        with pytest.raises(ContractError, match=message):
            encoding_report(embeddings, pairs, categories)
    with pytest.raises(OneVisionError, match="cannot fill"):
        encoding_report(good, codebook_sizes=(1024,))
