"""An agent in PsyNeuLink's PyTorch mode as long as its graph is as made: PsyNeuLink's parameters ↔ the engine.

The engine computes what PsyNeuLink's wrappers would, from the same parameters, and gives these their gradients,
so that the optimiser, learning rates by projection, freezing and synchronisation remain PsyNeuLink's. Where the
agent is nested in another composition, the same is a function of autograd's, so that gradients flow on to what
the outer composition's nodes project to it.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import Trace as NodeValues
from .bank import RingMemory
from .choices import Choices
from .engine import Trace, Weights, backward, backward_of_update, by_inputs, by_read, run
from .graph import LearnedMatrices
from .losses import Slopes, is_finite
from .people import People
from .person import Person
from .person_in_graph import PersonInGraph
from .source import GivenTrials, Interaction
from .weights import GATE_ORDER


@dataclass(eq=False)
class Symbols:
    """What happened in B trials of T steps, by the symbols of the equations: tensors (B, T, ...)."""

    gates: Tensor
    """(B, T, 5, H): f_t, i_t, o_t, r_t, ĉ_t."""
    memory: Tensor
    """m_t"""
    cell: Tensor
    """c_t"""
    hidden: Tensor
    """h_t"""
    policy: Tensor
    """π_t"""
    value: Tensor
    """v_t, (B, T, 1)."""
    first_cell: Tensor
    """c_0, (B, H)."""
    key_found: Tensor | None
    """(B, T, K): the key of what the memory gave."""
    value_found: Tensor | None
    """(B, T, H): and its value, before ``retrieve`` and the tanh."""

    def gate(self, name: str) -> Tensor:
        """One of the gates, or the candidate: (B, T, H)."""
        return self.gates[:, :, GATE_ORDER.index(name)]


class AgentTrace(NodeValues):
    """The value of each node of the graph as made, from what the engine has computed.

    Args:
        path: by which it was computed.
        engine: the engine's trace.
        inputs: {INPUT mechanism: (B, T, size)}.
        before: {mechanism: (B, H)}: h0 and c0.
        symbols: what happened, as tensors through which gradients flow; by default the engine's numbers.
    """

    def __init__(
        self,
        path: FastPath,
        engine: Trace,
        inputs: Mapping[Any, Tensor],
        before: Mapping[Any, Tensor],
        symbols: tuple[Tensor, ...] | None = None,
    ) -> None:
        super().__init__(path.wrapper)
        self.path, self.graph, self.engine = path, path.graph, engine
        self.inputs, self.before, self._given = inputs, before, symbols

    @cached_property
    def symbols(self) -> Symbols:
        """What happened, by the symbols of the equations."""
        symbols = self._given or [torch.from_numpy(v[0]) for v in symbols_of(self.engine)]
        found = self.path.found(self.engine)
        own = self.before[self.graph.cell], found["key_found"], found["value_found"]
        return Symbols(*symbols, *own)  # type: ignore[call-arg]

    def output(self, mechanism: Any, item: int) -> Tensor:
        """An item of a node's value at the last step: (B, size)."""
        direct = self._given is None and self.lengths is None
        if mechanism is self.graph.actor and direct:
            return torch.from_numpy(self.engine.before_chances[0, :, -1])
        if mechanism is self.graph.critic and direct:
            return torch.from_numpy(self.engine.value[0, :, -1:])
        return super().output(mechanism, item)

    def items(self, node: Any) -> list[Tensor]:
        """A node's value at all steps, item by item: [(B, T, size), ...]."""
        if node in self.inputs:
            return [self.inputs[node]]
        graph, s = self.graph, self.symbols
        if node is graph.actor and self.engine.choosing is not None:
            return [torch.from_numpy(self.engine.before_chances[0])]
        simple = {graph.cell: s.cell, graph.hidden: s.hidden, graph.actor: s.policy, graph.critic: s.value}
        if node in simple:
            return [simple[node]]
        for name, gate in graph.gates.items():
            if node is gate:
                return [s.gate(name)]
        if node is graph.kept:
            return [s.gate("forget") * torch.cat([s.first_cell[:, None], s.cell[:, :-1]], dim=1)]
        if node is graph.new:
            return [s.gate("input") * s.gate("candidate")]
        if node is graph.cell_output:
            return [torch.tanh(s.cell)]
        if node in graph.biases:
            return [torch.ones_like(s.value)]
        if node is self.path.person_in_graph.choice:
            return [s.policy]
        if node is graph.memory_node:
            return [s.memory]
        if node is graph.encoding:
            return [self.inputs[graph.encode_node]]
        if node is graph.episodic_memory:
            return [s.key_found, s.value_found]  # type: ignore[list-item]
        return [s.gate("reinstatement") * s.memory]  # reinstated


class FastPath:
    """Runs the engine on PsyNeuLink's parameters, during one call to ``learn()`` or ``simulate()``.

    Args:
        person: in the graph of the agent, which is as made.
        people: who chooses in each row; None: in all who stands there in this execution context.
        wrapper: PsyNeuLink's PyTorch form, whose parameters are used.
        context: the execution context, whose entries are read and stored.
        nested: whether gradients are to flow on to the inputs.
        shared_memory: all trials side by side read the memory of environment 0, in place of each having an
            environment of its own; if there are several, none of them may store.
    """

    def __init__(
        self,
        person: PersonInGraph,
        wrapper: Any,
        context: Any,
        *,
        people: Sequence[Person] | None = None,
        nested: bool = False,
        shared_memory: bool = False,
    ) -> None:
        self.graph, self.person_in_graph, self.wrapper = person.graph, person, wrapper
        graph = self.graph
        self.people = People([[person.of(context)] if people is None else people], graph.config)
        """Of a context's own person, sharpness and forgetting are as they stand in the graph."""
        parameters = {key: wrapper.projections_map[p].matrix for key, p in graph.learned.items()}
        self.matrices = LearnedMatrices(graph, parameters)
        self.memory: RingMemory | None = None
        if graph.has_memory:
            function = graph.episodic_memory.function
            retrieval = function.retrieval_settings(context)
            self.memory = RingMemory(
                function.bank(context),
                retrieval if people is None else self.people.retrieval(retrieval),
                graph.config.key_columns,
                key_scale=self.people.key_scale,
                repeated=function.repeated(context),
                shared=shared_memory,
                follows=function.follows,
                shows_keys=True,
                keeps_values=nested,
            )
        self._weights: Weights | None = None
        """As they are until the next update."""
        self.is_finite = True
        """Whether the gradients given last were."""

    # ---- forwards

    def run(
        self, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor], choices: Choices | None = None
    ) -> Trace:
        """Run B trials side by side: inputs {mechanism: (B, T, size)}, h0 and c0 {mechanism: (B, H)}.

        ``choices``: what has been chosen so far, of trials that have begun; without, p_t is the trained agent's.
        """
        graph = self.graph
        x = inputs[graph.input_node].detach().numpy()[None]
        retrieve = encode = None
        if graph.has_memory:
            retrieve = inputs[graph.retrieve_node].detach().numpy()[None, ..., 0]
            encode = inputs[graph.encode_node].detach().numpy()[None, ..., 0] > 0.5
            encode = encode if encode.any() else None
            retrieve = None if (retrieve == 1).all() else retrieve
        return self._run(GivenTrials(x, retrieve, encode), before, choices)

    def run_episode(self, interaction: Interaction, before: Mapping[Any, Tensor]) -> Trace:
        """Run an episode that has begun, of B worlds side by side."""
        return self._run(interaction, before, interaction)

    def _run(self, source: Any, before: Mapping[Any, Tensor], choices: Choices | None) -> Trace:
        h0, c0 = (before[node].detach().numpy()[None] for node in (self.graph.hidden, self.graph.cell))
        if self._weights is None:
            self._weights = self.matrices.joined()
        people, choosing = self.people, None if choices is None else self.people.choosing(choices)
        return run(self._weights, source, self.memory, h0, c0, drive=people.drive, choosing=choosing)

    def found(self, engine: Trace) -> dict[str, Tensor | None]:
        """Key and value of what the memory gave, (B, T, size)."""
        if self.memory is None:
            return {"key_found": None, "value_found": None}
        parts: dict[str, list[np.ndarray]] = {"key_found": [], "value_found": []}
        for stretch in engine.stretches:
            length = stretch.steps.stop - stretch.steps.start
            for name, found in (("key_found", stretch.read.keys), ("value_found", stretch.read.found)):
                if found is None:  # in a loop, at a step that does not read
                    size = self.memory.bank.fields[name == "value_found"].shape[2]
                    found = np.zeros((1, engine.x.shape[1], 1, size))
                parts[name].append(np.broadcast_to(found[0], (found.shape[1], length, found.shape[3])))
        return {name: torch.from_numpy(np.concatenate(found, axis=1)) for name, found in parts.items()}

    # ---- backwards

    def backward(self, engines: Sequence[Trace], slopes: Slopes, unroll: int | None = None) -> None:
        """Give PsyNeuLink's parameters their gradients, from the derivatives of the loss of what was run."""
        edges = np.cumsum([engine.x.shape[1] for engine in engines])[:-1]
        split = [
            [None] * len(engines) if s is None else np.split(s[None], edges, 1) for s in vars(slopes).values()
        ]
        found = backward_of_update(engines, list(zip(*split, strict=True)), self.memory, unroll)
        self._weights = None
        self.is_finite = all(map(is_finite, found.by_weight().values()))
        for key, gradient in self.matrices.split(found):
            parameter = self.matrices.parameters[key]
            if parameter.requires_grad:  # PsyNeuLink may have frozen projections since
                parameter.grad = gradient

    # ---- nested

    def execute(self, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor]) -> AgentTrace:
        """As a function of autograd's: gradients flow on to the inputs, the first states, and the parameters.

        Args:
            inputs: {mechanism: (B, T, size)}; each trial has an environment of its own.
            before: {mechanism: (B, H)}: h0 and c0; zeros without.
        """
        graph = self.graph
        x = inputs[graph.input_node]
        zeros = x.new_zeros(len(x), graph.config.hidden_size)
        before = {node: before.get(node, zeros) for node in (graph.hidden, graph.cell)}
        self._weights = None  # which the outer composition's optimiser changes
        engine = self.run(inputs, before)
        retrieve = inputs[graph.retrieve_node] if graph.has_memory else None
        states = before[graph.hidden], before[graph.cell]
        symbols = _Differentiable.apply(self, engine, x, retrieve, *states, *self.matrices.parameters.values())
        return AgentTrace(self, engine, inputs, before, symbols)


def symbols_of(engine: Trace) -> tuple[np.ndarray, ...]:
    """Gates, m_t, c_t, h_t, π_t and v_t, (P, B, T, ...) each."""
    return (engine.gates, engine.memory, engine.cell, engine.hidden, engine.policy, engine.value[..., None])


class _Differentiable(torch.autograd.Function):
    """What the engine has computed, with its derivatives."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        path: FastPath,
        engine: Trace,
        x: Tensor,
        retrieve: Tensor | None,
        h0: Tensor,
        c0: Tensor,
        *parameters: Tensor,
    ):
        ctx.path, ctx.engine = path, engine
        ctx.set_materialize_grads(False)
        return tuple(torch.from_numpy(np.ascontiguousarray(v[0])) for v in symbols_of(engine))

    @staticmethod
    @once_differentiable
    def backward(ctx, *slopes: Tensor | None):  # type: ignore[override]
        path, engine = ctx.path, ctx.engine
        gates, memory, cell, hidden, policy, value = (None if d is None else d.numpy()[None] for d in slopes)
        value = None if value is None else value[..., 0]
        if memory is not None and hidden is None:
            hidden = np.zeros_like(memory)
        found = backward(engine, policy, value, hidden, cell, d_gates=gates)
        if found.back is None:
            return (None,) * (6 + len(path.matrices.parameters))
        by_parameter = dict(path.matrices.split(found, room=False))
        parameters = (by_parameter[key] for key in path.matrices.parameters)
        d_x = by_inputs(engine, found.back)
        d_retrieve = None
        if path.memory is not None:
            d_read = by_read(engine, found.back, d_memory=memory)
            reads = [(stretch.steps, stretch.read) for stretch in engine.stretches]
            d_key, d_switch = path.memory.by_inputs(reads, d_read, ctx.needs_input_grad[2])
            if d_key is not None:
                d_x[..., path.graph.config.key_columns] += d_key
            d_retrieve = torch.from_numpy(d_switch[0][..., None])
        d_h0, d_c0 = (torch.from_numpy(d[0].T.copy()) for d in found.back.by_initial_states())
        return None, None, torch.from_numpy(d_x[0]), d_retrieve, d_h0, d_c0, *parameters
