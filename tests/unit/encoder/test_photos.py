"""Further looks at photos that the first one leaves in doubt, and at no others."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from onevision.encoder.augmentation import second_look
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.encoder.photos import Doubt, embed_photos
from onevision.encoder.towers import TowerOutput
from onevision.errors import ArtifactError

CONFIG = EncoderConfig(width=8, embedding_dim=16, image_size=32)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(CONFIG, ["bags", "shoes"]).eval()


@pytest.fixture(scope="module")
def once(encoder: Encoder) -> Encoder:
    """The same weights, without the second look."""
    plain = Encoder(CONFIG.model_copy(update={"test_time_augmentation": False}), ["bags", "shoes"]).eval()
    plain.load_state_dict(encoder.state_dict())
    return plain


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What the first look is at."""
    copy: NDArray[np.uint8] = second_look(torch.from_numpy(pixels)).numpy()
    return copy


def half(pixels: NDArray[np.uint8], once: Encoder) -> tuple[Doubt, NDArray[np.bool_]]:
    """A doubt about some of the pictures, read from their first looks, and which these are."""
    first = once.embed(enlarged(pixels)).embedding[:, 0]
    bound = float(np.median(first)) + 1e-4
    return (lambda embedding: embedding[:, 0] < bound), first < bound


def watch(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures the tower looks at in each pass from now on."""
    counts, see = [], encoder.tower.see

    def watched(view: Tensor) -> TowerOutput:
        counts.append(len(view))
        return see(view)

    monkeypatch.setattr(encoder.tower, "see", watched)
    return counts


def test_photos_in_doubt_are_looked_at_in_full_and_the_others_once(
    encoder: Encoder, once: Encoder, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt, doubtful = half(pixels, once)
    assert 0 < doubtful.sum() < len(pixels)
    passes = watch(encoder, monkeypatch)
    embedded, looks, patches = embed_photos(encoder, pixels, doubt=doubt)
    assert passes == [9, doubtful.sum()]
    assert looks.tolist() == np.where(doubtful, 2, 1).tolist()
    assert patches is None
    of_copies = once.embed(enlarged(pixels))
    for of_two, of_one, served in zip(encoder.embed(pixels), of_copies, embedded, strict=True):
        rounding = 0 if served.dtype == np.float32 else 2e-3
        np.testing.assert_allclose(served[doubtful], of_two[doubtful], rtol=rounding, atol=1e-5)
        np.testing.assert_allclose(served[~doubtful], of_one[~doubtful], rtol=rounding, atol=1e-5)
    assert np.abs(encoder.embed(pixels).embedding - of_copies.embedding).max() > 1e-3
    assert np.abs(once.embed(pixels).tokens - of_copies.tokens).max() > 1e-3


def test_a_photo_does_not_depend_on_its_batch(encoder: Encoder, once: Encoder, pixels: NDArray[np.uint8]) -> None:
    doubt, _ = half(pixels, once)
    whole = embed_photos(encoder, pixels, doubt=doubt)
    alone = [embed_photos(encoder, pixels[row : row + 1], doubt=doubt) for row in range(len(pixels))]
    np.testing.assert_allclose(
        np.concatenate([one.embedded.embedding for one in alone]), whole.embedded.embedding, atol=1e-5
    )
    assert np.concatenate([one.looks for one in alone]).tolist() == whole.looks.tolist()


@pytest.mark.parametrize(("answer", "passes"), [(False, [9]), (True, [9, 9])])
def test_nothing_is_looked_at_that_is_not_in_doubt(
    encoder: Encoder, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, answer: bool, passes: list[int]
) -> None:
    seen = watch(encoder, monkeypatch)
    looks = embed_photos(encoder, pixels, doubt=lambda embedding: np.full(len(embedding), answer)).looks
    assert (seen, looks.tolist()) == (passes, [1 + answer] * 9)


def test_without_a_doubt_photos_are_embedded_as_the_catalogue_is(encoder: Encoder, pixels: NDArray[np.uint8]) -> None:
    embedded, looks, _ = embed_photos(encoder, pixels)
    for a, b in zip(embedded, encoder.embed(pixels), strict=True):
        np.testing.assert_array_equal(a, b)
    assert looks.tolist() == [2] * 9


def test_an_encoder_that_looks_once_refuses_to_doubt(once: Encoder, pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ArtifactError, match="small-conv looks at a photo once"):
        embed_photos(once, pixels, doubt=lambda embedding: embedding[:, 0] < 0)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="the extra `pretrained` is not installed"
)
@pytest.mark.parametrize(("copies", "looks"), [(False, 2), (True, 4)])
def test_the_middle_of_a_picture_is_left_out_too(copies: bool, looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(tower="efficientnet-lite2", embedding_dim=8, test_time_augmentation=copies)
    encoder = Encoder(config, ["bags"]).eval()
    size = encoder.image_size
    photos = np.random.default_rng(1).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    assert encoder.looks == looks
    passes = watch(encoder, monkeypatch)
    embedded, counts, _ = embed_photos(encoder, photos, doubt=lambda embedding: np.arange(len(embedding)) == 0)
    assert passes == [2] + [1] * (looks - 1)
    assert counts.tolist() == [looks, 1]
    np.testing.assert_allclose(embedded.embedding[0], encoder.embed(photos).embedding[0], atol=1e-4)
    edge = round(size * 0.12)
    whole = torch.from_numpy(photos)
    views = [whole, second_look(whole)] if copies else [whole]
    with torch.no_grad():
        pooled = [
            encoder.tower.see(part).pooled
            for view in views
            for part in (view, view[:, edge : size - edge, edge : size - edge])
        ]
        unknown = torch.full((2,), -1)
        full, one = (encoder.fuse(p, unknown)[0].numpy() for p in (torch.stack(pooled).mean(0), pooled[2 * copies]))
    np.testing.assert_allclose(embedded.embedding[0], full[0], atol=1e-4)
    np.testing.assert_allclose(embedded.embedding[1], one[1], atol=1e-4)
