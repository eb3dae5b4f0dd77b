"""The studies, by name; and a piece of one."""

from __future__ import annotations

import time
from typing import Any

from . import bandit, contextual_choice, two_step, water_maze
from .study import INTACT, LESIONS, LSTM
from .training import trained_so_far

STUDIES = {
    study.name: study for study in (contextual_choice.STUDY, bandit.STUDY, two_step.STUDY, water_maze.STUDY)
}


def train_and_measure(study: str, agent: str, seed: int, fast: bool, folder: str | None = None) -> dict[str, Any]:
    """One piece: an agent trained with a seed, and measured.

    Args:
        study: name of the task's study.
        agent: one of ``AGENTS``.
        seed: of all draws.
        fast: the fast setting.
        folder: for checkpoints.

    Returns:
        ``history``: mean reward of a step by call of ``learn()``; ``seconds`` of training; and of each state
        (``intact``, and of agents with memory the lesions) what the study measures.
    """
    found = STUDIES[study].quick() if fast else STUDIES[study]
    start = time.monotonic()
    model, history = found.train(agent, seed, fast, folder)
    seconds = time.monotonic() - start if folder is None else trained_so_far(folder)[1]
    plain: dict[str, Any] = {"history": history, "seconds": seconds}
    for state, (retrieve, encode) in LESIONS.items():
        if state == INTACT or agent != LSTM:
            plain[state] = found.act(model, seed, retrieve, encode)
    return plain
