"""Embed every picture of a snapshot with a trained encoder, in shards: stages `embed-shard` and `merge-embeddings`.

`align` embeds in its own process what fits into it. Beyond that it trains alone (`--embed train`), shards embed, and
their merger is an `encoder` artifact with the same weights and all pictures. What the encoder's artifact has embedded
already is taken from there: a refresh pays for new pictures alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from onevision.arrays import ArrayWriter, Layout, concatenate_files
from onevision.artifacts import MANIFEST, REPORTS, copy_tree, finish_artifact, open_artifact, start_artifact
from onevision.data.contract import CATALOGUE_VIEWS
from onevision.data.images import ImageStore, read_pixels
from onevision.data.snapshot import Snapshot
from onevision.encoder.config import EncoderConfig
from onevision.encoder.held import CONTENT, EMBEDDINGS, FILES, IMAGES, TOKENS, HeldPictures, picture_contents
from onevision.encoder.model import EMBED_BATCH, Embedded, Encoder
from onevision.errors import ArtifactError
from onevision.report import StageReport
from onevision.shards import ROWS_A_BATCH, Shard, open_shards, read_rows, write_tables

KIND = "embedding_shard"
COLUMNS = ["image_id", "item_id", "view"]


class Batch(NamedTuple):
    """Embedded pictures from row `first` on."""

    first: int
    embedded: Embedded


def run_shard(
    *, snapshot: Path, pairs: Path, encoder: Path, out: Path, config: EncoderConfig, seed: int, shard: str = "1/1"
) -> StageReport:
    """Embed one shard of a snapshot's pictures in constant memory.

    Checksums of the inputs are not compared: every shard would read the whole snapshot for it.

    Args:
        config, seed: not used; everything is in the encoder.
        shard: such as `2/3`.
    """
    del config, seed
    part = Shard.parse(shard)
    shop = Snapshot.open(snapshot, verify=False)
    parents = {
        "snapshot": shop.artifact,
        "pairs": open_artifact(pairs, "pairs", verify=False),
        "encoder": open_artifact(encoder, "encoder", verify=False),
    }
    model = Encoder.from_pretrained(encoder)
    start_artifact(out)
    file = shop.path / IMAGES
    rows = part.rows(pq.read_metadata(file).num_rows, EMBED_BATCH)
    table = _with_split(read_rows(file, rows, COLUMNS), parents["pairs"].file("image_splits.parquet"))
    image_ids, known = table["image_id"].to_pylist(), _shown_categories(table, shop)
    content = picture_contents(shop.images, image_ids, known)
    pq.write_table(table.append_column(CONTENT, content), out / IMAGES)
    held = HeldPictures(encoder, content)
    _write_arrays(embed_batches(model, shop.images, image_ids, known, held), len(table), out)
    counts = {"images_embedded": len(table), "images_embedded_before": int((held.row >= 0).sum())}
    report = StageReport("embed-shard", counts=counts)
    finish_artifact(out, KIND, parents=parents, counts=report.counts, extra={"shard": str(part)})
    return report


def run_merge(
    *,
    snapshot: Path,
    pairs: Path,
    encoder: Path,
    shards: Sequence[Path],
    out: Path,
    config: EncoderConfig,
    seed: int,
) -> StageReport:
    """Put the shards together beside the encoder's weights; `config` and `seed` are not used."""
    del config, seed
    kinds = {"snapshot": (snapshot, "snapshot"), "pairs": (pairs, "pairs"), "encoder": (encoder, "encoder")}
    parents = {name: open_artifact(path, kind, verify=False) for name, (path, kind) in kinds.items()}
    parts = open_shards(shards, KIND)
    if parts[0].parents != {name: parent.identity for name, parent in parents.items()}:
        raise ArtifactError(f"{parts[0].path}: this shard was embedded from other inputs than those given beside it")
    copy_tree(encoder, start_artifact(out))
    for name in (MANIFEST, *REPORTS, EMBEDDINGS, TOKENS, IMAGES):
        (out / name).unlink(missing_ok=True)
    write_tables(out / IMAGES, (pq.read_table(part.file(IMAGES)) for part in parts))
    for name in (EMBEDDINGS, TOKENS):
        concatenate_files([part.file(name) for part in parts if part.counts["images_embedded"]], out / name)
    sums = {name: sum(part.counts[name] for part in parts) for name in parts[0].counts}
    counts = {"shards": len(parts)} | sums
    report = StageReport("merge-embeddings", counts=counts)
    finish_artifact(out, "encoder", parents=parents, counts=counts)
    return report


def embed_batches(
    encoder: Encoder, images: ImageStore, image_ids: Sequence[str], known: Sequence[str | None], held: HeldPictures
) -> Iterator[Batch]:
    """Decode and embed the pictures that are not held; `known` are their categories, None where it has to guess."""
    for start in tqdm(range(0, len(image_ids), EMBED_BATCH), desc="embed", disable=None):
        row = held.row[start : start + EMBED_BATCH]
        new = np.flatnonzero(row < 0)
        if not len(new):
            yield Batch(start, held.take(row))
            continue
        chosen = [start + int(n) for n in new]
        pixels = read_pixels(images, [image_ids[n] for n in chosen], encoder.image_size)
        embedded = encoder.embed(pixels, [known[n] for n in chosen])
        if len(new) < len(row):
            arrays = held.take(row)._asdict()
            for name, values in embedded._asdict().items():
                arrays[name][new] = values
            embedded = Embedded(**arrays)
        yield Batch(start, embedded)


def _with_split(images: pa.Table, splits: Path) -> pa.Table:
    """Add the column `split`: `unused` for pictures that the file says nothing of."""
    found: NDArray[np.object_] = np.full(len(images), "unused", dtype=object)
    ids = images["image_id"].combine_chunks()
    for batch in pq.ParquetFile(splits).iter_batches(ROWS_A_BATCH, columns=["image_id", "split"]):
        place = pc.index_in(batch["image_id"], ids)
        known = pc.is_valid(place)
        found[place.filter(known).to_numpy()] = batch["split"].filter(known).to_pylist()
    return images.append_column("split", pa.array(found.tolist(), pa.string()))


def _shown_categories(images: pa.Table, shop: Snapshot) -> list[str | None]:
    """The category of a catalogue view's item; None for shoppers' pictures."""
    items = pq.read_table(shop.path / "items.parquet", columns=["item_id", "category_id"])
    category = items["category_id"].combine_chunks().take(pc.index_in(images["item_id"], items["item_id"]))
    shown = pc.is_in(images["view"], pa.array(CATALOGUE_VIEWS))
    categories: list[str | None] = pc.if_else(shown, category, None).to_pylist()
    return categories


def _write_arrays(batches: Iterator[Batch], rows: int, out: Path) -> None:
    writers: dict[str, ArrayWriter] = {}
    try:
        for first, embedded in batches:
            arrays = embedded._asdict()
            for file in dict.fromkeys(FILES.values()):
                if file not in writers:
                    layout = {
                        name: Layout(array.dtype, (rows, *array.shape[1:]))
                        for name, array in arrays.items()
                        if FILES[name] == file
                    }
                    writers[file] = ArrayWriter(out / file, layout)
            for name, array in arrays.items():
                writers[FILES[name]].write(name, first, array)
    finally:
        for writer in writers.values():
            writer.close()
