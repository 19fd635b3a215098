"""Searching by the whole photo, by its middle, and by the crop that the search page proposes.

    python benchmarks/bench_crop.py RUN [--searches 500] [--scenes 30] [--out FILE]

RUN is a run of recipe `quickstart` (with `--scenes 0` of any). Two kinds of photos are searched with its bundle: those
of its newest test searches, where what was clicked is right; and photos in which a product of the catalogue, rendered
anew, takes 20 to 90 % of the shorter side, before a plain ground, a painted room, or a photo taken in a grocery shop
(where there are some: docs/data.md), where the product itself is right. HR@1 and HR@10 in percent, of what the bundle
answers; `stands out` takes the most salient part without asking the catalogue.
"""

from __future__ import annotations

import argparse
import io
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from onevision.artifacts import write_json
from onevision.data.config import SnapshotConfig
from onevision.data.grocery import find_data
from onevision.data.grocery_sources import read_photos
from onevision.data.images import decode_image
from onevision.data.snapshot import Snapshot
from onevision.data.synthetic.backdrops import paint_backdrops
from onevision.data.synthetic.catalogue import Catalogue, items_table, make_catalogue
from onevision.data.synthetic.views import SKU_ANGLE, cut_outs
from onevision.errors import OneVisionError
from onevision.recipe import load_recipe
from onevision.serving.crop import DETAIL, WHOLE, Box, detect_crop, propose
from onevision.serving.search import Searcher

SHAPES = ((240, 240), (240, 320), (320, 240), (160, 360))
"""(height, width) of the scenes, in turn."""
FILLS = (0.2, 0.35, 0.55, 0.9)
SPRITE, ROOMS, SEED, BATCH = 192, 8, 11, 64


COLUMNS = ("HR@1", "HR@10", "cropped", "IoU", "CPU ms")


class Photo(NamedTuple):
    """A photo, the items that are right, who searches, and where the product is, if that is known."""

    data: bytes
    right: set[str]
    user: str | None
    place: Box | None


def test_searches(run: Path, count: int) -> list[Photo]:
    """The newest test searches that were clicked."""
    table = pq.read_table(run / "pairs" / "queries.parquet", columns=["split", "ts", "image_id", "user_id", "clicked"])
    rows = [row for row in table.to_pylist() if row["split"] == "test" and row["clicked"]]
    rows = sorted(rows, key=lambda row: (row["ts"], row["image_id"]))[-count:]
    images = Snapshot.open(run / "snapshot", verify=False).images
    return [Photo(images.read(row["image_id"]), set(row["clicked"]), row["user_id"], None) for row in rows]


def shop_of(run: Path) -> Catalogue:
    """The synthetic catalogue that the run was made of."""
    recipe = load_recipe("quickstart")
    catalogue = make_catalogue(SnapshotConfig(source="synthetic"), np.random.default_rng([recipe.seed, 0, 0]))
    sold = Snapshot.open(run / "snapshot", verify=False).table("items").to_pandas().set_index("item_id")["price"]
    made = items_table(catalogue).set_index("item_id")["price"].reindex(sold.index)
    if not np.allclose(made, sold):
        raise OneVisionError(f"{run}: not of recipe quickstart as it is; give a run of it, or --scenes 0")
    return catalogue


def grounds(rng: np.random.Generator) -> Iterator[tuple[str, Callable[[int, int], np.ndarray]]]:
    """Kinds of backgrounds, and what draws one of a height and width, (h, w, 3) from 0 to 1."""

    def plain(height: int, width: int) -> np.ndarray:
        down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        slope = rng.uniform(-0.12, 0.12, 2)
        shade = slope[0] * down + slope[1] * across
        return rng.uniform(0.15, 0.95) + rng.normal(0, 0.07, 3) + shade[..., None]

    side = max(max(shape) for shape in SHAPES)
    rooms = paint_backdrops(ROOMS, side, rng).transpose(0, 2, 3, 1)

    def part(picture: np.ndarray, height: int, width: int) -> np.ndarray:
        y, x = rng.integers(side - height + 1), rng.integers(side - width + 1)
        return picture[y : y + height, x : x + width]

    yield "plain", plain
    yield "room", lambda height, width: part(rooms[rng.integers(ROOMS)], height, width)
    try:
        photos = read_photos(find_data() / "grocery_store", "val")
    except OneVisionError:
        return

    def shop(height: int, width: int) -> np.ndarray:
        n = rng.integers(len(photos))
        data = photos.jpeg[photos.offsets[n] : photos.offsets[n + 1]].tobytes()
        picture = Image.open(io.BytesIO(data)).convert("RGB").resize((side, side))
        return part(np.asarray(picture, np.float32) / 255, height, width)

    yield "shop", shop


def scenes(catalogue: Catalogue, count: int) -> Iterator[tuple[str, list[Photo]]]:
    """`count` photos of each ground and fill."""
    rng = np.random.default_rng(SEED)
    for name, ground in grounds(rng):
        for fill in FILLS:
            items = rng.integers(len(catalogue), size=count)
            items = items[np.argsort(catalogue.category[items], kind="stable")]
            colours, coverage = cut_outs(catalogue, items, np.full(count, SKU_ANGLE), SPRITE, rng)
            sprites = np.concatenate([colours, coverage], axis=1).clip(0, 1).transpose(0, 2, 3, 1)
            photos = []
            for n, (item, sprite) in enumerate(zip(items, sprites, strict=True)):
                data, place = compose(sprite, ground(*SHAPES[n % len(SHAPES)]), fill, rng)
                photos.append(Photo(data, {catalogue.ids[item]}, None, place))
            yield f"{name}, {fill:.0%}", photos


def compose(sprite: np.ndarray, ground: np.ndarray, fill: float, rng: np.random.Generator) -> tuple[bytes, Box]:
    """A product (S, S, 4) somewhere before a ground (h, w, 3), photographed: JPEG bytes, and the product's box."""
    rows, columns = (np.flatnonzero(sprite[..., 3].max(axis) > 0.3) for axis in (1, 0))
    product = sprite[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = fill * min(ground.shape[:2]) / max(product.shape[:2])
    height, width = (max(2, round(length * scale)) for length in product.shape[:2])
    planes = [Image.fromarray((255 * plane).astype(np.uint8)) for plane in np.moveaxis(product, 2, 0)]
    product = np.stack([np.asarray(p.resize((width, height), Image.Resampling.BICUBIC)) for p in planes], axis=2) / 255
    h, w = ground.shape[:2]
    top, left = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
    picture = np.array(ground, dtype=np.float64)
    behind = picture[top : top + height, left : left + width]
    behind += product[..., 3:] * (product[..., :3] - behind)
    picture *= rng.uniform(0.6, 1.2) * rng.uniform(0.9, 1.1, 3)
    picture += rng.uniform(0.01, 0.03) * rng.standard_normal((*picture.shape[:2], 1))
    stream = io.BytesIO()
    Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8)).save(stream, "JPEG", quality=int(rng.integers(50, 90)))
    return stream.getvalue(), Box(left / w, top / h, (left + width) / w, (top + height) / h)


def middle(photo: Photo, searcher: Searcher) -> Box:  # noqa: ARG001
    """The inner 80 % of the sides."""
    return Box(0.1, 0.1, 0.9, 0.9)


def most_salient(photo: Photo, searcher: Searcher) -> Box:
    """The part that stands out most, whatever it is."""
    return next(iter(propose(decode_image(photo.data, DETAIL * searcher.image_size, whole=True))), WHOLE)


CROPS: dict[str, Callable[[Photo, Searcher], Box]] = {
    "whole": lambda photo, searcher: WHOLE,  # noqa: ARG005
    "middle": middle,
    "stands out": most_salient,
    "detected": lambda photo, searcher: detect_crop(photo.data, searcher),
}


def cut(data: bytes, box: Box) -> bytes:
    """A part of a picture, without loss."""
    if box == WHOLE:
        return data
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    edges = np.round(np.array(box) * (picture.size * 2)).astype(int)
    stream = io.BytesIO()
    picture.crop(tuple(edges.tolist())).save(stream, "PNG")
    return stream.getvalue()


def overlap(photo: Photo, box: Box) -> float:
    """Intersection over union of a crop's square, as the encoder sees it, and the square around the product."""
    assert photo.place is not None
    shape = np.array(Image.open(io.BytesIO(photo.data)).size)

    def square(part: Box, side: Callable[[np.ndarray], float]) -> np.ndarray:
        first, last = np.array(part[:2]) * shape, np.array(part[2:]) * shape
        half = side(last - first) / 2
        return np.array([(first + last) / 2 - half, (first + last) / 2 + half])

    one, two = square(box, np.min), square(photo.place, np.max)
    both = np.clip(np.minimum(one[1], two[1]) - np.maximum(one[0], two[0]), 0, None).prod()
    return float(both / ((one[1] - one[0]).prod() + (two[1] - two[0]).prod() - both))


def hits(photos: list[Photo], boxes: list[Box], searcher: Searcher) -> dict[str, float]:
    """HR@1 and HR@10 in percent."""
    ranks = []
    for start in range(0, len(photos), BATCH):
        batch = photos[start : start + BATCH]
        images = [cut(photo.data, box) for photo, box in zip(batch, boxes[start : start + BATCH], strict=True)]
        answers = searcher.search_many(images, [photo.user for photo in batch], 10)
        for photo, answer in zip(batch, answers, strict=True):
            places = [place for place, hit in enumerate(answer.hits) if hit.item_id in photo.right]
            ranks.append(min(places, default=10))
    return {f"HR@{k}": 100 * float(np.mean(np.array(ranks) < k)) for k in (1, 10)}


def measure(photos: list[Photo], searcher: Searcher) -> dict[str, dict[str, float]]:
    """What each way of cropping finds, how many photos it crops, how often that is the product, and its CPU time."""
    found = {}
    for name, crop in CROPS.items():
        began = time.process_time()
        boxes = [crop(photo, searcher) for photo in photos]
        figures = {"CPU ms": 1000 * (time.process_time() - began) / len(photos)} | hits(photos, boxes, searcher)
        figures["cropped"] = 100 * float(np.mean([box != WHOLE for box in boxes]))
        if photos[0].place is not None:
            figures["IoU"] = 100 * float(np.mean([overlap(*pair) for pair in zip(photos, boxes, strict=True)]))
        found[name] = figures
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--searches", type=int, default=500)
    parser.add_argument("--scenes", type=int, default=30, help="photos of each ground and fill")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    searcher = Searcher.open(args.run / "bundle", args.run / "features")
    found = {}
    print(f"{'photos':<16}{'crop':<12}" + "".join(f"{name:>9}" for name in COLUMNS))
    sets = [("test searches", test_searches(args.run, args.searches))] if args.searches else []
    for kind, photos in itertools.chain(sets, scenes(shop_of(args.run), args.scenes) if args.scenes else ()):
        found[kind] = measure(photos, searcher)
        for name, figures in found[kind].items():
            cells = (f"{figures[key]:>9.1f}" if key in figures else f"{'':>9}" for key in COLUMNS)
            print(f"{kind:<16}{name:<12}" + "".join(cells), flush=True)
    if args.out:
        write_json(args.out, {"searches": args.searches, "scenes": args.scenes, "found": found})


if __name__ == "__main__":
    main()
