"""``eplstm reproduce``: train agents on a task of the paper, measure them, and say which of its claims hold."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import tyro
from rich.console import Console

from ..fitting.commands import Where, check_folder, told
from ..page import Page
from ..progress import progress_bar
from ..work.pieces import Piece, run_pieces
from .studies import STUDIES, train_and_measure
from .study import AGENTS, Claim, Found, Study
from .training import trained_so_far

TOGETHER = 3
"""Agents of a kind that are trained side by side: so few that several processes have work."""
LOOK_EVERY = 2.0
"""Seconds between two looks at the agents' checkpoints."""
TaskName = Literal["contextual-choice", "bandit", "two-step", "water-maze"]


@dataclass(frozen=True)
class Reproduce(Where):
    """Train agents on a task of the paper over several seeds, measure them in fresh worlds, and write a report.

    Finished agents are kept, and training goes on from checkpoints: give the same command again to go on.
    """

    task: Annotated[TaskName, tyro.conf.Positional] = "bandit"
    """The task."""
    out: Path = Path("results/reproduction")
    """Folder; the task has one of its own in it."""
    seeds: int = 5
    """Agents of each kind."""
    first_seed: int = 0
    """Seed of the first of them; those of the others follow."""
    agents: tuple[Literal["epLSTM", "LSTM", "memory as input"], ...] = AGENTS
    """Which kinds, of the same budget: the agent of the paper, the same without memory, and the same whose
    retrieved memory is a further input of the LSTM in place of what the reinstatement gate lets in."""
    fast: bool = False
    """A look in a minute or two: agents are hardly trained, and claims will not hold."""
    overwrite: bool = False
    """Start anew in place of what is there."""


def reproduce(command: Reproduce, console: Console) -> int:
    """``eplstm reproduce``."""
    if command.seeds < 1:
        raise ValueError(f"reproduce: seeds must be at least 1; got {command.seeds}.")
    if command.first_seed < 0:
        raise ValueError(f"reproduce: first-seed must be at least 0; got {command.first_seed}.")
    study = STUDIES[command.task]
    out = command.out / command.task
    check_folder(out, command.overwrite)
    pieces = pieces_of(command, out)
    if command.overwrite:
        shutil.rmtree(out / "agents", ignore_errors=True)
    with training_bar(console, study, command, pieces) as finished, command.place() as where:
        done = run_pieces(
            train_and_measure,
            pieces,
            store=out / "pieces",
            key=study.rests_on(command.fast),
            where=where,
            progress=finished,
            overwrite=command.overwrite,
        )
    if done.failures:
        console.print(done.summary(), style="red")
    kept = [piece for piece in pieces if piece.name in done.results]
    if not kept:
        raise ValueError("reproduce: no agent could be trained; the tracebacks are in the folder of the pieces.")
    by_seed = ((p.arguments["agent"], zip(p.arguments["seeds"], done.results[p.name], strict=True)) for p in kept)
    found = Found({(agent, seed): measured for agent, own in by_seed for seed, measured in own})
    with told(console, out):
        claims = write_report(out, study, found, command)
    for claim in claims:
        holds = "holds   " if claim.holds else "does not"
        console.print(f"{holds}  {claim.claim}: {claim.measured}", highlight=False)
    return int(bool(done.failures))


def pieces_of(command: Reproduce, out: Path) -> list[Piece]:
    """Agents of a kind, so many side by side that there are pieces for several processes."""
    seeds = list(range(command.first_seed, command.first_seed + command.seeds))
    groups = [seeds[first : first + TOGETHER] for first in range(0, len(seeds), TOGETHER)]
    return [
        Piece(
            f"{agent}, seed{'s' if len(own) > 1 else ''} {', '.join(map(str, own))}",
            {
                "study": command.task,
                "agent": agent,
                "seeds": own,
                "fast": command.fast,
                "folders": [str((out / "agents" / f"{agent.replace(' ', '-')}-{s}").absolute()) for s in own],
            },
        )
        for own in groups
        for agent in command.agents
    ]


@contextmanager
def training_bar(
    console: Console, study: Study, command: Reproduce, pieces: list[Piece]
) -> Iterator[Callable[[int, int, int], None]]:
    """A progress bar of updates over all agents, which looks at their checkpoints wherever they are trained."""
    folders = [folder for piece in pieces for folder in piece.arguments["folders"]]
    each, count = study.settings(command.fast).updates, len(folders)
    ended, failing, stop = 0, 0, threading.Event()

    def finished(done: int, total: int, failed: int) -> None:
        nonlocal ended, failing
        ended, failing = done * count // total, failed
        show()

    def show() -> None:
        updates = sum(min(trained_so_far(folder)[0], each) for folder in folders)
        tell(max(updates, ended * each), count * each, failing, f"Training: {ended} of {count} agents")

    def watch() -> None:
        while not stop.wait(LOOK_EVERY):
            show()

    with progress_bar(console, "Training") as tell:
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield finished
        finally:
            stop.set()
            watcher.join()
            show()


def write_report(out: Path, study: Study, found: Found, command: Reproduce) -> list[Claim]:
    """Write the report; the claims."""
    page = Page(out)
    settings = study.settings(command.fast)
    page.text(study.about)
    if command.fast:
        page.text("The fast setting: agents are hardly trained, and claims are not expected to hold.", bad=True)
    claims = list(study.claims(found))
    page.heading("What is claimed, and what was measured")
    page.text(f"Means over {command.seeds} seeds with 95 % intervals (t), in worlds that nobody was trained in.")
    page.table("claims", pd.DataFrame([asdict(claim) for claim in claims]))
    if study.tried:
        page.text(study.tried)
    study.figures(page, found)
    page.heading("Numbers")
    for name, numbers in study.tables(found).items():
        page.table(name, numbers, numbers.head(12), digits=3)
    page.heading("Training")
    seconds = [plain["seconds"] for plain in found.pieces.values()]
    page.text(
        f"{len(seconds)} agents took {np.sum(seconds) / 60:.0f} min of one core together "
        f"({np.median(seconds):.0f} s an agent). Up to {TOGETHER} of a kind were trained side by side, as a "
        "cohort, whose numbers are those of PsyNeuLink's learn(). One update is from an episode of all worlds."
    )
    page.rows(("setting", "value"), [(n, str(v)) for n, v in asdict(settings).items()])
    page.rows(
        ("task", "value"),
        [(n, str(v)) for n, v in asdict(study.task).items()]
        + [
            (f"{n}, in {lesson.share:.0%} of training", str(v))
            for lesson in study.lessons
            for n, v in asdict(lesson.task).items()
            if v != getattr(study.task, n)
        ],
    )
    page.write(f"Reproduction: {study.name}", command)
    return claims
