"""A line with its interval over seeds, as all figures of the studies have it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes

from ..axes import COLORS, add_legend, dress
from .study import mean_and_half


def band(ax: Axes, x: np.ndarray, samples: np.ndarray, label: str, place: int, of: int = 0) -> None:
    """Mean over seeds (seeds, n) with its 95 % interval; of several in an order, in shades from light to dark."""
    color = colormaps["viridis_r"](0.15 + 0.8 * place / max(of - 1, 1)) if of else COLORS[place]
    mean, half = mean_and_half(samples)
    ax.plot(x, mean, color=color, linewidth=1.8, marker="o", markersize=3, label=label)
    ax.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)


def finish(ax: Axes, title: str, x: str, y: str, legend: str | None = "best") -> None:
    """Titles, labels, and the legend, where there is room for it, or ``beside`` the panel; None: without."""
    dress(ax, title, x, y)
    if legend == "beside":
        add_legend(ax, "center left", anchor=(1.02, 0.55))
    elif legend is not None:
        add_legend(ax, legend)


def gate_by_exposure(ax: Axes, x: np.ndarray, samples: np.ndarray, names: Mapping[int, str], label: str) -> None:
    """The reinstatement gate (seeds, exposures, n), one line for each of these exposures."""
    for place, (exposure, name) in enumerate(names.items()):
        band(ax, x, samples[:, exposure - 1], name, place, len(names))
    finish(ax, "Reinstatement gate of the epLSTM", label, "Mean of r_t")
