"""One engine under every path: run the equations on a source of inputs, and go back through what happened.

``run(weights, source, memory, ...) → Trace`` and ``backward(trace, ...) → Gradients`` serve learn()'s fast path,
nested agents, ``simulate``, the environment in the loop, cohorts, and the likelihood. They are arrays alone:
nothing here knows of PsyNeuLink. The equations of a step are in ``cell.py``, the memory's in ``bank.py`` and
``match.py``.

Axes: T steps, P agents with weights of their own, features, B rows. What is given out for records and losses has
the axes (P, B, T, ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

from .cell import Backward, States, advance
from .choices import Choosing, softmax
from .match import NOTHING
from .products import sum_of_products
from .records import RETRIEVED
from .source import Source
from .weights import GATE_ORDER


class Memory(Protocol):
    """What the engine asks of a memory; ``RingMemory`` is one."""

    follows: bool

    def read(self, source: Any, steps: slice) -> Any:
        """What these steps retrieve; its ``values`` (steps, P, H, B) are before the tanh."""
        ...

    def write(self, source: Any, steps: slice, cells: np.ndarray) -> Any:
        """Store where these steps say so, given c_t (steps, P, H, B)."""
        ...

    def add_stored(self, stored: Any, d_cells: np.ndarray) -> None:
        """Add to δc_t (T, P, H, B) what comes from later reads of what was stored."""
        ...

    def back(self, read: Any, d_values: np.ndarray) -> None:
        """Go back from what was read, by δ of its ``values``."""
        ...


@dataclass(eq=False)
class Weights:
    """Weights of P agents: as ``weight_shapes`` has them, with an axis of agents in front."""

    input_weight: np.ndarray
    """(P, 5H, D)"""
    bias: np.ndarray
    """(P, 5H): the sum of the two biases, whose gradients are equal."""
    hidden_weight: np.ndarray
    """(P, 5H, H)"""
    actor_weight: np.ndarray
    """(P, A, H)"""
    actor_bias: np.ndarray
    """(P, A)"""
    critic_weight: np.ndarray
    """(P, 1, H)"""
    critic_bias: np.ndarray
    """(P, 1)"""
    memory_weight: np.ndarray | None = None
    """(P, 5H, H): of m_t as an input; None: m_t is reinstated."""

    @classmethod
    def of(cls, weights: Mapping[str, np.ndarray]) -> Weights:
        """From arrays by the names of ``weight_shapes``, each with an axis of agents in front."""
        rest = {name: a for name, a in weights.items() if name not in ("input_bias", "hidden_bias")}
        return cls(bias=weights["input_bias"] + weights["hidden_bias"], **rest)


@dataclass(eq=False)
class Stretch:
    """Steps that were run at once, what they read before and stored after."""

    steps: slice
    read: Any
    stored: Any


@dataclass(eq=False)
class Trace:
    """What happened in B rows of T steps of P agents."""

    weights: Weights
    x: np.ndarray
    """(P, B, T, D)"""
    states: States
    logits: np.ndarray
    """(T, P, A, B): the read-out W_π h_t + b_π."""
    stretches: list[Stretch]
    chosen_by: np.ndarray | None = None
    """(T, P, A, B): the probabilities by which was chosen while it was run; None: nothing was."""
    choosing: Choosing | None = None
    """How people choose; None: as the trained agent does."""

    @cached_property
    def choice_policy(self) -> np.ndarray:
        """(T, P, A, B): p_t, which is π_t but for people."""
        return softmax(self.logits, 2) if self.chosen_by is None else self.chosen_by

    @property
    def before_chances(self) -> np.ndarray:
        """(P, B, T, A): π_t."""
        if self.choosing is None:
            return self.policy
        return self._by_row(self.choosing.before_chances(self.logits))

    def by_logits(self, d_policy: np.ndarray) -> np.ndarray:
        """Derivatives by the read-out from those by p_t, which are overwritten: (T, P, A, B)."""
        if self.choosing is not None:
            return self.choosing.by_logits(self.logits, d_policy)
        d_policy *= self.choice_policy
        d_policy -= self.choice_policy * d_policy.sum(2, keepdims=True)
        return d_policy

    @cached_property
    def values(self) -> np.ndarray:
        """(T, P, B): v_t."""
        values = np.matmul(self.weights.critic_weight, self.states.hiddens[1:])[:, :, 0]
        values += self.weights.critic_bias
        return values

    @staticmethod
    def _by_row(array: np.ndarray) -> np.ndarray:
        """(T, P, size, B) → (P, B, T, size)"""
        return array.transpose(1, 3, 0, 2)

    @property
    def policy(self) -> np.ndarray:
        """(P, B, T, A): p_t."""
        return self._by_row(self.choice_policy)

    @property
    def value(self) -> np.ndarray:
        """(P, B, T): v_t."""
        return self.values.transpose(1, 2, 0)

    @property
    def hidden(self) -> np.ndarray:
        """(P, B, T, H): h_t."""
        return self._by_row(self.states.hiddens[1:])

    @property
    def cell(self) -> np.ndarray:
        """(P, B, T, H): c_t."""
        return self._by_row(self.states.cells[1:])

    @property
    def memory(self) -> np.ndarray:
        """(P, B, T, H): m_t."""
        return np.zeros(self.hidden.shape) if self.states.memory is None else self._by_row(self.states.memory)

    @property
    def gates(self) -> np.ndarray:
        """(P, B, T, 5, H): f_t, i_t, o_t, r_t and the candidate."""
        length, agents, _, rows = self.states.gates.shape
        gates = self.states.gates.reshape(length, agents, len(GATE_ORDER), -1, rows)
        return gates.transpose(1, 4, 0, 2, 3)

    @property
    def retrieved(self) -> dict[str, np.ndarray]:
        """Which entries were retrieved, by the names of a ``TrialRecord``: (P, B, T) each."""
        length, agents, _, rows = self.states.squashed.shape
        found = np.empty((len(RETRIEVED), agents, rows, length))
        for stretch in self.stretches:
            none = stretch.read is None
            found[..., stretch.steps] = NOTHING[:, None, None, None] if none else stretch.read.retrieved
        return dict(zip(RETRIEVED, found, strict=True))

    def record(self, agent: int = 0, retrieved: bool = True) -> dict[str, np.ndarray]:
        """What a ``TrialRecord`` holds of an agent, (B, T, ...) each; with which entries were retrieved, or
        without."""
        found = {"policy": self.policy[agent], "value": self.value[agent]}
        found |= {"hidden": self.hidden[agent], "cell": self.cell[agent], "memory": self.memory[agent]}
        found["gates"] = self.gates[agent, :, :, :4]
        return found | ({name: array[agent] for name, array in self.retrieved.items()} if retrieved else {})


def run(
    weights: Weights,
    source: Source,
    memory: Memory | None,
    h0: np.ndarray,
    c0: np.ndarray,
    *,
    drive: Mapping[str, Any] | None = None,
    choosing: Choosing | None = None,
) -> Trace:
    """Run B rows of P agents side by side.

    Args:
        weights: of the P agents.
        source: of the inputs, a round of trials or an episode that has begun.
        memory: the episodic memories; None: a plain LSTM.
        h0, c0: (P, B, H), the states before the first step.
        drive: what people add to the drive of gates, by the gate's name: numbers, or arrays that go with (P, H,
            B).
        choosing: how people choose; None: as the trained agent does.
    """
    reinstates = weights.memory_weight is None
    states = States.begin(source.length, h0.swapaxes(-1, -2), c0.swapaxes(-1, -2), memory is not None, reinstates)
    actions = weights.actor_weight.shape[1]
    logits = np.empty((source.length, len(h0), actions, h0.shape[1]))
    policy = np.empty(logits.shape) if source.answers else None
    stretches = []
    for steps in source.stretches:
        source.drive(weights.input_weight, weights.bias, steps, states.gates[steps])
        for gate, added in (drive or {}).items():
            states.gate(GATE_ORDER.index(gate), steps)[...] += added
        read = stored = None
        if memory is not None:
            assert states.memory is not None
            read = memory.read(source, steps)
            states.memory[steps] = read.values
            torch.from_numpy(states.memory[steps]).tanh_()
            if weights.memory_weight is not None:
                states.gates[steps] += np.matmul(weights.memory_weight, states.memory[steps])
        advance(states, steps, weights.hidden_weight)
        after = slice(steps.start + 1, steps.stop + 1)
        if memory is not None:
            stored = memory.write(source, steps, states.cells[after])
        stretches.append(Stretch(steps, read, stored))
        if policy is not None:
            _read_out(weights, states.hiddens[after], logits[steps])
            policy[steps] = softmax(logits[steps], 2) if choosing is None else choosing.step(logits[steps])
            source.act(policy[steps.start].swapaxes(-1, -2))
    if not source.answers:
        _read_out(weights, states.hiddens[1:], logits)
        policy = None if choosing is None else choosing.trials(logits)
    return Trace(weights, source.x(slice(0, source.length)), states, logits, stretches, policy, choosing)


def _read_out(weights: Weights, hiddens: np.ndarray, logits: np.ndarray) -> None:
    """W_π h_t + b_π: (steps, P, H, B) → (steps, P, A, B)."""
    np.matmul(weights.actor_weight, hiddens, out=logits)
    logits += weights.actor_bias[..., None]


# ---- backwards ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Gradients:
    """As ``Weights``; None for that on which the loss does not depend."""

    input_weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    hidden_weight: np.ndarray | None = None
    actor_weight: np.ndarray | None = None
    actor_bias: np.ndarray | None = None
    critic_weight: np.ndarray | None = None
    critic_bias: np.ndarray | None = None
    memory_weight: np.ndarray | None = None
    back: Backward | None = None
    """Derivatives by the drives, the cell states, and the states before the first step; of one trace."""

    def by_weight(self) -> dict[str, np.ndarray]:
        """Those that there are, by name."""
        return {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}

    def add(self, other: Gradients) -> None:
        """Add those of another part of the loss."""
        for name, array in other.by_weight().items():
            mine = getattr(self, name)
            setattr(self, name, array if mine is None else mine + array)


def backward(
    trace: Trace,
    d_policy: np.ndarray | None = None,
    d_value: np.ndarray | None = None,
    d_hidden: np.ndarray | None = None,
    d_cell: np.ndarray | None = None,
    *,
    d_gates: np.ndarray | None = None,
    memory: Memory | None = None,
    unroll: int | None = None,
) -> Gradients:
    """Gradients of a loss by the weights.

    Args:
        trace: what ``run`` gave.
        d_policy, d_value, d_hidden, d_cell: the loss's derivatives by p_t, v_t, h_t and c_t, each (P, B, T, ...);
            None for those on which it does not depend.
        d_gates: by the gates and the candidate, (P, B, T, 5, H), where something else depends on them.
        memory: of the run, if gradients are to flow through it.
        unroll: steps of a stretch, from one of which nothing flows back into the one before; None: all steps.
    """
    found, weights, states = Gradients(), trace.weights, trace.states
    through = memory is not None and memory.follows
    if all(d is None for d in (d_policy, d_value, d_hidden, d_cell, d_gates)) and not through:
        return found
    before, after = states.hiddens[:-1], states.hiddens[1:]
    to_hidden = np.zeros_like(states.squashed) if d_hidden is None else _features_first(d_hidden)
    if d_policy is not None:
        d_logits = trace.by_logits(_features_first(d_policy))
        to_hidden += np.matmul(weights.actor_weight.swapaxes(-1, -2), d_logits)
        found.actor_weight, found.actor_bias = sum_of_products(d_logits, after), _summed(d_logits)
    if d_value is not None:
        d_values = np.ascontiguousarray(d_value.transpose(2, 0, 1))[:, :, None]
        to_hidden += d_values * weights.critic_weight.swapaxes(-1, -2)
        found.critic_weight, found.critic_bias = sum_of_products(d_values, after), _summed(d_values)
    back = Backward(
        states,
        weights.hidden_weight,
        to_hidden,
        None if d_cell is None else _features_first(d_cell),
        None if d_gates is None else _features_first(d_gates.reshape(*d_gates.shape[:3], -1)),
        unroll,
    )
    if through:
        go_back_through(trace, back, memory)  # type: ignore[arg-type]
    else:
        back.stretch(slice(0, len(states.gates)))
    found.back, d_drive = back, back.d_drive
    found.input_weight = sum_of_products(d_drive, trace.x.transpose(2, 0, 3, 1))
    found.hidden_weight, found.bias = sum_of_products(d_drive, before), _summed(d_drive)
    if weights.memory_weight is not None and states.memory is not None:
        found.memory_weight = sum_of_products(d_drive, states.memory)
    return found


def backward_of_update(
    traces: Sequence[Trace],
    slopes: Sequence[Sequence[np.ndarray | None]],
    memory: Memory | None = None,
    unroll: int | None = None,
) -> Gradients:
    """Gradients of the loss of one update by the weights.

    Args:
        traces: what was run for it, one after the other.
        slopes: of each, the loss's derivatives by p_t, v_t, h_t and c_t.
        memory, unroll: as of ``backward``, as are the derivatives.
    """
    found = Gradients()
    for trace, own in zip(reversed(traces), reversed(slopes), strict=True):  # the last has read what others stored
        found.add(backward(trace, *own, memory=memory, unroll=unroll))
    return found


def go_back_through(trace: Trace, back: Backward, memory: Memory) -> None:
    """Backpropagation through time and memory: stretch by stretch, from the last to the first."""
    for stretch in reversed(trace.stretches):
        memory.add_stored(stretch.stored, back.d_cells)
        back.stretch(stretch.steps)
        memory.back(stretch.read, by_read(trace, back, stretch.steps))


def by_read(
    trace: Trace, back: Backward, steps: slice = slice(None), d_memory: np.ndarray | None = None
) -> np.ndarray:
    """Derivatives by what was retrieved, before the tanh, of steps gone through: (steps, P, H, B).

    Args:
        trace, back, steps: of what was run.
        d_memory: the loss's own derivatives by m_t, (P, B, T, H), where something else depends on it.
    """
    m, weight = trace.states.memory[steps], trace.weights.memory_weight  # type: ignore[index]
    if weight is None:
        onward = back.by_reinstated(steps)
    else:
        onward = np.matmul(weight.swapaxes(-1, -2), back.d_drive[steps])
    if d_memory is not None:
        onward = onward + _features_first(d_memory)[steps]
    slopes = m * m
    np.subtract(1.0, slopes, out=slopes)
    slopes *= onward
    return slopes


def by_inputs(trace: Trace, back: Backward) -> np.ndarray:
    """Derivatives by x_t, without what comes through the key: (P, B, T, D)."""
    d_x = np.matmul(trace.weights.input_weight.swapaxes(-1, -2), back.d_drive)
    return d_x.transpose(1, 3, 0, 2)


def _summed(array: np.ndarray) -> np.ndarray:
    """Σ over steps and rows: (T, P, size, B) → (P, size)."""
    return array.sum(0).sum(-1)


def _features_first(array: np.ndarray) -> np.ndarray:
    """(P, B, T, size) → (T, P, size, B), a copy."""
    return np.array(array.transpose(2, 0, 3, 1), order="C")
