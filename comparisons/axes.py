"""What all figures share: colours, sizes, and how axes are made, dressed and explained.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart.
"""

from __future__ import annotations

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#222222", "#767676"
COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
TITLE, LABEL, TICK = 11, 10, 9


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes that were given, or new ones, made with pyplot, in a figure of this size (inches)."""
    if ax is not None:
        return ax
    _, made = plt.subplots(figsize=size, layout="constrained")
    return made


def dress(ax: Axes, title: str, x: str, y: str) -> Axes:
    """Title and labels in readable sizes; no frame above and right."""
    ax.set_title(title, fontsize=TITLE)
    ax.set_xlabel(x, fontsize=LABEL)
    ax.set_ylabel(y, fontsize=LABEL)
    ax.tick_params(labelsize=TICK)
    if not ax.images:
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def add_legend(ax: Axes, place: Any = "best", *, anchor: tuple[float, float] | None = None, **entries) -> None:
    """A legend without a frame that hides what lies under it."""
    legend = ax.legend(**entries, fontsize=TICK, loc=place, bbox_to_anchor=anchor, framealpha=0.9)
    legend.get_frame().set(facecolor=ax.get_facecolor(), edgecolor="none")


def level_line(ax: Axes, height: float | None, name: str) -> None:
    """A level line, named at the right of the panel."""
    if height is None:
        return
    ax.axhline(height, color=GREY, linestyle=":", linewidth=1.2, zorder=0)
    style = {"color": GREY, "fontsize": TICK, "va": "center"}
    ax.text(1.01, height, name, transform=ax.get_yaxis_transform(), **style)


def add_colorbar(ax: Axes, image: Any, label: str) -> None:
    """A bar of colours beside the panel, in readable sizes."""
    bar = ax.figure.colorbar(image, ax=ax)
    bar.set_label(label, fontsize=LABEL)
    bar.ax.tick_params(labelsize=TICK)


def ordinal(number: int) -> str:
    """A number in words."""
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
