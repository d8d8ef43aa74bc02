"""What all figures look like, and how they are saved. Same input, same bytes: no dates, no random ids, matplotlib's own font."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from expert_tail.artifacts import replacing

# Okabe and Ito's palette: told apart with every common colour blindness, and in grey.
BLUE, VERMILLION, GREY, INK = "#0072B2", "#D55E00", "#6E6E6E", "#222222"
GREEN, PURPLE, ORANGE, SKY = "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLOURS = (BLUE, GREEN, PURPLE, ORANGE, SKY, VERMILLION, INK, GREY)  # of things that are alike
DOTS: Any = (0, (1, 1.5))
TIMES = "\N{MULTIPLICATION SIGN}"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "svg.hashsalt": "expert-tail",
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
}
WIDTH, DPI = 7.2, 200  # inches; 1440 pixels, twice the width of a README

# Ticks of a decade, the finest first; all have 1.
_TICKS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3))


def log_ticks(low: float, high: float, gap: float) -> list[float]:
    """Ticks of a log axis from `low` to `high`, as fine as can be with `gap` of its length between them."""
    needed = gap * np.log10(high / low)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    series = [[tick * 10.0**decade for decade in decades for tick in of_decade] for of_decade in _TICKS]
    series += [[10.0**decade for decade in decades if decade % stride == 0] for stride in range(1, len(decades) + 1)]
    for ticks in series:
        shown = [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]
        if len(shown) < 2 or np.diff(np.log10(shown)).min() >= needed:
            return shown
    return []


def speedups_along_x(axis: Axes, low: float, high: float, gap: float) -> None:
    """Make x a log axis of speedups from `low` to `high`, with ticks at least `gap` of its length apart."""
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(FixedLocator(log_ticks(low, high, gap)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{TIMES}"))


def save(figure: Figure, path: Path) -> None:
    """Write `path`.png and `path`.svg."""
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        with matplotlib.rc_context(STYLE), replacing(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=DPI, metadata=metadata)
