"""Whole trials of the standard graph at once: the equations of ``composition.py``, batched over agents and trials.

What makes it fast, beside doing for a whole trial what the general path does node by node and step by step:

- a key depends on the input alone, so all retrievals of a trial come before its recurrence;
- so does the input's part of the gates' drive, and that of m_t where the memory is an input;
- the read-outs of all steps are one product;
- the backward is written out, in NumPy, whose calls cost less than PyTorch's where arrays are small.

Axes: P agents with weights of their own, B trials side by side (of B environments), T steps. An encoding that a
later step of the same trial may retrieve divides the trial into stretches that are run one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from .interaction import Interaction

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
    write: Callable[[slice, np.ndarray, np.ndarray], None] | None = None,
    stretches: list[slice] | None = None,
    memory_weight: np.ndarray | None = None,
) -> Recurrence:
    """c_t and h_t of all steps, with z_t = drive_t + h_{t-1} W, gates σ(z_t) and the candidate tanh(z_t):

        c_t = f_t ∘ c_{t-1} + i_t ∘ ĉ_t + r_t ∘ m_t,    h_t = o_t ∘ tanh(c_t)

    With ``memory_weight``, m_t W_m is added to drive_t, and r_t = 0.

    Args:
        drive: (T, P, B, 5H), or (T, B, 5H) for one agent, as all below; with ``memory_weight`` it is added to.
        weight: (P, H, 5H).
        h0, c0: (P, B, H).
        read: steps → m_t (steps, P, B, H); None: r_t = 0 and m_t = 0.
        write: called after each stretch with its steps, c_t and h_t; it may set the drive of later steps.
        stretches: steps that are run at once; all by default.
        memory_weight: (P, H, 5H), if m_t is an input; None: it is reinstated.
    """
    length, size = len(drive), drive.shape[-1] // 5
    shape = drive.shape[1:-1]
    gates = np.empty_like(drive)
    cells, hiddens = np.empty((2, length + 1, *shape, size))
    squashed, part = np.empty((length, *shape, size)), np.empty((*shape, size))
    memory = None if read is None else np.empty((length, *shape, size))
    reinstated = memory if memory_weight is None else None
    cells[0], hiddens[0] = c0, h0
    each = zip(*(gates[..., k * size : (k + 1) * size] for k in range(5)), strict=True)
    # The same numbers as tensors: PyTorch's σ and tanh take a third of the time of NumPy's, without AVX-512.
    functions = (torch.from_numpy(a) for a in (gates[..., : 4 * size], gates[..., 4 * size :], squashed))
    in_torch = zip(*functions, strict=True)
    by_step = list(zip(drive, gates, each, in_torch, squashed, cells[1:], hiddens[1:], strict=True))
    c, h = cells[0], hiddens[0]
    for steps in stretches or [slice(0, length)]:
        if memory is not None:
            memory[steps] = read(steps)  # type: ignore[misc]
            if memory_weight is not None:
                drive[steps] += np.matmul(memory[steps], memory_weight)
        for t in range(steps.start, steps.stop):
            d_t, z_t, (f_t, i_t, o_t, r_t, candidate_t), (sigmoid, tanh, squash), tanh_c_t, c_t, h_t = by_step[t]
            np.matmul(h, weight, out=z_t)
            z_t += d_t
            sigmoid.sigmoid_()
            tanh.tanh_()
            np.multiply(f_t, c, out=c_t)
            c_t += np.multiply(i_t, candidate_t, out=part)
            if reinstated is not None:
                c_t += np.multiply(r_t, reinstated[t], out=part)
            tanh_c_t[...] = c_t
            squash.tanh_()
            np.multiply(o_t, tanh_c_t, out=h_t)
            c, h = c_t, h_t
        if write is not None:
            write(steps, cells[1:][steps], hiddens[1:][steps])
    if reinstated is None:
        gates[..., 3 * size : 4 * size] = 0.0
    return Recurrence(gates, cells, hiddens, squashed, memory)


@dataclass(eq=False)
class RecurrenceGradients:
    """Derivatives of the loss by what ``recur`` takes, and by c_t through all later steps."""

    drive: np.ndarray
    cells: np.ndarray
    h0: np.ndarray
    c0: np.ndarray


def recur_back(
    past: Recurrence,
    weight: np.ndarray,
    d_hidden: np.ndarray,
    d_cell: np.ndarray | None = None,
    unroll: int | None = None,
) -> RecurrenceGradients:
    """Backpropagation through time, with δ for derivatives of the loss, from the last step to the first:

        δh_t = (loss's own) + δz_{t+1} Wᵀ
        δc_t = (loss's own) + f_{t+1} ∘ δc_{t+1} + o_t ∘ (1 − tanh² c_t) ∘ δh_t
        δz_t = [c_{t-1}, ĉ_t, ·, m_t, i_t] ∘ slopes of the gates ∘ δc_t,   tanh(c_t) ∘ slope ∘ δh_t for o

    Without a reinstatement gate, r_t = 0 and so is its slope.

    Args:
        past: what ``recur`` gave.
        weight: (P, H, 5H).
        d_hidden, d_cell: the loss's own derivatives by h_t and c_t, (T, P, B, H).
        unroll: steps of a stretch, from one of which nothing flows back into the one before; None: all steps.
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
        if t + 1 < length and not (unroll and (t + 1) % unroll == 0):
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
    memory_weight: np.ndarray | None = None
    """(P, H, 5H): of m_t as an input; None: m_t is reinstated."""


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

    def by_trial(self, array: np.ndarray) -> np.ndarray:
        """From the axes of the recurrence to (P, B, T, ...)."""
        agents, batch, length = self.shape
        return array.reshape(length, agents, batch, -1).transpose(1, 2, 0, 3)

    @property
    def hidden(self) -> np.ndarray:
        """(P, B, T, H): h_t."""
        return self.by_trial(self.recurrence.hiddens[1:])

    @property
    def cell(self) -> np.ndarray:
        """(P, B, T, H): c_t."""
        return self.by_trial(self.recurrence.cells[1:])

    @property
    def gates(self) -> np.ndarray:
        """(P, B, T, 5, H): f, i, o, r and the candidate."""
        gates = self.by_trial(self.recurrence.gates)
        return gates.reshape(*gates.shape[:-1], 5, -1)

    @property
    def memory(self) -> np.ndarray:
        """(P, B, T, H): m_t."""
        memory = self.recurrence.memory
        return np.zeros_like(self.hidden) if memory is None else self.by_trial(memory)


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

    def write(steps: slice, cells: np.ndarray, _hiddens: np.ndarray) -> None:
        encode(steps, cells.reshape(-1, agents, batch, size).transpose(1, 2, 0, 3))  # type: ignore[misc]

    recurrence = recur(
        drive[:, 0] if one else drive,
        weights.hidden_weight[0] if one else weights.hidden_weight,
        h0.reshape(whole[1:]),
        c0.reshape(whole[1:]),
        None if retrieve is None else read,
        None if encode is None else write,
        stretches,
        weights.memory_weight if weights.memory_weight is None or not one else weights.memory_weight[0],
    )
    hidden = recurrence.hiddens[1:].reshape(length, agents, batch, size)
    flat = hidden.swapaxes(0, 1).reshape(agents, length * batch, size)
    policy = policies(flat, weights.actor_weight, weights.actor_bias)
    value = np.matmul(flat, weights.critic_weight)
    value += weights.critic_bias

    def by_trial(array: np.ndarray) -> np.ndarray:
        return array.reshape(agents, length, batch, -1).swapaxes(1, 2)

    return Trace(inputs, recurrence, by_trial(policy), by_trial(value)[..., 0], (agents, batch, length))


def policies(hidden: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """π_t = softmax(h_t W_π + b_π): (..., H) → (..., A)."""
    logits = np.matmul(hidden, weight)
    logits += bias
    policy = np.exp(logits - logits.max(-1, keepdims=True))
    policy /= policy.sum(-1, keepdims=True)
    return policy


def run_episode(
    weights: Weights,
    interaction: Interaction,
    h0: np.ndarray,
    c0: np.ndarray,
    read: Callable[[], np.ndarray] | None = None,
    store: Callable[[np.ndarray], None] | None = None,
) -> Trace:
    """One episode of B worlds side by side: what they show depends on the actions, so steps come one by one.

    Args:
        weights: of one agent.
        interaction: an episode that has begun.
        h0, c0: (1, B, H), the states before the first step.
        read: what the memory gives at the present step, (B, H), before the tanh; None: a plain LSTM.
        store: called after each step with its c_t (B, H).
    """
    length, (batch, columns), size = interaction.length, interaction.inputs.shape, h0.shape[-1]
    x, drive = np.empty((length, batch, columns)), np.empty((length, batch, 5 * size))
    policy = np.empty((length, batch, weights.actor_weight.shape[-1]))

    def see(t: int) -> None:
        x[t] = interaction.inputs
        np.matmul(x[t], weights.input_weight[0], out=drive[t])
        drive[t] += weights.bias[0]

    def act(step: slice, cells: np.ndarray, hiddens: np.ndarray) -> None:
        t = step.start
        if store is not None:
            store(cells[0])
        policy[t] = policies(hiddens[0], weights.actor_weight[0], weights.actor_bias[0])
        interaction.act(policy[t])
        if t + 1 < length:
            see(t + 1)

    see(0)
    recurrence = recur(
        drive,
        weights.hidden_weight[0],
        h0[0],
        c0[0],
        None if read is None else lambda _step: np.tanh(read())[None],
        act,
        [slice(t, t + 1) for t in range(length)],
        None if weights.memory_weight is None else weights.memory_weight[0],
    )
    value = np.matmul(recurrence.hiddens[1:], weights.critic_weight[0]) + weights.critic_bias[0]
    return Trace(
        x.reshape(1, length * batch, columns),
        recurrence,
        policy.swapaxes(0, 1)[None],
        value[..., 0].swapaxes(0, 1)[None],
        (1, batch, length),
    )


@dataclass(eq=False)
class Gradients:
    """As ``Weights``, and those of the recurrence; None for that on which the loss does not depend."""

    input_weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    hidden_weight: np.ndarray | None = None
    actor_weight: np.ndarray | None = None
    actor_bias: np.ndarray | None = None
    critic_weight: np.ndarray | None = None
    critic_bias: np.ndarray | None = None
    memory_weight: np.ndarray | None = None
    back: RecurrenceGradients | None = None


def gradients(
    weights: Weights,
    trace: Trace,
    d_policy: np.ndarray | None,
    d_value: np.ndarray | None,
    d_hidden: np.ndarray | None = None,
    d_cell: np.ndarray | None = None,
    unroll: int | None = None,
) -> Gradients:
    """Gradients of a loss by the weights.

    Args:
        weights: of the P agents.
        trace: what ``run_trials`` gave.
        d_policy, d_value, d_hidden, d_cell: the loss's derivatives by π_t, v_t, h_t and c_t, each (P, B, T, ...);
            None for those on which it does not depend.
        unroll: as of ``recur_back``.
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
        """(T, P, B, size) → (P, T · B, size), each agent's in one piece: products are faster"""
        array = np.ascontiguousarray(array.reshape(length, agents, batch, -1).swapaxes(0, 1))
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
    found.back = recur_back(
        trace.recurrence,
        weights.hidden_weight[0] if one else weights.hidden_weight,
        time_first(to_hidden),
        None if d_cell is None else time_first(rows(d_cell)),
        unroll,
    )
    d_drive = by_agent(found.back.drive)
    found.input_weight = outer(trace.x, d_drive)
    found.bias = d_drive.sum(1, keepdims=True)
    found.hidden_weight = outer(by_agent(trace.recurrence.hiddens[:-1]), d_drive)
    if weights.memory_weight is not None and trace.recurrence.memory is not None:
        found.memory_weight = outer(by_agent(trace.recurrence.memory), d_drive)
    return found


# ---- the same as a function for autograd, for graphs that have more around it ------------------------------


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


def run_sequence(
    weights: Weights,
    parameters: list[Tensor],
    of_parameters: Callable[[Gradients], list[Tensor | None]],
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    retrieve: Callable[[slice], Tensor] | None = None,
    encode: Callable[[slice, np.ndarray], None] | None = None,
    stretches: list[slice] | None = None,
) -> Sequence:
    """``run_trials``, with gradients for whatever the inputs come from.

    Args:
        weights: of the P agents.
        parameters: what the weights are made of.
        of_parameters: their gradients → those of the parameters.
        x: (P, B, T, D), the inputs.
        h0, c0: (P, B, H), the states before the first step.
        retrieve: steps → what the memory gives, (P, B, steps, H), before the tanh; None: a plain LSTM.
        encode, stretches: as of ``run_trials``.
    """
    parts: list[Tensor] = []

    def read(steps: slice) -> np.ndarray:
        parts.append(retrieve(steps))  # type: ignore[misc]
        return parts[-1].detach().numpy()

    start = h0.detach().numpy(), c0.detach().numpy()
    memory = None if retrieve is None else read
    trace = run_trials(weights, x.detach().numpy(), *start, memory, encode, stretches)
    retrieved = torch.cat(parts, 2) if parts else None
    run = (weights, trace, of_parameters)
    hidden, cell, m, policy, value = _Derivatives.apply(run, x, h0, c0, retrieved, *parameters)
    return Sequence(torch.from_numpy(trace.gates), m, cell, hidden, policy, value)


class _Derivatives(torch.autograd.Function):
    """What ``run_trials`` gave, with its derivatives, which ``gradients`` computes."""

    @staticmethod
    def forward(ctx, run: tuple, x: Tensor, h0: Tensor, c0: Tensor, retrieved: Tensor | None, *parameters: Tensor):  # type: ignore[override]
        ctx.run = run
        ctx.set_materialize_grads(False)
        trace = run[1]
        values = (trace.hidden, trace.cell, trace.memory, trace.policy, trace.value)
        return tuple(torch.from_numpy(v) for v in values)

    @staticmethod
    @once_differentiable
    def backward(ctx, *slopes: Tensor | None):  # type: ignore[override]
        weights, trace, of_parameters = ctx.run
        d_hidden, d_cell, d_memory, d_policy, d_value = (None if d is None else d.numpy() for d in slopes)
        g = gradients(weights, trace, d_policy, d_value, d_hidden, d_cell)
        d_x = d_h0 = d_c0 = None
        if g.back is not None:
            d_x, d_h0, d_c0, onward = _of_inputs(weights, trace, g.back)
            d_memory = onward if d_memory is None else onward + d_memory
        if d_memory is not None:
            d_memory = (1.0 - trace.memory**2) * d_memory
        found = [None if d is None else torch.from_numpy(d) for d in (d_x, d_h0, d_c0, d_memory)]
        if not ctx.needs_input_grad[4]:
            found[3] = None
        return None, *found, *of_parameters(g)


def _of_inputs(weights: Weights, trace: Trace, back: RecurrenceGradients) -> tuple[np.ndarray, ...]:
    """Derivatives of the loss by x (P, B, T, D), h0 and c0 (P, B, H), and by m_t (P, B, T, H) through c_t."""
    agents, batch, _ = trace.shape
    d_drive, d_cells = (trace.by_trial(d) for d in (back.drive, back.cells))
    d_x = np.matmul(d_drive, weights.input_weight.swapaxes(-1, -2)[:, None])
    d_h0, d_c0 = (d.reshape(agents, batch, -1) for d in (back.h0, back.c0))
    if weights.memory_weight is None:
        return d_x, d_h0, d_c0, d_cells * trace.gates[..., 3, :]
    return d_x, d_h0, d_c0, np.matmul(d_drive, weights.memory_weight.swapaxes(-1, -2)[:, None])
