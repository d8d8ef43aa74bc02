"""Facts that figures show: positions, counts and ticks, read back from what matplotlib drew."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib.axes import Axes

from expert_tail.comparison import figures, teaser
from expert_tail.comparison.adapted import AT_BUDGET, BOA, FRESH, IN_BATCH
from expert_tail.comparison.tables import BEST_OF_N
from expert_tail.figure_style import GREY, log_ticks

TASKS = 5


def row_of(method: str, rollouts: int, fast: float, run: str | None = None, **more: Any) -> dict[str, Any]:
    row = {"subset": "s", "method": method, "run": run, "chosen_by": None, "reported_on": None, "k": None}
    row |= {"rollouts": rollouts * TASKS, "n_tasks": TASKS, "n_seeds": 1}
    for metric, value in (("fast_1", fast), ("fast_1_confident", 0.0)):
        row |= {metric: value, f"{metric}_low": max(value - 0.2, 0), f"{metric}_high": min(value + 0.2, 1)}
    return row | more


def table4() -> pl.DataFrame:
    in_batch, fresh = ({"chosen_by": IN_BATCH, "reported_on": on} for on in (IN_BATCH, FRESH))
    rows = [row_of(BEST_OF_N, k, rate, k=k) for k, rate in ((1, 0.5), (2, 0.6), (64, 0.8))]
    rows += [row_of(name, 64, 0.8, k=64) for name in ("surprisal-guided", "random-correct", "confidence-guided")]
    for run, steps in (("grpo", 9), ("sparse", 5), ("trloo", 5)):
        rows += [row_of(AT_BUDGET, 64, 0.7, run, **in_batch), row_of(BOA, 32 * steps, 0.8, run, **in_batch)]
    rows.append(row_of(BOA, 32 * 9, 0.8, "grpo", **fresh))
    return pl.DataFrame(rows, infer_schema_length=None)


def marks(axis: Axes) -> list[Any]:
    """Lines that are one mark of a method, not a curve or an interval."""
    return [line for line in axis.lines if len(line.get_xdata()) == 1]


def test_methods_stand_at_their_rollouts_per_task_in_figure_1() -> None:
    table = table4()
    methods = table.filter(pl.col("method") != BEST_OF_N)
    for axis, metric in zip(teaser.draw(table, "s", 0.95).axes[:2], teaser.TITLES, strict=True):
        drawn = sorted((float(mark.get_xdata()[0]), float(mark.get_ydata()[0])) for mark in marks(axis))
        assert drawn == sorted((row["rollouts"] / TASKS, row[metric]) for row in methods.iter_rows(named=True))


def test_strategies_and_runs_share_no_colour_and_each_has_a_row_in_figure_1() -> None:
    above, _, below, _ = teaser.draw(table4(), "s", 0.95).axes
    names = [label.get_text() for label in below.get_yticklabels()]
    assert len(names) == len(set(names)) == 3 + 2 * 3
    colours = {mark.get_label(): mark.get_color() for mark in marks(above)}
    assert {colour for name, colour in colours.items() if "one pick" in name} == {GREY}
    assert len({colour for name, colour in colours.items() if "step" in name} - {GREY}) == 3


def test_filled_marks_do_not_cover_hollow_ones_in_figure_1() -> None:
    both = [mark for mark in marks(teaser.draw(table4(), "s", 0.95).axes[0]) if "grpo, best of all" in mark.get_label()]
    hollow, filled = sorted(both, key=lambda mark: mark.get_zorder())
    assert hollow.get_markerfacecolor() == "white"
    assert hollow.get_markersize() > filled.get_markersize()


def test_counts_of_figure_6_are_those_of_all_steps() -> None:
    counts = {0: (128, 8), 1: (109, 7), 2: (120, 7)}
    rows: list[dict[str, Any]] = []
    for which, kind in (("all", "sum"), ("bottom_quartile", "sum"), ("all", "tail")):
        for step, (samples, candidates) in counts.items():
            of_set = (samples, candidates) if which == "bottom_quartile" else (320, 11)
            row = {
                "run": "grpo",
                "step": step,
                "set": which,
                "surprisal": kind,
                "rho": 0.1,
                "rho_low": 0,
                "rho_high": 1,
            }
            counted = dict(zip(("n_samples", "n_candidates"), of_set, strict=True))
            rows.append(row | counted | {"null_low": -0.5, "null_high": 0.5})
    texts = [axis.texts[0].get_text() for axis in figures.correlation(pl.DataFrame(rows), 0.95).axes]
    assert texts[0] == texts[2] == "320 samples,\n11 candidates"
    assert texts[1] == "109–128 samples, ties included,\n7–8 candidates"


@pytest.mark.parametrize(
    ("low", "high", "gap", "ticks"),
    [
        (0.8, 1.6, 0.17, [0.8, 1, 1.2, 1.5]),
        (0.09, 8.2, 0.2, [0.1, 0.3, 1, 3]),
        (0.4, 12, 0.17, [0.5, 1, 2, 5, 10]),
        (0.5, 2e6, 0.2, [1, 1e2, 1e4, 1e6]),
    ],
)
def test_ticks_of_speedups_are_as_fine_as_their_distance_allows(
    low: float, high: float, gap: float, ticks: list[float]
) -> None:
    found = log_ticks(low, high, gap)
    assert found == pytest.approx(ticks)
    assert np.diff(np.log(found)).min() >= gap * np.log(high / low)


def table12(confident: float) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for run, gain in (("grpo", 0.0), ("sparse", 0.0), ("trloo", 0.2)):
        for task, base, is_covered in ((4, 0.5, 1), (5, 0.1, 0), (12, 0.5, 1)):
            row = {"task_id": task, "is_covered": is_covered, "run": run, "reported_on": IN_BATCH}
            for metric, rate in (("fast_1", base), ("fast_1_confident", confident)):
                row |= {f"base_{metric}": rate, f"base_{metric}_low": 0.0, f"base_{metric}_high": 0.6}
                row |= {f"adapted_{metric}": rate + gain * (metric == "fast_1")}
                row |= {f"{metric}_delta_low": -0.1, f"{metric}_delta_high": 0.3}
            rows.append(row)
    return pl.DataFrame(rows)


def test_runs_of_equal_rates_have_places_and_marks_of_their_own_in_figure_7() -> None:
    (axis,) = figures.regime(table12(confident=0.0), 0.95).axes
    drawn = marks(axis)
    assert len({float(mark.get_xdata()[0]) for mark in drawn}) == len(drawn) == 9
    assert len({(mark.get_color(), mark.get_marker()) for mark in drawn}) == 3
    labels = [label.get_text() for label in axis.get_xticklabels()]
    shown = {(labels[round(mark.get_xdata()[0])], float(mark.get_ydata()[0])) for mark in drawn}
    assert shown == {("5", 0.1), ("5", 0.1 + 0.2), ("4", 0.5), ("4", 0.7), ("12", 0.5), ("12", 0.7)}


def test_confident_success_has_a_panel_where_there_is_any() -> None:
    assert len(figures.regime(table12(confident=0.1), 0.95).axes) == 2
    without = figures.regime(table12(confident=0.0), 0.95)
    assert "at most 60.0% before, difference at most 30.0 points" in without.get_suptitle()
