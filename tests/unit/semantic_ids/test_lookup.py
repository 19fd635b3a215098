from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from onevision import cli
from onevision.artifacts import finish_artifact, read_json, start_artifact, write_json
from onevision.errors import OneVisionError
from onevision.semantic_ids.lookup import diff, items_of, open_semantic_ids, sid_of

OLD = {"a": [0, 1], "b": [0, 1], "c": [2, 0], "d": [1, 1]}
NEW = {"a": [0, 1], "b": [2, 1], "d": [1, 1], "e": [2, 0], "f": [2, 0]}


def artifact(path: Path, ids: dict[str, list[int]], gone: dict[str, list[int]], generation: str = "g") -> Path:
    start_artifact(path)
    for name, chosen in (("items", ids), ("gone", gone)):
        sids = pa.array(list(chosen.values()), pa.list_(pa.int16()))
        pq.write_table(
            pa.table({"item_id": pa.array(list(chosen), pa.string()), "sid": sids}), path / f"{name}.parquet"
        )
    write_json(path / "trie.json", {"codebook_sizes": [3, 2]})
    finish_artifact(path, "semantic_ids", generation=generation)
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return artifact(tmp_path / "old", OLD, {})


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """As a bundle has it: the artifact is a part in a folder."""
    artifact(tmp_path / "new" / "semantic_ids", NEW, {"c": [2, 0]})
    return tmp_path / "new"


def test_items_and_ids_are_found_in_both_directions(new: Path) -> None:
    ids = open_semantic_ids(new)
    assert {item: list(sid_of(ids, item)) for item in NEW} == NEW
    assert items_of(ids, (2, 0)) == ["e", "f"]
    assert items_of(ids, (0, 0)) == []


def test_what_is_not_there_is_said(new: Path) -> None:
    ids = open_semantic_ids(new)
    with pytest.raises(OneVisionError, match="item 'c' is gone; it was 2-0"):
        sid_of(ids, "c")
    with pytest.raises(OneVisionError, match="no item 'z'"):
        sid_of(ids, "z")
    for wrong in ((2,), (2, 0, 1), (3, 0), (0, -1)):
        with pytest.raises(OneVisionError, match="have 2 codes, below 3-2"):
            items_of(ids, wrong)


def test_a_diff_names_every_item_once(old: Path, new: Path) -> None:
    found = diff(open_semantic_ids(old), open_semantic_ids(new))
    assert found.counts == {"moved": 1, "new": 2, "gone": 1, "kept": 2}
    assert found.changes.to_pylist() == [
        {"item_id": "b", "change": "moved", "old_sid": [0, 1], "new_sid": [2, 1]},
        {"item_id": "c", "change": "gone", "old_sid": [2, 0], "new_sid": None},
        {"item_id": "e", "change": "new", "old_sid": None, "new_sid": [2, 0]},
        {"item_id": "f", "change": "new", "old_sid": None, "new_sid": [2, 0]},
    ]
    assert sum(found.counts.values()) == len(OLD.keys() | NEW.keys())


def test_a_diff_with_itself_is_empty(old: Path) -> None:
    ids = open_semantic_ids(old)
    assert diff(ids, ids).counts == {"moved": 0, "new": 0, "gone": 0, "kept": 4}


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[str, str]:
    """What `onevision ids ...` says, and its error."""
    monkeypatch.setattr(sys, "argv", ["onevision", "ids", *map(str, arguments)])
    with contextlib.suppress(SystemExit):
        cli.main()
    said = capsys.readouterr()
    return said.out, said.err


def test_the_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, old: Path, new: Path, tmp_path: Path
) -> None:
    assert run(capsys, monkeypatch, "lookup", "--ids", old, "--item", "c")[0] == "2-0\n"
    assert run(capsys, monkeypatch, "lookup", "--ids", old, "--sid", "0-1")[0] == "a\nb\n"
    assert "no item has" in run(capsys, monkeypatch, "lookup", "--ids", old, "--sid", "0-0")[0]
    assert "write its codes as" in run(capsys, monkeypatch, "lookup", "--ids", old, "--sid", "0,0")[1]
    assert "either --item or --sid" in run(capsys, monkeypatch, "lookup", "--ids", old)[1]
    for name in ("changes.parquet", "changes.json"):
        out, _ = run(capsys, monkeypatch, "diff", old, new, "--out", tmp_path / name)
        assert out == f"moved 1, new 2, gone 1, kept 2\nwritten to {tmp_path / name}\n"
    changes = pq.read_table(tmp_path / "changes.parquet").to_pylist()
    assert read_json(tmp_path / "changes.json")["changes"] == changes
    assert "name a .parquet" in run(capsys, monkeypatch, "diff", old, new, "--out", tmp_path / "x.csv")[1]


def test_a_diff_of_two_generations_warns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, old: Path, tmp_path: Path
) -> None:
    other = artifact(tmp_path / "other", {"a": [0, 1, 0]}, {}, generation="h")
    out, _ = run(capsys, monkeypatch, "diff", old, other)
    assert out.splitlines()[0] == "codebooks of two generations, g and h: codes do not compare"
    assert "moved 1, new 0, gone 3" in out
