"""The figure of methods against cost, with the Pareto front. A row a set of tasks: success and speedup, by seconds and by tokens."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from expert_tail.figure_style import BLUE, DOTS, GREEN, GREY, INK, STYLE, TIMES, VERMILLION, WIDTH, log_ticks
from expert_tail.pareto.adaptation import DRAW
from expert_tail.pareto.methods import ADAPTATION, SAMPLING, SELECTION

COLOURS = {SAMPLING: BLUE, SELECTION: VERMILLION, ADAPTATION: GREEN}
PANELS = {"fast_1": "fast_1_confident", "mean_speedup": "mean_speedup_bound"}
TITLES = {"fast_1": "tasks solved (fast_1)", "mean_speedup": "mean speedup"}
AXES = {
    "seconds": "seconds of compute\nper task, log scale",
    "tokens_computed": "tokens through the\nmodel per task, log scale",
    "rollouts": "rollouts per task,\nlog scale",
}
_SHORT = {"surprisal-guided": "surprisal", "confidence-guided": "confidence", "random-correct": "random correct"}
_NAME = ("method", "deploys", "k", "m", "step")
_APART = 7.5  # points between numbers


def draw(table: pl.DataFrame) -> Figure:
    """`table` is pareto.csv; costs are seconds and tokens, those that are known of all methods, else rollouts.

    Sets of a single task, of which success says little, are left to the table where there are others.
    """
    several = table.filter(pl.col("n_tasks") > 1)
    table = several if several.height else table
    sets = table["set"].unique(maintain_order=True).to_list()
    costs = [name for name in ("seconds", "tokens_computed") if table[name].null_count() == 0] or ["rollouts"]
    places = [(value, cost) for value in PANELS for cost in costs]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.9 * len(sets) + 1.1), layout="constrained")
        ratios: dict[str, Any] = {"width_ratios": [1.0] * len(places) + [0.4 * len(places)]}
        axes = figure.subplots(len(sets), len(places) + 1, squeeze=False, gridspec_kw=ratios)
        numbered = []
        for row, name in zip(axes, sets, strict=True):
            of_set = table.filter(pl.col("set") == name)
            members = [_members(of_set, *place) for place in places]
            numbers = _numbers(members, costs[0])
            for axis, place, of_panel in zip(row, places, members, strict=False):
                _panel(axis, of_set, *place)
                axis.tick_params(labelleft=place[1] == costs[0])
                numbered.append((axis, place, of_panel, numbers))
            _list(row[-1], [one for of_panel in members for one in of_panel], numbers)
            tasks = int(of_set["n_tasks"].max())  # type: ignore[arg-type]
            row[0].set_ylabel(f"{name}\n{tasks} task{'s' * (tasks != 1)}", fontweight="bold", labelpad=8)
        for axis, (value, cost) in zip(axes[0], places, strict=False):
            axis.set_title(TITLES[value] if cost == costs[0] else "", loc="left", fontsize=8.5)
        for axis, (_, cost) in zip(axes[-1], places, strict=False):
            axis.set_xlabel(AXES[cost], fontsize=7)
        marks = _marks(ADAPTATION in table["family"])
        figure.legend(handles=marks, loc="outside upper left", ncols=len(marks) // 2, frameon=False, fontsize=8)
        figure.draw_without_rendering()  # places of numbers are known once the panels have their sizes
        for axis, (value, cost), of_panel, numbers in numbered:
            _number(axis, [(row[cost], row[value]) for row in of_panel], of_panel, numbers)
        return figure


def _members(of_set: pl.DataFrame, value: str, cost: str) -> list[dict[str, Any]]:
    """Of the front, the cheapest of equals."""
    front = of_set.filter(pl.col(f"front_{value}_by_{cost}") == 1).sort(cost, value)
    return front.unique(value, keep="first", maintain_order=True).to_dicts()


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _NAME)


def _numbers(members: Sequence[list[dict[str, Any]]], cost: str) -> dict[tuple[Any, ...], int]:
    """One number a method in all panels of a set, in the order of cost."""
    rows = sorted((row for of_panel in members for row in of_panel), key=lambda row: row[cost])
    return {key: number for number, key in enumerate(dict.fromkeys(_key(row) for row in rows), 1)}


def _panel(axis: Axes, table: pl.DataFrame, value: str, cost: str) -> None:
    front = table.filter(pl.col(f"front_{value}_by_{cost}") == 1).sort(cost, value)
    for family, colour in COLOURS.items():
        for is_draw in (False, True):
            points = table.filter(pl.col("family") == family, (pl.col("deploys") == DRAW) == is_draw)
            face = "white" if is_draw else colour
            style: dict[str, Any] = {"markersize": 3, "markerfacecolor": face, "markeredgewidth": 0.8, "alpha": 0.5}
            axis.plot(points[cost], points[value], "o", color=colour, linestyle="none", zorder=3, **style)
    largest = float(table[cost].max())  # type: ignore[arg-type]
    _front(axis, front[cost].to_list(), front[value].to_list(), largest, INK, "-")
    sure = table.filter(pl.col(f"front_{PANELS[value]}_by_{cost}") == 1).sort(cost, PANELS[value])
    _front(axis, sure[cost].to_list(), sure[PANELS[value]].to_list(), largest, GREY, DOTS)
    _axes(axis, table, value, cost)


def _front(axis: Axes, x: list[float], y: list[float], largest: float, colour: str, style: Any) -> None:
    if x:
        axis.step(
            [*x, largest * 1.1], [*y, y[-1]], where="post", color=colour, linestyle=style, linewidth=1.3, zorder=4
        )


def _number(
    axis: Axes, at: Sequence[tuple[float, float]], members: list[dict[str, Any]], numbers: dict[tuple[Any, ...], int]
) -> None:
    """Number the members of the front, beside their points and apart from each other."""
    to_points = 72 / axis.figure.dpi
    places_P2 = axis.transData.transform(at) * to_points if at else np.empty((0, 2))
    taken: list[Any] = []
    for place, point, row in zip(places_P2, at, members, strict=True):
        offset = _free(place, places_P2, taken, np.array(axis.bbox.extents) * to_points)
        taken.append(place + offset)
        colour = COLOURS[row["family"]]
        axis.plot(*point, "o", color=colour, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5, zorder=5)
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5, "fontweight": "bold", "zorder": 6}
        text |= {"textcoords": "offset points", "annotation_clip": False}
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 3, "shrinkB": 1.5}
        label = axis.annotate(str(numbers[_key(row)]), point, tuple(offset), color=colour, arrowprops=line, **text)
        label.set_in_layout(False)
        label.set_path_effects([withStroke(linewidth=1.5, foreground="white")])


def _free(place: Any, points_P2: Any, taken: Sequence[Any], extents: Any) -> Any:
    """The nearest offset from `place`, above first, that keeps off points and numbers and inside the panel."""
    angles = np.radians([120, 90, 150, 60, 180, 30, 0, -30, 270, 210, 300])
    for radius in np.arange(7.5, 60, 3):
        for angle in angles:
            offset = radius * np.array([np.cos(angle), np.sin(angle)])
            centre = place + offset
            inside = (extents[:2] + 3 <= centre).all() and (centre <= extents[2:] + np.array([0, 6])).all()
            near = [
                *(np.hypot(*(points_P2 - centre).T) < 0.8 * _APART),
                *(np.hypot(*(t - centre)) < _APART for t in taken),
            ]
            if inside and not any(near):
                return offset
    return np.array([-6.0, 6.0])


def _list(axis: Axes, members: list[dict[str, Any]], numbers: dict[tuple[Any, ...], int]) -> None:
    axis.axis("off")
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "fontsize": 6.5}
    for row in {_key(row): row for row in members}.values():
        number = numbers[_key(row)]
        text = axis.annotate(f"{number}  {_label(row)}", (0, 1), (-6, -9.5 * (number - 1)), **place)
        text.set_color(COLOURS[row["family"]])
        text.set_in_layout(False)


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
    axis.xaxis.set_major_locator(FixedLocator(log_ticks(low, high, gap=0.22)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if x < 1e4 else f"{x / 1e3:g}k"))
    axis.tick_params(labelsize=7)
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
