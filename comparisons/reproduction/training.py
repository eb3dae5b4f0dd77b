"""Training agents in the worlds of a task, and letting them act in fresh ones.

Agents of one kind that differ in their seeds are trained side by side, as a cohort: the numbers are those of
PsyNeuLink's ``learn()``, agent by agent, but for rounding. Call k of an agent's training is drawn from the seed
(seed, k) alone, so an interrupted run goes on exactly as it would have gone on. Fresh worlds are drawn from other
seeds than those of training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...models import Cohort, EpisodeRecord, EpisodicLSTMComposition, ModelConfig
from ...tasks.environment import Task
from ..runs import RunFolder, RunState, go_on_together, progress_of
from ..settings import FRESH, TRAINING, LoopSettings

SAVE_AFTER = 30.0
"""Seconds of training between two checkpoints."""
AGENT = "agent"
"""Its name in a run folder."""


@dataclass(frozen=True)
class Lesson:
    """Updates in the worlds of one task; training goes through lessons, one after the other."""

    task: Any
    share: float = 1.0
    """Of all updates."""


def task_at(lessons: Sequence[Lesson], share: float) -> Any:
    """The task in whose worlds an agent is trained when this share of all updates is behind it."""
    ends = np.cumsum([lesson.share for lesson in lessons])
    return lessons[min(int(np.searchsorted(ends, share, side="right")), len(lessons) - 1)].task


def worlds_of(task: Task, count: int, *seeds: tuple[int, ...]) -> Any:
    """``count`` worlds for each seed, at the beginning of an epoch, each with a generator of its own."""
    worlds = task.worlds([np.random.default_rng((*seed, e)) for seed in seeds for e in range(count)])
    worlds.begin_epoch()
    return worlds


Trained = list[tuple[EpisodicLSTMComposition, np.ndarray]]
"""Agents, and the mean reward of a step in each call."""


def train_agents(
    lessons: Sequence[Lesson],
    config: ModelConfig,
    settings: LoopSettings,
    seeds: Sequence[int],
    folders: Sequence[str | os.PathLike[str] | None] | None = None,
) -> Trained:
    """Train compositions in worlds, side by side.

    Args:
        lessons: the tasks in whose worlds they are trained.
        config: of all.
        settings: of training.
        seeds: of each agent, for its weights, worlds and draws.
        folders: a run folder of each, from which the same call goes on; None: none.

    Returns:
        The agents, and the mean reward of a step in each call.

    Raises:
        FileExistsError: a folder holds another run.
    """

    def learn(cohort: Cohort, of: Sequence[int], call: int, update: int) -> tuple[list[float], int]:
        task, drawn = task_at(lessons, update / settings.updates), [(TRAINING, seed, call) for seed in of]
        records = cohort.train_episodes(
            worlds_of(task, settings.worlds, *drawn),
            task.episodes,
            epochs=settings.epochs_at_once,
            max_gradient_norm=settings.max_gradient_norm,
            seed=drawn,
            **settings.learning(update),
        )
        return [float(record.reward.mean()) for record in records], settings.epochs_at_once * task.episodes

    return train_by_calls(learn, lessons, config, settings, seeds, folders)


def train_by_calls(
    learn: Callable[[Cohort, Sequence[int], int, int], tuple[list[float], int]],
    lessons: Sequence[Lesson],
    config: ModelConfig,
    settings: LoopSettings,
    seeds: Sequence[int],
    folders: Sequence[str | os.PathLike[str] | None] | None,
    least: int = 1,
) -> Trained:
    """Train compositions call by call, each from empty memories, or go on with what the folders hold.

    Args:
        learn: (cohort, seeds of its agents, number of the call, updates so far) → each agent's mean reward of a
            step, and the updates that were made.
        lessons, config, settings, seeds, folders: as of ``train_agents``.
        least: updates that must be left for another call.
    """
    runs: list[RunFolder | None] = [None] * len(seeds)
    if folders is not None:
        taught = [f"{lesson.share}: {lesson.task}" for lesson in lessons]
        described = {**asdict(settings), "config": config.to_dict(), "lessons": taught}
        runs = [
            None if folder is None else RunFolder(folder, "reproduce", {**described, "seed": seed})
            for seed, folder in zip(seeds, folders, strict=True)
        ]
    states = [
        (run and run.load({AGENT: "composition"}))
        or RunState({AGENT: EpisodicLSTMComposition(config, seed=seed)}, notes={"updates": 0})
        for seed, run in zip(seeds, runs, strict=True)
    ]

    def finished(n: int) -> bool:
        return states[n].notes["updates"] + least > settings.updates

    while unfinished := [n for n in range(len(seeds)) if not finished(n)]:
        done = min(states[n].done for n in unfinished)
        together = [n for n in unfinished if states[n].done == done]  # others are further, after an interruption
        ahead = min((states[n].done for n in unfinished if n not in together), default=None)
        train_together(
            learn,
            [seeds[n] for n in together],
            [states[n] for n in together],
            [runs[n] for n in together],
            lambda first=together[0], ahead=ahead: finished(first) or states[first].done == ahead,
        )
    for state in states:
        state.models[AGENT].clear_memory()
    return [(state.models[AGENT], state.stacked(AGENT, "reward")) for state in states]


def train_together(
    learn: Callable[[Cohort, Sequence[int], int, int], tuple[list[float], int]],
    seeds: Sequence[int],
    states: Sequence[RunState],
    runs: Sequence[RunFolder | None],
    finished: Callable[[], bool],
) -> None:
    """Train agents that are equally far as a cohort."""
    cohort = Cohort.from_models([state.models[AGENT] for state in states])

    def step() -> None:
        cohort.clear_memory()
        rewards, updates = learn(cohort, seeds, states[0].done, states[0].notes["updates"])
        for state, reward in zip(states, rewards, strict=True):
            state.remember(AGENT, {"reward": reward})
            state.notes["updates"] += updates

    def give_back() -> None:
        cohort.clear_memory()
        for p, state in enumerate(states):
            cohort.copy_to(state.models[AGENT], p)

    go_on_together(states, runs, step, finished, SAVE_AFTER, give_back)


def trained_so_far(folder: str | os.PathLike[str]) -> tuple[int, float]:
    """Updates and seconds of training that the latest checkpoint of an agent has behind it."""
    try:
        progress = progress_of(folder)
        return int(progress["notes"]["updates"]), progress["seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0.0


def act_in_fresh_worlds(
    model: EpisodicLSTMComposition,
    task: Task,
    worlds: int,
    seed: int,
    epochs: int = 1,
    *,
    retrieve: bool = True,
    encode: bool = True,
) -> EpisodeRecord:
    """Let an agent act, without learning, through whole epochs that it has not been trained on.

    Args:
        model: the agent; its memory is empty afterwards.
        task: whose worlds.
        worlds: how many, side by side.
        seed: of the worlds and of choices.
        epochs: of each world.
        retrieve, encode: False: what the agent would read, or store, is left out (a lesion).

    Returns:
        Of the episodes of all epochs, one epoch after the other.
    """
    records = []
    for epoch in range(epochs):
        fresh = worlds_of(task, worlds, (FRESH, seed, epoch))
        fresh.reads, fresh.stores = retrieve, encode
        model.clear_memory()
        records.append(model.simulate_episodes(fresh, task.episodes, seed=(FRESH, seed, epoch)))
    model.clear_memory()
    return EpisodeRecord.concatenate(records)
