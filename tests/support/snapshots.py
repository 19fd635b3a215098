"""A tiny handmade shop for tests: a few dozen items, drawn pictures, shoppers who mostly click what they photograph.

Every item has a colour pattern of its own, so that its views look alike and other items do not; the last eighth of
the items and the last two users are cold (they enter during the last two days), one search in five clicks another
item of the same leaf, and some clicks become carts and orders.
"""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from onevision.artifacts import Artifact
from onevision.data.contract import TABLES
from onevision.data.snapshot import write_snapshot

AS_OF = datetime(2026, 1, 13, tzinfo=UTC)
COLD_DAYS = 2
PICTURE_SIZE = 48
SHOWN = 6

Tables = dict[str, pa.Table]
Images = list[tuple[str, bytes]]


def make_snapshot(
    path: Path, seed: int = 0, items: int = 24, users: int = 12, days: int = 12, queries: int = 80
) -> Artifact:
    """Write the tiny shop as a snapshot artifact."""
    tables, images = make_tables(seed, items, users, days, queries)
    return save_snapshot(path, tables, images)


def save_snapshot(path: Path, tables: Tables, images: Images) -> Artifact:
    """Write tables (changed by a test, perhaps) and pictures as a snapshot of the tiny shop's date."""
    return write_snapshot(path, tables, images, snapshot_id="tiny-2026-01-13", source="folder", as_of=AS_OF)


def make_tables(
    seed: int = 0, items: int = 24, users: int = 12, days: int = 12, queries: int = 80
) -> tuple[Tables, Images]:
    """The tiny shop's tables in the contract's schemas, and its pictures as (image_id, JPEG bytes)."""
    tables, images = _make(seed, items, users, days, queries)
    return dict(tables), list(images)


@cache
def _make(seed: int, items: int, users: int, days: int, queries: int) -> tuple[Tables, Images]:
    rng = np.random.default_rng(seed)
    start = AS_OF - timedelta(days=days)
    cold_items, cold_users = max(1, items // 8), 2
    item_rows = [
        _item(i, start if i < items - cold_items else AS_OF - timedelta(days=COLD_DAYS), rng) for i in range(items)
    ]
    user_rows = [_user(u, start if u < users - cold_users else AS_OF - timedelta(days=COLD_DAYS)) for u in range(users)]
    image_rows: list[dict] = []
    images: Images = []
    for item in item_rows:
        for view in ("main", "sku", "video_frame"):
            _add_picture(image_rows, images, item, view, item["created_at"], rng)
    events: list[dict] = []
    times = start + np.sort(rng.uniform(0.01, 0.98, queries)) * timedelta(days=days)
    for number, time in enumerate(times):
        _search(f"q{number:04d}", time, item_rows, user_rows, image_rows, images, events, rng)
    rows = {
        "categories": _categories(),
        "items": item_rows,
        "images": image_rows,
        "users": user_rows,
        "events": events,
    }
    return {name: pa.Table.from_pylist(rows[name], schema=TABLES[name].schema) for name in TABLES}, images


def draw_picture(item: str, rng: np.random.Generator, noise: float = 25.0) -> bytes:
    """A JPEG of the item's own pattern of colours, disturbed by `noise` (0..255)."""
    pattern = np.random.default_rng(int.from_bytes(item.encode(), "little")).uniform(40, 215, (5, 5, 3))
    shown = np.clip(pattern + rng.normal(0, noise, pattern.shape), 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(shown).resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.BICUBIC).save(stream, "JPEG")
    return stream.getvalue()


def _categories() -> list[dict]:
    departments = [{"category_id": f"d{d}", "name": f"department {d}", "parent_id": None} for d in range(2)]
    leaves = [{"category_id": f"c{c}", "name": f"category {c}", "parent_id": f"d{c // 2}"} for c in range(4)]
    return departments + leaves


def _item(number: int, entered: datetime, rng: np.random.Generator) -> dict:
    return {
        "item_id": f"i{number:03d}",
        "title": f"item {number}",
        "category_id": f"c{number % 4}",
        "brand": f"brand {number % 3}",
        "price": round(float(rng.uniform(1, 100)), 2),
        "in_stock": bool(rng.random() < 0.9),
        "created_at": entered,
    }


def _user(number: int, entered: datetime) -> dict:
    return {"user_id": f"u{number:02d}", "created_at": entered, "segment": ("new", "regular")[number % 2]}


def _add_picture(
    rows: list[dict], images: Images, item: dict, view: str, time: datetime, rng: np.random.Generator
) -> str:
    image_id = f"p{len(rows):04d}"
    rows.append({"image_id": image_id, "item_id": item["item_id"], "view": view, "created_at": time})
    images.append((image_id, draw_picture(item["item_id"], rng)))
    return image_id


def _search(
    query_id: str,
    time: datetime,
    items: list[dict],
    users: list[dict],
    image_rows: list[dict],
    images: Images,
    events: list[dict],
    rng: np.random.Generator,
) -> None:
    on_sale = [item for item in items if item["created_at"] <= time]
    shopper = rng.choice([user["user_id"] for user in users if user["created_at"] <= time])
    wanted = on_sale[rng.integers(len(on_sale))]
    picture = _add_picture(image_rows, images, wanted, "user_photo", time, rng)
    same_leaf = [i["item_id"] for i in on_sale if i["category_id"] == wanted["category_id"] and i is not wanted]
    shown = [wanted["item_id"], *rng.permutation(same_leaf)[: SHOWN - 1]]
    clicked = [shown[0] if rng.random() < 0.8 or len(shown) == 1 else shown[1]]
    if rng.random() < 0.3 and len(shown) > 2:
        clicked.append(shown[2])
    acts = [("impression", item) for item in shown] + [("click", item) for item in clicked]
    acts += [("cart", item) for item in clicked[:1] if rng.random() < 0.5]
    acts += [("order", item) for kind, item in acts if kind == "cart" and rng.random() < 0.5]
    for step, (kind, item) in enumerate(acts):
        events.append(
            {
                "event_id": f"e{len(events):05d}",
                "ts": time + timedelta(seconds=0 if kind == "impression" else 5 * (step - len(shown) + 1)),
                "user_id": str(shopper),
                "event_type": kind,
                "item_id": str(item),
                "query_id": query_id,
                "query_image_id": picture,
                "position": shown.index(item) + 1,
            }
        )
