"""Anybody's judged queries: any table that says what it means is measured, and every bad row is named and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from support.bundles import Shop
from support.models import make_models

from onevision.artifacts import open_artifact
from onevision.data.images import decode_image
from onevision.data.snapshot import Snapshot
from onevision.encoder.model import Encoder
from onevision.encoder.retrieval import nearest_items
from onevision.errors import ContractError, OneVisionError
from onevision.evaluation.queries import evaluate_queries, read_queries

ROWS = {"a": 0, "b": 1, "c": 2}
SIZE = 32


@pytest.fixture(scope="module")
def photos(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    shop = Snapshot.open(tiny_snapshot)
    for number, image in enumerate(shop.images.ids[:3]):
        (folder / f"{number}.jpg").write_bytes(shop.images.read(image))
    (folder / "cut.jpg").write_bytes((folder / "0.jpg").read_bytes()[:200])
    (folder / "text.jpg").write_text("no picture")
    return folder


def write_csv(folder: Path, text: str) -> Path:
    path = folder / "queries.csv"
    path.write_text(text)
    return path


def test_a_table_of_files_or_of_bytes_reads_the_same(photos):
    csv = write_csv(photos, 'image,relevant,user\n0.jpg,"a, b",u1\n1.jpg,c,\n')
    images = [(photos / name).read_bytes() for name in ("0.jpg", "1.jpg")]
    parquet = photos / "queries.parquet"
    pq.write_table(pa.table({"image": images, "relevant": [["a", "b"], ["c"]], "user": ["u1", None]}), parquet)
    from_csv, from_parquet = (read_queries(path, ROWS, SIZE) for path in (csv, parquet))
    assert from_csv == from_parquet
    assert [(q.relevant, q.user) for q in from_csv[0]] == [([0, 1], "u1"), ([2], None)]


def test_bad_rows_are_set_aside_with_their_number_and_reason(photos):
    text = 'image,relevant\n0.jpg,a\ncut.jpg,a\ntext.jpg,a\nnowhere.jpg,a\n,a\n1.jpg,\n1.jpg,"x,y"\n2.jpg,"x,b"\n'
    judged, aside, unknown = read_queries(write_csv(photos, text), ROWS, SIZE)
    assert [q.row for q in judged] == [1, 8]
    assert unknown == 1
    assert [row for row, _ in aside] == [2, 3, 4, 5, 6, 7]
    reasons = dict(aside)
    assert "cannot be read" in reasons[4]
    assert reasons[5] == "no image is given"
    assert reasons[6] == "no relevant item is given"
    assert "catalogue" in reasons[7]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("q.csv", "picture,relevant\n0.jpg,a\n", "no column 'image'"),
        ("q.csv", "image,relevnt\n0.jpg,a\n", "is 'relevnt' meant"),
        ("q.csv", "", "cannot be read as a table"),
        ("q.parquet", "not parquet", "cannot be read as a table"),
        ("q.txt", "image,relevant\n", ".csv or .parquet"),
        ("missing.csv", None, "cannot be read as a table"),
    ],
)
def test_a_table_that_does_not_say_what_it_means_is_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ContractError, match=message):
        read_queries(tmp_path / name, ROWS, SIZE)


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def bundle(tiny_snapshot: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = Shop(tiny_snapshot, tmp_path_factory.mktemp("published"))
    shop.publish(shop.measured({name: path for name, path in models.items() if name not in ("snapshot", "pairs")}))
    return shop.root / "bundle"


@pytest.fixture(scope="module")
def table(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = Snapshot.open(tiny_snapshot)
    images = shop.table("images").to_pandas().query("view == 'main'").head(8)
    rows = {"image": [shop.images.read(i) for i in images["image_id"]], "relevant": images["item_id"].tolist()}
    rows["image"].append(b"no picture")
    rows["relevant"].append(images["item_id"].iloc[0])
    path = tmp_path_factory.mktemp("judged") / "judged.parquet"
    pq.write_table(pa.table(rows), path)
    return path


def test_a_bundle_is_measured_beside_dense_neighbours(bundle, table, tmp_path):
    report = evaluate_queries(bundle, table, out=tmp_path / "out")
    assert report.counts["queries_in"] == 9
    assert report.counts["queries_measured"] == 8
    assert report.counts["queries_set_aside"] == 1
    assert report.metrics["dense/hr@50"] == 1.0  # 24 items: all are shown
    assert report.metrics["dense/mrr@10"] == pytest.approx(nearest_mrr(bundle, table))
    assert report.metrics["bundle/ndcg@10"] <= report.metrics["bundle/hr@10"]
    assert any("set aside" in warning for warning in report.warnings)
    open_artifact(tmp_path / "out", "query_evaluation")
    assert pd.read_parquet(tmp_path / "out" / "ranks.parquet")["row"].tolist() == list(range(1, 9))
    assert pd.read_parquet(tmp_path / "out" / "set_aside.parquet")["row"].tolist() == [9]


def nearest_mrr(bundle: Path, table: Path) -> float:
    encoder = Encoder.from_pretrained(bundle / "encoder")
    rows = pq.read_table(table).to_pylist()[:8]
    query = encoder.embed(np.stack([decode_image(row["image"], encoder.image_size) for row in rows])).embedding
    views = load_file(bundle / "semantic_ids" / "item_embeddings.safetensors")
    found, _ = nearest_items(query, views["view_embedding"], views["view_item"], 10)
    ids = pq.read_table(bundle / "semantic_ids" / "items.parquet")["item_id"].to_pylist()
    reciprocal = 0.0
    for row, line in zip(rows, found, strict=True):
        shown = [ids[item] for item in line]
        reciprocal += 1 / (shown.index(row["relevant"]) + 1) if row["relevant"] in shown else 0.0
    return reciprocal / len(rows)


def test_same_table_gives_the_same_figures(bundle, table):
    assert evaluate_queries(bundle, table).metrics == evaluate_queries(bundle, table).metrics


def test_a_table_without_a_usable_row_says_why(bundle, photos):
    with pytest.raises(OneVisionError, match=r"none of its 2 rows .*2 x no relevant item is in the catalogue"):
        evaluate_queries(bundle, write_csv(photos, "image,relevant\n0.jpg,nothing\n1.jpg,nothing\n"))
