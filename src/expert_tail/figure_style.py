"""What all figures look like, and how they are saved. Same input, same bytes: no dates, no random ids, matplotlib's own font."""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

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


def save(figure: Figure, path: Path) -> None:
    """Write `path`.png and `path`.svg."""
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        with matplotlib.rc_context(STYLE), replacing(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, format=suffix[1:], dpi=DPI, metadata=metadata)
