"""Whether the graph of an agent is the one that its constructor made: only then the fast path stands for it."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psyneulink as pnl

from .backend import get_matrix, graph_signature, inner_projections
from .backend.access import recurrent_projections
from .graph import AgentGraph
from .person import Person
from .person_in_graph import PersonInGraph

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
"""Parameters of the memory's function that the fast path reads where it needs them: they may change."""


class AsMade:
    """Remembers the graph as made.

    Args:
        graph: of the agent, complete.
        person: who stands in it, and may change.
    """

    def __init__(self, graph: AgentGraph, person: PersonInGraph) -> None:
        self.graph, self.person = graph, person
        self._made = self._structure(pnl.Context(execution_id=None))
        learned = set(graph.learned.values())
        self._fixed = {p: get_matrix(p) for p in self._projections() if p not in learned}
        for projection in person.matrices(Person()):
            del self._fixed[projection]
        self._own = {*self._projections(), *recurrent_projections(graph.composition)}

    @contextmanager
    def enlarged(self) -> Iterator[None]:
        """What is added to the graph meanwhile is taken for part of it as made."""
        context = pnl.Context(execution_id=None)
        before, added = self._structure(context), self.added_projections()
        yield
        self._made |= {name: now for name, now in self._structure(context).items() if now != before.get(name)}
        self._own |= set(self.added_projections()) - set(added)

    def added_projections(self) -> list[Any]:
        """Projections with a matrix that a user has added, between nodes or of one to itself."""
        found = dict.fromkeys([*self._projections(), *recurrent_projections(self.graph.composition)])
        return [p for p in found if p not in self._own and isinstance(p, pnl.MappingProjection)]

    def difference(self, context: Any, signature: tuple | None = None) -> str | None:
        """What has been changed since the graph was made, in words; None if nothing that matters.

        Args:
            context: the execution context.
            signature: the graph's, if it is known.
        """
        made, now = self._made, self._structure(context, signature)
        for nodes in (set(now) - set(made), set(made) - set(now)):
            if nodes:
                return f"{', '.join(sorted(repr(words) for words, _ in nodes))} added or removed"
        for part, settings in made.items():
            if now[part] != settings:
                return f"{part[0]!r} changed"
        for projection, matrix in self._fixed.items():
            if not np.array_equal(get_matrix(projection, context), matrix):
                return f"the fixed matrix of '{projection.name}' changed"
        if (place := self.person.difference(context)) is not None:
            return place
        if self.graph.has_memory and self.graph.episodic_memory.function.draws_ties(context):
            return "equidistant_entries_select is RANDOM"
        return None

    def _projections(self) -> list[Any]:
        """Projections between nodes, those of the composition's interfaces left out."""
        nodes = set(self.graph.composition.nodes)
        return [
            p for p in inner_projections(self.graph.composition) if {p.sender.owner, p.receiver.owner} <= nodes
        ]

    def _structure(self, context: Any, signature: tuple | None = None) -> dict[tuple[str, int], Any]:
        """What ``graph_signature`` holds by node and projection, (its name in words, its identity), without what
        the fast path leaves open."""
        composition = self.graph.composition
        nodes, projections, conditions, _ = signature or graph_signature(composition, context)
        structure: dict[tuple[str, int], Any] = {("scheduling conditions", 0): conditions}
        for node, signature in zip(composition.nodes, nodes, strict=True):
            constants = tuple(  # PsyNeuLink changes the defaults of other ports when it nests the composition
                np.ravel(port.defaults.variable).tobytes()
                for port in getattr(node, "input_ports", ())
                if port.default_input
            )
            structure[node.name, id(node)] = (self._without_open_settings(node, signature), constants)
        inner, ports = {id(p): p.name for p in self._projections()}, self._port_ids()
        for identity, sender, receiver, _learnable, function in projections:
            if identity in inner:
                structure[f"projection {inner[identity]}", identity] = (sender, receiver, function)
            elif sender in ports and receiver in ports:
                structure["projection of a node to itself", identity] = (sender, receiver, function)
        return structure

    def _port_ids(self) -> set[int]:
        return {id(port) for node in self.graph.composition.nodes for port in getattr(node, "input_ports", ())}

    def _without_open_settings(self, node: Any, signature: tuple) -> tuple:
        """Without settings of the node's function that the fast path reads: the memory's, and a person's
        places."""
        opened = {name for mechanism, name in self.person.settings(Person()) if mechanism is node}
        if node is getattr(self.graph, "episodic_memory", None):
            opened |= MEMORY_SETTINGS
        if not opened:
            return signature
        opened |= {p.name for p in node.function.parameters if p.source is not None and p.source.name in opened}
        identity, settings, function, ports = signature
        kept = tuple(s for s in function if not (isinstance(s, tuple) and s[0] in opened))
        return identity, settings, kept, ports
