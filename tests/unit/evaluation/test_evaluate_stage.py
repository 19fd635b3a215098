"""The evaluation stage on real artifacts of a tiny shop: complete, documented, deterministic, and proven unleaked."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.models import make_models

from onevision.artifacts import finish_artifact, open_artifact, read_json
from onevision.data.snapshot import Snapshot
from onevision.decoding.ranker import GeneratorRanker
from onevision.errors import ArtifactError, OneVisionError
from onevision.evaluation.cascade import FOLDER, Cascade
from onevision.evaluation.comparison import PLACES
from onevision.evaluation.config import EvaluationConfig
from onevision.evaluation.glossary import markdown, meanings
from onevision.evaluation.items import Items
from onevision.evaluation.leakage import check_leakage
from onevision.evaluation.searches import Searches, deal_histories
from onevision.evaluation.slices import COMPARED_ON
from onevision.evaluation.stage import COMPARED, held_out_queries, run
from onevision.evaluation.systems import oracle_systems
from onevision.report import StageReport

SYSTEMS = {"dense", "cascade", "generator_sft", "generator_aligned", "generator_pruned", "generator_shuffled_history"}
CONFIG = EvaluationConfig(
    max_queries=10, beam_width=8, bootstrap_samples=100, recall_candidates=12, ranker_trees=5, latency_queries=5
)
DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def report_and_path(models, tmp_path_factory) -> tuple[StageReport, Path]:
    out = tmp_path_factory.mktemp("evaluate") / "evaluation"
    return run(**models, out=out, config=CONFIG, seed=7), out


def test_every_system_is_measured_on_the_same_queries(report_and_path):
    report, out = report_and_path
    ranks = pq.read_table(out / "ranks.parquet").to_pandas()
    assert set(ranks["system"]) == SYSTEMS
    asked = {system: part["query_id"].tolist() for system, part in ranks.groupby("system")}
    assert all(asked[system] == asked["dense"] for system in SYSTEMS)
    assert len(asked["dense"]) == report.counts["queries_measured"] == 10


def test_the_cascade_that_is_kept_is_the_one_that_was_measured(models, report_and_path):
    out = report_and_path[1]
    items = Items.load(models["semantic_ids"], Snapshot.open(models["snapshot"]))
    queries, _ = held_out_queries(models["pairs"], models["encoder"], models["features"], items, CONFIG.max_queries)
    rows, _ = Cascade.load(out / FOLDER, items).rank(Searches.of(queries, items), 10)
    ranks = pq.read_table(out / "ranks.parquet").to_pandas()
    measured = ranks[ranks["system"] == "cascade"].set_index("query_id")["items"].loc[queries.query_id]
    assert [items.item_id[found[found >= 0]].tolist() for found in rows] == [list(found) for found in measured]
    assert {f"{FOLDER}/{name}" for name in ("ranker.txt", "cascade.json", "clicks.safetensors", "clicks.json")} <= set(
        read_json(out / "manifest.json")["files"]
    )


def test_the_control_is_asked_with_the_histories_of_strangers(models, report_and_path):
    items = Items.load(models["semantic_ids"], Snapshot.open(models["snapshot"]))
    queries, _ = held_out_queries(models["pairs"], models["encoder"], models["features"], items, CONFIG.max_queries)
    dealt = deal_histories(queries.user_id, 7)
    assert all(queries.user_id[row] != queries.user_id[other] for row, other in enumerate(dealt))
    ranker = GeneratorRanker.open(models["encoder"], models["semantic_ids"], models["generator_aligned"])
    ranks = pq.read_table(report_and_path[1] / "ranks.parquet").to_pandas()
    shown = {}
    for system, asked in (
        ("generator_aligned", queries),
        ("generator_shuffled_history", queries.with_histories_of(dealt)),
    ):
        rows = ranker.rank(asked, CONFIG.beam_width, PLACES).items[:, :10]
        measured = ranks[ranks["system"] == system].set_index("query_id")["items"].loc[queries.query_id]
        shown[system] = [list(found) for found in measured]
        assert shown[system] == [items.item_id[found[found >= 0]].tolist() for found in rows]
    assert shown["generator_aligned"] != shown["generator_shuffled_history"]


def test_the_two_ceilings_are_not_taken_for_one_another(models, tmp_path):
    items = Items.load(models["semantic_ids"], Snapshot.open(models["snapshot"]))
    queries, _ = held_out_queries(models["pairs"], models["encoder"], models["features"], items, CONFIG.max_queries)
    assert oracle_systems(SimpleNamespace(path=tmp_path), queries, items) == {}
    asked = queries.query_id[::-1]  # the table has an order of its own
    taste = [[items.item_id[n], items.item_id[n + 1]] for n in range(len(asked))]
    look = [[items.item_id[n + 5]] for n in range(len(asked))]
    table = pa.table({"query_id": asked, "with_taste": taste, "visual_only": look})
    pq.write_table(table, tmp_path / "oracle_queries.parquet")
    found = oracle_systems(SimpleNamespace(path=tmp_path), queries, items)
    last = len(asked) - 1
    assert set(found) == {"oracle_with_taste", "oracle_visual"}
    assert found["oracle_with_taste"].items.tolist() == [[last - n, last - n + 1] for n in range(len(asked))]
    assert found["oracle_visual"].items.tolist() == [[last - n + 5] for n in range(len(asked))]


def test_ranks_tell_the_hit_rates(report_and_path):
    report, out = report_and_path
    ranks = pq.read_table(out / "ranks.parquet").to_pandas()
    for system, part in ranks.groupby("system"):
        for k in (1, 10, 50):
            assert report.metrics[f"{system}/hr@{k}"] == pytest.approx((part["rank"].fillna(99) <= k).mean())


def test_every_key_has_one_documented_meaning(report_and_path):
    report, out = report_and_path
    assert set(read_json(out / "metrics.json")) <= set(report.metrics)
    unclear = {key: len(meanings(key)) for key in report.metrics if len(meanings(key)) != 1}
    assert not unclear
    assert meanings("generator_pruned/hr@11x") == meanings("nobody/hr@10") == []


def test_the_page_of_metrics_is_the_one_that_the_code_writes():
    assert DOCS.read_text() == markdown()


def test_no_clock_is_in_the_artifact_and_it_is_the_same_again(models, report_and_path, tmp_path):
    _, out = report_and_path
    run(**models, out=tmp_path / "again", config=CONFIG, seed=7)
    assert open_artifact(tmp_path / "again").identity == open_artifact(out).identity
    assert not [key for key in read_json(out / "metrics.json") if "latency" in key]


def test_latency_is_reported_for_every_system_that_could_be_served(report_and_path):
    report, _ = report_and_path
    for system in (SYSTEMS - {"generator_shuffled_history"}) | {"image_tower"}:
        p50, p99 = (report.metrics[f"{system}/latency_ms_p{q}"] for q in (50, 99))
        assert 0 < p50 <= p99


def test_counts_add_up(report_and_path):
    counts = report_and_path[0].counts
    left_out = ("queries_without_click", "queries_older_than_the_newest", "queries_clicked_item_unknown")
    assert counts["queries_test"] == counts["queries_measured"] + sum(counts[name] for name in left_out)
    assert counts["leakage_training_pairs_checked"] > 0


def test_differences_are_between_the_means(report_and_path):
    metrics = report_and_path[0].metrics
    for a, b in COMPARED:
        difference = metrics[f"{a}_minus_{b}/hr@10"]
        assert difference == pytest.approx(metrics[f"{a}/hr@10"] - metrics[f"{b}/hr@10"])
        assert metrics[f"{a}_minus_{b}/hr@10/low"] <= difference + 1e-12


def test_differences_by_slice_are_between_the_means_of_the_slices(report_and_path):
    metrics = report_and_path[0].metrics
    for name in COMPARED_ON:
        if f"queries/{name}" in metrics:
            key = f"generator_pruned_minus_cascade/hr@350/{name}"
            means = [metrics[f"{system}/hr@350/{name}"] for system in ("generator_pruned", "cascade")]
            assert metrics[key] == pytest.approx(means[0] - means[1])
            assert metrics[f"{key}/low"] - 1e-12 <= metrics[key] <= metrics[f"{key}/high"] + 1e-12
    gap = metrics["generator_pruned/mrr@10/warm_item_minus_cold_item"]
    warm, cold = (metrics[f"generator_pruned/mrr@10/{name}"] for name in ("warm_item", "cold_item"))
    assert gap == pytest.approx(warm - cold)


def test_gallery_names_pictures_that_the_snapshot_has(report_and_path, tiny_snapshot):
    shown = read_json(report_and_path[1] / "gallery.json")
    shop = Snapshot.open(tiny_snapshot)
    items = set(shop.table("items")["item_id"].to_pylist())
    assert len(shown) == min(CONFIG.gallery, 10)
    for entry in shown:
        assert entry["query_image"] in shop.images
        assert set(entry["cascade"]) | set(entry["generator_pruned"]) | set(entry["clicked"]) <= items
        assert len(entry["generator_pruned"]) == 5


def test_no_test_query_is_said_and_not_divided_by(models, tmp_path):
    pairs = altered_pairs(models, tmp_path, lambda queries: set_split(queries, "test", "validation"))
    with pytest.raises(OneVisionError, match="test queries"):
        run(**models | {"pairs": pairs}, out=tmp_path / "out", config=CONFIG, seed=7)


def test_inputs_of_two_generations_are_refused(models, tmp_path):
    pruning = tmp_path / "pruning"
    shutil.copytree(models["pruning"], pruning)
    finish_artifact(pruning, "pruning", generation="another")
    with pytest.raises(ArtifactError, match="different generations"):
        run(**models | {"pruning": pruning}, out=tmp_path / "out", config=CONFIG, seed=7)


@pytest.mark.parametrize("what", ["query", "late query", "photo in pairs", "photo in pictures", "cold item in pairs"])
def test_leakage_is_noticed(models, tiny_snapshot, tmp_path, what):
    items = Items.load(models["semantic_ids"], Snapshot.open(tiny_snapshot))
    cold = items.item_id[items.cold].tolist()
    queries, _ = held_out_queries(models["pairs"], models["encoder"], models["features"], items, 10)
    checked = check_leakage(models["pairs"], queries.query_id, queries.image_id, cold)
    assert checked["leakage_test_queries_checked"] == 10
    pairs = tmp_path / "pairs"
    shutil.copytree(models["pairs"], pairs)
    leak(pairs, what, queries, cold)
    with pytest.raises(ArtifactError, match="leakage"):
        check_leakage(pairs, queries.query_id, queries.image_id, cold)


def leak(pairs: Path, what: str, queries, cold: list[str]) -> None:
    table = pq.read_table(pairs / "queries.parquet")
    if what == "query":
        split = ["train" if q == queries.query_id[3] else s for q, s in zip(*columns(table), strict=True)]
        pq.write_table(replaced(table, "split", split), pairs / "queries.parquet")
    elif what == "late query":
        hidden = [f"{q}-x" if q in queries.query_id else q for q in table["query_id"].to_pylist()]
        late = replaced(set_split(table, "test", "train"), "query_id", hidden)
        late = replaced(late, "image_id", [f"{i}-x" for i in table["image_id"].to_pylist()])
        pq.write_table(late, pairs / "queries.parquet")
    elif what == "photo in pictures":
        splits = pq.read_table(pairs / "image_splits.parquet")
        named = ["train" if i == queries.image_id[0] else s for i, s in zip(*columns(splits, "image_id"), strict=True)]
        pq.write_table(replaced(splits, "split", named), pairs / "image_splits.parquet")
    else:
        image_pairs = pq.read_table(pairs / "image_pairs.parquet")
        column, value = ("image_b", queries.image_id[1]) if "photo" in what else ("item_a", cold[0])
        values = [value, *image_pairs[column].to_pylist()[1:]]
        pq.write_table(replaced(image_pairs, column, values), pairs / "image_pairs.parquet")


def columns(table: pa.Table, key: str = "query_id") -> tuple[list[str], list[str]]:
    return table[key].to_pylist(), table["split"].to_pylist()


def replaced(table: pa.Table, name: str, values: list[str]) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values, table.schema.field(name).type))


def set_split(table: pa.Table, old: str, new: str) -> pa.Table:
    return replaced(table, "split", [new if s == old else s for s in table["split"].to_pylist()])


def altered_pairs(models: dict[str, Path], tmp_path: Path, change) -> Path:
    pairs = tmp_path / "pairs"
    shutil.copytree(models["pairs"], pairs)
    pq.write_table(change(pq.read_table(pairs / "queries.parquet")), pairs / "queries.parquet")
    finish_artifact(pairs, "pairs")
    return pairs


def test_items_follow_the_rows_of_the_semantic_ids(models, tiny_snapshot):
    shop = Snapshot.open(tiny_snapshot)
    items = Items.load(models["semantic_ids"], shop)
    table = shop.table("items").to_pandas().set_index("item_id").loc[items.item_id]
    np.testing.assert_array_equal(items.brand, table["brand"].fillna("").to_numpy())
    np.testing.assert_array_equal(items.created, table["created_at"].astype("int64").to_numpy())
    assert items.rows(["nothing", items.item_id[3]]).tolist() == [3]
    assert items.row(None) == items.row("nothing") == -1
