"""The studies, by name; and a piece of one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from . import bandit, contextual_choice, two_step, water_maze
from .study import INTACT, LESIONS, LSTM
from .training import trained_so_far

STUDIES = {
    study.name: study for study in (contextual_choice.STUDY, bandit.STUDY, two_step.STUDY, water_maze.STUDY)
}


def train_and_measure(
    study: str, agent: str, seeds: Sequence[int], fast: bool, folders: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """One piece: agents of a kind, trained with some seeds side by side, and measured.

    Args:
        study: name of the task's study.
        agent: one of ``AGENTS``.
        seeds: of all draws, one an agent.
        fast: the fast setting.
        folders: for checkpoints, one an agent.

    Returns:
        Of each agent ``history``: mean reward of a step by call; ``seconds`` of training; and of each state
        (``intact``, and of agents with memory the lesions) what the study measures.
    """
    found = STUDIES[study].quick() if fast else STUDIES[study]
    start = time.monotonic()
    trained = found.train(agent, seeds, fast, folders)
    seconds = [(time.monotonic() - start) / len(seeds)] * len(seeds)
    if folders is not None:
        seconds = [trained_so_far(folder)[1] for folder in folders]
    measured = []
    for (model, history), seed, of_training in zip(trained, seeds, seconds, strict=True):
        plain: dict[str, Any] = {"history": history, "seconds": of_training}
        for state, (retrieve, encode) in LESIONS.items():
            if state == INTACT or agent != LSTM:
                plain[state] = found.act(model, seed, retrieve, encode)
        measured.append(plain)
    return measured
