"""The figure of the pipeline: what m evaluations buy under each ranking. One row of panels a set of tasks."""

from typing import Any

import matplotlib
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from expert_tail.figure_style import BLUE, GREY, INK, STYLE, TIMES, VERMILLION, WIDTH

COLOURS = {"surprisal": BLUE, "confidence": VERMILLION, "random": GREY}
LABELS = {"surprisal": "highest surprisal first", "confidence": "lowest surprisal first", "random": "random order"}
PANELS = {
    "fast_1": "fast_1",
    "fast_1_confident": "confident fast_1",
    "mean_speedup": "mean speedup",
}
_AS_DRAWN: Any = "-"
_DISTINCT: Any = (0, (3, 1.5))


def draw(table: pl.DataFrame, surprisal: str, confidence: float) -> Figure:
    """`table` is budget_curve.csv, `surprisal` (sum or mean) the kind that rankings go by; bands are those of solid lines."""
    shown = table.filter(pl.col("task_id").is_null(), pl.col("surprisal").fill_null(surprisal) == surprisal)
    sets = shown["set"].unique(maintain_order=True).to_list()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.9 * len(sets) + 1.1), layout="constrained")
        axes = figure.subplots(len(sets), len(PANELS), squeeze=False)
        for row, name in zip(axes, sets, strict=True):
            of_set = shown.filter(pl.col("set") == name)
            for axis, metric in zip(row, PANELS, strict=True):
                _panel(axis, of_set, metric)
            tasks = of_set["n_tasks"][0]
            row[0].set_ylabel(f"{name}\n{tasks} task{'s' * (tasks != 1)}", fontweight="bold", labelpad=8)
        for axis, title in zip(axes[0], PANELS.values(), strict=True):
            axis.set_title(title, loc="left", fontsize=8.5)
        figure.supxlabel("samples evaluated of each task, m", fontsize=9)
        note = f"{'per-token' if surprisal == 'mean' else 'summed'} surprisal; bands: {100 * confidence:g}% intervals"
        figure.legend(handles=[*_marks(), Line2D([], [], linestyle="none", label=note)], **_LEGEND)
        return figure


def _panel(axis: Axes, table: pl.DataFrame, metric: str) -> None:
    for order, colour in COLOURS.items():
        for prefix, style in (("", _AS_DRAWN), ("distinct-", _DISTINCT)):
            line = table.filter(pl.col("ranking") == prefix + order).sort("m")
            m, is_drawn = line["m"], style == _AS_DRAWN
            axis.plot(m, line[metric], color=colour, linestyle=style, linewidth=1.6, zorder=3 + (order == "surprisal"))
            if is_drawn:
                band: dict[str, Any] = {"color": colour, "alpha": 0.1, "linewidth": 0}
                axis.fill_between(m, line[f"{metric}_low"], line[f"{metric}_high"], **band)
            if len(m) == 1:
                axis.plot(m, line[metric], "o", color=colour, markersize=4)
    largest = int(table["m"].max())  # type: ignore[arg-type]
    axis.set_xscale("log", base=2)
    axis.set_xlim(0.93, max(largest, 2) * 1.07)
    ticks = [2**i for i in range(largest.bit_length())]
    axis.xaxis.set_major_locator(FixedLocator(ticks[:: 1 + len(ticks) // 8]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.tick_params(labelsize=7.5)
    if metric == "mean_speedup":
        axis.set_ylim(0, max(1.1, 1.12 * float(table[metric].max())))  # type: ignore[arg-type]
        axis.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        axis.yaxis.set_major_locator(MaxNLocator(4))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{TIMES}"))
    else:
        axis.set_ylim(-0.02, 1.02)
        axis.set_yticks([0, 0.5, 1])
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


_LEGEND: Any = {"loc": "outside upper left", "ncols": 3, "frameon": False, "fontsize": 8, "columnspacing": 1.6}


def _marks() -> list[Line2D]:
    colours = [Line2D([], [], color=colour, linewidth=2, label=LABELS[name]) for name, colour in COLOURS.items()]
    styles = [
        Line2D([], [], color=INK, linestyle=_AS_DRAWN, label="every sample in its turn"),
        Line2D([], [], color=INK, linestyle=_DISTINCT, label="each distinct candidate once first"),
    ]
    return [handle for pair in zip(colours[:2], styles, strict=True) for handle in pair] + colours[2:]
