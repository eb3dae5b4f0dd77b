"""The recurrence of many people's trials side by side, and its derivatives by what is a person's own.

All share the weights, so that one product of matrices a step serves all rows, whatever their person and
parameters. The backward is written out, and gives no gradients by weights. Axes: T steps, H hidden units, and
rows: R restarts by n trials by B blocks. Features come before rows, so that each gate is one piece of memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...models.config import ModelConfig
from ...models.weights import check_weights


class Cell:
    """The weights, as the recurrence needs them: with −z in place of z for the gates, σ(z) = 1 / (1 + e^−z).

    Args:
        config: the sizes.
        weights: of the trained model, by the names of ``weight_shapes``.

    Raises:
        ValueError: the weights do not fit the config.
    """

    def __init__(self, config: ModelConfig, weights: Mapping[str, np.ndarray]) -> None:
        weights = check_weights(config, weights)
        self.hidden_size = config.hidden_size
        self.has_memory = config.memory_capacity > 0
        sign = np.ones((5 * config.hidden_size, 1))
        sign[: 4 * config.hidden_size] = -1.0
        self.from_input = sign * weights["input_weight"]
        self.bias = sign * (weights["input_bias"] + weights["hidden_bias"])[:, None]
        self.from_hidden = sign * weights["hidden_weight"]
        self.to_hidden = np.ascontiguousarray(weights["hidden_weight"].T)
        self.actor, self.actor_bias = weights["actor_weight"], weights["actor_bias"][:, None]

    def drive(self, inputs: np.ndarray) -> np.ndarray:
        """The inputs' part of the gates' drive: (B, n, T, D) → (T, 5H, n, B), negative for the gates."""
        blocks, n, steps, columns = inputs.shape
        x = np.ascontiguousarray(inputs.transpose(2, 3, 1, 0)).reshape(steps, columns, n * blocks)
        drive = np.matmul(self.from_input, x)
        drive += self.bias
        return drive.reshape(steps, -1, n, blocks)


class Steps(torch.autograd.Function):
    """T steps of the recurrence of R · n · B rows, and their read-outs.

    Args:
        cell: the weights.
        drive: (T, 5H, n, B), that of all restarts.
        restarts: R.
        retrieved: (R, B, n, T, H) what the memory gives, before the tanh; None: nothing.
        gate_bias: (R, B), or None.
        h, c: (H, R, n, B) states before the first step; None: zeros.

    Returns:
        Read-outs (T, A, R, n, B), cell states (T, H, R, n, B), and the last hidden states (H, R, n, B).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        cell: Cell,
        drive: np.ndarray,
        restarts: int,
        retrieved: Tensor | None,
        gate_bias: Tensor | None,
        h: Tensor | None,
        c: Tensor | None,
    ):
        """See above."""
        length, size, per_restart = len(drive), cell.hidden_size, drive[0, 0].size
        shape = (restarts, *drive.shape[2:])
        rows = restarts * per_restart
        memory = None
        if retrieved is not None:
            memory = np.tanh(np.ascontiguousarray(retrieved.detach().numpy().transpose(3, 4, 0, 2, 1)))
            memory = memory.reshape(length, size, rows)
        bias = None
        if gate_bias is not None and memory is not None:
            bias = np.broadcast_to(gate_bias.detach().numpy()[:, None], shape).reshape(rows)
        before_h, before_c = (None if s is None else s.detach().numpy().reshape(size, rows) for s in (h, c))

        gates, squashed = np.empty((length, 5 * size, rows)), np.empty((length, size, rows))
        cells, readout = np.empty((length, size, rows)), np.empty((length, len(cell.actor), rows))
        hidden, part = np.empty((2, size, rows))
        drive = drive.reshape(length, 5 * size, 1, per_restart)
        for t in range(length):
            z, c_t, tanh_c = gates[t], cells[t], squashed[t]
            by_restart = z.reshape(5 * size, restarts, per_restart)
            if before_h is None:
                by_restart[...] = drive[t]
            else:
                np.matmul(cell.from_hidden, before_h, out=z)
                by_restart += drive[t]
            if bias is not None:
                z[3 * size : 4 * size] -= bias
            sigmoids, last = z[: 4 * size], z[4 * size :]
            np.exp(sigmoids, out=sigmoids)
            sigmoids += 1.0
            np.divide(1.0, sigmoids, out=sigmoids)
            np.tanh(last, out=last)
            f, i, o, r, candidate = z.reshape(5, size, rows)
            np.multiply(i, candidate, out=c_t)
            if before_c is not None:
                c_t += np.multiply(f, before_c, out=part)
            if memory is not None:
                c_t += np.multiply(r, memory[t], out=part)
            np.tanh(c_t, out=tanh_c)
            np.multiply(o, tanh_c, out=hidden)
            np.matmul(cell.actor, hidden, out=readout[t])
            before_h, before_c = hidden, c_t
        readout += cell.actor_bias
        ctx.set_materialize_grads(False)
        ctx.cell, ctx.shape = cell, shape
        ctx.past = gates, squashed, cells, memory, None if c is None else c.detach().numpy().reshape(size, rows)
        return tuple(torch.from_numpy(a.reshape(*a.shape[:-1], *shape)) for a in (readout, cells, hidden))

    @staticmethod
    @once_differentiable
    def backward(ctx, d_readout: Tensor | None, d_cells: Tensor | None, d_hidden: Tensor | None):  # type: ignore[override]
        """Backpropagation through time, with δ for derivatives of the log-likelihood, from the last step:

        δh_t = W_πᵀ δ(read-out)_t + W_hᵀ δz_{t+1}
        δc_t = (through the memory) + f_{t+1} ∘ δc_{t+1} + o_t ∘ (1 − tanh² c_t) ∘ δh_t
        δz_t = [c_{t-1}, ĉ_t, ·, m_t, i_t] ∘ slopes of the gates ∘ δc_t,   tanh(c_t) ∘ slope ∘ δh_t for o
        """
        cell: Cell = ctx.cell
        gates, squashed, cells, memory, c_start = ctx.past
        length, size, rows = squashed.shape
        d_readout_, d_cells_ = (
            None if d is None else d.numpy().reshape(length, -1, rows) for d in (d_readout, d_cells)
        )
        dz, dc = np.empty((5, size, rows)), np.zeros((size, rows))
        part, dh = np.empty((2, size, rows))
        d_memory = np.empty((length, size, rows)) if memory is not None and ctx.needs_input_grad[3] else None
        d_bias = np.zeros(rows)
        for t in range(length - 1, -1, -1):
            _, i, o, r, candidate = gates[t].reshape(5, size, rows)
            tanh_c = squashed[t]
            if t + 1 < length:
                np.matmul(cell.to_hidden, dz.reshape(5 * size, rows), out=dh)
                dc *= gates[t + 1][:size]
            else:
                dh[...] = 0.0 if d_hidden is None else d_hidden.numpy().reshape(size, rows)
            if d_readout_ is not None:
                dh += np.matmul(cell.actor.T, d_readout_[t], out=part)
            if d_cells_ is not None:
                dc += d_cells_[t]
            np.multiply(tanh_c, tanh_c, out=part)
            np.subtract(1.0, part, out=part)
            part *= o
            part *= dh
            dc += part

            sigmoids, slopes = gates[t].reshape(5, size, rows)[:4], dz[:4]
            np.multiply(sigmoids, sigmoids, out=slopes)
            np.subtract(sigmoids, slopes, out=slopes)
            c_before = cells[t - 1] if t else c_start
            dz[0] *= 0.0 if c_before is None else c_before
            dz[1] *= candidate
            dz[3] *= 0.0 if memory is None else memory[t]
            np.multiply(candidate, candidate, out=dz[4])
            np.subtract(1.0, dz[4], out=dz[4])
            dz[4] *= i
            dz[2] *= tanh_c
            dz[2] *= dh
            dz[:2] *= dc
            dz[3:] *= dc
            if memory is not None:
                d_bias += dz[3].sum(0)
                if d_memory is not None:
                    np.multiply(dc, r, out=d_memory[t])

        d_retrieved = d_gate_bias = d_h = d_c = None
        if d_memory is not None and memory is not None:
            slopes = memory * memory
            np.subtract(1.0, slopes, out=slopes)
            d_memory *= slopes
            d_memory = d_memory.reshape(length, size, *ctx.shape).transpose(2, 4, 3, 0, 1)
            d_retrieved = torch.from_numpy(np.ascontiguousarray(d_memory))
        if ctx.needs_input_grad[4]:
            d_gate_bias = torch.from_numpy(d_bias.reshape(ctx.shape).sum(1))
        if ctx.needs_input_grad[5]:
            d_h = np.matmul(cell.to_hidden, dz.reshape(5 * size, rows))
            d_h = torch.from_numpy(d_h.reshape(size, *ctx.shape))
        if ctx.needs_input_grad[6]:
            d_c = torch.from_numpy((dc * gates[0][:size]).reshape(size, *ctx.shape))
        return None, None, None, d_retrieved, d_gate_bias, d_h, d_c
