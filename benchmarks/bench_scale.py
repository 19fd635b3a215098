"""Rates that `docs/scale.md` multiplies: `python benchmarks/bench_scale.py SNAPSHOT`, CPU seconds of one thread.

Pictures are those of a snapshot; codes and vectors are random, of the sizes that ten million items and more want.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from onevision.allocator import keep_freed_memory
from onevision.arrays import ArrayWriter, Layout, concatenate_files
from onevision.data.images import check_image, decode_image
from onevision.data.snapshot import Snapshot
from onevision.encoder.config import EncoderConfig
from onevision.encoder.model import Encoder
from onevision.pairing.duplicates import fingerprints
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.residual import ResidualQuantizer
from onevision.semantic_ids.assign import assign
from onevision.semantic_ids.config import SemanticIdsConfig
from onevision.semantic_ids.trie import Trie
from onevision.validation.config import ValidationConfig

SIZES, OPQ, DIM, VIEWS = (4096, 1024, 512), (2, 256), 128, 3


def per_second(work: Callable[[], object], amount: float) -> float:
    """`amount` by the CPU seconds of `work`."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return amount / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def show(name: str, rate: float, unit: str) -> None:
    """One line of the table."""
    print(f"{name:<24} {rate:>14,.0f} {unit}")


def pictures(snapshot: Path, count: int) -> None:
    """Read, check, fingerprint (near copies), decode and embed with the default encoder."""
    images = Snapshot.open(snapshot, verify=False).images
    ids = [str(image) for image in images.ids[:count]]
    data: list[bytes] = []
    show("read", per_second(lambda: data.extend(images.read_many(ids)), len(ids)), "pictures/core-s")
    check = partial(check_image, max_pixels=ValidationConfig().max_image_pixels)
    show("check", per_second(lambda: list(map(check, data)), len(ids)), "pictures/core-s")
    show("fingerprint", per_second(lambda: fingerprints(images, ids), len(ids)), "pictures/core-s")
    encoder = Encoder(EncoderConfig(), [str(n) for n in range(96)]).eval()
    pixels: list[np.ndarray] = []
    decode = lambda: pixels.extend(decode_image(d, encoder.image_size) for d in data)  # noqa: E731
    show("decode", per_second(decode, len(ids)), "pictures/core-s")
    batch = np.stack(pixels)
    embedded = encoder.embed(batch[:256])
    show("tower", per_second(lambda: encoder.embed(batch), len(ids)), "pictures/core-s")
    show("embedded", sum(array.nbytes for array in embedded) / 256, "bytes/picture")


def items(count: int, rng: np.random.Generator) -> None:
    """Vote, and build the trie."""
    aligned = {name: getattr(QuantizationConfig(), name) for name in ("view_dims", "view_levels")}
    quantizer = ResidualQuantizer(DIM, SIZES, opq_subspaces=OPQ[0], opq_size=OPQ[1], **aligned).eval()
    for level in range(len(SIZES)):
        quantizer.codebook(level).normal_()
    quantizer.opq_codebooks.normal_()
    views = rng.normal(size=(8192 * VIEWS, DIM)).astype(np.float32)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    owner, main = np.repeat(np.arange(8192), VIEWS), np.tile([True] + [False] * (VIEWS - 1), 8192)
    vote = lambda: assign(quantizer, views, owner, main, SemanticIdsConfig())  # noqa: E731
    show("assign", per_second(vote, 8192), "items/core-s")
    sids = np.stack([rng.integers(0, size, count) for size in quantizer.codebook_sizes], 1).astype(np.int16)
    show("trie", per_second(lambda: Trie.build(sids), count), "items/core-s")
    trie, _ = Trie.build(sids)
    show("trie", sum(t.numel() * t.element_size() for t in trie.offsets + trie.codes) / count, "bytes/item")


def merging(rows: int) -> None:
    """Put arrays together."""
    array = np.zeros((rows, DIM), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "part")
        with ArrayWriter(part, {"embedding": Layout(array.dtype, array.shape)}) as writer:
            writer.write("embedding", 0, array)
        parts = [part] * 5
        rate = per_second(lambda: concatenate_files(parts, Path(folder, "all")), 5 * array.nbytes)
        show("merge", rate, "bytes/core-s")


def main() -> None:
    """Measure everything, in a process that keeps its memory, as stages do."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("snapshot", type=Path)
    torch.set_num_threads(1)
    pictures(parser.parse_args().snapshot, 1024)
    items(300_000, np.random.default_rng(0))
    merging(20_000)


if __name__ == "__main__":
    main()
