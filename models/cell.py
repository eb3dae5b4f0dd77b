"""The equations of a sequence, forwards and backwards, in NumPy: many agents and many rows side by side.

With z_t the drive of the gates, in ``GATE_ORDER`` (f, i, o, r, ĉ):

    z_t = drive_t + W_h h_{t-1}                              drive_t = W_x x_t + b_x + b_h (+ W_m m_t)
    f_t, i_t, o_t, r_t = σ(z_t),   ĉ_t = tanh(z_t)
    c_t = f_t ∘ c_{t-1} + i_t ∘ ĉ_t + r_t ∘ m_t
    h_t = o_t ∘ tanh(c_t)

Axes: T steps, P agents with weights of their own, features, and B rows (trials that run side by side). Features
come before rows, so that each gate of an agent is one piece of memory, and weights stand on the left, as in the
equations. The steps may be run in stretches, one after the other: what a stretch stores, a later one can read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from .products import product

GATES = 5
"""Blocks of H rows in the drive."""
AT_ONCE = 2**18
"""Numbers of the drive that are prepared at once on the way back: as many as the processor's cache holds."""


@dataclass(eq=False)
class States:
    """All steps of a sequence, as far as they have been run."""

    gates: np.ndarray
    """(T, P, 5H, B): the drive, and once a step has been run f_t, i_t, o_t, r_t, ĉ_t."""
    cells: np.ndarray
    """(T + 1, P, H, B): c_0 ... c_T."""
    hiddens: np.ndarray
    """(T + 1, P, H, B): h_0 ... h_T."""
    squashed: np.ndarray
    """(T, P, H, B): tanh c_t."""
    memory: np.ndarray | None
    """(T, P, H, B): m_t; None: a plain LSTM."""
    reinstates: bool
    """Whether m_t is reinstated, r_t ∘ m_t; without, r_t = 0."""

    @classmethod
    def begin(
        cls, length: int, h0: np.ndarray, c0: np.ndarray, has_memory: bool = False, reinstates: bool = True
    ) -> States:
        """Room for so many steps, from h_0 and c_0 (P, H, B)."""
        agents, size, rows = h0.shape
        cells, hiddens = np.empty((2, length + 1, agents, size, rows))
        cells[0], hiddens[0] = c0, h0
        memory = np.zeros((length, agents, size, rows)) if has_memory else None
        return cls(
            np.empty((length, agents, GATES * size, rows)),
            cells,
            hiddens,
            np.empty((length, agents, size, rows)),
            memory,
            has_memory and reinstates,
        )

    @property
    def size(self) -> int:
        """H"""
        return self.squashed.shape[2]

    @cached_property
    def by_step(self) -> list[tuple[Any, ...]]:
        """What a step works on: its drive; its gates and its candidate as tensors; f, i, o, r, ĉ, tanh c_t; the
        last as a tensor; c_t, h_t. All are the same numbers: PyTorch's σ and tanh take a third of the time of
        NumPy's, without AVX-512."""
        sigmoids, tanhs = torch.from_numpy(self.gates).split([(GATES - 1) * self.size, self.size], 2)
        gates = (self.gate(k) for k in range(GATES))
        after = self.cells[1:], self.hiddens[1:]
        squashes = torch.from_numpy(self.squashed).unbind()
        each = self.gates, sigmoids.unbind(), tanhs.unbind(), *gates, self.squashed, squashes, *after
        return list(zip(*each, strict=True))

    def gate(self, number: int, steps: slice = slice(None)) -> np.ndarray:
        """One of the gates, by its place in ``GATE_ORDER``: (steps, P, H, B)."""
        return self.gates[steps, :, number * self.size : (number + 1) * self.size]


def advance(states: States, steps: slice, hidden_weight: np.ndarray) -> None:
    """Run these steps, whose drive (and m_t, where there is a memory) is there; those before have been run.

    Args:
        states: of the sequence.
        steps: which of its steps.
        hidden_weight: W_h (P, 5H, H).
    """
    recurrent, part = np.empty(states.gates.shape[1:]), np.empty(states.squashed.shape[1:])
    h, c = states.hiddens[steps.start], states.cells[steps.start]
    memory = states.memory if states.reinstates else None
    for t in range(steps.start, steps.stop):
        z_t, sigmoids, tanhs, f_t, i_t, o_t, r_t, candidate_t, tanh_c_t, squash, c_t, h_t = states.by_step[t]
        if t > steps.start or h.any():  # often, trials start at zeros
            z_t += product(hidden_weight, h, out=recurrent)
        sigmoids.sigmoid_()
        tanhs.tanh_()
        np.multiply(f_t, c, out=c_t)
        c_t += np.multiply(i_t, candidate_t, out=part)
        if memory is not None:
            c_t += np.multiply(r_t, memory[t], out=part)
        else:
            r_t[...] = 0.0
        tanh_c_t[...] = c_t
        squash.tanh_()
        np.multiply(o_t, tanh_c_t, out=h_t)
        h, c = h_t, c_t


class Backward:
    """Backpropagation through time, with δ for derivatives of the loss, from the last step to the first:

        δh_t = (loss's own) + W_hᵀ δz_{t+1}
        δc_t = (loss's own, and through the memory) + f_{t+1} ∘ δc_{t+1} + o_t ∘ (1 − tanh² c_t) ∘ δh_t
        δz_t = [c_{t-1}, ĉ_t, ·, m_t, i_t] ∘ slopes of the gates ∘ δc_t,   tanh(c_t) ∘ slope ∘ δh_t for o

    Without reinstatement, r_t = 0 and so is its slope.

    Args:
        states: of a sequence that has been run.
        hidden_weight: W_h (P, 5H, H).
        d_hidden: the loss's own derivatives by h_t, (T, P, H, B).
        d_cell: by c_t, (T, P, H, B), or None: 0; while stretches go on, what comes through the memory is added.
        d_gates: by the gates and the candidate, (T, P, 5H, B), or None: 0.
        unroll: steps of a stretch, from one of which nothing flows back into the one before; None: all steps.
    """

    def __init__(
        self,
        states: States,
        hidden_weight: np.ndarray,
        d_hidden: np.ndarray,
        d_cell: np.ndarray | None = None,
        d_gates: np.ndarray | None = None,
        unroll: int | None = None,
    ) -> None:
        self.states, self._unroll = states, unroll
        self._transposed = hidden_weight.swapaxes(-1, -2)
        self._d_hidden = d_hidden
        self.d_cells = np.zeros_like(states.squashed) if d_cell is None else np.array(d_cell)
        """(T, P, H, B): δc_t, through all later steps, once these have been gone through."""
        self._own = None
        if d_gates is not None:
            slopes, candidate = states.gates * (1.0 - states.gates), states.gate(GATES - 1)
            slopes[:, :, (GATES - 1) * states.size :] = 1.0 - candidate * candidate
            self._own = d_gates * slopes
        self.d_drive = np.empty_like(states.gates)
        """(T, P, 5H, B): δz_t of the steps gone through."""

    def stretch(self, steps: slice) -> None:
        """Go back through these steps; later ones have been gone through."""
        at_once = max(1, AT_ONCE // self.d_drive[0].size)
        for stop in range(steps.stop, steps.start, -at_once):
            self._go_back(slice(max(stop - at_once, steps.start), stop))

    def _go_back(self, steps: slice) -> None:
        part, from_later = np.empty(self.d_cells.shape[1:]), np.empty(self.d_cells.shape[1:])
        length, d_cells, d_drive = len(self.d_cells), self.d_cells, self.d_drive
        by_gate = d_drive.reshape(*d_drive.shape[:2], GATES, *d_cells.shape[2:])
        through, forget = self._factors(steps), self.states.gate(0)
        for t in range(steps.stop - 1, steps.start - 1, -1):
            dh, dc = self._d_hidden[t], d_cells[t]
            if t + 1 < length and not (self._unroll and (t + 1) % self._unroll == 0):
                dh = product(self._transposed, d_drive[t + 1], out=from_later)
                dh += self._d_hidden[t]
                dc += np.multiply(d_cells[t + 1], forget[t + 1], out=part)
            dc += np.multiply(dh, through[t - steps.start], out=part)
            factors = by_gate[t]
            np.multiply(factors[:, 2], dh, out=part)
            factors *= dc[:, None]
            factors[:, 2] = part
            if self._own is not None:
                d_drive[t] += self._own[t]

    def _factors(self, steps: slice) -> np.ndarray:
        """Put into δz_t of these steps its factors beside δc_t and δh_t.

        Returns:
            o_t ∘ (1 − tanh² c_t), (steps, P, H, B).
        """
        states, sigmoids = self.states, (GATES - 1) * self.states.size
        f, i, o, r, candidate = (states.gate(k, steps) for k in range(GATES))
        factors, squashed, through = self.d_drive[steps], states.squashed[steps], np.empty(o.shape)
        of_f, of_i, of_o, of_r, of_candidate = np.split(factors, GATES, 2)
        np.multiply(f, states.cells[steps], out=of_f)
        np.multiply(i, candidate, out=of_i)
        np.multiply(o, squashed, out=of_o)
        np.multiply(r, 0.0 if states.memory is None else states.memory[steps], out=of_r)
        # Slopes: a − (a b) b = a (1 − b²) of tanh, and a − a b = a (1 − b) of σ.
        _minus_product(i, of_i, candidate, of_candidate)
        _minus_product(o, of_o, squashed, through)
        of_sigmoids = factors[:, :, :sigmoids]
        _minus_product(of_sigmoids, of_sigmoids, states.gates[steps, :, :sigmoids], of_sigmoids)
        return through

    def by_initial_states(self) -> tuple[np.ndarray, np.ndarray]:
        """δh_0 and δc_0, (P, H, B), once all steps have been gone through."""
        return np.matmul(self._transposed, self.d_drive[0]), self.d_cells[0] * self.states.gate(0)[0]

    def by_reinstated(self, steps: slice) -> np.ndarray:
        """δm_t of steps gone through, by way of r_t ∘ m_t: (steps, P, H, B)."""
        return self.d_cells[steps] * self.states.gate(3, steps)


def _minus_product(a: np.ndarray, b: np.ndarray, c: np.ndarray, out: np.ndarray) -> None:
    """a − b c, in one go."""
    minuend, left, right, room = map(torch.from_numpy, (a, b, c, out))
    torch.addcmul(minuend, left, right, value=-1, out=room)
