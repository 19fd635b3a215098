from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onevision import shards
from onevision.errors import OneVisionError
from onevision.shards import Shard, all_shards, read_rows, write_tables


@pytest.mark.parametrize("total", [0, 1, 9, 10, 11, 99])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shards_are_whole_blocks_that_cover_every_row_once(total: int, count: int) -> None:
    ranges = [Shard.parse(text).rows(total, 10) for text in all_shards(count)]
    assert [row for rows in ranges for row in rows] == list(range(total))
    assert all(rows.start % 10 == 0 or rows.start == total for rows in ranges)
    sizes = [-(-len(rows) // 10) for rows in ranges]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "1/0", "-1/3", "a/b", "1.0/3"])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(OneVisionError, match="write it as 2/3"):
        Shard.parse(text)


def test_rows_are_read_across_row_groups(tmp_path: Path) -> None:
    table = pa.table({"a": list(range(10)), "b": list("abcdefghij")})
    pq.write_table(table, tmp_path / "t", row_group_size=3)
    for first in range(11):
        for last in range(first, 11):
            assert (
                read_rows(tmp_path / "t", range(first, last), ["b"])["b"].to_pylist() == list("abcdefghij")[first:last]
            )


def test_a_file_does_not_depend_on_how_its_rows_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP", 4)
    table = pa.table({"a": list(range(11))})
    for name, cuts in (("x", [0, 11]), ("y", [0, 0, 1, 7, 8, 11, 11])):
        write_tables(tmp_path / name, (table.slice(a, b - a) for a, b in itertools.pairwise(cuts)))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert pq.read_table(tmp_path / "x").equals(table)
