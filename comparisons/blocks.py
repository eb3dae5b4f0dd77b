"""Training on blocks of trials: one model, several in their environments, cohorts; and whole runs of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import psyneulink as pnl

from ..models import (
    Cohort,
    EpisodicLSTMComposition,
    ModelConfig,
    NotFinite,
    ReferenceEpisodicLSTM,
    TrialRecord,
    train,
)
from ..models.cohort import CHUNK
from ..tasks.trials import concatenate
from .behavior import Course, accuracy_by_step, encounters_of, mean_and_error
from .runs import Kind, ModelKind, RunFolder, RunState, go_on
from .settings import FRESH, Block, RunSettings

HISTORY = ("action", "reward", "policy", "value", "policy_loss", "value_loss")
"""Fields of ``TrialRecord`` that are kept of every block; the others only of the last."""
SUMMARY = ("accuracy", "policy_loss", "value_loss")
"""What is kept of every block of several agents or environments, whose records are large: the share of right
choices by encounter and step, (agents, E, T), and the mean losses, (agents,), over an agent's environments."""


def make_model(kind: Kind, config: ModelConfig, seed: int, agents: int = 1) -> Any:
    """A fresh model in float64; or a cohort, whose agent p is the model of the seed seed + p."""
    if kind == "cohort":
        return Cohort(config, range(seed, seed + agents))
    if kind == "reference":
        return ReferenceEpisodicLSTM(config, seed).double()
    return EpisodicLSTMComposition(config, seed)


def begin_block(model: Any) -> None:
    """Empty the memory. A composition also drops its ``results`` of earlier blocks: PsyNeuLink adds those of every
    trial, and copies them all in each call to ``learn()``, which would take longer from block to block."""
    model.clear_memory()
    if isinstance(model, pnl.Composition):
        model.parameters.results.set([], model)


def train_block(
    state: RunState,
    name: str,
    settings: RunSettings,
    block: Block,
    *,
    actions: np.ndarray | None = None,
    record_gradients: bool = False,
    after_trial: Callable[[int], None] | None = None,
) -> TrialRecord:
    """Train one of a state's models on one block, from an empty memory; the state keeps the record."""
    model = state.models[name]
    begin_block(model)
    record = train(
        model,
        block.trials,
        actions=actions,
        initial_states=block.initial_states,
        seed=block.seed,
        record_gradients=record_gradients,
        after_trial=after_trial,
        **settings.learning(),
    )
    state.remember(name, {what: getattr(record, what) for what in HISTORY})
    state.last_block[name] = replace(record, gradients=None)
    return record


def train_many(
    state: RunState,
    name: str,
    settings: RunSettings,
    blocks: list[list[Block]],
    *,
    after_trial: Callable[[int], None] | None = None,
) -> None:
    """Train a cohort, or a model in its environments, on one block, from empty memories; a summary is kept.

    Args:
        state: with the model under the name.
        name: the model's.
        settings: of the run.
        blocks: of each agent (outer list) in each of its environments.
        after_trial: as in ``eplstm.models.train``: called with the index of each trial.
    """
    model, options = state.models[name], settings.learning()
    begin_block(model)

    def of_each(part: Callable[[Block], Any]) -> list[Any]:
        return [[part(b) for b in own] if settings.environments > 1 else part(own[0]) for own in blocks]

    trials, states = of_each(lambda b: b.trials), of_each(lambda b: b.initial_states)
    seeds = [own[0].seed for own in blocks]
    if isinstance(model, Cohort):
        counted = None if after_trial is None else _trial_of_all(after_trial, model)
        records = model.train(trials, initial_states=states, seed=seeds, after_trial=counted, **options)
    else:
        given = {"initial_states": states[0], "seed": seeds[0], "after_trial": after_trial}
        records = [train(model, trials[0], **given, **options)]
    state.remember(name, _summary(trials, records))
    state.last_block.pop(name, None)


def _trial_of_all(after_trial: Callable[[int], None], cohort: Cohort) -> Callable[[int], None]:
    """Turns a cohort's count, which goes over the agents part by part, into the index of a trial of all."""
    parts = -(-len(cohort) // CHUNK)
    return lambda done: after_trial(done // parts - 1) if done % parts == 0 else None


def _summary(trials: list[Any], records: list[Any]) -> dict[str, np.ndarray]:
    """The fields of ``SUMMARY``, of one block."""
    kept: dict[str, list[Any]] = {what: [] for what in SUMMARY}
    for shown, found in zip(trials, records, strict=True):
        shown, found = ([each] if not isinstance(each, list) else each for each in (shown, found))
        encounters = np.concatenate([encounters_of(t) for t in shown])
        right = np.concatenate([t.right(r.action) for t, r in zip(shown, found, strict=True)])
        kept["accuracy"].append([mean_and_error(right[encounters == e])[0] for e in np.unique(encounters)])
        for what in ("policy_loss", "value_loss"):
            kept[what].append(np.mean([getattr(r, what) for r in found]))
    return {what: np.array(values) for what, values in kept.items()}


def fresh_accuracy(model: Any, settings: RunSettings, blocks: int) -> Course:
    """Accuracy of trained agents on fresh blocks, without learning: by encounter and step, over agents or trials.

    Each block is shown from an empty memory. The models are left as they are; a composition is run by a cohort
    that its weights are copied to, which computes the same as its ``run()`` and is some hundred times faster.

    Args:
        model: a model or a cohort.
        settings: of its run: agent p sees the fresh blocks that belong to the seed seed + p.
        blocks: how many, for each agent.
    """
    cohort = model if isinstance(model, Cohort) else Cohort.from_models([model])
    tested = Cohort(cohort.config, [0] * len(cohort))
    for agent in range(len(cohort)):
        tested.set_weights(cohort.weights(agent), agent)
    each = [[settings.agent(p).block(index, FRESH) for index in range(blocks)] for p in range(len(cohort))]
    records = tested.run_trials(
        [[block.trials for block in own] for own in each],  # side by side, each with a memory of its own
        initial_states=[[block.initial_states for block in own] for own in each],
        seed=[own[0].seed for own in each],
    )
    return accuracy_by_step(
        [concatenate([block.trials for block in own]) for own in each],
        [TrialRecord.concatenate(found) for found in records],
    )


def train_run(
    path: str | os.PathLike[str],
    kind: ModelKind,
    settings: RunSettings,
    *,
    overwrite: bool = False,
    after_trial: Callable[[int], None] | None = None,
) -> RunState:
    """Train one agent or several in a run folder, or go on with the run that the folder holds.

    Several agents are trained side by side in a ``Cohort``, whichever kind is asked for: ``load_model(path, kind,
    agent=p)`` makes any of them a model of either kind. One agent is trained as a model of its kind: a composition
    through its own ``learn()``, with all environments in one minibatch.

    Args:
        path: the run folder; the model's checkpoint is ``path/trained/reference`` or ``.../composition``.
        kind: which model.
        settings: of task, agent and training.
        overwrite: start anew in place of another run.
        after_trial: called after every trial with the number of trials done so far, of all agents in all
            environments together.

    Raises:
        FileExistsError: the folder holds something else; nothing is changed.
        KeyboardInterrupt: on Ctrl-C; finished blocks are kept, and the message says how to go on.
    """
    folder = RunFolder(path, f"train {kind}", asdict(settings), length="blocks", overwrite=overwrite)

    def train_one(state: RunState) -> None:
        count = counting_from(state.done * 2 * settings.contexts, after_trial)
        if settings.agents == settings.environments == 1:
            train_block(state, kind, settings, settings.block(state.done), after_trial=count)
        else:
            train_many(state, kind, settings, settings.blocks_of_all(state.done), after_trial=count)

    kinds: dict[str, Kind] = {kind: "cohort" if settings.agents > 1 else kind}
    return train_blocks(folder, kinds, {kind: settings.model_config()}, settings, train_one)


def train_blocks(
    folder: RunFolder,
    kinds: dict[str, Kind],
    configs: dict[str, ModelConfig],
    settings: RunSettings,
    train_one: Callable[[RunState], None],
) -> RunState:
    """Train block after block from where a run stands, and keep the state after each.

    Args:
        folder: the run's.
        kinds: name and kind of each model.
        configs: name and configuration of each model.
        settings: of the run.
        train_one: trains the models of the state on the block whose number is ``state.done``.

    Raises:
        KeyboardInterrupt: on Ctrl-C; finished blocks are kept.
        NotFinite: an update would not be finite, as in ``train``; finished blocks are kept.
    """

    def begin() -> RunState:
        return RunState({n: make_model(kinds[n], configs[n], settings.seed, settings.agents) for n in kinds})

    try:
        return go_on(folder, kinds, begin, train_one, lambda state: state.done >= settings.blocks)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Interrupted. {folder.done()} of {settings.blocks} blocks are kept in {folder.path}; give the same "
            "command again to go on."
        ) from None
    except NotFinite as error:
        done = folder.done()
        raise NotFinite(f"Block {done}: {error} The {done} blocks before it are kept in {folder.path}.") from error


def counting_from(before: int, after_trial: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """What to call with the index of a trial in its block, so that ``after_trial`` gets the trials done in all."""
    if after_trial is None:
        return None
    return lambda trial: after_trial(before + trial + 1)
