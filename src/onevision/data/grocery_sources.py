"""Reading the Grocery Store Dataset and The Complete Journey as `docs/data.md` says that they are packed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

SEED = 7
"""Seed of every choice made here; the snapshot is one fixed data set, so no recipe changes it."""


@dataclass(frozen=True)
class Photos:
    """One set of photos: N JPEG files end to end, with their paths and classes.

    Attributes:
        jpeg: uint8, all files' published bytes.
        offsets: (N+1,) where each begins.
        paths: (N,) `<set>/<department>/<coarse>[/<fine>]/<file>`.
        fine: (N,) class 0..80.
        coarse: (N,) class 0..42.
    """

    name: str
    jpeg: np.ndarray
    offsets: np.ndarray
    paths: list[str]
    fine: np.ndarray
    coarse: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def image_ids(self) -> list[str]:
        """Such as `train/golden-delicious_001`."""
        return [f"{self.name}/{slug(Path(path).stem)}" for path in self.paths]

    @cached_property
    def departments(self) -> list[str]:
        """`Fruit`, `Packages` or `Vegetables`, from the path."""
        return [path.split("/")[1] for path in self.paths]

    @cached_property
    def department_ids(self) -> list[str]:
        """Key of the department in the category tree."""
        return [slug(name) for name in self.departments]

    @cached_property
    def coarse_names(self) -> list[str]:
        """Name of the coarse class, from the path."""
        return [path.split("/")[2].replace("-", " ") for path in self.paths]

    @cached_property
    def category_ids(self) -> list[str]:
        """Key of the coarse class in the category tree, such as `fruit/apple`."""
        return [f"{slug(p.split('/')[1])}/{slug(p.split('/')[2])}" for p in self.paths]

    @cached_property
    def fine_names(self) -> list[str]:
        """Name of the fine class: the folder that the file lies in."""
        return [path.split("/")[-2].replace("-", " ") for path in self.paths]

    @cached_property
    def item_ids(self) -> np.ndarray:
        """(N,) key of the item, such as `golden-delicious`."""
        return np.array([slug(path.split("/")[-2]) for path in self.paths], dtype=object)

    def bytes(self) -> Iterator[bytes]:
        """Each file's published bytes."""
        for start, end in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.jpeg[start:end].tobytes()


@dataclass(frozen=True)
class Purchases:
    """The mapped purchases.

    Attributes:
        frame: one row a purchase, in time order: `user_id`, `ts` (UTC), `product`, `fine` (class 0..80), `basket`,
            `by_hash` (the source knows the coarse class alone).
    """

    frame: pd.DataFrame

    @property
    def first_day(self) -> pd.Timestamp:
        """Midnight before the first purchase: when the catalogue begins."""
        return self.frame["ts"].min().floor("D")


def slug(name: str) -> str:
    """Lower-case key of a name."""
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")


def draw(*parts: object) -> int:
    """A number of 64 bits that depends on the seed and the parts alone."""
    text = ":".join(map(str, (SEED, *parts)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def read_photos(folder: Path, name: str) -> Photos:
    """Read `<name>.npz`; the catalogue set comes in the order of its classes."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        photos = Photos(
            name, file["jpeg"], file["off"], [str(p) for p in file["path"]], file["fine"].astype(int), file["coarse"]
        )
    if name == "iconic" and not np.array_equal(photos.fine, np.arange(len(photos))):
        raise ValueError(f"{folder / name}.npz: one catalogue picture a class is expected, in order")
    return photos


def read_purchases(folder: Path, shelf: Photos) -> Purchases:
    """Read the mapped purchases and give each a fine class.

    Where the source maps a product to a coarse class only (58 % of the rows), a seeded hash of the product chooses one
    of that class's fine classes: a product is always the same item.
    """
    with np.load(folder / "grocery_events.npz", allow_pickle=False) as file:
        frame = pd.DataFrame({key: file[key] for key in ("household", "basket", "time", "product", "fine", "coarse")})
    members = {c: np.flatnonzero(shelf.coarse == c) for c in np.unique(shelf.coarse)}
    frame["by_hash"] = frame["fine"] < 0
    pairs = frame.loc[frame["by_hash"], ["product", "coarse"]].drop_duplicates()
    chosen = {p: members[c][draw("class", p) % len(members[c])] for p, c in pairs.itertuples(index=False)}
    by_product = frame["product"].map(chosen).fillna(-1).astype(int)
    frame["fine"] = np.where(frame["by_hash"], by_product, frame["fine"])
    frame["user_id"] = "household-" + frame["household"].astype(str).str.zfill(4)
    frame["ts"] = pd.to_datetime(frame["time"], unit="s", utc=True)
    frame = frame.sort_values(["ts", "household", "basket", "product"], kind="stable", ignore_index=True)
    return Purchases(frame.drop(columns=["household", "time", "coarse"]))


def read_prices(folder: Path, purchases: Purchases) -> pd.Series:
    """Median price of a unit by fine class, over all purchases of its products (the currency is the source's)."""
    products = purchases.frame[["product", "fine"]].drop_duplicates()
    columns = ["product_id", "quantity", "sales_value"]
    wanted = [("product_id", "in", products["product"].tolist()), ("quantity", ">", 0)]
    paid = pq.read_table(folder / "transactions.parquet", columns=columns, filters=wanted).to_pandas()
    classes = paid["product_id"].map(products.set_index("product")["fine"])
    return (paid["sales_value"] / paid["quantity"]).groupby(classes).median()


def read_demographics(folder: Path) -> pd.Series:
    """Household composition by user, such as `2 Adults No Kids`; a third of the households told theirs."""
    frame = pq.read_table(folder / "demographics.parquet", columns=["household_id", "household_comp"]).to_pandas()
    users = "household-" + frame["household_id"].astype(str).str.zfill(4)
    return pd.Series(frame["household_comp"].to_numpy(), index=users)
