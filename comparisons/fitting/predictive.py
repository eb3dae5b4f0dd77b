"""Predictive checks: do people who choose as the fitted model says do what the people did?

Free-running: the fitted people choose anew on the stimuli that they saw, at the steps at which they were asked,
with parameters drawn from their posteriors, so that their choices steer the later ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .agent import TrainedAgent
from .observation import Observation
from .results import Fit
from .simulation import draw_choices
from .table.data import NO_CHOICE, Participant
from .variant import Variant


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Share of right choices by encounter (E) and step (T): of people, and of S simulated groups of them."""

    model: str
    encounters: tuple[int, ...]
    people: np.ndarray
    """(P, E, T): of each person; NaN where no choice was made."""
    simulated: np.ndarray
    """(S, P, E, T)"""

    @property
    def observed(self) -> np.ndarray:
        """(E, T): mean over people."""
        return _mean(self.people, 0)

    @property
    def predicted(self) -> np.ndarray:
        """(S, E, T): mean over people, of each simulated group."""
        return _mean(self.simulated, 1)

    def table(self) -> pd.DataFrame:
        """Tidy: a row for each encounter and step; 95 % of simulated groups lie between ``lower`` and ``upper``;
        ``p`` is their share above the observed mean (ties count half): near 0 or 1 where the model fails."""
        predicted, observed = self.predicted, self.observed
        lower, upper = np.nanpercentile(predicted, [2.5, 97.5], axis=0)
        above = (predicted > observed).mean(0) + 0.5 * (predicted == observed).mean(0)
        columns = {
            "people": observed,
            "predicted": _mean(predicted.transpose(1, 2, 0).copy(), -1),
            "lower": lower,
            "upper": upper,
            "p": above,
        }
        where = np.nonzero(np.isfinite(observed))
        table = {"model": self.model, "encounter": np.array(self.encounters)[where[0]], "step": where[1]}
        return pd.DataFrame(table | {name: values[where] for name, values in columns.items()})


def predictive_check(
    fit: Fit,
    variant: Variant,
    agent: TrainedAgent,
    participants: Sequence[Participant],
    *,
    draws: int = 100,
    seed: int = 0,
    observation: Observation | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PredictiveCheck:
    """Let the fitted people choose anew, ``draws`` times.

    Args:
        fit: estimates of all these participants.
        variant: the one that was fitted.
        agent: the network.
        participants: whose stimuli and probes are used; those that could not be fitted are left out.
        draws: simulated groups.
        seed: of parameters and choices.
        observation: as it was fitted.
        progress: called with the number of groups done, and of all.

    Raises:
        ValueError: a participant was not fitted.
    """
    people = [p for p in participants if p.id not in fit.failures]
    missing = sorted({p.id for p in people} ^ set(fit.ids))
    if missing:
        raise ValueError(f"predictive_check: the fit and the data do not hold the same participants: {missing}.")
    people.sort(key=lambda p: fit.ids.index(p.id))
    shown = [[block.trials for block in p.blocks] for p in people]
    probed = [[block.observed for block in p.blocks] for p in people]
    encounters = _encounters(people)
    policies, samples = variant.policies(agent), fit.draws(draws, np.random.default_rng(seed))
    simulated = []
    for n, z in enumerate(samples):
        natural = variant.space.natural_array(z)
        rngs = [np.random.default_rng((seed, n, p)) for p in range(len(people))]
        values = [{**variant.space.fixed, **dict(zip(variant.space.names, v, strict=True))} for v in natural]
        choices = draw_choices(policies, shown, probed, values, rngs, observation)
        simulated.append(_accuracy(people, choices, encounters))
        if progress is not None:
            progress(n + 1, draws)
    observed = _accuracy(people, [[block.choices for block in p.blocks] for p in people], encounters)
    return PredictiveCheck(variant.name, encounters, observed, np.array(simulated))


def _encounters(people: Sequence[Participant]) -> tuple[int, ...]:
    found = {int(e) for p in people for block in p.blocks for e in _encounter_of(block.trials)}
    return tuple(sorted(found))


def _encounter_of(trials) -> np.ndarray:
    return np.ones(len(trials), int) if trials.encounter is None else trials.encounter


def _accuracy(
    people: Sequence[Participant], choices: Sequence[Sequence[np.ndarray]], encounters: tuple[int, ...]
) -> np.ndarray:
    """Share of right choices of each person by encounter and step: (P, E, T)."""
    steps = max(block.trials.length for p in people for block in p.blocks)
    right, made = np.zeros((2, len(people), len(encounters), steps))
    for p, (person, own) in enumerate(zip(people, choices, strict=True)):
        for block, chosen in zip(person.blocks, own, strict=True):
            length = block.trials.length
            for e, encounter in enumerate(encounters):
                rows = _encounter_of(block.trials) == encounter
                made[p, e, :length] += (chosen[rows] != NO_CHOICE).sum(0)
                right[p, e, :length] += (block.trials.right(chosen)[rows] == 1).sum(0)
    return np.divide(right, made, out=np.full(made.shape, np.nan), where=made > 0)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is there; NaN where nothing is."""
    there = np.isfinite(values)
    count = there.sum(axis)
    total = np.where(there, values, 0.0).sum(axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)
