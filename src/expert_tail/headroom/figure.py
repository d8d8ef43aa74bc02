"""The figure of headroom: what the best expert of each task reaches, with its interval, and what the roofline allows."""

from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from expert_tail.figure_style import BLUE, GREY, INK, STYLE, TIMES, VERMILLION, WIDTH
from expert_tail.time_experts.verdict import NOT_WINNABLE, UNKNOWN, WINNABLE

COLOURS = {WINNABLE: VERMILLION, UNKNOWN: BLUE, NOT_WINNABLE: GREY}
MAX_NAME = 26  # characters of a task's name
ROW = 0.145  # inches
PER_COLUMN = 52  # tasks
_SMALL_GREY: Any = {"color": GREY, "fontsize": 6.2}


def draw(table: pl.DataFrame) -> Figure:
    """`table` is headroom.csv; the fastest task is on top, those without a correct expert are at the end."""
    tasks = _best(table)
    columns = -(-tasks.height // PER_COLUMN)
    rows = -(-tasks.height // columns)
    low, high = _limits(tasks)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH if columns > 1 else 4.8, ROW * rows + 1.1), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0]
        for axis, start in zip(axes, range(0, tasks.height, rows), strict=True):
            _panel(axis, tasks.slice(start, rows), rows, low, high)
        figure.legend(
            handles=_marks(tasks), loc="outside upper left", ncols=4, frameon=False, fontsize=8, handletextpad=0.4
        )
        return figure


def _best(table: pl.DataFrame) -> pl.DataFrame:
    """One row a task: its best correct expert, by the lower end of the interval. Without one, speedup is empty."""
    measured = ["speedup", "speedup_low", "speedup_high"]
    correct = pl.col("status").fill_null("") == "correct"
    return (
        table.with_columns(pl.when(correct).then(pl.col(measured)))
        .sort("speedup_low", descending=True, nulls_last=True)
        .unique("task_id", keep="first", maintain_order=True)
        .sort("speedup", "task_id", descending=[True, False], nulls_last=True)
    )


def _limits(tasks: pl.DataFrame) -> tuple[float, float]:
    """Of the speedup axis: every interval. Ceilings beyond it are arrows at its end."""
    values = tasks.select("speedup", "speedup_low", "speedup_high").to_numpy().astype(float)
    ends = np.append(values[np.isfinite(values) & (values > 0)], [0.8, 2.0])
    return ends.min() / 1.15, ends.max() * 1.6


def _panel(axis: Axes, tasks: pl.DataFrame, rows: int, low: float, high: float) -> None:
    axis.axvline(1, color=INK, linewidth=0.9, zorder=1)
    for y, row in enumerate(tasks.iter_rows(named=True)):
        colour = COLOURS[row["verdict"]]
        if row["ceiling"] is not None:
            _ceiling(axis, min(max(row["ceiling"], low), high / 1.06), y, row["ceiling"] > high)
        if row["speedup"] is None:
            axis.annotate("no correct expert", (1, y), (4, 0), textcoords="offset points", va="center", **_SMALL_GREY)
            continue
        axis.barh(y, row["speedup"] - 1, left=1, height=0.62, color=colour, alpha=0.55, linewidth=0, zorder=2)
        ends = [row["speedup_low"], row["speedup_high"]]
        axis.plot(ends, [y, y], color=colour, linewidth=1.1, solid_capstyle="butt", zorder=3)
        axis.plot([row["speedup"]], [y], "o", color=colour, markersize=2.6, markeredgewidth=0, zorder=4)
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    subs = (1.0, 2.0, 5.0) if high / low < 100 else (1.0,)
    axis.xaxis.set_major_locator(LogLocator(subs=subs))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{TIMES}"))
    axis.set_xlabel("speedup of the expert, log scale")
    axis.set_ylim(rows - 0.4, -0.6)
    axis.set_yticks(range(tasks.height), [_label(row) for row in tasks.iter_rows(named=True)], fontsize=6.2)
    axis.tick_params(axis="y", length=0, pad=3)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)


def _ceiling(axis: Axes, x: float, y: float, is_beyond: bool) -> None:
    marker = ">" if is_beyond else "|"
    axis.plot(
        [x], [y], marker, color=INK, markersize=2.4 if is_beyond else 5, markeredgewidth=0.8, clip_on=False, zorder=5
    )


def _marks(tasks: pl.DataFrame) -> list[Line2D]:
    counts = dict(tasks["verdict"].value_counts().rows())
    bar: dict[str, Any] = {"linewidth": 4.5, "alpha": 0.55, "solid_capstyle": "butt"}
    found = [
        Line2D([], [], color=colour, label=f"{name} ({counts[name]})", **bar)
        for name, colour in COLOURS.items()
        if name in counts
    ]
    ceiling = Line2D(
        [], [], linestyle="none", marker="|", color=INK, markersize=6, label=f"roofline ({chr(0x25B8)} beyond the axis)"
    )
    return [*found, ceiling]


def _label(row: dict[str, Any]) -> str:
    name = " ".join(row["name"].removeprefix(f"{row['task_id']}_").replace("_", " ").split())
    return f"{name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + '…'}  {row['task_id']}"
