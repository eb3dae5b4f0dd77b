"""What is chosen: the probabilities of people's choices from the read-out, and choices drawn from them.

The engine, the likelihood and the simulation of people use it; the graph has nodes for it, and the reference its
own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

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


def read_out(logits: Tensor, repeats: Tensor | None, values: Mapping[str, Any]) -> Tensor:
    """The read-out as it is in people, whose softmax is π_t; arguments as of ``log_probabilities``."""
    for name, parameter in PARAMETERS.items():
        if name in values and isinstance(parameter.place, ReadOut):
            logits = parameter.place.act(logits, values[name], repeats)
    return logits


def with_chances(policy: Tensor, values: Mapping[str, Any], axis: int = -1) -> Tensor:
    """p_t from π_t; ``values`` as of ``log_probabilities``."""
    for name, parameter in PARAMETERS.items():
        if name in values and isinstance(parameter.place, Chances):
            policy = parameter.place.act(policy, values[name], policy.shape[axis])
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
    log_p = torch.log_softmax(read_out(logits, repeats, values), axis)
    if not any(isinstance(PARAMETERS[name].place, Chances) for name in values):
        return log_p
    return torch.log(with_chances(torch.exp(log_p), values, axis))


def probabilities(person: Person, logits: np.ndarray, last: np.ndarray) -> np.ndarray:
    """p_t of a person: read-outs (..., A), choices made last (...) with -1 for none → (..., A)."""
    values = person.values(ReadOut) | person.values(Chances)
    if not values:
        return softmax(logits)
    repeats = torch.from_numpy(one_hot(last, logits.shape[-1]))
    return with_chances(torch.softmax(read_out(torch.from_numpy(logits), repeats, values), -1), values).numpy()


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


# ---- while rows are run ------------------------------------------------------------------------------------


class Choices(Protocol):
    """What has been chosen so far in rows that are run side by side."""

    last_choice: np.ndarray
    """(P, B), or (B,) of one agent: the latest choice; -1: none."""

    def act(self, policy: np.ndarray) -> Any:
        """Make the choices of the present step, given p_t (P, B, A), or (B, A) of one agent."""
        ...


class ChoicesOfTrials:
    """The choices on trials that are given, of environments side by side, from trial to trial.

    Args:
        shape: of the rows, (P, B).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.last_choice = np.full(shape, NO_CHOICE)

    def begin(self, luck: np.ndarray, asks: np.ndarray, actions: np.ndarray | None) -> None:
        """The next trial of each row: as in a ``Plan``, (P, B, T) each."""
        self._luck, self._asks, self._step = luck, asks, 0
        self._forced = np.full(luck.shape, NO_CHOICE) if actions is None else actions

    def act(self, policy: np.ndarray) -> None:
        """As of ``Choices``; those that are not forced are drawn."""
        here = (..., self._step)
        action = draw(policy, self._luck[here], self._asks[here])
        action = np.where(self._forced[here] == NO_CHOICE, action, self._forced[here])
        last = np.where(action == NO_CHOICE, self.last_choice, action)
        self.last_choice = last.reshape(self.last_choice.shape)
        self._step += 1


class Choosing:
    """How people choose in rows that are run side by side: p_t from the read-out, and its derivatives.

    Args:
        values: of the parameters that act on choices, (P, 1, B) each.
        choices: what has been chosen so far.
    """

    def __init__(self, values: Mapping[str, np.ndarray], choices: Choices) -> None:
        self._values = {name: torch.from_numpy(value) for name, value in values.items()}
        self._choices = choices
        self.last: list[np.ndarray] = []
        """Of each step that was run, the choices made before it: (P, B); empty if nobody perseverates."""

    def step(self, logits: np.ndarray) -> np.ndarray:
        """p_t of the next step from its read-out, (1, P, A, B) both."""
        if "perseveration" in self._values:
            shape = logits.shape[1], logits.shape[3]
            self.last.append(np.broadcast_to(self._choices.last_choice, shape))
        return self._both(torch.from_numpy(logits), slice(-1, None))[1].numpy()

    def trials(self, logits: np.ndarray) -> np.ndarray:
        """p_t of all steps of trials that are given, (T, P, A, B) both; the choices are made."""
        if "perseveration" not in self._values:
            return self._both(torch.from_numpy(logits))[1].numpy()
        policy = np.empty(logits.shape)
        for t in range(len(logits)):
            policy[t] = self.step(logits[t : t + 1])[0]
            self._choices.act(policy[t].swapaxes(-1, -2))
        return policy

    def before_chances(self, logits: np.ndarray) -> np.ndarray:
        """π_t of all steps that were run, (T, P, A, B)."""
        return self._both(torch.from_numpy(logits))[0].numpy()

    def by_logits(self, logits: np.ndarray, d_policy: np.ndarray) -> np.ndarray:
        """Derivatives by the read-outs from those by p_t, of all steps that were run: (T, P, A, B) all."""
        leaf = torch.tensor(logits).requires_grad_()
        with torch.enable_grad():
            policy = self._both(leaf)[1]
        return torch.autograd.grad(policy, leaf, torch.from_numpy(d_policy))[0].numpy()

    def _both(self, logits: Tensor, steps: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """π_t and p_t of these of the steps that were run."""
        repeats = None
        if self.last:
            made = one_hot(np.stack(self.last[steps]), logits.shape[2])
            repeats = torch.from_numpy(made.swapaxes(-1, -2))
        policy = torch.softmax(read_out(logits, repeats, self._values), 2)
        return policy, with_chances(policy, self._values, 2)
