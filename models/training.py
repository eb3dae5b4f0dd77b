"""Training: the given trials in the given order, one optimiser step a trial, for either model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..tasks.trials import Trials
from .losses import Loss, LossSettings
from .records import plan_environments, plan_trials

if TYPE_CHECKING:
    from .composition import EpisodicLSTMComposition
    from .reference import ReferenceEpisodicLSTM


def train(
    model: ReferenceEpisodicLSTM | EpisodicLSTMComposition,
    trials: Trials | Sequence[Trials],
    *,
    learning_rate: float = 5e-4,
    gamma: float = 0.0,
    actions: Any = None,
    initial_states: Any = None,
    seed: int | None = None,
    record_gradients: bool = False,
    loss: Loss = "actor_critic",
    entropy_weight: float = 0.0,
    value_weight: float = 1.0,
    after_trial: Callable[[int], None] | None = None,
) -> Any:
    """Train a model on trials, in their order, with one step of Adam after each.

    A composition is trained by its own ``learn()`` in PsyNeuLink's PyTorch mode. The optimiser's state goes on
    from call to call, and so does the memory: clear it with ``model.clear_memory()`` where a block begins.

    A list of ``Trials`` is a list of environments, copies of the task that run in parallel: trial k of all of
    them together makes one update, from the mean of their losses (A2C; Mnih et al., 2016). Each environment has
    an episodic memory of its own; ``model.memory(environment=e)`` shows it.

    Args:
        model: the reference or the composition.
        trials: n trials of T steps; or a list of them, one item an environment, equally many in each.
        learning_rate: Adam's (dnd-lstm: 5e-4).
        gamma: discount of later rewards (dnd-lstm: 0).
        actions: (n, T) forced choices; without them they are drawn from the policy. With environments, a list.
        initial_states: h0 (n, H) and c0 (n, H); without them drawn from 0.1 · N(0, 1). With environments, a list.
        seed: for what is drawn; the same seed gives both models the same draws.
        record_gradients: keep each trial's gradients, by the names of ``weights()``.
        loss: ``actor_critic``, ``cross_entropy`` (to the target), or a function of ``TrialTensors``.
        entropy_weight: weight of an entropy bonus in the actor-critic loss.
        value_weight: weight of the critic's loss.
        after_trial: called with the trial's index after each update (progress, or raising to stop).

    Returns:
        What happened on each trial, a ``TrialRecord`` with ``policy_loss`` and ``value_loss``; with environments a
        list of them (``gradients`` are those of the updates, the same in each).

    Raises:
        ValueError: sizes or values do not fit the model.
    """
    if not isinstance(learning_rate, (int, float, np.number)) or not 0 <= learning_rate < np.inf:
        raise ValueError(f"learning_rate must be a finite number ≥ 0; got {learning_rate!r}.")
    settings = LossSettings(loss, gamma, entropy_weight, value_weight)
    if isinstance(trials, (list, tuple)):
        plan = plan_environments(model.config, trials, actions, initial_states, seed)
    else:
        plan = plan_trials(model.config, cast(Trials, trials), actions, initial_states, seed)
    record = model.learn_trials(
        plan,
        learning_rate=learning_rate,
        loss=settings,
        record_gradients=record_gradients,
        after_trial=after_trial,
    )
    if isinstance(trials, (list, tuple)):
        return [record.of_environment(e, plan.environments) for e in range(plan.environments)]
    return record
