"""The figure of methods against cost, with the Pareto front. One row of panels a set of tasks: success, and speedup."""

from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from expert_tail.figure_style import BLUE, DOTS, GREY, INK, STYLE, TIMES, VERMILLION, WIDTH
from expert_tail.pareto.adaptation import DRAW
from expert_tail.pareto.methods import ADAPTATION, SAMPLING, SELECTION

GREEN = "#009E73"
COLOURS = {SAMPLING: BLUE, SELECTION: VERMILLION, ADAPTATION: GREEN}
PANELS = {"fast_1": "fast_1_confident", "mean_speedup": "mean_speedup_bound"}
TITLES = {"fast_1": "tasks solved (fast_1)", "mean_speedup": "mean speedup"}
AXES = {
    "seconds": "seconds of compute per task, log scale",
    "tokens_computed": "tokens through the model per task, log scale",
    "rollouts": "rollouts per task, log scale",
}
_SHORT = {"surprisal-guided": "surprisal", "confidence-guided": "confidence", "random-correct": "random correct"}


def draw(table: pl.DataFrame) -> Figure:
    """`table` is pareto.csv; the cost is in seconds where they are known of all, else in tokens, else in rollouts."""
    sets = table["set"].unique(maintain_order=True).to_list()
    cost = next(name for name in AXES if table[name].null_count() == 0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.5 * len(sets) + 0.9), layout="constrained")
        axes = figure.subplots(len(sets), len(PANELS), squeeze=False)
        for row, name in zip(axes, sets, strict=True):
            of_set = table.filter(pl.col("set") == name)
            for axis, value in zip(row, PANELS, strict=True):
                _panel(axis, of_set, value, cost)
            tasks = int(of_set["n_tasks"].max())  # type: ignore[arg-type]
            row[0].set_ylabel(f"{name}\n{tasks} task{'s' * (tasks != 1)}", fontweight="bold", labelpad=8)
        for axis, title in zip(axes[0], TITLES.values(), strict=True):
            axis.set_title(title, loc="left", fontsize=8.5)
        figure.supxlabel(AXES[cost], fontsize=9)
        marks = _marks(ADAPTATION in table["family"])
        figure.legend(handles=marks, loc="outside upper left", ncols=len(marks) // 2, frameon=False, fontsize=8)
        return figure


def _panel(axis: Axes, table: pl.DataFrame, value: str, cost: str) -> None:
    front = table.filter(pl.col(f"front_{value}_by_{cost}") == 1).sort(cost, value)
    for family, colour in COLOURS.items():
        for is_draw in (False, True):
            points = table.filter(pl.col("family") == family, (pl.col("deploys") == DRAW) == is_draw)
            face = "white" if is_draw else colour
            style: dict[str, Any] = {"markersize": 3.6, "markerfacecolor": face, "markeredgewidth": 0.9, "alpha": 0.75}
            axis.plot(points[cost], points[value], "o", color=colour, linestyle="none", zorder=3, **style)
    best_n = table.filter(pl.col("family") == SAMPLING).sort(cost)
    axis.plot(best_n[cost], best_n[value], color=BLUE, linewidth=0.8, alpha=0.6, zorder=2)
    largest = float(table[cost].max())  # type: ignore[arg-type]
    _front(axis, front[cost].to_list(), front[value].to_list(), largest, INK, "-")
    sure = table.filter(pl.col(f"front_{PANELS[value]}_by_{cost}") == 1).sort(cost, PANELS[value])
    _front(axis, sure[cost].to_list(), sure[PANELS[value]].to_list(), largest, GREY, DOTS)
    _name(axis, front, value, cost)
    _axes(axis, table, value, cost)


def _front(axis: Axes, x: list[float], y: list[float], largest: float, colour: str, style: Any) -> None:
    if x:
        axis.step(
            [*x, largest * 1.1], [*y, y[-1]], where="post", color=colour, linestyle=style, linewidth=1.3, zorder=4
        )


def _name(axis: Axes, front: pl.DataFrame, value: str, cost: str) -> None:
    """Number the members of the front, the cheapest of equals, and list their names right of the panel."""
    members = front.unique(value, keep="first", maintain_order=True).to_dicts()
    for number, row in enumerate(members, 1):
        at, colour = (row[cost], row[value]), COLOURS[row["family"]]
        axis.plot(
            *at, "o", color=colour, markersize=8.5, markeredgecolor="white", markeredgewidth=0.6, zorder=5 + number
        )
        text: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 6, "fontweight": "bold"}
        axis.annotate(str(number), at, color="white", zorder=5 + number, **text)
    place: dict[str, Any] = {"xycoords": "axes fraction", "ha": "left", "va": "top", "fontsize": 6.5}
    place |= {"textcoords": "offset points", "annotation_clip": False}
    for number, row in enumerate(members, 1):
        line = (4, -1 - 9.5 * (number - 1))
        axis.annotate(f"{number}  {_label(row)}", (1, 1), line, color=COLOURS[row["family"]], **place)


def _label(row: dict[str, Any]) -> str:
    if row["family"] == SAMPLING:
        return f"best of {row['k']}"
    if row["family"] == ADAPTATION:
        return f"{row['method']}, step {row['step']}" + (", one draw" if row["deploys"] == DRAW else "")
    if row["m"] is not None:
        return f"{row['method'].removeprefix('ranked-')} first, {row['m']} of {row['k']}"
    return (
        f"{_SHORT.get(row['method'], row['method'])}, 1 of {row['k']}" if "top3" not in row["method"] else row["method"]
    )


def _axes(axis: Axes, table: pl.DataFrame, value: str, cost: str) -> None:
    costs = table[cost].to_numpy()
    low, high = float(costs.min()) / 1.3, float(costs.max()) * 1.1
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 60 else (1.0, 3.0)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x < 1e4 else f"{x / 1e3:g}k"))
    axis.tick_params(labelsize=7.5)
    axis.grid(color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)
    if value == "fast_1":
        top = max(0.2, min(1.0, 1.25 * float(table[value].max())))  # type: ignore[arg-type]
        axis.set_ylim(-0.04 * top, 1.06 * top)
        axis.yaxis.set_major_locator(MaxNLocator(4))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:.0f}%"))
        return
    values = np.append(table[value].to_numpy(), 1.0)
    axis.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    axis.set_ylim(0, float(values.max()) * 1.15)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}{TIMES}"))


def _marks(has_adaptation: bool) -> list[Line2D]:
    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5}
    sampling = Line2D([], [], color=BLUE, label="sampling: best of N", **dot)
    selection = Line2D([], [], color=VERMILLION, label="selection and ranking", **dot)
    front = Line2D([], [], color=INK, label="Pareto front (members numbered)")
    sure = Line2D([], [], color=GREY, linestyle=DOTS, label="front by the confident value")
    adapted = [
        Line2D([], [], color=GREEN, label="adaptation: fastest rollout", **dot),
        Line2D([], [], color=GREEN, markerfacecolor="white", label="adaptation: one draw", **dot),
    ]
    return [sampling, front, selection, sure, *adapted[: 2 * has_adaptation]]
