"""The command line: ``eplstm demo``, ``eplstm train`` and ``eplstm compare``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ..models.checkpoint import CheckpointError
from .runs import Interrupted, ModelKind, train_run
from .settings import RunSettings

FAST_BLOCKS = 3
USERS_ERRORS = (
    ValueError,
    FileExistsError,
    FileNotFoundError,
    NotADirectoryError,
    PermissionError,
    CheckpointError,
)
"""What a user can put right: these are told in a line; anything else is a defect, and shows its traceback."""


@dataclass(frozen=True)
class Options(RunSettings):
    """Task, agent and training."""

    def __post_init__(self) -> None:
        """Left to ``checked``: what is out of range is told in the same way as any other error."""

    def checked(self) -> RunSettings:
        """The settings; raises ValueError if a value is out of range."""
        return RunSettings(**asdict(self))


Settings = tyro.conf.OmitArgPrefixes[Options]


@dataclass(frozen=True)
class Demo:
    """Train the composition and the reference on the same trials, and write tables and figures of the result.

    Give the same command again to go on with an interrupted run.
    """

    out: Path = Path("results/demo")
    """Results folder."""
    fast: bool = False
    """A minute's look: three blocks at most, and one fresh block for the lesions."""
    fresh_blocks: int = 4
    """Blocks that test the trained agents, without learning."""
    overwrite: bool = False
    """Start anew in place of another run that the folder holds."""
    settings: Settings = field(default_factory=Options)
    """Task, agent and training."""


@dataclass(frozen=True)
class Train:
    """Train one model and save it, block by block; give the same command again to go on."""

    out: Path
    """Run folder."""
    model: ModelKind = "composition"
    """The PsyNeuLink composition (PyTorch mode), or the plain-PyTorch reference; both in float64."""
    overwrite: bool = False
    """Start anew in place of another run that the folder holds."""
    settings: Settings = field(default_factory=Options)
    """Task, agent and training."""


@dataclass(frozen=True)
class Compare:
    """Compare two saved models: weights, memory, and behaviour on the same fresh trials with the same draws."""

    a: tyro.conf.Positional[Path]
    """A run folder, or the folder of a saved model."""
    b: tyro.conf.Positional[Path]
    """Another."""
    contexts: int = 5
    """Contexts in the block that tests behaviour."""
    seed: int = 0
    """Of the fresh trials and all draws on them."""
    out: Path | None = None
    """Folder for the table (comparison.json) and the figure (comparison.png); none: print only."""
    overwrite: bool = False
    """Replace a comparison that is there."""


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 (a rung failed), 2 (wrong use) or 130 (interrupted)."""
    command = tyro.cli(Command, args=arguments, prog="eplstm", description=__doc__)
    console, errors = Console(), Console(stderr=True, highlight=False)
    torch.set_num_threads(1)  # the models are small: more threads only get in each other's way
    try:
        if isinstance(command, Demo):
            return demo(command, console)
        if isinstance(command, Train):
            return train(command, console)
        return compare(command, console)
    except USERS_ERRORS as error:
        errors.print(f"[red]Error: {escape(str(error))}[/red]", soft_wrap=True)
        return 2
    except Interrupted as stop:
        errors.print(f"[yellow]{escape(str(stop))}[/yellow]", soft_wrap=True)
        return 130
    except KeyboardInterrupt:
        errors.print(
            "[yellow]Interrupted. Finished blocks are kept; give the same command again to go on.[/yellow]"
        )
        return 130


def demo(command: Demo, console: Console) -> int:
    """``eplstm demo``."""
    from .demo import models_of, run_demo  # with matplotlib, slow to import: only where needed
    from .report import REPORT

    settings, fresh_blocks = command.settings.checked(), command.fresh_blocks
    if command.fast:
        settings, fresh_blocks = replace(settings, blocks=min(settings.blocks, FAST_BLOCKS)), 1
    with progress(console, "Training", settings, len(models_of(settings))) as after_trial:
        results = run_demo(
            command.out, settings, fresh_blocks=fresh_blocks, overwrite=command.overwrite, after_trial=after_trial
        )
    table = Table("rung", "path", "largest difference", "where", "", title="Composition and reference")
    for row in results.rungs:
        verdict = "[green]ok[/green]" if row["passed"] else "[red]FAILED[/red]"
        table.add_row(row["name"], row["path"], f"{row['difference']:.1e}", row["where"], verdict)
    console.print(table)
    for name, course in results.accuracy.items():
        second = course.mean[course.encounters.index(2), 0]
        reward = results.curves[name].mean[-1]
        console.print(
            f"{name}: last block, {reward:.2f} rewards a trial; second encounter, step 0: {second:.2f} right"
        )
    for note in results.notes:
        console.print(f"[yellow]{escape(note)}[/yellow]")
    console.print(f"Report: {escape(str(command.out / REPORT))}")
    return 0 if results.passed else 1


def train(command: Train, console: Console) -> int:
    """``eplstm train``."""
    settings = command.settings.checked()
    with progress(console, f"Training the {command.model}", settings, 1) as after_trial:
        state = train_run(
            command.out, command.model, settings, overwrite=command.overwrite, after_trial=after_trial
        )
    reward = state.stacked(command.model, "reward")[-1].sum(-1).mean()
    console.print(
        f"{state.blocks_done} blocks done; last block, {reward:.2f} rewards a trial. "
        f"The model is in {escape(str(command.out / 'trained' / command.model))}"
    )
    return 0


def compare(command: Compare, console: Console) -> int:
    """``eplstm compare``."""
    from .saved import compare_saved, write_comparison

    comparison = compare_saved(command.a, command.b, contexts=command.contexts, seed=command.seed)
    table = Table("what", "largest difference", title=f"{command.a} and {command.b}")
    for row in comparison.rows:
        table.add_row(row["what"], row["text"])
    console.print(table)
    if command.out is not None:
        write_comparison(comparison, command.out, overwrite=command.overwrite)
        console.print(f"Table and figure: {escape(str(command.out))}")
    return 0


@contextmanager
def progress(console: Console, what: str, settings: RunSettings, models: int) -> Iterator[Callable[[int], None]]:
    """A progress bar over all trials; gives the function that is told how many are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("trials"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        total = settings.blocks * settings.contexts * 2 * models
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


if __name__ == "__main__":
    sys.exit(main())
