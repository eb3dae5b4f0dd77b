"""Trials and episodes in PsyNeuLink's Python mode: one ``run()``, a PsyNeuLink trial a step."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .backend import start_from, value_of
from .choices import ChoicesOfTrials
from .person_in_graph import PersonInGraph
from .plans import Plan
from .retrievals import Retrievals
from .trials_in_graph import inputs_of_step, inputs_of_trials, lesioned, record_of_run, values_of_nodes

InputsOfStep = Callable[[int, int], Mapping[Any, np.ndarray]]
"""Trial and step → {node: (1, size)}."""


def run_trials(person: PersonInGraph, plan: Plan, context: Any) -> Any:
    """Run the trials of a plan for who stands in an execution context; a ``TrialRecord``."""
    trials = plan.trials
    if not trials.targets.size:
        return record_of_run(person.graph, plan, [])
    given = inputs_of_trials(person, plan.seen, plan.actions)
    with lesioned(person.graph, trials):
        if plan.actions is not None or person.of(context).perseveration == 0:
            return _run(person, plan, {node: values[trials.exists] for node, values in given.items()}, context)
        choices = ChoicesOfTrials((1,))  # the choice just made is a part of the next input

        def input_of_step(n: int, t: int) -> dict[Any, np.ndarray]:
            if t == 0:
                choices.begin(plan.luck[n : n + 1], trials.asks[n : n + 1], None)
            return {node: values[n, t : t + 1] for node, values in given.items()} | person.inputs(
                choices.last_choice
            )

        return _run(person, plan, input_of_step, context, choices.act)


def run_episodes(person: PersonInGraph, plan: Plan, context: Any) -> Any:
    """Run the episodes of a plan of one world, likewise; an ``EpisodeRecord``."""
    interaction = plan.interaction
    assert interaction is not None

    def input_of_step(n: int, t: int) -> dict[Any, np.ndarray]:
        if t == 0:
            interaction.begin(n)
        return inputs_of_step(person, interaction)

    return _run(person, plan, input_of_step, context, interaction.act)


def _run(
    person: PersonInGraph,
    plan: Plan,
    inputs: Mapping[Any, np.ndarray] | InputsOfStep,
    context: Any,
    act: Callable[[np.ndarray], object] | None = None,
) -> Any:
    """Run all steps of a plan in one ``run()``; the record.

    Args:
        person, plan, context: as of ``run_trials``.
        inputs: {node: (steps, size)}, or those of each step, asked for before it.
        act: takes p_t (1, A) after each step.
    """
    graph, exists = person.graph, plan.trials.exists
    composition: Any = graph.composition
    places, steps, retrievals = np.argwhere(exists), [], Retrievals(graph, context)

    def begin() -> None:
        n, t = places[len(steps)]
        if t == 0:
            retrievals.go_on(int(n))
            start_from(composition, {graph.hidden: plan.h0[n], graph.cell: plan.c0[n]}, context)

    def keep() -> None:
        def now(node: Any) -> np.ndarray:
            return value_of(node, context)

        steps.append(values_of_nodes(graph, now, person.policy_node) | retrievals.of_step(now))
        if act is not None:
            act(steps[-1]["policy"][None])

    def asked_for(step: int) -> Mapping[Any, np.ndarray]:
        found = inputs(*places[step])  # type: ignore[operator]
        if composition.is_nested:  # from a function it takes them by port
            return {getattr(node, "input_port", node): values for node, values in found.items()}
        return found

    with retrievals.of(0):
        composition.run(
            inputs=asked_for if callable(inputs) else inputs,
            num_trials=len(places),
            call_before_trial=begin,
            call_after_trial=keep,
            context=context.execution_id,
        )
    whole = {name: np.zeros((*exists.shape, *np.shape(value))) for name, value in steps[0].items()}
    for name, values in whole.items():
        values[exists] = [step[name] for step in steps]  # zeros beyond the ends of trials
    return record_of_run(graph, plan, [whole])
