"""A run's encoding report is fitted on what the run was trained on, and measured on items that it never saw."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.models import make_models

from onevision.artifacts import finish_artifact
from onevision.quantization import stage
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.encoding_inputs import HELD_OUT_SHARE
from onevision.quantization.encoding_run import run_encoding_data


@pytest.fixture(scope="module")
def artifacts(tiny_snapshot, tmp_path_factory):
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def images(artifacts):
    return pq.read_table(artifacts["encoder"] / "images.parquet").to_pandas()


@pytest.fixture(scope="module")
def data(artifacts):
    return run_encoding_data(artifacts["snapshot"], artifacts["pairs"], artifacts["encoder"])


def test_held_out_products_have_no_picture_in_training(data, images):
    trained = set(images.item_id[images.split == "train"].dropna())
    photos = images.iloc[data.photo]
    assert len(photos)
    assert not trained & set(photos.item_id)
    assert set(photos.split) <= {"validation", "test"}
    assert (images.split.to_numpy()[data.train] == "train").all()
    wanted = images[images.split.isin(["validation", "test"]) & images.item_id.notna() & ~images.item_id.isin(trained)]
    assert sorted(wanted.image_id) == sorted(photos.image_id)


def test_an_item_is_the_mean_of_its_catalogue_pictures(data, images):
    item = images.item_id.iloc[data.photo[0]]
    rows = np.flatnonzero((images.item_id == item) & images.view.isin(["main", "sku"]))
    mean = data.x[rows].mean(axis=0)
    np.testing.assert_allclose(data.item[data.target[0]], mean / np.linalg.norm(mean), atol=1e-5)


def test_kinds_are_all_pairs_of_one_unseen_product_once(data, images):
    trained = set(images.item_id[images.split == "train"].dropna())
    seen = set()
    for kind, rows in data.kinds.items():
        first, second = (images.iloc[rows[:, end]] for end in (0, 1))
        assert {f"{a}-{b}" for a, b in zip(first["view"], second["view"], strict=True)} == {kind}
        assert first.item_id.tolist() == second.item_id.tolist()
        assert not trained & set(first.item_id)
        pairs = {frozenset(row) for row in rows.tolist()}
        assert len(pairs) == len(rows)
        assert not seen & pairs
        seen |= pairs
    assert any(kind.startswith("user_photo-main") for kind in data.kinds)


def test_without_new_products_the_photos_alone_are_held_out(artifacts, images, tmp_path):
    encoder = shutil.copytree(artifacts["encoder"], tmp_path / "encoder")
    (encoder / "manifest.json").unlink()
    every = images.assign(split=images.split.replace("catalogue_cold", "train"))
    pq.write_table(pa.Table.from_pandas(every, preserve_index=False), encoder / "images.parquet")
    finish_artifact(encoder, "encoder")
    data = run_encoding_data(artifacts["snapshot"], artifacts["pairs"], encoder)
    later = every[every.split.isin(["validation", "test"]) & every.item_id.notna()]
    assert sorted(every.image_id.iloc[data.photo]) == sorted(later.image_id)
    assert not set(data.photo) & set(data.train)
    assert set(data.target) <= set(data.product[data.train])


def test_validation_holds_out_training_products_and_no_cold_one(artifacts, data, images):
    inputs = [artifacts[name] for name in ("snapshot", "pairs", "encoder")]
    held, again, other = (run_encoding_data(*inputs, validation_seed=seed) for seed in (1, 1, 2))
    trained = set(data.product[data.train]) - {-1}
    products = set(held.target)
    assert products
    assert products < trained
    assert not products & set(held.product[held.train])
    whole = products | set(held.product[held.train])
    assert trained == whole - {-1}
    assert len(trained - set(held.product[held.train])) == round(HELD_OUT_SHARE * len(trained))
    photos = images.iloc[held.photo]
    assert set(photos.split) == {"train"}
    assert not set(photos["view"]) & {"main", "sku"}
    assert not set(held.product[held.train[held.pairs.u]]) & products
    for ends in held.kinds.values():
        assert set(held.product[ends[:, 0]]) <= trained - set(held.product[held.train])
    np.testing.assert_array_equal(held.photo, again.photo)
    assert held.photo.tolist() != other.photo.tolist()


def test_view_pairs_of_a_run_know_their_category(artifacts, data, images):
    items = pq.read_table(artifacts["snapshot"] / "items.parquet").to_pandas()
    category = dict(zip(items.item_id, items.category_id, strict=True))
    shown = images.item_id.to_numpy()[data.train[data.pairs.u]]
    named = {(number, category[item]) for number, item in zip(data.pairs.category.tolist(), shown, strict=True)}
    assert len({number for number, _ in named}) == len({name for _, name in named}) == len(named) > 1


def test_training_the_codebooks_of_a_run_warns_of_codes_used_unevenly(artifacts, tmp_path, monkeypatch):
    inputs = {name: artifacts[name] for name in ("snapshot", "pairs", "encoder")}
    config = QuantizationConfig(
        codebook_sizes=(4,), opq_subspaces=0, view_dims=8, view_levels=1, steps=2, batch_size=16, dead_code_share=1.0
    )
    monkeypatch.setattr(stage, "PERPLEXITY_SHARE", 1.0)  # as even as can be: no codes are
    report = stage.run(**inputs, out=tmp_path / "out", config=config, seed=1)
    assert [warning for warning in report.warnings if "(perplexity)" in warning]
    monkeypatch.setattr(stage, "PERPLEXITY_SHARE", 0.0)
    assert not stage.run(**inputs, out=tmp_path / "again", config=config, seed=1).warnings
