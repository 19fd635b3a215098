"""Three residual levels (4096/1024/512) on 200k x 256 and assigning 1M, against residual k-means with faiss.

    make bench-quantizer
    python benchmarks/bench_quantizer.py [--train 200000] [--assign 1000000] [--iterations 10] [--out FILE.json]

Both sides run in one process on one thread, on the same rows, with as many Lloyd iterations; what counts is CPU
seconds. The vectors are structured, for noise alone has nothing to find: 256 groups, 16 kinds in each, 16 variants of
each, every depth half as wide as the one above, noise on top, scaled to unit length. The error is the squared distance
to the rebuilt vector over the variance, on rows that were not trained on.

The GEMM rate is that of one large float32 product, by MKL and by oneDNN, the faster of the two. Memory is the peak of a
process of its own that streams a file of vectors to a file of codes, once with a quarter of the rows and once with all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial, reduce
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import faiss
import numpy as np
import torch

from onevision.quantization.gemm import fast_matmul
from onevision.quantization.residual import ResidualKMeans, ResidualQuantizer
from onevision.quantization.streaming import encode_file

DIM = 256
SIZES = (4096, 1024, 512)
BLOCK = 50_000
SEED = 7


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    began = cpu_seconds()
    result = function()
    return result, cpu_seconds() - began


class Vectors:
    """Structured vectors, by blocks: the same seed gives the same blocks, however many are asked for."""

    def __init__(self) -> None:
        rng = np.random.default_rng(SEED)
        self.depths = [
            rng.standard_normal((count, DIM), np.float32) / 2**depth for depth, count in enumerate((256, 4096, 65536))
        ]

    def block(self, rows: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng((SEED, seed))
        variant = rng.integers(0, 65536, rows)
        x = 0.25 * rng.standard_normal((rows, DIM), np.float32)
        for depth, centres in enumerate(self.depths):
            x += centres[variant // 16 ** (2 - depth)]
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def blocks(self, rows: int, first: int) -> Iterator[np.ndarray]:
        for number in range(-(-rows // BLOCK)):
            yield self.block(min(BLOCK, rows - number * BLOCK), first + number)


class FaissResidual:
    """Residual k-means with `faiss.Kmeans`, a level after the other."""

    def fit(self, x: np.ndarray, iterations: int) -> FaissResidual:
        self.levels: list[Any] = []
        rest = x
        for level, size in enumerate(SIZES):
            kmeans: Any = faiss.Kmeans(DIM, size, niter=iterations, seed=SEED + level, max_points_per_centroid=len(x))
            kmeans.train(rest)
            self.levels.append(kmeans)
            if level < len(SIZES) - 1:
                rest = rest - kmeans.centroids[kmeans.index.search(rest, 1)[1][:, 0]]
        return self

    def encode(self, x: np.ndarray) -> np.ndarray:
        rest, codes = x, np.empty((len(x), len(SIZES)), np.int16)
        for level, kmeans in enumerate(self.levels):
            found = kmeans.index.search(rest, 1)[1][:, 0]
            codes[:, level] = found
            rest = rest - kmeans.centroids[found]
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        return reduce(np.add, (kmeans.centroids[codes[:, level]] for level, kmeans in enumerate(self.levels)))


def assign(method: Any, vectors: Vectors, rows: int) -> tuple[float, float]:
    """CPU seconds of assigning `rows` new rows, and the error of the first of their blocks."""
    seconds, error = 0.0, None
    for x in vectors.blocks(rows, first=1000):
        codes, spent = timed(partial(method.encode, x))
        seconds += spent
        if error is None:
            error = float(np.square(x - method.decode(codes)).sum() / np.square(x - x.mean(0)).sum())
    assert error is not None
    return seconds, error


def gemm_rate() -> float:
    """GFLOP/s of one thread."""
    a, b = torch.randn(16384, DIM), torch.randn(4096, DIM)
    out = torch.empty(len(a), len(b))
    best = float("inf")
    for _ in range(5):
        best = min(best, timed(lambda: torch.mm(a, b.T, out=out))[1])
        with fast_matmul():
            best = min(best, timed(lambda: torch.mm(a, b.T, out=out))[1])
    return 2 * len(a) * DIM * len(b) / best / 1e9


def peak_memory(folder: Path, vectors: Vectors, rows: int) -> float:
    """Peak MB of a process that assigns `rows` rows from a file to a file."""
    table = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, DIM))
    for number, x in enumerate(vectors.blocks(rows, first=1000)):
        table[number * BLOCK : number * BLOCK + len(x)] = x
    del table
    command = [sys.executable, __file__, "--stream", str(folder)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def stream(folder: Path) -> None:
    """What the process of `peak_memory` does."""
    encode_file(ResidualQuantizer.from_pretrained(folder), folder / "x.npy", folder / "codes.npy")
    # Not ru_maxrss: a new process takes over that of the one that started it.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    print(int(peak[1]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=200_000)
    parser.add_argument("--assign", type=int, default=1_000_000)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--out", type=Path, help="also write the figures here")
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    if arguments.stream:
        return stream(arguments.stream)
    vectors = Vectors()
    x = np.concatenate(list(vectors.blocks(arguments.train, first=0)))
    figures: dict[str, Any] = {
        "train_rows": arguments.train,
        "assigned_rows": arguments.assign,
        "iterations": arguments.iterations,
        "gemm_gflops": gemm_rate(),
    }
    flops = 2.0 * arguments.assign * DIM * sum(SIZES)
    ours = ResidualKMeans(DIM, SIZES, opq_subspaces=0)
    fits: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours.fit(x, iterations=arguments.iterations, seed=SEED),
        "faiss": lambda: FaissResidual().fit(x, arguments.iterations),
    }
    print(f"{'':8}{'training':>12}{'assignment':>12}{'error':>9}{'GFLOP/s':>9}  share of {figures['gemm_gflops']:.0f}")
    for name, fit in fits.items():
        method, training = timed(fit)
        assignment, error = assign(method, vectors, arguments.assign)
        rate = flops / assignment / 1e9
        figures[name] = {
            "training_cpu_seconds": training,
            "assignment_cpu_seconds": assignment,
            "relative_error": error,
            "assignment_gflops": rate,
            "share_of_gemm": rate / figures["gemm_gflops"],
        }
        share = figures[name]["share_of_gemm"]
        print(f"{name:8}{training:10.1f} s{assignment:10.1f} s{error:9.4f}{rate:9.0f}  {share:.0%}", flush=True)
    mine, peer = figures["ours"], figures["faiss"]
    for key in ("training_cpu_seconds", "assignment_cpu_seconds", "relative_error"):
        print(f"{key}: {mine[key] / peer[key]:.3f}x faiss")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ours.save(folder)
        figures["peak_mb"] = {
            str(rows): peak_memory(folder, vectors, rows) for rows in (arguments.assign // 4, arguments.assign)
        }
    print("peak memory: " + ", ".join(f"{int(rows):,} rows {mb:.0f} MB" for rows, mb in figures["peak_mb"].items()))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
