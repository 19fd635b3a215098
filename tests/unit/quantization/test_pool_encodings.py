"""Encoding reports of several seeds are pooled cell by cell, by kind of pair too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

import json

import pool_encodings
from pool_encodings import AGAINST, ALL, KINDS, pooled_kinds, read


def seed(kinds, vrq, other, lead):
    rows = [
        row
        for kind in kinds
        for row in ([kind, 9, "vrq", vrq, "", vrq, ""], [kind, 9, "opq", other, lead, other, lead])
    ]
    return {KINDS: {"rows": rows}}


def test_kinds_are_pooled_with_their_intervals_and_vrqs_lead():
    one = seed(["a", "b"], "80.0 [77.0, 82.0]", "70.0 [66.0, 73.0]", "10.0 [7.0, 14.0] *")
    two = seed(["b", "a"], "84.0 [80.0, 86.0]", "83.0 [80.0, 87.0]", "-4.0 [-8.0, -1.0] *")
    found = pooled_kinds([one, two])
    assert list(found) == ["a", "b"]
    assert found["a"] == found["b"]
    assert set(found["a"]["vrq"]) == {"of it"}
    first, second = found["a"]["vrq"]["of it"]
    assert first == second == "82.0 [79.5, 83.4]"  # 3-4-5 below; above the root of 8, halved
    assert found["a"]["opq"]["of it"][0] == "76.5 [74.0, 79.0]"
    assert found["a"]["opq"]["vrq less it"][0] == "3.0 [0.5, 5.5] *"


def test_a_cell_without_an_interval_is_refused():
    with pytest.raises(ValueError, match="no mean with its interval"):
        read("81.0")


def report(folder, name, vc, lead, perplexity):
    """A report of VRQ and a part of it, as `encoding-report --ablations` writes it."""
    cells = [vc] * 5
    metrics = {"vrq/vc@1": 0.123456789}
    for method in ("vrq", "vrq_with_margin", "opq"):
        metrics |= {f"{method}/perplexity@{level}": perplexity + level for level in (1, 2, 3, 4)}
        metrics |= {f"{method}/icr": 0.5, f"{method}/prefix_perplexity@2": 10 * perplexity}
    tables = [
        {"title": ALL, "columns": ["method", *pool_encodings.FIGURES], "rows": [["vrq", *cells]]},
        {"title": AGAINST, "columns": ["difference", *pool_encodings.FIGURES], "rows": []},
    ]
    tables[0]["rows"] += [["vrq_with_margin", *cells], ["opq", *cells]]
    tables[1]["rows"] += [["vrq - vrq_with_margin", *[lead] * 5], ["vrq - opq", *[lead] * 5]]
    path = folder / name
    path.write_text(json.dumps({"tables": tables, "metrics": metrics, "counts": {"fits": 2}}))
    return str(path)


def test_parts_of_vrq_have_tables_of_their_own_and_all_is_written_as_json(tmp_path, monkeypatch, capsys):
    one = report(tmp_path, "one.json", "80.0 [77.0, 82.0]", "10.0 [7.0, 14.0] *", 6)
    two = report(tmp_path, "two.json", "84.0 [80.0, 86.0]", "-4.0 [-8.0, -1.0] *", 5)
    out = tmp_path / "out.json"
    out.write_text('{"bench": 1}')
    monkeypatch.setattr("sys.argv", ["pool", one, two, "--json", str(out), "--name", "both"])
    pool_encodings.main()
    tables = [table.strip().splitlines() for table in capsys.readouterr().out.split("\n\n")]
    assert [[line.split(" | ")[0] for line in table if "---" not in line] for table in tables] == [
        ["| method", "| vrq", "| opq"],
        ["| VRQ less", "| opq"],
        ["| parts of VRQ", "| vrq", "| vrq_with_margin"],
        ["| VRQ less", "| vrq_with_margin"],
    ]
    assert tables[2][-1].endswith("| 82.0 [79.5, 83.4] | 6.5 / 7.5 / 8.5; 55 |")
    assert tables[3][-1].endswith("| 3.0 [0.5, 5.5] * |")
    written = json.loads(out.read_text())
    assert written["bench"] == 1
    assert [seed["vrq/vc@1"] for seed in written["both"]["seeds"]] == [0.12346] * 2
    assert written["both"]["fits"] == 2
    assert written["both"]["pooled"]["encodings"]["vrq"]["vc@1"] == "82.0 [79.5, 83.4]"
    assert written["both"]["pooled"]["vrq less"]["opq"]["icr"] == "3.0 [0.5, 5.5] *"
