"""Charts of the reports, in one style: matplotlib to SVG, the same bytes for the same numbers.

Text stays text (small files, readable by screen readers), the ground is transparent, and a style inside each SVG
lightens ink and grid where the reader prefers a dark page.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
from cycler import cycler
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

PALETTE = ("#3b6fd4", "#d9792b", "#2f9e6e", "#a45bc4", "#c94a4a", "#7f8c9a", "#b8952f", "#3aa3b8")
INK, SOFT, GRID = "#1c2430", "#5b6675", "#dfe4ea"
_WIDEST = 9.8
"""Inches that fit a page of 1000 pixels without being scaled down."""
_DARK = {INK: "#e4e8ee", SOFT: "#9aa5b3", GRID: "#333d49"}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "onevision",
    "font.family": "sans-serif",
    "font.size": 10,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=PALETTE),
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}


def line_chart(
    x: Sequence[float],
    series: Mapping[str, Sequence[float | None]],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "loss",
) -> str:
    """SVG of lines `name -> y` over the same x, such as loss curves; None leaves a gap."""
    with _style():
        canvas, (axes,) = _panels(1, width=7.2, height=3.2)
        for name, y in series.items():
            values = [math.nan if v is None else v for v in y]
            axes.plot(list(x), values, label=name, marker="o" if len(values) < 12 else "", markersize=4)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if len(series) > 1:
            axes.legend()
        return _svg(canvas, title)


def bar_panels(
    panels: Mapping[str, Sequence[float]],
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
) -> str:
    """SVG of one panel of bars a name, side by side, such as the items on each code of every level."""
    with _style():
        canvas, all_axes = _panels(max(len(panels), 1), width=max(3.6, min(2.6 * len(panels), _WIDEST)), height=2.6)
        for axes, (name, heights) in zip(all_axes, panels.items(), strict=False):
            axes.bar(range(len(heights)), list(heights), width=1.0 if len(heights) > 20 else 0.8, color=PALETTE[0])
            axes.set_title(name)
            axes.set_xlabel(x_label)
            axes.grid(visible=False, axis="x")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        all_axes[0].set_ylabel(y_label)
        return _svg(canvas, title)


def grouped_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    title: str,
    y_label: str = "",
) -> str:
    """SVG of bars of several series beside each other in every group, such as code agreement a level."""
    with _style():
        canvas, (axes,) = _panels(1, width=max(4.0, 1.3 * len(groups) + 1.5), height=2.9)
        width = 0.8 / max(len(series), 1)
        for index, (name, heights) in enumerate(series.items()):
            left = [g + (index - (len(series) - 1) / 2) * width for g in range(len(groups))]
            bars = axes.bar(left, list(heights), width=width * 0.94, label=name)
            axes.bar_label(bars, fmt="%.3g", fontsize=8, color=SOFT, padding=1)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(y_label)
        if len(series) > 1:
            axes.legend(ncols=len(series), loc="lower left", bbox_to_anchor=(0, 1))
        return _svg(canvas, title)


def pareto_chart(
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    chosen: tuple[float, float] | None = None,
    budget: float | None = None,
) -> str:
    """SVG of a scatter of `family -> (costs, qualities)`: least quality allowed as a line, chosen setting ringed."""
    with _style():
        canvas, (axes,) = _panels(1, width=7.2, height=3.6)
        for index, (name, (x, y)) in enumerate(points.items()):
            axes.scatter(list(x), list(y), s=26, color=PALETTE[index % len(PALETTE)], label=name, linewidths=0)
        if budget is not None:
            axes.axhline(budget, color=PALETTE[4], linewidth=1.2, linestyle=(0, (4, 3)), label="least allowed")
        if chosen is not None:
            axes.scatter(*chosen, s=130, facecolors="none", edgecolors=INK, linewidths=1.4, label="chosen")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8)
        return _svg(canvas, title)


def reliability_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x_label: str = "probability"
) -> str:
    """SVG of curves `name -> (mean probability, share that came true)` a bin, beside the diagonal."""
    with _style():
        canvas, (axes,) = _panels(1, width=5.2, height=3.8)
        for name, points in curves.items():
            x, y = zip(*points, strict=True)
            axes.plot(x, y, label=name, marker="o", markersize=4)
        end = max((value for points in curves.values() for point in points for value in point), default=1.0)
        axes.plot([0, end], [0, end], color=SOFT, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.set_xlabel(x_label)
        axes.set_ylabel("share that came true")
        axes.legend(fontsize=8)
        return _svg(canvas, title)


def interval_chart(
    rows: Sequence[tuple[str, float, float, float]],
    *,
    title: str,
    x_label: str,
    references: Mapping[str, float] | None = None,
) -> str:
    """SVG of a dot with its interval a row (name, value, low, high), and named reference values as vertical lines."""
    with _style():
        canvas, (axes,) = _panels(1, width=7.2, height=0.8 + 0.34 * len(rows) + (0.3 if references else 0))
        for row, (_, value, low, high) in enumerate(rows):
            axes.plot([low, high], [row, row], color=PALETTE[0], linewidth=2.2, solid_capstyle="round")
            axes.plot([value], [row], marker="o", markersize=6, color=PALETTE[0])
        for index, (name, value) in enumerate((references or {}).items()):
            axes.axvline(value, color=PALETTE[1 + index], linewidth=1.2, linestyle=(0, (4, 3)), label=name)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(x_label)
        if references:
            axes.legend(ncols=len(references), loc="lower left", bbox_to_anchor=(0, 1), fontsize=8)
        return _svg(canvas, title)


def _style() -> AbstractContextManager[Any]:
    return matplotlib.rc_context(_STYLE)


def _panels(count: int, *, width: float, height: float) -> tuple[Canvas, list[Any]]:
    canvas = Canvas(figsize=(width, height))
    FigureCanvasSVG(canvas)
    return canvas, list(canvas.subplots(1, count, squeeze=False)[0])


def _svg(canvas: Canvas, title: str) -> str:
    """Markup without prologue, clock or version, so that equal charts are equal bytes."""
    stream = io.StringIO()
    canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    end = svg.index(">") + 1
    return svg[:end] + f"<title>{escape(title)}</title><style>{_dark_style()}</style>" + svg[end:]


def _dark_style() -> str:
    rules = "".join(
        f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}'
        for light, dark in _DARK.items()
        for kind in ("fill", "stroke")
    )
    return f"@media (prefers-color-scheme: dark){{{rules}}}"
