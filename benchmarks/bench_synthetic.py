"""Pictures of the synthetic shop a core-second, JPEG included, beside two per-picture peers.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_synthetic.py [--images 4800] [--size 64] [--seed 7] [--repeats 3]

Peers: the same ray caster called for one picture at a time (what batching is worth), and flat drawings with Pillow
(two or three shapes at twice the size, a blur, noise: no third dimension, no light, no pattern).
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from onevision.data.config import SnapshotConfig
from onevision.data.synthetic.backdrops import Backdrops
from onevision.data.synthetic.catalogue import Catalogue, make_catalogue
from onevision.data.synthetic.views import USER_PHOTO, encode_jpegs, render_chunk, render_images

MIX = {0: 0.13, 1: 0.13, 2: 0.09, 3: 0.04, 4: 0.56, 5: 0.05}
"""Kinds of pictures as in a default snapshot."""


def batched(catalogue: Catalogue, items: np.ndarray, kinds: np.ndarray, size: int, seed: int) -> int:
    return sum(len(jpeg) for jpeg in render_images(catalogue, items, kinds, size, seed, progress=False))


def one_by_one(catalogue: Catalogue, items: np.ndarray, kinds: np.ndarray, size: int, seed: int) -> int:
    rng = np.random.default_rng(seed)
    backdrops = Backdrops(size, rng)
    total = 0
    for i in range(len(items)):
        pixels, quality = render_chunk(catalogue, items[i : i + 1], kinds[i : i + 1], size, backdrops, rng)
        total += sum(len(jpeg) for jpeg in encode_jpegs(pixels, quality))
    return total


def flat_drawings(catalogue: Catalogue, items: np.ndarray, kinds: np.ndarray, size: int, seed: int) -> int:
    rng = np.random.default_rng(seed)
    total = 0
    for item, kind in zip(items, kinds, strict=True):
        picture = Image.new("RGB", (2 * size, 2 * size), "white")
        draw = ImageDraw.Draw(picture)
        first, second = (
            tuple(int(255 * c) for c in colours[item]) for colours in (catalogue.primary, catalogue.secondary)
        )
        half = 0.25 + 0.2 * catalogue.shape[item]
        x, y, w, h = (float(2 * size * v) for v in (0.5, 0.5, half[0], half[1]))
        draw.rectangle((x - w, y - h, x + w, y + h), fill=first)
        draw.ellipse((x - w * 0.6, y - h, x + w * 0.6, y), fill=second)
        if kind >= USER_PHOTO:
            picture = picture.rotate(float(rng.normal(0, 10)), Image.Resampling.BILINEAR, fillcolor=(120, 110, 100))
            picture = picture.filter(ImageFilter.GaussianBlur(1.0))
        small = np.asarray(picture.resize((size, size), Image.Resampling.BOX), np.float32)
        noisy = small + rng.normal(0, 4, (size, size, 1))
        stream = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=60)
        total += stream.tell()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4800)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--repeats", type=int, default=3, help="the fastest counts: neighbours on the machine slow the rest"
    )
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    catalogue = make_catalogue(SnapshotConfig(), rng)
    items = rng.integers(len(catalogue), size=args.images)
    kinds = rng.choice(list(MIX), args.images, p=list(MIX.values()))
    peers: dict[str, tuple[Callable[..., int], int]] = {
        "batched ray caster (the shop)": (batched, args.images),
        "ray caster, one picture at a time": (one_by_one, max(1, args.images // 8)),
        "flat Pillow drawings": (flat_drawings, max(1, args.images // 4)),
    }
    print(f"{args.size} pixels a side, set-up (backgrounds) and JPEG included")
    for name, (function, count) in peers.items():
        seconds = []
        for _ in range(args.repeats):
            began = time.process_time()
            size = function(catalogue, items[:count], kinds[:count], args.size, args.seed)
            seconds.append(time.process_time() - began)
        print(f"{name:36s} {count / min(seconds):8,.0f} images/core-second   {size / count / 1024:5.2f} KiB an image")


if __name__ == "__main__":
    main()
