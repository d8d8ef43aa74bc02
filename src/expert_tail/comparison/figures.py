"""Figures 5, 6 and 7: trajectories of adaptation, correlation along them, and what adaptation does task by task."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from expert_tail.comparison.adapted import IN_BATCH, Adapted, families, names_of
from expert_tail.comparison.rates import FAST
from expert_tail.comparison.tables import BEST_OF_N, COVERED
from expert_tail.comparison.teaser import TITLES, family_label
from expert_tail.figure_style import COLOURS, DOTS, GREY, INK, STYLE, VERMILLION, WIDTH

_PANELS = {  # set and kind of surprisal: title
    ("all", "sum"): "all samples",
    ("bottom_quartile", "sum"): "quarter of highest surprisal",
    ("all", "tail"): "all, by their least likely tokens",
}
_KINDS = ("", "fresh_")
_DASHES: Any = (0, (4, 3))
_DASH_DOT: Any = (0, (6, 2, 1, 2))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


def trajectories(runs: Sequence[Adapted], table4: pl.DataFrame, confidence: float) -> Figure:
    """Figure 5: success of each checkpoint, a panel a family of runs on a subset, a colour a seed; stars mark the choice.

    Beside each: a single sample and the best of K, from table 4. fast_1_confident has panels where it is ever above 0.
    """
    shown = [family for family in families(runs) if not family[0].is_isolated and family[0].run.steps > 0]
    if not shown:
        return _nothing("No adaptation run on a subset with an update: there are no trajectories to show.")
    rows = [row for family in shown for one in family for row in one.rows]
    metrics = FAST if any(row[f"{kind}{FAST[1]}"] for row in rows for kind in _KINDS) else FAST[:1]
    places = [(family, metric) for family in shown for metric in metrics]
    columns, seeds = min(2, len(places)), sorted({one.run.seed for family in shown for one in family})
    colours = {seed: COLOURS[i % len(COLOURS)] for i, seed in enumerate(seeds)}
    with matplotlib.rc_context(STYLE):
        height = -(-len(places) // columns)
        figure = Figure(figsize=(WIDTH, 1.6 * height + 1.1), layout="constrained")
        axes = figure.subplots(height, columns, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flat[len(places) :]:
            axis.remove()
        for i, (axis, (family, metric)) in enumerate(zip(axes.flat, places, strict=False)):
            of_subset = table4.filter(pl.col("subset") == family[0].run.subset, pl.col("method") == BEST_OF_N).sort("k")
            _reference(axis, of_subset[metric].to_list())
            for one in family:
                _trajectory(axis, one, metric, colours[one.run.seed])
            axis.set_title(f"{family_label(names_of(family))} on {family[0].run.subset}", loc="left", fontsize=8.5)
            _success_axis(axis)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.tick_params(labelbottom=i >= len(places) - columns)
            if i >= len(places) - columns:
                axis.set_xlabel("step: updates made")
            if i % columns == 0 or len(metrics) > 1:
                axis.set_ylabel(f"success\n({metric})", fontsize=8)
        if len(metrics) == 1:
            _say(figure, _never_confident(rows, confidence))
        marks = _trajectory_marks(shown, colours, table4["k"].max(), confidence)
        figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=7.5)
        return figure


def _never_confident(rows: Sequence[dict[str, Any]], confidence: float) -> str:
    ends = [row[f"{kind}{FAST[1]}_high"] or 0 for row in rows for kind in _KINDS]
    bound = f"upper bound of the {100 * confidence:g}% intervals: {100 * max(ends):.0f}%"
    return f"{FAST[1]} is 0 at every step of every run ({bound})."


def _reference(axis: Axes, rates: list[float]) -> None:
    """One sample, and the best of all: the ends of Best-of-N's curve."""
    if rates:
        axis.axhline(rates[0], color=GREY, linewidth=0.9, linestyle=_DASHES, zorder=1)
        axis.axhline(rates[-1], color=INK, linewidth=0.8, linestyle=_DASH_DOT, zorder=1)


def _trajectory(axis: Axes, one: Adapted, metric: str, colour: str) -> None:
    steps = [row["step"] for row in one.rows]
    scores = [row[metric] for row in one.rows]
    low, high = ([row[f"{metric}{end}"] for row in one.rows] for end in ("_low", "_high"))
    axis.fill_between(steps, low, high, color=colour, alpha=0.1, linewidth=0, zorder=0)
    axis.plot(steps, scores, "o-", color=colour, markersize=3, linewidth=1.5)
    if one.fresh:
        axis.plot(steps, [row[f"fresh_{metric}"] for row in one.rows], color=colour, linewidth=1.3, linestyle=DOTS)
    best = next(i for i, row in enumerate(one.rows) if row["is_boa"])
    star: Any = {"marker": "*", "markersize": 11, "markeredgecolor": "white", "markeredgewidth": 0.7, "zorder": 4}
    axis.plot([steps[best]], [scores[best]], color=colour, linestyle="none", clip_on=False, **star)


def _trajectory_marks(shown: list[list[Adapted]], colours: dict[int, str], k: Any, confidence: float) -> list[Any]:
    style: Any = {"marker": "o", "markersize": 3}
    marks: list[Any] = [Line2D([], [], color=colour, label=f"seed {seed}", **style) for seed, colour in colours.items()]
    marks.append(Patch(color=GREY, alpha=0.2, linewidth=0, label=f"{100 * confidence:g}% interval, a colour a seed"))
    label = "chosen by Best-of-Adaptation (fast_1)"
    marks.append(Line2D([], [], color=INK, marker="*", markersize=9, linestyle="none", label=label))
    if any(one.fresh for family in shown for one in family):
        marks.append(Line2D([], [], color=INK, linestyle=DOTS, label="fresh rollouts of the same checkpoint"))
    marks.append(Line2D([], [], color=GREY, linewidth=0.9, linestyle=_DASHES, label="one sample"))
    marks.append(Line2D([], [], color=INK, linewidth=0.8, linestyle=_DASH_DOT, label=f"best of {k} samples, all timed"))
    return marks


def _success_axis(axis: Axes) -> None:
    axis.set_ylim(-0.04, 1.08)  # room for marks at the ends
    axis.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))
    axis.grid(axis="y", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)


def _say(figure: Figure, sentence: str) -> None:
    figure.suptitle(sentence, x=0.01, ha="left", fontsize=8, color=INK, fontweight="normal")


def correlation(probed: pl.DataFrame, confidence: float) -> Figure:
    """Figure 6: ρ of surprisal and speedup of fixed samples under each checkpoint. `probed` has rows of probes.csv."""
    if probed.is_empty():
        return _nothing("No run is named in `probes.runs`: there is no correlation along a trajectory to show.")
    runs = probed["run"].unique(maintain_order=True).to_list()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.2 * len(runs) + 0.7), layout="constrained")
        axes = figure.subplots(len(runs), len(_PANELS), squeeze=False, sharex=True, sharey=True)
        for row, run in zip(axes, runs, strict=True):
            for axis, ((which, kind), title) in zip(row, _PANELS.items(), strict=True):
                chosen = (pl.col("run") == run) & (pl.col("set") == which) & (pl.col("surprisal") == kind)
                _rho(axis, probed.filter(chosen).sort("step"), ", ties included" * (which == "bottom_quartile"))
                axis.set_title(title, loc="left", fontsize=8, pad=25)
            row[0].set_ylabel(f"Spearman's \N{GREEK SMALL LETTER RHO}\n{run}")
        for axis in axes[-1]:
            axis.set_xlabel("step: updates made")
        percent = f"{100 * confidence:g}%"
        handles: list[Any] = [
            Line2D(
                [], [], color=VERMILLION, marker="o", markersize=4, label=f"surprisal and speedup, {percent} interval"
            ),
            Patch(color=GREY, alpha=0.2, linewidth=0, label=f"{percent} of what chance gives with as many candidates"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=7.5)
        return figure


def _rho(axis: Axes, rows: pl.DataFrame, ties: str) -> None:
    axis.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    axis.set_ylim(-1, 1)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    found = rows.filter(pl.col("rho").is_not_null())
    text: Any = {"xycoords": "axes fraction", "fontsize": 7, "color": GREY}
    if found.is_empty():
        axis.annotate("undefined: one of the two is constant,\nor too few candidates", (0.04, 0.06), **text)
        return
    step = found["step"].to_numpy()
    # Half a step to either side, so that a single step has a band, too.
    edges = np.column_stack([step - 0.5, step + 0.5]).ravel()
    axis.fill_between(
        edges, np.repeat(found["null_low"], 2), np.repeat(found["null_high"], 2), color=GREY, alpha=0.2, linewidth=0
    )
    axis.vlines(step, found["rho_low"], found["rho_high"], color=VERMILLION, linewidth=1, alpha=0.7)
    axis.plot(step, found["rho"], "o-", color=VERMILLION, markersize=4, linewidth=1.5)
    axis.annotate(_counts(found, ties), (0, 1.03), **text)


def _counts(rows: pl.DataFrame, ties: str) -> str:
    """Of all steps: a quarter has all that tie with its last, and ties change from step to step."""
    ends = [rows[name].cast(pl.Int64).unique().sort().to_list() for name in ("n_samples", "n_candidates")]
    samples, candidates = (f"{of[0]}" if len(of) == 1 else f"{of[0]}–{of[-1]}" for of in ends)
    return f"{samples} samples{ties},\n{candidates} candidates"


def regime(table: pl.DataFrame, confidence: float) -> Figure:
    """Figure 7: each task's rate of success before and after adaptation, a mark a family of runs. `table` is table 12.

    fast_1_confident has a panel where it is ever above 0.
    """
    tasks = table.filter(pl.col("task_id").is_not_null() & (pl.col("reported_on").fill_null("") == IN_BATCH))
    if tasks.is_empty():
        return _nothing("No adaptation run on a subset that is sampled: there is no effect of adaptation to show.")
    order = tasks.unique("task_id").sort("is_covered", "base_fast_1", "task_id")
    runs = tasks["run"].unique(maintain_order=True).to_list()
    rates = tasks.select(f"{arm}_{FAST[1]}" for arm in ("base", "adapted"))
    metrics = FAST if max(rates.max().row(0)) > 0 else FAST[:1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.5 * len(metrics) + 1.3), layout="constrained")
        axes = figure.subplots(len(metrics), 1, squeeze=False, sharex=True)[:, 0]
        for axis, metric in zip(axes, metrics, strict=True):
            _regime_panel(axis, order, tasks, runs, metric)
            axis.set_title(TITLES[metric], loc="left", fontsize=8.5, pad=16)
            axis.set_ylabel(f"success ({metric})", fontsize=8)
        axes[-1].set_xlabel("task")
        if len(metrics) == 1:
            ends = tasks.select(f"base_{FAST[1]}_high", f"{FAST[1]}_delta_high").max().row(0)
            bound = "at most {:.1f}% before, difference at most {:.1f} points".format(*(100 * end for end in ends))
            _say(figure, f"{FAST[1]} is 0 on every task, before and after ({100 * confidence:g}% intervals: {bound}).")
        percent = f"{100 * confidence:g}%"
        label = f"before: Best-of-N's samples, {percent} interval"
        handles: list[Any] = [Line2D([], [], color=INK, linewidth=1.6, label=label)]
        handles += [_run_mark(i, label=f"after: {family_label(run)}") for i, run in enumerate(runs)]
        label = f"{percent} interval of the difference, added to before"
        handles.append(Line2D([], [], color=GREY, linewidth=0.9, label=label))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=7.5)
        return figure


def _run_mark(i: int, **style: Any) -> Line2D:
    colour = COLOURS[i % len(COLOURS)]
    more: Any = {"linestyle": "none", "markersize": 5, "markeredgewidth": 0, "clip_on": False, "zorder": 4}
    return Line2D([], [], color=colour, marker=_MARKERS[i % len(_MARKERS)], **(more | style))


def _regime_panel(axis: Axes, order: pl.DataFrame, tasks: pl.DataFrame, runs: list[str], metric: str) -> None:
    """A column a task: the rate before as a line over its width, the runs side by side in it."""
    for x, row in enumerate(order.iter_rows(named=True)):
        low, high = row[f"base_{metric}_low"], row[f"base_{metric}_high"]
        axis.fill_between([x - 0.42, x + 0.42], [low] * 2, [high] * 2, color=INK, alpha=0.12, linewidth=0)
        axis.plot([x - 0.42, x + 0.42], [row[f"base_{metric}"]] * 2, color=INK, linewidth=1.6, zorder=2)
    place = {task: x for x, task in enumerate(order["task_id"])}
    size = float(np.clip(330 / (order.height * len(runs)), 2.5, 5))  # points: marks side by side, 330 in all
    for row in tasks.iter_rows(named=True):
        i = runs.index(row["run"])
        at = place[row["task_id"]] + 0.72 * ((i + 0.5) / len(runs) - 0.5)
        ends = np.clip([row[f"base_{metric}"] + row[f"{metric}_delta_{end}"] for end in ("low", "high")], 0, 1)
        axis.plot([at, at], ends, color=COLOURS[i % len(COLOURS)], linewidth=0.9, alpha=0.6, zorder=3)
        mark = _run_mark(i, markersize=size)
        mark.set_data([at], [row[f"adapted_{metric}"]])
        axis.add_line(mark)
    _success_axis(axis)
    axis.set_xlim(-0.6, order.height - 0.4)
    axis.set_xticks(range(order.height), [str(task) for task in order["task_id"]])
    axis.tick_params(axis="x", length=0)
    covered = int(order["is_covered"].sum())
    text: Any = {"xycoords": ("data", "axes fraction"), "fontsize": 7, "color": GREY, "va": "bottom"}
    border = order.height - covered - 0.5
    if 0 < covered < order.height:
        axis.axvline(border, color=GREY, linewidth=0.8, linestyle=DOTS, zorder=1)
    if covered < order.height:
        axis.annotate(f"not covered: {100 * COVERED:g}% or less", (-0.5, 1.02), **text)
    if covered:
        axis.annotate(f"covered: fast_1 above {100 * COVERED:g}% before", (border + 0.05, 1.02), **text)


def _nothing(why: str) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.2))
        figure.text(0.5, 0.5, why, ha="center", va="center", fontsize=9, color=GREY)
        return figure
