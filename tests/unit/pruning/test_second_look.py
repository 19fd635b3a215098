"""The second look as a pruning strategy: its signal, its calibration beside controls, and that it is what is served."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.generators import make_catalogue
from support.models import make_models
from support.pruning import BEAM_WIDTH, make_bundle
from support.pruning import EASY as EASY_SWEEP

from onevision.artifacts import read_json, write_json
from onevision.data.snapshot import Snapshot
from onevision.decoding.ranker import GeneratorRanker, read_setting
from onevision.encoder.model import Embedded, Encoder
from onevision.encoder.photos import SeenPhotos, embed_photos
from onevision.errors import ArtifactError, RecipeError
from onevision.features.queries import QuerySet
from onevision.generator.token_pruning import PruningSetting
from onevision.pruning import stage
from onevision.pruning.calibration import Sweep
from onevision.pruning.canary import LOOKS, Seen
from onevision.pruning.config import PruningConfig
from onevision.pruning.cost import look_flops
from onevision.pruning.nearby import Nearby
from onevision.pruning.photos import PhotoEncoder, Photos, as_served
from onevision.pruning.point import Point
from onevision.pruning.strategies import fewer_looks
from onevision.recipe import load_recipe
from onevision.serving.search import Searcher

EASY = EASY_SWEEP.model_copy(update={"second_looks": (0.3, 0.6)})
CATALOGUE, QUANTIZER = make_catalogue()


def test_nearby_is_the_nearest_item_of_the_photos_first_code() -> None:
    photos = np.random.default_rng(3).normal(size=(40, CATALOGUE.embedding.shape[1])).astype(np.float32)
    photos /= np.linalg.norm(photos, axis=1, keepdims=True)
    nearby = Nearby(CATALOGUE, QUANTIZER)
    codes = QUANTIZER.encode(photos)[:, 0]
    sizes = []
    for photo, code, found in zip(photos, codes, nearby.similarity(photos), strict=True):
        inside = [e for e, own in zip(CATALOGUE.embedding, CATALOGUE.codes[:, 0], strict=True) if own == code]
        sizes.append(len(inside))
        assert found == pytest.approx(max((float(item @ photo) for item in inside), default=-1), abs=1e-5)
    keys, dim = QUANTIZER.keys(0), photos.shape[1]
    mapped = dim * keys.shape[1] if QUANTIZER.view_levels else 0
    assert nearby.flops(photos) == pytest.approx(2 * (mapped + keys.numel() + np.mean(sizes) * dim))
    np.testing.assert_allclose(
        np.concatenate([nearby.similarity(photos[n : n + 1]) for n in range(40)]), nearby.similarity(photos), atol=1e-6
    )


def test_a_photo_whose_first_code_no_item_has_is_like_none() -> None:
    gone = CATALOGUE.codes[:, 0] != CATALOGUE.codes[0, 0]
    rest = make_catalogue()[0]
    rest.codes, rest.embedding = rest.codes[gone], rest.embedding[gone]
    photo = CATALOGUE.embedding[:1]
    assert QUANTIZER.encode(photo)[0, 0] == CATALOGUE.codes[0, 0]
    assert Nearby(rest, QUANTIZER).similarity(photo).tolist() == [-1]


def test_a_threshold_is_the_similarity_of_a_share_of_the_photos() -> None:
    similarity = np.random.default_rng(0).permutation(np.linspace(0.2, 0.9, 101)).astype(np.float32)
    base = PruningSetting(open_below=200)
    found = fewer_looks(similarity)(PruningConfig(second_looks=(0.5, 0.1)), base)
    assert [name for name, _ in found] == ["one look at all", "second look at 10%", "second look at 50%"]
    for (_, setting), share in zip(found, (0.0, 0.1, 0.5), strict=True):
        assert setting.second_look_below is not None
        assert (similarity < setting.second_look_below).mean() == pytest.approx(share, abs=0.01)
        assert setting.model_copy(update={"second_look_below": None}) == base


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.2"])
def test_a_share_is_between_none_and_all(share: str) -> None:
    with pytest.raises(RecipeError, match="second_looks"):
        load_recipe("quickstart", [f"pruning.second_looks=[{share}]"])


@pytest.fixture(scope="module")
def models(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tiny_snapshot, tmp_path_factory.mktemp("models"))


def calibrate(models: dict[str, Path], out: Path, config: PruningConfig) -> list[str]:
    names = ("snapshot", "pairs", "encoder", "semantic_ids", "features")
    inputs = {name: models[name] for name in names} | {"generator": models["generator_aligned"]}
    return stage.run(**inputs, out=out, config=config, seed=1).warnings


def found_by(monkeypatch: pytest.MonkeyPatch, hits: Callable[[str, str], float | None]) -> None:
    """Let settings find by name and family what `hits` says, at 10 and at 50; None for what they do find."""
    measure = Sweep.measure

    def measured(self: Sweep, name: str, family: str, *args: Any, **kwargs: Any) -> Point:
        point, found = measure(self, name, family, *args, **kwargs), hits(name, family)
        if found is not None:
            point.hr10, point.hr50, point.worst_department_loss = found, found, 0.0
        return point

    monkeypatch.setattr(Sweep, "measure", measured)


@pytest.mark.parametrize("better", [True, False])
def test_looks_are_calibrated_beside_controls_of_the_same_share(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    monkeypatch.setattr(stage, "beats_controls", lambda point, controls: better)
    found_by(monkeypatch, lambda name, family: -9 if name == "one look at all" else None)
    warnings = calibrate(models, tmp_path, EASY)
    points = {point["name"]: point for point in read_json(tmp_path / "pareto.json")}
    encoder = Encoder.from_pretrained(models["encoder"])
    a_look = look_flops(encoder) / 1e6
    whole, some = points["everything"], points["second look at 30%"]
    assert whole["tower"] == {
        "mflops": pytest.approx(2 * a_look),
        "looks_mean": 2,
        "patches_mean": None,
        "patches_p95": None,
    }
    queries = read_json(tmp_path / "pruning.json")["calibrated_on"]["queries"]
    for share in (0.3, 0.6):
        looks = points[f"second look at {share:.0%}"]["tower"]["looks_mean"]
        assert looks == pytest.approx(1 + share, abs=1 / queries)
    ranker = GeneratorRanker.open(*(models[n] for n in ("encoder", "semantic_ids", "generator_aligned")))
    nearby = some["tower"]["mflops"] - some["tower"]["looks_mean"] * a_look
    assert 0 < nearby < 2e-6 * 16 * (16 + 4 + len(ranker.catalogue.item_ids))
    for point in points.values():
        assert point["cost"] == pytest.approx(point["mflops"] + point["tower"]["mflops"])
    (control,) = (point for name, point in points.items() if name.endswith("looked at again"))
    again = np.random.default_rng([1, 12]).random(queries) < some["tower"]["looks_mean"] - 1
    assert control["tower"]["looks_mean"] == pytest.approx(1 + again.mean())
    assert control["setting"]["second_look_below"] is None
    assert points["one look at all"]["tower"]["looks_mean"] == 1

    setting, seen = read_setting(tmp_path / "pruning.json"), Seen.read(tmp_path / "pruning.json")
    assert setting is not None
    assert seen is not None
    assert any("no better than a control" in w and "second look" in w for w in warnings) is not better
    assert (LOOKS in seen.bounds) is better
    assert (setting.second_look_below is not None) is better
    if better:
        assert setting.model_dump() == some["setting"]
        low, high = seen.bounds[LOOKS]
        assert low < some["tower"]["looks_mean"] < high
    timed = [name for name, point in points.items() if point["photo_to_items"]]
    assert "everything" in timed
    assert len(timed) == 2
    for name in timed:
        for measured in (points[name]["prompt_to_items"], points[name]["photo_to_items"]):
            for part in ("single", "batch"):
                assert 0 < measured[part]["p50"] <= measured[part]["p95"] <= measured[part]["p99"]


def test_a_share_that_loses_too_much_is_not_chosen(models: dict[str, Path], tmp_path: Path) -> None:
    calibrate(models, tmp_path, EASY.model_copy(update={"max_department_loss": 0.0, "max_loss": 0.0}))
    points = {point["name"]: point for point in read_json(tmp_path / "pareto.json")}
    setting = read_json(tmp_path / "pruning.json")["chosen"] or PruningSetting().model_dump()
    lossless = [
        point["setting"]["second_look_below"]
        for point in points.values()
        if max(point["worst_department_loss"], points["everything"]["hr50"] - point["hr50"]) <= 0
    ]
    assert setting["second_look_below"] in lossless


def test_more_may_be_given_up_for_looks_than_for_anything_else(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full looks find 5 points more than reading everything, fewer looks one more."""
    gained = {"none": 0.0, "margin and opening": 0.05, "fewer looks": 0.01}
    found_by(monkeypatch, lambda name, family: 0.5 + gained.get(family, -0.2))
    chosen = {}
    for given_up in (0.03, 0.05):
        out = tmp_path / str(given_up)
        calibrate(models, out, EASY.model_copy(update={"max_loss": 0.003, "second_look_loss": given_up}))
        chosen[given_up] = read_setting(out / "pruning.json")
    assert all(setting is not None and setting.margin for setting in chosen.values())
    assert [setting.second_look_below is None for setting in chosen.values()] == [True, False]


def test_one_look_at_all_photos_need_not_beat_a_control(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "beats_controls", lambda point, controls: False)
    calibrate(models, tmp_path, EASY)
    points = {point["name"]: point for point in read_json(tmp_path / "pareto.json")}
    setting = read_setting(tmp_path / "pruning.json")
    assert setting is not None
    assert setting.model_dump() == points["one look at all"]["setting"]
    assert points["one look at all"]["photo_to_items"]
    assert any(name.startswith("random") and name.endswith("looked at again") for name in points)


def test_a_search_is_timed_from_the_pixels_of_its_photo(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed, asked = PhotoEncoder.embed, []

    def slow(self: PhotoEncoder, pixels: NDArray[np.uint8], setting: PruningSetting) -> SeenPhotos:
        asked.append((len(pixels), setting))
        time.sleep(0.05)
        return embed(self, pixels, setting)

    monkeypatch.setattr(PhotoEncoder, "embed", slow)
    calibrate(models, tmp_path, EASY.model_copy(update={"second_looks": ()}))
    timed = [point for point in read_json(tmp_path / "pareto.json") if point["photo_to_items"]]
    for point in timed:
        for part in ("single", "batch"):
            assert point["photo_to_items"][part]["p50"] > point["prompt_to_items"][part]["p50"] + 40
    settings = [PruningSetting.model_validate(point["setting"]) for point in timed]
    assert {1} < {count for count, _ in asked}
    assert [setting for _, setting in asked] == [s for s in settings for _ in range(len(asked) // 2)]


def test_without_shares_every_photo_is_looked_at_in_full(models: dict[str, Path], tmp_path: Path) -> None:
    calibrate(models, tmp_path, EASY.model_copy(update={"second_looks": ()}))
    points = read_json(tmp_path / "pareto.json")
    assert not [point["name"] for point in points if "look" in point["name"]]
    assert {point["tower"]["looks_mean"] for point in points} == {2}


@pytest.fixture(scope="module")
def ranker(models: dict[str, Path]) -> GeneratorRanker:
    """Its setting looks again at about half of the test photos."""
    ranker = GeneratorRanker.open(*(models[n] for n in ("encoder", "semantic_ids", "generator_aligned")))
    queries = QuerySet.load(models["pairs"], models["encoder"], models["features"], split="test")
    similarity = Nearby(ranker.catalogue, ranker.model.quantizer).similarity(queries.embedding)
    ranker.use_pruning(PruningSetting(second_look_below=float(np.median(similarity)) + 1e-3))
    return ranker


@pytest.fixture(scope="module")
def bundle(
    models: dict[str, Path], ranker: GeneratorRanker, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float]]:
    """A bundle with that setting, and the metrics of its evaluation."""
    return make_bundle(models, ranker.setting, tmp_path_factory.mktemp("bundle"))


def test_queries_and_server_see_photos_alike(
    models: dict[str, Path], ranker: GeneratorRanker, bundle: tuple[Path, dict[str, float]], tiny_snapshot: Path
) -> None:
    assert {"tower_pruned/r@1", "image_tower_pruned/latency_ms_p50"} <= set(bundle[1])
    shop = Snapshot.open(tiny_snapshot)
    queries = QuerySet.load(models["pairs"], models["encoder"], models["features"], split="test")
    served = as_served(queries, ranker, models["encoder"], shop.images)
    encoder = Encoder.from_pretrained(models["encoder"])
    moved = np.abs(served.embedding - queries.embedding).max(axis=1) > 1e-4
    assert 0 < moved.sum() < len(queries)
    searcher = Searcher.open(bundle[0])
    assert searcher._ranker.setting == ranker.setting
    photos = [shop.images.read(image) for image in queries.image_id]
    pixels = np.stack([searcher.decode(photo) for photo in photos])
    np.testing.assert_allclose(searcher._look(pixels).embedded.embedding, served.embedding, atol=1e-5)
    looks = np.concatenate([searcher._look(pixels[n : n + 1]).looks for n in range(len(pixels))])
    assert (looks == 1).tolist() == moved.tolist()
    catalogue = searcher._ranker.catalogue
    for row, answer in enumerate(searcher.search_many(photos, [None] * len(photos), 1)):
        item = catalogue.item_ids.index(answer.hits[0].item_id)
        assert answer.hits[0].similarity == pytest.approx(
            float(catalogue.embedding[item] @ served.embedding[row]), abs=1e-5
        )
    full = PhotoEncoder.of(encoder, ranker).embed(pixels, PruningSetting())
    np.testing.assert_array_equal(full.embedded.embedding, encoder.embed(pixels).embedding)


def test_calibration_sees_photos_as_they_are_served(
    models: dict[str, Path], ranker: GeneratorRanker, tiny_snapshot: Path
) -> None:
    images = Snapshot.open(tiny_snapshot).images
    queries = QuerySet.load(models["pairs"], models["encoder"], models["features"], split="test")
    photos = Photos(PhotoEncoder.of(Encoder.from_pretrained(models["encoder"]), ranker), images)
    sweep = Sweep(ranker, queries, photos, [], np.empty(0, dtype=object))
    measured, looks, _ = sweep._look(ranker.setting, None, None)
    served = as_served(queries, ranker, models["encoder"], images)
    assert 1 < looks.mean() < 2
    for name in Embedded._fields:
        a, b, whole = (getattr(seen, name) for seen in (measured, served, queries))
        np.testing.assert_allclose(a, b, rtol=5e-3, atol=1e-5)
        changed = np.abs(a.astype(np.float32) - whole).reshape(len(a), -1).max(1) > 1e-4
        assert (changed == (looks == 1)).all()


@pytest.mark.parametrize("alike", [True, False])
def test_a_server_looks_at_everything_again_where_photos_are_others_than_calibration_saw(
    models: dict[str, Path],
    bundle: tuple[Path, dict[str, float]],
    tiny_snapshot: Path,
    caplog: pytest.LogCaptureFixture,
    alike: bool,
) -> None:
    loaded, shop = Searcher.open(bundle[0]), Snapshot.open(tiny_snapshot)
    seen = Seen({LOOKS: (1.0, 2.0) if alike else (1.999, 2.0)}, BEAM_WIDTH)
    searcher = Searcher(loaded.bundle, loaded._photos.encoder, loaded._ranker, None, seen=seen)
    queries = QuerySet.load(models["pairs"], models["encoder"], models["features"], split="test")
    photos = [shop.images.read(image) for image in queries.image_id[:10]]
    pixels = np.stack([searcher.decode(photo) for photo in photos])
    for _ in range(6):
        searcher.search_many(photos, [None] * len(photos), 3)
    assert ("looks at a photo" in caplog.text) is not alike
    assert (searcher._look(pixels).looks.tolist() == [2] * len(photos)) is not alike


def test_a_setting_from_before_looks_twice_at_every_photo(models: dict[str, Path], tmp_path: Path) -> None:
    old = {name: value for name, value in PruningSetting(open_below=2).model_dump().items() if "look" not in name}
    write_json(
        tmp_path / "pruning.json", {"chosen": old, "canary": {"bounds": {"image tokens": [1, 2]}, "beam_width": 8}}
    )
    setting = read_setting(tmp_path / "pruning.json")
    assert setting == PruningSetting(open_below=2)
    assert not setting.prunes_tower
    assert Seen.read(tmp_path / "pruning.json") == Seen({"image tokens": (1, 2)}, 8)


def test_a_setting_for_another_encoder_is_refused(models: dict[str, Path], ranker: GeneratorRanker) -> None:
    encoder = Encoder.from_pretrained(models["encoder"])
    encoder.config = encoder.config.model_copy(update={"test_time_augmentation": False})
    with pytest.raises(ArtifactError, match="looks at a photo once"):
        PhotoEncoder.of(encoder, ranker).embed(np.zeros((1, 32, 32, 3), np.uint8), ranker.setting)
    assert embed_photos(encoder, np.zeros((1, 32, 32, 3), np.uint8)).looks.tolist() == [1]
