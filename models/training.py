"""Training: the given trials in the given order, one optimiser step a trial, for either model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..tasks.trials import Trials
from .losses import Loss, LossSettings
from .optimizers import OptimizerName, check_optimizer, check_rate
from .people import as_people
from .plans import Update, check_update, plan_environments, plan_trials
from .plans_in_loop import plan_episodes
from .records import Record, check_record

if TYPE_CHECKING:
    from ..tasks.environment import Worlds
    from .composition import EpisodicLSTMComposition
    from .person import Person
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
    unroll_steps: int | None = None,
    update: Update = "trial",
    through_memory: bool = False,
    people: Person | Sequence[Person] | None = None,
    optimizer: OptimizerName = "adam",
    record: Record = "all",
    after_trial: Callable[[int], None] | None = None,
) -> Any:
    """Train a model on trials, in their order, with one step of the optimiser after each.

    A composition is trained by its own ``learn()`` in PsyNeuLink's PyTorch mode. The optimiser's state goes on
    from call to call, and so does the memory: clear it with ``model.clear_memory()`` where a block begins. From
    one optimiser to the other the state cannot go on: ``model.set_optimizer_state({})`` begins anew.

    A list of ``Trials`` is a list of environments, copies of the task that run in parallel: trial k of all of
    them together makes one update, from the mean of their losses (A2C; Mnih et al., 2016). Each environment has
    an episodic memory of its own; ``model.memory(environment=e)`` shows it.

    Args:
        model: the reference or the composition.
        trials: n trials of T steps; or a list of them, one item an environment, equally many in each.
        learning_rate: the optimiser's (dnd-lstm: 5e-4, of Adam).
        gamma: discount of later rewards (dnd-lstm: 0).
        actions: (n, T) forced choices, not looked at where no answer is asked for; without them they are drawn
            from the policy. With environments, a list.
        initial_states: h0 (n, H) and c0 (n, H); without them drawn from 0.1 · N(0, 1). With environments, a list.
        seed: for what is drawn; the same seed gives both models the same draws.
        record_gradients: keep each trial's gradients, by the names of ``weights()``.
        loss: ``actor_critic``, ``cross_entropy`` (to the target), or a function of ``TrialTensors``.
        entropy_weight: weight of an entropy bonus in the actor-critic loss.
        value_weight: weight of the critic's loss.
        unroll_steps: truncated backpropagation through time, in stretches of so many steps, with the critic's
            expectation for what follows (see ``LossSettings``); None: back through the whole trial.
        update: ``trial``; or ``block``: one update from all these trials, from the mean of their losses.
        through_memory: whether gradients flow from what is retrieved to what was stored for the same update. They
            teach an agent to keep in c_t what later trials will need; with ``update="trial"`` they stay within a
            trial.
        people: who chooses in each environment, one ``Person`` each (alone, if there is but one environment);
            None: the trained agent itself. The network is trained under their parameters: choices are drawn from
            their p_t, which takes π_t's place in the loss, too, and gradients flow through all of their places.
            The last choice goes on from trial to trial within this call. With an ``encoding_probability`` < 1, it
            is drawn for each trial whether its episode is encoded; the trials must say which context they show.
        optimizer: ``adam`` (dnd-lstm), or ``rmsprop``, that of A2C (α = .99, ε = 1e-5; see ``optimizers``).
        record: ``all``; or ``behavior``, without the states (hidden, cell, memory, gates, what was retrieved), as
            arrays without columns: with many trials they are large.
        after_trial: called with the trial's index after each update (progress, or raising to stop).

    Returns:
        What happened on each trial, a ``TrialRecord`` with ``policy_loss`` and ``value_loss``; with environments a
        list of them (``gradients`` are those of the updates, the same in each).

    Raises:
        NotFinite: an update would not be finite: it is not made, and the model is as the last one has left it.
        TypeError: people are not ``Person``.
        ValueError: sizes or values do not fit the model, or it has been trained with the other optimiser; there
            are not as many people as environments, or a parameter has no place in this model.
    """
    check_training(learning_rate, optimizer, record, update)
    settings = LossSettings(loss, gamma, entropy_weight, value_weight, unroll_steps, through_memory)
    if isinstance(trials, (list, tuple)):
        plan = plan_environments(model.config, trials, actions, initial_states, seed, people)
    else:
        (person,) = as_people(people, 1, model.config)
        plan = plan_trials(model.config, cast(Trials, trials), actions, initial_states, seed, person=person)
    if update == "block":
        plan = plan.in_one_update()
    found = model.learn_trials(
        plan,
        learning_rate=learning_rate,
        loss=settings,
        optimizer=optimizer,
        record_gradients=record_gradients,
        after_trial=after_trial,
        record=record,
    )
    if isinstance(trials, (list, tuple)):
        return [found.of_environment(e, plan.environments) for e in range(plan.environments)]
    return found


def train_episodes(
    model: ReferenceEpisodicLSTM | EpisodicLSTMComposition,
    worlds: Worlds,
    episodes: int,
    *,
    epochs: int = 1,
    learning_rate: float = 1e-3,
    gamma: float = 0.9,
    entropy_weight: float = 0.05,
    value_weight: float = 0.5,
    unroll_steps: int | None = None,
    update: Update = "trial",
    through_memory: bool = False,
    people: Person | Sequence[Person] | None = None,
    max_gradient_norm: float | None = None,
    actions: Any = None,
    seed: int | Sequence[int] | None = None,
    record_gradients: bool = False,
    loss: Loss = "actor_critic",
    optimizer: OptimizerName = "adam",
    record: Record = "all",
    after_episode: Callable[[int], None] | None = None,
) -> Any:
    """Train a model on the next episodes of an epoch, the environment in the loop: one update an episode.

    A composition is trained by its own ``learn()`` in PsyNeuLink's PyTorch mode. Each update is of one episode of
    all worlds, from the mean of their losses (A2C; Mnih et al., 2016). World e has the memory of environment e. An
    epoch begins with ``worlds.begin_epoch()`` and ``model.clear_memory()``; this call begins all but the first.

    Args:
        model: the reference or the composition.
        worlds: M worlds of a task.
        episodes: of each world, in each epoch; no more than the epoch has left.
        epochs: one after the other; a call of ``learn()`` costs some 70 ms, which short epochs can share.
        learning_rate: the optimiser's.
        gamma: discount of later rewards.
        entropy_weight: weight of an entropy bonus in the actor-critic loss.
        value_weight: weight of the critic's loss.
        unroll_steps: truncated backpropagation through time, in stretches of so many steps, with the critic's
            expectation for what follows (see ``LossSettings``); None: back through the whole episode.
        update: ``trial``: one an episode; or ``block``: one an epoch, from the mean of all its losses.
        through_memory: as in ``train``.
        people: who acts in each world, as in ``train``. The last choice goes on from step to step and from episode
            to episode, until another epoch begins. With an ``encoding_probability`` < 1, it is drawn for each
            episode whether it is encoded (see ``person``).
        max_gradient_norm: gradients of all weights together are scaled down to this norm; None: as they are.
        actions: (epochs · episodes · M, T) forced choices, row k · M + e that of episode k of world e.
        seed: for what is drawn: initial states and choices.
        record_gradients: keep each update's gradients, by the names of ``weights()``.
        loss: ``actor_critic``, or a function of ``TrialTensors``; its targets are the actions taken.
        optimizer: ``adam``, or ``rmsprop``, that of A2C, as in ``train``.
        record: ``all``, or ``behavior``, as in ``train``: a long epoch of many worlds takes a tenth less time.
        after_episode: called with the number of the update, from 0.

    Returns:
        An ``EpisodeRecord`` with ``policy_loss`` and ``value_loss``.

    Raises:
        NotFinite: as in ``train``.
        TypeError: as in ``train``.
        ValueError: model and task do not fit each other, the epoch has not so many episodes left, a value is
            outside its range, the people do not fit as in ``train``, or the model has been trained with the other
            optimiser.
    """
    check_training(learning_rate, optimizer, record, update)
    check_loop_training(loss, max_gradient_norm)
    plan = plan_episodes(model.config, worlds, episodes, actions, seed, epochs, model.clear_memory, people)
    return model.learn_trials(
        plan.in_one_update(epochs) if update == "block" else plan,
        learning_rate=learning_rate,
        loss=LossSettings(loss, gamma, entropy_weight, value_weight, unroll_steps, through_memory),
        optimizer=optimizer,
        max_gradient_norm=max_gradient_norm,
        record_gradients=record_gradients,
        after_trial=after_episode,
        record=record,
    )


def check_training(learning_rate: Any, optimizer: Any, record: Any, update: Any) -> None:
    """Raise ValueError unless these arguments of ``train`` and ``train_episodes`` are what they may be."""
    check_rate(learning_rate)
    check_optimizer(optimizer)
    check_record(record)
    check_update(update)


def check_loop_training(loss: Loss, max_gradient_norm: float | None) -> None:
    """Raise ValueError unless these of ``train_episodes`` are."""
    if loss == "cross_entropy":
        raise ValueError(
            "train_episodes: loss='cross_entropy' needs the right actions, which a task in the loop does not "
            "tell. Use 'actor_critic', or a function of TrialTensors."
        )
    if max_gradient_norm is not None and not 0 < max_gradient_norm < np.inf:
        raise ValueError(f"max_gradient_norm must be a finite number > 0, or None; got {max_gradient_norm!r}.")
