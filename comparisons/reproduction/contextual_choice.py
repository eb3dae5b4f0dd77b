"""Contextual choice: an answer that was found once is there at the second encounter, before any evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...models import EpisodicLSTMComposition, train
from ...tasks import ContextualChoice
from ..axes import level_line
from ..settings import FRESH, TRAINING, LoopSettings
from .drawing import band, finish, gate_by_exposure
from .study import (
    EPLSTM,
    LSTM,
    RETRIEVAL_OFF,
    Claim,
    Figure,
    Found,
    Measures,
    Study,
    agents_of,
    as_text,
    compared,
    mean_and_half,
    means_by,
    memory_of,
    of_seeds,
    states_of,
)
from .training import Lesson, train_by_calls

CONTEXTS = 50
"""Of a block: each is shown twice."""


def train_on_blocks(
    study: Study, agent: str, seed: int, fast: bool, folder: str | None
) -> tuple[EpisodicLSTMComposition, np.ndarray]:
    """Train an agent on blocks of trials, of all environments at once, with the context as key."""
    task, settings = study.task, study.settings(fast)
    config = settings.config(task, task.context_columns, **memory_of(agent))

    def learn(model: EpisodicLSTMComposition, block: int, update: int) -> tuple[float, int]:
        rngs = [np.random.default_rng((TRAINING, seed, block, e)) for e in range(settings.worlds)]
        records = train(
            model,
            [task.sample(CONTEXTS, rng) for rng in rngs],
            record="behavior",
            seed=(TRAINING, seed, block),  # type: ignore[arg-type]
            **settings.learning(update),
        )
        return float(np.mean([record.reward.mean() for record in records])), 2 * CONTEXTS

    return train_by_calls(learn, study.lessons, config, settings, seed, folder, least=2 * CONTEXTS)


def act_on_blocks(study: Study, model: Any, seed: int, retrieve: bool, encode: bool) -> Measures:
    """By encounter and step, (2, T): share of right choices, and the reinstatement gate."""
    right, gate, encounter = [], [], []
    for block in range(study.fresh_worlds):
        trials = study.task.sample(CONTEXTS, np.random.default_rng((FRESH, seed, block)))
        model.clear_memory()
        record = model.simulate(trials.lesioned(retrieve=retrieve, encode=encode), seed=(FRESH, seed, block))
        right.append(record.reward)
        gate.append(record.gates[:, :, 3].mean(-1))
        encounter.append(trials.encounter)
    labels = np.concatenate(encounter)
    model.clear_memory()
    return {
        "right": means_by(labels, np.concatenate(right), 2),
        "gate": means_by(labels, np.concatenate(gate), 2),
    }


def claims(study: Study, found: Found) -> list[Claim]:
    """What is claimed, and what came of it."""
    made = []
    if EPLSTM in agents_of(found):
        right = of_seeds(found, EPLSTM, "right")
        second, off = right[:, 1, 0], of_seeds(found, EPLSTM, "right", RETRIEVAL_OFF)[:, 1, 0]
        made += [
            Claim(
                "epLSTM answers the second encounter from the first step on: .95 right or more",
                as_text(second, 3),
                bool(second.mean() >= 0.95),
            ),
            Claim(
                "at the first encounter it is at chance before there is evidence, and right after",
                f"step 0 {as_text(right[:, 0, 0], 3)}, last step {as_text(right[:, 0, -1], 3)}",
                bool(abs(right[:, 0, 0].mean() - 0.5) < 0.03 and right[:, 0, -1].mean() > 0.95),
            ),
            Claim(
                "without retrieval (lesion), the second encounter begins at chance",
                as_text(off, 3),
                bool(abs(off.mean() - 0.5) < 0.03),
            ),
        ]
    if LSTM in agents_of(found):
        second = of_seeds(found, LSTM, "right")[:, 1, 0]
        made.append(
            Claim(
                "the plain LSTM begins each encounter at chance",
                as_text(second, 3),
                bool(abs(second.mean() - 0.5) < 0.03),
            )
        )
    return made


def tables(study: Study, found: Found) -> dict[str, pd.DataFrame]:
    """Share of right choices by agent, state, encounter and step, with 95 % intervals over seeds."""
    rows = []
    for agent, state in states_of(found):
        mean, half = mean_and_half(of_seeds(found, agent, "right", state))
        rows += [
            {
                "agent": agent,
                "state": state,
                "encounter": e + 1,
                "step": t,
                "right": mean[e, t],
                "lower": mean[e, t] - half[e, t],
                "upper": mean[e, t] + half[e, t],
            }
            for e in range(2)
            for t in range(mean.shape[1])
        ]
    return {"accuracy": pd.DataFrame(rows)}


def figures(study: Study, found: Found) -> list[Figure]:
    """Accuracy by encounter and step, and the gate."""
    steps = np.arange(study.task.trial_length)

    def accuracy(axes: Sequence[Axes]) -> None:
        for e, ax in enumerate(axes):
            for place, (agent, state, label) in enumerate(compared(found)):
                band(ax, steps, of_seeds(found, agent, "right", state)[:, e], label, place)
            level_line(ax, study.task.chance, "chance")
            ax.axvline(study.task.t_noise_off - 0.5, color="#bbbbbb", linewidth=1)
            finish(ax, f"Encounter {e + 1}", "Step", "Share right", "beside" if e else None)
            ax.set_ylim(0.4, 1.02)

    def gates(axes: Sequence[Axes]) -> None:
        names = {1: "encounter 1", 2: "encounter 2"}
        gate_by_exposure(axes[0], steps, of_seeds(found, EPLSTM, "gate"), names, "Step")

    made = [
        Figure(
            "accuracy",
            "Right choices by encounter and step",
            "Evidence begins at the grey line; bands are 95 % intervals over seeds.",
            2,
            accuracy,
        )
    ]
    if EPLSTM in agents_of(found):
        made.append(Figure("gate", "When memory is reinstated", "Mean over units, by step.", 1, gates))
    return made


STUDY = Study(
    name="contextual-choice",
    about="Contextual choice (dnd-lstm): noisy evidence for one of two answers, which is the same whenever a "
    "context comes back. Agents with episodic memory are to know it at the second encounter, before any evidence.",
    task=ContextualChoice(),
    lessons=(Lesson(ContextualChoice()),),
    full=LoopSettings(
        updates=6_000,
        worlds=32,
        hidden_size=32,
        kernel="l2",
        ties="oldest",
        learning_rate=2e-3,
        learning_rate_end=1.0,
        gamma=0.0,
        entropy_weight=0.0,
        value_weight=1.0,
    ),
    fast=LoopSettings(
        updates=300,
        worlds=8,
        hidden_size=16,
        kernel="l2",
        ties="oldest",
        learning_rate=5e-3,
        gamma=0.0,
        entropy_weight=0.0,
        value_weight=1.0,
    ),
    fresh_worlds=8,
    fresh_epochs=1,
    measure=lambda record, task: {},  # see ``act_on_blocks``
    claims=claims,
    tables=tables,
    figures=figures,
    train=train_on_blocks,
    act=act_on_blocks,
)
