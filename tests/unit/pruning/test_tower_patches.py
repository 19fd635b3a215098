"""Patches that leave the image tower: calibrated, stored, evaluated and served alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.models import make_models
from support.pruning import BEAM_WIDTH, EVALUATION
from support.pruning import EASY as EASY_SWEEP

from onevision.artifacts import read_json
from onevision.data.images import decode_image
from onevision.data.snapshot import Snapshot
from onevision.decoding.ranker import GeneratorRanker, read_setting
from onevision.encoder.model import Encoder
from onevision.encoder.photos import embed_photos
from onevision.evaluation.glossary import meanings
from onevision.evaluation.stage import run as evaluate
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning import stage
from onevision.pruning.canary import Seen
from onevision.pruning.photos import PhotoEncoder, Photos, as_served
from onevision.publishing.config import PublishingConfig
from onevision.publishing.stage import run as publish
from onevision.serving.search import Searcher

PATCHES = 16
EASY = EASY_SWEEP.model_copy(update={"tower_masses": (0.5, 0.7), "tower_depths": (1 / 3, 2 / 3)})


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"), transformer=True)


@pytest.fixture(scope="module")
def queries(models: dict[str, Path]) -> QuerySet:
    return QuerySet.load(models["pairs"], models["encoder"], models["features"], split="test")


@pytest.mark.parametrize("better", [True, False])
def test_patches_are_calibrated_beside_controls_of_the_same_number(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    monkeypatch.setattr(stage, "beats_controls", lambda attention, controls: better)
    names = ("snapshot", "pairs", "encoder", "semantic_ids", "features")
    inputs = {name: models[name] for name in names} | {"generator": models["generator_aligned"]}
    report = stage.run(**inputs, out=tmp_path, config=EASY, seed=1)
    points = {point["name"]: point for point in read_json(tmp_path / "pareto.json")}
    whole, half, more = (
        points[name]["tower"] for name in ("everything", "patches 0.5 after 33%", "patches 0.7 after 33%")
    )
    assert 1 <= half["patches_mean"] < more["patches_mean"] < whole["patches_mean"] == PATCHES
    assert half["mflops"] < more["mflops"] < whole["mflops"] == points["mass 0.5"]["tower"]["mflops"]
    assert half["mflops"] < points["patches 0.5 after 67%"]["tower"]["mflops"] < whole["mflops"]
    size = round(half["patches_mean"])
    for control in ("top", "random", "centre"):
        assert points[f"{control}-{size} patches"]["tower"]["patches_mean"] == size
        assert points[f"{control}-{size} patches"]["tower"]["mflops"] == pytest.approx(half["mflops"], rel=0.05)

    setting = read_setting(tmp_path / "pruning.json")
    assert setting is not None
    assert setting.tower_mass == (0.5 if better else 1.0)
    before = setting.model_copy(update={"tower_mass": 1.0, "tower_depth": PruningSetting().tower_depth})
    assert points[f"top-{size} patches"]["setting"] == before.model_dump() != PruningSetting().model_dump()
    assert any("patches attention mass is no better" in warning for warning in report.warnings) is not better
    seen = Seen.read(tmp_path / "pruning.json")
    assert seen is not None
    assert ("patches in the tower" in seen.bounds) is better
    if better:
        low, high = seen.bounds["patches in the tower"]
        assert low <= half["patches_mean"] <= high
        assert points["patches 0.5 after 33%"]["setting"] == setting.model_dump()
    saved = report.metrics["tower_mflops_saved_share"]
    assert saved == pytest.approx(1 - half["mflops"] / whole["mflops"] if better else 0)
    for name in ("photo_latency_ms_p50", "photo_batch_16_ms_p50"):
        assert report.metrics[name] > 0
        assert report.metrics[f"{name}_unpruned"] > 0


def test_photos_are_looked_at_again_only_where_the_setting_says_so(
    models: dict[str, Path], queries: QuerySet, tiny_snapshot: Path
) -> None:
    images = Snapshot.open(tiny_snapshot).images
    ranker = GeneratorRanker.open(*(models[n] for n in ("encoder", "semantic_ids", "generator_aligned")))
    ranker.use_pruning(PruningSetting(mass=0.5))
    assert as_served(queries, ranker, models["encoder"], images) is queries
    setting = PruningSetting(tower_mass=0.5)
    ranker.use_pruning(setting)
    served = as_served(queries, ranker, models["encoder"], images)
    encoder = Encoder.from_pretrained(models["encoder"])
    assert setting.patches is not None
    for row, image in enumerate(queries.image_id):
        pixels = decode_image(images.read(image), encoder.image_size)[None]
        expected = embed_photos(encoder, pixels, patches=setting.patches).embedded
        np.testing.assert_allclose(served.embedding[row], expected.embedding[0], atol=1e-4)
        np.testing.assert_allclose(served.tokens[row], expected.tokens[0], atol=2e-2)
    assert np.abs(served.embedding - queries.embedding).max() > 1e-3
    assert served.query_id == queries.query_id
    _, (_, looks, kept) = Photos(PhotoEncoder.of(encoder, ranker), images).look(queries, setting)
    assert looks.tolist() == [2] * len(queries)
    assert kept is not None
    assert kept.shape == (len(queries),)
    assert ((kept >= 1) & (kept < PATCHES)).all()


@pytest.fixture(scope="module")
def measured(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float], Path]:
    """An evaluation, its report's metrics, and a bundle with it."""
    root = tmp_path_factory.mktemp("measured")
    report = evaluate(**models, out=root / "evaluation", config=EVALUATION, seed=7)
    parts = {name: path for name, path in models.items() if name != "pairs"}
    publish(**parts, evaluation=root / "evaluation", out=root / "bundle", config=PublishingConfig(), seed=7)
    return root / "evaluation", report.metrics, root / "bundle"


def test_the_evaluation_asks_with_the_photos_as_they_are_served(
    models: dict[str, Path], measured: tuple[Path, dict[str, float], Path], queries: QuerySet, tiny_snapshot: Path
) -> None:
    out, metrics, _ = measured
    assert {"tower_pruned/r@1", "tower_pruned/cold_queries", "image_tower_pruned/latency_ms_p50"} <= set(metrics)
    assert not {key: meanings(key) for key in metrics if len(meanings(key)) != 1}
    ranker = GeneratorRanker.open(*(models[n] for n in ("encoder", "semantic_ids", "generator_aligned", "pruning")))
    served = as_served(queries, ranker, models["encoder"], Snapshot.open(tiny_snapshot).images)
    expected = dict(zip(served.query_id, ranker.rank(served, BEAM_WIDTH, 10).items, strict=True))
    ranks = pq.read_table(out / "ranks.parquet", filters=[("system", "==", "generator_pruned")]).to_pylist()
    assert ranks
    ids = ranker.catalogue.item_ids
    for row in ranks:
        assert row["items"] == [ids[item] for item in expected[row["query_id"]] if item >= 0]


def test_a_champion_answers_with_its_own_tower(
    models: dict[str, Path], measured: tuple[Path, dict[str, float], Path], tmp_path: Path
) -> None:
    evaluate(**models, out=tmp_path / "beside", config=EVALUATION, seed=7, champion=measured[2])
    metrics = read_json(tmp_path / "beside" / "metrics.json")
    differences = [v for key, v in metrics.items() if key.startswith("generator_pruned_minus_champion/")]
    assert differences
    assert not any(differences)


def test_a_server_prunes_as_it_was_calibrated_and_in_full_once_the_canary_is_off(
    measured: tuple[Path, dict[str, float], Path],
    queries: QuerySet,
    tiny_snapshot: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded = Searcher.open(measured[2])
    shop = Snapshot.open(tiny_snapshot)
    photos = [shop.images.read(image) for image in queries.image_id[:5]]

    def similarities(searcher: Searcher) -> list[float]:
        return [hit.similarity for answer in searcher.search_many(photos, [None] * 5, 3) for hit in answer.hits]

    seen = Seen({"image tokens": (0, 1e9), "patches in the tower": (PATCHES, PATCHES)}, BEAM_WIDTH)
    searcher = Searcher(loaded.bundle, loaded._photos.encoder, loaded._ranker, None, seen=seen)
    pruned = similarities(searcher)
    encoder, keep = loaded._photos.encoder, loaded._ranker.setting.patches
    assert keep is not None
    pixels = np.stack([searcher.decode(photo) for photo in photos])
    for row, answer in enumerate(searcher.search_many(photos, [None] * 5, 1)):
        item = loaded._ranker.catalogue.item_ids.index(answer.hits[0].item_id)
        embedding = embed_photos(encoder, pixels, patches=keep).embedded.embedding[row]
        assert answer.hits[0].similarity == pytest.approx(float(loaded._ranker.catalogue.embedding[item] @ embedding))
    for _ in range(9):
        searcher.search_many(photos, [None] * 5, 3)
    assert "patches in the tower" in caplog.text
    assert searcher._ranker.setting == PruningSetting()
    assert similarities(searcher) != pytest.approx(pruned)
