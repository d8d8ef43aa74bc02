"""Figure 2: training outside, adaptation and sampling inside, one evaluator for all of them; with the numbers of this run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from expert_tail.comparison.adapted import Adapted
from expert_tail.figure_style import BLUE, GREY, INK, STYLE, TIMES, VERMILLION, WIDTH
from expert_tail.success import CORRECT

ROLLOUTS = ["step", "task_id", "candidate_sha256", "status"]
_TINT = {BLUE: "#E3EFF7", VERMILLION: "#FBEAE0", INK: "#F0F0F0"}
_ROWS = (0.74, 0.38, 0.035)  # heights of the three lanes
_LEFT, _MIDDLE, _RIGHT = (0.005, 0.205), (0.275, 0.245), (0.79, 0.205)  # left end and width of the columns
_EVALUATOR = (0.59, 0.13)
_TALL = 0.15


class Lane(NamedTuple):
    """Counts of one way to use rollouts. `distinct` are the different candidates among them."""

    tasks: int
    rollouts: int
    distinct: int
    correct: int
    repeats: int  # steps of training, seeds of sampling, checkpoints of adaptation
    runs: int = 0


class Numbers(NamedTuple):
    training: Lane
    adaptation: Lane
    sampling: Lane


def numbers(rollouts: pl.DataFrame, samples: pl.DataFrame, runs: Sequence[Adapted]) -> Numbers:
    """From the training rollouts (columns `ROLLOUTS`), all samples, and the adaptation runs with their fresh rollouts."""
    key = ["task_id", "candidate_sha256"]
    training = Lane(
        tasks=rollouts["task_id"].n_unique(),
        rollouts=rollouts.height,
        distinct=rollouts.select(key).n_unique(),
        correct=rollouts.filter(CORRECT).height,
        repeats=rollouts["step"].n_unique(),
    )
    sampling = Lane(
        tasks=samples["task_id"].n_unique(),
        rollouts=samples.height,
        distinct=samples.select("task_id", "candidate").n_unique(),
        correct=samples.filter(CORRECT).height,
        repeats=samples["seed"].n_unique(),
    )
    drawn = [step for one in runs for step in [*one.in_batch, *(one.fresh or [])]]
    every = (
        pl.concat(drawn) if drawn else pl.DataFrame(schema={"task_id": pl.Int32, key[1]: pl.String, "correct": bool})
    )
    adaptation = Lane(
        tasks=every["task_id"].n_unique(),
        rollouts=every.height,
        distinct=every.select(key).n_unique(),
        correct=int(every["correct"].sum()),
        repeats=sum(len(one.rows) for one in runs),
        runs=len(runs),
    )
    return Numbers(training, adaptation, sampling)


def draw(counted: Numbers) -> Figure:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.4))
        axis = figure.add_axes((0.01, 0.01, 0.98, 0.98))
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
        axis.axis("off")
        _evaluator(axis, counted)
        training, adaptation, sampling = counted
        steps = f"{training.repeats} step{'s' * (training.repeats != 1)}"
        _lane(
            axis,
            *(_ROWS[0], BLUE, "Outer loop: training on the other tasks"),
            *(
                "policy",
                f"{training.rollouts:,} rollouts\n{steps}, {training.tasks} tasks",
                "reward\nupdate the adapter",
            ),
            returns=f"after {steps}: the checkpoint below",
        )
        if adaptation.runs:
            of_runs = f"{adaptation.rollouts:,} rollouts\n{adaptation.runs} runs, {adaptation.repeats} checkpoints"
        else:
            of_runs = "no adaptation run\nin this configuration"
        _lane(
            axis,
            *(_ROWS[1], VERMILLION, "Inner loop: adaptation on the tasks to be solved"),
            *("checkpoint", of_runs, "reward or teacher\nupdate, keep the best"),
            returns="every step: the next checkpoint",
        )
        each = sampling.rollouts / max(sampling.tasks * sampling.repeats, 1)
        drawn = f"{sampling.rollouts:,} samples\nK = {each:g} {TIMES} {sampling.tasks} tasks {TIMES} {sampling.repeats} seed"
        _lane(
            axis,
            *(_ROWS[2], INK, "No loop: Best-of-N and selection"),
            *("checkpoint", drawn + "s" * (sampling.repeats != 1), "surprisal\nselects one to deploy"),
        )
        return figure


def _evaluator(axis: Axes, counted: Numbers) -> None:
    low, high = _ROWS[2] - 0.025, _ROWS[0] + _TALL + 0.025
    x, width = _EVALUATOR
    _box(axis, x, low, width, high - low, GREY, "#FAFAFA")
    for y, lane in zip(_ROWS, counted, strict=True):
        share = f"{100 * lane.correct / lane.rollouts:.0f}% correct" if lane.rollouts else ""
        text = f"{lane.distinct:,} distinct\n{share}" if lane.rollouts else "\N{EM DASH}"
        axis.text(x + width / 2, y + _TALL / 2, text, ha="center", va="center", fontsize=7.5, linespacing=1.4)
    note = "one evaluator for all:\ncompile, check, time"
    axis.text(x + width / 2, high + 0.015, note, ha="center", va="bottom", fontsize=7.5, color=INK, linespacing=1.3)


def _lane(
    axis: Axes, y: float, colour: str, title: str, start: str, drawn: str, outcome: str, returns: str | None = None
) -> None:
    axis.text(0.005, y + _TALL + 0.028, title, fontsize=9, fontweight="bold", color=colour, va="bottom")
    for (x, width), text in ((_LEFT, start), (_MIDDLE, drawn), (_RIGHT, outcome)):
        _box(axis, x, y, width, _TALL, colour, _TINT[colour])
        axis.text(x + width / 2, y + _TALL / 2, text, ha="center", va="center", fontsize=8, linespacing=1.45)
    middle = y + _TALL / 2
    ends = [_LEFT[0] + _LEFT[1], _MIDDLE[0], _MIDDLE[0] + _MIDDLE[1], _EVALUATOR[0], sum(_EVALUATOR), _RIGHT[0]]
    for first, second in ((ends[0], ends[1]), (ends[2], ends[3]), (ends[4], ends[5])):
        _arrow(axis, (first, middle), (second, middle), colour)
    if returns:
        below = y - 0.055
        x = _RIGHT[0] + _RIGHT[1] / 2
        axis.plot([x, x], [y, below], color=colour, linewidth=1.2, zorder=0)
        axis.plot([x, _LEFT[1] / 2], [below, below], color=colour, linewidth=1.2, zorder=0)
        _arrow(axis, (_LEFT[1] / 2, below), (_LEFT[1] / 2, y), colour)
        style: Any = {"ha": "center", "va": "center", "fontsize": 7.2, "color": colour}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axis.text(_MIDDLE[0] + _MIDDLE[1] / 2 + 0.02, below, returns, bbox=box, **style)


def _box(axis: Axes, x: float, y: float, width: float, height: float, edge: str, face: str) -> None:
    style = "round,pad=0,rounding_size=0.018"
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, edgecolor=edge, facecolor=face, linewidth=1.1))


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    arrow: Any = {
        "arrowstyle": "-|>",
        "mutation_scale": 9,
        "color": colour,
        "linewidth": 1.2,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axis.add_patch(FancyArrowPatch(start, end, zorder=3, **arrow))
