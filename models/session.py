"""One call to an agent's ``learn()``: initial states, choices, loss, and the record of what happened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .backend import Session
from .choices import ChoicesOfTrials
from .config import ModelConfig
from .losses import LossSettings, NotFinite, Outcome, Slopes, losses, losses_and_slopes, not_finite, trial_tensors
from .person_in_graph import PersonInGraph
from .plans import Plan
from .records import STATES, Record, TrialRecord, build_record
from .trials_in_graph import first_states, inputs_of_trials, values_of_nodes


class TrialSession(Session):
    """The trials of a plan.

    Args:
        person: in the graph of the agent.
        plan: its trials, or episodes.
        settings: of the loss.
        gradients: whether the record is to have them.
        record: whether it is to have the states.
        max_gradient_norm: as of ``train_episodes``.
    """

    def __init__(
        self,
        person: PersonInGraph,
        plan: Plan,
        settings: LossSettings,
        gradients: bool = False,
        record: Record = "all",
        max_gradient_norm: float | None = None,
    ) -> None:
        self.person, self._policy_node = person, person.policy_node
        self.graph, self.plan, self.settings = person.graph, plan, settings
        self.wants_gradients, self.max_gradient_norm = gradients, max_gradient_norm
        if plan.interaction is not None:  # one blank input for each update spares PsyNeuLink's work with them
            self.width = plan.per_update
        self.unroll_steps, self.through_memory = settings.unroll_steps, settings.through_memory
        self.people = plan.people if plan.of_others else None
        """Who chooses in each environment; None: the trained agent in all."""
        self.choices = None if self.people is None else ChoicesOfTrials((len(self.people),))
        """What these have chosen so far, on trials that are given."""
        self.slopes: Slopes | None = None
        """Derivatives of the loss of the last minibatch, on the fast path."""
        self.keeps_states = record == "all"
        """Whether the record has the states."""
        self._now: tuple[dict[str, np.ndarray], np.ndarray] | None = None
        self._parts: list[dict[str, np.ndarray]] = []
        self._losses: list[np.ndarray] = []
        self._gradients: list[dict[str, np.ndarray]] = []

    @property
    def config(self) -> ModelConfig:
        """The agent's."""
        return self.graph.config

    def inputs(self, epochs: int) -> dict[Any, np.ndarray]:
        """What ``learn()`` is given for so many passes: {node: (n, T, size)}."""
        once = self.plan.seen[: len(self.plan.trials) // epochs : self.width]
        return inputs_of_trials(self.person, once)

    def begin(self, which: range) -> dict[Any, Tensor]:
        """h0 and c0 of these trials, which begin, or of the next episode, which does."""
        plan, rows = self.plan, slice(which.start, which.stop)
        if plan.interaction is not None:
            plan.interaction.begin(which.start)
        elif self.choices is not None:
            forced = None if plan.actions is None else plan.actions[rows]
            self.choices.begin(plan.luck[rows], plan.trials.asks[rows], forced)
        return first_states(self.graph, plan, rows)

    def rounds(self, which: range) -> list[range]:
        """Trial k of all environments side by side, one k after the other."""
        together = self.plan.environments
        if self.plan.block == 1:
            return [which]
        return [range(first, first + together) for first in range(which.start, which.stop, together)]

    def lengths(self, which: range) -> np.ndarray | None:
        """Steps of each of these trials, where they differ."""
        lengths = self.plan.trials.lengths
        return None if lengths is None else lengths[which.start : which.stop]

    def loss(self, which: range, values: Mapping[Any, Tensor]) -> Tensor:
        """General path: the loss as a tensor through which gradients flow to PsyNeuLink's parameters."""
        found = values_of_nodes(self.graph, values.__getitem__, self._policy_node)
        part = {name: value.detach().numpy() for name, value in found.items()}
        outcome = self._outcome(which, part)
        actor, critic = losses(trial_tensors(found, outcome, self.settings), self.settings)
        self._now = part, np.stack([actor.detach().numpy(), critic.detach().numpy()], axis=1)
        return (actor + self.settings.value_weight * critic).mean()

    def loss_and_slopes(self, which: range, part: dict[str, np.ndarray]) -> float:
        """Fast path: the loss as a number, from what a record has; its derivatives are in ``slopes``."""
        outcome = self._outcome(which, part)
        actor, critic, slopes = losses_and_slopes(
            part["policy"], part["value"], outcome, self.settings, part["hidden"], part["cell"]
        )
        self.slopes = slopes / len(which) if len(which) > 1 else slopes  # the mean over environments
        self._now = part, np.stack([actor, critic], axis=1)
        return float((actor + self.settings.value_weight * critic).mean())

    def _outcome(self, which: range, part: dict[str, np.ndarray]) -> Outcome:
        """What is done on these trials, and what it earns; a record has both."""
        outcome = self.plan.outcome(slice(which.start, which.stop), part["policy"])
        part["action"], part["reward"] = outcome.action, outcome.reward
        return outcome

    def add_retrieved(self, retrieved: Mapping[str, np.ndarray]) -> None:
        """General path: what was retrieved on these trials, by the names of a record."""
        assert self._now is not None
        self._now[0].update(retrieved)

    def before_update(self, gradients: Mapping[Any, np.ndarray]) -> None:
        """Take the gradients of the update that is about to be made."""
        named = {key: gradients[p] for key, p in self.graph.learned.items() if p in gradients}
        self._gradients.append(self.graph.as_weights(named))

    def not_finite(self, which: range, gradients: list[str]) -> NotFinite:
        """What to raise where an update is not finite: which trial, of which environment, and why."""
        assert self._now is not None
        return not_finite(self._now[1], gradients, which, self.plan.environments, self.settings)

    def after_update(self) -> None:
        """The update of the last minibatch has been made: it belongs to the record."""
        assert self._now is not None
        part, of_part = self._now
        left_out = () if self.keeps_states else STATES
        self._parts.append({name: array for name, array in part.items() if name not in left_out})
        self._losses.append(of_part)

    def record(self) -> TrialRecord:
        """What happened on the trials trained so far."""
        gradients = self._gradients[: len(self._parts)] if self.wants_gradients else None
        return build_record(self.config, self.plan, self._parts, self._losses, gradients)
