"""Figure 1: what each way to spend rollouts reaches, against the rollouts it takes, on one set of tasks. From table 4.

Above, every method at its rollouts per task and its success; below, since many stand at the same place, a row for each.
"""

import re
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from expert_tail.comparison.adapted import AT_BUDGET, BOA, FRESH, IN_BATCH
from expert_tail.comparison.tables import BEST_OF_N
from expert_tail.figure_style import COLOURS, GREY, INK, STYLE, WIDTH

TITLES = {"fast_1": "fast_1: faster by the estimate", "fast_1_confident": "fast_1_confident: faster beyond its noise"}
# The oracle is the end of the curve. Strategies are grey, so that colours are left for runs.
_STRATEGIES = {"surprisal-guided-top3": "*", "surprisal-guided": "D", "random-correct": "s", "confidence-guided": "X"}
_RUN_COLOURS = tuple(colour for colour in COLOURS if colour not in (GREY, INK))
_RULES = {AT_BUDGET: ("v", "best step within budget"), BOA: ("^", "best of all steps")}
Row = dict[str, Any]


def draw(table: pl.DataFrame, subset: str, confidence: float) -> Figure:
    """`table` is table 4 of all sets of tasks, `subset` the set to show."""
    of_set = table.filter(pl.col("subset") == subset)
    curve = of_set.filter(pl.col("method") == BEST_OF_N).sort("k")
    points = _strategies(of_set) + _adaptation(of_set)
    names = list(dict.fromkeys(point["name"] for point in sorted(points, key=lambda point: point["x"])))
    tasks, k = int(curve["n_tasks"][0]), int(curve["k"].max())  # type: ignore[arg-type]
    end = max([k, *(point["x"] for point in points)])
    with matplotlib.rc_context(STYLE):
        below = 0.17 * len(names) + 0.1
        figure = Figure(figsize=(WIDTH, 2.9 + below + 0.75 * bool(names)), layout="constrained")
        if names:
            panels, lists = figure.subplots(2, 2, gridspec_kw={"height_ratios": [2.1, below]})
            for axis, metric in zip(lists, TITLES, strict=True):
                _rows(axis, points, names, metric)
            lists[0].set_yticks(range(len(names)), names, fontsize=7.5)
            lists[1].set_yticks([])
        else:
            panels = figure.subplots(1, 2)
        for axis, (metric, title) in zip(panels, TITLES.items(), strict=True):
            _panel(axis, curve, points, metric)
            axis.set_title(title.replace(": ", ":\n"), loc="left", fontsize=8.5)
            axis.set_xlim(0.85, end * 1.4)
            axis.set_xlabel("rollouts per task (log scale)", fontsize=8)
        panels[0].set_ylabel(f"success on the {tasks} task{'s' * (tasks != 1)} of {subset}", fontsize=8)
        panels[1].tick_params(labelleft=False)
        figure.legend(handles=_legend(points, confidence), loc="outside lower center", ncols=2, **_LEGEND)
        return figure


_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 7.5}


def _strategies(of_set: pl.DataFrame) -> list[Row]:
    found = []
    for row in of_set.iter_rows(named=True):
        if row["method"] in _STRATEGIES:
            style = {"marker": _STRATEGIES[row["method"]], "colour": GREY, "is_filled": True}
            found.append(row | style | _place(row, f"{row['method']}, one pick"))
    return found


def _adaptation(of_set: pl.DataFrame) -> list[Row]:
    """Each family by each rule: as it reports itself (filled) and by rollouts that did not choose (hollow)."""
    rows = of_set.filter(pl.col("method").is_in(list(_RULES)) & (pl.col("chosen_by") == IN_BATCH)).to_dicts()
    averaged = {name for row in rows if row["n_seeds"] > 1 for name in row["run"].split()}
    rows = [row for row in rows if row["n_seeds"] > 1 or row["run"] not in averaged]
    runs = list(dict.fromkeys(row["run"] for row in rows))
    found = []
    for row in rows:
        marker, rule = _RULES[row["method"]]
        colour = _RUN_COLOURS[runs.index(row["run"]) % len(_RUN_COLOURS)]
        style = {"marker": marker, "colour": colour, "is_filled": row["reported_on"] != FRESH}
        found.append(row | style | _place(row, f"{family_label(row['run'])}, {rule}"))
    return found


def _place(row: Row, name: str) -> Row:
    x = row["rollouts"] / row["n_tasks"]
    return {"x": x, "name": f"{name}  {x:.0f}"}


def family_label(names: str) -> str:
    """A family of runs in few words: grpo-42 grpo-43 is `grpo, 2 seeds`."""
    runs = names.split()
    if len(runs) == 1:
        return names
    stem = re.sub(r"[-_.]?\d+$", "", runs[0])
    return f"{stem}, {len(runs)} seeds"


def _panel(axis: Axes, curve: pl.DataFrame, points: list[Row], metric: str) -> None:
    k = curve["k"].to_numpy()
    axis.fill_between(k, curve[f"{metric}_low"], curve[f"{metric}_high"], color=INK, alpha=0.09, linewidth=0)
    axis.plot(k, curve[metric], "o-", color=INK, markersize=4, linewidth=1.6, clip_on=False, zorder=3)
    base = curve[metric][0]
    axis.axhline(base, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    # Below the line, which the curve leaves upwards; above it where the axis is below.
    where: Any = {"xycoords": ("axes fraction", "data"), "xytext": (5, -9 if base > 0.1 else 5)}
    axis.annotate("one sample", (0, base), ha="left", fontsize=6.5, color=GREY, textcoords="offset points", **where)
    for point in points:
        mark = _mark(point)
        mark.set_data([point["x"]], [point[metric]])
        mark.set_label(point["name"])
        axis.add_line(mark)
    axis.set_xscale("log", base=2)
    most = int(np.ceil(np.log2(max([k[-1], *(point["x"] for point in points)]))))
    axis.xaxis.set_major_locator(FixedLocator([2**power for power in range(most + 1)]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.tick_params(labelsize=7.5)
    axis.set_ylim(-0.03, 1.03)
    _percent(axis.yaxis)
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)


def _rows(axis: Axes, points: list[Row], names: list[str], metric: str) -> None:
    both = {point["name"] for point in points if not point["is_filled"]}
    for point in points:
        aside = 0.2 * (point["name"] in both)
        y = names.index(point["name"]) + (-aside if point["is_filled"] else aside)
        ends = [point[f"{metric}_low"], point[f"{metric}_high"]]
        axis.plot(ends, [y, y], color=point["colour"], linewidth=1, alpha=0.5, zorder=2)
        mark = _mark(point)
        mark.set_data([point[metric]], [y])
        axis.add_line(mark)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel("success", fontsize=8)
    _percent(axis.xaxis)
    axis.tick_params(axis="x", labelsize=7.5)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)


def _percent(axis: Any) -> None:
    axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


def _mark(point: Row) -> Line2D:
    # A hollow mark is larger and lies below, so that neither hides the other.
    size = 7 if point["marker"] == "*" else 5 if point["is_filled"] else 8.5
    face = point["colour"] if point["is_filled"] else "white"
    style: Any = {"linestyle": "none", "markersize": size, "markeredgewidth": 0.9, "clip_on": False}
    zorder = 5 if point["is_filled"] else 4
    return Line2D([], [], marker=point["marker"], color=point["colour"], markerfacecolor=face, zorder=zorder, **style)


def _legend(points: list[Row], confidence: float) -> list[Line2D]:
    interval = f"{100 * confidence:g}% interval"
    handles = [Line2D([], [], color=INK, marker="o", markersize=4, linewidth=1.6)]
    labels = [f"best of K samples, all timed (band: {interval})"]
    if points:
        handles.append(Line2D([], [], color=GREY, linewidth=1))
        labels.append(f"{interval}; number after a name: rollouts per task")
    kinds = (
        ("adaptation, by the rollouts that chose the step", True),
        ("adaptation, by fresh rollouts", False),
    )
    for label, is_filled in kinds:
        if any(point["is_filled"] == is_filled and point["method"] in _RULES for point in points):
            handles.append(_mark({"marker": "^", "colour": INK, "is_filled": is_filled}))
            labels.append(label)
    for handle, label in zip(handles, labels, strict=True):
        handle.set_label(label)
    return handles
