"""Stage `align`: train the encoder on pairs of views, then embed every picture of the snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor
from tqdm import tqdm

from onevision.artifacts import finish_artifact, open_artifact, start_artifact
from onevision.checkpoint import Checkpoint
from onevision.code_version import code_hash
from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.images import load_pixels, read_pixels
from onevision.data.snapshot import Snapshot
from onevision.distributed import Group, open_group, split_rows
from onevision.encoder.augmentation import draw_moves, move
from onevision.encoder.config import EncoderConfig
from onevision.encoder.distributed import share_batch_norm, split_products
from onevision.encoder.held import CONTENT, EMBEDDINGS, IMAGES, TOKENS, picture_contents
from onevision.encoder.lda import fit_lda
from onevision.encoder.measures import Neighbours, clicked_item_recall, family_recall, own_item_recall
from onevision.encoder.model import EMBED_BATCH, Embedded, Encoder, EncoderOutput, join, to_arrays
from onevision.encoder.sampler import Batch, TrainingViews, collect_views
from onevision.encoder.training import EncoderTraining, LossCurve
from onevision.errors import OneVisionError
from onevision.report import Figure, StageReport
from onevision.reporting.charts import line_chart

ORACLE_ITEMS = "oracle_items.parquet"


@dataclass
class Pictures:
    """The picture table of a snapshot with what training needs to know, row by row."""

    table: pa.Table
    split: list[str]
    category: list[str | None]
    catalogue: NDArray[np.bool_]

    @property
    def train_rows(self) -> NDArray[np.int64]:
        """Rows that may be trained on."""
        return np.flatnonzero(np.array(self.split) == "train")

    @property
    def shown_categories(self) -> list[str | None]:
        """What the encoder is told: the category of a catalogue view's product, None for shoppers' pictures."""
        return [c if shown else None for c, shown in zip(self.category, self.catalogue, strict=True)]

    def take(self, rows: NDArray[np.int64]) -> Pictures:
        """Some of the pictures."""
        split, category = [self.split[r] for r in rows], [self.category[r] for r in rows]
        return Pictures(self.table.take(pa.array(rows)), split, category, self.catalogue[rows])


def run(*, snapshot: Path, pairs: Path, out: Path, config: EncoderConfig, seed: int, embed: str = "all") -> StageReport:
    """Train the encoder and embed every picture; see docs/artifacts.md for what is written.

    Under `torchrun` every process comes here with the same arguments; only process 0 writes.

    Args:
        embed: `all` pictures, or only those that may be trained on (`train`): shards embed all of them later.
    """
    if embed not in ("all", "train"):
        raise OneVisionError(f"align --embed {embed}: it is all or train")
    with open_group() as group:
        shop = Snapshot.open(snapshot)
        pairs_artifact = open_artifact(pairs, "pairs")
        if group.rank == 0:
            start_artifact(out)
        torch.manual_seed(seed)
        pictures = read_pictures(shop, pairs)
        categories = sorted({c for c in pictures.category if c is not None})
        if embed == "train":
            pictures = pictures.take(pictures.train_rows)
        train_ids = set(np.array(pictures.table["image_id"].to_pylist(), dtype=object)[pictures.train_rows])
        image_pairs = pq.read_table(pairs_artifact.file("image_pairs.parquet"))
        views = collect_views(pictures.table, train_ids, image_pairs, co_clicks=config.co_clicks)
        if len(views.items) < group.size:
            raise OneVisionError(f"{len(views.items)} products for {group.size} processes: a batch is split by product")
        encoder = Encoder(config, categories).to(group.device)
        work = [config.model_dump(), seed, shop.artifact.identity, pairs_artifact.identity, code_hash(__name__)]
        checkpoint = Checkpoint.of("align", out, [*work, torch.__version__, encoder.fingerprint()])
        train = _train_frozen if encoder.tower.frozen else _train_tower
        curve, embedded = train(encoder, shop, pictures, views, seed, group, checkpoint)
        if group.rank > 0:
            return StageReport("align")
    if config.lda_shrinkage is not None:
        embedded = _apply_lda(encoder, embedded, views)
    encoder.save_pretrained(out)
    save_file({"embedding": embedded.embedding, "category": embedded.category}, out / EMBEDDINGS)
    save_file({"tokens": embedded.tokens}, out / TOKENS)
    table = pictures.table.select(["image_id", "item_id", "view"]).append_column("split", pa.array(pictures.split))
    if embed == "all":  # shards promise the bytes of one process, so they embed what was trained on again
        content = picture_contents(shop.images, table["image_id"].to_pylist(), pictures.shown_categories)
        table = table.append_column(CONTENT, content)
    pq.write_table(table, out / IMAGES)
    queries = pq.read_table(pairs_artifact.file("queries.parquet"))
    report = StageReport(
        "align",
        counts={
            "images_in": len(table),
            "images_embedded": len(embedded.embedding),
            "images_trained": len(np.concatenate(views.catalogue + views.shopper)),
            "images_not_trained": len(table) - len(np.concatenate(views.catalogue + views.shopper)),
            "products_trained": len(views.items),
            "products_with_clicked_neighbours": len(views.neighbours),
        },
        metrics=_measure(embedded.embedding, pictures, set(views.items), queries, shop),
        figures=[_loss_figure(curve)],
    )
    finish_artifact(out, "encoder", parents={"snapshot": shop.artifact, "pairs": pairs_artifact}, counts=report.counts)
    checkpoint.remove()
    return report


def read_pictures(shop: Snapshot, pairs: Path) -> Pictures:
    """Join the picture table with its splits and its products' categories."""
    table = shop.table("images")
    splits = pq.read_table(pairs / "image_splits.parquet")
    split_of = dict(zip(splits["image_id"].to_pylist(), splits["split"].to_pylist(), strict=True))
    items = shop.table("items")
    category_of = dict(zip(items["item_id"].to_pylist(), items["category_id"].to_pylist(), strict=True))
    return Pictures(
        table,
        [split_of.get(image, "unused") for image in table["image_id"].to_pylist()],
        [category_of.get(item) for item in table["item_id"].to_pylist()],
        np.isin(np.array(table["view"].to_pylist()), CATALOGUE_VIEWS),
    )


def _train_tower(
    encoder: Encoder,
    shop: Snapshot,
    pictures: Pictures,
    views: TrainingViews,
    seed: int,
    group: Group,
    checkpoint: Checkpoint,
) -> tuple[LossCurve, Embedded]:
    """Train tower and head from pixels; then decode and embed everything in chunks."""
    rows = pictures.train_rows
    image_ids = pictures.table["image_id"].to_pylist()
    pixels = load_pixels(shop.images, [image_ids[r] for r in rows], encoder.image_size)
    position = np.full(len(image_ids), -1)
    position[rows] = np.arange(len(rows))
    if group.size > 1:
        share_batch_norm(encoder.tower)

    def pooled(batch: Batch, rng: np.random.Generator) -> Tensor:
        bounds = split_products(batch.product, group.size)
        mine = group.share(bounds)
        picture = torch.from_numpy(pixels[position[batch.rows[mine]]]).to(group.device)
        if encoder.config.augmentation == "affine":
            moves = draw_moves(len(batch.rows), rng)[mine]
            picture = move(picture, torch.from_numpy(moves).to(group.device))
        return group.gather(encoder.tower(picture).pooled, bounds)

    known = _known(encoder, pictures)
    training = EncoderTraining(encoder, views, known, pictures.catalogue, pooled, seed=seed, group=group)
    return training.run(checkpoint), embed_pictures(encoder, shop, pictures, group)


def _train_frozen(
    encoder: Encoder,
    shop: Snapshot,
    pictures: Pictures,
    views: TrainingViews,
    seed: int,
    group: Group,
    checkpoint: Checkpoint,
) -> tuple[LossCurve, Embedded]:
    """Run the frozen tower once over every picture, train the head on what it gives."""
    outputs = [
        encoder.look(torch.from_numpy(pixels).to(group.device))
        for pixels, _ in _picture_batches(encoder, shop, pictures, group, "tower")
    ]
    bounds = split_rows(len(pictures.table), group.size)
    features = group.gather(torch.cat([output.pooled for output in outputs]), bounds)
    tokens = group.gather(torch.cat([output.tokens for output in outputs]).half(), bounds)
    known = _known(encoder, pictures)

    def pooled(batch: Batch, rng: np.random.Generator) -> Tensor:  # noqa: ARG001
        return features[torch.from_numpy(batch.rows).to(group.device)]

    training = EncoderTraining(encoder, views, known, pictures.catalogue, pooled, seed=seed, group=group)
    curve = training.run(checkpoint)
    with torch.inference_mode():
        shown = torch.from_numpy(np.where(pictures.catalogue, known, -1)).to(group.device)
        return curve, to_arrays(EncoderOutput(*encoder.fuse(features, shown), tokens))


def embed_pictures(encoder: Encoder, shop: Snapshot, pictures: Pictures, group: Group) -> Embedded:
    """Embed every picture: catalogue views with their known category, others with the predicted mixture."""
    parts, known = [], pictures.shown_categories
    for batch, rows in _picture_batches(encoder, shop, pictures, group, "embed"):
        parts.append(encoder.embed(batch, known[rows.start : rows.stop]))
    bounds = split_rows(len(pictures.table), group.size)
    local = [torch.from_numpy(array).to(group.device) for array in join(parts)]
    return Embedded(*(group.gather(tensor, bounds).cpu().numpy() for tensor in local))


def _apply_lda(encoder: Encoder, embedded: Embedded, views: TrainingViews) -> Embedded:
    """Fit the encoder's LDA on its training pictures, and apply it to what is embedded already."""
    assert encoder.lda is not None
    assert encoder.config.lda_shrinkage is not None
    of_product = [np.concatenate(pair) for pair in zip(views.catalogue, views.shopper, strict=True)]
    product = np.repeat(np.arange(len(of_product)), [len(rows) for rows in of_product])
    mapping = fit_lda(embedded.embedding[np.concatenate(of_product)], product, encoder.config.lda_shrinkage)
    encoder.lda.copy_(torch.from_numpy(mapping))
    embedding = encoder.apply_lda(torch.from_numpy(embedded.embedding).to(encoder.device))
    return embedded._replace(embedding=embedding.cpu().numpy())


def _picture_batches(
    encoder: Encoder, shop: Snapshot, pictures: Pictures, group: Group, what: str
) -> Iterator[tuple[NDArray[np.uint8], range]]:
    """Pixels of this process's share of the pictures, and their rows."""
    image_ids = pictures.table["image_id"].to_pylist()
    mine = group.share(split_rows(len(image_ids), group.size))
    for start in tqdm(range(mine.start, mine.stop, EMBED_BATCH), desc=what, disable=None):
        rows = range(start, min(start + EMBED_BATCH, mine.stop))
        yield read_pixels(shop.images, [image_ids[row] for row in rows], encoder.image_size), rows


def _known(encoder: Encoder, pictures: Pictures) -> NDArray[np.int64]:
    return encoder.category_rows(pictures.category).numpy()


def _measure(
    embedding: NDArray[np.float32], pictures: Pictures, trained: set[str], queries: pa.Table, shop: Snapshot
) -> dict[str, float]:
    """What held-out photos find; look-alikes only where the snapshot tells which items are (the synthetic shop)."""
    owner = pictures.table["item_id"].to_pylist()
    held_out = np.flatnonzero(np.isin(pictures.split, ("validation", "test")) & ~pictures.catalogue)
    neighbours = Neighbours.find(embedding, owner, pictures.catalogue, held_out)
    image_row = {image: row for row, image in enumerate(pictures.table["image_id"].to_pylist())}
    metrics = own_item_recall(neighbours, owner, pictures.split, trained)
    metrics |= clicked_item_recall(neighbours, queries, image_row)
    if (shop.path / ORACLE_ITEMS).is_file():
        oracle = pq.read_table(shop.path / ORACLE_ITEMS, columns=["item_id", "family"])
        family = dict(zip(*(column.to_pylist() for column in oracle.columns), strict=True))
        metrics |= family_recall(neighbours, owner, pictures.split, family)
    return metrics


def _loss_figure(curve: LossCurve) -> Figure:
    # Circle loss joins late: pad its curve in front.
    series: dict[str, list[float | None]] = {
        name: [None] * (len(curve.steps) - len(values)) + list(values) for name, values in curve.values.items()
    }
    svg = line_chart(curve.steps, series, title="Alignment loss")
    return Figure("Alignment loss", "svg", svg, "Training loss by optimiser step; circle loss joins after its warm-up.")
