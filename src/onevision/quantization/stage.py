"""Stage `train-vrq`: learn the codebooks, and show them beside residual k-means on the same vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.numpy import load_file

from onevision.artifacts import file_sha256, finish_artifact, open_artifact, start_artifact, write_json
from onevision.data.categories import CategoryTree
from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.snapshot import Snapshot
from onevision.errors import OneVisionError
from onevision.metrics.encoding import PERPLEXITY_SHARE, encoding_metrics, perplexity, view_consistency
from onevision.quantization.config import QuantizationConfig
from onevision.quantization.residual import ResidualKMeans, ResidualQuantizer
from onevision.quantization.view_pairs import ViewPairs
from onevision.quantization.vrq import VRQ
from onevision.report import Figure, StageReport
from onevision.reporting.charts import bar_panels, grouped_bars, line_chart


@dataclass
class Embedded:
    """Embedded pictures with their products: what quantisers are trained and measured on."""

    embedding: NDArray[np.float32]
    images: pa.Table
    category: dict[str, str]
    tree: CategoryTree

    @classmethod
    def load(cls, snapshot: Snapshot, encoder: Path) -> Embedded:
        """Read the `encoder` artifact beside the snapshot that it was made from."""
        items = snapshot.table("items")
        return cls(
            load_file(encoder / "embeddings.safetensors")["embedding"],
            pq.read_table(encoder / "images.parquet"),
            dict(zip(items["item_id"].to_pylist(), items["category_id"].to_pylist(), strict=True)),
            CategoryTree.from_table(snapshot.table("categories")),
        )

    def column(self, name: str) -> NDArray[np.object_]:
        """A column of the picture table."""
        return np.array(self.images[name].to_pylist(), dtype=object)


def run(*, snapshot: Path, pairs: Path, encoder: Path, out: Path, config: QuantizationConfig, seed: int) -> StageReport:
    """Fit VRQ and residual k-means, measure both on held-out pictures, save VRQ."""
    shop = Snapshot.open(snapshot)
    pairs_artifact, encoder_artifact = open_artifact(pairs, "pairs"), open_artifact(encoder, "encoder")
    start_artifact(out)
    data = Embedded.load(shop, encoder)
    train = np.flatnonzero(data.column("split") == "train")
    view_pairs = read_view_pairs(data, pq.read_table(pairs_artifact.file("image_pairs.parquet")), train)
    x = np.ascontiguousarray(data.embedding[train])
    largest = max(config.codebook_sizes)
    if len(x) < largest:
        raise OneVisionError(
            f"{len(x)} training pictures cannot fill a codebook of {largest} codes: lower quantization.codebook_sizes"
        )
    if config.view_levels and not len(view_pairs.u):
        raise OneVisionError(f"{pairs}: no two training pictures show one product; VRQ learns from such pairs")
    vrq = VRQ(x.shape[1], config).fit(x, view_pairs, seed=seed)
    baseline = ResidualKMeans(
        x.shape[1], config.codebook_sizes, opq_subspaces=config.opq_subspaces, opq_size=config.opq_size
    ).fit(x, iterations=config.kmeans_iterations, seed=seed)
    vrq.save(out)
    metrics = {
        f"{name}/{key}": value
        for name, quantizer in (("vrq", vrq), ("rq_kmeans", baseline))
        for key, value in measure(quantizer, data).items()
    }
    write_json(out / "metrics.json", metrics)
    report = StageReport(
        "train-vrq",
        counts={
            "pictures_trained": len(train),
            "view_pairs_trained": len(view_pairs.u),
            "codes_restarted": vrq.restarted_codes_,
        },
        metrics=metrics,
        warnings=check_collapse(vrq, x, config),
        figures=_figures(vrq, x, metrics),
    )
    generation = file_sha256(out / "model.safetensors")[:16]
    parents = {"snapshot": shop.artifact, "pairs": pairs_artifact, "encoder": encoder_artifact}
    finish_artifact(out, "quantizer", parents=parents, counts=report.counts, generation=generation)
    return report


def read_view_pairs(data: Embedded, image_pairs: pa.Table, train: NDArray[np.int64]) -> ViewPairs:
    """Pairs of training pictures of one product, as rows of `train`; other pairs (clicks) do not share an ID."""
    row_of = {image: n for n, image in enumerate(data.column("image_id")[train])}
    number: dict[str, int] = {}
    category = {name: n for n, name in enumerate(sorted(set(data.category.values())))}
    found = [
        (
            row_of[pair["image_a"]],
            row_of[pair["image_b"]],
            number.setdefault(pair["item_b"], len(number)),
            category[data.category[pair["item_b"]]],
        )
        for pair in image_pairs.select(["image_a", "image_b", "item_a", "item_b"]).to_pylist()
        if pair["image_a"] in row_of and pair["image_b"] in row_of and pair["item_a"] == pair["item_b"]
    ]
    return ViewPairs(*np.array(found, np.int64).reshape(-1, 4).T)


def measure(quantizer: ResidualQuantizer, data: Embedded) -> dict[str, float]:
    """Encoding metrics of the catalogue (an item's mean catalogue picture) and view consistency of held-out photos.

    `vc@l` is over validation and test photos and the main picture of their product, `cold_vc@l` over those whose
    product was never trained on.
    """
    owner, view, split = data.column("item_id"), data.column("view"), data.column("split")
    catalogue = np.flatnonzero(np.isin(view, CATALOGUE_VIEWS) & (owner != None))  # noqa: E711
    items = sorted(set(owner[catalogue]))
    number = {item: n for n, item in enumerate(items)}
    index = np.array([number[o] for o in owner[catalogue]])
    mean = np.zeros((len(items), data.embedding.shape[1]), np.float32)
    np.add.at(mean, index, data.embedding[catalogue])
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    result = encoding_metrics(quantizer.encode(mean), quantizer.codebook_sizes, [data.category[item] for item in items])
    main = {o: r for r, o in zip(catalogue, owner[catalogue], strict=True) if view[r] == "main"}
    photos = np.array([r for r in np.flatnonzero(np.isin(split, ("validation", "test"))) if owner[r] in main], int)
    cold_items = set(owner[split == "catalogue_cold"]) - set(owner[catalogue][split[catalogue] == "train"])
    cold = np.array([owner[r] in cold_items for r in photos], dtype=bool)
    for name, rows in (("vc", photos), ("cold_vc", photos[cold])):
        if len(rows):
            codes = (
                quantizer.encode(data.embedding[rows]),
                quantizer.encode(data.embedding[[main[owner[r]] for r in rows]]),
            )
            result |= {f"{name}@{n}": float(v) for n, v in enumerate(view_consistency(*codes), 1)}
    return result


def check_collapse(quantizer: ResidualQuantizer, x: NDArray[np.float32], config: QuantizationConfig) -> list[str]:
    """Collapse alarm: fail if training pictures leave more than `dead_code_share` of a level's codes unused."""
    codes = quantizer.encode(x)
    warnings = []
    evenly = perplexity(codes, quantizer.codebook_sizes)
    for level, size in enumerate(quantizer.codebook_sizes):
        used = len(np.unique(codes[:, level]))
        if size - used > config.dead_code_share * size:
            raise OneVisionError(
                f"codebook collapse: level {level + 1} uses {used} of {size} codes. Lower its size "
                "(quantization.codebook_sizes) or quantization.agreement_weight, or raise quantization.usage_floor."
            )
        if used < size:
            warnings.append(f"level {level + 1} leaves {size - used} of {size} codes unused")
        if evenly[level] < PERPLEXITY_SHARE * size:
            warnings.append(f"level {level + 1} uses {size} codes like {evenly[level]:.1f} (perplexity)")
    return warnings


def _figures(vrq: VRQ, x: NDArray[np.float32], metrics: dict[str, float]) -> list[Figure]:
    codes = vrq.encode(x)
    usage = {
        f"level {level + 1}": np.sort(np.bincount(codes[:, level], minlength=size))[::-1].tolist()
        for level, size in enumerate(vrq.codebook_sizes)
    }
    levels = range(1, len(vrq.codebook_sizes) + 1)
    agreement = {
        system: [metrics.get(f"{system}/vc@{level}", 0.0) for level in levels] for system in ("vrq", "rq_kmeans")
    }
    steps = list(range(len(next(iter(vrq.loss_curve_.values()), []))))
    use = bar_panels(usage, title="Codebook use", x_label="code, by use", y_label="training pictures")
    views = grouped_bars(
        [f"VC@{level}" for level in levels], agreement, title="Code agreement between views", y_label="held-out photos"
    )
    losses = line_chart(steps, vrq.loss_curve_, title="VRQ losses", x_label="checkpoint", y_label="weighted loss")
    return [
        Figure("Codebook use", "svg", use, "Training pictures on each code, the most used first."),
        Figure("Code agreement between views", "svg", views, "Held-out photos that share their product's first codes."),
        Figure("VRQ losses", "svg", losses, "Weighted losses during training."),
    ]
