"""The drawn graph of a run's stages."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from onevision.reporting.dag import StageState, draw_dag, essential_edges, producers
from onevision.stages import STAGES


def test_every_stage_takes_its_inputs_from_the_stage_that_makes_them() -> None:
    sources = producers()
    assert list(sources) == list(STAGES)
    assert sources["validate"] == {"snapshot"}
    assert sources["align-preferences"] >= {"sft", "pair"}
    assert sources["calibrate-pruning"] >= {"align-preferences"}
    assert sources["evaluate"] >= {"sft", "align-preferences", "calibrate-pruning"}


def test_edges_that_a_longer_path_implies_are_not_drawn() -> None:
    edges = essential_edges()
    assert ("pair", "materialize-features") in edges
    assert ("materialize-features", "sft") in edges
    assert ("snapshot", "align") not in edges
    assert ("encoder", "publish") not in edges
    reached = {"snapshot"}
    for source, target in edges:
        assert source in reached
        reached.add(target)
    assert reached == {"snapshot", *STAGES}


def test_drawing_shows_seconds_reuse_failure_and_what_never_ran() -> None:
    states = {"validate": StageState("done", 61.0), "pair": StageState("reused", 5.0), "align": StageState("failed")}
    svg = draw_dag(states)
    assert ET.fromstring(str(svg)).tag.endswith("svg")
    for text in ("1 min 01 s", "5.0 s · reused", ">failed<", ">not run<", 'class="waiting"'):
        assert text in svg.replace("\n", "")


def test_no_two_boxes_overlap() -> None:
    root = ET.fromstring(str(draw_dag({})))
    groups = [g for g in root.iter() if g.tag.endswith("}g")]
    places = [tuple(map(int, g.attrib["transform"].removeprefix("translate(").rstrip(")").split())) for g in groups]
    rect = next(r for r in root.iter() if r.attrib.get("class") == "box")
    width, height = int(rect.attrib["width"]), int(rect.attrib["height"])
    assert len(places) == len(STAGES) + 1
    for n, (x, y) in enumerate(places):
        for other_x, other_y in places[:n]:
            assert abs(x - other_x) >= width or abs(y - other_y) >= height
