"""What the environments of Ritter et al. (2018) have in common: settings, parallel worlds, policies, recording.

In these tasks the next input depends on the action, so the environment is in the loop.

- An *epoch* is what lies between two clearings of the episodic memory.
- An *episode* is a sequence of T steps, at whose start the LSTM's state is reset.
- An *exposure* is the n-th episode of an epoch with the same context (1, 2, ...).

``worlds(rngs)`` of a task gives M copies that run in lockstep. World e draws from ``rngs[e]`` alone, a whole
epoch at a time and whatever the actions are. So it is the world that the same generator makes alone, and two
agents that get equal generators meet the same contexts, the same luck and the same order.

    worlds = task.worlds([np.random.default_rng(seed) for seed in range(M)])
    worlds.begin_epoch()                            # here the agent's memories are cleared
    for _ in range(task.episodes):
        worlds.begin_episode()                      # here the agent's state is reset
        for _ in range(task.length):
            actions = agent(worlds.inputs, worlds.retrieve, worlds.encode)
            rewards = worlds.act(actions)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

MAX_BARCODE_BITS = 62
"""Barcodes are drawn as whole numbers of 64 bits."""


class Task(Protocol):
    """Settings of an environment: a frozen dataclass with these properties."""

    @property
    def input_size(self) -> int:
        """Columns of x_t, D: what the task shows, then the one-hot previous action, then the previous reward."""
        ...

    @property
    def n_actions(self) -> int:
        """Actions, A."""
        ...

    @property
    def key_columns(self) -> tuple[int, int]:
        """The (start, stop) columns of the barcode in x_t: the key of the episodic memory."""
        ...

    @property
    def length(self) -> int:
        """Steps of an episode, T."""
        ...

    @property
    def episodes(self) -> int:
        """Episodes of an epoch."""
        ...

    @property
    def reward_range(self) -> tuple[float, float]:
        """The least and the greatest reward of a step."""
        ...

    @property
    def chance(self) -> float:
        """Expected reward of random actions, for each step at which an action counts."""
        ...

    def worlds(self, rngs: Sequence[np.random.Generator]) -> Worlds:
        """M parallel copies, one for each generator."""
        ...


class Worlds(ABC):
    """M copies of a task in lockstep; made by the task's ``worlds(rngs)``.

    Raises:
        TypeError: rngs is not a sequence of ``numpy.random.Generator``.
        ValueError: rngs is empty, or holds the same generator twice.
    """

    inputs: np.ndarray
    """(M, D) float: x_t of the present step. A new array at each step. After the last step, what would follow."""
    context: np.ndarray
    """(M,) int: the context of the present episode, from 0; the numbers are those of the epoch."""
    reads: bool = True
    """False lesions the agent: it retrieves nothing, whatever ``retrieve`` says."""
    stores: bool = True
    """False: it encodes nothing."""
    exposure: np.ndarray
    """(M,) int: how often the epoch has shown the context, this episode included (1, 2, ...)."""

    def __init__(self, task: Task, rngs: Sequence[np.random.Generator]) -> None:
        self.task = task
        self._name = name = type(task).__name__
        if isinstance(rngs, np.random.Generator) or not isinstance(rngs, Sequence):
            raise TypeError(
                f"{name}.worlds: rngs must be a list of numpy.random.Generator, one a world, such as "
                f"[numpy.random.default_rng(0)]; got {type(rngs).__name__}."
            )
        for rng in rngs:
            if not isinstance(rng, np.random.Generator):
                raise TypeError(
                    f"{name}.worlds: each world needs a numpy.random.Generator, such as "
                    f"numpy.random.default_rng(0); got {type(rng).__name__}."
                )
        if not rngs:
            raise ValueError(f"{name}.worlds: needs at least one generator; got none.")
        if len({id(rng) for rng in rngs}) < len(rngs):
            raise ValueError(
                f"{name}.worlds: two worlds share a generator, so neither would be as if made alone. Make one "
                "for each, as in numpy.random.default_rng(0).spawn(M)."
            )
        self.rngs = tuple(rngs)
        self.n = len(rngs)
        """Worlds, M."""
        self.episode: int | None = None
        """The present episode within its epoch, from 0; None before the first."""
        self._length, self._n_actions, self._input_size = task.length, task.n_actions, task.input_size
        self.step = self._length
        """Steps taken in the present episode: 0 at its start, T when it is over."""
        self._rows = np.arange(self.n)
        self._epoch: dict[str, np.ndarray] | None = None
        self._facts: dict[str, np.ndarray] | None = None
        self._on, self._off = np.ones(self.n, bool), np.zeros(self.n, bool)
        for switch in (self._on, self._off):  # they are handed out again and again
            switch.flags.writeable = False

    # ---- what a task fills in ------------------------------------------------------------------------

    @abstractmethod
    def _draw_epoch(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """All that is random in one world's epoch; ``context`` and ``exposure`` (episodes,) among it."""

    @abstractmethod
    def _start(self) -> None:
        """Begin episode ``self.episode``."""

    @abstractmethod
    def _move(self, actions: np.ndarray) -> np.ndarray:
        """Take ``actions`` at ``self.step``: set ``self._facts`` and return the rewards, (M,) float."""

    @abstractmethod
    def _shown(self) -> np.ndarray:
        """What x_t has before the previous action and reward, at ``self.step``: (M, D − A − 1)."""

    def _shows_previous(self) -> bool:
        """Whether x_t has the previous action and reward; otherwise these columns are 0."""
        return self.step > 0

    # ---- switches ------------------------------------------------------------------------------------

    @property
    def encode(self) -> np.ndarray:
        """(M,) bool: whether the agent stores its (key, c_t) at this step; here, at the last of an episode."""
        return self._on if self.step == self._length - 1 else self._off

    @property
    def retrieve(self) -> np.ndarray:
        """(M,) bool: whether the agent reads its memory at this step; here, at all steps."""
        return self._on if self.step < self._length else self._off

    @property
    def asks(self) -> np.ndarray:
        """(M,) bool: whether an answer is asked for at this step; here, at all steps. Elsewhere ``act`` gets 0."""
        return self._on

    # ---- the course of things ------------------------------------------------------------------------

    def begin_epoch(self) -> None:
        """Draw a new epoch in every world; ``begin_episode`` comes next."""
        draws = [self._draw_epoch(rng) for rng in self.rngs]
        self._epoch = {name: np.stack([draw[name] for draw in draws]) for name in draws[0]}
        self.episode, self.step, self._facts = None, self._length, None

    def begin_episode(self) -> None:
        """Begin the next episode of the epoch; an unfinished one is left as it is.

        Raises:
            ValueError: no epoch was begun, or its episodes are used up.
        """
        if self._epoch is None:
            raise ValueError(f"{self._name}: begin_epoch() must come before the first begin_episode().")
        episode = 0 if self.episode is None else self.episode + 1
        if episode >= self.task.episodes:
            raise ValueError(
                f"{self._name}: the epoch's {self.task.episodes} episodes are used up; call begin_epoch()."
            )
        self.episode, self.step, self._facts = episode, 0, None
        self.context = self._epoch["context"][:, episode]
        self.exposure = self._epoch["exposure"][:, episode]
        self._start()
        self._see(None, None)

    def act(self, actions: np.ndarray) -> np.ndarray:
        """Take one action in each world and move to the next step.

        Args:
            actions: (M,) int, each from 0 to A − 1.

        Returns:
            The rewards, (M,) float.

        Raises:
            ValueError: an action is not one of 0 … A − 1, their number is not M, or the episode is over.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.n,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"{self._name}: actions must be {self.n} whole numbers, one a world, in an array of shape "
                f"({self.n},); got shape {actions.shape} and type {actions.dtype}."
            )
        if actions.min() < 0 or actions.max() >= self._n_actions:
            wrong = actions[(actions < 0) | (actions >= self._n_actions)][0]
            raise ValueError(f"{self._name}: actions run from 0 to {self._n_actions - 1}; got {wrong}.")
        if self.step >= self._length:
            raise ValueError(
                f"{self._name}: no episode is under way (an episode has {self._length} steps); "
                "call begin_episode()."
            )
        rewards = self._move(actions)
        self.step += 1
        self._see(actions, rewards)
        return rewards

    def facts(self) -> dict[str, np.ndarray]:
        """What an analysis needs to know of the step just taken: (M,) arrays, with ``action`` and ``reward``.

        Raises:
            ValueError: no step of the present episode has been taken.
        """
        if self._facts is None:
            raise ValueError(f"{self._name}: facts() tell of the step just taken; call act(actions) first.")
        return dict(self._facts)

    def _see(self, actions: np.ndarray | None, rewards: np.ndarray | None) -> None:
        """Fill ``inputs``; an array of its own each time, so that a caller can keep it."""
        shown = self._shown()
        width = shown.shape[1]
        inputs = np.zeros((self.n, self._input_size))
        inputs[:, :width] = shown
        if self._shows_previous():
            inputs[self._rows, width + actions] = 1
            inputs[:, -1] = rewards
        self.inputs = inputs


class Policy:
    """An agent that sees what a network sees: baselines derive from it."""

    def begin_epoch(self, n_worlds: int) -> None:
        """Forget all that was stored; n_worlds = M."""

    def begin_episode(self, n_worlds: int) -> None:
        """Reset what lasts for an episode; n_worlds = M."""

    def act(self, inputs: np.ndarray) -> np.ndarray:
        """The actions (M,) for the inputs (M, D) of the present step."""
        raise NotImplementedError


class RandomPolicy(Policy):
    """All actions equally often: the agent at chance level."""

    def __init__(self, task: Task, rng: np.random.Generator) -> None:
        self.n_actions, self.rng = task.n_actions, rng

    def act(self, inputs: np.ndarray) -> np.ndarray:
        """Draw the actions (M,)."""
        return self.rng.integers(0, self.n_actions, len(inputs))


def play(worlds: Worlds, policy: Policy, episodes: int) -> dict[str, np.ndarray]:
    """Let a policy act, and record the facts of each step.

    Begins a new epoch, and further ones when an epoch's episodes are used up. A network's own loop can make the
    same record from ``worlds.facts()``: the analyses of a task need no more.

    Args:
        worlds: the M worlds.
        policy: who acts.
        episodes: episodes in each world.

    Returns:
        The facts, (episodes, M, T) each, and of each episode ``episode`` (its number within the epoch),
        ``context`` and ``exposure``, (episodes, M) each.

    Raises:
        ValueError: episodes is not a whole number ≥ 1.
    """
    if not is_whole(episodes) or episodes < 1:
        raise ValueError(f"play: episodes must be a whole number ≥ 1; got {episodes!r}.")
    steps: list[dict[str, np.ndarray]] = []
    heads: list[dict[str, np.ndarray]] = []
    for e in range(episodes):
        if e % worlds.task.episodes == 0:
            worlds.begin_epoch()
            policy.begin_epoch(worlds.n)
        worlds.begin_episode()
        policy.begin_episode(worlds.n)
        number = np.full(worlds.n, worlds.episode)
        heads.append({"episode": number, "context": worlds.context, "exposure": worlds.exposure})
        for _ in range(worlds.task.length):
            worlds.act(policy.act(worlds.inputs))
            steps.append(worlds.facts())
    shape = (episodes, worlds.task.length, worlds.n)
    record = {name: np.stack([step[name] for step in steps]).reshape(shape).swapaxes(1, 2) for name in steps[0]}
    return record | {name: np.stack([head[name] for head in heads]) for name in heads[0]}


# ---- draws that tasks share ------------------------------------------------------------------------------


def draw_barcodes(n: int, bits: int, rng: np.random.Generator) -> np.ndarray:
    """n different barcodes, (n, bits) of 0 and 1; all zeros is none of them (it has no direction for a cosine)."""
    numbers = rng.choice(2**bits - 1, n, replace=False) + 1
    return (numbers[:, None] >> np.arange(bits)) & 1


def draw_bag(contexts: int, exposures: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bag that holds each context ``exposures`` times, drawn from without replacement: the whole order.

    Returns:
        The context of each episode and which exposure to it that is (1, 2, ...), both (contexts · exposures,).
    """
    order = rng.permutation(np.repeat(np.arange(contexts), exposures))
    exposure = np.cumsum(order[:, None] == np.arange(contexts), axis=0)[np.arange(len(order)), order]
    return order, exposure


# ---- checks of settings ----------------------------------------------------------------------------------


def is_whole(value: Any) -> bool:
    """Whether value is a whole number (a bool is none)."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_whole(task: Any, **least: int) -> None:
    """Raise ValueError unless each named setting is a whole number that is at least the given one."""
    for name, limit in least.items():
        value = getattr(task, name)
        if not is_whole(value) or value < limit:
            raise ValueError(f"{type(task).__name__}: {name} must be a whole number ≥ {limit}; got {value!r}.")


def check_probabilities(task: Any, *names: str) -> None:
    """Raise ValueError unless each named setting is a number from 0 to 1."""
    for name in names:
        value = getattr(task, name)
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not number or not 0 <= value <= 1:
            raise ValueError(f"{type(task).__name__}: {name} must be a probability, 0 to 1; got {value!r}.")


def check_barcodes(task: Any, contexts: int, of: str) -> None:
    """Raise ValueError unless ``barcode_bits`` bits give as many different barcodes as there are contexts."""
    check_whole(task, barcode_bits=1)
    bits, name = task.barcode_bits, type(task).__name__
    if bits > MAX_BARCODE_BITS:
        raise ValueError(f"{name}: barcode_bits must not exceed {MAX_BARCODE_BITS}; got {bits}.")
    if contexts > 2**bits - 1:
        raise ValueError(
            f"{name}: {of} ({contexts}) must not exceed the {2**bits - 1} different barcodes of "
            f"{bits} bits; raise barcode_bits."
        )
