"""Reads a second from an image store: tar shards with an index, Parquet row groups, and loose files.

    python benchmarks/bench_image_store.py [--images 10000] [--rounds 5]

All layouts hold the same bytes, are read in the same orders in one process with a warm page cache, and take turns, so
that ratios hold where absolute numbers drift. Every read is checked against what was written, outside the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from onevision.data.images import ImageStore, ImageStoreWriter

Reader = Callable[[list[int]], Iterator[bytes]]
SEED = 7
MEAN_BYTES = 14_000
PEER = "tar + index"


def make_pictures(count: int) -> dict[str, bytes]:
    """Incompressible bytes of the sizes that small JPEGs have (log-normal)."""
    rng = np.random.default_rng(SEED)
    sizes = np.maximum(500, rng.lognormal(np.log(MEAN_BYTES) - 0.125, 0.5, count)).astype(int)
    return {f"image-{n:07d}": rng.bytes(size) for n, size in enumerate(sizes)}


def tar_reader(folder: Path, pictures: dict[str, bytes]) -> Reader:
    with ImageStoreWriter(folder) as writer:
        for image_id, data in pictures.items():
            writer.add(image_id, data)
    store, ids = ImageStore(folder), list(pictures)
    return lambda order: store.read_many([ids[n] for n in order])


def parquet_reader(folder: Path, pictures: dict[str, bytes], rows: int) -> Reader:
    table = pa.table({"image_id": list(pictures), "data": pa.array(list(pictures.values()), pa.binary())})
    pq.write_table(table, folder / "images.parquet", row_group_size=rows, compression="none", use_dictionary=False)
    file = pq.ParquetFile(folder / "images.parquet", memory_map=True)

    def read(order: list[int]) -> Iterator[bytes]:
        group, column = -1, pa.chunked_array([[b""]])
        for n in order:
            if n // rows != group:  # as a reader that keeps the row group it is in
                group = n // rows
                column = file.read_row_group(group, columns=["data"]).column(0)
            yield column[n % rows].as_py()

    return read


def loose_reader(folder: Path, pictures: dict[str, bytes]) -> Reader:
    paths = [folder / image_id[-2:] / f"{image_id}.jpg" for image_id in pictures]
    for path, data in zip(paths, pictures.values(), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return lambda order: (paths[n].read_bytes() for n in order)


def reads_per_second(read: Reader, order: list[int], expected: list[bytes]) -> float:
    start = time.perf_counter()
    got = list(read(order))
    seconds = time.perf_counter() - start
    if got != [expected[n] for n in order]:
        raise AssertionError("a layout gave back other bytes than were written")
    return len(order) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    pictures = make_pictures(args.images)
    expected = list(pictures.values())
    rng = np.random.default_rng(SEED)
    orders = {"sequential": list(range(args.images)), "random": rng.permutation(args.images)[:2000].tolist()}
    with tempfile.TemporaryDirectory() as temporary:
        folders = {
            name: Path(temporary, name) for name in ("tar", "parquet-10", "parquet-100", "parquet-1000", "loose")
        }
        for folder in folders.values():
            folder.mkdir()
        readers = {PEER: tar_reader(folders["tar"], pictures)}
        for rows in (10, 100, 1000):
            readers[f"Parquet, {rows} rows a group"] = parquet_reader(folders[f"parquet-{rows}"], pictures, rows)
        readers["loose files"] = loose_reader(folders["loose"], pictures)
        rates: dict[tuple[str, str], list[float]] = {}
        for _ in range(args.rounds + 1):  # the first round warms the page cache
            for kind, order in orders.items():
                for name, read in readers.items():
                    rates.setdefault((name, kind), []).append(reads_per_second(read, order, expected))
    print(f"{args.images} pictures of {np.mean([len(d) for d in expected]):.0f} bytes, median of {args.rounds} rounds")
    print(f"{'layout':<26}" + "".join(f"{f'{kind} reads/s':>20}{'ratio':>8}" for kind in orders))
    for name in readers:
        cells = ""
        for kind in orders:
            rate, peer = (median(rates[layout, kind][1:]) for layout in (name, PEER))
            cells += f"{rate:>20,.0f}{rate / peer:>8.2f}"
        print(f"{name:<26}{cells}")


if __name__ == "__main__":
    main()
