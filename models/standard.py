"""Executes an ``EpisodicLSTMComposition`` as long as its graph is the one that its constructor made.

``StandardGraph`` remembers the graph as made; ``difference`` says what has been changed since. Where nothing has,
``execute`` computes what PsyNeuLink's wrappers would, from the same parameters, with ``fast.py``, and ``backward``
gives these parameters their gradients, so that the optimiser, learning rates by projection, freezing and
synchronisation remain PsyNeuLink's.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psyneulink as pnl
import torch
from torch import Tensor

from .backend import RecurrentWrapper, get_matrix, graph_signature
from .fast import Gradients, Trace, Weights, gradients, run_episode, run_trials
from .losses import Slopes
from .memory import EntryRing
from .person import Person
from .retrieval import matches, stretches_between, taken
from .weights import GATE_ORDER

if TYPE_CHECKING:
    from .composition import EpisodicLSTMComposition
    from .interaction import Interaction

MEMORY_SETTINGS = frozenset(
    {
        "kernel",
        "retrieval",
        "sharpness",
        "forgetting",
        "max_entries",
        "duplicate_entries_allowed",
        "equidistant_entries_select",
    }
)
"""Parameters of the memory's function that this path reads where it needs them: they may change."""

GATE_WEIGHTS = ("input_weight", "input_bias", "hidden_weight", "hidden_bias", "memory_weight")
"""The last of them only with ``reinstatement="input"``."""
READOUTS = ("actor_weight", "actor_bias", "critic_weight", "critic_bias")


@dataclass(eq=False)
class StandardCourse:
    """What happened in a minibatch, in the forms in which the backend asks for it."""

    model: EpisodicLSTMComposition
    wrapper: RecurrentWrapper
    inputs: Mapping[Any, Tensor]
    before: Mapping[Any, Tensor]
    trace: Trace
    retrieved: list[np.ndarray] | None
    """The entry retrieved at the last step, before ``retrieve`` and the tanh: key (B, K) and value (B, H)."""

    @property
    def trajectory(self) -> dict[str, np.ndarray]:
        """What a record holds, by the names of ``EpisodicLSTMComposition._values``, each (B, T, size)."""
        trace = self.trace
        values = {
            "policy": trace.policy[0],
            "value": trace.value[0][..., None],
            "hidden": trace.hidden[0],
            "cell": trace.cell[0],
        }
        if self.retrieved is not None:
            values["memory"] = trace.memory[0]
        gates = trace.gates[0]
        return values | {b: gates[:, :, k] for k, b in enumerate(GATE_ORDER[:4]) if b in self.model.gates}

    def output(self, wrapper: RecurrentWrapper, mechanism: Any, item: int) -> Tensor:
        """An item of a node's value at the last step: (B, size)."""
        if mechanism in (self.model.actor, self.model._in_graph.choice):
            return torch.from_numpy(self.trace.policy[0, :, -1])
        if mechanism is self.model.critic:
            return torch.from_numpy(self.trace.value[0, :, -1:])
        return self.last_values()[wrapper.nodes_map[mechanism]][item][:, 0]

    def last_values(self) -> dict[Any, list[Tensor]]:
        """{node's wrapper: its value at the last step, item by item, each (B, 1, size)}."""
        model = self.model
        gates = dict(zip(GATE_ORDER, np.moveaxis(self.trace.gates[0, :, -1], 1, 0), strict=True))
        cells = np.concatenate([self.before[model.cell].numpy()[:, None], self.trace.cell[0]], axis=1)
        last = {node: [values[:, -1].numpy()] for node, values in self.inputs.items()}
        last |= {gate: [gates[block]] for block, gate in model.gates.items()}
        last |= {
            bias: [np.ones((len(cells), 1))] for bias in (model.input_bias, model.hidden_bias, model.readout_bias)
        }
        last[model.kept] = [gates["forget"] * cells[:, -2]]
        last[model.new] = [gates["input"] * gates["candidate"]]
        last[model.cell] = [cells[:, -1]]
        last[model.cell_output] = [np.tanh(cells[:, -1])]
        last[model.hidden] = [self.trace.hidden[0, :, -1]]
        last[model.actor] = [self.trace.policy[0, :, -1]]
        last[model.critic] = [self.trace.value[0, :, -1:]]
        if model._in_graph.choice is not None:  # there is no training of a person whose p_t is not π_t
            last[model._in_graph.choice] = last[model.actor]
        if self.retrieved is not None:
            memory = self.trace.memory[0, :, -1]
            last[model.memory_node] = [memory]
            if model.config.has_reinstatement_gate:
                last[model.reinstated] = [gates["reinstatement"] * memory]
            last[model.episodic_memory] = self.retrieved
            last[model.encoding] = last[model.encode_node]
        return {
            self.wrapper.nodes_map[node]: [torch.from_numpy(item.copy())[:, None] for item in items]
            for node, items in last.items()
        }


class StandardGraph:
    """The graph as the constructor made it.

    Args:
        model: the composition, its graph complete.
    """

    def __init__(self, model: EpisodicLSTMComposition) -> None:
        self.model = model
        self._made = self._structure(pnl.Context(execution_id=None))
        learned = set(model._learned.values())
        self._fixed = {p: get_matrix(p) for p in self._projections() if p not in learned}
        for projection in model._in_graph.matrices(Person()):
            del self._fixed[projection]
        self._memories: _Memories | None = None

    @contextmanager
    def enlarged(self) -> Iterator[None]:
        """What is added to the graph meanwhile is taken for part of it as made."""
        context = pnl.Context(execution_id=None)
        before = self._structure(context)
        yield
        self._made |= {name: now for name, now in self._structure(context).items() if now != before.get(name)}

    # ---- is it the graph as made? ------------------------------------------------------------------------

    def difference(self, context: Any) -> str | None:
        """What has been changed since the graph was made, in words; None if nothing that matters."""
        made, now = self._made, self._structure(context)
        for nodes in (set(now) - set(made), set(made) - set(now)):
            if nodes:
                return f"{', '.join(sorted(repr(n) for n in nodes))} added or removed"
        for name, settings in made.items():
            if now[name] != settings:
                return f"{name!r} changed"
        for projection, matrix in self._fixed.items():
            if not np.array_equal(get_matrix(projection, context), matrix):
                return f"the fixed matrix of '{projection.name}' changed"
        if (place := self.model._in_graph.difference(context)) is not None:
            return place
        if self.model._has_memory and self._memory_function()._setting("equidistant_entries_select", context) == (
            pnl.RANDOM
        ):
            return "equidistant_entries_select is RANDOM"
        return None

    def _memory_function(self) -> Any:
        return self.model.episodic_memory.function

    def _projections(self) -> list[Any]:
        """Projections between nodes, those of the composition's interfaces left out."""
        nodes = set(self.model.nodes)
        return [p for p in self.model._inner_projections if {p.sender.owner, p.receiver.owner} <= nodes]

    def _structure(self, context: Any) -> dict[str, Any]:
        """What ``graph_signature`` holds by node and projection, without what this path leaves open."""
        model = self.model
        nodes, projections, conditions, _ = graph_signature(model, context)
        structure: dict[str, Any] = {"scheduling conditions": conditions}
        for node, signature in zip(model.nodes, nodes, strict=True):
            constants = tuple(  # PsyNeuLink changes the defaults of other ports when it nests the composition
                np.ravel(port.defaults.variable).tobytes()
                for port in getattr(node, "input_ports", ())
                if port.default_input
            )
            structure[f"{node.name}"] = (self._without_open_settings(node, signature), constants)
        inner = {id(p): p.name for p in self._projections()}
        for identity, sender, receiver, _learnable, function in projections:
            if identity in inner:
                structure[f"projection {inner[identity]} ({identity})"] = (sender, receiver, function)
            elif sender in self._port_ids() and receiver in self._port_ids():
                structure[f"projection of a node to itself ({identity})"] = (sender, receiver, function)
        return structure

    def _port_ids(self) -> set[int]:
        return {id(port) for node in self.model.nodes for port in getattr(node, "input_ports", ())}

    def _without_open_settings(self, node: Any, signature: tuple) -> tuple:
        """Without settings of the node's function that this path reads: the memory's, and a person's places."""
        opened = {name for mechanism, name in self.model._in_graph.settings(Person()) if mechanism is node}
        if self.model._has_memory and node is self.model.episodic_memory:
            opened |= MEMORY_SETTINGS
        if not opened:
            return signature
        opened |= {p.name for p in node.function.parameters if p.source is not None and p.source.name in opened}
        identity, settings, function, ports = signature
        kept = tuple(s for s in function if not (isinstance(s, tuple) and s[0] in opened))
        return identity, settings, kept, ports

    # ---- execution ---------------------------------------------------------------------------------------

    def begin(self, wrapper: RecurrentWrapper, inputs: Mapping[Any, Tensor], context: Any) -> None:
        """Prepare for the trials of one call: take the parameters, and the memory's settings.

        Args:
            wrapper: the PyTorch form whose parameters are used.
            inputs: {mechanism: (n, T, size)}, of all trials.
            context: the execution context whose entries are read and stored.
        """
        self._matrices = LearnedMatrices(self.model, wrapper)
        self._room = self._matrices.room()
        wrapper.optimizer.zero_grad()
        self._person = self.model._in_graph.of(context)
        self._memories = _Memories(self.model, inputs, context) if self.model._has_memory else None

    def execute(
        self,
        wrapper: RecurrentWrapper,
        which: range,
        inputs: Mapping[Any, Tensor],
        before: Mapping[Any, Tensor],
        one_memory: bool = False,
        interaction: Interaction | None = None,
    ) -> StandardCourse:
        """Execute B trials side by side.

        Args:
            wrapper: the PyTorch form.
            which: the trials, of those given to ``begin``.
            inputs: {mechanism: (B, T, size)}, of these trials.
            before: {mechanism: (B, H)}: h0 and c0.
            one_memory: whether all trials read the memory of environment 0, in place of each having an environment
                of its own; if there are several, none of them may store.
            interaction: an episode that has begun: what it shows takes the place of the inputs.
        """
        model, memories = self.model, self._memories
        x = inputs[model.input_node].numpy()
        self._weights = self._matrices.joined(self._person.gate_bias)
        start = before[model.hidden].numpy()[None], before[model.cell].numpy()[None]
        if interaction is not None:
            both = memories.in_loop(interaction) if memories is not None else ()
            trace = run_episode(self._weights, interaction, *start, *both)
        else:
            both = memories.of(which, x, one_memory) if memories is not None else ()
            trace = run_trials(self._weights, x[None], *start, *both)
        return StandardCourse(
            model, wrapper, inputs, before, trace, None if memories is None else memories.retrieved
        )

    def backward(self, course: StandardCourse, slopes: Slopes, unroll: int | None = None) -> None:
        """Give PsyNeuLink's parameters their gradients, from the derivatives of the loss; see ``recur_back``."""
        own = (None if s is None else s[None] for s in vars(slopes).values())
        g = gradients(self._weights, course.trace, *own, unroll=unroll)
        for key, gradient in self._matrices.split(g, self._room).items():
            parameter = self._matrices.parameters[key]
            if parameter.requires_grad:  # PsyNeuLink freezes projections after ``begin``
                parameter.grad = gradient


Room = dict[str, tuple[np.ndarray, tuple[Tensor, ...]]]
"""Gradients by weight: (blocks, sender, receiver), and the same numbers as a tensor for each block."""


class LearnedMatrices:
    """The matrices that the model's projections learn, as parameters of PsyNeuLink's and as ``fast.py`` has them.

    Args:
        model: the composition, its graph as made.
        wrapper: the PyTorch form whose parameters are used.
    """

    def __init__(self, model: EpisodicLSTMComposition, wrapper: RecurrentWrapper) -> None:
        self.parameters = {key: wrapper.projections_map[p].matrix for key, p in model._learned.items()}
        self._arrays = {
            key: matrix.detach().numpy() for key, matrix in self.parameters.items()
        }  # the same numbers
        self._to_gates = [name for name in GATE_WEIGHTS if (name, GATE_ORDER[0]) in self._arrays]
        self._none = {name: np.zeros_like(self._arrays[name, GATE_ORDER[0]]) for name in self._to_gates}

    def joined(self, gate_bias: float = 0.0) -> Weights:
        """Those to the gates side by side; ``gate_bias`` is added to that of the reinstatement gate."""

        def gates(name: str) -> np.ndarray:
            none = self._none[name]  # for the reinstatement gate of a model without
            return np.concatenate([self._arrays.get((name, block), none) for block in GATE_ORDER], axis=1)[None]

        bias = gates("input_bias") + gates("hidden_bias")
        if gate_bias:
            size, block = bias.shape[-1] // len(GATE_ORDER), GATE_ORDER.index("reinstatement")
            bias[..., block * size : (block + 1) * size] += gate_bias
        return Weights(
            input_weight=gates("input_weight"),
            bias=bias,
            hidden_weight=gates("hidden_weight"),
            memory_weight=gates("memory_weight") if "memory_weight" in self._none else None,
            **{name: self._arrays[name, name.split("_")[0]][None] for name in READOUTS},
        )

    def room(self) -> Room:
        """Room for gradients."""
        rooms = {}
        for name in (*self._to_gates, *READOUTS):
            blocks = self._blocks(name)
            room = np.empty((len(blocks), *self._arrays[name, blocks[0]].shape))
            rooms[name] = (room, torch.from_numpy(room).unbind())
        return rooms

    def split(self, g: Gradients, room: Room) -> dict[tuple[str, str], Tensor | None]:
        """Gradients by parameter; the room is theirs."""
        found: dict[tuple[str, str], Tensor | None] = {}
        for name, (array, parts) in room.items():
            gradient = g.bias if name in ("input_bias", "hidden_bias") else getattr(g, name)
            if gradient is not None:
                array[...] = gradient[0].reshape(-1, len(array), array.shape[-1]).swapaxes(0, 1)
            for block, part in zip(self._blocks(name), parts, strict=True):
                found[name, block] = None if gradient is None else part
        return {key: found[key] for key in self.parameters}

    @staticmethod
    def _blocks(name: str) -> tuple[str, ...]:
        return GATE_ORDER if name in GATE_WEIGHTS else (name.split("_")[0],)


class _Memories:
    """The episodic memories of the environments during one call, as ``fast.run_trials`` asks for them."""

    def __init__(self, model: EpisodicLSTMComposition, inputs: Mapping[Any, Tensor], context: Any) -> None:
        self.function, self.context, self.columns = (
            model.episodic_memory.function,
            context,
            model.config.key_columns,
        )
        person = model._in_graph.of(context)
        self.key_scale = person.key_scale(model.config) if person.scales_key else None
        self.settings = self.function.retrieval_settings(context)
        self.appends = self.function._setting("duplicate_entries_allowed", context) is True
        self.retrieves = inputs[model.retrieve_node][..., 0].numpy() != 0
        self.encodes = inputs[model.encode_node][..., 0].numpy() > 0.5
        self.always_retrieves = bool(self.retrieves.all())
        self.rings: list[EntryRing] = []
        self._side_by_side: SideBySide | None = None

    def of(self, which: range, x: np.ndarray, one_memory: bool) -> tuple[Any, Any, list[slice] | None]:
        """``retrieve``, ``encode`` and ``stretches`` for these trials, whose inputs are x (B, T, D)."""
        while len(self.rings) < (1 if one_memory else len(which)):
            self.rings.append(self.function.ring(self.context, len(self.rings)))
        self._shared = one_memory and len(which) > 1
        rows = slice(which.start, which.stop)
        self._keys = x[..., self.columns] if self.key_scale is None else x[..., self.columns] * self.key_scale
        self._switch = None if self.always_retrieves else self.retrieves[rows]
        self._stored = np.argwhere(self.encodes[rows]).tolist()
        if not self._stored:
            return self.retrieve, None, None
        return self.retrieve, self.encode, stretches_between(self.encodes[rows], self.retrieves[rows])

    def in_loop(self, interaction: Interaction) -> tuple[Callable[[], np.ndarray], Callable[[np.ndarray], None]]:
        """``read`` and ``store`` for an episode of B worlds, each of which has an environment."""
        worlds = len(interaction.inputs)
        while len(self.rings) < worlds:
            self.rings.append(self.function.ring(self.context, len(self.rings)))
        if self._side_by_side is None or len(self._side_by_side.rings) != worlds:
            self._side_by_side = SideBySide(self.rings[:worlds])
        together, asked = self._side_by_side, None  # keys that were answered last, while nothing is stored

        def keys() -> np.ndarray:
            own = interaction.inputs[:, self.columns]
            return own if self.key_scale is None else own * self.key_scale

        nothing = np.zeros((worlds, self.rings[0].fields[1].shape[1]))

        def read() -> np.ndarray:
            nonlocal asked
            if not interaction.retrieve.any() and not interaction.at_last_step:  # whose match PsyNeuLink is shown
                return nothing
            queries = keys()
            if asked is None or not np.array_equal(asked, queries):  # a barcode stays the same for an episode
                found = self._match_in_loop(torch.from_numpy(queries[:, None]), together)
                self.retrieved = [field[:, 0].numpy() for field in found]
                asked = queries
            return self.retrieved[1] * interaction.retrieve[:, None]

        def store(cells: np.ndarray) -> None:
            nonlocal asked
            which = np.flatnonzero(interaction.encode).tolist()
            if which:
                own, asked = keys(), None
                for b in which:
                    self._store(b, [own[b], cells[b]])

        return read, store

    def _match_in_loop(self, queries: Tensor, together: SideBySide) -> list[Tensor]:
        fields = together.fields()
        if fields is None:
            return self._match(queries, list(range(len(queries))))
        keys, values = (torch.from_numpy(field) for field in fields)
        found = matches(self.settings, queries, keys, self.rings[0].oldest)
        return [taken(found, field) for field in (keys, values)]

    def _store(self, environment: int, entry: list[np.ndarray]) -> None:
        if self.appends:
            self.rings[environment].append(entry)
        else:
            self.function.store_entry(entry, self.context, environment=environment)

    def retrieve(self, steps: slice) -> np.ndarray:
        """What the memories hold for these steps, zeros where nothing is retrieved: (1, B, steps, H)."""
        queries = torch.from_numpy(self._keys[:, steps])
        if self._shared:
            keys, values = (f.view(*queries.shape[:2], -1) for f in self._match(queries.flatten(0, 1)[None], [0]))
        else:
            keys, values = self._match(queries, list(range(len(queries))))
        self.retrieved = [keys[:, -1].numpy(), values[:, -1].numpy()]
        found = values[None].numpy()
        return found if self._switch is None else found * self._switch[:, steps, None]

    def _match(self, queries: Tensor, environments: list[int]) -> list[Tensor]:
        """Keys and values that match; of those environments together whose memories are equally full."""
        rings = [self.rings[e] for e in environments]
        if len(rings) > 1 and len({(len(ring), ring.oldest) for ring in rings}) > 1:
            each = [self._match(queries[e : e + 1], [e]) for e in environments]
            return [torch.cat(parts) for parts in zip(*each, strict=True)]
        fields = [
            torch.from_numpy(np.stack([r.used(f) for r in rings]) if len(rings) > 1 else rings[0].used(f)[None])
            for f in (0, 1)
        ]
        found = matches(self.settings, queries, fields[0], rings[0].oldest)
        return [taken(found, field) for field in fields]

    def encode(self, steps: slice, cells: np.ndarray) -> None:
        """Store the entries of these steps, given c_t (1, B, steps, H)."""
        for b, t in self._stored:
            if steps.start <= t < steps.stop:
                self._store(b, [self._keys[b, t], cells[0, b, t - steps.start]])


class SideBySide:
    """Rings whose entries lie side by side, in one array a field, so that all are searched at once.

    Each ring goes on as before, in its part of the arrays; a ring that has moved out (it grew, or was given other
    entries) is taken in again when entries are asked for.

    Args:
        rings: the rings.
    """

    def __init__(self, rings: list[EntryRing]) -> None:
        self.rings = rings
        self._arrays: list[np.ndarray] = []

    def fields(self) -> list[np.ndarray] | None:
        """(rings, n, size) for each field; None if the rings are not equally full."""
        first = self.rings[0]
        if any(ring.n_stored != first.n_stored or ring.limit != first.limit for ring in self.rings):
            return None
        if not self._arrays or any(ring.fields[0].base is not self._arrays[0] for ring in self.rings):
            self._take_in()
        return [array[:, : len(first)] for array in self._arrays]

    def _take_in(self) -> None:
        rows = max(len(ring.fields[0]) for ring in self.rings)
        self._arrays = [np.empty((len(self.rings), rows, field.shape[1])) for field in self.rings[0].fields]
        for place, ring in enumerate(self.rings):
            for array, field in zip(self._arrays, ring.fields, strict=True):
                array[place, : len(field)] = field
            ring.fields = [array[place] for array in self._arrays]
