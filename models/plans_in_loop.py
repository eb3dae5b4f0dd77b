"""What goes into episodes with the environment in the loop: ``plans`` of worlds, which answer to actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..tasks.environment import Worlds, is_whole
from ..tasks.trials import Trials
from .choices import NO_CHOICE
from .config import ModelConfig
from .person import Person
from .plans import Plan, plan_environments
from .source import Interaction


def plan_episodes(
    config: ModelConfig,
    worlds: Worlds,
    episodes: int,
    actions: np.ndarray | None = None,
    seed: int | Sequence[int] | None = None,
    epochs: int = 1,
    forget: Callable[[], object] = lambda: None,
    people: Any = None,
) -> Plan:
    """A plan of episodes in the loop.

    Args:
        config: the model's sizes.
        worlds: M worlds of a task.
        episodes: of each world, of the present epoch, and of each that follows.
        actions: (epochs · episodes · M, T) forced choices, in the order of the rows; -1 where no answer is asked
            for.
        seed: for initial states and choices; world e draws from the seed (seed, e).
        epochs: the present one, and those that follow.
        forget: clears the model's memory, where another epoch begins.
        people: who chooses in each world; see ``as_people``.

    Raises:
        ValueError: model and task do not fit each other, the epoch has not so many episodes left, or there is no
            epoch.
    """
    forced = None if actions is None else [actions]
    return plan_episodes_of_agents(config, worlds, episodes, forced, [seed], epochs, forget, [people])[0]


def plan_run_episodes(
    config: ModelConfig,
    person: Person,
    worlds: Worlds,
    episodes: int,
    actions: np.ndarray | None = None,
    seed: int | Sequence[int] | None = None,
) -> Plan:
    """``plan_episodes`` of one person in all worlds, within an epoch."""
    return plan_episodes(config, worlds, episodes, actions, seed, people=[person] * worlds.n)


def plan_episodes_of_agents(
    config: ModelConfig,
    worlds: Worlds,
    episodes: int,
    actions: Sequence[np.ndarray] | None,
    seeds: Sequence[int | Sequence[int] | None],
    epochs: int,
    forget: Callable[[], object],
    people: Sequence[Any] | None = None,
) -> list[Plan]:
    """The plans of several agents in worlds of their own, with one interaction.

    Args:
        config, episodes, epochs, forget: as in ``plan_episodes``.
        worlds: of all agents, P · M: agent p has worlds p · M to p · M + M − 1.
        actions: of each agent, as in ``plan_episodes``; None: all choose.
        seeds: of each agent, P.
        people: of each agent, as in ``plan_episodes``; None: the trained agent in all.

    Raises:
        ValueError: as ``plan_episodes``, or the worlds cannot be divided among the agents.
    """
    task, agents = worlds.task, len(seeds)
    for what, of_task, of_model in (
        ("input columns", task.input_size, config.input_size),
        ("actions", task.n_actions, config.n_actions),
    ):
        if of_task != of_model:
            raise ValueError(
                f"The worlds have {of_task} {what}, the model {of_model}: make the model with "
                "ModelConfig(input_size=task.input_size, n_actions=task.n_actions, key=task.key_columns, ...)."
            )
    left = task.episodes - (0 if worlds.episode is None else worlds.episode + 1)
    if not 1 <= episodes <= left:
        raise ValueError(f"episodes must lie between 1 and the {left} that the epoch has left; got {episodes}.")
    if not is_whole(epochs) or epochs < 1:
        raise ValueError(f"epochs must be a whole number ≥ 1; got {epochs!r}.")
    if worlds.n % agents:
        raise ValueError(
            f"worlds: {worlds.n} of them cannot be divided among {agents} agents. Give M for each, {agents} · M, "
            "those of agent 0 first."
        )
    together, shape = worlds.n // agents, (epochs * episodes, task.length)
    none = np.zeros(shape, int)
    blank = Trials(np.zeros((*shape, task.input_size)), none, none > 0, context=np.arange(len(none)))
    plans = []
    for p, seed in enumerate(seeds):
        forced = by_world = None
        if actions is not None:
            forced = _forced_in_loop(actions[p], together, *shape, epochs)
            checked = np.where(forced == NO_CHOICE, 0, forced)  # where no answer is asked for, the worlds know
            by_world = [checked[e::together] for e in range(together)]
        own = None if people is None else people[p]
        plan = plan_environments(config, [blank] * together, by_world, seed=seed, people=own)
        plans.append(replace(plan, actions=None if forced is None else forced.astype(np.int64), agent=p))
    luck = np.stack([plan.luck for plan in plans])
    forced = None if actions is None else np.stack([plan.actions for plan in plans])  # type: ignore[misc]
    encoded = None
    if any(plan.encoded is not None for plan in plans):
        all_of_them = np.ones(luck.shape[1], bool)
        encoded = np.stack([all_of_them if plan.encoded is None else plan.encoded for plan in plans])
    interaction = Interaction(worlds, luck, forced, episodes, forget, encoded)
    return [replace(plan, interaction=interaction) for plan in plans]


def _forced_in_loop(actions: np.ndarray, worlds: int, episodes: int, steps: int, epochs: int) -> np.ndarray:
    """Forced choices, once their shape has been checked."""
    actions, expected = np.asarray(actions), (episodes * worlds, steps)
    if actions.shape != expected:
        rows = "episodes · M" if epochs == 1 else "epochs · episodes · M"
        raise ValueError(f"actions must have the shape ({rows}, T) = {expected}; got {actions.shape}.")
    return actions


def check_one_world(worlds: Any, method: str) -> None:
    """Raise ValueError if there are several worlds where only one can be run."""
    if worlds.n != 1:
        raise ValueError(
            f"{method} runs one world at a time, as PsyNeuLink's run() does; got {worlds.n}. Make one, "
            "task.worlds([rng]), or use simulate_episodes()."
        )
