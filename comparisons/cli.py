"""The command line: ``eplstm demo``, ``train``, ``compare``, ``benchmark``, and those of ``fitting.commands``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.table import Table

from ..models.checkpoint import CheckpointError
from .behavior import Course, mean_and_error
from .benchmark_timing import Sizes
from .blocks import fresh_accuracy, train_run
from .fitting import commands as fitting
from .progress import progress_bar
from .reproduction import commands as reproduction
from .runs import ModelKind
from .settings import RunSettings
from .work.folders import check_free

FAST_BLOCKS = 3
USERS_ERRORS = (
    ValueError,
    FileExistsError,
    FileNotFoundError,
    NotADirectoryError,
    PermissionError,
    CheckpointError,
    ConnectionError,
    ImportError,
)
"""What a user can put right: these are told in a line; anything else is a defect, and shows its traceback."""


Settings = tyro.conf.OmitArgPrefixes[RunSettings]


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
    cohort: int = 8
    """Agents that are trained beside the compared pair, to show how much agents differ; 0: none."""
    overwrite: bool = False
    """Start anew in place of another run that the folder holds."""
    settings: Settings = field(default_factory=RunSettings)
    """Task, agent and training."""


@dataclass(frozen=True)
class Train:
    """Train one agent, or several side by side, and save them, block by block.

    Give the same command again to go on with an interrupted run.

    Several agents are saved as one cohort: load_model(folder, "composition", agent=0) makes a model of the first.
    """

    out: Path
    """Run folder."""
    model: ModelKind = "composition"
    """The PsyNeuLink composition (PyTorch mode), or the plain-PyTorch reference; both in float64."""
    fresh_blocks: int = 4
    """Blocks that test the trained agents, without learning; 0: none."""
    overwrite: bool = False
    """Start anew in place of another run that the folder holds."""
    settings: Settings = field(default_factory=RunSettings)
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
    agent: int | None = None
    """Which agent, from 0, of a folder that holds several."""
    out: Path | None = None
    """Folder for the table (comparison.json) and the figure (comparison.png); none: print only."""
    overwrite: bool = False
    """Replace a comparison that is there."""


@dataclass(frozen=True)
class Benchmark:
    """Time both models on this machine: training, running, memories, worlds, fitting, and growth with size.

    Every time stands beside its ratio to a baseline, most often the plain-PyTorch reference, measured directly
    before it. With --against, each case is compared to itself with the code of another revision. Ctrl-C keeps what
    has been measured.
    """

    out: Path = Path("results/benchmark")
    """Folder for the numbers (benchmark.json), the table (benchmark.md) and the growth curves (benchmark.png)."""
    overwrite: bool = False
    """Replace a benchmark that is there."""
    cases: tuple[str, ...] = ()
    """Names or groups of the cases to measure; all by default (--list shows them)."""
    list: bool = False
    """Only list the cases, by group."""
    against: str | None = None
    """A revision, as Git names it: ratios are those of this code to its code, pair by pair."""
    repetitions: int = 5
    """Rounds; in each, every case is measured once."""
    threads: int = 1
    """Of PyTorch and NumPy."""
    quick: bool = False
    """A look in a minute or two: two rounds, no large sizes."""
    sizes: tyro.conf.OmitArgPrefixes[Sizes] = field(default_factory=Sizes)
    """Sizes of the cases."""


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
    | Annotated[fitting.Simulate, tyro.conf.subcommand("simulate")]
    | Annotated[fitting.FitData, tyro.conf.subcommand("fit")]
    | Annotated[fitting.CompareModels, tyro.conf.subcommand("compare-models")]
    | Annotated[fitting.Predict, tyro.conf.subcommand("predict")]
    | Annotated[fitting.Recover, tyro.conf.subcommand("recover")]
    | Annotated[reproduction.Reproduce, tyro.conf.subcommand("reproduce")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 (a rung or a case failed), 2 (wrong use) or 130
    (interrupted)."""
    command = tyro.cli(Command, args=arguments, prog="eplstm", description=__doc__)
    console, errors = Console(), Console(stderr=True, highlight=False)
    torch.set_num_threads(1)  # the models are small: more threads only get in each other's way
    try:
        return FUNCTIONS[type(command)](command, console)
    except USERS_ERRORS as error:
        errors.print(f"[red]Error: {escape(str(error))}[/red]", soft_wrap=True)
        return 2
    except KeyboardInterrupt as stop:
        told = str(stop) or "Interrupted. What was finished is kept; give the same command again to go on."
        errors.print(f"[yellow]{escape(told)}[/yellow]", soft_wrap=True)
        return 130


def demo(command: Demo, console: Console) -> int:
    """``eplstm demo``."""
    from .demo import models_of, run_demo  # with matplotlib, slow to import: only where needed
    from .page import REPORT

    settings, fresh_blocks = command.settings, command.fresh_blocks
    if settings.agents > 1 or command.cohort < 0 or command.cohort == 1:
        raise ValueError(
            f"The demo compares one agent, and a cohort beside it of at least 2, or 0 for none; got "
            f"agents={settings.agents} and cohort={command.cohort}."
        )
    settings = replace(settings, agents=max(command.cohort, 1))
    if command.fast:
        settings, fresh_blocks = replace(settings, blocks=min(settings.blocks, FAST_BLOCKS)), 1
    total = settings.n_trials * len(models_of(settings))
    with progress_bar(console, "Training") as tell:
        results = run_demo(
            command.out,
            settings,
            fresh_blocks=fresh_blocks,
            overwrite=command.overwrite,
            after_trial=lambda done: tell(done, total),
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
    if results.agents is not None:
        console.print(second_encounter(results.agents, f"{command.cohort} agents: last block"))
    for note in results.notes:
        console.print(f"[yellow]{escape(note)}[/yellow]")
    console.print(f"Report: {escape(str(command.out / REPORT))}")
    return 0 if results.passed else 1


def train(command: Train, console: Console) -> int:
    """``eplstm train``."""
    settings = command.settings
    if command.fresh_blocks < 0:
        raise ValueError(f"fresh_blocks must be a whole number ≥ 0; got {command.fresh_blocks}.")
    many = "" if settings.agents == 1 else f"{settings.agents} agents of "
    with progress_bar(console, f"Training {many}the {command.model}") as tell:
        state = train_run(
            command.out,
            command.model,
            settings,
            overwrite=command.overwrite,
            after_trial=lambda done: tell(done, settings.n_trials),
        )
    mean, error = mean_and_error(rewards_of_agents(state.history[command.model][-1]))
    spread = "" if settings.agents == 1 else f" ± {error:.2f} (s.e. over {settings.agents} agents)"
    what = "model is" if settings.agents == 1 else "agents are"
    console.print(
        f"{state.done} blocks done; last block, {mean:.2f}{spread} rewards a trial. "
        f"The {what} in {escape(str(command.out / 'trained' / command.model))}"
    )
    if command.fresh_blocks:
        course = fresh_accuracy(state.models[command.model], settings, command.fresh_blocks)
        console.print(second_encounter(course, f"{command.fresh_blocks} fresh blocks"))
    return 0


def rewards_of_agents(kept: dict[str, np.ndarray]) -> np.ndarray:
    """Rewards a trial in a block of a run's history, of each agent: (agents,)."""
    if "reward" in kept:
        return kept["reward"].sum(-1).mean(keepdims=True)
    return kept["accuracy"].mean(1).sum(-1)  # both encounters have equally many trials


def second_encounter(course: Course, where: str) -> str:
    """The share of right choices at the first step of the second encounter, as text."""
    row = course.encounters.index(2)
    return (
        f"{where}; second encounter, step 0: {course.mean[row, 0]:.3f} ± {course.se[row, 0]:.3f} right "
        f"(s.e. over {course.n[row]} {course.over})"
    )


def compare(command: Compare, console: Console) -> int:
    """``eplstm compare``."""
    from .saved import compare_saved, write_comparison

    comparison = compare_saved(
        command.a, command.b, contexts=command.contexts, seed=command.seed, agent=command.agent
    )
    table = Table("what", "largest difference", title=f"{command.a} and {command.b}")
    for row in comparison.rows:
        table.add_row(row["what"], row["text"])
    console.print(table)
    if command.out is not None:
        write_comparison(comparison, command.out, overwrite=command.overwrite)
        console.print(f"Table and figure: {escape(str(command.out))}")
    return 0


def benchmark(command: Benchmark, console: Console) -> int:
    """``eplstm benchmark``."""
    from .benchmark import FILES, measure, measured_on
    from .benchmark_cases import table
    from .benchmark_processes import code_of, process

    sizes = command.sizes.quick() if command.quick else command.sizes
    repetitions = min(command.repetitions, 2) if command.quick else command.repetitions
    cases = table(sizes, command.cases)
    if command.list:
        for case in cases:
            line = f"{case.group}: {case.name} (a {case.unit}) – {case.about}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
        return 0
    check_free(command.out, FILES, command.overwrite)
    with ExitStack() as stack:
        ask, other = stack.enter_context(process(sizes, command.threads)), None
        if command.against is not None:
            code = stack.enter_context(code_of(command.against))
            other = command.against, stack.enter_context(process(sizes, command.threads, code))
        tell = stack.enter_context(progress_bar(console, ""))
        found = measure(cases, repetitions, ask, other=other, threads=command.threads, tell=tell)
    console.print(Markdown(found.table()))
    for note in (measured_on(found.machine), *found.notes):
        console.print(escape(note), highlight=False)
    if found.results:
        settings = {"against": command.against, "repetitions": repetitions, **asdict(sizes)}
        written = found.write(command.out, settings)
        console.print(f"Written: {', '.join(escape(str(path)) for path in written)}")
    return 130 if found.interrupted else int(any(result.failure for result in found.results))


FUNCTIONS: dict[type, Callable[..., int]] = {
    Demo: demo,
    Train: train,
    Compare: compare,
    Benchmark: benchmark,
    fitting.Simulate: fitting.simulate,
    fitting.FitData: fitting.fit,
    fitting.CompareModels: fitting.compare_models,
    fitting.Predict: fitting.predict,
    fitting.Recover: fitting.recover,
    reproduction.Reproduce: reproduction.reproduce,
}


if __name__ == "__main__":
    sys.exit(main())
