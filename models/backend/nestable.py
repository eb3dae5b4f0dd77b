"""One composition, one state: alone, nested in another, and taken out of it.

A composition has its state (matrices, memories, values, the optimiser's state) in an execution context: its own
where it is alone, the outermost composition's where it is nested. PsyNeuLink leaves behind what was learned and
stored before; here it moves along as soon as the composition is nested, so that nobody ever finds two states of
it.

PsyNeuLink's search for what is trained passes through nested compositions here, too.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import psyneulink as pnl
from psyneulink.core.compositions.composition import Composition
from psyneulink.core.globals.context import Context

from .access import default_of, exits, get_matrix, memories, outer_of, outermost, set_matrix
from .optimizer import WithOptimizer

NO_CONTEXT = Context(execution_id=None)


class Nestable(WithOptimizer):
    """An ``AutodiffComposition`` that takes its state along when it is nested in another composition."""

    state_beside: Any = None
    """State by execution context beside PsyNeuLink's: ``begin(execution_id, base)`` is called where one begins as
    another is, ``end(execution_id)`` where it ends."""
    _own_execution_id: Any = None
    _home: Callable[[], Any] | None = None
    """The outermost composition where the state is (a weak reference)."""
    _home_id: Any = None
    """The execution context in which it is there."""

    @property
    def default_execution_id(self) -> Any:
        """Execution context of calls that name none: the outermost composition's, where this one is nested."""
        outer = outermost(self)
        execution_id = self._own_execution_id if outer is self else outer.default_execution_id
        if self._home is not None and self._home() is not outer:
            self._move(outer, execution_id)
        self._home_id = execution_id
        return execution_id

    @default_execution_id.setter
    def default_execution_id(self, value: Any) -> None:
        if self._home is None:
            self._home = weakref.ref(self)
        if self._home() is self:
            self._home_id = value
        self._own_execution_id = value

    def _move(self, outer: Composition, execution_id: Any) -> None:
        """Go on in the execution context of another outermost composition."""
        self._home = weakref.ref(outer)
        if execution_id != self._home_id:
            take_over_state(self, self._home_id, Context(execution_id=execution_id))
            self.move_state(self._home_id, Context(execution_id=execution_id))

    def _add_to_composition(self, composition: Any) -> None:
        """As the stock method, of a node that is added to a composition; the state moves there."""
        super()._add_to_composition(composition)
        _ = self.default_execution_id

    def _initialize_from_context(
        self, context: Context, base_context: Context = NO_CONTEXT, *args: Any, **kwargs: Any
    ) -> None:
        """As the stock method; its state has moved before."""
        _ = self.default_execution_id
        super()._initialize_from_context(context, base_context, *args, **kwargs)
        if self.state_beside is not None:
            self.state_beside.begin(context.execution_id, base_context)

    def _delete_contexts(self, *contexts: Any, **kwargs: Any) -> None:
        super()._delete_contexts(*contexts, **kwargs)
        if self.state_beside is not None:
            for context in contexts:
                self.state_beside.end(getattr(context, "execution_id", context))

    # ---- PsyNeuLink's search for what is trained

    def _add_dependency(
        self, afferent: Any, sender: Any, projection: Any, receiver: Any, dependencies: dict, queue: Any, comp: Any
    ) -> None:
        """Part of that search, where this composition is nested in another."""
        new: dict = {}
        super()._add_dependency(afferent, sender, projection, receiver, new, queue, comp)
        dependencies.update(new)
        if new and comp is self:
            cross(self, dependencies, queue, new)

    def _identify_output_nodes(self, context: Any) -> Any:
        """Nodes that need targets, where this composition is nested in another."""
        return outputs_of_outer(self)


def take_over_state(composition: Any, own: Any, context: Context) -> None:
    """Give a composition in a context, in place of what is there, what it has in another: that of ``own``."""
    base, visited = Context(execution_id=own), set()
    for component in [*composition.nodes, *composition.projections]:
        component._initialize_from_context(context, base, override=True, visited=visited)
    for projection in composition.projections:  # which keep a copy of their functions' matrices
        set_matrix(projection, get_matrix(projection, base), context)
    for memory in memories(composition):
        memory.clear(context, environment=None)
        for environment in range(memory.environments(own)):
            memory.set_entries(memory.entries(own, environment), context, environment)


def supply_defaults(composition: Composition) -> None:
    """Let ``run()`` use the defaults of those INPUT nodes of a nested composition to which nothing projects.

    It does so for a composition by itself; for a nested one it would hand on None.
    """
    for port, (outside, _) in composition.input_CIM_ports.items():
        alone = composition.is_nested and not outside.path_afferents
        default = pnl.DEFAULT_VARIABLE if alone else None
        if outside.default_input != default:
            outside.parameters.default_input._set(default, Context(), override=True)
            outside.defaults.variable = default_of(port)


def outputs_of_outer(composition: Composition) -> set[Any]:
    """Those nodes of a nested composition that are outputs of the outer one."""
    return {node for node, efferents in exits(composition) if all(_leads_out(p) for p in efferents)}


def _leads_out(projection: Any) -> bool:
    return isinstance(projection.receiver.owner, pnl.CompositionInterfaceMechanism)


def cross(composition: Composition, dependencies: dict, queue: Any, entered: dict) -> None:
    """Let PsyNeuLink's search for pathways go from where it enters a nested composition to where it leaves.

    It would follow each path through the nested nodes, of which there are many, and stop at the thousandth; what
    it is after is which nodes come before and after which.

    Args:
        composition: the nested one.
        dependencies, queue: PsyNeuLink's own: {(port, index of an afferent): projection, projection: (port, ...)}.
        entered: the entries that lead into the nested composition.
    """
    queue.pop()
    inside = next(key for key in entered if isinstance(key, tuple))
    for node, efferents in exits(composition):
        last = next(p for p in node.path_afferents if p in composition.projections)
        if last in dependencies:
            continue
        at_exit = (last.receiver, last.receiver.path_afferents.index(last))
        dependencies |= {at_exit: last, last: inside}
        onward = [p for p in efferents if not _leads_out(p)]
        for projection in onward:
            port = projection.receiver
            dependencies |= {(port, port.path_afferents.index(projection)): projection, projection: at_exit}
            queue.append((port.owner, projection, outer_of(composition)))
        if not onward:
            queue.append((node, last, composition))
