from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from onevision.evaluation.between_runs import paired_differences


def write(folder: Path, ranks: dict[str, list[int | None]]) -> Path:
    folder.mkdir()
    rows = [(f"q{n}", system, rank) for system, found in ranks.items() for n, rank in enumerate(found)]
    columns = dict(zip(("query_id", "system", "rank"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "ranks.parquet")
    return folder


def test_differences_are_of_the_same_searches(tmp_path: Path) -> None:
    before = write(tmp_path / "a", {"dense": [1, 2, None, 20], "cascade": [1, 1, 1, 1]})
    after = write(tmp_path / "b", {"dense": [1, 1, 5, 20, 1, 1], "generator": [1] * 6})
    table = paired_differences(before, after)
    assert table is not None
    assert "4 searches" in table.caption
    (row,) = table.rows
    # Only the second and third search change: a first place, a find at 5, and 1 - 1/2 + 1/5 of reciprocal rank.
    assert row[0] == "dense"
    assert [cell.split(" ")[0] for cell in row[1:]] == ["+25.0", "+25.0", "+17.5"]


def test_a_difference_beyond_chance_is_marked(tmp_path: Path) -> None:
    before, after = write(tmp_path / "a", {"dense": [20] * 50}), write(tmp_path / "b", {"dense": [1] * 50})
    table = paired_differences(before, after)
    assert table is not None
    assert table.rows[0][1].endswith("*")


def test_runs_without_a_common_search_are_not_compared(tmp_path: Path) -> None:
    before, after = write(tmp_path / "a", {"dense": [1]}), write(tmp_path / "b", {"other": [1]})
    assert paired_differences(before, after) is None
