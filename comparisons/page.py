"""A report as one HTML page with figures, and tidy tables beside it; how it looks is in ``page.html``."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure as Canvas

from ..tasks.files import write_whole

FIGURES, REPORT = "figures", "report.html"
DPI = 160
PANEL = 2.9
"""Inches of a panel."""


class Page:
    """A report that is written piece by piece.

    Args:
        folder: where; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts: list[dict[str, Any]] = []
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)

    def text(self, text: str, bad: bool = False) -> None:
        """A paragraph."""
        self._parts.append({"kind": "text", "text": text, "bad": bad})

    def heading(self, title: str) -> None:
        """A heading."""
        self._parts.append({"kind": "heading", "title": title})

    def rows(
        self,
        header: Sequence[str],
        rows: Iterable[Sequence[object]],
        bad: str = "FAILED",
        file: str | None = None,
    ) -> None:
        """A table; cells whose text is ``bad`` stand out. ``file``: where all of it is."""
        self._parts.append({"kind": "table", "header": header, "rows": list(rows), "bad": bad, "file": file})

    def table(self, name: str, frame: pd.DataFrame, shown: pd.DataFrame | None = None, digits: int = 2) -> None:
        """A table, whole as CSV beside the page, and shown rounded."""
        write_whole(self.folder / f"{name}.csv", frame.to_csv(index=False))
        shown = frame if shown is None else shown
        rows = [[_rounded(value, digits) for value in row] for row in shown.itertuples(index=False)]
        self.rows([str(c).replace("_", " ") for c in shown.columns], rows, bad="no", file=f"{name}.csv")

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
        sharey: bool = False,
    ) -> None:
        """A figure of panels side by side, perhaps in several rows. Sizes in inches.

        ``draw`` is given their axes, (panels,) or (rows, panels), and draws.
        """
        width = max(PANEL * 1.15 * panels, 4.2) if width is None else width
        canvas = Canvas(figsize=(width, height), layout="constrained")
        axes = canvas.subplots(rows, panels, squeeze=False, sharey=sharey)
        draw(axes[0] if rows == 1 else axes)
        canvas.savefig(self.folder / FIGURES / f"{name}.png", dpi=DPI)
        self.picture(f"{FIGURES}/{name}.png", title, caption)

    def picture(self, file: str, title: str, caption: str) -> None:
        """A figure that is there, under its title, with how to read it; ``file`` is relative to the folder."""
        self._parts.append({"kind": "figure", "file": file, "title": title, "caption": caption})

    def write(self, title: str, settings: Any) -> None:
        """Write the page, with settings (a dataclass) and versions at its end."""
        self.heading("Settings")
        self.rows(("setting", "value"), [(name, _setting(value)) for name, value in plain(settings).items()])
        self.heading("Versions")
        self.rows(("package", "version"), versions().items())
        loader = FileSystemLoader(Path(__file__).parent)
        environment = Environment(
            loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        page = environment.get_template("page.html").render(title=title, parts=self._parts)
        write_whole(self.folder / REPORT, page + "\n")


def plain(value: Any) -> Any:
    """The value as JSON can hold it: dataclasses and arrays as dictionaries and lists, no NaN (null instead)."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a value as ``plain`` gives it."""
    write_whole(path, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("eplstm", "psyneulink", "torch", "numpy", "matplotlib")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


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
