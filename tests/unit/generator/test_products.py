"""Products with rows of a table: both ways give what a plain product gives."""

from __future__ import annotations

import pytest
import torch

from onevision.generator.products import VectorTable


@pytest.mark.parametrize("table", [20, 5000])  # all products, gathered vectors
@pytest.mark.parametrize("shape", [(3, 7), (3, 4, 5), (1, 6)])
def test_they_are_plain_products(table: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, queries = torch.randn(table, 16, generator=generator), torch.randn(shape[0], 16, generator=generator)
    rows = torch.randint(table, shape, generator=generator)
    expected = torch.einsum("b...d,bd->b...", vectors[rows].double(), queries.double())
    torch.testing.assert_close(VectorTable(vectors).products(rows, queries).double(), expected, rtol=0, atol=1e-5)


def test_each_row_may_be_asked_several_times() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors, queries = torch.randn(30, 16, generator=generator), torch.randn(3, 16, 4, generator=generator)
    rows = torch.randint(30, (3, 9), generator=generator)
    torch.testing.assert_close(VectorTable(vectors).gathered(rows, queries), vectors[rows] @ queries)
