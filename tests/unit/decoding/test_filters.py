import numpy as np
import pyarrow as pa
import pytest

from onevision.decoding.filters import ItemFilter
from onevision.errors import OneVisionError

ITEMS = pa.table(
    {
        "category_id": ["lamp", "chair", "lamp", "sofa"],
        "department_id": ["light", "seat", "light", "seat"],
        "price": [10.0, 20.0, 30.0, 40.0],
        "in_stock": [True, False, False, True],
    }
)


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (ItemFilter(), [0, 1, 2, 3]),
        (ItemFilter(category="lamp"), [0, 2]),
        (ItemFilter(category="seat"), [1, 3]),
        (ItemFilter(min_price=20, max_price=30), [1, 2]),
        (ItemFilter(in_stock=True), [0, 3]),
        (ItemFilter(category="lamp", max_price=20, in_stock=True), [0]),
        (ItemFilter(category="chair", in_stock=True), []),
    ],
)
def test_all_wishes_hold_together(only: ItemFilter, expected: list[int]) -> None:
    assert np.flatnonzero(only.allowed(ITEMS)).tolist() == expected


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(OneVisionError, match="no item is of category 'lmap'; there are chair, lamp, sofa"):
        ItemFilter(category="lmap").allowed(ITEMS)
    with pytest.raises(OneVisionError, match="at least 20 and at most 10"):
        ItemFilter(min_price=20, max_price=10)
    for price in (-1.0, float("nan")):
        with pytest.raises(OneVisionError, match="minimum price"):
            ItemFilter(min_price=price)
