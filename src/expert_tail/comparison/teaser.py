"""Figure 1: what each way to spend rollouts reaches, against the rollouts it takes, on one set of tasks. From table 4."""

import re
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from expert_tail.comparison.adapted import BOA, FRESH, IN_BATCH
from expert_tail.comparison.tables import BEST_OF_N
from expert_tail.figure_style import BLUE, COLOURS, GREY, INK, STYLE, VERMILLION, WIDTH

TITLES = {"fast_1": "fast_1: faster by the estimate", "fast_1_confident": "fast_1_confident: faster beyond its noise"}
# Marker, colour and place beside K, in doublings, of each strategy. The oracle is the end of the curve.
_STRATEGIES = {
    "surprisal-guided-top3": ("*", BLUE, -0.36),
    "surprisal-guided": ("D", BLUE, -0.12),
    "random-correct": ("s", GREY, 0.12),
    "confidence-guided": ("X", VERMILLION, 0.36),
}
Row = dict[str, Any]


def draw(table: pl.DataFrame, subset: str, confidence: float) -> Figure:
    """`table` is table 4 of all sets of tasks, `subset` the set to show."""
    of_set = table.filter(pl.col("subset") == subset)
    curve = of_set.filter(pl.col("method") == BEST_OF_N).sort("k")
    points = _strategies(of_set) + _adaptation(of_set)
    tasks, k = int(curve["n_tasks"][0]), int(curve["k"].max())  # type: ignore[arg-type]
    end = max([k, *(point["x"] for point in points)])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axis, (metric, title) in zip(panels, TITLES.items(), strict=True):
            _panel(axis, curve, points, metric)
            axis.set_title(title, loc="left")
            axis.set_xlim(0.85, end * 1.4)
            axis.set_xlabel("rollouts per task (log scale)")
        panels[0].set_ylabel(f"success on the {tasks} task{'s' * (tasks != 1)} of {subset}")
        label = f"best of K samples, all of them timed (band: {100 * confidence:g}% interval)"
        handles = [Line2D([], [], color=INK, marker="o", markersize=4, linewidth=1.6, label=label)]
        handles += [_mark(point, label=point["label"]) for point in points]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=7.5)
        return figure


def _strategies(of_set: pl.DataFrame) -> list[Row]:
    found = []
    for row in of_set.iter_rows(named=True):
        if row["method"] in _STRATEGIES:
            marker, colour, shift = _STRATEGIES[row["method"]]
            style = {"x": row["k"] * 2**shift, "marker": marker, "colour": colour, "is_filled": True}
            found.append(row | style | {"label": f"{row['method']}: one of K = {row['k']}"})
    return sorted(found, key=lambda row: row["x"])


def _adaptation(of_set: pl.DataFrame) -> list[Row]:
    """Best-of-Adaptation of each family: as it reports itself (filled) and by rollouts that did not choose (hollow)."""
    rows = of_set.filter((pl.col("method") == BOA) & (pl.col("chosen_by") == IN_BATCH)).to_dicts()
    averaged = {name for row in rows if row["n_seeds"] > 1 for name in row["run"].split()}
    rows = [row for row in rows if row["n_seeds"] > 1 or row["run"] not in averaged]
    found, colours = [], dict.fromkeys(row["run"] for row in rows)
    for i, run in enumerate(colours):
        for row in (row for row in rows if row["run"] == run):
            is_filled = row["reported_on"] != FRESH
            style = {"marker": "^", "colour": COLOURS[i % len(COLOURS)], "is_filled": is_filled}
            shift = 2 ** (0.22 * (i - (len(colours) - 1) / 2))
            label = f"adaptation {family_label(run)}: best step" + ("" if is_filled else ", by fresh rollouts")
            found.append(row | style | {"x": row["rollouts"] / row["n_tasks"] * shift, "label": label})
    return found


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
    where: Any = {"xycoords": ("axes fraction", "data"), "xytext": (3, -8), "textcoords": "offset points"}
    axis.annotate("one sample", (0, base), ha="left", fontsize=6.5, color=GREY, **where)
    for point in points:
        ends = [point[f"{metric}_low"], point[f"{metric}_high"]]
        axis.plot([point["x"]] * 2, ends, color=point["colour"], linewidth=0.9, alpha=0.4, zorder=2)
        mark = _mark(point)
        mark.set_data([point["x"]], [point[metric]])
        axis.add_line(mark)
    axis.set_xscale("log", base=2)
    most = int(np.ceil(np.log2(max([k[-1], *(point["x"] for point in points)]))))
    axis.xaxis.set_major_locator(FixedLocator([2**power for power in range(most + 1)]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.set_ylim(-0.02, 1.02)
    axis.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)


def _mark(point: Row, label: str = "") -> Line2D:
    size = 9 if point["marker"] == "*" else 6
    face = point["colour"] if point["is_filled"] else "white"
    style: Any = {"linestyle": "none", "markersize": size, "markeredgewidth": 1.1, "clip_on": False, "zorder": 5}
    return Line2D([], [], marker=point["marker"], color=point["colour"], markerfacecolor=face, label=label, **style)
