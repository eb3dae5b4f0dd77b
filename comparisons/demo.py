"""The main job: train the composition and the reference on the same trials, and show that they are the same.

The composition chooses (seeded); its choices and the initial states are forced on the reference. A third
agent, a reference without a memory, is trained on the same trials with choices of its own. Beside them a cohort
of agents, each with weights, trials and choices of its own, shows how much agents differ; the first of them is
the composition's twin. All goes into one results folder, which is also a run folder (see ``runs``): figures,
``report.html``, ``results.json``, the trained models, and the composition's graph.
"""

from __future__ import annotations

import math
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..models import TrialRecord
from ..tasks.files import write_whole
from ..tasks.trials import concatenate
from . import behavior
from .blocks import counting_from, make_model, train_block, train_blocks, train_many
from .equivalence import (
    PYTHON_MODE,
    PYTORCH_MODE,
    TOLERANCE,
    Ladder,
    Rung,
    compare_memories,
    compare_records,
    compare_weights,
)
from .page import FIGURES, REPORT
from .report import FIGURE_FILES, RESULTS, DemoResults, write_results
from .runs import Kind, Model, ModelKind, RunFolder, RunState
from .settings import FRESH, RunSettings

COMPOSITION, REFERENCE, NO_MEMORY, COHORT = "composition", "reference", "no_memory", "cohort"
WITHOUT = "trained without memory"
"""What the third agent is called in the figures."""
GRAPH = "graph.gv"
OUTPUTS = (REPORT, RESULTS, GRAPH, *FIGURE_FILES)

# ---- the ladder --------------------------------------------------------------------------------------


def keep_worst(notes: dict[str, Any], rungs: list[Rung], place: str) -> None:
    """Keep of each rung the largest difference so far, in a form for JSON (a difference not finite is null)."""
    kept = notes.setdefault("rungs", {})
    for new in rungs:
        known = kept.get(new.name)
        if known is None or new.difference > (math.inf if known[0] is None else known[0]):
            where = f"{place}, {new.where}" if new.where else ""
            kept[new.name] = [new.difference if math.isfinite(new.difference) else None, where]


def one_update(settings: RunSettings) -> Rung:
    """The rung of the weights after one update: fresh models, and the first trial of the run."""
    block = settings.block(0)
    first = replace(block, trials=block.trials[:1], initial_states=tuple(s[:1] for s in block.initial_states))
    kinds: dict[str, ModelKind] = {COMPOSITION: "composition", REFERENCE: "reference"}
    config = settings.model_config()
    state = RunState({n: make_model(k, config, settings.seed) for n, k in kinds.items()})
    chosen = train_block(state, COMPOSITION, settings, first).action
    train_block(state, REFERENCE, settings, first, actions=chosen)
    return compare_weights(state.models[COMPOSITION], state.models[REFERENCE], "weights after one update")


def python_mode(state: RunState, settings: RunSettings, seconds: dict[str, float]) -> list[Rung]:
    """The forward rungs of ``Composition.run``, on a few fresh trials with the memory as training left it."""
    fresh = replace(settings, contexts=min(2, settings.contexts)).block(0, FRESH)
    composition, reference = state.models[COMPOSITION], state.models[REFERENCE]
    with behavior.memory_kept(composition), behavior.memory_kept(reference):
        with stopwatch(seconds, "reference, run", len(fresh.trials)):
            theirs = reference.run_trials(fresh.trials, initial_states=fresh.initial_states, seed=fresh.seed)
        with stopwatch(seconds, "composition, run (Python mode)", len(fresh.trials)):
            ours = composition.run_trials(fresh.trials, theirs.action, fresh.initial_states)
        return [*compare_records(ours, theirs, PYTHON_MODE), compare_memories(composition, reference, PYTHON_MODE)]


# ---- the job -----------------------------------------------------------------------------------------


def run_demo(
    path: str | os.PathLike[str],
    settings: RunSettings,
    *,
    fresh_blocks: int = 4,
    overwrite: bool = False,
    after_trial: Callable[[int], None] | None = None,
) -> DemoResults:
    """Train both models, or go on with what the folder holds, and write everything into the folder.

    Args:
        path: the results folder.
        settings: of task, agent and training; with ``agents`` > 1, a cohort of so many is trained beside the pair.
        fresh_blocks: blocks for the lesions, without learning.
        overwrite: start anew in place of another run.
        after_trial: called after every trial with the number of trials done in all, by all models.

    Raises:
        FileExistsError: the folder holds something else; nothing is changed.
        KeyboardInterrupt: on Ctrl-C during training; finished blocks are kept, and the message says so.
    """
    if settings.environments > 1:
        raise ValueError(
            f"The demo trains its agents in one environment each; got environments={settings.environments}. Use "
            "eplstm train for more."
        )
    if fresh_blocks < 1:
        raise ValueError(f"fresh_blocks must be a whole number ≥ 1; got {fresh_blocks!r}.")
    folder = RunFolder(path, "demo", asdict(settings), length="blocks", outputs=OUTPUTS, overwrite=overwrite)
    state = train_all(folder, settings, after_trial)
    results = measure(state, settings, fresh_blocks)
    graph = draw_graph(state.models[COMPOSITION], folder.path, results.notes)
    write_results(folder.path, results, graph)
    return results


def models_of(settings: RunSettings) -> dict[str, Kind]:
    """Name and kind of each model of the demo; without a memory, the third agent would be the second again."""
    kinds: dict[str, Kind] = {COMPOSITION: "composition", REFERENCE: "reference"}
    if settings.memory_capacity > 0:
        kinds[NO_MEMORY] = "reference"
    if settings.agents > 1:
        kinds[COHORT] = "cohort"
    return kinds


def train_all(
    folder: RunFolder, settings: RunSettings, after_trial: Callable[[int], None] | None = None
) -> RunState:
    """Train the demo's models block by block, and note the largest differences and the times."""
    kinds = models_of(settings)
    config = settings.model_config()
    configs = {name: config if name != NO_MEMORY else replace(config, memory_capacity=0) for name in kinds}

    def train_one(state: RunState) -> None:
        block, seconds = settings.block(state.done), state.notes.setdefault("seconds", {})
        n, records = len(block.trials), dict[str, TrialRecord]()
        for place, (name, kind) in enumerate(kinds.items()):
            count = counting_from((state.done * len(kinds) + place) * n, after_trial)
            if kind == "cohort":
                with stopwatch(seconds, f"{name}, training, each", n * settings.agents):
                    train_many(state, name, settings, settings.blocks_of_all(state.done), after_trial=count)
            else:
                given = {"record_gradients": name != NO_MEMORY, "after_trial": count}
                if name == REFERENCE:
                    given["actions"] = records[COMPOSITION].action
                with stopwatch(seconds, f"{name}, training", n):
                    records[name] = train_block(state, name, settings, block, **given)
        ours, theirs = state.models[COMPOSITION], state.models[REFERENCE]
        rungs = compare_records(records[COMPOSITION], records[REFERENCE])
        rungs += [compare_memories(ours, theirs), compare_weights(ours, theirs, "weights after the whole run")]
        keep_worst(state.notes, rungs, f"block {state.done}")

    return train_blocks(folder, kinds, configs, settings, train_one)


@contextmanager
def stopwatch(seconds: dict[str, Any], path: str, trials: int) -> Iterator[None]:
    """Add the time of what is done inside, and its trials, to a path's: [seconds, trials]."""
    start = time.perf_counter()
    yield
    spent, count = seconds.get(path, (0.0, 0))
    seconds[path] = [spent + time.perf_counter() - start, count + trials]


def measure(state: RunState, settings: RunSettings, fresh_blocks: int) -> DemoResults:
    """All numbers of the demo, from the trained models and what was kept of their training."""
    seconds = dict(state.notes["seconds"])
    rungs = [
        Rung(name, PYTORCH_MODE, math.inf if difference is None else difference, where)
        for name, (difference, where) in state.notes["rungs"].items()
    ]
    rungs.insert([rung.name for rung in rungs].index("memory"), one_update(settings))
    rungs += python_mode(state, settings, seconds)

    encounters = settings.encounters()
    pair = (COMPOSITION, REFERENCE)
    last = settings.block(settings.blocks - 1).trials
    results = DemoResults(
        settings=settings,
        rungs=Ladder(rungs).rows(),
        tolerance=TOLERANCE,
        curves={
            WITHOUT if name == NO_MEMORY else name: behavior.learning_curve(
                state.stacked(name, "reward"), encounters
            )
            for name in state.models
            if name != COHORT
        },
        accuracy={n: behavior.accuracy_by_step(last, state.last_block[n]) for n in pair},
        agents=course_over_agents(state, settings) if COHORT in state.models else None,
        gates=behavior.gate_course(last, state.last_block[COMPOSITION]),
        lesions=lesions_and_no_memory(state, settings, fresh_blocks),
        milliseconds={path: 1e3 * spent / count for path, (spent, count) in seconds.items()},
        last_trials=last,
    )
    describe_memory(state.models[COMPOSITION], results)
    return results


def course_over_agents(state: RunState, settings: RunSettings) -> behavior.Course:
    """Accuracy of the cohort's agents in the last block: means and standard errors over agents."""
    accuracy = state.history[COHORT][-1]["accuracy"]
    mean, error = behavior.mean_and_error(accuracy)
    encounters = tuple(int(e) for e in np.unique(settings.encounters()))
    return behavior.Course(encounters, mean, error, (len(accuracy),) * len(encounters), "agents")


def lesions_and_no_memory(state: RunState, settings: RunSettings, fresh_blocks: int) -> dict[str, behavior.Course]:
    """The lesions of the trained reference, and the agent that never had a memory, on the same fresh blocks."""
    fresh = [settings.block(index, FRESH).trials for index in range(fresh_blocks)]
    conditions = behavior.lesions(state.models[REFERENCE], fresh, settings.seed)
    if NO_MEMORY in state.models:
        record = behavior.run_blocks(state.models[NO_MEMORY], fresh, settings.seed)
        conditions[WITHOUT] = behavior.accuracy_by_step(concatenate(fresh), record)
    return conditions


def describe_memory(model: Model, results: DemoResults) -> None:
    """Similarities and principal components of what the last block left in memory, entries sorted by answer."""
    keys, values = model.memory()
    if len(keys) < 2:
        results.notes.append(f"The memory holds {len(keys)} entries: its figures need two, and were left out.")
        return
    answers = behavior.stored_answers(results.last_trials, keys, model.config)
    order = np.argsort(answers, kind="stable")
    results.answers = answers[order]
    kernel = model.config.kernel
    results.similarity = {
        "keys": behavior.similarity_matrix(keys[order], kernel),
        "values": behavior.similarity_matrix(values[order], kernel),
    }
    results.components = behavior.principal_components(values[order], min(2, *values.shape))


def draw_graph(composition: Any, folder: Path, notes: list[str]) -> Path | None:
    """Write the composition's graph as Graphviz text, and as a picture where Graphviz is installed."""
    from graphviz import ExecutableNotFound

    graph = composition.show_graph(output_fmt="gv")
    graph.attr(dpi="110")
    write_whole(folder / GRAPH, graph.source)
    picture = folder / FIGURES / "graph.png"
    picture.parent.mkdir(exist_ok=True)
    try:
        picture.write_bytes(graph.pipe(format="png"))
    except (ExecutableNotFound, subprocess.CalledProcessError) as error:
        reason = "Graphviz is not installed" if isinstance(error, ExecutableNotFound) else "Graphviz failed"
        notes.append(
            f"The composition's graph was not drawn ({reason}); its text is in {GRAPH}. Install Graphviz "
            "(its command is called dot) and give the command again."
        )
        return None
    return picture
