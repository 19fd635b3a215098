"""Encoding report: how well VRQ and its peers encode anybody's embeddings. No images needed.

Every method is fitted on the same rows with a like budget. Collisions are counted over products; view consistency and
recall are measured on products that no method was fitted on.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from onevision.artifacts import write_json
from onevision.errors import OneVisionError
from onevision.metrics import Interval
from onevision.metrics.encoding import PERPLEXITY_SHARE
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.encoding import Encoding
from onevision.quantization.encoding_inputs import EncodingData
from onevision.quantization.encoding_measures import RECALL_CUTOFFS, Measured
from onevision.quantization.methods import fit_methods
from onevision.report import Figure, ReportTable, StageReport
from onevision.reporting.charts import grouped_bars

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
VRQ_STEPS = 400
DEAD_SHARE = 0.05


def encoding_report(
    data: EncodingData,
    config: QuantizationConfig | None = None,
    *,
    out: Path | None = None,
    ablations: bool = False,
    fits: int = 1,
    seed: int = 7,
) -> StageReport:
    """Fit every method on the embeddings and report its encoding metrics with 95 % intervals.

    Args:
        data: from files (`read_encoding_data`) or a run (`run_encoding_data`); without pairs there is no VRQ.
        config: sizes and training; by default chosen by the number of products.
        out: folder for `report.json` and `metrics.json`.
        ablations: also VRQ without each part that is on, and with each that is off.
        fits: so often every method is fitted, by seeds from `seed` on; figures are means, intervals for other fits too.

    Raises:
        OneVisionError: fewer rows than codes.
    """
    began = time.perf_counter()
    config = config or default_config(data)
    if max(config.codebook_sizes) > len(data.train):
        raise OneVisionError(
            f"{len(data.train)} training rows cannot fill a codebook of {max(config.codebook_sizes)} codes"
        )
    x, fitted = data.x[data.train], []
    for fit in tqdm(range(fits), desc="encoding-report", unit="fit", disable=None):
        fitted.append(fit_methods(x, data.pairs, config, ablations=ablations, seed=seed + fit))
    methods = fitted[0]
    measured = {name: Measured([of_fit[name] for of_fit in fitted], data, seed) for name in methods}
    metrics = {f"{name}/{key}": value for name, found in measured.items() for key, value in found.metrics.items()}
    tables = [_main_table(measured, data, fits)]
    if "vrq" in measured and len(data.photo):
        tables.append(_difference_table(measured, seed))
    if data.kinds:
        tables.append(_kind_table(measured, data))
    tables.append(_level_table(methods, metrics))
    report = StageReport(
        "encoding-report",
        counts={
            "rows": len(data.x),
            "products": len(data.item),
            "training_rows": len(data.train),
            "training_pairs": len(data.pairs.u),
            "held_out_products": len(set(data.target.tolist())),
            "held_out_photos": len(data.photo),
            "fits": fits,
        },
        metrics=metrics,
        warnings=_left_out(data, config, ablations=ablations) + _collapses(methods, metrics),
        tables=tables,
        figures=[_agreement(measured)] if len(data.photo) else [],
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


def default_config(data: EncodingData, codebook_sizes: tuple[int, ...] | None = None) -> QuantizationConfig:
    """Recipe for these embeddings: sizes and OPQ by the number of products."""
    products, dim = data.item.shape
    opq_size = 256 if products >= LARGE_CATALOGUE else 16
    return QuantizationConfig(
        codebook_sizes=codebook_sizes or default_codebook_sizes(products),
        opq_subspaces=2 if dim % 2 == 0 and len(data.train) >= opq_size else 0,
        opq_size=opq_size,
        steps=VRQ_STEPS,
    )


def _main_table(measured: dict[str, Measured], data: EncodingData, fits: int) -> ReportTable:
    consistency = [f"vc@{level}" for level in (1, 2, 3)] + [f"r@{k}" for k in RECALL_CUTOFFS]
    names = ["icr", "collision_rate", *(consistency if len(data.photo) else [])]
    rows = []
    for method, found in measured.items():
        cells = [_percent(found.interval(name)) for name in names]
        error, bits = found.metrics["relative_error"], found.metrics["bits"]
        rows.append([method, f"{bits:.0f}", *cells, f"{100 * error:.1f}"])
    drawn = f"products and {fits} fits" if fits > 1 else "products"
    caption = (
        f"Percent with 95 % intervals over {drawn}. Collisions over {len(data.item)} products; VC@l and R@k over "
        f"{len(data.photo)} photos of products {_held_out(data)}: the photo shares the first l codes of its "
        "product's item vector (the mean of the product's pictures); its product's rebuilt vector is among the k "
        "nearest. relative_error: squared error / variance, in the space that the codes rebuild."
    )
    return ReportTable("Encodings", ["method", "bits", *names, "relative_error"], rows, caption)


def _held_out(data: EncodingData) -> str:
    """What nothing was trained on: the photos' products, or the photos alone."""
    seen = np.isin(data.target, data.product[data.train]).any()
    return "whose other pictures were trained on" if seen else "held out"


def _kind_table(measured: dict[str, Measured], data: EncodingData) -> ReportTable:
    """View consistency of held-out pairs of pictures by kind, and VRQ's lead on the same pairs."""
    rows: list[list[Any]] = []
    vrq = measured.get("vrq")
    for kind, ends in data.kinds.items():
        for method, found in measured.items():
            cells = []
            for name in (f"vc@1/{kind}", f"vc@2/{kind}"):
                cells.append(_percent(found.interval(name)))
                cells.append(_marked(vrq.difference(found, name)) if vrq and method != "vrq" else "")
            rows.append([kind, len(ends), method, *cells])
    columns = ["pair", "pairs", "method", "vc@1", "vrq - it", "vc@2", "vrq - it"]
    caption = (
        f"Two pictures of one product {_held_out(data)} share their first codes. A product counts once, with its mean."
    )
    return ReportTable("View consistency by kind of pair", columns, rows, caption)


def _level_table(methods: dict[str, Encoding], metrics: dict[str, float]) -> ReportTable:
    names = ("cur", "prefix_cur", "gini", "perplexity", "prefix_perplexity", "dead_codes", "cc")
    rows: list[list[Any]] = []
    for method, quantizer in methods.items():
        for level, size in enumerate(quantizer.codebook_sizes, start=1):
            cells = [metrics.get(f"{method}/{name}@{level}") for name in names]
            rows.append([method, level, size, *("" if cell is None else f"{cell:.3g}" for cell in cells)])
    return ReportTable("Codes by level", ["method", "level", "size", *names], rows)


def _difference_table(measured: dict[str, Measured], seed: int) -> ReportTable:
    """VRQ against every other method on the same products."""
    vrq = measured["vrq"]
    names = [name for name in vrq.values if name != "collision_rate" and "/" not in name]
    rows = [
        [f"vrq - {method}", *(_marked(vrq.difference(found, name, seed)) for name in names)]
        for method, found in measured.items()
        if method != "vrq"
    ]
    return ReportTable("VRQ against the others", ["difference", *names], rows, "Points; * excludes 0.")


def _agreement(measured: dict[str, Measured]) -> Figure:
    shown = {name: found for name, found in measured.items() if not name.startswith("vrq_with")}
    heights = {
        f"VC@{level}": [100 * found.metrics.get(f"vc@{level}", 0.0) for found in shown.values()] for level in (1, 2)
    }
    names = [name.replace("_", "\n") for name in shown]
    title = "View consistency"
    chart = grouped_bars(names, heights, title=title, y_label="% of held-out photos")
    return Figure(title, "svg", chart, "Held-out photos that share the first code, or two, of their product.")


def _left_out(data: EncodingData, config: QuantizationConfig, *, ablations: bool) -> list[str]:
    dim, found = data.x.shape[1], []
    if dim % 2 and not config.opq_subspaces:
        found.append(f"d = {dim} is odd: OPQ, which halves it, is left out")
    if ablations and data.pairs.category is None:
        found.append("categories are not known: VRQ with a category loss is left out")
    return found


def _collapses(methods: dict[str, Encoding], metrics: dict[str, float]) -> list[str]:
    """Levels with more than 5 % dead codes, or a perplexity below half of their codes."""
    found = []
    for method, quantizer in methods.items():
        for level, size in enumerate(quantizer.codebook_sizes, start=1):
            dead, perplexity = (metrics[f"{method}/{name}@{level}"] for name in ("dead_codes", "perplexity"))
            if dead > DEAD_SHARE * size:
                found.append(f"{method}: level {level} leaves {dead:.0f} of {size} codes unused")
            if perplexity < PERPLEXITY_SHARE * size:
                found.append(f"{method}: level {level} uses {size} codes like {perplexity:.1f} (perplexity)")
    return found


def _percent(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.mean:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _marked(difference: Interval | None) -> str:
    """A difference in points, with a star where its interval excludes 0."""
    if difference is None:
        return ""
    return _percent(difference) + (" *" if difference.low > 0 or difference.high < 0 else "")
