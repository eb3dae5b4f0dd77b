"""Trials and episodes in PyTorch mode, without learning, by either path: the numbers of ``running``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .backend import NotTrainable, RecurrentWrapper
from .choices import ChoicesOfTrials, probabilities_of_block
from .fast_path import FastPath
from .in_steps import InSteps
from .paths import AgentPaths
from .person_in_graph import PersonInGraph
from .plans import Plan
from .retrievals import Retrievals
from .trials_in_graph import first_states, inputs_of_trials, lesioned, record_of_run, values_of_nodes

SIDE_BY_SIDE = 256
"""Most trials that are run side by side."""

Part = dict[str, np.ndarray]
"""What a record has of some trials."""


def simulate_trials(paths: AgentPaths, plan: Plan, context: Any) -> Any:
    """Run the trials of a plan for who stands in an execution context; a ``TrialRecord``.

    Raises:
        NotTrainable: the graph cannot be executed in PyTorch mode.
    """
    person = paths.person
    wrapper, is_fast = paths.to_simulate(context)
    arrays = inputs_of_trials(person, plan.seen, plan.actions)
    inputs = {node: torch.from_numpy(values.astype(float)) for node, values in arrays.items()}
    with torch.no_grad(), lesioned(person.graph, plan.trials):
        if is_fast:
            path = FastPath(person, wrapper, context, shared_memory=True)
            parts = _side_by_side(path, inputs, plan, context)
        else:
            parts = _one_by_one(person, wrapper, inputs, plan, context)
    return record_of_run(person.graph, plan, parts)


def simulate_episodes(paths: AgentPaths, plan: Plan, context: Any) -> Any:
    """Run the episodes of a plan, those of all worlds side by side, likewise; an ``EpisodeRecord``."""
    person, worlds, interaction = paths.person, plan.environments, plan.interaction
    assert interaction is not None
    wrapper, is_fast = paths.to_simulate(context)
    path = FastPath(person, wrapper, context) if is_fast else InSteps(person, wrapper)
    blank = inputs_of_trials(person, plan.trials[:worlds])
    inputs = {node: torch.tensor(values) for node, values in blank.items()}  # what is shown is put there
    parts, retrievals = [], Retrievals(person.graph, context)
    with torch.no_grad():
        for first in range(0, len(plan.trials), worlds):
            before = first_states(person.graph, plan, slice(first, first + worlds))
            interaction.begin(first)
            with retrievals.of(first):
                if isinstance(path, FastPath):
                    parts.append(path.run_episode(interaction, before).record())
                else:
                    values = path.episode(interaction, inputs, before).trajectory
                    parts.append(_part(person, values, retrievals))
    return record_of_run(person.graph, plan, parts)


def _side_by_side(path: FastPath, inputs: Mapping[Any, Tensor], plan: Plan, context: Any) -> list[Part]:
    """Trials that store nothing run side by side, the others one by one."""
    graph, trials = path.graph, plan.trials
    parts, places, retrievals = [], [], Retrievals(graph, context)
    logits = np.zeros((*plan.luck.shape, graph.config.n_actions))
    stores = np.asarray(trials.encode.any(1)) & graph.has_memory
    start = 0
    while start < len(stores):
        following = np.flatnonzero(stores[start : start + SIDE_BY_SIDE])
        stop = start + (max(int(following[0]), 1) if len(following) else SIDE_BY_SIDE)
        rows = slice(start, min(stop, len(stores)))
        here = rows, slice(0, trials.longest(rows))
        some = {node: values[here] for node, values in inputs.items()}
        with retrievals.of(rows.start):
            engine = path.run(some, first_states(graph, plan, rows))
        parts.append(engine.record())
        places.append(here)
        logits[here] = engine.logits[:, 0].transpose(2, 0, 1)
        start = rows.stop
    person = path.person_in_graph.of(context)
    if person.changed:
        policy = probabilities_of_block(person, logits, plan.actions, plan.luck, trials.asks)
        for part, here in zip(parts, places, strict=True):
            part["policy"] = policy[here]
    return parts


def _one_by_one(
    person: PersonInGraph, wrapper: RecurrentWrapper, inputs: Mapping[Any, Tensor], plan: Plan, context: Any
) -> list[Part]:
    """By PsyNeuLink's own execution; where each choice is part of the next step's input, step by step."""
    free = person.of(context).perseveration != 0 and plan.actions is None
    if free and wrapper.nested:
        raise NotTrainable(
            f"'{wrapper.composition.name}' holds other compositions and stands for a person with perseveration: "
            "simulate() cannot draw its choices one by one. Use run_trials(), or give actions."
        )
    parts, choices, in_steps = [], ChoicesOfTrials((1,)), InSteps(person, wrapper)
    retrievals = Retrievals(person.graph, context)
    for n in range(len(plan.trials)):
        row = slice(n, n + 1)
        before, here = first_states(person.graph, plan, row), (row, slice(0, plan.trials.longest(row)))
        some = {node: values[here] for node, values in inputs.items()}
        with retrievals.of(n):
            if free:
                choices.begin(plan.luck[row], plan.trials.asks[row], None)
                trace = in_steps.trials(choices, some, before)
            else:
                trace = wrapper.execute_sequences(some, before)
            parts.append(_part(person, trace.trajectory, retrievals))
    return parts


def _part(person: PersonInGraph, values: Mapping[Any, Tensor], retrievals: Retrievals) -> Part:
    """What a record has, from each node's value (B, T, size)."""
    found = values_of_nodes(person.graph, lambda node: values[node].numpy(), person.policy_node)
    return found | retrievals.of_trials(values)
