"""What the figures of the tasks share."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from ..plots import COLORS, GREY, LABEL, TICK, TITLE
from .study import mean_and_half


def band(ax: Axes, x: np.ndarray, samples: np.ndarray, label: str, place: int, of: int = 0) -> None:
    """Mean over seeds (seeds, n) with its 95 % interval; of several in an order, in shades from light to dark."""
    color = colormaps["viridis_r"](0.15 + 0.8 * place / max(of - 1, 1)) if of else COLORS[place]
    mean, half = mean_and_half(samples)
    ax.plot(x, mean, color=color, linewidth=1.8, marker="o", markersize=3, label=label)
    ax.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)


def level(ax: Axes, value: float, label: str) -> None:
    """A horizontal line, with its name on it."""
    ax.axhline(value, color=GREY, linewidth=1, linestyle="--")
    ax.annotate(
        label,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 2),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=TICK - 1,
        color=GREY,
    )


def dress(ax: Axes, title: str, x: str, y: str, legend: bool = True) -> None:
    """Titles, labels, and the legend."""
    ax.set_title(title, fontsize=TITLE)
    ax.set_xlabel(x, fontsize=LABEL)
    ax.set_ylabel(y, fontsize=LABEL)
    ax.tick_params(labelsize=TICK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if legend:
        ax.legend(fontsize=TICK - 1, frameon=False)
