"""Warnings that point at the line of the user's that led to them."""

from __future__ import annotations

import inspect
import warnings

OURS = ("eplstm", "psyneulink", "graph_scheduler", "torch")
"""Packages that lie between a user's line and a warning of this package."""


def warn_user(warning: Warning) -> None:
    """Warn, from the first line outside of these packages."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(warning, stacklevel=level)


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in OURS
