"""The stages of a run as a graph: what feeds what, drawn from `onevision.stages.STAGES` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from onevision.reporting.templates import render
from onevision.stages import STAGES

SOURCE = "snapshot"
"""The node that is no stage: what a run starts from."""
COLUMNS = 6
_BOX_W, _BOX_H, _PITCH_X, _PITCH_Y, _LINE_GAP, _MARGIN = 152, 58, 174, 72, 26, 4


@dataclass(frozen=True)
class StageState:
    """How a stage went: `done`, `reused`, `failed` or `waiting` (never begun), and its seconds."""

    status: str
    seconds: float = 0.0


@dataclass(frozen=True)
class Node:
    """A drawn stage; pixels of its upper left corner, and its share of the run's seconds."""

    name: str
    state: StageState
    x: int
    y: int
    share: float


def producers() -> dict[str, set[str]]:
    """Stage -> what it directly takes its inputs from (stages, or `snapshot`)."""
    made: dict[str, list[str]] = {}
    sources = {}
    for name, stage in STAGES.items():
        sources[name] = {_producer(input_name, kind, made) for input_name, kind in stage.inputs.items()}
        made.setdefault(stage.output, []).append(name)
    return sources


def essential_edges() -> list[tuple[str, str]]:
    """Edges (from, to) that no longer path implies: the fewest that show the same order."""
    sources = producers()

    def ancestors(name: str) -> set[str]:
        direct = sources.get(name, set())
        return direct.union(*(ancestors(parent) for parent in direct))

    return [
        (parent, name)
        for name, direct in sources.items()
        for parent in sorted(direct)
        if not any(parent in ancestors(other) for other in direct)
    ]


def draw_dag(states: Mapping[str, StageState]) -> Markup:
    """SVG of the run, coloured by the page's style sheet; stages without a state are drawn as waiting."""
    nodes = _layout(states)
    height = max(node.y for node in nodes.values()) + _BOX_H + _MARGIN
    width = max(node.x for node in nodes.values()) + _BOX_W + _MARGIN
    edges = [_path(nodes[a], nodes[b]) for a, b in essential_edges()]
    svg = render("dag.svg", nodes=list(nodes.values()), edges=edges, width=width, height=height, box=(_BOX_W, _BOX_H))
    return Markup(svg)


def _producer(input_name: str, kind: str, made: dict[str, list[str]]) -> str:
    stages = made.get(kind)
    if not stages:
        return SOURCE
    named = [stage for stage in stages if input_name == f"{kind}_{stage}"]
    return named[0] if named else stages[-1]


def _depths() -> dict[str, int]:
    depths = {SOURCE: 0}
    for name, direct in producers().items():
        depths[name] = 1 + max(depths[parent] for parent in direct)
    return depths


def _layout(states: Mapping[str, StageState]) -> dict[str, Node]:
    """A column a depth, wrapped like text; stages of one depth stand below each other."""
    total = sum(state.seconds for state in states.values()) or 1.0
    columns: dict[int, list[str]] = {}
    for name, depth in _depths().items():
        columns.setdefault(depth, []).append(name)
    nodes, top = {}, _MARGIN
    for first in range(0, max(columns) + 1, COLUMNS):
        line = [columns[depth] for depth in range(first, min(first + COLUMNS, max(columns) + 1))]
        for column, names in enumerate(line):
            for row, name in enumerate(names):
                state = states.get(name, StageState("done" if name == SOURCE else "waiting"))
                x, y = _MARGIN + column * _PITCH_X, top + row * _PITCH_Y
                nodes[name] = Node(name, state, x, y, state.seconds / total)
        top += max(len(names) for names in line) * _PITCH_Y + _LINE_GAP
    return nodes


def _path(start: Node, end: Node) -> str:
    """Right side to left side within a line; from below to above where the line wraps."""
    if end.x > start.x:
        x1, y1, x2, y2 = start.x + _BOX_W, start.y + _BOX_H // 2, end.x - 2, end.y + _BOX_H // 2
        middle = (x1 + x2) // 2
        return f"M{x1} {y1} H{middle} V{y2} H{x2}" if y1 != y2 else f"M{x1} {y1} H{x2}"
    x1, y1, x2, y2 = start.x + _BOX_W // 2, start.y + _BOX_H, end.x + _BOX_W // 2, end.y - 2
    return f"M{x1} {y1} V{y2 - _LINE_GAP // 2} H{x2} V{y2}"
