"""A report as one HTML page with figures, and tidy tables beside it."""

from __future__ import annotations

import html
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .report import canvas_of, figure_html, html_page, html_table, plain, versions
from .work.files import write_whole

FIGURES, REPORT = "figures", "report.html"
PANEL = 2.9
"""Inches of a panel."""


class Page:
    """A report that is written piece by piece.

    Args:
        folder: where; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.parts = folder, []
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)

    def text(self, text: str, bad: bool = False) -> None:
        """A paragraph."""
        self.parts.append(f"<p{' class=bad' if bad else ''}>{html.escape(text)}</p>")

    def heading(self, title: str) -> None:
        """A heading."""
        self.parts.append(f"<h2>{html.escape(title)}</h2>")

    def table(self, name: str, frame: pd.DataFrame, shown: pd.DataFrame | None = None, digits: int = 2) -> None:
        """A table, whole as CSV beside the page, and shown rounded."""
        write_whole(self.folder / f"{name}.csv", frame.to_csv(index=False))
        shown = frame if shown is None else shown
        rows = [[_rounded(value, digits) for value in row] for row in shown.itertuples(index=False)]
        self.parts.append(html_table([str(c).replace("_", " ") for c in shown.columns], rows, bad="no"))
        self.parts.append(f'<p>All of it: <a href="{name}.csv">{name}.csv</a></p>')

    def figure(
        self,
        name: str,
        title: str,
        caption: str,
        panels: int,
        draw: Any,
        height: float = PANEL,
        width: float | None = None,
        rows: int = 1,
    ) -> None:
        """A figure of panels side by side, perhaps in several rows. Sizes in inches.

        ``draw`` is given their axes, (panels,) or (rows, panels), and draws.
        """
        width = max(PANEL * 1.15 * panels, 4.2) if width is None else width
        with canvas_of(self.folder, name, width, height) as canvas:
            axes = canvas.subplots(rows, panels, squeeze=False)
            draw(axes[0] if rows == 1 else axes)
        self.parts.append(figure_html(f"{FIGURES}/{name}.png", title, caption))

    def write(self, title: str, settings: Any) -> None:
        """Write the page, with settings and versions at its end."""
        self.heading("Settings")
        rows = [(name, _setting(value)) for name, value in plain(asdict(settings)).items()]
        self.parts.append(html_table(("setting", "value"), rows))
        self.heading("Versions")
        self.parts.append(html_table(("package", "version"), list(versions().items())))
        write_whole(self.folder / REPORT, html_page(title, self.parts))


def _rounded(value: Any, digits: int) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return "–" if np.isnan(value) else f"{value:.{digits}f}"
    return str(value)


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_setting(item)}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
