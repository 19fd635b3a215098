"""Encoding report: how well RQ-KMeans, RQ-OPQ, OPQ and VRQ would encode anybody's embeddings. No images needed.

Every method is fitted on the same rows with a like budget of codes. Collisions are counted over products; view
consistency and recall are measured on products that no method was fitted on.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from onevision.artifacts import write_json
from onevision.errors import OneVisionError
from onevision.metrics import (
    Interval,
    encoding_metrics,
    mean_interval,
    paired_difference_interval,
    prefix_ids,
    shared_prefix_length,
)
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.encoding_inputs import EncodingData, read_encoding_data
from onevision.quantization.kmeans import nearest
from onevision.quantization.opq import fit_opq
from onevision.quantization.residual import ResidualKMeans
from onevision.quantization.vrq import VRQ, ViewPairs
from onevision.report import ReportTable, StageReport

SIZES = (
    (500, (16, 8, 4)),
    (1_500, (32, 16, 8)),
    (5_000, (64, 32, 16)),
    (30_000, (128, 64, 32)),
    (300_000, (512, 256, 128)),
    (3_000_000, (1024, 512, 256)),
    (math.inf, (4096, 1024, 512)),
)
"""Products up to this many -> codebook sizes of the residual levels."""
LARGE_CATALOGUE = 20_000
"""Products from which an OPQ sub-space has 256 codes instead of 16."""
RECALL_CUTOFFS = (1, 10)
MAX_RECALL_PHOTOS = 2_000
VRQ_STEPS = 400
DEAD_SHARE = 0.05
SAMPLES = 1000


class Encoding(Protocol):
    """What a quantiser must offer to be reported."""

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Codes of every position."""

    def encode(self, x: NDArray[np.float32]) -> NDArray[np.int16]:
        """(N, d) -> (N, L)."""

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """(N, L) -> (N, d)."""


def encoding_report(
    embeddings: Path,
    pairs: Path | None = None,
    categories: Path | None = None,
    out: Path | None = None,
    codebook_sizes: tuple[int, ...] | None = None,
    seed: int = 7,
) -> StageReport:
    """Fit every method on the embeddings and report its encoding metrics with 95 % intervals.

    Args:
        embeddings: (N, d), `.npy` or `.safetensors`.
        pairs: rows that show one product; without it there is no VRQ and no view consistency.
        categories: one a row.
        out: folder for `report.json` and `metrics.json`.
        codebook_sizes: of the residual levels; by default chosen by the number of products.

    Raises:
        ContractError: an input that is not what it should be.
        OneVisionError: fewer rows than codes.
    """
    began = time.perf_counter()
    data = read_encoding_data(embeddings, pairs, categories, seed)
    config, warnings = _config(data, codebook_sizes)
    methods = _fit(data, config, seed)
    measured = {name: _Measured(method, data, seed) for name, method in methods.items()}
    metrics = {f"{name}/{key}": value for name, found in measured.items() for key, value in found.metrics.items()}
    tables = [_main_table(measured, data), _level_table(methods, metrics)]
    if "vrq" in measured and len(data.photo):
        tables.append(_difference_table(measured, seed))
    report = StageReport(
        "encoding-report",
        counts={
            "rows": len(data.x),
            "products": len(data.item),
            "training_pairs": len(data.u),
            "held_out_products": len(data.target),
        },
        metrics=metrics,
        warnings=warnings + _collapses(methods, metrics),
        tables=tables,
        seconds=time.perf_counter() - began,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "metrics.json", metrics)
        report.save(out)
    return report


def default_codebook_sizes(products: int) -> tuple[int, ...]:
    """Sizes of the residual levels by the number of products (method, section 4)."""
    return next(sizes for limit, sizes in SIZES if products <= limit)


class OPQ:
    """Optimised product quantisation of the vectors themselves, without residual levels (Ge et al., CVPR 2013)."""

    def __init__(self, subspaces: int, size: int) -> None:
        self.codebook_sizes = (size,) * subspaces

    def fit(self, x: NDArray[np.float32], *, seed: int) -> OPQ:
        """Learn rotation and codebooks from (N, d)."""
        self._rotation, self._books = fit_opq(
            torch.from_numpy(x), len(self.codebook_sizes), self.codebook_sizes[0], seed=seed
        )
        return self

    def encode(self, x: NDArray[np.float32]) -> NDArray[np.int16]:
        """(N, d) -> (N, S)."""
        parts = (torch.from_numpy(x) @ self._rotation).chunk(len(self.codebook_sizes), 1)
        codes = [nearest(part, book)[0] for part, book in zip(parts, self._books, strict=True)]
        return torch.stack(codes, 1).numpy().astype(np.int16)

    def decode(self, codes: NDArray[np.int16]) -> NDArray[np.float32]:
        """(N, S) -> (N, d)."""
        table = torch.from_numpy(codes.astype(np.int64))
        parts = [book[table[:, s]] for s, book in enumerate(self._books)]
        return (torch.cat(parts, 1) @ self._rotation.T).numpy()


def _config(data: EncodingData, codebook_sizes: tuple[int, ...] | None) -> tuple[QuantizationConfig, list[str]]:
    products, dim = data.item.shape
    sizes = codebook_sizes or default_codebook_sizes(products)
    if max(sizes) > len(data.train):
        raise OneVisionError(f"{len(data.train)} training rows cannot fill a codebook of {max(sizes)} codes")
    warnings = [] if dim % 2 == 0 else [f"d = {dim} is odd: OPQ, which halves it, is left out"]
    opq_size = 256 if products >= LARGE_CATALOGUE else 16
    subspaces = 2 if dim % 2 == 0 and len(data.train) >= opq_size else 0
    config = QuantizationConfig(codebook_sizes=sizes, opq_subspaces=subspaces, opq_size=opq_size, steps=VRQ_STEPS)
    return config, warnings


def _fit(data: EncodingData, config: QuantizationConfig, seed: int) -> dict[str, Encoding]:
    x = np.ascontiguousarray(data.x[data.train])
    dim, sizes = x.shape[1], config.codebook_sizes
    iterations = config.kmeans_iterations
    methods: dict[str, Encoding] = {
        "rq_kmeans": ResidualKMeans(dim, sizes, opq_subspaces=0).fit(x, iterations=iterations, seed=seed)
    }
    if config.opq_subspaces:
        rq_opq = ResidualKMeans(dim, sizes, opq_subspaces=config.opq_subspaces, opq_size=config.opq_size)
        methods["rq_opq"] = rq_opq.fit(x, iterations=iterations, seed=seed)
        bits = math.log2(math.prod(rq_opq.codebook_sizes))
        subspaces = 4 if dim % 4 == 0 else 2
        size = min(2 ** round(bits / subspaces), 256, 2 ** int(math.log2(len(x))))
        methods["opq"] = OPQ(subspaces, size).fit(x, seed=seed)
    if len(data.u):
        number = np.full(len(data.x), -1, dtype=np.int64)
        number[data.train] = np.arange(len(data.train))
        product = data.product[data.u]
        leaf = np.zeros_like(product) if data.category is None else data.category[product]
        path = np.stack([np.zeros_like(leaf), leaf], axis=1)
        methods["vrq"] = VRQ(dim, config).fit(x, ViewPairs(number[data.u], number[data.v], product, path), seed=seed)
    return methods


class _Measured:
    """Figures of one method: flat means, and one value a product or photo for the intervals."""

    def __init__(self, method: Encoding, data: EncodingData, seed: int) -> None:
        codes = method.encode(data.item)
        buckets = prefix_ids(codes, codes.shape[1])
        size = np.bincount(buckets)[buckets]
        self.metrics = encoding_metrics(codes, method.codebook_sizes, data.category)
        self.values = {"icr": (size == 1).astype(np.float64), "collision_rate": 1 - 1 / size}
        if len(data.photo):
            photos = data.x[data.photo]
            shared = shared_prefix_length(method.encode(photos), codes[data.target])
            for level in range(1, codes.shape[1] + 1):
                self.values[f"vc@{level}"] = (shared >= level).astype(np.float64)
            rank = _ranks(_project(method, photos), method.decode(codes), data.target, seed)
            self.values |= {f"r@{k}": (rank <= k).astype(np.float64) for k in RECALL_CUTOFFS}
        z = _project(method, data.item)
        error = np.square(z - method.decode(codes)).sum(axis=1)
        self.metrics["relative_error"] = float(error.mean() / np.square(z - z.mean(axis=0)).sum(axis=1).mean())
        self.metrics |= {name: float(values.mean()) for name, values in self.values.items()}

    def interval(self, name: str, seed: int = 0) -> Interval | None:
        """Mean and interval of a metric; None where it was not measured."""
        return mean_interval(self.values[name], SAMPLES, seed) if name in self.values else None


def _project(method: Encoding, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors in the space that the method's codes rebuild."""
    project: Any = getattr(method, "project", None)
    if project is None:
        return x
    with torch.inference_mode():
        return project(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def _ranks(
    photos: NDArray[np.float32], rebuilt: NDArray[np.float32], target: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Rank of each photo's own product among all rebuilt vectors; products that are not told apart share the worst."""
    chosen = np.random.default_rng(seed).permutation(len(photos))[:MAX_RECALL_PHOTOS]
    half_norm = np.square(rebuilt).sum(axis=1) / 2
    ranks = []
    for row in np.sort(chosen):
        score = rebuilt @ photos[row] - half_norm
        ranks.append(int((score >= score[target[row]]).sum()))
    return np.array(ranks, dtype=np.int64)


def _main_table(measured: dict[str, _Measured], data: EncodingData) -> ReportTable:
    consistency = [f"vc@{level}" for level in (1, 2, 3)] + [f"r@{k}" for k in RECALL_CUTOFFS]
    names = ["icr", "collision_rate", *(consistency if len(data.photo) else [])]
    rows = []
    for method, found in measured.items():
        cells = [_percent(found.interval(name)) for name in names]
        rows.append([method, *cells, f"{100 * found.metrics['relative_error']:.1f}"])
    caption = (
        f"Percent with 95 % intervals. Collisions over {len(data.item)} products; VC@l and R@k over "
        f"{len(data.target)} held-out photos: the photo shares its product's first l codes; its product's rebuilt "
        "vector is among the k nearest. relative_error: squared error / variance."
    )
    return ReportTable("Encodings", ["method", *names, "relative_error"], rows, caption)


def _level_table(methods: dict[str, Encoding], metrics: dict[str, float]) -> ReportTable:
    names = ("cur", "prefix_cur", "gini", "perplexity", "dead_codes", "cc")
    rows: list[list[Any]] = []
    for method, quantizer in methods.items():
        for level, size in enumerate(quantizer.codebook_sizes, start=1):
            cells = [metrics.get(f"{method}/{name}@{level}") for name in names]
            rows.append([method, level, size, *("" if cell is None else f"{cell:.3g}" for cell in cells)])
    return ReportTable("Codes by level", ["method", "level", "size", *names], rows)


def _difference_table(measured: dict[str, _Measured], seed: int) -> ReportTable:
    """VRQ against every other method on the same photos and products."""
    names = [name for name in measured["vrq"].values if name != "collision_rate"]
    rows = []
    for method, found in measured.items():
        if method == "vrq":
            continue
        cells = []
        for name in names:
            if name not in found.values:
                cells.append("")
                continue
            difference = paired_difference_interval(measured["vrq"].values[name], found.values[name], SAMPLES, seed)
            cells.append(_percent(difference) + (" *" if difference.low > 0 or difference.high < 0 else ""))
        rows.append([f"vrq - {method}", *cells])
    return ReportTable("VRQ against the others", ["difference", *names], rows, "Points; * excludes 0.")


def _collapses(methods: dict[str, Encoding], metrics: dict[str, float]) -> list[str]:
    return [
        f"{method}: level {level} leaves {metrics[f'{method}/dead_codes@{level}']:.0f} of {size} codes unused"
        for method, quantizer in methods.items()
        for level, size in enumerate(quantizer.codebook_sizes, start=1)
        if metrics[f"{method}/dead_codes@{level}"] > DEAD_SHARE * size
    ]


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
