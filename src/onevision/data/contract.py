"""The contract of a snapshot: every table, column, type and meaning, written once.

The writer, the verifying reader, the Great Expectations suites, the Feast sources, the importers and the docs all
read this module. Identifiers are strings (what shops have); times are UTC with microseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

SNAPSHOT_KIND = "snapshot"

VIEWS = ("main", "sku", "user_photo", "video_frame")
"""Views of a product: catalogue shot, variant or detail image, shopper's photo, frame of a video."""
CATALOGUE_VIEWS = ("main", "sku")
"""The views that a shop owns: what is embedded to give an item its semantic ID."""
QUERY_VIEWS = ("user_photo", "video_frame")
"""The views that a shopper sends."""

EVENT_TYPES = ("impression", "click", "cart", "order")

TIMESTAMP = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Column:
    """One column: `allowed` lists the only values, `minimum` the least one, `references` is `table.column`."""

    name: str
    type: pa.DataType
    meaning: str
    nullable: bool = False
    unique: bool = False
    allowed: tuple[str, ...] | None = None
    minimum: float | None = None
    references: str | None = None


@dataclass(frozen=True)
class Table:
    """One Parquet table of a snapshot; `required` tables must hold at least one row."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    required: bool = True

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema, in the order of the columns."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    @property
    def file(self) -> str:
        """File name inside the snapshot folder."""
        return f"{self.name}.parquet"

    @property
    def key(self) -> str:
        """The unique column."""
        return next(c.name for c in self.columns if c.unique)

    def column(self, name: str) -> Column:
        """The column of that name."""
        return next(c for c in self.columns if c.name == name)


ITEMS = Table(
    "items",
    "What the shop sells.",
    (
        Column("item_id", pa.string(), "the shop's own key", unique=True),
        Column("title", pa.string(), "shown to people; the model does not read it", nullable=True),
        Column("category_id", pa.string(), "a leaf of the category tree", references="categories.category_id"),
        Column("brand", pa.string(), "brand name", nullable=True),
        Column("price", pa.float64(), "in the shop's currency", minimum=0.0),
        Column("in_stock", pa.bool_(), "whether it can be sold at the snapshot's date"),
        Column("created_at", TIMESTAMP, "when the item entered the catalogue"),
    ),
)

IMAGES = Table(
    "images",
    "One row a picture; the bytes are in the image store.",
    (
        Column("image_id", pa.string(), "key of the picture in the image store", unique=True),
        Column(
            "item_id",
            pa.string(),
            "the product in the picture; null where a shopper's photo is of something unknown",
            nullable=True,
            references="items.item_id",
        ),
        Column("view", pa.string(), "which kind of view", allowed=VIEWS),
        Column("created_at", TIMESTAMP, "when the picture was taken or uploaded"),
    ),
)

EVENTS = Table(
    "events",
    "One row an impression, click, cart or order; all events of one search share its query_id.",
    (
        Column("event_id", pa.string(), "unique; ties in time are broken by it", unique=True),
        Column("ts", TIMESTAMP, "when it happened; not after the snapshot's date"),
        Column("user_id", pa.string(), "who", references="users.user_id"),
        Column("event_type", pa.string(), "what happened", allowed=EVENT_TYPES),
        Column("item_id", pa.string(), "to which item", references="items.item_id"),
        Column("query_id", pa.string(), "the search it belongs to; null outside search", nullable=True),
        Column(
            "query_image_id",
            pa.string(),
            "the photo searched with; null outside search",
            nullable=True,
            references="images.image_id",
        ),
        Column("position", pa.int32(), "rank shown at, from 1; null outside search", nullable=True, minimum=1),
    ),
)

USERS = Table(
    "users",
    "Who shops.",
    (
        Column("user_id", pa.string(), "the shop's own key", unique=True),
        Column("created_at", TIMESTAMP, "when the account was made"),
        Column("segment", pa.string(), "a coarse profile known to the shop", nullable=True),
    ),
    required=False,
)

CATEGORIES = Table(
    "categories",
    "The category tree, one row a node; leaves hold items.",
    (
        Column("category_id", pa.string(), "key of the node", unique=True),
        Column("name", pa.string(), "shown to people"),
        Column(
            "parent_id",
            pa.string(),
            "the node above; null for a department",
            nullable=True,
            references="categories.category_id",
        ),
    ),
)

TABLES: dict[str, Table] = {t.name: t for t in (CATEGORIES, ITEMS, IMAGES, USERS, EVENTS)}
"""All tables, referenced ones first where a reference allows an order."""

Severity = Literal["stop", "quarantine", "warn"]
