"""The figure of the audit: every repeat of every task, one panel a protocol."""

from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from expert_tail.figure_style import BLUE, GREY, INK, STYLE, TIMES, VERMILLION, WIDTH, speedups_along_x
from expert_tail.null_audit.table import ALL
from expert_tail.success import CORRECT, FAST_1_CONFIDENT

MAX_NAME = 26  # characters of a task's name


def draw(repeats: pl.DataFrame, table: pl.DataFrame) -> Figure:
    """Speedup of each repeat, a line a task; beside it the rates of `table`, which is the table of these repeats."""
    tasks = table.filter(pl.col("task_id").is_not_null()).unique("task_id", maintain_order=True)
    protocols = table["protocol"].unique(maintain_order=True).to_list()
    low, high = _limits(repeats)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.2 * tasks.height + 2.1), layout="constrained")
        axes = figure.subplots(1, len(protocols), squeeze=False, sharey=True)[0]
        for axis, protocol in zip(axes, protocols, strict=True):
            _panel(axis, repeats.filter(pl.col("protocol") == protocol), tasks["task_id"].to_list())
            _rates(axis, table.filter(pl.col("protocol") == protocol), tasks["task_id"].to_list())
            speedups_along_x(axis, low, high, gap=0.2)
            axis.set_xlabel("speedup over itself, log scale", fontsize=8)
        labels = [_label(row) for row in tasks.iter_rows(named=True)]
        axes[0].set_yticks(range(tasks.height + 1), [*labels, ALL])
        axes[0].get_yticklabels()[-1].set_fontweight("bold")
        axes[0].set_ylim(tasks.height + 0.5, -0.6)
        figure.legend(handles=_marks(), loc="outside lower left", ncols=3, frameon=False, fontsize=8, handletextpad=0.2)
        return figure


def _panel(axis: Axes, repeats: pl.DataFrame, task_ids: list[int]) -> None:
    axis.axvline(1, color=INK, linewidth=0.9, zorder=1)
    correct = repeats.filter(CORRECT).with_columns(confident=FAST_1_CONFIDENT)
    rng = np.random.default_rng(0)
    for y, task_id in enumerate(task_ids):
        found = correct.filter(pl.col("task_id") == task_id)
        speedups, confidently = found["speedup"].to_numpy(), found["confident"].to_numpy()
        heights = y + rng.uniform(-0.27, 0.27, len(speedups))
        for chosen, style in zip((speedups <= 1, (speedups > 1) & ~confidently, confidently), _STYLES, strict=True):
            axis.plot(speedups[chosen], heights[chosen], **style)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="x", color="#E4E4E4", linewidth=0.7)
    axis.set_axisbelow(True)


def _dot(colour: str, size: float, alpha: float, zorder: float) -> dict[str, Any]:
    return {
        "linestyle": "none",
        "marker": "o",
        "color": colour,
        "markersize": size,
        "markeredgewidth": 0,
        "alpha": alpha,
        "zorder": zorder,
    }


# Not faster; faster by the point estimate; confidently faster.
_STYLES = (_dot(GREY, 2.6, 0.4, 2), _dot(BLUE, 2.6, 0.6, 3), _dot(VERMILLION, 3.8, 1.0, 4))


def _rates(axis: Axes, table: pl.DataFrame, task_ids: list[int]) -> None:
    """What the protocol's panel found, above it, and the rates of each task in columns right of it."""
    total = table.filter(pl.col("task_id").is_null()).row(0, named=True)
    axis.set_title(total["protocol"], loc="left", pad=33)
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 8}
    axis.annotate(_finding(total), (0, 1), (0, 12), annotation_clip=False, linespacing=1.25, **style)
    columns = [("fast_1", "fast_1", BLUE, 28), ("fast_1_confident", "confident", VERMILLION, 66)]
    for column, header, colour, offset in columns[: 1 if total["fast_1_confident"] is None else 2]:
        _value(axis, header, -1, colour, offset)
        for row in table.iter_rows(named=True):
            is_all = row["task_id"] is None
            y = len(task_ids) if is_all else task_ids.index(row["task_id"])
            _value(axis, _percent(row[column]), y, colour, offset, weight="bold" if is_all else "normal")


def _finding(total: dict[str, Any]) -> str:
    largest = f"largest speedup {total['largest_speedup'] or 0:.3g}{TIMES}"
    if total["fast_1_confident"] is None:
        return f"{_percent(total['fast_1'])} called faster than themselves,\n{largest}; no interval"
    verdict = "within" if total["within_nominal"] else "more than"
    return f"{_percent(total['fast_1_confident'])} confidently faster: {verdict} the\nnominal 2.5%; {largest}"


def _value(axis: Axes, text: str, y: float, colour: str, offset: float, weight: str = "normal") -> None:
    where: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "xytext": (offset, 0),
        "textcoords": "offset points",
    }
    style: dict[str, Any] = {"ha": "right", "va": "center_baseline", "fontsize": 7.5, "fontweight": weight}
    axis.annotate(text, (1, y), color=colour, annotation_clip=False, **style, **where)


def _limits(repeats: pl.DataFrame) -> tuple[float, float]:
    """The same for all panels, so that they can be compared."""
    speedups = repeats.filter(CORRECT)["speedup"].to_numpy()
    ends = np.append(speedups[speedups > 0], 1.0)
    return min(0.8, ends.min() / 1.1), max(1.25, ends.max() * 1.1)


def _marks() -> list[Line2D]:
    labels = ("not faster", "faster by its point estimate (fast_1)", "confidently faster (fast_1_confident)")
    return [Line2D([], [], **style, label=label) for style, label in zip(_STYLES, labels, strict=True)]


def _label(row: dict[str, Any]) -> str:
    name = " ".join(row["name"].removeprefix(f"{row['task_id']}_").replace("_", " ").split())
    return f"{name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + '…'}  {row['task_id']}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.0f}%" if rate in (0, 1) or rate >= 0.1 else f"{100 * rate:.1f}%"
