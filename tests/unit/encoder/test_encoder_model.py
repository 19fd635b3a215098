import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from onevision.encoder.augmentation import second_look
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.encoder.retrieval import nearest_items
from onevision.encoder.sampler import batches, collect_views
from onevision.encoder.towers import TowerOutput
from onevision.errors import ArtifactError, OneVisionError

CONFIG = EncoderConfig(width=8, embedding_dim=16, image_size=32, items_per_batch=6, views_per_item=4)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(CONFIG, ["bags", "shoes"]).eval()


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)


def test_a_saved_encoder_embeds_the_same(encoder: Encoder, pixels: np.ndarray, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path)
    again = Encoder.from_pretrained(tmp_path)
    for a, b in zip(encoder.embed(pixels), again.embed(pixels), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_embedding_does_not_depend_on_its_batch(encoder: Encoder, pixels: np.ndarray) -> None:
    whole = encoder.embed(pixels).embedding
    alone = np.concatenate([encoder.embed(pixels[i : i + 1]).embedding for i in range(len(pixels))])
    np.testing.assert_allclose(whole, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)


def test_the_tower_looks_at_so_many_pixels_at_once(
    encoder: Encoder, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seen, tower = encoder.embed(pixels), [], encoder.tower.forward

    def watched(x: torch.Tensor) -> TowerOutput:
        seen.append(len(x))
        return tower(x)

    monkeypatch.setattr(encoder.tower, "forward", watched)
    monkeypatch.setattr("onevision.encoder.model.TOWER_PIXELS", 9 * 32 * 32)
    for a, b in zip(encoder.embed(pixels), whole, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    assert seen == [8, 8, 4]  # four pictures, twice


def test_the_known_category_moves_the_embedding_and_an_unseen_one_does_not(
    encoder: Encoder, pixels: np.ndarray
) -> None:
    predicted = encoder.embed(pixels).embedding
    assert np.abs(encoder.embed(pixels, ["shoes"] * 10).embedding - predicted).max() > 1e-3
    np.testing.assert_array_equal(encoder.embed(pixels, ["hats"] * 10).embedding, predicted)


def test_the_inverse_temperature_is_learnt_up_to_a_hundred() -> None:
    encoder = Encoder(CONFIG.model_copy(update={"temperature": 0.05}), ["bags"])
    assert encoder.scale.item() == pytest.approx(20)
    assert encoder.log_scale.requires_grad
    with torch.no_grad():
        encoder.log_scale.fill_(6.0)  # e^6 = 403
    assert encoder.scale.item() == 100


needs_pretrained = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="the extra `pretrained` is not installed"
)


@pytest.mark.parametrize("tower", ["small-conv", pytest.param("efficientnet-lite2", marks=needs_pretrained)])
def test_a_frozen_encoder_embeds_the_same_and_cannot_be_saved(tower: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(tower=tower, width=8, embedding_dim=16), ["bags", "shoes"])
    pixels = np.random.default_rng(0).integers(0, 256, (3, encoder.image_size, encoder.image_size, 3), np.uint8)
    encoder(torch.from_numpy(pixels), torch.tensor([0, 1, -1]))  # moves the batch statistics of a tower that learns
    expected = encoder.eval().embed(pixels)
    frozen = encoder.freeze()
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in frozen.modules())
    for a, b in zip(frozen.embed(pixels), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    np.testing.assert_allclose(frozen.embed(pixels).embedding, expected.embedding, atol=1e-5)
    with pytest.raises(RuntimeError, match="before `freeze`"):
        frozen.save_pretrained(tmp_path)


@needs_pretrained
def test_the_pretrained_tower_stays_frozen_and_is_saved_with_the_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(tower="efficientnet-lite2", embedding_dim=8, test_time_augmentation=False)
    encoder = Encoder(config, ["bags"]).train()
    assert not any(p.requires_grad or m.training for m in encoder.tower.modules() for p in m.parameters())
    photo = np.random.default_rng(0).integers(0, 256, (1, encoder.image_size, encoder.image_size, 3), dtype=np.uint8)
    tokens, pooled = encoder.tower(torch.from_numpy(photo))
    assert (tokens.shape, pooled.shape) == ((1, 16, encoder.tower.token_dim), (1, encoder.tower.pooled_dim))
    framed = photo.copy()
    framed[:, :30] = 0  # of 340 rows: the whole picture shows it, its middle does not
    with torch.no_grad():
        moved = encoder.tower(torch.from_numpy(framed)).pooled - pooled
        whole, other = (encoder.tower.see(torch.from_numpy(x)).pooled for x in (photo, framed))
    torch.testing.assert_close(moved, (other - whole) / 2, atol=1e-4, rtol=1e-3)
    assert moved.abs().max() > 0.01
    embedded = encoder.embed(photo)
    np.testing.assert_allclose(np.linalg.norm(embedded.embedding, axis=1), 1, atol=1e-5)
    encoder.save_pretrained(tmp_path)
    for a, b in zip(embedded, Encoder.from_pretrained(tmp_path).embed(photo), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_folder_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not an encoder"):
        Encoder.from_pretrained(tmp_path)


def test_nearest_items_takes_the_best_view_and_breaks_ties_by_number() -> None:
    views = np.eye(4, dtype=np.float32)[[0, 1, 2, 2]]
    owner = np.array([1, 1, 2, 0])
    items, scores = nearest_items(np.eye(4, dtype=np.float32)[[1, 2]], views, owner, 3)
    assert items.tolist() == [[1, 0, 2], [0, 2, 1]]
    assert scores[1].tolist() == [1, 1, 0]


def table(rows: list[tuple[str, str | None, str]]) -> pa.Table:
    return pa.table(
        {
            "image_id": [r[0] for r in rows],
            "item_id": pa.array([r[1] for r in rows], pa.string()),
            "view": [r[2] for r in rows],
        }
    )


def click(image: str, a: str | None, b: str, weight: float = 1.0) -> dict[str, object]:
    return {"image_a": image, "image_b": "x", "item_a": a, "item_b": b, "kind": "query_click", "weight": weight}


def test_batches_hold_views_of_chosen_products_and_clicked_neighbours_are_weak_positives() -> None:
    rows = [(f"{n}{v}", f"i{n}", v) for n in range(8) for v in ("main", "sku", "user_photo")]
    pairs = pa.Table.from_pylist([click("0user_photo", "i0", "i1")])
    views = collect_views(table(rows), {r[0] for r in rows}, pairs)
    config = CONFIG.model_copy(update={"click_pair_share": 1.0, "items_per_batch": 8})
    stream = batches(views, config, np.random.default_rng(0))
    seen_weak = False
    for _ in range(20):
        batch = next(stream)
        owner = batch.rows // 3
        assert (owner == batch.product.numpy()).all()
        assert len(set(batch.rows.tolist())) == len(batch.rows)
        same = owner[:, None] == owner[None]
        assert (batch.affinity.numpy()[same] == 1).all()
        weak = (batch.affinity.numpy() > 0) & ~same
        assert set(np.unique(owner[weak.any(1)])) <= {0, 1}
        assert (batch.affinity.numpy()[weak] == np.float32(config.click_affinity)).all()
        seen_weak |= bool(weak.any())
    assert seen_weak


def test_co_click_pairs_make_both_products_neighbours_where_they_are_asked_for() -> None:
    rows = [(f"{n}{v}", f"i{n}", v) for n in range(3) for v in ("main", "user_photo")]
    pairs = pa.Table.from_pylist(
        [click("0user_photo", "i0", "i1", 3.0), click("1main", "i0", "i2") | {"kind": "co_click"}]
    )
    images = {r[0] for r in rows}
    assert set(collect_views(table(rows), images, pairs).neighbours) == {0}
    neighbours = collect_views(table(rows), images, pairs, co_clicks=True).neighbours
    assert {n: dict(zip(*map(list, found), strict=True)) for n, found in neighbours.items()} == {
        0: {1: 0.75, 2: 0.25},
        2: {0: 1.0},
    }


def test_without_a_weight_a_clicked_pair_is_taken_out_of_the_negatives() -> None:
    rows = [(f"{n}{v}", f"i{n}", v) for n in range(3) for v in ("main", "user_photo")]
    views = collect_views(table(rows), {r[0] for r in rows}, pa.Table.from_pylist([click("0user_photo", "i0", "i1")]))
    batch = next(batches(views, CONFIG.model_copy(update={"click_affinity": 0.0}), np.random.default_rng(0)))
    product = batch.product.numpy()
    assert set(product) == {0, 1, 2}
    expected = np.array([[1, -1, 0], [-1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(batch.affinity.numpy(), expected[product][:, product])


def test_a_clicked_product_comes_with_its_photos_product_by_the_weight_of_its_clicks() -> None:
    rows = [(f"{n}{v}", f"i{n}", v) for n in range(4) for v in ("main", "user_photo")]
    clicks = [("i1", 2.0), ("i2", 1.0), ("i1", 1.0)]
    pairs = pa.Table.from_pylist([click("0user_photo", "i0", item, weight) for item, weight in clicks])
    views = collect_views(table(rows), {r[0] for r in rows}, pairs)
    assert list(views.neighbours) == [0]
    numbers, probability = views.neighbours[0]
    assert (numbers.tolist(), probability.tolist()) == ([1, 2], [0.75, 0.25])
    config = CONFIG.model_copy(update={"click_pair_share": 1.0, "items_per_batch": 2, "views_per_item": 2})
    stream = batches(views, config, np.random.default_rng(0), queue=[0] * 400)
    companion = [int(next(stream).product[-1]) for _ in range(400)]
    assert companion.count(1) / 400 == pytest.approx(0.75, abs=0.06)
    assert companion.count(1) + companion.count(2) == 400


def test_only_training_pictures_are_drawn_and_unknown_photos_join_what_was_clicked() -> None:
    rows = [("a", "i0", "main"), ("b", "i0", "sku"), ("c", "i1", "main"), ("d", None, "user_photo"), ("t", "i0", "sku")]
    views = collect_views(table(rows), {"a", "b", "c", "d"}, pa.Table.from_pylist([click("d", None, "i1")]))
    assert views.items == ["i0", "i1"]
    assert [v.tolist() for v in views.catalogue] == [[0, 1], [2]]
    assert [v.tolist() for v in views.shopper] == [[], [3]]


def test_too_few_products_is_a_clear_error() -> None:
    with pytest.raises(OneVisionError, match="at least 2"):
        collect_views(table([("a", "i0", "main")]), {"a"}, pa.Table.from_pylist([click("a", "i0", "i0")]))


def test_a_picture_is_the_mean_of_two_looks_at_it(encoder: Encoder, pixels: np.ndarray) -> None:
    one = torch.from_numpy(pixels)
    other = second_look(one)
    with torch.inference_mode():
        first, second = encoder.tower(one), encoder.tower(other)
        one_look, expected = (
            encoder.fuse(pooled, torch.full((10,), -1))[0].numpy()
            for pooled in (first.pooled, (first.pooled + second.pooled) / 2)
        )
    seen = encoder.embed(pixels)
    np.testing.assert_allclose(seen.embedding, expected, atol=1e-5)
    np.testing.assert_allclose(seen.tokens, first.tokens.numpy(), atol=2e-3)  # half precision
    assert not np.allclose(seen.embedding, one_look, atol=1e-3)


def test_without_test_time_augmentation_a_picture_is_looked_at_once(pixels: np.ndarray) -> None:
    torch.manual_seed(0)
    plain = Encoder(CONFIG.model_copy(update={"test_time_augmentation": False}), ["bags", "shoes"]).eval()
    with torch.inference_mode():
        expected = plain.fuse(plain.tower(torch.from_numpy(pixels)).pooled, torch.full((10,), -1))[0].numpy()
    np.testing.assert_allclose(plain.embed(pixels).embedding, expected, atol=1e-6)
