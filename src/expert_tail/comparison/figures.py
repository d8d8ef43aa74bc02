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
from matplotlib.ticker import FuncFormatter, MaxNLocator

from expert_tail.comparison.adapted import IN_BATCH, Adapted, families, names_of
from expert_tail.comparison.rates import FAST
from expert_tail.comparison.tables import COVERED
from expert_tail.comparison.teaser import TITLES, family_label
from expert_tail.figure_style import COLOURS, DOTS, GREEN, GREY, INK, STYLE, VERMILLION, WIDTH

_PANELS = {  # set and kind of surprisal: title
    ("all", "sum"): "all samples",
    ("bottom_quartile", "sum"): "quarter of highest surprisal",
    ("all", "tail"): "all, by their least likely tokens",
}
_NEAR = 0.1  # points of figure 7 that are closer share a label


def trajectories(runs: Sequence[Adapted]) -> Figure:
    """Figure 5: success of each checkpoint, a row a family of runs on a subset, a colour a seed; stars mark the choice."""
    shown = [family for family in families(runs) if not family[0].is_isolated and family[0].run.steps > 0]
    if not shown:
        return _nothing("No adaptation run on a subset with an update: there are no trajectories to show.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.55 * len(shown) + 1.0), layout="constrained")
        axes = figure.subplots(len(shown), 2, squeeze=False, sharex=True, sharey="col")
        seeds = sorted({one.run.seed for family in shown for one in family})
        colours = {seed: COLOURS[i % len(COLOURS)] for i, seed in enumerate(seeds)}
        for (left, right), family in zip(axes, shown, strict=True):
            for axis, metric in ((left, FAST[0]), (right, FAST[1])):
                for one in family:
                    _trajectory(axis, one, metric, colours[one.run.seed])
                axis.xaxis.set_major_locator(MaxNLocator(integer=True))
                axis.yaxis.set_major_locator(MaxNLocator(4))
                axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))
                axis.grid(axis="y", color="#E4E4E4", linewidth=0.7)
            title = f"{family_label(names_of(family))} on {family[0].run.subset}"
            left.set_title(title, loc="left", fontsize=8.5)
        for axis, metric in zip(axes[0], FAST, strict=True):
            axis.annotate(
                TITLES[metric], (0, 1), (0, 20), xycoords="axes fraction", textcoords="offset points", fontsize=9.5
            )
            highest = max(
                row[f"{kind}{metric}"] or 0
                for family in shown
                for one in family
                for row in one.rows
                for kind in ("", "fresh_")
            )
            axis.set_ylim(0, max(1.12 * highest, 0.1))
        for axis in axes[-1]:
            axis.set_xlabel("step: updates made")
        figure.legend(
            handles=_trajectory_marks(shown, colours), loc="outside lower center", ncols=3, frameon=False, fontsize=7.5
        )
        return figure


def _trajectory(axis: Axes, one: Adapted, metric: str, colour: str) -> None:
    steps = [row["step"] for row in one.rows]
    scores = [row[metric] for row in one.rows]
    axis.plot(steps, scores, "o-", color=colour, markersize=3, linewidth=1.5)
    if one.fresh:
        axis.plot(steps, [row[f"fresh_{metric}"] for row in one.rows], color=colour, linewidth=1.3, linestyle=DOTS)
    best = next(i for i, row in enumerate(one.rows) if row["is_boa"])
    star: Any = {"marker": "*", "markersize": 11, "markeredgecolor": "white", "markeredgewidth": 0.7, "zorder": 4}
    axis.plot([steps[best]], [scores[best]], color=colour, linestyle="none", clip_on=False, **star)


def _trajectory_marks(shown: list[list[Adapted]], colours: dict[int, str]) -> list[Line2D]:
    style: Any = {"marker": "o", "markersize": 3}
    marks = [Line2D([], [], color=colour, label=f"seed {seed}", **style) for seed, colour in colours.items()]
    label = "chosen by Best-of-Adaptation (fast_1)"
    marks.append(Line2D([], [], color=INK, marker="*", markersize=9, linestyle="none", label=label))
    if any(one.fresh for family in shown for one in family):
        marks.append(Line2D([], [], color=INK, linestyle=DOTS, label="fresh rollouts of the same checkpoint"))
    return marks


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


def regime(table: pl.DataFrame) -> Figure:
    """Figure 7: each task's rate of success before and after adaptation. `table` is table 12."""
    tasks = table.filter(pl.col("task_id").is_not_null() & (pl.col("reported_on").fill_null("") == IN_BATCH))
    if tasks.is_empty():
        return _nothing("No adaptation run on a subset that is sampled: there is no effect of adaptation to show.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
        axes = figure.subplots(1, 2)
        for axis, metric in zip(axes, FAST, strict=True):
            _regime_panel(axis, tasks, metric)
            axis.set_title(TITLES[metric], loc="left", fontsize=8.5)
            axis.set_xlabel("rate among Best-of-N's samples")
        axes[0].set_ylabel("rate after Best-of-Adaptation")
        marks = [
            _dot(colour, label)
            for colour, label in (
                (GREEN, f"task that the policy covers: fast_1 above {100 * COVERED:g}%"),
                (VERMILLION, f"not covered: {100 * COVERED:g}% or less"),
            )
        ]
        marks.append(Line2D([], [], color=GREY, linestyle=(0, (4, 3)), label="no effect; above it adaptation helps"))
        figure.legend(handles=marks, loc="outside lower center", ncols=3, frameon=False, fontsize=7.5)
        return figure


def _dot(colour: str, label: str) -> Line2D:
    return Line2D([], [], color=colour, marker="o", markersize=5, alpha=0.75, linestyle="none", label=label)


def _regime_panel(axis: Axes, tasks: pl.DataFrame, metric: str) -> None:
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for covered, colour in ((1, GREEN), (0, VERMILLION)):
        rows = tasks.filter(pl.col("is_covered") == covered)
        if rows.is_empty():  # constrained layout has no place for nothing
            continue
        style: Any = {"markersize": 6, "alpha": 0.6, "markeredgewidth": 0, "clip_on": False, "zorder": 3}
        axis.plot(rows[f"base_{metric}"], rows[f"adapted_{metric}"], "o", color=colour, **style)
    # One label for all points that are nearly at the same place.
    x, y = pl.col(f"base_{metric}"), pl.col(f"adapted_{metric}")
    places = tasks.group_by((x / _NEAR).round().alias("column"), (y / _NEAR).round().alias("row")).agg(
        pl.col("task_id").unique().sort(), x.max().alias("x"), y.max().alias("y")
    )
    for ids, x_at, y_at in places.select("task_id", "x", "y").sort("x", "y").rows():
        label = ", ".join(str(task) for task in ids[:6]) + (", …" if len(ids) > 6 else "")
        offset, anchor = ((0, -12), "center") if x_at > 0.97 else ((-6, 3), "right") if x_at > 0.8 else ((6, 4), "left")
        text: Any = {"textcoords": "offset points", "ha": anchor, "fontsize": 6.5, "color": INK, "zorder": 4}
        axis.annotate(label, (x_at, y_at), offset, **text).set_in_layout(False)
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_aspect("equal")
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


def _nothing(why: str) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.2))
        figure.text(0.5, 0.5, why, ha="center", va="center", fontsize=9, color=GREY)
        return figure
