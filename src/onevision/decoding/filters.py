"""Request filters: which items of the catalogue an answer may hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from onevision.errors import OneVisionError

CATEGORY_COLUMNS = ("category", "category_id", "department_id")
SHOWN_CATEGORIES = 10


@dataclass(frozen=True)
class ItemFilter:
    """What a shopper asks for beside the photo; all of it must hold.

    Args:
        category: name or id of a leaf category, or id of a department.
        min_price, max_price: price band, both ends included.
        in_stock: only what can be sold.
    """

    category: str | None = None
    min_price: float | None = None
    max_price: float | None = None
    in_stock: bool = False

    def __post_init__(self) -> None:
        for name, price in (("minimum", self.min_price), ("maximum", self.max_price)):
            if price is not None and not price >= 0:
                raise OneVisionError(f"the {name} price is {price}; give a number of at least 0")
        if self.min_price is not None and self.max_price is not None and self.min_price > self.max_price:
            raise OneVisionError(f"no price is at least {self.min_price:g} and at most {self.max_price:g}")

    def allowed(self, items: pa.Table) -> NDArray[np.bool_]:
        """(I,) bool of a table of items (`category_id`, `department_id`, `price`, `in_stock`; `category` if named).

        Raises:
            OneVisionError: no item is of that category at all.
        """
        allowed = np.ones(len(items), dtype=bool)
        if self.category is not None:
            allowed &= self._of_category(items, self.category)
        if self.min_price is not None:
            allowed &= items["price"].to_numpy() >= self.min_price
        if self.max_price is not None:
            allowed &= items["price"].to_numpy() <= self.max_price
        if self.in_stock:
            allowed &= items["in_stock"].to_numpy()
        return allowed

    @staticmethod
    def _of_category(items: pa.Table, category: str) -> NDArray[np.bool_]:
        there = [name for name in CATEGORY_COLUMNS if name in items.column_names]
        of_category = np.zeros(len(items), dtype=bool)
        for name in there:
            of_category |= pc.equal(items[name], category).to_numpy(zero_copy_only=False)
        if not of_category.any():
            known = sorted(set(items[there[0]].to_pylist()))
            more = "" if len(known) <= SHOWN_CATEGORIES else f" and {len(known) - SHOWN_CATEGORIES} more"
            raise OneVisionError(
                f"no item is of category {category!r}; there are {', '.join(known[:SHOWN_CATEGORIES])}{more}"
            )
        return of_category
