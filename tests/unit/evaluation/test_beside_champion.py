"""The champion beside the challenger: the same queries, its own catalogue, and what became of its codes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.models import make_models

from onevision.artifacts import Artifact, finish_artifact, open_artifact, read_json, write_json
from onevision.errors import ArtifactError
from onevision.evaluation.beside import Beside
from onevision.evaluation.cascade import FOLDER
from onevision.evaluation.click_log import ARRAYS
from onevision.evaluation.config import EvaluationConfig
from onevision.evaluation.drift import ADVICE, Drift
from onevision.evaluation.glossary import meanings
from onevision.evaluation.items import UNKNOWN
from onevision.evaluation.stage import run as evaluate
from onevision.evaluation.systems import System
from onevision.generator.choice import items_digest
from onevision.publishing.bundle import open_bundle
from onevision.publishing.config import PublishingConfig
from onevision.publishing.stage import run as publish
from onevision.report import StageReport
from onevision.semantic_ids.catalogue import Catalogue
from onevision.serving.cascade import open_evaluation

CONFIG = EvaluationConfig(
    max_queries=10, beam_width=8, bootstrap_samples=100, recall_candidates=12, ranker_trees=5, latency_queries=5
)


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def champion(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the same models."""
    root = tmp_path_factory.mktemp("champion")
    evaluate(**models, out=root / "evaluation", config=CONFIG, seed=7)
    parts = {name: path for name, path in models.items() if name != "pairs"}
    publish(**parts, evaluation=root / "evaluation", out=root / "bundle", config=PublishingConfig(), seed=7)
    return root / "bundle"


@pytest.fixture(scope="module")
def beside_itself(
    models: dict[str, Path], champion: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[StageReport, Path]:
    out = tmp_path_factory.mktemp("beside") / "evaluation"
    return evaluate(**models, out=out, config=CONFIG, seed=7, champion=champion), out


def test_a_bundle_beside_itself_answers_alike_and_moves_nothing(beside_itself: tuple[StageReport, Path]) -> None:
    report, out = beside_itself
    ranks = pq.read_table(out / "ranks.parquet").to_pandas().set_index("query_id")
    own, other = (ranks[ranks["system"] == name]["rank"] for name in ("generator_pruned", "champion"))
    assert own.equals(other)
    differences = {key: v for key, v in report.metrics.items() if key.startswith("generator_pruned_minus_champion/")}
    assert {"generator_pruned_minus_champion/known/hr@10/high", "generator_pruned_minus_champion/mrr@10"} <= set(
        differences
    )
    assert not any(differences.values())
    measured = {*ranks["system"]} - {"oracle_with_taste", "oracle_visual"}
    assert measured == {"dense", "generator_pruned", "champion"}  # what a night is decided by
    assert [report.metrics[f"champion/items_{change}"] for change in ("moved", "new", "gone")] == [0, 0, 0]
    assert report.metrics["queries/champion_known"] == report.counts["queries_measured"]


def test_no_shoppers_photo_goes_into_a_bundle_and_a_night_trains_no_cascade(
    champion: Path, beside_itself: tuple[StageReport, Path]
) -> None:
    assert (champion.parent / "evaluation" / FOLDER / ARRAYS).exists()
    assert not list(champion.rglob(ARRAYS))
    assert not (beside_itself[1] / FOLDER).exists()
    with pytest.raises(ArtifactError, match="holds no cascade"):
        open_evaluation(beside_itself[1])


def test_every_key_of_a_refresh_has_one_documented_meaning(beside_itself: tuple[StageReport, Path]) -> None:
    unclear = {key: len(meanings(key)) for key in beside_itself[0].metrics if len(meanings(key)) != 1}
    assert not unclear


def test_codes_that_have_not_changed_have_not_drifted(beside_itself: tuple[StageReport, Path]) -> None:
    report, _ = beside_itself
    for name in ("icr", "cur@1", "vc@1"):
        assert report.metrics[f"vrq/{name}"] == report.metrics[f"vrq_at_training/{name}"]
    assert not [warning for warning in report.warnings if ADVICE in warning]
    assert report.metrics["day/photos"] > 0


def test_the_measures_of_the_full_training_are_handed_on(
    models: dict[str, Path], champion: Path, tmp_path: Path
) -> None:
    later = copy_of(champion, tmp_path / "later", {"vrq/icr": 0.1, "vrq_at_training/icr": 0.9, "vrq/vc@1": 0.0})
    report = evaluate(**models, out=tmp_path / "out", config=CONFIG, seed=7, champion=later)
    assert report.metrics["vrq_at_training/icr"] == 0.9
    assert "vrq_at_training/vc@1" not in report.metrics


def test_a_champion_without_the_item_misses_it_and_the_query_is_not_counted_as_known(
    models: dict[str, Path], champion: Path, tmp_path: Path
) -> None:
    gone = set(pq.read_table(models["pairs"] / "queries.parquet")["clicked"].to_pylist()[-1][:1])
    smaller = without_items(champion, tmp_path / "smaller", gone)
    report = evaluate(**models, out=tmp_path / "out", config=CONFIG, seed=7, champion=smaller)
    assert report.metrics["champion/items_new"] == len(gone)
    assert report.metrics["queries/champion_known"] < report.counts["queries_measured"]
    assert report.metrics["generator_pruned_minus_champion/known/mrr@10"] == 0  # the models are the same
    ranks = pq.read_table(tmp_path / "out" / "ranks.parquet").to_pandas()
    assert not gone & {item for items in ranks[ranks["system"] == "champion"]["items"] for item in items}


def test_a_champion_of_other_codebooks_is_refused(models: dict[str, Path], champion: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(champion, other)
    finish_artifact(other, "bundle", generation="other", extra=open_artifact(champion).extra)
    with pytest.raises(ArtifactError, match="different generations"):
        evaluate(**models, out=tmp_path / "out", config=CONFIG, seed=7, champion=other)


@pytest.mark.parametrize(
    ("tonight", "day", "photos", "warned"),
    [
        (0.79, 0.9, 50, False),
        (0.69, 0.9, 50, True),
        (0.8, 0.6, 1000, True),
        (0.8, 0.75, 1000, False),
        (0.8, 0.6, 5, False),
    ],
)
def test_a_fall_is_warned_of_when_it_is_larger_than_chance(
    tonight: float, day: float, photos: int, warned: bool
) -> None:
    drift = Drift({"vc@1": tonight}, {"vc@1": 0.8}, {"vc@1": day, "photos": photos}, 0.1)
    assert [ADVICE in warning for warning in drift.warnings()] == [True] * warned


def copy_of(champion: Path, target: Path, metrics: dict[str, float]) -> Path:
    """The bundle with other metrics."""
    bundle, _ = open_bundle(champion)
    shutil.copytree(champion, target)
    write_json(target / "metrics.json", metrics)
    return finish(target, bundle)


def without_items(champion: Path, target: Path, gone: set[str]) -> Path:
    """The bundle with items taken out of its catalogue; trie and buckets stay."""
    bundle, _ = open_bundle(champion)
    shutil.copytree(champion, target)
    folder = target / "semantic_ids"
    ids = open_artifact(folder)
    table = pq.read_table(folder / "items.parquet")
    renamed = [f"gone-{item}" if item in gone else item for item in table["item_id"].to_pylist()]
    pq.write_table(table.set_column(0, "item_id", pa.array(renamed)), folder / "items.parquet")
    finish_artifact(folder, "semantic_ids", generation=ids.generation, counts=ids.counts)
    choice = target / "generator" / "choice.json"
    write_json(choice, read_json(choice) | {"items": items_digest(Catalogue.open(folder))})
    finish_artifact(choice.parent, "generator", generation=open_artifact(champion / "generator").generation)
    return finish(target, bundle)


def finish(target: Path, bundle: Artifact) -> Path:
    return finish_artifact(target, "bundle", generation=bundle.generation, extra=bundle.extra).path


def test_on_what_both_know_neither_catalogue_takes_places() -> None:
    item_known = np.array([True, True, False, True])
    beside = Beside(System(np.empty((0, 4), np.int64), 0.0, np.empty(0)), item_known, np.empty(0, bool), {})
    challenger, champion = [2, 3, 0, UNKNOWN], [UNKNOWN, UNKNOWN, 3, 0]  # one item is new; two have left
    found = beside.only_known(np.array([challenger, champion]))
    assert found.tolist() == [[3, 0, UNKNOWN, UNKNOWN]] * 2
