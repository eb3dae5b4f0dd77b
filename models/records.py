"""What goes into a pass over trials and what comes out of it, for both models.

``plan_trials`` checks a user's trials, forced actions and initial states against a model, and draws what
is not forced, ``plan_run`` also what depends on the person; ``TrialRecord`` holds all that happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..tasks.trials import Trials, concatenate
from .config import ModelConfig
from .person import Person, with_lost_episodes

if TYPE_CHECKING:
    from .interaction import Interaction

Record = Literal["all", "behavior"]
"""What a record holds: all; or without the states (hidden, cell, memory, gates), which have no columns then."""
STATES = ("hidden", "cell", "memory", "gates")
NO_CHOICE = -1
"""In place of an action: no choice was made at this step."""
INITIAL_STATE_SCALE = 0.1
"""Standard deviation of h0 and c0 (dnd-lstm)."""


def check_record(record: str) -> None:
    """Raise ValueError unless it is one of ``Record``."""
    if record not in get_args(Record):
        raise ValueError(f"record must be 'all' or 'behavior'; got {record!r}.")


def no_states(n: int, length: int) -> dict[str, np.ndarray]:
    """States without columns, of n trials."""
    return {name: np.empty((n, length, *((4, 0) if name == "gates" else (0,)))) for name in STATES}


@dataclass(eq=False)
class TrialRecord:
    """All that happened on n trials of T steps, with A actions and H hidden units."""

    policy: np.ndarray
    """(n, T, A): probability of each choice, p_t (of a trained agent, π_t)."""
    value: np.ndarray
    """(n, T): the critic's estimate, v_t."""
    action: np.ndarray
    """(n, T) int: the action taken; -1 where the forced actions say that no choice was made."""
    reward: np.ndarray
    """(n, T): 1 where the action is the target, else 0 (where no choice was made, too)."""
    hidden: np.ndarray
    """(n, T, H): h_t."""
    cell: np.ndarray
    """(n, T, H): c_t."""
    memory: np.ndarray
    """(n, T, H): m_t, after the tanh; zeros where nothing was retrieved."""
    gates: np.ndarray
    """(n, T, 4, H): f_t, i_t, o_t, r_t."""
    policy_loss: np.ndarray | None = None
    """(n,): the actor's loss, or the whole of another loss; only from training."""
    value_loss: np.ndarray | None = None
    """(n,): the critic's loss; zeros under another loss than actor-critic; only from training."""
    gradients: dict[str, np.ndarray] | None = None
    """The keys of ``weights()``, each (n, ...): gradients of each trial's loss; only if asked for."""

    def __len__(self) -> int:
        return len(self.action)

    def of_environment(self, environment: int, environments: int) -> TrialRecord:
        """The trials of one of several environments that take turns; gradients, of all together, stay."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        rows = slice(environment, None, environments)
        cut: dict[str, Any] = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in parts.items()}
        return replace(self, **cut)

    @staticmethod
    def concatenate(records: list[TrialRecord]) -> TrialRecord:
        """One record of all trials, in order; fields that one of the records lacks are left out."""
        if not records:
            raise ValueError("TrialRecord.concatenate: needs at least one record; got none.")
        joined = {}
        for f in fields(TrialRecord):
            parts = [getattr(record, f.name) for record in records]
            if any(part is None for part in parts):
                joined[f.name] = None
            elif isinstance(parts[0], dict):
                joined[f.name] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            else:
                joined[f.name] = np.concatenate(parts)
        return TrialRecord(**joined)


@dataclass(frozen=True, eq=False)
class TrialPlan:
    """Trials with everything that chance or the caller decides settled beforehand."""

    trials: Trials
    actions: np.ndarray | None
    """(n, T) int: forced actions, or None where the model chooses."""
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

    def rewards(self, rows: slice, action: np.ndarray) -> np.ndarray:
        """Of the actions (B, T) of these trials: (B, T)."""
        if self.interaction is not None:
            return self.interaction.reward[rows]
        return (action == self.trials.targets[rows]).astype(float)


def plan_environments(
    config: ModelConfig,
    environments: Sequence[Trials],
    actions: Sequence[np.ndarray] | None = None,
    initial_states: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
    seed: int | Sequence[int] | None = None,
) -> TrialPlan:
    """One plan of several environments: trial k of each, then trial k + 1 of each; see ``plan_trials``.

    Args:
        config: the model's sizes.
        environments: the trials of each environment, equally many.
        actions, initial_states: as in ``plan_trials``, a list with an item for each environment.
        seed: environment e draws from the seed (seed, e); ``seed`` may be several numbers itself.

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
            f"{other} has {sizes[other]}. Cut them to the shortest."
        )
    for name, given in (("actions", actions), ("initial_states", initial_states)):
        if given is not None and len(given) != count:
            raise ValueError(
                f"{name} must be a list with an item for each of {count} environments; got {len(given)}."
            )
    plans = [
        plan_trials(
            config,
            trials,
            None if actions is None else actions[e],
            None if initial_states is None else initial_states[e],
            None if seed is None else np.random.default_rng((*np.atleast_1d(seed).tolist(), e)),
        )
        for e, trials in enumerate(environments)
    ]
    order = np.arange(count * sizes[0][0]).reshape(count, -1).T.ravel()

    def interleaved(name: str) -> np.ndarray:
        return np.concatenate([getattr(plan, name) for plan in plans])[order]

    return TrialPlan(
        trials=concatenate(list(environments))[order],
        actions=None if actions is None else interleaved("actions"),
        luck=interleaved("luck"),
        h0=interleaved("h0"),
        c0=interleaved("c0"),
        environments=count,
    )


def plan_trials(
    config: ModelConfig,
    trials: Trials,
    actions: np.ndarray | None = None,
    initial_states: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int | Sequence[int] | np.random.Generator | None = None,
    *,
    may_be_missing: bool = False,
) -> TrialPlan:
    """Check the arguments of a pass over trials, and draw what they leave open.

    Initial states and choices are drawn from the seed in one fixed order, whether forced or not: the same
    seed gives the same stream to either model.

    Args:
        config: the model's sizes.
        trials: the trials, in the order in which they are to be run.
        actions: (n, T) forced choices, each 0 ... A-1.
        initial_states: h0 (n, H) and c0 (n, H).
        seed: for what is not forced; None draws afresh.
        may_be_missing: whether forced choices may be -1, no choice; there is no learning from those.

    Raises:
        TypeError: trials are not ``Trials``.
        ValueError: sizes do not agree, or a value is outside its range.
    """
    _check_trials(trials)
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
    if actions is not None:
        actions = np.asarray(actions)
        if actions.shape != (n, steps):
            raise ValueError(f"actions must have the shape (n, T) = {(n, steps)}; got {actions.shape}.")
        least = NO_CHOICE if may_be_missing else 0
        if actions.size and not np.isin(actions, np.arange(least, config.n_actions)).all():
            none = " (or -1: no choice)" if may_be_missing else ""
            raise ValueError(
                f"actions must be whole numbers from 0 to {config.n_actions - 1}{none}; "
                f"got values from {actions.min()} to {actions.max()}."
            )
        actions = actions.astype(np.int64)

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
    return TrialPlan(trials, actions, luck, h0, c0)


def plan_run(
    config: ModelConfig,
    person: Person,
    trials: Trials,
    actions: np.ndarray | None = None,
    initial_states: tuple[np.ndarray, np.ndarray] | None = None,
    seed: int | Sequence[int] | np.random.Generator | None = None,
    encoded: np.ndarray | None = None,
) -> TrialPlan:
    """``plan_trials`` of one block for a person: without learning, and with the episodes that are not encoded.

    Which episodes are encoded is drawn last, one number a trial, and only if ``encoding_probability`` < 1: the
    rest of the stream does not depend on the person.

    Args:
        config, trials, initial_states, seed: as in ``plan_trials``.
        person: who makes the choices.
        actions: (n, T) forced choices, each 0 ... A-1, or -1 where none was made.
        encoded: (n,) bool: whether the episode of each trial is encoded; None: drawn.

    Raises:
        TypeError, ValueError: as in ``plan_trials``; or ``encoded`` is not (n,) bool; or see ``returning``.
    """
    rng = np.random.default_rng(seed)
    plan = plan_trials(config, trials, actions, initial_states, rng, may_be_missing=True)
    if encoded is None and person.encoding_probability < 1:
        encoded = rng.random(len(trials)) < person.encoding_probability
    return plan if encoded is None else replace(plan, trials=with_lost_episodes(trials, encoded))


def _check_trials(trials: object) -> None:
    if not isinstance(trials, Trials):
        raise TypeError(
            f"trials must be eplstm.tasks.Trials; got {type(trials).__name__}. Make one from arrays with "
            "Trials(inputs=..., targets=..., encode=...)."
        )


def last_choices(actions: np.ndarray) -> np.ndarray:
    """The latest choice before each step of a block: actions (n, T), -1 where none was made → (n, T), -1: none."""
    flat = np.concatenate([[NO_CHOICE], actions.ravel()[:-1]])[: actions.size]
    made = np.maximum.accumulate(np.where(flat == NO_CHOICE, 0, np.arange(flat.size)))
    return flat[made].reshape(actions.shape)


def choose(policy: np.ndarray, luck: np.ndarray) -> np.ndarray:
    """Actions (...) drawn from policies (..., A) by numbers in [0, 1) (...): inverse distribution function."""
    edges = np.cumsum(policy, axis=-1)[..., :-1]
    return (luck[..., None] >= edges).sum(-1)
