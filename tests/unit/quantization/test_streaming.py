"""A file of vectors is encoded block by block to what encoding it at once gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onevision.errors import ContractError
from onevision.quantization import streaming
from onevision.quantization.residual import ResidualKMeans


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(103, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def quantizer(x):
    return ResidualKMeans(8, (8, 4), opq_subspaces=2, opq_size=4).fit(x, seed=0)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_blocks_give_what_the_whole_gives(suffix, x, quantizer, tmp_path, monkeypatch):
    source = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(source, x.astype(np.float64))
    else:
        pd.DataFrame({"embedding": list(x)}).to_parquet(source)
    assert [len(block) for block in streaming.read_blocks(source, 40)] == [40, 40, 23]
    assert streaming.encode_file(quantizer, source, tmp_path / "codes.npy") == len(x)
    codes = np.load(tmp_path / "codes.npy")
    assert codes.dtype == np.int16
    np.testing.assert_array_equal(codes, quantizer.encode(x))


def test_files_that_are_not_vectors_are_refused(x, quantizer, tmp_path):
    np.save(tmp_path / "narrow.npy", x[:, :5])
    np.save(tmp_path / "whole.npy", np.arange(6).reshape(2, 3))
    pd.DataFrame({"vector": [1]}).to_parquet(tmp_path / "other.parquet")
    for name, rows in {"ragged": [[0.0] * 7, [0.0] * 9], "gaps": [[0.0] * 8, [None, *[0.0] * 7]]}.items():
        table = pa.table({"embedding": pa.array(rows, pa.list_(pa.float32()))})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    for name, message in (
        ("narrow.npy", "vectors of 5 numbers, wanted is 8"),
        ("whole.npy", "floating"),
        ("ragged.parquet", "rows of different lengths"),
        ("gaps.parquet", "missing numbers"),
        ("other.parquet", "no column 'embedding'; it has vector"),
        ("nothing.npy", "cannot be read"),
    ):
        with pytest.raises(ContractError, match=message):
            streaming.encode_file(quantizer, tmp_path / name, tmp_path / "codes.npy")
