"""Pictures embedded in shards: the same arrays as in one process, whatever the number of shards; resumed one by one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from onevision.artifacts import MANIFEST, open_artifact
from onevision.data.contract import CATALOGUE_VIEWS, TABLES
from onevision.data.snapshot import Snapshot, write_snapshot
from onevision.encoder import embedding, model, stage
from onevision.encoder.config import EncoderConfig
from onevision.errors import ArtifactError, OneVisionError
from onevision.pairing.config import PairingConfig
from onevision.pairing.stage import run as pair
from onevision.runner import run_stage
from onevision.shards import all_shards
from onevision.stage_cache import CACHE_VARIABLE

CONFIG = EncoderConfig(image_size=32, width=8, embedding_dim=16, steps=3, items_per_batch=4, views_per_item=2)
BATCH = 32
ARRAYS = ("embeddings.safetensors", "tokens.safetensors", "images.parquet")


@pytest.fixture(scope="module")
def inputs(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Snapshot, pairs, and `encoder`: trained, with the pictures embedded that it was trained on; `whole`: with all."""
    root = tmp_path_factory.mktemp("embedding")
    paths = {"snapshot": tiny_snapshot, "pairs": root / "pairs"}
    pair(snapshot=tiny_snapshot, out=paths["pairs"], config=PairingConfig(validation_days=2, test_days=2), seed=1)
    with pytest.MonkeyPatch.context() as patch:
        for module in (stage, model):
            patch.setattr(module, "EMBED_BATCH", BATCH)
        stage.run(**paths, out=root / "whole", config=CONFIG, seed=1)
        stage.run(**paths, out=root / "encoder", config=CONFIG, seed=1, embed="train")
    return paths | {"encoder": root / "encoder", "whole": root / "whole"}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (embedding, model):
        monkeypatch.setattr(module, "EMBED_BATCH", BATCH)


def given(inputs: dict[str, Path]) -> dict[str, Path]:
    return {name: inputs[name] for name in ("snapshot", "pairs", "encoder")}


def test_training_does_not_depend_on_what_is_embedded_afterwards(inputs: dict[str, Path]) -> None:
    whole, trained = open_artifact(inputs["whole"]), open_artifact(inputs["encoder"])
    for name in ("model.safetensors", "config.json"):
        assert trained.file(name).read_bytes() == whole.file(name).read_bytes()
    assert 0 < trained.counts["images_embedded"] < whole.counts["images_embedded"]
    with pytest.raises(OneVisionError, match="it is all or train"):
        stage.run(snapshot=inputs["snapshot"], pairs=inputs["pairs"], out=Path("x"), config=CONFIG, seed=1, embed="no")


@pytest.mark.parametrize("count", [1, 3, 40])
def test_shards_give_the_same_bytes_as_one_process(inputs: dict[str, Path], tmp_path: Path, count: int) -> None:
    parts = [tmp_path / str(number) for number in range(count)]
    embedded = []
    for path, shard in zip(parts, all_shards(count), strict=True):
        report = embedding.run_shard(**given(inputs), out=path, config=CONFIG, seed=1, shard=shard)
        embedded.append(report.counts["images_embedded"])
    merged = tmp_path / "merged"
    embedding.run_merge(**given(inputs), shards=parts[::-1], out=merged, config=CONFIG, seed=1)
    for name in ("model.safetensors", "config.json", *ARRAYS):
        assert (merged / name).read_bytes() == (inputs["whole"] / name).read_bytes(), name
    assert max(embedded) < sum(embedded) or count == 1
    assert open_artifact(merged, "encoder").parents["encoder"] == open_artifact(inputs["encoder"]).identity


def renamed_shop(snapshot: Path, out: Path) -> tuple[Path, int]:
    """The same pictures under other names and in another order, but for one picture and one product's category; the
    number of pictures whose content is new."""
    shop = Snapshot.open(snapshot)
    tables = {name: shop.table(name).to_pandas() for name in TABLES}
    images, items = tables["images"], tables["items"]
    moved, stays = items["item_id"].iloc[:2]
    category = next(c for c in items["category_id"] if c != items["category_id"].iloc[0])
    tables["items"] = items.assign(category_id=items["category_id"].where(items["item_id"] != moved, category))
    data = dict(zip(images["image_id"], shop.images.read_many(images["image_id"]), strict=True))
    plain = io.BytesIO()
    Image.new("RGB", (40, 40), "teal").save(plain, "PNG")
    data[images["image_id"][images["item_id"] == stays].iloc[0]] = plain.getvalue()
    tables["images"] = images.assign(image_id="again-" + images["image_id"])[::-1]
    tables["events"]["query_image_id"] = "again-" + tables["events"]["query_image_id"]
    pictures = [(f"again-{name}", data[name]) for name in images["image_id"]]
    write_snapshot(out, tables, pictures, snapshot_id="again", source="test", as_of=shop.as_of)
    return out, 1 + int(((images["item_id"] == moved) & images["view"].isin(CATALOGUE_VIEWS)).sum())


def test_a_picture_is_embedded_again_if_its_content_changed_and_only_then(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    snapshot, new = renamed_shop(inputs["snapshot"], tmp_path / "day")
    pair(snapshot=snapshot, out=tmp_path / "pairs", config=PairingConfig(validation_days=2, test_days=2), seed=1)
    day = {"snapshot": snapshot, "pairs": tmp_path / "pairs"}
    embedded = {}
    for name in ("whole", "encoder"):  # the second has embedded nothing that another may take
        report = embedding.run_shard(**day, encoder=inputs[name], out=tmp_path / name, config=CONFIG, seed=1)
        embedded[name] = report.counts["images_embedded"] - report.counts["images_embedded_before"]
    assert embedded == {"whole": new, "encoder": report.counts["images_embedded"]}
    for file in ARRAYS[:2]:
        scratch = load_file(tmp_path / "encoder" / file)
        for name, array in load_file(tmp_path / "whole" / file).items():
            np.testing.assert_allclose(array, scratch[name], atol=1e-3)


def test_nothing_new_costs_no_forward_pass(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.Encoder, "embed", lambda *_: pytest.fail("a picture was embedded again"))
    embedding.run_shard(**given(inputs) | {"encoder": inputs["whole"]}, out=tmp_path / "a", config=CONFIG, seed=1)
    for name in ARRAYS:
        assert (tmp_path / "a" / name).read_bytes() == (inputs["whole"] / name).read_bytes(), name


def test_a_batch_at_a_time_is_in_memory(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    embed = model.Encoder.embed

    def watched(self: model.Encoder, pixels: np.ndarray, *known: object) -> object:
        sizes.append(len(pixels))
        return embed(self, pixels, *known)  # type: ignore[arg-type]

    monkeypatch.setattr(model.Encoder, "embed", watched)
    embedding.run_shard(**given(inputs), out=tmp_path / "a", config=CONFIG, seed=1)
    assert max(sizes) == BATCH
    assert sum(sizes) == len(load_file(inputs["whole"] / ARRAYS[0])["embedding"])


def test_a_finished_shard_is_not_done_again_and_a_killed_one_is(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))

    def run(shard: str) -> bool:
        out = tmp_path / shard.replace("/", "-")
        return run_stage("embed-shard", given(inputs), out, recipe="smoke", parameters={"shard": shard}).reused

    assert not run("1/2")
    with monkeypatch.context() as patch:
        patch.setattr(embedding, "finish_artifact", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("2/2")
    assert not (tmp_path / "2-2" / MANIFEST).exists()
    with pytest.raises(ArtifactError, match="did not finish"):
        run_stage(
            "merge-embeddings",
            given(inputs) | {"shards": [tmp_path / "1-2", tmp_path / "2-2"]},
            tmp_path / "out",
            recipe="smoke",
        )
    embedding.start_artifact(tmp_path / "2-2")
    assert run("1/2")
    assert not run("2/2")
    assert run("2/2")
