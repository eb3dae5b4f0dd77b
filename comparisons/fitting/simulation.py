"""Simulated people: choices of known parameters in any design, from the likelihood, the reference or PsyNeuLink.

The network's part of a trial does not depend on the choices, so that its policy is had first; lapse, perseveration
and the times of responses are then drawn choice by choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...models.choices import draw, probabilities
from ...models.person import PARAMETERS, Person, with_lost_episodes
from ...tasks.trials import Trials
from .agent import TrainedAgent
from .designs import Design
from .likelihood import Likelihood
from .objective import Objective
from .observation import FreeResponse, Observation
from .parameters import ParameterSpace
from .table.data import NO_CHOICE, ObservedBlock, Participant

OF_CHOICE = ("lapse", "perseveration", "encoding_probability", "bound", "bound_noise", "non_decision_time")
"""Parameters that are drawn here; all others act in the network."""

Values = dict[str, float]
"""Natural values of one person, by parameter."""

Policies = Callable[[list[list[Trials]], list[Values]], list[list[np.ndarray]]]
"""Blocks of each person, and values of each → π_t (n, T, A) of each person and block, without ``OF_CHOICE``."""


def simulate_people(
    agent: TrainedAgent,
    design: Design,
    space: ParameterSpace,
    z: np.ndarray,
    seed: int,
    *,
    observation: Observation | None = None,
    policies: Policies | None = None,
    ids: Sequence[str] | None = None,
) -> list[Participant]:
    """Choices of P people in a design.

    Args:
        agent: the trained network that they share.
        design: blocks, contexts, probes; its sizes must be the agent's.
        space: which parameters ``z`` holds, and what the others are.
        z: (P, k), unconstrained.
        seed: of stimuli and choices; person p draws from (seed, p), so that more people leave the first unchanged.
        observation: a choice at each probed step (default), or one free response a trial.
        policies: where the network's policies are from: ``policies_of(model)`` takes a composition or a reference.
            By default those of the likelihood.
        ids: of the participants; by default p001, p002, ...

    Raises:
        ValueError: sizes do not agree.
    """
    z = np.asarray(z, dtype=float)
    if z.ndim != 2 or z.shape[1] != len(space):
        raise ValueError(f"simulate_people: z must be (P, {len(space)}) for {space.names}; got {z.shape}.")
    ids = [f"p{p + 1:03d}" for p in range(len(z))] if ids is None else list(ids)
    task = design.task()
    if task.input_size != agent.config.input_size:
        raise ValueError(
            f"simulate_people: the design has {task.input_size} input columns, the agent takes "
            f"{agent.config.input_size}: choose obs_dim={agent.config.input_size // 2}."
        )
    rngs = [np.random.default_rng((seed, p)) for p in range(len(z))]
    shown = [design.sample(rng) for rng in rngs]
    probed = [[design.probed(trials, rng) for trials in blocks] for blocks, rng in zip(shown, rngs, strict=True)]
    values = [{**space.fixed, **dict(zip(space.names, row, strict=True))} for row in space.natural_array(z)]
    choices = draw_choices(policies or policies_of_agent(agent), shown, probed, values, rngs, observation)
    return [observed(*each) for each in zip(ids, shown, choices, strict=True)]


def draw_choices(
    policies: Policies,
    shown: list[list[Trials]],
    probed: list[list[np.ndarray]],
    values: list[Values],
    rngs: Sequence[np.random.Generator],
    observation: Observation | None = None,
) -> list[list[np.ndarray]]:
    """What each person chooses on the blocks shown to them: of each (n, T) int, -1 where there is no choice.

    ``probed``: (n, T) bool of each block, where a choice is asked for; not used by free responses. The rest is as
    in ``simulate_people``.
    """
    seen = [[_as_seen(b, v, rng) for b in blocks] for blocks, v, rng in zip(shown, values, rngs, strict=True)]
    found = policies(seen, values)
    if isinstance(observation, FreeResponse):
        return [[_responses(p, v, rng) for p in own] for own, v, rng in zip(found, values, rngs, strict=True)]
    return [
        [_step_choices(p, asked, v, rng) for p, asked in zip(own, masks, strict=True)]
        for own, masks, v, rng in zip(found, probed, values, rngs, strict=True)
    ]


def _as_seen(trials: Trials, values: Values, rng: np.random.Generator) -> Trials:
    """The trials of somebody who has encoded only some of the episodes."""
    encoded = rng.random(len(trials)) < values.get("encoding_probability", 1.0)
    return trials if encoded.all() else with_lost_episodes(trials, encoded)


# ---- policies ----------------------------------------------------------------------------------------


def policies_from(make: Callable[[list[Participant], ParameterSpace], Objective]) -> Policies:
    """Those of an objective, which is made of people whose choices do not matter; of all people together."""

    def policies(seen: list[list[Trials]], values: list[Values]) -> list[list[np.ndarray]]:
        space = ParameterSpace.of(*(name for name in (values[0] if values else ()) if name not in OF_CHOICE))
        natural = np.array([[v[name] for name in space.names] for v in values]).reshape(len(seen), len(space))
        people = [
            observed(str(p), blocks, [np.where(b.asks, 0, NO_CHOICE) for b in blocks])
            for p, blocks in enumerate(seen)
        ]
        return make(people, space).policies(space.unconstrained_array(natural))

    return policies


def policies_of_agent(agent: TrainedAgent) -> Policies:
    """Those of the likelihood."""
    return policies_from(lambda people, space: Likelihood(agent, people, space))


def observed(id: str, blocks: Sequence[Trials], choices: Sequence[np.ndarray]) -> Participant:
    """Somebody who has seen these blocks, numbered from 0, and chosen so."""
    each = enumerate(zip(blocks, choices, strict=True))
    return Participant(id, tuple(ObservedBlock(trials, own, number=k) for k, (trials, own) in each))


def policies_of(model: Any) -> Policies:
    """Those of an ``EpisodicLSTMComposition`` or a double ``ReferenceEpisodicLSTM``; it is left as found."""
    run = getattr(model, "simulate", model.run_trials)

    def of_block(trials: Trials) -> np.ndarray:
        model.clear_memory()
        start = np.zeros((len(trials), model.config.hidden_size))
        return run(trials, actions=np.zeros_like(trials.targets), initial_states=(start, start)).policy

    def policies(seen: list[list[Trials]], values: list[Values]) -> list[list[np.ndarray]]:
        person, entries = model.person, model.memory()
        try:
            found = []
            for blocks, v in zip(seen, values, strict=True):
                own = {name: value for name, value in v.items() if name not in OF_CHOICE}
                model.person = Person(**own, context_columns=person.context_columns)
                found.append([of_block(trials) for trials in blocks])
            return found
        finally:
            model.person = person
            model.set_memory(*entries)

    return policies


# ---- choices -----------------------------------------------------------------------------------------


def choice_probabilities(policy: np.ndarray, values: Values) -> np.ndarray:
    """p_t from π_t without ``OF_CHOICE``: (n, T, A) → (A + 1, n, T, A), after no choice and after each."""
    n_actions = policy.shape[-1]
    own = {name: values[name] for name in OF_CHOICE if name in PARAMETERS and name in values}
    last = np.arange(NO_CHOICE, n_actions)[:, None, None]
    with np.errstate(divide="ignore"):
        p = probabilities(Person(**own), np.log(policy), last)  # type: ignore[arg-type]
    return np.broadcast_to(p, (n_actions + 1, *policy.shape))


def _step_choices(policy: np.ndarray, probed: np.ndarray, values: Values, rng: np.random.Generator) -> np.ndarray:
    """A choice at each probed step: (n, T), -1 elsewhere."""
    choices, last, p = np.full(probed.shape, NO_CHOICE), NO_CHOICE, choice_probabilities(policy, values)
    for n, t in np.argwhere(probed):
        last = choices[n, t] = draw(p[last - NO_CHOICE, n, t], np.array(rng.random()))
    return choices


def _responses(policy: np.ndarray, values: Values, rng: np.random.Generator) -> np.ndarray:
    """One response a trial at most, at the step at which it is given: (n, T), -1 elsewhere."""
    n, length = policy.shape[:2]
    choices, last, after = np.full((n, length), NO_CHOICE), NO_CHOICE, choice_probabilities(policy, values)
    whole, fraction = divmod(values["non_decision_time"], 1.0)
    for trial in range(n):
        p = after[last - NO_CHOICE, trial]
        hazard = 1 / (1 + np.exp(-(p.max(-1) - values["bound"]) / values["bound_noise"]))
        decides = np.flatnonzero(rng.random(length) < hazard)
        delay = int(whole) + int(rng.random() < fraction)
        if len(decides) and decides[0] + delay < length:
            last = choices[trial, decides[0] + delay] = draw(p[decides[0]], np.array(rng.random()))
    return choices
