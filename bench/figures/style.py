"""The common style of all figures: light, Okabe and Ito's colours, text of 7 points or more at printed size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

INK, SOFT, GREY, LINE = "#1d1f23", "#646a73", "#b8b3aa", "#d8d4cd"
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
MARKERS = ("o", "^")  # of class 0 and class 1
SIDES = LinearSegmentedColormap.from_list("sides", [BLUE, "#8cc0de", "#fbfaf8", "#f0b285", VERMILION])
ORDERED = LinearSegmentedColormap.from_list("ordered", ["#f0c65a", "#e07b39", "#b5446e", "#5b3a8c", "#1b1f52"])

RC_PARAMS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that a figure is the same everywhere
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlepad": 4,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.3,
    "grid.color": LINE,
    "grid.linewidth": 0.4,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # letters, not outlines: publishers ask for it
    "svg.hashsalt": "spurbench",  # names inside the SVG do not change from one drawing to the next
    "axes.unicode_minus": True,
}


@contextmanager
def use_style() -> Iterator[None]:
    """Everything drawn inside has this style, whatever the user's own matplotlib settings."""
    with rc_context():
        from matplotlib import rcdefaults, rcParams

        rcdefaults()
        rcParams.update(RC_PARAMS)
        yield


def draw_empty(axes: Axes, words: str, box: float | None) -> None:
    """Draw an empty panel that says why it is empty."""
    axes.set(xticks=[], yticks=[])
    axes.set_box_aspect(box)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color=SOFT)
