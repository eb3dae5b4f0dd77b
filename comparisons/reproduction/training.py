"""Training an agent in the worlds of a task, and letting it act in fresh ones.

Call k of ``learn()`` is drawn from the seed (seed, k) alone, so an interrupted run goes on exactly as it would
have gone on. Fresh worlds are drawn from other seeds than those of training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...models import EpisodeRecord, EpisodicLSTMComposition, ModelConfig, train_episodes
from ...tasks.environment import Task
from ..runs import RunFolder, RunState, go_on, progress_of
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


def worlds_of(task: Task, count: int, *seed: int) -> Any:
    """``count`` worlds at the beginning of an epoch, each with a generator of its own."""
    worlds = task.worlds([np.random.default_rng((*seed, e)) for e in range(count)])
    worlds.begin_epoch()
    return worlds


def train_agent(
    lessons: Sequence[Lesson],
    config: ModelConfig,
    settings: LoopSettings,
    seed: int,
    folder: str | os.PathLike[str] | None = None,
) -> tuple[EpisodicLSTMComposition, np.ndarray]:
    """Train a composition in worlds, through PsyNeuLink's ``learn()``.

    Args:
        lessons: the tasks in whose worlds it is trained.
        config: the agent.
        settings: of training.
        seed: of weights, worlds and draws.
        folder: a run folder, from which the same call goes on; None: none.

    Returns:
        The agent, and the mean reward of a step in each call of ``learn()``.

    Raises:
        FileExistsError: the folder holds another run.
    """

    def learn(model: EpisodicLSTMComposition, call: int, update: int) -> tuple[float, int]:
        task = task_at(lessons, update / settings.updates)
        worlds = worlds_of(task, settings.worlds, TRAINING, seed, call)
        record = train_episodes(
            model,
            worlds,
            task.episodes,
            epochs=settings.epochs_at_once,
            max_gradient_norm=settings.max_gradient_norm,
            seed=(TRAINING, seed, call),
            record="behavior",
            **settings.learning(update),
        )
        return float(record.reward.mean()), settings.epochs_at_once * task.episodes

    return train_by_calls(learn, lessons, config, settings, seed, folder)


def train_by_calls(
    learn: Callable[[EpisodicLSTMComposition, int, int], tuple[float, int]],
    lessons: Sequence[Lesson],
    config: ModelConfig,
    settings: LoopSettings,
    seed: int,
    folder: str | os.PathLike[str] | None,
    least: int = 1,
) -> tuple[EpisodicLSTMComposition, np.ndarray]:
    """Train a composition call by call, each from an empty memory, or go on with what the folder holds.

    Args:
        learn: (agent, number of the call, updates so far) → mean reward of a step, and the updates that were made.
        lessons, config, settings, seed, folder: as of ``train_agent``.
        least: updates that must be left for another call.
    """

    def begin() -> RunState:
        return RunState({AGENT: EpisodicLSTMComposition(config, seed=seed)}, notes={"updates": 0})

    def step(state: RunState) -> None:
        model = state.models[AGENT]
        model.clear_memory()
        reward, updates = learn(model, state.done, state.notes["updates"])
        state.remember(AGENT, {"reward": reward})
        state.notes["updates"] += updates

    def finished(state: RunState) -> bool:
        return state.notes["updates"] + least > settings.updates

    run = None
    if folder is not None:
        taught = [f"{lesson.share}: {lesson.task}" for lesson in lessons]
        described = {**asdict(settings), "seed": seed, "config": config.to_dict(), "lessons": taught}
        run = RunFolder(folder, "reproduce", described)
    state = go_on(run, {AGENT: "composition"}, begin, step, finished, every=SAVE_AFTER)
    model = state.models[AGENT]
    model.clear_memory()
    return model, state.stacked(AGENT, "reward")


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
        fresh = worlds_of(task, worlds, FRESH, seed, epoch)
        fresh.reads, fresh.stores = retrieve, encode
        model.clear_memory()
        records.append(model.simulate_episodes(fresh, task.episodes, seed=(FRESH, seed, epoch)))
    model.clear_memory()
    return EpisodeRecord.concatenate(records)
