"""Executes an ``EpisodicLSTMComposition`` that is nested in another composition, as long as its graph is as made.

It does for whole sequences what ``standard.py`` does for the agent by itself, but as functions of PyTorch's, so
that gradients flow on to what the outer composition's nodes project to the agent, and to PsyNeuLink's parameters.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

# pyright: reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .backend import RecurrentWrapper
from .fast import Gradients, Sequence, run_sequence
from .memory import EntryRing
from .retrieval import matches, stretches_between, taken
from .standard import LearnedMatrices
from .weights import GATE_ORDER

if TYPE_CHECKING:
    from .composition import EpisodicLSTMComposition


class NestedAgent:
    """A nested agent during one call to the outer's ``learn()``.

    Args:
        model: the agent, its graph as made.
        wrapper: its PyTorch form, whose parameters are used.
        context: the execution context whose entries are read and stored.
    """

    def __init__(self, model: EpisodicLSTMComposition, wrapper: RecurrentWrapper, context: Any) -> None:
        self.model, self.context = model, context
        self._matrices = LearnedMatrices(model, wrapper)
        if model._has_memory:
            self.memory = model.episodic_memory.function
            self._settings = self.memory.retrieval_settings(context)
            self._appends = self.memory._setting("duplicate_entries_allowed", context) is True
            self._rings: list[EntryRing] = []

    def execute(self, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor]) -> NestedTrials:
        """Run B trials of T steps, each in an environment of its own.

        Args:
            inputs: {mechanism: (B, T, size)}.
            before: {mechanism: (B, H)}: h0 and c0; zeros without.
        """
        model = self.model
        x = inputs[model.input_node]
        zeros = x.new_zeros(len(x), model.config.hidden_size)
        h0, c0 = before.get(model.hidden, zeros), before.get(model.cell, zeros)
        trials = NestedTrials(self, inputs, (h0, c0))
        memory = _TrialMemory(self, inputs) if model._has_memory else None
        trials.sequence = run_sequence(
            self._matrices.joined(),
            list(self._matrices.parameters.values()),
            self._of_parameters,
            x[None],
            h0[None],
            c0[None],
            *((memory.retrieve, memory.encode, memory.stretches) if memory is not None else ()),  # type: ignore
        )
        trials.retrieved = None if memory is None else torch.cat(memory.retrieved, dim=1)
        return trials

    def rings(self, environments: int) -> list[EntryRing]:
        """The entries of the first so many environments."""
        while len(self._rings) < environments:
            self._rings.append(self.memory.ring(self.context, len(self._rings)))
        return self._rings[:environments]

    def store(self, entry: list[np.ndarray], environment: int) -> None:
        """Store one entry, key (K,) and value (H,)."""
        if self._appends:
            self._rings[environment].append(entry)
        else:
            self.memory.store_entry(entry, self.context, environment=environment)

    def _of_parameters(self, g: Gradients) -> list[Tensor | None]:
        return list(self._matrices.split(g, self._matrices.room()).values())

    def to_gates(self, name: str) -> Tensor:
        """PsyNeuLink's parameters of a weight, side by side: (sender, 5H)."""
        blocks = [self._matrices.parameters.get((name, block)) for block in GATE_ORDER]
        none = torch.zeros_like(blocks[0])  # type: ignore[arg-type]  # the reinstatement gate of a model without
        return torch.cat([none if block is None else block for block in blocks], dim=1)


class _TrialMemory:
    """The episodic memories of the environments during one minibatch, as ``run_sequence`` asks for them."""

    def __init__(self, agent: NestedAgent, inputs: Mapping[Any, Tensor]) -> None:
        model = agent.model
        self.agent = agent
        self.keys = inputs[model.input_node][..., model.config.key_columns]
        self.switch = inputs[model.retrieve_node]
        self.encodes = inputs[model.encode_node].detach()[..., 0].numpy() > 0.5
        self.stretches = stretches_between(self.encodes, self.switch.detach()[..., 0].numpy() != 0)
        self.rings = agent.rings(len(self.keys))
        self.retrieved: list[Tensor] = []

    def retrieve(self, steps: slice) -> Tensor:
        """What the memories hold for these steps, zeros where nothing is retrieved: (1, B, steps, H)."""
        entries = torch.cat([self._match(self.keys[b : b + 1, steps], ring) for b, ring in enumerate(self.rings)])
        self.retrieved.append(entries)
        return (entries[..., self.keys.shape[-1] :] * self.switch[:, steps])[None]

    def _match(self, queries: Tensor, ring: EntryRing) -> Tensor:
        """Entries, key and value side by side: (1, steps, K) → (1, steps, K + H)."""
        fields = [ring.used(field)[None] for field in (0, 1)]
        if self.agent._settings.retrieval == "average":  # copies: stored over before gradients need them
            fields = [field.copy() for field in fields]
        keys, values = (torch.from_numpy(field) for field in fields)
        found = matches(self.agent._settings, queries, keys, ring.oldest)
        return torch.cat([taken(found, field) for field in (keys, values)], -1)

    def encode(self, steps: slice, cells: np.ndarray) -> None:
        """Store the entries of these steps, given c_t (1, B, steps, H)."""
        for b, t in np.argwhere(self.encodes[:, steps]).tolist():
            self.agent.store([self.keys[b, steps][t].detach().numpy(), cells[0, b, t]], b)


class NestedTrials:
    """What happened in a minibatch: the value of each node, computed when it is asked for."""

    sequence: Sequence
    retrieved: Tensor | None
    """(B, T, K + H): key and value of what the memory gave, before ``retrieve`` and the tanh."""

    def __init__(self, agent: NestedAgent, inputs: Mapping[Any, Tensor], before: tuple[Tensor, Tensor]) -> None:
        """The agent, its inputs (B, T, size), and h0 and c0 (B, H)."""
        self.agent, self.model, self.inputs, self.before = agent, agent.model, inputs, before
        self._gates: dict[str, Tensor] | None = None

    def items(self, node: Any) -> list[Tensor]:
        """A node's value at all steps, item by item: [(B, T, size), ...]; gradients flow through all of them."""
        model, sequence = self.model, self.sequence
        if node in self.inputs:
            return [self.inputs[node]]
        if node in (model.hidden, model.cell, model.actor):
            name = {model.hidden: "hidden", model.cell: "cell", model.actor: "policy"}[node]
            return [getattr(sequence, name)[0]]
        if node is model.critic:
            return [sequence.value[0].unsqueeze(-1)]
        if node is model.cell_output:
            return [torch.tanh(sequence.cell[0])]
        if node in (model.input_bias, model.hidden_bias, model.readout_bias):
            return [torch.ones_like(sequence.value[0]).unsqueeze(-1)]
        if model._has_memory and node in (model.episodic_memory, model.memory_node, model.encoding):
            size = model.config.key_size
            return {
                model.episodic_memory: [self.retrieved[..., :size], self.retrieved[..., size:]],
                model.memory_node: [sequence.memory[0]],
                model.encoding: [self.inputs[model.encode_node]],
            }[node]
        return [self._of_gates(node)]

    def _of_gates(self, node: Any) -> Tensor:
        """The gates and what they let pass; ``run_sequence`` gives the gates without gradients."""
        model, gates = self.model, self._all_gates()
        for block, gate in model.gates.items():
            if node is gate:
                return gates[block]
        if node is model.kept:
            return gates["forget"] * self._step_before(self.before[1], self.sequence.cell[0])
        if node is model.new:
            return gates["input"] * gates["candidate"]
        return gates["reinstatement"] * self.sequence.memory[0]

    def _all_gates(self) -> dict[str, Tensor]:
        if self._gates is None:
            x, weights = self.inputs[self.model.input_node], self.agent.to_gates
            h = self._step_before(self.before[0], self.sequence.hidden[0])
            drive = x @ weights("input_weight") + weights("input_bias")
            drive = drive + h @ weights("hidden_weight") + weights("hidden_bias")
            if self.model.config.reinstatement == "input":
                drive = drive + self.sequence.memory[0] @ weights("memory_weight")
            parts = dict(zip(GATE_ORDER, drive.chunk(len(GATE_ORDER), -1), strict=True))
            self._gates = {
                block: torch.tanh(z) if block == "candidate" else torch.sigmoid(z) for block, z in parts.items()
            }
        return self._gates

    @staticmethod
    def _step_before(first: Tensor, course: Tensor) -> Tensor:
        """Values one step earlier: (B, H), (B, T, H) → (B, T, H)."""
        return torch.cat([first[:, None], course[:, :-1]], dim=1)
