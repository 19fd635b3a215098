"""The whole synthetic shop as a snapshot."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC
from pathlib import Path

import numpy as np
import pandas as pd

from onevision.data.config import SnapshotConfig
from onevision.data.snapshot import write_snapshot
from onevision.data.synthetic import oracle
from onevision.data.synthetic.catalogue import (
    DAY,
    END,
    Catalogue,
    categories_table,
    first_day,
    items_table,
    make_catalogue,
    utc,
)
from onevision.data.synthetic.log import make_events, query_image_id
from onevision.data.synthetic.render import Floats
from onevision.data.synthetic.searches import Searches, make_searches
from onevision.data.synthetic.sheet import contact_sheet
from onevision.data.synthetic.shoppers import make_shoppers, users_table
from onevision.data.synthetic.views import (
    MAIN,
    SKU_ANGLE,
    SKU_DETAIL,
    SKU_VARIANT,
    USER_PHOTO,
    VIDEO_FRAME,
    VIEW_NAMES,
    render_images,
)
from onevision.report import StageReport

REVIEWED_SHARE = 0.5
REVIEW_PHOTOS = 2


def write_synthetic_snapshot(out: Path, config: SnapshotConfig, seed: int) -> StageReport:
    """Write a synthetic snapshot to the folder `out`; the same config and seed give the same bytes.

    The report holds counts, the oracle ceilings and a contact sheet; what is in the snapshot is `docs/artifacts.md`'s.
    """
    began = time.perf_counter()
    streams = [np.random.default_rng([seed, 0, part]) for part in range(5)]
    catalogue = make_catalogue(config, streams[0])
    shoppers = make_shoppers(config, streams[1])
    searches = make_searches(config, catalogue, shoppers, streams[2])
    events = make_events(config, catalogue, shoppers, searches, streams[3])
    images, items, kinds = _pictures(config, catalogue, searches, streams[4])
    ceilings = oracle.oracle_metrics(searches)
    digest = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
    tables = {
        "categories": categories_table(),
        "items": items_table(catalogue),
        "images": images,
        "users": users_table(shoppers),
        "events": events,
    }
    jpegs = render_images(catalogue, items, kinds, config.image_size, seed)
    artifact = write_snapshot(
        out,
        tables,
        zip(images["image_id"], jpegs, strict=True),
        snapshot_id=f"synthetic-{digest[:8]}-seed{seed}",
        source="synthetic",
        as_of=END.item().replace(tzinfo=UTC),
        extra={"query_images": "known"},
        extra_files={
            "oracle.json": ceilings,
            "oracle_items.parquet": oracle.oracle_items_table(catalogue),
            "oracle_queries.parquet": oracle.oracle_queries_table(catalogue, searches),
        },
    )
    counts = artifact.counts | {
        f"images_{view}": int((images["view"] == view).sum()) for view in sorted(set(VIEW_NAMES))
    }
    counts |= {f"events_{kind}": int(n) for kind, n in events["event_type"].value_counts().sort_index().items()}
    return StageReport(
        "snapshot",
        counts=counts,
        metrics={f"oracle/{name}": float(value) for name, value in ceilings.items()},
        figures=[contact_sheet(catalogue, config.image_size, seed)],
        seconds=time.perf_counter() - began,
    )


def _pictures(
    config: SnapshotConfig, catalogue: Catalogue, searches: Searches, rng: np.random.Generator
) -> tuple[pd.DataFrame, Floats, Floats]:
    """The contract's `images` table, and for each row the item's row and the kind of picture."""
    n = len(catalogue)
    every = np.arange(n)
    second = np.where(rng.random(n) < 0.7, SKU_DETAIL, SKU_VARIANT)
    reviewed, uploaded = _reviews(config, catalogue, rng)
    item = np.concatenate([every, every, every, reviewed, searches.item])
    kind = np.concatenate(
        [
            np.full(n, MAIN),
            np.full(n, SKU_ANGLE),
            second,
            np.full(len(reviewed), USER_PHOTO),
            np.where(searches.video, VIDEO_FRAME, USER_PHOTO),
        ]
    )
    ids = catalogue.ids
    names = [f"{i}-main" for i in ids] + [f"{i}-sku-0" for i in ids] + [f"{i}-sku-1" for i in ids]
    names += [f"{ids[i]}-review-{turn % REVIEW_PHOTOS}" for turn, i in enumerate(reviewed)]
    names += [query_image_id(q) for q in range(len(searches))]
    created = np.concatenate([np.tile(catalogue.created, 3), uploaded, searches.time])
    table = pd.DataFrame(
        {
            "image_id": names,
            "item_id": np.array(ids, object)[item],
            "view": np.array(VIEW_NAMES, object)[kind],
            "created_at": utc(created),
        }
    )
    return table, item, kind


def _reviews(config: SnapshotConfig, catalogue: Catalogue, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Item rows and upload times of review photos: warm items, before the log's last third."""
    end = first_day(config) + np.timedelta64(config.days * DAY * 2 // 3, "us")
    warm = np.flatnonzero(~catalogue.cold & (catalogue.created < end))
    reviewed = np.repeat(warm[rng.random(len(warm)) < REVIEWED_SHARE], REVIEW_PHOTOS)
    span = (end - catalogue.created[reviewed]).astype(np.int64)
    return reviewed, catalogue.created[reviewed] + (rng.random(len(reviewed)) * span).astype("timedelta64[us]")
