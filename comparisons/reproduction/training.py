"""Training an agent in the worlds of a task, and letting it act in fresh ones.

Call k of ``learn()`` is drawn from the seed (seed, k) alone, so an interrupted run goes on exactly as it would
have gone on. Fresh worlds are drawn from other seeds than those of training.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...models import EpisodeRecord, EpisodicLSTMComposition, ModelConfig, load_model, save_model, train_episodes
from ...tasks.environment import Task

SAVE_AFTER = 30.0
"""Seconds of training between two checkpoints."""
TRAINING, FRESH = 0, 1
"""What seeds of training and of fresh worlds begin with, so that they never meet."""
POINTER = "progress.json"


@dataclass(frozen=True)
class LoopSettings:
    """How an agent is trained in parallel worlds (A2C: one update from an episode of all of them)."""

    updates: int
    """Updates; the last call is trained to its end."""
    worlds: int = 64
    """Parallel worlds, M."""
    hidden_size: int = 64
    """Hidden units, H."""
    memory_capacity: int = 100
    """Entries of the episodic memory of each world."""
    retrieval: Literal["nearest", "average"] = "nearest"
    """The nearest entry (of equals the newest), or the average of all, weighted by their similarity."""
    sharpness: float = 1.0
    """Inverse temperature of these weights."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Of the weights."""
    learning_rate: float = 3e-3
    """At the beginning."""
    learning_rate_end: float = 0.1
    """What share of it is left at the end; in between it falls exponentially."""
    gamma: float = 0.9
    """Discount of later rewards."""
    entropy_weight: float = 0.05
    """Weight of the entropy bonus, at the beginning."""
    entropy_end: float = 0.02
    """What share of it is left at the end; in between it falls exponentially."""
    value_weight: float = 0.5
    """Weight of the critic's loss."""
    epochs_at_once: int = 1
    """Epochs that are trained in one call of ``learn()``: short ones share what a call costs."""
    unroll_steps: int | None = None
    """Truncated backpropagation through time, in stretches of so many steps; None: whole episodes."""
    max_gradient_norm: float | None = None
    """Gradients of all weights together are scaled down to this norm."""

    def share(self, update: int, end: float) -> float:
        """What is left of a quantity that falls to the share ``end`` by the last update."""
        return end ** min(update / self.updates, 1.0)

    def config(self, task: Task, memory: bool, reinstatement: Literal["gate", "input"] = "gate") -> ModelConfig:
        """Of an agent with or without episodic memory: cosine, the barcode as key, the newest of equal keys."""
        return ModelConfig(
            input_size=task.input_size,
            hidden_size=self.hidden_size,
            n_actions=task.n_actions,
            memory_capacity=self.memory_capacity if memory else 0,
            kernel="cosine",
            key=task.key_columns,
            ties="newest",
            retrieval=self.retrieval,
            sharpness=self.sharpness,
            reinstatement=reinstatement,
        )


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
    after_call: Callable[[int, float], object] | None = None,
) -> tuple[EpisodicLSTMComposition, np.ndarray]:
    """Train a composition, through PsyNeuLink's ``learn()``.

    Args:
        lessons: the tasks in whose worlds it is trained.
        config: the agent.
        settings: of training.
        seed: of weights, worlds and draws.
        folder: keeps checkpoints, from which the same call goes on; None: none.
        after_call: called after each call of ``learn()``, with the updates so far, and the mean reward of a step.

    Returns:
        The agent, and the mean reward of a step in each call of ``learn()``.
    """
    checkpoints = Checkpoints(folder)
    model, history, update = checkpoints.latest() or (EpisodicLSTMComposition(config, seed=seed), [], 0)
    while update < settings.updates:
        call, task = len(history), task_at(lessons, update / settings.updates)
        worlds = worlds_of(task, settings.worlds, TRAINING, seed, call)
        model.clear_memory()
        record = train_episodes(
            model,
            worlds,
            task.episodes,
            epochs=settings.epochs_at_once,
            optimizer=settings.optimizer,
            learning_rate=settings.learning_rate * settings.share(update, settings.learning_rate_end),
            gamma=settings.gamma,
            entropy_weight=settings.entropy_weight * settings.share(update, settings.entropy_end),
            value_weight=settings.value_weight,
            unroll_steps=settings.unroll_steps,
            max_gradient_norm=settings.max_gradient_norm,
            seed=(TRAINING, seed, call),
            record="behavior",
        )
        history.append(float(record.reward.mean()))
        update += settings.epochs_at_once * task.episodes
        if after_call is not None:
            after_call(update, history[-1])
        checkpoints.keep_now_and_then(model, history, update)
    checkpoints.keep(model, history, update)
    model.clear_memory()
    return model, np.array(history)


def progress_of(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What the latest checkpoint of an agent has behind it: ``history``, ``updates``, ``seconds``."""
    try:
        return json.loads((Path(folder) / POINTER).read_text())
    except (OSError, ValueError):
        return {"history": [], "updates": 0, "seconds": 0.0}


class Checkpoints:
    """Checkpoints of training in a folder: a new one is whole before the old one goes.

    Args:
        folder: where; None: nothing is kept.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._saved = self._begun = time.monotonic()
        self._before = 0.0  # seconds of training before it was interrupted

    def latest(self) -> tuple[EpisodicLSTMComposition, list[float], int] | None:
        """The agent, the course of its training by call, and its updates; None if nothing was kept."""
        if self.folder is None or not (self.folder / POINTER).is_file():
            return None
        kept = progress_of(self.folder)
        self._before = kept["seconds"]
        return load_model(self._of(len(kept["history"])), "composition"), kept["history"], kept["updates"]

    def keep_now_and_then(self, model: EpisodicLSTMComposition, history: list[float], updates: int) -> None:
        """Keep the agent as it is now, if the last time is long enough ago."""
        if time.monotonic() - self._saved > SAVE_AFTER:
            self.keep(model, history, updates)

    def keep(self, model: EpisodicLSTMComposition, history: list[float], updates: int) -> None:
        """Keep the agent as it is now."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_model(model, self._of(len(history)), overwrite=True)
        new = self.folder / f"{POINTER}.new"
        seconds = self._before + time.monotonic() - self._begun
        new.write_text(json.dumps({"history": history, "updates": updates, "seconds": seconds}))
        os.replace(new, self.folder / POINTER)
        for other in self.folder.glob("call-*"):
            if other != self._of(len(history)):
                shutil.rmtree(other)
        self._saved = time.monotonic()

    def _of(self, call: int) -> Path:
        assert self.folder is not None
        return self.folder / f"call-{call}"


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
