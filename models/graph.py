"""The PsyNeuLink graph of an agent, and nothing else: its nodes, its projections, and the matrices that are
learned.

Ritter et al. (2018), with the equations of ``reference.py``. Each symbol is a node that ``show_graph()`` shows:

    input (x_t) and its bias, hidden bias        → forget, input, output and reinstatement gate, candidate
    input → key of the episodic memory           → memory (m_t), zero where ``retrieve`` is 0
    kept (f ∘ c), new (i ∘ ĉ), reinstated (r ∘ m) → cell (c_t) → tanh of cell → hidden (h_t)
    hidden, read-out bias                        → actor (π_t), critic (v_t)
    key, cell, ``encode``                        → encoding, which stores the entry

With ``reinstatement="input"`` the memory m_t projects to the gates and the candidate, as the input does; there is
no reinstatement gate and nothing ``reinstated``.

Hidden and cell project back to the gates and to ``kept`` (feedback projections: values of the step before). A
PsyNeuLink trial is a step here; a trial of the task is a sequence of them. What is particular to a person has its
places in the same graph (see ``person_in_graph``).
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from torch import Tensor

from .backend import get_matrix, set_matrix
from .config import ModelConfig
from .encoding import EncodingMechanism
from .engine import Gradients, Weights
from .memory import EpisodicMemory
from .weights import GATE_ORDER, weight_shapes

GATE_NAMES = {
    "forget": "forget gate",
    "input": "input gate",
    "output": "output gate",
    "reinstatement": "reinstatement gate",
    "candidate": "candidate",
}
"""Names of the nodes, by the block of rows that holds their weights."""
GATE_WEIGHTS = ("input_weight", "input_bias", "hidden_weight", "hidden_bias", "memory_weight")
"""The last of them only with ``reinstatement="input"``."""
READOUTS = ("actor_weight", "actor_bias", "critic_weight", "critic_bias")

Learned = tuple[str, str]
"""A weight of ``weight_shapes``, and the gate or read-out that it leads to."""


class AgentGraph:
    """The nodes and projections of an agent, made in a composition.

    Its nodes are attributes: ``input_node``, ``retrieve_node``, ``encode_node``, ``gates`` (by name),
    ``episodic_memory``, ``memory_node``, ``kept``, ``new``, ``reinstated``, ``cell``, ``cell_output``, ``hidden``,
    ``actor``, ``critic``, ``encoding``, and the three bias nodes. With a memory capacity of 0 those of the memory
    and the reinstatement gate are not there; with ``reinstatement="input"``, the reinstatement gate and
    ``reinstated``.

    Args:
        composition: in which it is made.
        config: sizes and memory settings.
    """

    def __init__(self, composition: pnl.Composition, config: ModelConfig) -> None:
        self.composition, self.config = composition, config
        self.has_memory = config.memory_capacity > 0
        self.learned: dict[Learned, pnl.MappingProjection] = {}
        """The projections that are learned."""
        self.to_keys: list[pnl.MappingProjection] = []
        """The fixed ones from the input to the keys of the memory and of ``encoding``."""
        self._make_nodes()
        self._add_nodes()
        self._make_projections()
        # Rows of the weights that lead nowhere: those of a gate that is not there.
        self._absent = {weight: np.zeros(shape) for weight, shape in weight_shapes(config).items()}

    # ---- nodes

    def _make_nodes(self) -> None:
        config = self.config
        inputs, hidden, actions = config.input_size, config.hidden_size, config.n_actions
        self.input_node = _node("input", [inputs])
        self.input_bias, self.hidden_bias, self.readout_bias = (
            pnl.ProcessingMechanism(
                name=name,
                input_ports=[pnl.InputPort(name="1", variable=[1.0], default_input=pnl.DEFAULT_VARIABLE)],
            )
            for name in ("input bias", "hidden bias", "read-out bias")
        )
        gates = [gate for gate in GATE_ORDER if config.has_reinstatement_gate or gate != "reinstatement"]
        self.gates = {
            gate: _node(GATE_NAMES[gate], [hidden], pnl.Tanh() if gate == "candidate" else pnl.Logistic())
            for gate in gates
        }
        self.kept = _node("kept f∘c", [hidden, hidden], _product())
        self.new = _node("new i∘ĉ", [hidden, hidden], _product())
        self.cell = _node("cell c", [hidden])
        self.cell_output = _node("tanh(c)", [hidden], pnl.Tanh())
        self.hidden = _node("hidden h", [hidden, hidden], _product())
        self.actor = _node("actor π", [actions], pnl.SoftMax(output=pnl.ALL))
        self.critic = _node("critic v", [1])
        if self.has_memory:
            self._make_memory_nodes()

    def _make_memory_nodes(self) -> None:
        config = self.config
        hidden = config.hidden_size
        form = [np.zeros(config.key_size), np.zeros(hidden)]
        self.retrieve_node = pnl.ProcessingMechanism(name="retrieve", default_variable=[np.ones(1)])
        self.encode_node = _node("encode", [1])
        self.episodic_memory = pnl.EpisodicMemoryMechanism(
            name="episodic memory",
            input_ports=[
                pnl.InputPort(name="key", variable=form[0]),
                pnl.InputPort(name="value", variable=form[1], default_input=pnl.DEFAULT_VARIABLE),
            ],
            default_variable=form,
            function=EpisodicMemory(
                default_variable=form,
                kernel=config.kernel,
                retrieval=config.retrieval,
                sharpness=config.sharpness,
                equidistant_entries_select=config.ties,
                duplicate_entries_allowed=True if config.repeated_key == "append" else "overwrite",
                max_entries=config.memory_capacity,
                storage_prob=0.0,
            ),
        )
        # Two projections, the retrieved value and the switch, multiplied in the port: m = tanh(retrieve · value).
        self.memory_node = pnl.ProcessingMechanism(
            name="memory m",
            input_ports=[pnl.InputPort(name="retrieved", variable=form[1], combine=pnl.PRODUCT)],
            function=pnl.Tanh(),
        )
        if config.has_reinstatement_gate:
            self.reinstated = _node("reinstated r∘m", [hidden, hidden], _product())
        self.encoding = EncodingMechanism(memory=self.episodic_memory, name="encoding")

    def _add_nodes(self) -> None:
        add = self.composition.add_node
        add(self.input_node)
        for bias in self.biases:
            add(bias, required_roles=[pnl.NodeRole.BIAS])
        nodes = [*self.gates.values(), self.kept, self.new, self.cell, self.cell_output, self.hidden]
        if self.has_memory:
            nodes += [self.retrieve_node, self.encode_node, self.episodic_memory, self.memory_node]
            nodes += [self.reinstated] if self.config.has_reinstatement_gate else []
            nodes += [self.encoding]
        for node in nodes:
            add(node)
        for node in (self.actor, self.critic):
            add(node, required_roles=[pnl.NodeRole.OUTPUT])
        if self.has_memory:
            self.composition.exclude_node_roles(self.encoding, pnl.NodeRole.OUTPUT)

    @property
    def biases(self) -> tuple[Any, ...]:
        """The three bias nodes."""
        return self.input_bias, self.hidden_bias, self.readout_bias

    @property
    def nodes(self) -> dict[str, Any]:
        """The nodes by the names of the attributes; ``gates`` is a dict of them."""
        return {
            name: node for name, node in vars(self).items() if isinstance(node, pnl.Mechanism) or name == "gates"
        }

    # ---- projections

    def _make_projections(self) -> None:
        config, hidden = self.config, np.eye(self.config.hidden_size)
        for name, gate in self.gates.items():
            self._learn("input_weight", name, self.input_node, gate)
            self._learn("input_bias", name, self.input_bias, gate)
            self._learn("hidden_weight", name, self.hidden, gate, feedback=True)
            self._learn("hidden_bias", name, self.hidden_bias, gate)
            if config.reinstatement == "input":
                self._learn("memory_weight", name, self.memory_node, gate)
        for name, node in (("actor", self.actor), ("critic", self.critic)):
            self._learn(f"{name}_weight", name, self.hidden, node)
            self._learn(f"{name}_bias", name, self.readout_bias, node)

        self.fix(self.gates["forget"], self.kept.input_ports[0], hidden)
        self.fix(self.cell, self.kept.input_ports[1], hidden, feedback=True)
        self.fix(self.gates["input"], self.new.input_ports[0], hidden)
        self.fix(self.gates["candidate"], self.new.input_ports[1], hidden)
        self.fix(self.kept, self.cell, hidden)
        self.fix(self.new, self.cell, hidden)
        self.fix(self.cell, self.cell_output, hidden)
        self.fix(self.gates["output"], self.hidden.input_ports[0], hidden)
        self.fix(self.cell_output, self.hidden.input_ports[1], hidden)
        if self.has_memory:
            key = np.eye(config.input_size)[:, config.key_columns]
            switch = np.ones((1, config.hidden_size))
            self.to_keys.append(self.fix(self.input_node, self.episodic_memory.input_ports["key"], key))
            self.fix(self.episodic_memory.output_ports[1], self.memory_node, hidden)
            self.fix(self.retrieve_node, self.memory_node, switch)
            if config.has_reinstatement_gate:
                self.fix(self.gates["reinstatement"], self.reinstated.input_ports[0], hidden)
                self.fix(self.memory_node, self.reinstated.input_ports[1], hidden)
                self.fix(self.reinstated, self.cell, hidden)
            self.to_keys.append(self.fix(self.input_node, self.encoding.input_ports["key"], key))
            self.fix(self.cell, self.encoding.input_ports["value"], hidden)
            self.fix(self.encode_node, self.encoding.input_ports["encode"], np.eye(1))

    def _learn(self, weight: str, leads_to: str, sender: Any, receiver: Any, **kwargs: Any) -> None:
        matrix = np.zeros((_size(sender), _size(receiver)))
        self.learned[weight, leads_to] = self._project(sender, receiver, matrix, True, **kwargs)

    def fix(self, sender: Any, receiver: Any, matrix: np.ndarray, **kwargs: Any) -> pnl.MappingProjection:
        """A projection that is not learned."""
        return self._project(sender, receiver, matrix, False, **kwargs)

    def _project(
        self, sender: Any, receiver: Any, matrix: np.ndarray, learnable: bool, feedback: bool = False
    ) -> pnl.MappingProjection:
        ends = [getattr(end, "full_name", end.name) for end in (sender, receiver)]
        projection = pnl.MappingProjection(
            name=f"{ends[0]} → {ends[1]}",
            sender=sender,
            receiver=receiver,
            matrix=matrix,
            learnable=learnable,
            **({"feedback": True} if feedback else {}),
        )
        self.composition.add_projection(projection, feedback=feedback or None)
        return projection

    # ---- weights, by the names and shapes of ``weight_shapes``

    def weights(self, context: Any) -> dict[str, np.ndarray]:
        """Copies of all weights in an execution context."""
        return self.as_weights({key: get_matrix(p, context) for key, p in self.learned.items()}, self._absent)

    def set_weights(self, weights: Mapping[str, np.ndarray], contexts: set[Any]) -> None:
        """Take these weights, which have been checked, in these execution contexts."""
        for key, matrix in self.as_matrices(weights).items():
            for execution_id in contexts:
                set_matrix(self.learned[key], matrix.copy(), execution_id)
        self._absent = {name: np.array(array) for name, array in weights.items()}

    def rows(self, name: str, leads_to: str) -> slice:
        """The rows of a weight that lead to a gate or a read-out."""
        if name in READOUTS:
            return slice(None)
        start = GATE_ORDER.index(leads_to) * self.config.hidden_size
        return slice(start, start + self.config.hidden_size)

    def as_matrices(self, weights: Mapping[str, np.ndarray]) -> dict[Learned, np.ndarray]:
        """Weights (or what has their forms) → by projection, (sender, receiver)."""
        found = {}
        for name, leads_to in self.learned:
            rows = np.asarray(weights[name], dtype=float)[self.rows(name, leads_to)]
            found[name, leads_to] = rows[None, :] if name.endswith("bias") else rows.T
        return found

    def as_weights(
        self, matrices: Mapping[Learned, np.ndarray], elsewhere: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        """The inverse; ``elsewhere`` has the rows that lead nowhere, 0 without."""
        shapes = weight_shapes(self.config)
        found = {n: np.zeros(shape) if elsewhere is None else elsewhere[n].copy() for n, shape in shapes.items()}
        for (name, leads_to), matrix in matrices.items():
            found[name][self.rows(name, leads_to)] = matrix[0] if name.endswith("bias") else matrix.T
        return found


class LearnedMatrices:
    """The matrices that an agent's projections learn, as parameters of PsyNeuLink's and as the engine has them.

    Args:
        graph: of the agent.
        parameters: the parameters of PsyNeuLink's PyTorch form, by what they are; each (sender, receiver).
    """

    def __init__(self, graph: AgentGraph, parameters: Mapping[Learned, Tensor]) -> None:
        self.parameters = dict(parameters)
        arrays = {key: matrix.detach().numpy() for key, matrix in self.parameters.items()}  # the same numbers
        self._joined = {name: self._blocks(name, graph, arrays) for name in (*GATE_WEIGHTS, *READOUTS)}
        self._room: dict[str, tuple[np.ndarray, dict[Learned, Tensor]]] | None = None

    @staticmethod
    def _blocks(name: str, graph: AgentGraph, arrays: Mapping[Learned, np.ndarray]) -> list[tuple[Learned, Any]]:
        """The blocks of rows of a weight, as views; zeros for the reinstatement gate of a model without."""
        if (name, "forget") in arrays:
            none = np.zeros_like(arrays[name, "forget"])
            return [((name, gate), arrays.get((name, gate), none).T) for gate in GATE_ORDER]
        key = (name, name.split("_")[0])
        return [(key, arrays[key].T)] if key in arrays else []

    def joined(self) -> Weights:
        """The weights of one agent, for the engine."""
        whole = {name: np.concatenate([b for _, b in blocks]) for name, blocks in self._joined.items() if blocks}
        bias = whole.pop("input_bias") + whole.pop("hidden_bias")
        return Weights(bias=bias.T, **{n: a.T if n.endswith("bias") else a[None] for n, a in whole.items()})

    def split(self, found: Gradients, room: bool = True) -> Iterator[tuple[Learned, Tensor | None]]:
        """Gradients by parameter, (sender, receiver). With ``room``, they lie in the same memory at each call."""
        if self._room is None or not room:
            self._room = self._new_room()
        for name, (array, parts) in self._room.items():
            gradient = found.bias if name in ("input_bias", "hidden_bias") else getattr(found, name)
            if gradient is not None:
                array[...] = gradient[0].reshape(len(array), array.shape[2], -1).swapaxes(1, 2)
            for key, part in parts.items():
                yield key, None if gradient is None else part

    def _new_room(self) -> dict[str, tuple[np.ndarray, dict[Learned, Tensor]]]:
        rooms = {}
        for name, blocks in self._joined.items():
            if blocks:
                room = np.empty((len(blocks), *blocks[0][1].T.shape))
                parts = zip((key for key, _ in blocks), torch.from_numpy(room).unbind(), strict=True)
                rooms[name] = (room, {key: part for key, part in parts if key in self.parameters})
        return rooms


def _node(name: str, ports: list[int], function: Any = None) -> pnl.ProcessingMechanism:
    return pnl.ProcessingMechanism(
        name=name,
        default_variable=[np.zeros(size) for size in ports],
        **({} if function is None else {"function": function}),
    )


def _product() -> pnl.LinearCombination:
    return pnl.LinearCombination(operation=pnl.PRODUCT)


def _size(node: Any) -> int:
    return node.output_port.value.size if node.output_ports else 0
