"""Whole trials of the standard graph at once: the equations of ``composition.py``, batched over agents and trials.

What makes it fast, beside doing for a whole trial what the general path does node by node and step by step:

- a key depends on the input alone, so all retrievals of a trial come before its recurrence;
- so does the input's part of the gates' drive;
- the read-outs of all steps are one product;
- the backward is written out, in NumPy, whose calls cost less than PyTorch's where arrays are small.

Axes: P agents with weights of their own, B trials side by side (of B environments), T steps. An encoding that a
later step of the same trial may retrieve divides the trial into stretches that are run one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# ---- the recurrence, forwards and backwards, in NumPy ------------------------------------------------------


@dataclass(eq=False)
class Recurrence:
    """All steps of the recurrence; with P = 1 without the axis of agents, which makes the products cheaper."""

    gates: np.ndarray
    """(T, P, B, 5H): f, i, o, r, ĉ, after their functions."""
    cells: np.ndarray
    """(T + 1, P, B, H): c_0 ... c_T."""
    hiddens: np.ndarray
    """(T + 1, P, B, H): h_0 ... h_T."""
    squashed: np.ndarray
    """(T, P, B, H): tanh c_t."""
    memory: np.ndarray | None
    """(T, P, B, H): m_t."""


def recur(
    drive: np.ndarray,
    weight: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    read: Callable[[slice], np.ndarray] | None = None,
    write: Callable[[slice, np.ndarray], None] | None = None,
    stretches: list[slice] | None = None,
) -> Recurrence:
    """c_t and h_t of all steps, with z_t = drive_t + h_{t-1} W, gates σ(z_t) and the candidate tanh(z_t):

        c_t = f_t ∘ c_{t-1} + i_t ∘ ĉ_t + r_t ∘ m_t,    h_t = o_t ∘ tanh(c_t)

    Args:
        drive: (T, P, B, 5H), or (T, B, 5H) for one agent, as all below.
        weight: (P, H, 5H).
        h0, c0: (P, B, H).
        read: steps → m_t (steps, P, B, H); None: r_t = 0 and m_t = 0.
        write: called after each stretch with its steps and their c_t.
        stretches: steps that are run at once; all by default.
    """
    length, size = len(drive), drive.shape[-1] // 5
    shape = drive.shape[1:-1]
    gates = np.empty_like(drive)
    cells, hiddens = np.empty((2, length + 1, *shape, size))
    squashed, part = np.empty((length, *shape, size)), np.empty((*shape, size))
    memory = None if read is None else np.empty((length, *shape, size))
    cells[0], hiddens[0] = c0, h0
    sigmoids = gates[..., : 4 * size]
    f, i, o, r, candidate = (gates[..., k * size : (k + 1) * size] for k in range(5))
    by_step = list(
        zip(drive, gates, sigmoids, f, i, o, r, candidate, squashed, cells[1:], hiddens[1:], strict=True)
    )
    c, h = cells[0], hiddens[0]
    for steps in stretches or [slice(0, length)]:
        if memory is not None:
            memory[steps] = read(steps)  # type: ignore[misc]
        for t in range(steps.start, steps.stop):
            d_t, z_t, s_t, f_t, i_t, o_t, r_t, candidate_t, tanh_c_t, c_t, h_t = by_step[t]
            np.matmul(h, weight, out=z_t)
            z_t += d_t
            s_t *= 0.5  # σ(z) = (1 + tanh(z/2)) / 2: one tanh for all
            np.tanh(z_t, out=z_t)
            s_t += 1.0
            s_t *= 0.5
            np.multiply(f_t, c, out=c_t)
            c_t += np.multiply(i_t, candidate_t, out=part)
            if memory is not None:
                c_t += np.multiply(r_t, memory[t], out=part)
            np.tanh(c_t, out=tanh_c_t)
            np.multiply(o_t, tanh_c_t, out=h_t)
            c, h = c_t, h_t
        if write is not None:
            write(steps, cells[1:][steps])
    if memory is None:
        r[...] = 0.0
    return Recurrence(gates, cells, hiddens, squashed, memory)


@dataclass(eq=False)
class RecurrenceGradients:
    """Derivatives of the loss by what ``recur`` takes, and by c_t through all later steps."""

    drive: np.ndarray
    cells: np.ndarray
    h0: np.ndarray
    c0: np.ndarray


def recur_back(
    past: Recurrence, weight: np.ndarray, d_hidden: np.ndarray, d_cell: np.ndarray | None = None
) -> RecurrenceGradients:
    """Backpropagation through time, with δ for derivatives of the loss, from the last step to the first:

        δh_t = (loss's own) + δz_{t+1} Wᵀ
        δc_t = (loss's own) + f_{t+1} ∘ δc_{t+1} + o_t ∘ (1 − tanh² c_t) ∘ δh_t
        δz_t = [c_{t-1}, ĉ_t, ·, m_t, i_t] ∘ slopes of the gates ∘ δc_t,   tanh(c_t) ∘ slope ∘ δh_t for o

    Args:
        past: what ``recur`` gave.
        weight: (P, H, 5H).
        d_hidden, d_cell: the loss's own derivatives by h_t and c_t, (T, P, B, H).
    """
    length, size = len(past.gates), past.squashed.shape[-1]
    shape = past.squashed.shape[1:-1]
    f, i, o, _, candidate = (past.gates[..., k * size : (k + 1) * size] for k in range(5))
    back = np.swapaxes(weight, -1, -2)

    factors = past.gates * past.gates
    np.subtract(past.gates, factors, out=factors)  # slopes of the sigmoids
    factors = factors.reshape(length, *shape, 5, size)
    factors[..., 0, :] *= past.cells[:-1]
    factors[..., 1, :] *= candidate
    factors[..., 2, :] *= past.squashed
    factors[..., 3, :] *= 0.0 if past.memory is None else past.memory
    np.multiply(i, 1.0 - candidate * candidate, out=factors[..., 4, :])
    through = o * (1.0 - past.squashed * past.squashed)

    d_drive = np.empty_like(factors)
    flat = d_drive.reshape(length, *shape, 5 * size)
    d_cells = np.zeros_like(past.squashed) if d_cell is None else np.array(d_cell)
    part, from_later = np.empty((2, *shape, size))
    for t in range(length - 1, -1, -1):
        dh, dc = d_hidden[t], d_cells[t]
        if t + 1 < length:
            dh = np.matmul(flat[t + 1], back, out=from_later)
            dh += d_hidden[t]
            dc += np.multiply(d_cells[t + 1], f[t + 1], out=part)
        dc += np.multiply(dh, through[t], out=part)
        np.multiply(factors[t], dc[..., None, :], out=d_drive[t])
        np.multiply(factors[t][..., 2, :], dh, out=d_drive[t][..., 2, :])
    return RecurrenceGradients(flat, d_cells, h0=np.matmul(flat[0], back), c0=d_cells[0] * f[0])


# ---- whole trials, without autograd ------------------------------------------------------------------------


@dataclass(eq=False)
class Weights:
    """Weights (or their gradients) of P agents, each block (sender, receiver); columns of 5H in ``GATE_ORDER``."""

    input_weight: np.ndarray
    """(P, D, 5H)"""
    bias: np.ndarray
    """(P, 1, 5H): the sum of the two biases, whose gradients are equal."""
    hidden_weight: np.ndarray
    """(P, H, 5H)"""
    actor_weight: np.ndarray
    """(P, H, A)"""
    actor_bias: np.ndarray
    """(P, 1, A)"""
    critic_weight: np.ndarray
    """(P, H, 1)"""
    critic_bias: np.ndarray
    """(P, 1, 1)"""


@dataclass(eq=False)
class Trace:
    """What happened in B trials of T steps of P agents."""

    x: np.ndarray
    """(P, T · B, D): the inputs, time first."""
    recurrence: Recurrence
    policy: np.ndarray
    """(P, B, T, A): π_t."""
    value: np.ndarray
    """(P, B, T): v_t."""
    shape: tuple[int, int, int]
    """P, B, T."""

    def _by_trial(self, array: np.ndarray) -> np.ndarray:
        agents, batch, length = self.shape
        return array.reshape(length, agents, batch, -1).transpose(1, 2, 0, 3)

    @property
    def hidden(self) -> np.ndarray:
        """(P, B, T, H): h_t."""
        return self._by_trial(self.recurrence.hiddens[1:])

    @property
    def cell(self) -> np.ndarray:
        """(P, B, T, H): c_t."""
        return self._by_trial(self.recurrence.cells[1:])

    @property
    def gates(self) -> np.ndarray:
        """(P, B, T, 5, H): f, i, o, r and the candidate."""
        gates = self._by_trial(self.recurrence.gates)
        return gates.reshape(*gates.shape[:-1], 5, -1)

    @property
    def memory(self) -> np.ndarray:
        """(P, B, T, H): m_t."""
        memory = self.recurrence.memory
        return np.zeros_like(self.hidden) if memory is None else self._by_trial(memory)


def run_trials(
    weights: Weights,
    x: np.ndarray,
    h0: np.ndarray,
    c0: np.ndarray,
    retrieve: Callable[[slice], np.ndarray] | None = None,
    encode: Callable[[slice, np.ndarray], None] | None = None,
    stretches: list[slice] | None = None,
) -> Trace:
    """Run B trials of P agents side by side.

    Args:
        weights: of the P agents.
        x: (P, B, T, D), the inputs.
        h0, c0: (P, B, H), the states before the first step.
        retrieve: steps → what the memory gives, (P, B, steps, H), before the tanh; None: a plain LSTM.
        encode: called after each stretch with its steps and their c_t (P, B, steps, H).
        stretches: steps that are run at once, in order; by default all (see ``stretches_between``).
    """
    agents, batch, length, columns = x.shape
    size = h0.shape[-1]
    one = agents == 1
    inputs = x.swapaxes(1, 2).reshape(agents, length * batch, columns)
    drive = np.matmul(inputs, weights.input_weight)
    drive = np.add(drive.reshape(agents, length, batch, -1).swapaxes(0, 1), weights.bias, order="C")
    whole = (length, batch, size) if one else (length, agents, batch, size)

    def read(steps: slice) -> np.ndarray:
        values = retrieve(steps).transpose(2, 0, 1, 3)  # type: ignore[misc]
        return np.tanh(values).reshape(-1, *whole[1:])

    def write(steps: slice, cells: np.ndarray) -> None:
        encode(steps, cells.reshape(-1, agents, batch, size).transpose(1, 2, 0, 3))  # type: ignore[misc]

    recurrence = recur(
        drive[:, 0] if one else drive,
        weights.hidden_weight[0] if one else weights.hidden_weight,
        h0.reshape(whole[1:]),
        c0.reshape(whole[1:]),
        None if retrieve is None else read,
        None if encode is None else write,
        stretches,
    )
    hidden = recurrence.hiddens[1:].reshape(length, agents, batch, size)
    flat = hidden.swapaxes(0, 1).reshape(agents, length * batch, size)
    logits = np.matmul(flat, weights.actor_weight)
    logits += weights.actor_bias
    policy = np.exp(logits - logits.max(-1, keepdims=True))
    policy /= policy.sum(-1, keepdims=True)
    value = np.matmul(flat, weights.critic_weight)
    value += weights.critic_bias

    def by_trial(array: np.ndarray) -> np.ndarray:
        return array.reshape(agents, length, batch, -1).swapaxes(1, 2)

    return Trace(inputs, recurrence, by_trial(policy), by_trial(value)[..., 0], (agents, batch, length))


@dataclass(eq=False)
class Gradients:
    """As ``Weights``; None for weights on which the loss does not depend."""

    input_weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    hidden_weight: np.ndarray | None = None
    actor_weight: np.ndarray | None = None
    actor_bias: np.ndarray | None = None
    critic_weight: np.ndarray | None = None
    critic_bias: np.ndarray | None = None


def gradients(
    weights: Weights,
    trace: Trace,
    d_policy: np.ndarray | None,
    d_value: np.ndarray | None,
    d_hidden: np.ndarray | None = None,
    d_cell: np.ndarray | None = None,
) -> Gradients:
    """Gradients of a loss by the weights.

    Args:
        weights: of the P agents.
        trace: what ``run_trials`` gave.
        d_policy, d_value, d_hidden, d_cell: the loss's derivatives by π_t, v_t, h_t and c_t, each (P, B, T, ...);
            None for those on which it does not depend.
    """
    agents, batch, length = trace.shape
    one = agents == 1

    def rows(array: np.ndarray) -> np.ndarray:
        """(P, B, T, ...) → (P, T · B, ...)"""
        return array.reshape(agents, batch, length, -1).swapaxes(1, 2).reshape(agents, length * batch, -1)

    def time_first(array: np.ndarray) -> np.ndarray:
        """(P, T · B, size) → (T, P, B, size)"""
        array = array.reshape(agents, length, batch, -1)
        return array[0] if one else array.swapaxes(0, 1)

    def by_agent(array: np.ndarray) -> np.ndarray:
        """(T, P, B, size) → (P, T · B, size)"""
        array = array.reshape(length, agents, batch, -1).swapaxes(0, 1)
        return array.reshape(agents, length * batch, -1)

    def outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.matmul(a.swapaxes(-1, -2), b)

    found = Gradients()
    if all(d is None for d in (d_policy, d_value, d_hidden, d_cell)):
        return found
    hidden = by_agent(trace.recurrence.hiddens[1:])
    to_hidden = np.zeros_like(hidden) if d_hidden is None else rows(d_hidden).copy()
    if d_policy is not None:
        policy = rows(trace.policy)
        d_logits = rows(d_policy) * policy
        d_logits -= policy * d_logits.sum(-1, keepdims=True)
        to_hidden += np.matmul(d_logits, weights.actor_weight.swapaxes(-1, -2))
        found.actor_weight, found.actor_bias = outer(hidden, d_logits), d_logits.sum(1, keepdims=True)
    if d_value is not None:
        d_value = rows(d_value)
        to_hidden += d_value * weights.critic_weight.swapaxes(-1, -2)
        found.critic_weight, found.critic_bias = outer(hidden, d_value), d_value.sum(1, keepdims=True)
    back = recur_back(
        trace.recurrence,
        weights.hidden_weight[0] if one else weights.hidden_weight,
        time_first(to_hidden),
        None if d_cell is None else time_first(rows(d_cell)),
    )
    d_drive = by_agent(back.drive)
    found.input_weight = outer(trace.x, d_drive)
    found.bias = d_drive.sum(1, keepdims=True)
    found.hidden_weight = outer(by_agent(trace.recurrence.hiddens[:-1]), d_drive)
    return found


# ---- the same as a function for autograd, for graphs that have more around it ------------------------------


@dataclass(eq=False)
class SequenceWeights:
    """As ``Weights``, in tensors."""

    input_weight: Tensor
    """(P, D, 5H)"""
    bias: Tensor
    """(P, 1, 5H): the sum of the two biases."""
    hidden_weight: Tensor
    """(P, H, 5H)"""
    actor_weight: Tensor
    """(P, H, A)"""
    actor_bias: Tensor
    """(P, 1, A)"""
    critic_weight: Tensor
    """(P, H, 1)"""
    critic_bias: Tensor
    """(P, 1, 1)"""


@dataclass(eq=False)
class Sequence:
    """What happened in B trials of T steps of P agents."""

    gates: Tensor
    """(P, B, T, 5, H): f, i, o, r and the candidate; no gradients flow through them."""
    memory: Tensor
    """(P, B, T, H): m_t."""
    cell: Tensor
    """(P, B, T, H): c_t."""
    hidden: Tensor
    """(P, B, T, H): h_t."""
    policy: Tensor
    """(P, B, T, A): π_t."""
    value: Tensor
    """(P, B, T): v_t."""


Retrieve = Callable[[slice], Tensor]
"""Steps → the retrieved values (P, B, steps, H) before the tanh; zeros where nothing is retrieved."""

Encode = Callable[[slice, Tensor], None]
"""Steps and their c_t (P, B, steps, H): stores the entries of those steps that are encoded."""


def run_sequence(
    weights: SequenceWeights,
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    retrieve: Retrieve | None = None,
    encode: Encode | None = None,
    stretches: list[slice] | None = None,
) -> Sequence:
    """Run B trials of P agents.

    Args:
        weights: of the P agents.
        x: (P, B, T, D), the inputs.
        h0, c0: (P, B, H), the states before the first step.
        retrieve: reads the memory; None: r_t = 0 and m_t = 0, a plain LSTM.
        encode: stores entries, after each stretch.
        stretches: steps that are run at once, in order; by default all (see ``stretches_between``).
    """
    drive = _time_first(x, weights.input_weight, weights.bias)
    size = weights.hidden_weight.shape[1]
    h, c = h0, c0
    parts = []
    for steps in stretches or [slice(0, x.shape[2])]:
        memory = None if retrieve is None else torch.tanh(retrieve(steps))
        m = None if memory is None else memory.permute(2, 0, 1, 3)
        cells, hiddens, gates = _Recurrence.apply(drive[steps], weights.hidden_weight, m, h, c)
        h, c = hiddens[-1], cells[-1]
        if memory is None:
            memory = torch.zeros_like(cells).permute(1, 2, 0, 3)
        elif encode is not None:
            encode(steps, cells.detach().permute(1, 2, 0, 3))
        parts.append((cells, hiddens, gates, memory))
    cells, hiddens, gates = (_joined([part[i] for part in parts], 0) for i in range(3))
    memory = _joined([part[3] for part in parts], 2)
    length, agents, batch = cells.shape[:3]
    hidden = hiddens.permute(1, 2, 0, 3)
    flat = hidden.reshape(agents, batch * length, size)
    policy = torch.softmax(torch.baddbmm(weights.actor_bias, flat, weights.actor_weight), -1)
    value = torch.baddbmm(weights.critic_bias, flat, weights.critic_weight)
    return Sequence(
        gates=gates.view(length, agents, batch, 5, size).permute(1, 2, 0, 3, 4),
        memory=memory,
        cell=cells.permute(1, 2, 0, 3),
        hidden=hidden,
        policy=policy.view(agents, batch, length, -1),
        value=value.view(agents, batch, length),
    )


def _time_first(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The inputs' part of the drive, x (P, B, T, D) → (T, P, B, 5H)."""
    agents, batch, length, columns = x.shape
    drive = torch.baddbmm(bias, x.reshape(agents, batch * length, columns), weight)
    return drive.view(agents, batch, length, -1).permute(2, 0, 1, 3)


def _joined(parts: list[Tensor], axis: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


class _Recurrence(torch.autograd.Function):
    """``recur`` and ``recur_back``."""

    @staticmethod
    def forward(ctx, drive: Tensor, weight: Tensor, memory: Tensor | None, h0: Tensor, c0: Tensor):  # type: ignore[override]
        """drive (T, P, B, 5H), weight (P, H, 5H), memory (T, P, B, H), h0 and c0 (P, B, H)."""
        arrays = [None if v is None else v.detach().numpy() for v in (drive, weight, memory, h0, c0)]
        d, w, m, h, c = arrays
        assert d is not None and w is not None and h is not None and c is not None
        ctx.past, ctx.weight = recur(d, w, h, c, None if m is None else m.__getitem__), w
        past = ctx.past
        gates = torch.from_numpy(past.gates)
        ctx.mark_non_differentiable(gates)
        return torch.from_numpy(past.cells[1:]), torch.from_numpy(past.hiddens[1:]), gates

    @staticmethod
    @once_differentiable
    def backward(ctx, d_cells: Tensor, d_hiddens: Tensor, _d_gates: Tensor):  # type: ignore[override]
        past, weight = ctx.past, ctx.weight
        back = recur_back(past, weight, d_hiddens.numpy(), d_cells.numpy())
        d_weight = d_memory = None
        if ctx.needs_input_grad[1]:
            before, after = (v.swapaxes(0, 1) for v in (past.hiddens[:-1], back.drive))
            before, after = (v.reshape(len(weight), -1, v.shape[-1]) for v in (before, after))
            d_weight = torch.from_numpy(before.swapaxes(1, 2) @ after)
        if ctx.needs_input_grad[2]:
            size = weight.shape[1]
            d_memory = torch.from_numpy(back.cells * past.gates[..., 3 * size : 4 * size])
        return (
            torch.from_numpy(back.drive),
            d_weight,
            d_memory,
            torch.from_numpy(back.h0),
            torch.from_numpy(back.c0),
        )
