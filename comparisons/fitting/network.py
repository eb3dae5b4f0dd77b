"""The network with a person's parameters, for many people and parameter values at once: read-outs and gradients.

The equations of ``models/person.py`` from the key to the read-out W_π h_t + b_π, run by ``models/engine.py``; what
is chosen from it is in ``chunk.py``. All share the weights, so that the rows of the engine are R restarts by n
trials by B blocks, whatever the person and the parameters. Each trial starts at h_0 = c_0 = 0, each block with an
empty memory. Choices do not enter: neither inputs nor memory depend on them in tasks without action-dependence. So
what depends on no parameter, the inputs' part of the gates' drive and the similarities of queries and keys, is
computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...models.cell import Backward
from ...models.config import ModelConfig
from ...models.engine import Trace, Weights, go_back_through, run
from ...models.person import PARAMETERS, Average, Drive, Key
from ...models.source import GivenTrials
from ...models.weights import GATE_ORDER
from ...tasks.trials import Trials
from .planned_memory import Entries, PlannedMemory, Values
from .rounds import Arrangement, Round


def acts_in_network(name: str, reads: bool = True) -> bool:
    """Whether the read-out depends on this parameter; ``reads``: on trials that retrieve something."""
    place = PARAMETERS[name].place if name in PARAMETERS else None
    if isinstance(place, Drive):
        return reads or place.gate != "reinstatement"
    return reads and isinstance(place, (Average, Key))


class Batch:
    """Blocks of equally long trials that are run side by side, whatever their participants.

    Args:
        config, weights: of the agent.
        blocks, needed: as in ``Arrangement``.
        key_scale, context: as in ``Entries``.
        keep_drive: keep the inputs' part of the drive, 40 · H · T bytes a trial, or compute it whenever needed.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        blocks: Sequence[Trials],
        needed: Sequence[np.ndarray],
        *,
        key_scale: np.ndarray,
        context: np.ndarray | None = None,
        keep_drive: bool = True,
    ) -> None:
        self.config, self.weights = config, weights
        has_memory = config.memory_capacity > 0
        self.arrangement = Arrangement(blocks, needed, has_memory)
        self.entries = Entries(config, self.arrangement, key_scale, context) if has_memory else None
        self._drive = self._new_drive() if keep_drive else None

    def _new_drive(self) -> np.ndarray:
        arranged = self.arrangement
        inputs = arranged.arranged([one.inputs for one in arranged.blocks], 0.0)
        n, blocks = inputs.shape[:2]
        drive = np.empty((arranged.length, 1, len(GATE_ORDER) * self.config.hidden_size, n * blocks))
        source = GivenTrials(inputs.reshape(1, n * blocks, *inputs.shape[2:]))
        source.drive(self.weights.input_weight, self.weights.bias, slice(None), drive)
        return drive.reshape(arranged.length, -1, n, blocks)

    @property
    def drive(self) -> np.ndarray:
        """W_x x_t + b_x + b_h: (T, 5H, n, B)."""
        return self._new_drive() if self._drive is None else self._drive

    def readout(
        self, values: Mapping[str, Tensor | float], restarts: int, reads: bool = True, full: bool = False
    ) -> Tensor:
        """W_π h_t + b_π of all trials: (T, A, R, n, B), differentiable once by the parameters of the network.

        Args:
            values: of the parameters that are not neutral, and ``sharpness`` for an average: numbers, or (R, B).
                Those that do not act here are not used.
            restarts: R.
            reads: whether the memory is read; without, as if nothing were retrieved on any trial.
            full: all steps; else zeros after the last that is needed.
        """
        shape = (restarts, len(self.arrangement.blocks))
        acting = {
            name: torch.as_tensor(value, dtype=torch.float64).expand(shape)
            for name, value in values.items()
            if acts_in_network(name, reads)
        }
        reads = reads and self.entries is not None
        return _ReadOuts.apply(self, reads, full, tuple(acting), shape, *acting.values())


class _ReadOuts(torch.autograd.Function):
    """See ``Batch.readout``."""

    @staticmethod
    def forward(ctx, batch: Batch, reads: bool, full: bool, names: tuple, shape: tuple, *values: Tensor):  # type: ignore[override]
        numbers = {name: value.detach().numpy() for name, value in zip(names, values, strict=True)}
        wanted = ctx.needs_input_grad[5:]
        free = {name for name, needed in zip(names, wanted, strict=True) if needed}
        evaluation = _Evaluation(batch, numbers, free, shape, reads)
        ctx.names, ctx.evaluation = names, evaluation
        return torch.from_numpy(evaluation.run(full))

    @staticmethod
    @once_differentiable
    def backward(ctx, d_readout: Tensor):  # type: ignore[override]
        evaluation, ctx.evaluation = ctx.evaluation, None  # what the way back needs is gone afterwards
        if evaluation is None:
            raise RuntimeError("Read-outs can be differentiated once; compute them anew.")
        slopes = evaluation.back(d_readout.numpy())
        each = (torch.from_numpy(slopes[name]) if name in slopes else None for name in ctx.names)
        return None, None, None, None, None, *each


class _Evaluation:
    """The rounds of a batch at some values of the parameters (R, B), forwards and back."""

    def __init__(self, batch: Batch, values: Values, free: set[str], shape: tuple[int, int], reads: bool) -> None:
        self._batch, self._values, self._free, self._shape = batch, values, free, shape
        gates = {name: PARAMETERS[name].place for name in values}
        self._gates = {name: place.gate for name, place in gates.items() if isinstance(place, Drive)}
        self._memory = None
        if reads:
            assert batch.entries is not None
            size = batch.config.hidden_size
            self._memory = PlannedMemory(batch.entries, values, free - set(self._gates), (*shape, size))
        self._traces: list[tuple[Round, Trace]] = []

    def run(self, full: bool) -> np.ndarray:
        """The read-outs, (T, A, R, n, B)."""
        batch, arranged = self._batch, self._batch.arrangement
        finds = None if self._memory is None else batch.entries.finds.swapaxes(0, 1)  # type: ignore[union-attr]
        restarts, blocks = self._shape
        readout = np.zeros((arranged.length, batch.config.n_actions, restarts, arranged.n_trials, blocks))
        for one in arranged.rounds(batch.drive, restarts, finds, full):
            start = np.zeros((1, one.rows, batch.config.hidden_size))
            trace = run(batch.weights, one, self._memory, start, start, drive=self._added(one))
            readout[: one.length, :, :, one.trials] = trace.logits.reshape(one.length, -1, *one.shape)
            if self._free:
                self._traces.append((one, trace))
        return readout

    def _added(self, one: Round) -> dict[str, np.ndarray]:
        """What the parameters add to the drive of each gate."""
        added: dict[str, np.ndarray] = {}
        for name, gate in self._gates.items():
            added[gate] = added.get(gate, 0.0) + one.by_row(self._values[name])
        return added

    def back(self, d_readout: np.ndarray) -> dict[str, np.ndarray]:
        """Derivatives by the free parameters, (R, B) each, from those by the read-outs (T, A, R, n, B)."""
        weights, memory = self._batch.weights, self._memory
        slopes = {name: np.zeros(self._shape) for name in self._gates if name in self._free}
        to_hidden = weights.actor_weight.swapaxes(-1, -2)
        while self._traces:
            one, trace = self._traces.pop()
            d_logits = d_readout[: one.length, None, :, :, one.trials].reshape(one.length, 1, -1, one.rows)
            back = Backward(trace.states, weights.hidden_weight, np.matmul(to_hidden, d_logits))
            if memory is None:
                back.stretch(slice(0, one.length))
            else:
                go_back_through(trace, back, memory)
            for name, by_name in slopes.items():
                by_name += self._by_gate(back, self._gates[name]).reshape(one.shape).sum(1)
        return slopes if memory is None else slopes | memory.slopes

    def _by_gate(self, back: Backward, gate: str) -> np.ndarray:
        """Derivatives by what is added to the drive of a gate, (rows,)."""
        size, number = self._batch.config.hidden_size, GATE_ORDER.index(gate)
        return back.d_drive[:, 0, number * size : (number + 1) * size].sum((0, 1))
