"""The crop that is proposed: it holds the product where there is one to be cropped to, and else is the whole photo."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image
from support.servers import RunningServer

from onevision.data.images import decode_image
from onevision.data.synthetic.backdrops import paint_backdrops
from onevision.serving.crop import WHOLE, Box, detect_crop, propose
from onevision.serving.search import Searcher

S = 32


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[RunningServer]:
    running = RunningServer(bundle=str(bundle)).wait_until_ready()
    yield running
    running.stop()


def product(side: int) -> np.ndarray:
    """A square thing in patches of strong colours, no part of which looks like all of it, (side, side, 3)."""
    red, yellow, blue, white = (220, 20, 40), (250, 210, 0), (10, 60, 200), (250, 250, 250)
    patches = np.array([[red, yellow, blue], [blue, white, red], [yellow, blue, red]], np.uint8)
    return np.asarray(Image.fromarray(patches).resize((side, side), Image.Resampling.NEAREST))


def plain(height: int, width: int) -> np.ndarray:
    across = np.linspace(-12, 12, width)[None, :, None]
    noise = np.random.default_rng(3).normal(0, 3, (height, width, 1))
    return np.clip(np.array([120, 130, 118]) + across + noise, 0, 255).astype(np.uint8)


def cluttered(height: int, width: int) -> np.ndarray:
    side = max(height, width)
    room = paint_backdrops(1, side, np.random.default_rng(5))[0].transpose(1, 2, 0)
    return (255 * room[:height, :width]).astype(np.uint8)


def placed(ground: np.ndarray, side: int, left: int, top: int) -> tuple[np.ndarray, Box]:
    """A product on a ground, and where it is."""
    picture = ground.copy()
    picture[top : top + side, left : left + side] = product(side)
    height, width = ground.shape[:2]
    return picture, Box(left / width, top / height, (left + side) / width, (top + side) / height)


def overlap(one: Box, two: Box) -> float:
    """Intersection over union."""
    across = max(0.0, min(one.right, two.right) - max(one.left, two.left))
    down = max(0.0, min(one.bottom, two.bottom) - max(one.top, two.top))
    areas = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, two))
    return across * down / (areas - across * down)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@dataclass
class Shelf:
    """A shop that sells some pictures, and compares pixels: what `detect_crop` asks of a searcher."""

    sold: list[np.ndarray]
    image_size: int = S

    def nearest_cosine(self, pixels: np.ndarray) -> np.ndarray:
        items = np.stack([decode_image(png(item), S) for item in self.sold])
        ours, theirs = (p.reshape(len(p), -1) / 255 - 0.5 for p in (pixels, items))
        cosine = ours @ theirs.T / np.linalg.norm(ours, axis=1)[:, None] / np.linalg.norm(theirs, axis=1)
        return cosine.max(axis=1)


def detected(pixels: np.ndarray, *sold: np.ndarray) -> Box:
    return detect_crop(png(pixels), cast(Searcher, Shelf(list(sold) or [product(S)])))


@pytest.mark.parametrize("ground", [plain, cluttered])
@pytest.mark.parametrize(("height", "width"), [(240, 240), (240, 320), (320, 240), (96, 640), (640, 96)])
@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("corner", [(0.1, 0.1), (0.9, 0.3), (0.5, 0.9)])
def test_the_product_is_found_wherever_it_is(
    ground, height: int, width: int, share: float, corner: tuple[float, float]
) -> None:
    side = int(share * min(height, width))
    x, y = (int(at * (length - side)) for at, length in zip(corner, (width, height), strict=True))
    picture, place = placed(ground(height, width), side, x, y)
    found = detected(picture)
    assert overlap(found, place) > 0.4, (found, place)
    sides = (found.right - found.left) * width, (found.bottom - found.top) * height
    assert sides[0] == pytest.approx(sides[1], rel=0.03), "the encoder looks at squares"
    assert 0 <= found.left < found.right <= 1
    assert 0 <= found.top < found.bottom <= 1
    assert detected(picture) == found


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1, 500), (500, 1), (48, 1000)])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_picture_of_one_colour_is_left_whole(shape: tuple[int, int], level: int) -> None:
    picture = np.full((*shape, 3), level, np.uint8)
    assert propose(picture) == []
    assert detected(picture) == WHOLE


def test_a_product_that_fills_its_photo_is_left_whole() -> None:
    picture, _ = placed(plain(100, 100), 88, 6, 6)
    assert detected(picture) == WHOLE
    assert detected(product(100)) == WHOLE


def test_what_stands_out_is_no_crop_unless_the_catalogue_has_something_like_it() -> None:
    picture, place = placed(plain(240, 240), 70, 30, 120)
    assert overlap(propose(picture)[0], place) > 0.4
    assert detected(picture, plain(S, S)) == WHOLE


def test_the_crop_is_that_of_the_picture_as_it_is_seen() -> None:
    picture, place = placed(plain(200, 300), 70, 20, 110)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    stream = io.BytesIO()
    stored = Image.fromarray(picture).transpose(Image.Transpose.ROTATE_90)
    stored.save(stream, "JPEG", quality=95, exif=exif.tobytes())
    found = detect_crop(stream.getvalue(), cast(Searcher, Shelf([product(S)])))
    assert overlap(found, place) > 0.4


def test_the_server_answers_what_the_library_does(server: RunningServer, searcher: Searcher, photo: bytes) -> None:
    scene, _ = placed(cluttered(240, 320), 80, 30, 60)
    crops = []
    for picture in (photo, png(scene), png(plain(3, 200))):
        answer = server.client.post("/page/crop", content=picture)
        assert answer.status_code == 200
        assert answer.json() == {"crop": list(detect_crop(picture, searcher))}
        crops.append(answer.json()["crop"])
    assert crops[-1] == [0, 0, 1, 1]
    assert server.metric("onevision_pending_photos") == 0


def test_the_cosine_is_that_of_the_best_item(searcher: Searcher, photo: bytes) -> None:
    pixels = np.stack([searcher.decode(photo), np.full((searcher.image_size, searcher.image_size, 3), 9, np.uint8)])
    best = max(hit.similarity for hit in searcher.search(photo, None, 1000))
    assert searcher.nearest_cosine(pixels[:1])[0] >= best - 1e-5
    assert searcher.nearest_cosine(pixels) == pytest.approx(
        [searcher.nearest_cosine(pixels[n : n + 1])[0] for n in (0, 1)], abs=1e-5
    )
