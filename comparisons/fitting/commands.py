"""The commands for fitting: ``eplstm simulate``, ``fit``, ``compare-models``, ``predict`` and ``recover``.

Each is a dataclass whose fields are its options, and a function that does it; ``cli.py`` calls them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import tyro
from rich.console import Console
from rich.markup import escape

from ...models import load_model
from ...tasks.files import write_whole
from ..blocks import train_run
from ..page import REPORT
from ..progress import progress_bar
from ..runs import find_checkpoint
from ..settings import RunSettings
from ..work.pieces import Done, Piece, run_pieces
from ..work.places import slurm_cluster
from . import fit_report
from .agent import TrainedAgent
from .bayes import fit_bayes
from .designs import Design
from .group import fit_empirical_bayes
from .observation import FreeResponse, Observation, StepChoices
from .parameters import ParameterSpace
from .predictive import PredictiveCheck, predictive_check
from .results import Fit
from .simulation import policies_of, simulate_people
from .studies import (
    Setting,
    cross_validate_people,
    fit_people,
    held_out,
    joined,
    left_out_trials,
    loo_people,
    loo_pieces,
    model_pieces,
    of_design,
    parameter_pieces,
    people_pieces,
    recover_model,
    recover_parameters,
)
from .table.data import Participant
from .table.reading import read_trials
from .table.writing import write_trials
from .variant import RECOMMENDED, Variant, distinct, variants

AGENT = Path("results/agent")
AGENT_SETTINGS = RunSettings(60, key="context", retrieval="average", environments=32, learning_rate=2e-3)
"""An agent that remembers (see the README), and whose retrieval is differentiable."""


@dataclass(frozen=True)
class Common:
    """What all of these commands take."""

    agent: Path = AGENT
    """Folder of a trained agent (eplstm train --retrieval average --out FOLDER). The default is trained by the
    first command that needs it, in about a minute."""
    parameters: tuple[str, ...] = RECOMMENDED
    """Those that are estimated, and in which people differ; the README has a table of all."""
    fixed: tuple[str, ...] = ()
    """Natural values of others, as name=value."""
    response: Literal["steps", "free"] = "steps"
    """A choice at each probed step, or one free response a trial, with its time."""
    seed: int = 0
    """Of all draws."""
    overwrite: bool = False
    """Start anew in place of what is there."""

    def space(self) -> ParameterSpace:
        """The parameters; ValueError if a name or a value does not fit."""
        values = {}
        for text in self.fixed:
            name, _, value = text.partition("=")
            try:
                values[name.strip()] = float(value)  # of nothing, where there is no =
            except ValueError:
                raise ValueError(f"--fixed takes name=value, such as lapse=0.02; got {text!r}.") from None
        return ParameterSpace.of(*self.parameters, fixed=values)

    def observation(self) -> Observation:
        """What is observed."""
        return FreeResponse() if self.response == "free" else StepChoices()


@dataclass(frozen=True)
class Fitted(Common):
    """What those take that fit people."""

    restarts: int = 4
    """Of each person's search."""

    def setting(self, agent: TrainedAgent) -> Setting:
        """What their pieces share."""
        return Setting(agent, self.observation(), self.restarts, self.seed)


@dataclass(frozen=True)
class Where:
    """Where the work runs; the results are the same everywhere."""

    cores: int = 1
    """Processes on this machine; 0: one for each core."""
    cluster: str = ""
    """Address of a Dask scheduler, or "slurm" for jobs of their own; needs eplstm[cluster]."""
    jobs: int = 10
    """Of SLURM."""
    queue: str = ""
    """Of SLURM: the partition."""
    walltime: str = "01:00:00"
    """Of SLURM: of each job."""
    memory: str = "4GB"
    """Of SLURM: of each job."""

    @contextmanager
    def place(self) -> Iterator[Any]:
        """The place, for ``run_pieces``; jobs of SLURM end with it."""
        if self.cluster == "slurm":
            more: dict[str, Any] = {"queue": self.queue} if self.queue else {}
            with slurm_cluster(self.jobs, self.walltime, self.memory, **more) as cluster:
                yield cluster
        else:
            yield self.cluster or self.cores


@dataclass(frozen=True)
class Simulate(Common):
    """Make a table of choices of people with known parameters, in any design.

    Beside OUT: the stimuli (.npz), and the true values (.truth.csv).
    """

    out: Path = Path("results/simulated.csv")
    """The table, .csv or .parquet."""
    participants: int = 24
    """People, whose parameters are drawn from the priors."""
    model: Literal["likelihood", "composition", "reference"] = "likelihood"
    """What computes their policies: all three give the same."""
    variant: str = "full"
    """How they choose: see compare-models."""
    design: tyro.conf.OmitArgPrefixes[Design] = field(default_factory=Design)
    """What they see."""


@dataclass(frozen=True)
class FitData(Fitted, Where):
    """Estimate each person's parameters from a table of choices, and write tables, figures and a report.

    Give the same command again to go on with an interrupted run.
    """

    data: Annotated[Path, tyro.conf.Positional] = Path("results/simulated.csv")
    """The table of choices: .csv or .parquet; stimuli in its columns, or in an .npz of the same name beside it."""
    out: Path = Path("results/fit")
    """Folder of the results."""
    variant: str = "full"
    """What is fitted: see compare-models."""
    estimator: Literal["map", "empirical_bayes", "bayes"] = "map"
    """MAP, and draws of each person's posterior; empirical Bayes of the group; full Bayes (eplstm[bayes])."""
    covariates: Path | None = None
    """Table with the column participant, and others (age, condition) that the group's means may depend on."""
    truth: Path | None = None
    """Table of true values, of simulated people, to compare with."""


@dataclass(frozen=True)
class CompareModels(Fitted, Where):
    """Say which variant of the model explains a table of choices, for each person and for the group."""

    data: Annotated[Path, tyro.conf.Positional] = Path("results/simulated.csv")
    """The table of choices."""
    out: Path = Path("results/models")
    """Folder of the results."""
    variants: tuple[str, ...] = ()
    """Names; by default all that differ for the agent: "full", "no forgetting", "no memory", "whole-input key",
    "context key", "bias only", "evidence only"."""
    cross_validation: Literal["none", "blocks"] = "blocks"
    """Predict each block of a person from the others, too; needs two blocks or more."""
    loo: bool = False
    """Predict each trial from all others, too, by PSIS-LOO; needs eplstm[bayes]."""


@dataclass(frozen=True)
class Predict(Common):
    """Let the fitted people choose anew on the same stimuli, and see whether they do what the people did."""

    fit: Annotated[Path, tyro.conf.Positional] = Path("results/fit")
    """Folder of a fit."""
    data: Path = Path("results/simulated.csv")
    """The table that was fitted."""
    out: Path = Path("results/prediction")
    """Folder of the results."""
    variant: str = "full"
    """The one that was fitted."""
    draws: int = 100
    """Simulated groups."""


@dataclass(frozen=True)
class Recover(Fitted, Where):
    """Find out what a design can tell before data are collected: simulate people, fit them, and compare.

    Parameters (r, bias, RMSE, coverage, by number of trials), models (confusion and inversion), calibration of
    the intervals, and predictive checks, in one report. Finished pieces are kept: the same command goes on.
    """

    out: Path = Path("results/recovery")
    """Folder of the results."""
    what: tuple[Literal["parameters", "models", "calibration", "predictions"], ...] = (
        "parameters",
        "models",
        "calibration",
        "predictions",
    )
    """Some of it only. Calibration is of the same people as parameters."""
    participants: int = 24
    """People in a group."""
    groups: int = 2
    """Groups of each kind."""
    blocks_of: tuple[int, ...] = (3, 12)
    """Numbers of blocks a person, each a design of its own: recovery by number of trials."""
    variants: tuple[str, ...] = ()
    """For the recovery of models; by default all."""
    design: tyro.conf.OmitArgPrefixes[Design] = field(default_factory=Design)
    """What they see; models are recovered with this number of blocks."""


# ---- shared parts ------------------------------------------------------------------------------------


def trained_agent(command: Common, console: Console) -> TrainedAgent:
    """The agent of a folder; the default one is trained if it is not there."""
    if command.agent == AGENT and not AGENT.exists():
        total = AGENT_SETTINGS.blocks * AGENT_SETTINGS.contexts * 2
        console.print(f"Training the agent that people share (once): {AGENT}")
        with progress_bar(console, "Training") as bar:
            train_run(AGENT, "composition", AGENT_SETTINGS, after_trial=lambda done: bar(done, total, 0))
    model = load_model(find_checkpoint(command.agent), "reference")
    size = model.config.input_size
    return TrainedAgent.of(model, context_columns=(size // 2, size))


def chosen(command: Common, *names: str) -> list[Variant]:
    """Variants by name (all if there is none), with the parameters of the command. ValueError: no such name."""
    space = command.space()
    known = variants(*space.names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"There is no variant {unknown[0]!r}; there are {', '.join(map(repr, known))}.")
    picked = [known[name] for name in names or known]
    return [v if v.baseline else replace(v, space=replace(v.space, fixed=space.fixed)) for v in picked]


def candidates(command: Any, agent: TrainedAgent, console: Console) -> list[Variant]:
    """The variants of the command; by default all that differ for this agent."""
    picked = chosen(command, *command.variants)
    kept = picked if command.variants else distinct(picked, agent)
    left = [v.name for v in picked if v not in kept]
    if left:
        console.print(f"Left out, since for this agent they are another variant: {', '.join(left)}.")
    return kept


def run(
    console: Console, what: str, function: Callable[..., Any], pieces: list[Piece], command: Any, store: str
) -> Done:
    """Run pieces with a progress bar, kept in this folder of the results; what failed is said."""
    with progress_bar(console, what) as bar, command.place() as where:
        kept = {"store": command.out / store, "overwrite": command.overwrite}
        done = run_pieces(function, pieces, **kept, where=where, progress=bar)
    if done.failures or done.damaged:
        console.print(f"[yellow]{escape(done.summary())}[/yellow]")
    return done


def read(command: Any, agent: TrainedAgent, console: Console) -> list[Participant]:
    """The data, with what was used of them told."""
    table = read_trials(command.data, config=agent.config)
    console.print(escape(str(table.report)))
    return list(table)


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError if a report is there and is not to be replaced."""
    if (folder / REPORT).exists() and not overwrite:
        raise FileExistsError(f"{folder} holds a report; choose another folder with --out, or give --overwrite.")


@contextmanager
def told(console: Console, folder: Path) -> Iterator[None]:
    """Say where the report is, once it is."""
    yield
    console.print(f"Report: {escape(str(folder / REPORT))}")


# ---- the commands ------------------------------------------------------------------------------------


def simulate(command: Simulate, console: Console) -> int:
    """``eplstm simulate``."""
    agent = trained_agent(command, console)
    (variant,) = chosen(command, command.variant)
    z = variant.space.draw(command.participants, np.random.default_rng((command.seed, 1)))
    policies = variant.policies(agent)
    if command.model != "likelihood":
        if command.variant != "full":
            raise ValueError(f"--model {command.model} has the full variant alone, not {command.variant!r}.")
        model: Any = load_model(find_checkpoint(command.agent), command.model)
        policies = policies_of(model if command.model == "composition" else model.double())
    people = simulate_people(
        agent, command.design, variant.space, z, command.seed, observation=command.observation(), policies=policies
    )
    truth = command.out.with_suffix(".truth.csv")
    if truth.exists() and not command.overwrite:
        raise FileExistsError(f"{truth} is there; choose another name with --out, or give --overwrite.")
    write_trials(command.out, people, command.out.with_suffix(".npz"), overwrite=command.overwrite)
    ids, names = [p.id for p in people], list(variant.space.names)
    true = pd.DataFrame(variant.space.natural_array(z), pd.Index(ids, name="participant"), names).stack()
    write_whole(truth, true.rename_axis(["participant", "parameter"]).rename("value").to_csv())
    choices = sum(person.n_choices for person in people)
    console.print(f"{len(people)} people, {choices} choices: {escape(str(command.out))}")
    console.print(f"True values: {escape(str(truth))}")
    return 0


def fit(command: FitData, console: Console) -> int:
    """``eplstm fit``."""
    check_folder(command.out, command.overwrite)
    agent = trained_agent(command, console)
    (variant,) = chosen(command, command.variant)
    people = read(command, agent, console)
    objective = variant.objective(agent, people, command.observation())  # refuses what does not fit at once
    covariates = None if command.covariates is None else read_covariates(command.covariates)
    if command.estimator == "map":
        if covariates is not None:
            raise ValueError("--covariates needs an estimate of the group: --estimator empirical_bayes or bayes.")
        pieces = people_pieces(command.setting(agent), [variant], people)
        done = run(console, "Fitting", fit_people, pieces, command, "pieces")
        found = joined([variant], done.results).get(variant.name)
        if found is None:
            raise ValueError(f"No participant could be fitted. {done.summary()}")
    else:
        with progress_bar(console, "Fitting") as bar:
            found = estimate_group(command, variant, objective, covariates, lambda n, total: bar(n, total, 0))
    for id, why in found.failures.items():
        console.print(f"[yellow]{escape(id)} could not be fitted: {escape(why)}[/yellow]")
    truth = None if command.truth is None else pd.read_csv(command.truth, dtype={"participant": str})
    with told(console, command.out):
        fit_report.write_fit(command.out, found, variant, truth=truth, settings=command)
    unsure = int((~found.converged).sum())
    note = f"; {unsure} did not converge: see the report." if unsure else "."
    console.print(f"{len(found)} people fitted{note}")
    return 0


def estimate_group(command: FitData, variant: Variant, objective: Any, covariates: Any, progress: Any) -> Fit:
    """Empirical or full Bayes."""
    shared = {"model": variant.name, "covariates": covariates, "seed": command.seed, "progress": progress}
    if command.estimator == "empirical_bayes":
        return fit_empirical_bayes(objective, restarts=command.restarts, **shared)
    return fit_bayes(objective, **shared)


def read_covariates(path: Path) -> pd.DataFrame:
    """A table with the column participant, which becomes the index. ValueError if it is not there."""
    table = pd.read_csv(path, dtype={"participant": str})
    if "participant" not in table:
        raise ValueError(f"{path} needs the column participant; it has {', '.join(table.columns)}.")
    return table.set_index("participant")


def compare_models(command: CompareModels, console: Console) -> int:
    """``eplstm compare-models``."""
    check_folder(command.out, command.overwrite)
    agent = trained_agent(command, console)
    picked = candidates(command, agent, console)
    if len(picked) < 2:
        raise ValueError(f"compare-models needs two variants or more; got {[v.name for v in picked]}.")
    people = read(command, agent, console)
    for variant in picked:
        variant.objective(agent, people, command.observation())  # refuses what does not fit, before any piece runs
    pieces = people_pieces(command.setting(agent), picked, people)
    fitted = run(console, "Fitting", fit_people, pieces, command, "pieces").results
    scores = {}
    if command.cross_validation == "blocks":
        left = run(console, "Cross-validation", cross_validate_people, pieces, command, "held_out")
        scores["blocks"] = held_out(picked, left.results)
    if command.loo:
        left = run(console, "Leaving trials out", loo_people, loo_pieces(pieces, fitted), command, "loo")
        scores["trials"] = left_out_trials(picked, left.results)
    fits = list(joined(picked, fitted).values())
    with told(console, command.out):
        best = fit_report.write_comparison(command.out, fits, picked, scores, settings=command)
    console.print(best)
    return 0


def predict(command: Predict, console: Console) -> int:
    """``eplstm predict``."""
    check_folder(command.out, command.overwrite)
    agent = trained_agent(command, console)
    fitted = Fit.load(command.fit)
    (variant,) = chosen(command, fitted.model)
    people = read(command, agent, console)
    check = check_predictions(
        fitted, replace(variant, space=fitted.space), agent, people, command, console, draws=command.draws
    )
    with told(console, command.out):
        fit_report.write_prediction(command.out, check, settings=command)
    return 0


def check_predictions(
    fitted: Fit,
    variant: Variant,
    agent: TrainedAgent,
    people: list[Participant],
    command: Common,
    console: Console,
    draws: int = 100,
) -> PredictiveCheck:
    """``predictive_check`` with a progress bar."""
    options: dict[str, Any] = {"draws": draws, "seed": command.seed, "observation": command.observation()}
    with progress_bar(console, "Simulating") as bar:
        options["progress"] = lambda n, total: bar(n, total, 0)
        return predictive_check(fitted, variant, agent, people, **options)


def recover(command: Recover, console: Console) -> int:
    """``eplstm recover``."""
    check_folder(command.out, command.overwrite)
    agent = trained_agent(command, console)
    (full,) = chosen(command, "full")
    setting, size = command.setting(agent), (command.participants, command.groups)
    designs = [replace(command.design, blocks=blocks) for blocks in command.blocks_of]
    found = fit_report.Recovered(full)
    if {"parameters", "calibration", "predictions"} & set(command.what):
        pieces = parameter_pieces(setting, full, designs, *size)
        done = run(console, "Parameters", recover_parameters, pieces, command, "parameters")
        found.failures |= done.failures
        by_design = {design.trials: of_design(design, done.results) for design in designs}
        found.parameters = {trials: groups for trials, groups in by_design.items() if groups}
        if "predictions" in command.what and designs[0].trials in found.parameters:
            # of the first group: people of the model itself, whom it must explain
            fitted = found.parameters[designs[0].trials][0][1]
            first = next(piece for piece in pieces if piece.name in done.results)
            _, people = first.arguments["setting"].simulate(full, designs[0], command.participants)
            found.check = check_predictions(fitted, full, agent, people, command, console)
    if "models" in command.what:
        picked = candidates(command, agent, console)
        pieces = model_pieces(setting, picked, command.design, *size)
        done = run(console, "Models", recover_model, pieces, command, "models")
        found.failures |= done.failures
        found.models, found.names = done.results, [v.name for v in picked]
    with told(console, command.out):
        fit_report.write_recovery(command.out, found, what=command.what, settings=command)
    return 0
