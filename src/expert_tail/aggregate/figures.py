"""The figures, drawn from the tables."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from expert_tail.figure_style import BLUE, DOTS, GREEN, GREY, INK, STYLE, TIMES, VERMILLION, WIDTH, speedups_along_x
from expert_tail.select.strategies import ORACLE


def scaling(table: pl.DataFrame, confidence: float) -> Figure:
    """Figure 3: fast_1 of the best of K samples against K, with intervals; one panel a subset. `table` is table 2."""
    subsets = table["subset"].unique().sort().to_list()
    columns = min(len(subsets), 2)
    rows = -(-len(subsets) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH if columns > 1 else 5.6, 2.8 * rows + 0.3), layout="constrained")
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axis in axes.flat[len(subsets) :]:
            axis.remove()
        for i, subset in enumerate(subsets):
            axis = axes.flat[i]
            of_subset = table.filter(pl.col("subset") == subset).sort("k")
            _scaling_panel(axis, of_subset)
            axis.set_title(_title(of_subset), loc="left")
            axis.set_xlabel("samples per task, K")
            if i % columns == 0:
                axis.set_ylabel("tasks solved by the best of K")
            if i == columns - 1:
                _label_lines(axis, of_subset, confidence)
        return figure


def _scaling_panel(axis: Axes, table: pl.DataFrame) -> None:
    k = table["k"].to_numpy()
    low, high = table["fast_1_low"], table["fast_1_high"]
    confident = table.select("fast_1_confident_low", "fast_1_confident_high").to_numpy()
    if len(k) == 1:  # a band needs a width
        axis.vlines(k, low, high, color=BLUE, alpha=0.2, linewidth=9)
        axis.vlines(k, *confident.T, color=VERMILLION, alpha=0.8, linewidth=0.9, linestyle=DOTS)
    else:
        axis.fill_between(k, low, high, color=BLUE, alpha=0.14, linewidth=0)
        axis.plot(k, confident, color=VERMILLION, alpha=0.8, linewidth=0.9, linestyle=DOTS)
    axis.plot(k, table["fast_1"], "o-", color=BLUE, markersize=5.5, linewidth=2.2, clip_on=False, zorder=3)
    over: dict[str, Any] = {
        "markersize": 3.2,
        "markerfacecolor": "white",
        "linewidth": 1.2,
        "clip_on": False,
        "zorder": 4,
    }
    axis.plot(k, table["fast_1_confident"], "o", linestyle=(0, (4, 2)), color=VERMILLION, **over)
    axis.set_xscale("log", base=2)
    axis.set_xlim(k[0] / 1.12, k[-1] * 1.12)
    axis.xaxis.set_major_locator(FixedLocator(k.tolist()))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.set_ylim(0, 1)
    _percent(axis.yaxis)
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.7)


def _label_lines(axis: Axes, table: pl.DataFrame, confidence: float) -> None:
    """Name the curves where they end, and say what the bands are."""
    interval = f"{100 * confidence:g}% interval"
    labels = (f"fast_1\n(band: {interval})", f"confident fast_1\n(dots: {interval})")
    heights = _apart(table["fast_1"][-1], table["fast_1_confident"][-1], gap=0.15)
    for label, height, colour in zip(labels, heights, (BLUE, VERMILLION), strict=True):
        where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "xytext": (3, 0), "textcoords": "offset points"}
        style: dict[str, Any] = {"va": "center", "fontsize": 8, "linespacing": 1.05, "annotation_clip": False}
        axis.annotate(label, (1, height), color=colour, **where, **style)


def strategies(table: pl.DataFrame, confidence: float) -> Figure:
    """Figure 4: what each strategy reaches, with intervals; fast_1 left, mean speedup right. `table` is table 1."""
    subsets = table["subset"].unique().sort().to_list()
    heights = [0.4 * table.filter(pl.col("subset") == subset).height + 0.55 for subset in subsets]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, sum(heights) + 0.6), layout="constrained")
        ratios: dict[str, Any] = {"height_ratios": heights, "width_ratios": [1.25, 1]}
        axes = figure.subplots(len(subsets), 2, squeeze=False, sharex="col", gridspec_kw=ratios)
        for (left, right), subset in zip(axes, subsets, strict=True):
            of_subset = table.filter(pl.col("subset") == subset)
            _fast_panel(left, of_subset)
            _speedup_panel(right, of_subset, *_speedup_range(table))
            left.set_title(_title(of_subset), loc="left")
        axes[-1][0].set_xlabel("tasks solved by the pick")
        axes[-1][1].set_xlabel("mean speedup of the pick, log scale")
        marks = [Line2D([], [], color=INK, marker="o", markersize=6, markerfacecolor=face) for face in (INK, "white")]
        labels = ["fast_1", f"confident fast_1      lines: {100 * confidence:g}% intervals"]
        figure.legend(marks, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=8, columnspacing=1.4)
        return figure


def _fast_panel(axis: Axes, table: pl.DataFrame) -> None:
    for i, (row, colour) in enumerate(zip(table.iter_rows(named=True), _colours(table), strict=True)):
        for metric, y, face in (("fast_1", i - 0.17, colour), ("fast_1_confident", i + 0.17, "white")):
            _point(axis, row, metric, y, colour, face)
            _value(axis, f"{100 * row[metric]:.0f}%", y, colour, 29)
    axis.set_xlim(0, 1)
    _percent(axis.xaxis)
    _strategy_axis(axis, table["strategy"].to_list(), labelled=True)


def _speedup_panel(axis: Axes, table: pl.DataFrame, low: float, high: float) -> None:
    speedups_along_x(axis, low, high, gap=0.17)
    axis.axvline(1, color=GREY, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
    for y, (row, colour) in enumerate(zip(table.iter_rows(named=True), _colours(table), strict=True)):
        if row["mean_speedup"] > 0:  # a log axis has no place for 0; the printed value says it
            _point(axis, row, "mean_speedup", y, colour, colour, floor=low)
        _value(axis, f"{_short(row['mean_speedup'])}{TIMES}", y, colour, 36)
    _strategy_axis(axis, table["strategy"].to_list(), labelled=False)


def _speedup_range(table: pl.DataFrame) -> tuple[float, float]:
    """Limits of the speedup axis, the same for all subsets: every estimate and interval, and 1 in any case."""
    values = table.select("mean_speedup", "mean_speedup_low", "mean_speedup_high").to_numpy()
    positive = np.append(values[values > 0], 1.0)
    return min(0.8, positive.min() / 1.15), max(1.6, positive.max() * 1.15)


def _point(axis: Axes, row: dict[str, Any], metric: str, y: float, colour: str, face: str, floor: float = 0.0) -> None:
    """A dot at the estimate on the line of its interval; what lies below `floor` (0 on a log axis) is cut there."""
    ends = [max(row[f"{metric}_low"], floor), row[f"{metric}_high"]]
    axis.plot(ends, [y, y], color=colour, linewidth=1.5, alpha=0.5, solid_capstyle="butt")
    dot: dict[str, Any] = {
        "markerfacecolor": face,
        "markeredgewidth": 1.3,
        "markersize": 6,
        "clip_on": False,
        "zorder": 4,
    }
    axis.plot([row[metric]], [y], "o", color=colour, **dot)


def _value(axis: Axes, text: str, y: float, colour: str, offset: float) -> None:
    """The number itself, in a column right of the axis, `offset` points wide."""
    where: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "xytext": (offset, 0),
        "textcoords": "offset points",
    }
    axis.annotate(
        text, (1, y), color=colour, ha="right", va="center_baseline", fontsize=8, annotation_clip=False, **where
    )


def _strategy_axis(axis: Axes, strategies: Sequence[str], labelled: bool) -> None:
    axis.set_ylim(len(strategies) - 0.5, -0.5)
    axis.set_yticks(range(len(strategies)), strategies if labelled else [""] * len(strategies))
    axis.tick_params(axis="y", length=0, pad=8)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)


def _colours(table: pl.DataFrame) -> list[str]:
    """Green for the oracle, which times all, grey for chance, a colour for each kind of guidance."""
    known = {ORACLE: GREEN, "random-correct": GREY}
    return [known.get(name, BLUE if name.startswith("surprisal") else VERMILLION) for name in table["strategy"]]


def _title(table: pl.DataFrame) -> str:
    tasks, seeds, unwinnable = (table[column][0] for column in ("n_tasks", "n_seeds", "n_not_winnable"))
    mark = f" ({unwinnable} not winnable)" if unwinnable else ""
    return f"{table['subset'][0]}: {tasks} task{'s' * (tasks != 1)}{mark}, {seeds} seed{'s' * (seeds != 1)}"


def _percent(axis: Any) -> None:
    axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == 0 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _apart(first: float, second: float, gap: float) -> tuple[float, float]:
    """Heights of two labels at least `gap` apart, within 0..1; the higher value (in a tie the first) is above."""
    if abs(first - second) >= gap:
        return first, second
    centre = min(max((first + second) / 2, gap), 1 - gap)
    up = gap / 2 if first >= second else -gap / 2
    return centre + up, centre - up
