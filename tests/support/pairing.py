"""The `pair` stage on the tiny shop, and versions of it that a test has spoilt."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
from PIL import Image
from support.snapshots import AS_OF, Images, Tables

from onevision.pairing.config import PairingConfig
from onevision.report import StageReport

DAY = timedelta(days=1)
TRAIN_END = AS_OF - 8 * DAY
EXACT = PairingConfig(duplicate_hash_bits=0)


class Pairs:
    """What a run wrote, as data frames."""

    def __init__(self, out: Path, report: StageReport) -> None:
        self.out, self.report = out, report
        self.pairs = pd.read_parquet(out / "image_pairs.parquet")
        self.queries = pd.read_parquet(out / "queries.parquet")
        splits = pd.read_parquet(out / "image_splits.parquet")
        self.split = dict(zip(splits["image_id"], splits["split"], strict=True))

    @property
    def pictures(self) -> set[str]:
        return set(self.pairs["image_a"]) | set(self.pairs["image_b"])


Runner = Callable[..., Pairs]


def with_rows(tables: Tables, name: str, rows: list[dict]) -> Tables:
    """The tables with rows appended to one of them."""
    return tables | {name: pa.concat_tables([tables[name], pa.Table.from_pylist(rows, tables[name].schema)])}


def event(event_id: str, ts: datetime, kind: str, item: str, **columns: object) -> dict:
    base = {"query_id": None, "query_image_id": None, "position": None, "user_id": "u01"}
    return {"event_id": event_id, "ts": ts, "event_type": kind, "item_id": item} | base | columns


def recompress(data: bytes) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(data)).save(stream, "JPEG", quality=60)
    return stream.getvalue()


def replace_picture(images: Images, image_id: str, data: bytes) -> Images:
    return [(name, data if name == image_id else old) for name, old in images]


def photos(tables: Tables, item: str, before: datetime | None = None, after: datetime | None = None) -> list[str]:
    frame = tables["images"].to_pandas().query("view == 'user_photo' and item_id == @item")
    if before is not None:
        frame = frame[frame["created_at"] < before]
    if after is not None:
        frame = frame[frame["created_at"] >= after]
    return list(frame["image_id"])


def item_photographed_on_both_sides(tables: Tables) -> str:
    items = tables["items"]["item_id"].to_pylist()
    return next(i for i in items if photos(tables, i, before=TRAIN_END) and photos(tables, i, after=AS_OF - 4 * DAY))
