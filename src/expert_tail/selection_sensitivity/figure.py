"""The figure of sensitivity: what surprisal-guided selection gains over confidence-guided, under each choice."""

from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from expert_tail.aggregate.regimes import ALL, HIGH_STD, LOW_STD
from expert_tail.figure_style import BLUE, GREY, INK, STYLE, VERMILLION, WIDTH
from expert_tail.selection_sensitivity.table import BASE, DIFFERENCE, SAMPLER

MAX_COLUMNS = 5
ROW = 0.25  # inches
SCORERS = {SAMPLER: "sampling checkpoint", BASE: "base policy"}
_SPREAD = "std of a task's surprisal"
_REGIMES = {"high": f"{_SPREAD} > {HIGH_STD:g}", "between": "between", "low": f"< {LOW_STD:g}"}
Choice = tuple[str, str, str, str]  # regime, scorer, surprisal, duplicates


def draw(table: pl.DataFrame, confidence: float) -> Figure:
    """`table` is selection_sensitivity.csv: the paired differences of fast_1, one column of panels a set of tasks.

    Upper panel: each scorer, surprisal and treatment of duplicates, over all tasks. Lower panel: each regime, as the
    strategies are by default. A scorer that has fewer seeds than others is shown on those that it has.
    """
    shown = table.filter(pl.col("strategy") == DIFFERENCE)
    most = shown.with_columns(pl.col("n_seeds").max().over("set", "regime", "scorer").alias("most"))
    shown = most.filter(pl.col("n_seeds") == pl.col("most"))
    sets = shown["set"].unique(maintain_order=True).to_list()
    choices = _choices(shown)
    regimes: list[Choice] = [(regime, SAMPLER, "sum", "kept") for regime in _REGIMES]
    columns = min(len(sets), MAX_COLUMNS)
    blocks = -(-len(sets) // columns)
    heights = [len(choices), len(regimes)] * blocks
    with matplotlib.rc_context(STYLE):
        height = ROW * sum(heights) + 0.75 * blocks + 0.75
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(2 * blocks, columns, squeeze=False, sharex=True, gridspec_kw={"height_ratios": heights})
        for axis in axes.flat:
            axis.set_visible(False)
        for i, name in enumerate(sets):
            block, column = divmod(i, columns)
            upper, lower = axes[2 * block : 2 * block + 2, column]
            of_set = shown.filter(pl.col("set") == name)
            _panel(upper, of_set, choices, column == 0)
            _panel(lower, of_set, regimes, column == 0)
            tasks = int(of_set["n_tasks"].max())  # type: ignore[arg-type]
            upper.set_title(f"{name}\n{tasks} task{'s' * (tasks != 1)}", loc="left", fontsize=8.5)
            lower.tick_params(axis="x", labelbottom=True, labelsize=7.5)
        figure.supxlabel(
            "\N{LEFTWARDS ARROW} confidence-guided is better     difference in success     surprisal-guided is better \N{RIGHTWARDS ARROW}",
            fontsize=9,
        )
        figure.legend(handles=_marks(confidence), loc="outside upper left", ncols=3, frameon=False, fontsize=8)
        return figure


def _choices(shown: pl.DataFrame) -> list[Choice]:
    order = {SAMPLER: 0, BASE: 1}
    scorers = sorted(shown["scorer"].unique(), key=lambda name: (order.get(name, 2), name))
    return [
        (ALL, s, kind, duplicates) for s in scorers for kind in ("sum", "mean") for duplicates in ("kept", "dropped")
    ]


def _panel(axis: Axes, table: pl.DataFrame, choices: list[Choice], is_labelled: bool) -> None:
    axis.set_visible(True)
    axis.axvline(0, color=INK, linewidth=0.8, zorder=1)
    rows = {(row["regime"], row["scorer"], row["surprisal"], row["duplicates"]): row for row in table.to_dicts()}
    for y, choice in enumerate(choices):
        if choice not in rows:
            axis.annotate("none", (0, y), (5, 0), textcoords="offset points", va="center", color=GREY, fontsize=7)
            continue
        row = rows[choice]
        for metric, colour, face, shift in (
            ("fast_1", BLUE, BLUE, -0.15),
            ("fast_1_confident", VERMILLION, "white", 0.17),
        ):
            ends = [row[f"{metric}_low"], row[f"{metric}_high"]]
            axis.plot(ends, [y + shift] * 2, color=colour, linewidth=1.3, alpha=0.45, solid_capstyle="butt", zorder=2)
            dot: dict[str, Any] = {"markerfacecolor": face, "markersize": 4, "markeredgewidth": 1, "clip_on": False}
            axis.plot([row[metric]], [y + shift], "o", color=colour, zorder=3, **dot)
    for y in np.arange(4, len(choices), 4) - 0.5:
        axis.axhline(y, color="#D0D0D0", linewidth=0.7)
    axis.set_xlim(-1.03, 1.03)
    axis.set_xticks([-1, 0, 1])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0f}" if value else "0"))
    axis.set_ylim(len(choices) - 0.5, -0.5)
    axis.set_yticks(range(len(choices)), [_label(choice) for choice in choices] if is_labelled else [""] * len(choices))
    axis.tick_params(axis="y", length=0, labelsize=7.5)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)


def _label(choice: Choice) -> str:
    regime, scorer, surprisal, duplicates = choice
    if regime != ALL:
        return _REGIMES[regime]
    kind = surprisal + (", distinct" if duplicates == "dropped" else "")
    first = (surprisal, duplicates) == ("sum", "kept")
    return f"{SCORERS.get(scorer, scorer)}   {kind}" if first else kind


def _marks(confidence: float) -> list[Line2D]:
    dot: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5}
    return [
        Line2D([], [], color=BLUE, label="fast_1", **dot),
        Line2D([], [], color=VERMILLION, markerfacecolor="white", label="confident fast_1", **dot),
        Line2D([], [], color=GREY, label=f"{100 * confidence:g}% interval of the paired difference"),
    ]
