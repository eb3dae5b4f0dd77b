"""Where the inputs of a run come from: trials that are given, or worlds that answer to actions.

Both are asked in the same way: the engine runs the ``stretches`` of steps in their order, asks for their inputs,
and hands on what was chosen. Axes: P agents, B rows side by side, T steps.

An *episode* is a trial of T steps in a world, at whose start the recurrent state is new. An *epoch* is what lies
between two clearings of the memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from ..tasks.environment import Worlds
from ..tasks.trials import Trials
from .choices import NO_CHOICE, draw
from .products import product


class Source:
    """What the engine asks for."""

    length: int
    """Steps, T."""
    stretches: list[slice]
    """Steps that are run at once, in their order."""
    answers: bool
    """Whether what is shown depends on what was chosen before."""

    def x(self, steps: slice) -> np.ndarray:
        """x_t of these steps: (P, B, steps, D)."""
        raise NotImplementedError

    def switch(self, steps: slice) -> np.ndarray | None:
        """By what the retrieved value is multiplied: (P, B, steps); None: 1."""
        raise NotImplementedError

    def stores(self, steps: slice) -> np.ndarray | None:
        """Which of these steps store: (P, B, steps) bool; None: none."""
        raise NotImplementedError

    def drive(self, input_weight: np.ndarray, bias: np.ndarray, steps: slice, out: np.ndarray) -> None:
        """W_x x_t + b_x + b_h of these steps: weights (P, 5H, D), biases (P, 5H) → out (steps, P, 5H, B)."""
        x = self.x(steps)
        if x.shape[1] == 1:  # one product an agent, in place of one a step
            np.matmul(x[:, 0], input_weight.swapaxes(-1, -2), out=out[..., 0].swapaxes(0, 1))
        else:
            for x_t, drive_t in zip(x.transpose(2, 0, 3, 1), out, strict=True):
                product(input_weight, x_t, out=drive_t)
        out += bias[..., None]

    def act(self, policy: np.ndarray) -> None:
        """Take the policies (P, B, A) of the step just run, where the source answers."""
        raise NotImplementedError


class GivenTrials(Source):
    """B trials side by side, of each of P agents.

    Args:
        inputs: x_t, (P, B, T, D).
        retrieve: (P, B, T), by what the retrieved value is multiplied: 1, or 0 where nothing is; None: 1
            everywhere.
        encode: (P, B, T) bool: the steps that store; None: none does.
        stretches: steps that are run at once; None: all, but for what the trials themselves store and read.
    """

    answers = False

    def __init__(
        self,
        inputs: np.ndarray,
        retrieve: np.ndarray | None = None,
        encode: np.ndarray | None = None,
        stretches: list[slice] | None = None,
    ) -> None:
        self.inputs, self.retrieve, self.encode = inputs, retrieve, encode
        self.length = inputs.shape[2]
        if stretches is None:
            stretches = [slice(0, self.length)] if encode is None else stretches_between(encode, retrieve)
        self.stretches = stretches

    def x(self, steps: slice) -> np.ndarray:
        """As of ``Source``, like all that follow."""
        return self.inputs[:, :, steps]

    def switch(self, steps: slice) -> np.ndarray | None:
        """(P, B, steps)"""
        return None if self.retrieve is None else self.retrieve[:, :, steps]

    def stores(self, steps: slice) -> np.ndarray | None:
        """(P, B, steps)"""
        return None if self.encode is None else self.encode[:, :, steps]


def stretches_between(encode: np.ndarray, retrieve: np.ndarray | None) -> list[slice]:
    """Steps that can be run at once: cut after each encoding that a later retrieval could find.

    Args:
        encode, retrieve: (..., T), the steps at which any of the trials stores and reads; None: all read.
    """
    length = encode.shape[-1]
    stores = encode.reshape(-1, length).any(0)
    last_read = length - 1
    if retrieve is not None:
        reads = np.flatnonzero(np.any(retrieve.reshape(-1, length) != 0, axis=0))
        last_read = int(reads[-1]) if len(reads) else -1
    edges = [0, *(int(t) + 1 for t in np.flatnonzero(stores) if t < last_read), length]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]


class Interaction(Source):
    """Episodes of worlds, one after the other, within an epoch or through several; the source of each.

    At each step it gives what the worlds show, takes the policies, draws the actions by numbers that were drawn
    beforehand, and lets the worlds move on. So the same seeds give all models, on each of their paths, the same
    draws, and equal policies lead through equal episodes. It keeps what happened: of each of P agents in M worlds
    of its own, row k · M + e is episode k of world e. Agent p has worlds p · M to p · M + M − 1.

    Args:
        worlds: P · M of them, at the beginning of an epoch, or between two episodes of it.
        luck: (P, n, T) in [0, 1), which decides each choice.
        actions: (P, n, T) forced choices; None: they are drawn.
        epoch: episodes after which another epoch begins.
        forget: called when it does, to clear the memories.
        encoded: (P, n) bool: whether each episode is encoded; None: all are. In an episode that returns to a
            context nothing is retrieved if the latest that has stored there was not encoded (see ``person``).
    """

    answers = True

    def __init__(
        self,
        worlds: Worlds,
        luck: np.ndarray,
        actions: np.ndarray | None,
        epoch: int,
        forget: Callable[[], object],
        encoded: np.ndarray | None = None,
    ) -> None:
        self.worlds, self._luck, self._actions = worlds, luck, actions
        self.epoch, self._forget, self._is_encoded = epoch, forget, encoded
        agents, n, self.length = luck.shape
        self.side_by_side = agents, worlds.n // agents
        """P, M."""
        self._begin_epoch()
        self.stretches = [slice(t, t + 1) for t in range(self.length)]
        self.inputs_seen = np.zeros((*luck.shape, worlds.task.input_size))
        """(P, n, T, D); what happened at each step is (P, n, T), as luck is."""
        self.encoded, self.retrieved = np.zeros((2, *luck.shape), bool)
        self.action, self.reward = np.zeros(luck.shape, np.int64), np.zeros(luck.shape)
        self.context, self.exposure = np.zeros((2, agents, n), np.int64)
        self.facts: dict[str, np.ndarray] = {}
        self.rows, self.step = slice(0, 0), 0

    # ---- what a model asks for

    @property
    def inputs(self) -> np.ndarray:
        """x_t of the worlds, (P · M, D)."""
        return self.worlds.inputs

    @property
    def retrieve(self) -> np.ndarray:
        """(P · M,) bool: whether the memory is read at this step."""
        reads = self.worlds.retrieve & self.worlds.reads
        return reads if self._is_encoded is None else reads & self._recalled

    @property
    def encode(self) -> np.ndarray:
        """(P · M,) bool: whether (key, c_t) is stored at this step."""
        return self.worlds.encode & self.worlds.stores

    def begin(self, first: int) -> None:
        """Begin the next episode of all worlds, where due that of another epoch: rows first ... first + M − 1."""
        episode, together = first // self.side_by_side[1], self.side_by_side[1]
        if episode and episode % self.epoch == 0:
            self.worlds.begin_epoch()
            self._forget()
            self._begin_epoch()
        self.worlds.begin_episode()
        self.rows, self.step = slice(first, first + together), 0
        self.context[:, self.rows] = self._by_agent(self.worlds.context)
        self.exposure[:, self.rows] = self._by_agent(self.worlds.exposure)
        of_context = zip(self._of_context, self.worlds.context.tolist(), strict=True)
        self._recalled = np.array([of_world.get(context, True) for of_world, context in of_context])
        self._see()

    def _begin_epoch(self) -> None:
        self.last_choice = np.full(self.side_by_side, NO_CHOICE)
        """(P, M): the latest choice of the epoch in each world; -1: none."""
        self._of_context: list[dict[int, bool]] = [{} for _ in range(self.worlds.n)]
        self._recalled = np.ones(self.worlds.n, bool)

    def act(self, policy: np.ndarray) -> None:
        """Draw an action for each world from the policies (P, M, A), where none is forced, and take it."""
        here = slice(None), self.rows, self.step
        action = draw(policy, self._luck[here]) if self._actions is None else self._actions[here]
        self.take(action.ravel())

    def take(self, action: np.ndarray) -> np.ndarray:
        """Take the actions (P · M,), go on to the next step, and give the rewards (P · M,)."""
        here, asks = (slice(None), self.rows, self.step), self.worlds.asks
        self.action[here] = made = self._by_agent(np.where(asks, action, NO_CHOICE))
        self.last_choice = np.where(made == NO_CHOICE, self.last_choice, made)
        rewards = self.worlds.act(np.where(asks, action, 0))
        self.reward[here] = self._by_agent(rewards)
        for name, values in self.worlds.facts().items():
            if name not in self.facts:
                self.facts[name] = np.zeros(self.action.shape, np.asarray(values).dtype)
            self.facts[name][here] = self._by_agent(np.asarray(values))
        self.step += 1
        if self.step < self.length:
            self._see()
        return rewards

    def _see(self) -> None:
        here = slice(None), self.rows, self.step
        encode = self.encode
        self.inputs_seen[here] = self._by_agent(self.inputs)
        self.encoded[here], self.retrieved[here] = self._by_agent(encode), self._by_agent(self.retrieve)
        if self._is_encoded is not None:
            kept = self._is_encoded[:, self.rows].ravel()
            for e in np.flatnonzero(encode).tolist():
                self._of_context[e][int(self.worlds.context[e])] = bool(kept[e])

    def _by_agent(self, array: np.ndarray) -> np.ndarray:
        """(P · M, ...) → (P, M, ...)"""
        return array.reshape(*self.side_by_side, *array.shape[1:])

    # ---- as the engine asks: what has been shown of the present episode

    def x(self, steps: slice) -> np.ndarray:
        """x_t of these steps: (P, M, steps, D)."""
        return self.inputs_seen[:, self.rows, steps]

    def switch(self, steps: slice) -> np.ndarray | None:
        """Whether the memory is read: (P, M, steps)."""
        return self.retrieved[:, self.rows, steps]

    def stores(self, steps: slice) -> np.ndarray | None:
        """Whether (key, c_t) is stored: (P, M, steps)."""
        return self.encoded[:, self.rows, steps]

    # ---- what has happened

    def trials(self, agent: int = 0) -> Trials:
        """An agent's episodes as trials, with what it saw; targets are the actions it took, -1 where no answer was
        asked for."""
        return Trials(
            self.inputs_seen[agent],
            self.action[agent],
            self.encoded[agent],
            self.retrieved[agent],
            context=self.context[agent],
            encounter=self.exposure[agent],
        )
