"""What is chosen: the probabilities of a person's choices from the read-out, and choices drawn from them.

The engine, the likelihood and the simulation of people use it; the graph has nodes for it, and the reference its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .person import PARAMETERS, Chances, Person, ReadOut

NO_CHOICE = -1
"""In place of an action: no choice was made at this step."""


def last_choices(actions: np.ndarray) -> np.ndarray:
    """The latest choice before each step of a block: actions (n, T), -1 where none was made → (n, T), -1: none."""
    flat = np.concatenate([[NO_CHOICE], actions.ravel()[:-1]])[: actions.size]
    made = np.maximum.accumulate(np.where(flat == NO_CHOICE, 0, np.arange(flat.size)))
    return flat[made].reshape(actions.shape)


def one_hot(choices: np.ndarray, n_actions: int) -> np.ndarray:
    """Choices (...), -1: none → (..., A); zeros for none."""
    return (np.asarray(choices)[..., None] == np.arange(n_actions)).astype(float)


def draw(policy: np.ndarray, luck: np.ndarray, asks: np.ndarray | None = None) -> np.ndarray:
    """Actions (...) drawn from policies (..., A) by numbers in [0, 1) (...): inverse distribution function.

    ``asks`` (...) bool: where an answer is asked for; elsewhere, -1. None: everywhere.
    """
    edges = np.cumsum(policy, axis=-1)[..., :-1]
    action = (luck[..., None] >= edges).sum(-1)
    return action if asks is None else np.where(asks, action, NO_CHOICE)


def softmax(logits: np.ndarray, axis: int = -1) -> np.ndarray:
    """π_t from the read-out W_π h_t + b_π."""
    policy = np.exp(logits - logits.max(axis, keepdims=True))
    policy /= policy.sum(axis, keepdims=True)
    return policy


def log_probabilities(logits: Tensor, repeats: Tensor | None, values: Mapping[str, Any], axis: int = -1) -> Tensor:
    """log p_t of people, from the read-out W_π h_t + b_π; differentiable.

    Args:
        logits: the read-out, A along ``axis``.
        repeats: 1 for the choice made last, else 0; as the read-out. Needed only where a value asks for it.
        values: of the parameters that act here, numbers or tensors that go with the read-out; those that are not
            there are neutral, others are not used.
        axis: of the actions.
    """
    acting = [(p.place, values[name]) for name, p in PARAMETERS.items() if name in values]
    for place, value in acting:
        if isinstance(place, ReadOut):
            logits = place.act(logits, value, repeats)
    log_p = torch.log_softmax(logits, axis)
    chances = [(place, value) for place, value in acting if isinstance(place, Chances)]
    if not chances:
        return log_p
    p = torch.exp(log_p)
    for place, value in chances:
        p = place.act(p, value, logits.shape[axis])
    return torch.log(p)


def probabilities(person: Person, logits: np.ndarray, last: np.ndarray) -> np.ndarray:
    """p_t of a person: read-outs (..., A), choices made last (...) with -1 for none → (..., A)."""
    values = person.values(ReadOut) | person.values(Chances)
    if not values:
        return softmax(logits)
    repeats = torch.from_numpy(one_hot(last, logits.shape[-1]))
    return log_probabilities(torch.from_numpy(logits), repeats, values).exp().numpy()


def probabilities_of_block(
    person: Person, logits: np.ndarray, actions: np.ndarray | None, luck: np.ndarray, asks: np.ndarray
) -> np.ndarray:
    """p_t of a block of trials one after the other, given the person's own earlier choices: (n, T, A).

    Args:
        person: who chooses.
        logits: W_π h_t + b_π, (n, T, A).
        actions: (n, T) forced choices, -1 where none was made; None: they are drawn.
        luck: (n, T) in [0, 1), from which they are drawn.
        asks: (n, T) bool: where an answer is asked for.
    """
    if actions is not None or person.perseveration == 0:
        last = np.full(luck.shape, NO_CHOICE) if actions is None else last_choices(actions)
        return probabilities(person, logits, last)
    policy, choice = np.empty(logits.shape), np.array(NO_CHOICE)
    for place in np.ndindex(luck.shape):
        policy[place] = probabilities(person, logits[place], choice)
        if asks[place]:
            choice = draw(policy[place], luck[place])
    return policy
