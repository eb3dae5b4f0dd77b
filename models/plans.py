"""What goes into a pass over trials or episodes: all that chance or the caller decides, settled beforehand.

``plan_trials`` checks a user's trials, forced actions and initial states against a model, and draws what is not
forced; ``plan_environments`` does so for several environments, ``plan_run`` for a person, ``plan_passes`` for
several passes. Episodes in worlds have theirs in ``plans_in_loop``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..tasks.trials import Trials, concatenate, earned
from .choices import NO_CHOICE, draw
from .config import ModelConfig
from .losses import Outcome
from .people import as_people
from .person import Person, with_lost_episodes
from .source import Interaction

INITIAL_STATE_SCALE = 0.1
"""Standard deviation of h0 and c0 (dnd-lstm)."""


Update = Literal["trial", "block"]
"""What makes one update: trial k of all environments, or all trials of the block."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Trials with everything that chance or the caller decides settled beforehand."""

    trials: Trials
    actions: np.ndarray | None
    """(n, T) int: forced actions, -1 for none; or None where the model chooses."""
    luck: np.ndarray
    """(n, T) in [0, 1): decides each choice through the inverse of the policy's distribution function."""
    h0: np.ndarray
    """(n, H)"""
    c0: np.ndarray
    """(n, H)"""
    environments: int = 1
    """Copies of the task that run in parallel, M: row k · M + e is trial k of environment e."""
    interaction: Interaction | None = None
    """Where the environment is in the loop: what it shows takes the place of the trials', which are blank."""
    encoded: np.ndarray | None = None
    """(n,) bool: whether the episode of each trial is encoded; None: all are."""
    block: int = 1
    """Trials of each environment that make one update together."""
    people: tuple[Person, ...] = (Person(),)
    """Who chooses in each environment, unless it is the trained agent in all."""
    agent: int = 0
    """Which agent of the interaction it is for."""

    @property
    def per_update(self) -> int:
        """Rows of one update."""
        return self.environments * self.block

    def in_one_update(self, epochs: int = 1) -> Plan:
        """The same with one update from all trials, or from all of an epoch."""
        return replace(self, block=max(1, len(self.trials) // (self.environments * epochs)))

    @property
    def seen(self) -> Trials:
        """The trials as people see them who have encoded only some of the episodes."""
        if self.encoded is None:
            return self.trials
        retrieve = self.trials.retrieve.copy()
        for e in range(self.environments):
            own = slice(e, None, self.environments)
            retrieve[own] = with_lost_episodes(self.trials[own], self.encoded[own]).retrieve
        return replace(self.trials, retrieve=retrieve)

    @property
    def of_others(self) -> bool:
        """Whether anybody differs from the trained agent."""
        return any(person.changed for person in self.people)

    def outcome(self, rows: slice, policy: np.ndarray) -> Outcome:
        """What is done on the first steps of these trials, given the policies (B, T, A) there, and what it earns.

        T is at least that of the longest of them.
        """
        trials, interaction = self.trials, self.interaction
        here = rows, slice(0, policy.shape[1])
        number = np.arange(rows.start, rows.stop)
        which = number, number % self.environments
        if interaction is not None:  # what the worlds would have had done, they do not say
            seen = (a[self.agent][here] for a in (interaction.action, interaction.reward, interaction.inputs_seen))
            action, reward, inputs = seen
            return Outcome(action, action, reward, trials.exists[here], *which, inputs)
        if self.actions is None:
            action = draw(policy, self.luck[here], trials.asks[here])
        else:
            action = self.actions[here]
        pay = None if trials.rewards is None else trials.rewards[here]
        reward = earned(action, trials.targets[here], pay)
        return Outcome(action, trials.targets[here], reward, trials.exists[here], *which, trials.inputs[here])


def check_update(update: str) -> None:
    """Raise ValueError for a name that is not known."""
    if update not in ("trial", "block"):
        raise ValueError(f"update must be 'trial' or 'block'; got {update!r}.")


def plan_environments(
    config: ModelConfig,
    environments: Sequence[Trials],
    actions: Sequence[np.ndarray] | None = None,
    initial_states: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
    seed: int | Sequence[int] | None = None,
    people: Any = None,
) -> Plan:
    """One plan of several environments: trial k of each, then trial k + 1 of each; see ``plan_trials``.

    Args:
        config: the model's sizes.
        environments: the trials of each environment, equally many.
        actions, initial_states: as in ``plan_trials``, a list with an item for each environment.
        seed: environment e draws from the seed (seed, e); ``seed`` may be several numbers itself.
        people: who chooses in each environment; see ``as_people``.

    Raises:
        ValueError: the environments differ in their numbers of trials or steps, or as in ``plan_trials``.
    """
    count = len(environments)
    if not count:
        raise ValueError("trials: a list of environments needs at least one; got none.")
    for trials in environments:
        _check_trials(trials)
    sizes = [trials.inputs.shape[:2] for trials in environments]
    if len(set(sizes)) > 1:
        other = next(e for e, size in enumerate(sizes) if size != sizes[0])
        raise ValueError(
            f"Environments must have equally many trials and steps: environment 0 has {sizes[0]}, environment "
            f"{other} has {sizes[other]}. Cut them to the shortest; or fill up shorter trials, and give lengths."
        )
    for name, given in (("actions", actions), ("initial_states", initial_states)):
        if given is not None and len(given) != count:
            raise ValueError(
                f"{name} must be a list with an item for each of {count} environments; got {len(given)}."
            )
    everybody = as_people(people, count, config)
    plans = [
        plan_trials(
            config,
            trials,
            None if actions is None else actions[e],
            None if initial_states is None else initial_states[e],
            None if seed is None else np.random.default_rng((*np.atleast_1d(seed).tolist(), e)),
            person=everybody[e],
        )
        for e, trials in enumerate(environments)
    ]
    order = np.arange(count * sizes[0][0]).reshape(count, -1).T.ravel()

    def interleaved(name: str) -> np.ndarray:
        return np.concatenate([getattr(plan, name) for plan in plans])[order]

    if any(plan.encoded is not None for plan in plans):
        all_are = np.ones(sizes[0][0], bool)
        plans = [replace(plan, encoded=all_are if plan.encoded is None else plan.encoded) for plan in plans]
    return Plan(
        trials=concatenate(list(environments))[order],
        actions=None if actions is None else interleaved("actions"),
        luck=interleaved("luck"),
        h0=interleaved("h0"),
        c0=interleaved("c0"),
        environments=count,
        encoded=None if plans[0].encoded is None else interleaved("encoded"),
        people=everybody,
    )


def plan_trials(
    config: ModelConfig,
    trials: Trials,
    actions: np.ndarray | None = None,
    initial_states: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int | Sequence[int] | np.random.Generator | None = None,
    *,
    may_be_missing: bool = False,
    person: Person | None = None,
    encoded: np.ndarray | None = None,
) -> Plan:
    """Check the arguments of a pass over trials, and draw what they leave open.

    Initial states and choices are drawn from the seed in one fixed order, whether forced or not: the same
    seed gives the same stream to either model. Which episodes are encoded is drawn last, one number a trial, and
    only if ``encoding_probability`` < 1: the rest of the stream does not depend on the person.

    Args:
        config: the model's sizes.
        trials: the trials, in the order in which they are to be run.
        actions: (n, T) forced choices, each 0 ... A-1; where no answer is asked for, they are not looked at.
        initial_states: h0 (n, H) and c0 (n, H).
        seed: for what is not forced; None draws afresh.
        may_be_missing: whether forced choices may be -1, no choice; there is no learning from those.
        person: who makes the choices; None: the trained agent itself.
        encoded: (n,) bool: whether the episode of each trial is encoded; None: drawn.

    Raises:
        TypeError: trials are not ``Trials``.
        ValueError: sizes do not agree, or a value is outside its range; or see ``returning``.
    """
    _check_trials(trials)
    person = Person() if person is None else person
    n, steps = trials.targets.shape
    if trials.input_size != config.input_size:
        raise ValueError(
            f"The trials have {trials.input_size} input columns, the model takes {config.input_size}: make the "
            f"model with input_size={trials.input_size}, or the trials with {config.input_size} columns."
        )
    if n and steps and trials.targets.max() >= config.n_actions:
        raise ValueError(
            f"The trials have targets up to {trials.targets.max()}, the model has {config.n_actions} actions "
            f"(0 to {config.n_actions - 1}): make the model with more actions, or correct the targets."
        )
    if trials.rewards is not None and trials.rewards.shape[2] != config.n_actions:
        raise ValueError(
            f"The trials have rewards of {trials.rewards.shape[2]} actions, the model has {config.n_actions}: "
            f"make the model with n_actions={trials.rewards.shape[2]}, or correct the rewards."
        )
    if actions is not None:
        actions = np.asarray(actions)
        if actions.shape != (n, steps):
            raise ValueError(f"actions must have the shape (n, T) = {(n, steps)}; got {actions.shape}.")
        asked, least = actions[trials.asks], NO_CHOICE if may_be_missing else 0
        if not np.isin(asked, np.arange(least, config.n_actions)).all():
            none = " (or -1: no choice)" if may_be_missing else ""
            raise ValueError(
                f"actions must be whole numbers from 0 to {config.n_actions - 1}{none}; "
                f"got values from {asked.min()} to {asked.max()}."
            )
        actions = np.where(trials.asks, actions, NO_CHOICE).astype(np.int64)

    rng = np.random.default_rng(seed)
    size = (n, config.hidden_size)
    h0 = INITIAL_STATE_SCALE * rng.standard_normal(size)
    c0 = INITIAL_STATE_SCALE * rng.standard_normal(size)
    luck = rng.random((n, steps))
    if initial_states is not None:
        h0, c0 = (np.array(state, dtype=float) for state in initial_states)
        for name, state in (("h0", h0), ("c0", c0)):
            if state.shape != size:
                raise ValueError(f"initial_states: {name} must have the shape (n, H) = {size}; got {state.shape}.")
            if not np.isfinite(state).all():
                raise ValueError(f"initial_states: {name} must be finite.")
    if encoded is None and person.encoding_probability < 1:
        encoded = rng.random(n) < person.encoding_probability
    if encoded is not None:
        with_lost_episodes(trials, encoded)  # checks it
    return Plan(trials, actions, luck, h0, c0, encoded=encoded, people=(person,))


def plan_run(
    config: ModelConfig,
    person: Person,
    trials: Trials,
    actions: np.ndarray | None = None,
    initial_states: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int | Sequence[int] | np.random.Generator | None = None,
    encoded: np.ndarray | None = None,
) -> Plan:
    """``plan_trials`` of one block for a person, without learning: choices may be -1 where none was made."""
    own = {"person": person, "encoded": encoded, "may_be_missing": True}
    return plan_trials(config, trials, actions, initial_states, seed, **own)  # type: ignore[arg-type]


def plan_passes(
    config: ModelConfig,
    trials: Trials,
    actions: np.ndarray | None,
    initial_states: tuple[np.ndarray, np.ndarray] | None,
    seed: int | None,
    epochs: int,
    update: Update,
    together: int | str,
) -> Plan:
    """``plan_trials`` of several passes over the same trials, as ``learn()`` makes them.

    Args:
        config, trials, actions, initial_states, seed: as in ``plan_trials``, of one pass.
        epochs: passes.
        update: what makes one update.
        together: with ``update="block"``, environments that take turns; in words, as many as there are trials.

    Raises:
        ValueError: as ``plan_trials``, or trials and environments do not fit each other.
    """
    n = len(trials)
    if epochs > 1:
        plan_trials(config, trials, actions, initial_states)  # checks the sizes as given
        trials = concatenate([trials] * epochs)
        actions = None if actions is None else np.concatenate([actions] * epochs)
        if initial_states is not None:
            h0, c0 = initial_states
            initial_states = np.concatenate([h0] * epochs), np.concatenate([c0] * epochs)
    plan = plan_trials(config, trials, actions, initial_states, seed)
    check_update(update)
    if update == "trial":
        return plan
    environments = n if isinstance(together, str) else together
    if n % environments:
        raise ValueError(
            "learn(): with update='block', the number of trials must be a multiple of minibatch_size, the "
            f"environments that take turns; got {n} trials and {environments}. Leave out {n % environments}, or "
            "give another minibatch_size."
        )
    return replace(plan, environments=environments).in_one_update(epochs)


def _check_trials(trials: object) -> None:
    if not isinstance(trials, Trials):
        raise TypeError(
            f"trials must be eplstm.tasks.Trials; got {type(trials).__name__}. Make one from arrays with "
            "Trials(inputs=..., targets=..., encode=...)."
        )
