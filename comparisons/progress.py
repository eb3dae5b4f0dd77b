"""The progress bar of all commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Tell(Protocol):
    """Is told how much is done (with what failed), how much there is, how much failed, and perhaps what it is."""

    def __call__(self, done: int, total: int, failed: int = 0, what: str | None = None) -> None:
        """Show it."""
        ...


@contextmanager
def progress_bar(console: Any = None, what: str = "Pieces") -> Iterator[Tell]:
    """A progress bar; gives the function that is told how far the work is, as ``run_pieces`` does.

    Args:
        console: a ``rich.console.Console``; None: one that writes to the standard output.
        what: stands before the bar.
    """
    text = TextColumn("{task.description}", markup=False)
    failing = TextColumn("[red]{task.fields[failing]}[/red]")
    columns = (text, BarColumn(), MofNCompleteColumn(), failing, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = None

        def tell(done: int, total: int, failed: int = 0, what: str | None = what) -> None:
            nonlocal task
            if task is None:  # begins with what was kept: the time that remains goes by what is done now
                task = bar.add_task("", total=total, completed=done, failing="")
            failing = f"{failed} failed" if failed else ""
            bar.update(task, description=what, completed=done, failing=failing)

        yield tell
