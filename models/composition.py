"""The episodic-memory LSTM as a PsyNeuLink composition: the graph is the model.

Ritter et al. (2018), with the equations of ``reference.py``. Each symbol is a node that ``show_graph()`` shows:

    input (x_t) and its bias, hidden bias        → forget, input, output and reinstatement gate, candidate
    input → key of the episodic memory           → memory (m_t), zero where ``retrieve`` is 0
    kept (f ∘ c), new (i ∘ ĉ), reinstated (r ∘ m) → cell (c_t) → tanh of cell → hidden (h_t)
    hidden, read-out bias                        → actor (π_t), critic (v_t)
    key, cell, ``encode``                        → encoding, which stores the entry

With ``reinstatement="input"`` the memory m_t projects to the gates and the candidate, as the input does; there is
no reinstatement gate and nothing ``reinstated``.

Hidden and cell project back to the gates and to ``kept`` (feedback projections: values of the step before).
A PsyNeuLink trial is a step here; a trial of the task is a sequence of them. What is particular to a person has
its places in the same graph (see ``person_in_graph``).

It shares no computation with the reference: each checks the other.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import psyneulink as pnl
import torch
from torch import Tensor

from ..tasks.trials import Trials, concatenate
from .backend import (
    Course,
    NotTrainable,
    RecurrentComposition,
    RecurrentWrapper,
    Session,
    as_context,
    get_matrix,
    set_matrix,
    start_from,
)
from .config import ModelConfig
from .interaction import EpisodeRecord, Interaction, check_one_world, plan_episodes
from .losses import Loss, LossSettings, Slopes, losses, losses_and_slopes, trial_tensors
from .memory import EncodingMechanism, EpisodicMemory
from .nested_agent import NestedAgent
from .optimizers import IN_TORCH, OptimizerName, check_optimizer, kind_in_torch, optimizer_of
from .parameters import fixed_setting, memory_setting, person_parameter, setting_of_person
from .person import Person
from .person_in_graph import PersonInGraph, choice_probabilities
from .records import (
    NO_CHOICE,
    Record,
    TrialPlan,
    TrialRecord,
    choose,
    last_choices,
    no_states,
    plan_run,
    plan_trials,
)
from .standard import StandardGraph
from .views import as_format, dash_feedback, drop_phantom, plain_label
from .weights import GATE_ORDER, check_memory, check_optimizer_state, check_weights, initial_weights, weight_shapes

if TYPE_CHECKING:
    from ..tasks.environment import Worlds

SIDE_BY_SIDE = 256
"""Most trials that ``simulate`` runs side by side."""

GATE_NAMES = {
    "forget": "forget gate",
    "input": "input gate",
    "output": "output gate",
    "reinstatement": "reinstatement gate",
    "candidate": "candidate",
}
"""Names of the nodes, by the block of rows that holds their weights."""


class GeneralPathWarning(UserWarning):
    """A note that ``learn()`` is slower than it could be, and why; the numbers are right either way."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"The graph of '{name}' is not as its constructor made it, or not as it was ({reason}): learn() "
            "executes it node by node in PyTorch, exactly but some ten times slower than the standard graph."
        )


class EpisodicLSTMComposition(RecurrentComposition):
    """An LSTM with an episodic memory, an actor and a critic, as a PsyNeuLink composition (always float64).

    Its nodes are attributes: ``input_node``, ``retrieve_node``, ``encode_node``, ``gates`` (by block),
    ``episodic_memory``, ``memory_node``, ``kept``, ``new``, ``reinstated``, ``cell``, ``cell_output``, ``hidden``,
    ``actor``, ``critic``, ``encoding``, and the three bias nodes. With a memory capacity of 0 it is a plain LSTM:
    the memory's nodes and the reinstatement gate are not there, and r_t = 0. With ``reinstatement="input"``, the
    reinstatement gate and ``reinstated`` are not there, and r_t = 0.

    The settings of ``config`` are Parameters, too, by the same names (``capacity`` is ``memory_capacity``):
    ``composition.parameters.sharpness.set(5.0)`` acts on ``run()`` and ``learn()`` from then on, and on
    ``config``; a further argument names an execution context, if another than the composition's own is meant
    (``kernel`` and ``retrieval`` are those of all contexts). Sizes and ``key`` are read only.

    So is what is particular to a person: ``composition.parameters.lapse.set(0.05)`` acts on ``run()``,
    ``run_trials()`` and ``simulate()``, and on ``composition.person``, which has all of it. (Which episodes are
    not encoded is a matter of the trials, so of the latter two.) Networks are trained once: ``learn()`` refuses a
    person who differs from the trained agent. Where that person averages over entries with a ``sharpness`` of
    their own, it is theirs that the Parameter shows and sets, not the config's. Lapse and perseveration bring
    nodes of their own, ``choice p`` and ``last choice``, when they are first needed: the former's output holds the
    probabilities of the choices, the latter's input is the choice made last (one-hot; zeros: none), which
    ``run_trials()`` supplies and a ``run()`` of your own must.

    Args:
        config: sizes and memory settings.
        seed: for the initial weights (orthogonal; biases zero); the reference draws the same from it.
        name: the composition's.
        kwargs: further arguments of ``AutodiffComposition``, such as ``learning_rate``; ``optimizer_type``, by
            default ``adam``, may also be ``rmsprop`` (see ``optimizers``), or PsyNeuLink's ``sgd``.
    """

    class Parameters(RecurrentComposition.Parameters):
        """The settings of ``ModelConfig`` and those of ``Person``, by their names there."""

        input_size = fixed_setting("input_size")
        hidden_size = fixed_setting("hidden_size")
        n_actions = fixed_setting("n_actions")
        key = fixed_setting("key")
        memory_capacity = memory_setting("memory_capacity", aliases=["capacity"])
        kernel = memory_setting("kernel")
        retrieval = memory_setting("retrieval")
        sharpness = memory_setting("sharpness")
        ties = memory_setting("ties")
        repeated_key = memory_setting("repeated_key")
        reinstatement = fixed_setting("reinstatement")
        person = person_parameter()
        inverse_temperature = setting_of_person("inverse_temperature")
        lapse = setting_of_person("lapse")
        perseveration = setting_of_person("perseveration")
        gate_bias = setting_of_person("gate_bias")
        forgetting = setting_of_person("forgetting")
        encoding_probability = setting_of_person("encoding_probability")
        context_weight = setting_of_person("context_weight")

    def __init__(
        self,
        config: ModelConfig,
        seed: int | None = None,
        name: str = "episodic LSTM",
        **kwargs: Any,
    ) -> None:
        self.config = config
        self.record: TrialRecord | None = None
        """What happened in the last call to ``learn()``."""
        self.fast_path = True
        """Whether ``learn()`` may take the fast path where the graph is the standard one. False: PsyNeuLink's own
        execution, node by node, in any case (to compare the two)."""
        self.detour: str | None = None
        """Why the last call to ``learn()`` took the general path; None if it took the fast one."""
        self._noted: str | None = None
        super().__init__(name=name, **{"optimizer_type": "adam", **kwargs})
        self._has_memory = config.memory_capacity > 0
        self._make_nodes()
        self._add_nodes()
        self._make_projections()
        self._absent_weights = {
            weight: np.zeros(weight_shapes(config)[weight]) for weight in weight_shapes(config)
        }
        self.set_weights(initial_weights(config, seed))
        self._in_graph = PersonInGraph(self)
        self._standard = StandardGraph(self)

    # ---- the graph -------------------------------------------------------------------------------------

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
        blocks = [block for block in GATE_ORDER if config.has_reinstatement_gate or block != "reinstatement"]
        self.gates = {
            block: _node(GATE_NAMES[block], [hidden], pnl.Tanh() if block == "candidate" else pnl.Logistic())
            for block in blocks
        }
        self.kept = _node("kept f∘c", [hidden, hidden], _product())
        self.new = _node("new i∘ĉ", [hidden, hidden], _product())
        self.cell = _node("cell c", [hidden])
        self.cell_output = _node("tanh(c)", [hidden], pnl.Tanh())
        self.hidden = _node("hidden h", [hidden, hidden], _product())
        self.actor = _node("actor π", [actions], pnl.SoftMax(output=pnl.ALL))
        self.critic = _node("critic v", [1])
        if self._has_memory:
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
        self.add_node(self.input_node)
        for bias in (self.input_bias, self.hidden_bias, self.readout_bias):
            self.add_node(bias, required_roles=[pnl.NodeRole.BIAS])
        nodes = [*self.gates.values(), self.kept, self.new, self.cell, self.cell_output, self.hidden]
        if self._has_memory:
            nodes += [self.retrieve_node, self.encode_node, self.episodic_memory, self.memory_node]
            nodes += [self.reinstated] if self.config.has_reinstatement_gate else []
            nodes += [self.encoding]
        for node in nodes:
            self.add_node(node)
        for node in (self.actor, self.critic):
            self.add_node(node, required_roles=[pnl.NodeRole.OUTPUT])
        if self._has_memory:
            self.exclude_node_roles(self.encoding, pnl.NodeRole.OUTPUT)

    def _make_projections(self) -> None:
        """Learned projections are kept by (weight, block), fixed ones only in the graph."""
        config = self.config
        hidden = np.eye(config.hidden_size)
        self._learned: dict[tuple[str, str], pnl.MappingProjection] = {}
        self._to_keys: list[pnl.MappingProjection] = []
        for block, gate in self.gates.items():
            self._learn("input_weight", block, self.input_node, gate)
            self._learn("input_bias", block, self.input_bias, gate)
            self._learn("hidden_weight", block, self.hidden, gate, feedback=True)
            self._learn("hidden_bias", block, self.hidden_bias, gate)
            if config.reinstatement == "input":
                self._learn("memory_weight", block, self.memory_node, gate)
        for name, node in (("actor", self.actor), ("critic", self.critic)):
            self._learn(f"{name}_weight", name, self.hidden, node)
            self._learn(f"{name}_bias", name, self.readout_bias, node)

        self._fix(self.gates["forget"], self.kept.input_ports[0], hidden)
        self._fix(self.cell, self.kept.input_ports[1], hidden, feedback=True)
        self._fix(self.gates["input"], self.new.input_ports[0], hidden)
        self._fix(self.gates["candidate"], self.new.input_ports[1], hidden)
        self._fix(self.kept, self.cell, hidden)
        self._fix(self.new, self.cell, hidden)
        self._fix(self.cell, self.cell_output, hidden)
        self._fix(self.gates["output"], self.hidden.input_ports[0], hidden)
        self._fix(self.cell_output, self.hidden.input_ports[1], hidden)
        if self._has_memory:
            key = np.eye(config.input_size)[:, config.key_columns]
            switch = np.ones((1, config.hidden_size))
            self._to_keys.append(self._fix(self.input_node, self.episodic_memory.input_ports["key"], key))
            self._fix(self.episodic_memory.output_ports[1], self.memory_node, hidden)
            self._fix(self.retrieve_node, self.memory_node, switch)
            if config.has_reinstatement_gate:
                self._fix(self.gates["reinstatement"], self.reinstated.input_ports[0], hidden)
                self._fix(self.memory_node, self.reinstated.input_ports[1], hidden)
                self._fix(self.reinstated, self.cell, hidden)
            self._to_keys.append(self._fix(self.input_node, self.encoding.input_ports["key"], key))
            self._fix(self.cell, self.encoding.input_ports["value"], hidden)
            self._fix(self.encode_node, self.encoding.input_ports["encode"], np.eye(1))

    def _learn(self, weight: str, block: str, sender: Any, receiver: Any, **kwargs: Any) -> None:
        matrix = np.zeros((_size(sender), _size(receiver)))
        self._learned[weight, block] = self._project(sender, receiver, matrix, True, **kwargs)

    def _fix(self, sender: Any, receiver: Any, matrix: np.ndarray, **kwargs: Any) -> pnl.MappingProjection:
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
        self.add_projection(projection, feedback=feedback or None)
        return projection

    def show_graph(self, *args: Any, output_fmt: Any = "pdf", **kwargs: Any) -> Any:
        """PsyNeuLink's ``show_graph`` with all its views, laid out from input to read-out.

        Feedback projections are dashed and do not pull at the layout. PsyNeuLink adds "-1", "-2", ... to names
        that another model in the session has too; the picture of this one is drawn without them.

        Args:
            args, kwargs: as PsyNeuLink's, such as ``show_node_structure``, ``show_cim`` or ``show_pytorch``.
            output_fmt: ``pdf``, ``jupyter``, ``gif``, ``gv`` (a ``graphviz.Digraph``) or ``source`` (its text).
        """
        interfaces = [self.input_CIM, self.parameter_CIM, self.output_CIM]
        named = [self, *self.nodes, *interfaces]
        labels = [plain_label(component.name) for component in named]
        if len(set(labels)) < len(labels):
            labels = [component.name for component in named]
        labelled = [*zip(named, labels, strict=True), *((p, plain_label(p.name)) for p in self.projections)]
        names = [component.name for component, _ in labelled]
        self._analyze_graph()  # or show_cim shows nothing before the first run
        try:
            for component, label in labelled:
                component.name = label
            graph = super().show_graph(*args, output_fmt="gif" if output_fmt == "gif" else "gv", **kwargs)
        finally:
            for (component, _), name in zip(labelled, names, strict=True):
                component.name = name
        if graph is None:
            return None
        label_of = dict(zip(named, labels, strict=True))
        ends = [(p.sender.owner, p.receiver.owner) for p in self.feedback_projections]
        dash_feedback(graph, {(label_of[a], label_of[b]) for a, b in ends if a in label_of and b in label_of})
        drop_phantom(graph, labels)
        return as_format(graph, output_fmt, labels[0])

    # ---- weights and memory ----------------------------------------------------------------------------

    def weights(self, context: Any = None) -> dict[str, np.ndarray]:
        """Copies of all weights, by the names and shapes of ``weight_shapes``."""
        context = as_context(self, context)
        weights = {name: array.copy() for name, array in self._absent_weights.items()}
        for (name, block), projection in self._learned.items():
            rows = self._rows(name, block)
            weights[name][rows] = self._as_rows(name, get_matrix(projection, context))
        return weights

    def set_weights(self, weights: Any, *args: Any, context: Any = None) -> None:  # type: ignore[override]
        """Take these weights: a dict by the names of ``weight_shapes``.

        PsyNeuLink's own call with a projection and its matrix works too.

        Raises:
            ValueError: a name, a shape or a value does not fit; nothing is changed then.
        """
        if not isinstance(weights, Mapping):
            for execution_id in {None, as_context(self, context).execution_id}:  # else that of no context only
                super().set_weights(weights, *args, context=pnl.Context(execution_id=execution_id))
            return
        checked = check_weights(self.config, weights)
        for (name, block), projection in self._learned.items():
            matrix = checked[name][self._rows(name, block)]
            matrix = matrix[None, :] if name.endswith("bias") else matrix.T
            for execution_id in {None, as_context(self, context).execution_id}:
                set_matrix(projection, np.array(matrix), execution_id)
        self._absent_weights = checked

    def _rows(self, name: str, block: str) -> slice:
        if name.startswith(("actor", "critic")):
            return slice(None)
        size = self.config.hidden_size
        start = GATE_ORDER.index(block) * size
        return slice(start, start + size)

    @staticmethod
    def _as_rows(name: str, matrix: np.ndarray) -> np.ndarray:
        return matrix[0] if name.endswith("bias") else matrix.T

    def memory(self, context: Any = None, environment: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the stored keys (n, K) and values (n, H), oldest first, of one of its environments."""
        if not self._has_memory:
            return np.empty((0, self.config.key_size)), np.empty((0, self.config.hidden_size))
        keys, values = self.episodic_memory.function.entries(as_context(self, context), environment)
        return keys, values

    @property
    def environments(self) -> int:
        """Environments that have a memory: at least 1, and as many as it has been trained in."""
        return self.episodic_memory.function.environments(as_context(self, None)) if self._has_memory else 1

    def set_memory(self, keys: np.ndarray, values: np.ndarray, context: Any = None, environment: int = 0) -> None:
        """Replace the memory by these entries, oldest first: keys (n, K), values (n, H)."""
        checked = check_memory(self.config, keys, values)
        if self._has_memory:
            self.episodic_memory.function.set_entries(checked, as_context(self, context), environment)

    def clear_memory(self, context: Any = None) -> None:
        """Forget all entries, of all environments."""
        if self._has_memory:
            self.episodic_memory.function.clear(as_context(self, context), environment=None)

    # ---- the person ------------------------------------------------------------------------------------

    @property
    def person(self) -> Person:
        """Who makes the choices in ``run_trials`` and ``simulate``; by default the trained agent itself.

        That of the composition's own execution context; ``parameters.person`` has those of others.
        """
        return self._in_graph.of(as_context(self, None))

    @person.setter
    def person(self, person: Person) -> None:
        self._in_graph.put(person, self.default_execution_id)

    # ---- Python mode -----------------------------------------------------------------------------------

    def run_trials(
        self,
        trials: Trials,
        actions: np.ndarray | None = None,
        initial_states: tuple[np.ndarray, np.ndarray] | None = None,
        seed: int | None = None,
        context: Any = None,
        encoded: np.ndarray | None = None,
    ) -> TrialRecord:
        """Run trials of one block without learning, in PsyNeuLink's Python mode: one ``run()``, a PsyNeuLink trial
        a step.

        Args:
            trials: n trials of T steps.
            actions: (n, T) forced choices, -1 where none was made; without them they are drawn from the policy.
            initial_states: h0 (n, H) and c0 (n, H); without them drawn from 0.1 · N(0, 1).
            seed: for what is drawn.
            context: execution context, by default the composition's own.
            encoded: (n,) bool: whether the episode of each trial is encoded; without it, drawn with the person's
                ``encoding_probability``.

        Raises:
            ValueError: sizes or values do not fit the model.
        """
        context = as_context(self, context)
        person = self._in_graph.of(context)
        plan = plan_run(self.config, person, trials, actions, initial_states, seed, encoded)
        n, length = trials.targets.shape
        course: list[dict[str, np.ndarray]] = []
        if n * length:
            arrays = self._inputs(plan.trials, plan.actions)
            inputs = {node: values.reshape(n * length, -1) for node, values in arrays.items()}

            def input_of_step(step: int) -> dict[Any, np.ndarray]:
                here = {node: values[step : step + 1] for node, values in inputs.items()}
                if step:
                    choice = choose(course[-1]["policy"], plan.luck.ravel()[step - 1])
                    here |= self._in_graph.inputs(choice[None])
                return here

            free = person.perseveration != 0 and plan.actions is None  # the next input is the choice just made
            self._run_steps(plan, input_of_step if free else inputs, course, context)
        return self._record(plan, {k: np.array([step[k] for step in course]) for k in (course or [{}])[0]})

    def _run_steps(
        self,
        plan: TrialPlan,
        inputs: Mapping[Any, np.ndarray] | Callable[[int], Mapping[Any, np.ndarray]],
        course: list[dict[str, np.ndarray]],
        context: Any,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        """Run all steps of a plan in Python mode, in one ``run()``; ``course`` gets the values of each step."""
        n, length = plan.trials.targets.shape

        def begin() -> None:
            trial, step = divmod(len(course), length)
            if step == 0:
                start_from(self, {self.hidden: plan.h0[trial], self.cell: plan.c0[trial]}, context)

        def keep() -> None:
            course.append(self._values(lambda node: node.parameters.value._get(context)[0].copy()))
            if after_step is not None:
                after_step()

        def by_port(step: int) -> dict[Any, np.ndarray]:  # as a nested composition takes them from a function
            return {getattr(node, "input_port", node): v for node, v in inputs(step).items()}  # type: ignore[operator]

        self.run(
            inputs=by_port if callable(inputs) and self.is_nested else inputs,
            num_trials=n * length,
            call_before_trial=begin,
            call_after_trial=keep,
            context=context.execution_id,
        )

    def simulate(
        self,
        trials: Trials,
        actions: np.ndarray | None = None,
        initial_states: tuple[np.ndarray, np.ndarray] | None = None,
        seed: int | None = None,
        context: Any = None,
        encoded: np.ndarray | None = None,
    ) -> TrialRecord:
        """Run trials of one block without learning, in PyTorch mode: the numbers of ``run_trials``, some thousand
        times faster.

        PsyNeuLink's values of nodes, logs and ``results`` are left as they are; the memory goes on.

        Args:
            trials, actions, initial_states, seed, context, encoded: as in ``run_trials``.

        Raises:
            ValueError: sizes or values do not fit the model, or the graph cannot be executed in PyTorch mode.
        """
        context = as_context(self, context)
        person = self._in_graph.of(context)
        plan = plan_run(self.config, person, trials, actions, initial_states, seed, encoded)
        self._prepare_to_simulate(context)
        self._choose_path(context)
        wrapper = self.parameters.pytorch_representation._get(context)
        wrapper.load_weights(context)
        arrays = self._inputs(plan.trials, plan.actions)
        inputs = {node: torch.from_numpy(v.astype(float)) for node, v in arrays.items()}
        with torch.no_grad():
            if self.detour is None:
                course = self._simulate_standard(wrapper, inputs, plan, context)
            elif person.perseveration != 0 and plan.actions is None:
                course = self._simulate_choice_by_choice(wrapper, inputs, plan)
            else:
                course = self._simulate_general(wrapper, inputs, plan)
        return self._record(plan, course)

    def run_episodes(
        self,
        worlds: Worlds,
        episodes: int,
        actions: np.ndarray | None = None,
        seed: int | Sequence[int] | None = None,
        context: Any = None,
    ) -> EpisodeRecord:
        """Run the next episodes of an epoch in PsyNeuLink's Python mode, the environment in the loop.

        It is one ``run()``, whose input at each step is what the world shows after the action before.

        Args:
            worlds: one world of a task, in an epoch (``worlds.begin_epoch()``).
            episodes: how many.
            actions: (episodes, T) forced choices; without them they are drawn from the policy.
            seed: for what is drawn.
            context: execution context, by default the composition's own.

        Raises:
            ValueError: model and task do not fit each other, there are several worlds, or the epoch has not so
                many episodes left.
        """
        check_one_world(worlds, "run_episodes")
        context = as_context(self, context)
        self._in_graph.of(context).check_loop(f"'{self.name}'")
        plan = plan_episodes(self.config, worlds, episodes, actions, seed)
        interaction, length = plan.interaction, worlds.task.length
        assert interaction is not None
        course: list[dict[str, np.ndarray]] = []

        def input_of_step(step: int) -> dict[Any, np.ndarray]:
            if step % length == 0:
                interaction.begin(step // length)
            return self._inputs_in_loop(interaction)

        def act() -> None:
            interaction.act(course[-1]["policy"][None])

        self._run_steps(plan, input_of_step, course, context, after_step=act)
        record = self._record(plan, {k: np.array([step[k] for step in course]) for k in course[0]})
        return EpisodeRecord.of(record, interaction)

    def simulate_episodes(
        self,
        worlds: Worlds,
        episodes: int,
        actions: np.ndarray | None = None,
        seed: int | Sequence[int] | None = None,
        context: Any = None,
    ) -> EpisodeRecord:
        """Run the next episodes of an epoch without learning, in PyTorch mode, in M worlds at once.

        Args:
            worlds: M worlds of a task, in an epoch; world e has the memory of environment e.
            episodes: of each world.
            actions: (episodes · M, T) forced choices, in the order of the record.
            seed, context: as in ``run_episodes``.

        Raises:
            ValueError: as in ``run_episodes``, or the graph cannot be executed in PyTorch mode.
        """
        context = as_context(self, context)
        self._in_graph.of(context).check_loop(f"'{self.name}'")
        plan = plan_episodes(self.config, worlds, episodes, actions, seed)
        interaction = plan.interaction
        assert interaction is not None
        self._prepare_to_simulate(context)
        self._choose_path(context)
        wrapper = self.parameters.pytorch_representation._get(context)
        wrapper.load_weights(context)
        inputs = {n: torch.from_numpy(v[: worlds.n].copy()) for n, v in self._inputs(plan.trials).items()}
        parts = []
        with torch.no_grad():
            if self.detour is None:
                self._standard.begin(wrapper, inputs, context)
            for first in range(0, len(plan.trials), worlds.n):
                rows = slice(first, first + worlds.n)
                before = {self.hidden: torch.from_numpy(plan.h0[rows]), self.cell: torch.from_numpy(plan.c0[rows])}
                interaction.begin(first)
                if self.detour is None:
                    which = range(rows.start, rows.stop)
                    course = self._standard.execute(wrapper, which, inputs, before, interaction=interaction)
                    parts.append(course.trajectory)
                else:
                    values = self._execute_in_loop(wrapper, interaction, inputs, before).trajectory
                    parts.append(self._values(lambda node, values=values: values[node].numpy()))
        record = self._record(plan, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        return EpisodeRecord.of(record, interaction)

    def _prepare_to_simulate(self, context: Any) -> None:
        """As ``_prepare``; where the fast path is taken, any PyTorch form will do: it uses the matrices alone, and
        so need not be made anew for each person."""
        self._initialize_from_context(context, pnl.Context(execution_id=None), override=False)
        wrapper = self.parameters.pytorch_representation._get(context, fallback_value=None)
        fast = wrapper is not None and not wrapper.is_nested and self.fast_path
        if not fast or self._standard.difference(context) is not None:
            self._prepare(context)

    def _simulate_standard(
        self, wrapper: RecurrentWrapper, inputs: dict[Any, Tensor], plan: TrialPlan, context: Any
    ) -> dict[str, np.ndarray]:
        """Trials that store nothing run side by side, the others one by one."""
        self._standard.begin(wrapper, inputs, context)
        parts: list[dict[str, np.ndarray]] = []
        stores = np.asarray(plan.trials.encode.any(1)) & self._has_memory
        start = 0
        while start < len(stores):
            following = np.flatnonzero(stores[start : start + SIDE_BY_SIDE])
            stop = start + (max(int(following[0]), 1) if len(following) else SIDE_BY_SIDE)
            which = range(start, min(stop, len(stores)))
            rows = slice(which.start, which.stop)
            before = {self.hidden: torch.from_numpy(plan.h0[rows]), self.cell: torch.from_numpy(plan.c0[rows])}
            some = {node: values[rows] for node, values in inputs.items()}
            parts.append(self._standard.execute(wrapper, which, some, before, one_memory=True).trajectory)
            start = which.stop
        course = {name: np.concatenate([part[name] for part in parts]) for name in (parts or [{}])[0]}
        person = self._in_graph.of(context)
        if person.changed and course:
            weights = self.weights(context)
            logits = course["hidden"] @ weights["actor_weight"].T + weights["actor_bias"]
            course["policy"] = choice_probabilities(person, logits, plan.actions, plan.luck)
        return course

    def _simulate_general(
        self, wrapper: RecurrentWrapper, inputs: dict[Any, Tensor], plan: TrialPlan
    ) -> dict[str, np.ndarray]:
        parts = []
        for n in range(len(plan.trials)):
            before = {self.hidden: torch.from_numpy(plan.h0[n : n + 1])}
            before[self.cell] = torch.from_numpy(plan.c0[n : n + 1])
            some = {node: values[n : n + 1] for node, values in inputs.items()}
            course = super()._execute_sequences(wrapper, range(n, n + 1), some, before)
            parts.append(self._values(lambda node, values=course.trajectory: values[node].numpy()))
        return {name: np.concatenate([part[name] for part in parts]) for name in (parts or [{}])[0]}

    def _simulate_choice_by_choice(
        self, wrapper: RecurrentWrapper, inputs: dict[Any, Tensor], plan: TrialPlan
    ) -> dict[str, np.ndarray]:
        """As ``_simulate_general``, where each choice is part of the next step's input."""
        if wrapper.nested:
            raise NotTrainable(
                f"'{self.name}' holds other compositions and stands for a person with perseveration: simulate() "
                "cannot draw its choices one by one. Use run_trials(), or give actions."
            )
        parts, choice = [], np.array(NO_CHOICE)
        for n in range(len(plan.trials)):
            before = {self.hidden: torch.from_numpy(plan.h0[n : n + 1])}
            before[self.cell] = torch.from_numpy(plan.c0[n : n + 1])
            steps = wrapper.steps({node: values[n : n + 1] for node, values in inputs.items()}, before)
            course = Course([])
            for t in range(plan.trials.length):
                for node, value in self._in_graph.inputs(choice).items():
                    inputs[node][n, t] = torch.from_numpy(value)  # the step about to be taken reads it there
                course.steps.append(next(steps))
                policy = course.steps[-1][wrapper.nodes_map[self._policy_node]][0][0, 0]
                choice = choose(policy.numpy(), plan.luck[n, t])
            parts.append(self._values(lambda node, values=course.trajectory: values[node].numpy()))
        return {name: np.concatenate([part[name] for part in parts]) for name in (parts or [{}])[0]}

    def _inputs(self, trials: Trials, actions: np.ndarray | None = None) -> dict[Any, np.ndarray]:
        """Inputs of all steps, {node: (n, T, size)}; of the choices made last, those that are forced."""
        inputs = {self.input_node: trials.inputs}
        if self._has_memory:
            inputs[self.retrieve_node] = trials.retrieve[..., None].astype(float)
            inputs[self.encode_node] = trials.encode[..., None].astype(float)
        none = np.full(trials.targets.shape, NO_CHOICE)
        return inputs | self._in_graph.inputs(none if actions is None else last_choices(actions))

    @property
    def _policy_node(self) -> Any:
        """The node whose value is p_t."""
        return self.actor if self._in_graph.choice is None else self._in_graph.choice

    def _values(self, value_of: Callable[[Any], Any]) -> dict[str, Any]:
        """What a record holds, as each node's value."""
        nodes = {"policy": self._policy_node, "value": self.critic, "hidden": self.hidden, "cell": self.cell}
        if self._has_memory:
            nodes["memory"] = self.memory_node
        nodes |= {block: self.gates[block] for block in GATE_ORDER[:4] if block in self.gates}
        return {name: value_of(node) for name, node in nodes.items()}

    def _record(
        self,
        plan: TrialPlan,
        course: Mapping[str, np.ndarray],
        action: np.ndarray | None = None,
        states: bool = True,
    ) -> TrialRecord:
        """A record, with states or without, from values (n · T, size) or (n, T, size)."""
        n, length = plan.trials.targets.shape
        size = self.config.hidden_size

        def shaped(name: str, *shape: int) -> np.ndarray:
            values = course.get(name)
            return np.zeros((n, length, *shape)) if values is None else np.reshape(values, (n, length, *shape))

        policy = shaped("policy", self.config.n_actions)
        if plan.interaction is not None:
            action = plan.interaction.action
        elif action is None:
            action = choose(policy, plan.luck) if plan.actions is None else plan.actions
        found = no_states(n, length)
        if states:
            found = {name: shaped(name, size) for name in ("hidden", "cell", "memory")}
            found["gates"] = np.stack([shaped(block, size) for block in GATE_ORDER[:4]], axis=2)
        reward = plan.rewards(slice(None), action)
        return TrialRecord(policy=policy, value=shaped("value"), action=action, reward=reward, **found)

    # ---- PyTorch mode ----------------------------------------------------------------------------------

    def learn(  # type: ignore[override]
        self,
        inputs: Trials | Mapping[Any, Any] | list[Mapping[Any, Any]],
        targets: Any = None,
        *,
        actions: np.ndarray | None = None,
        initial_states: tuple[np.ndarray, np.ndarray] | None = None,
        seed: int | None = None,
        loss: Loss = "actor_critic",
        gamma: float = 0.0,
        entropy_weight: float = 0.0,
        value_weight: float = 1.0,
        unroll_steps: int | None = None,
        optimizer: OptimizerName | None = None,
        context: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Train on trials in PsyNeuLink's PyTorch mode, in their order; the record is in ``self.record``.

        Args:
            inputs: ``Trials``; or, as PsyNeuLink has it, {node: (n, T, size)} or a list of {node: (T, size)},
                with ``retrieve_node`` and ``encode_node`` left out to retrieve at all steps and to store at none.
            targets: (n, T) int: the rewarded actions, alone or as {actor: (n, T)}; not needed with ``Trials``.
            actions: (n, T) forced choices; without them they are drawn from the policy.
            initial_states: h0 (n, H) and c0 (n, H); without them drawn from 0.1 · N(0, 1).
            seed: for what is drawn.
            loss: ``actor_critic``, ``cross_entropy`` (to the target), or a function of ``TrialTensors``.
            gamma: discount of later rewards.
            entropy_weight: weight of an entropy bonus in the actor-critic loss.
            value_weight: weight of the critic's loss.
            unroll_steps: truncated backpropagation through time, in stretches of so many steps (see ``train``).
            optimizer: ``adam`` or ``rmsprop`` (see ``train``), from now on; None: as before, which is the
                constructor's ``optimizer_type``.
            context: execution context, by default the composition's own.
            kwargs: further arguments of ``AutodiffComposition.learn``: ``learning_rate`` (a number, or a dict by
                projection), ``call_after_minibatch``, ... ``minibatch_size`` M makes one update from M trials,
                of M environments that take turns: trial k of each, then trial k + 1 of each (see ``train``).
                ``epochs`` E makes E passes over the trials: the memory goes on from one to the next, initial
                states and choices that are not given are drawn anew, and the record has E · n trials, pass after
                pass. The module ``arguments`` has a table of all; those that cannot be honoured are refused.

        Logs: where a log condition asks for it, values of mechanisms and their OutputPorts are entered once a
        step, and matrices of projections once a minibatch, as they were when it was executed. An entry's time is
        (run, number of the trial in this call, 0, step). To log the episodic memory's own value takes the general
        path, which is slower. What else is to be logged, a ``LogWarning`` names; ``run_trials`` logs it.

        Returns:
            As ``AutodiffComposition.learn``: the outputs at the last step of the last trial.

        Raises:
            ValueError: sizes or values do not fit the model, or the graph cannot be trained as it stands, or an
                argument cannot be honoured, or the model has been trained with another optimiser.
            TypeError: an unknown argument.
        """
        trials = inputs if isinstance(inputs, Trials) else self._as_trials(inputs, targets)
        self._check_arguments(kwargs, len(trials))
        epochs = kwargs.get("epochs") or 1
        if epochs > 1:
            plan_trials(self.config, trials, actions, initial_states)  # checks the sizes as given
            trials = concatenate([trials] * epochs)
            actions = None if actions is None else np.concatenate([actions] * epochs)
            if initial_states is not None:
                h0, c0 = initial_states
                initial_states = np.concatenate([h0] * epochs), np.concatenate([c0] * epochs)
        plan = plan_trials(self.config, trials, actions, initial_states, seed)
        settings = LossSettings(loss, gamma, entropy_weight, value_weight, unroll_steps)
        return self._learn_plan(plan, settings, optimizer=optimizer, context=context, **kwargs)

    def learn_trials(
        self,
        plan: TrialPlan,
        *,
        learning_rate: float,
        loss: LossSettings,
        max_gradient_norm: float | None = None,
        record_gradients: bool = False,
        after_trial: Callable[[int], None] | None = None,
        optimizer: OptimizerName = "adam",
        record: Record = "all",
    ) -> TrialRecord:
        """Train on the trials of a plan through ``learn()``; see ``eplstm.models.train``."""
        done = iter(range(len(plan.trials)))
        call_back = None if after_trial is None else lambda: after_trial(next(done))
        self._learn_plan(
            plan,
            loss,
            record_gradients=record_gradients,
            max_gradient_norm=max_gradient_norm,
            optimizer=optimizer,
            record=record,
            learning_rate=learning_rate,
            call_after_minibatch=call_back,
            minibatch_size=plan.environments,
        )
        assert self.record is not None
        return self.record

    def _learn_plan(
        self,
        plan: TrialPlan,
        loss: LossSettings,
        record_gradients: bool = False,
        max_gradient_norm: float | None = None,
        optimizer: OptimizerName | None = None,
        record: Record = "all",
        **kwargs: Any,
    ) -> Any:
        context = as_context(self, kwargs.get("context"))
        self._in_graph.of(context).check_training(f"'{self.name}'")
        self._choose_optimizer(optimizer, context)
        session = _TrialSession(self, plan, loss, record_gradients, record)
        session.max_gradient_norm = max_gradient_norm
        result = None
        if plan.trials.targets.size:
            once = plan.trials[: len(plan.trials) // (kwargs.get("epochs") or 1)]
            if plan.interaction is not None:  # one blank input for each update spares PsyNeuLink's work with them
                once, session.width = once[:: plan.environments], plan.environments
                kwargs["minibatch_size"] = 1
            result = super().learn(self._inputs(once), session, **kwargs)
        self.record = session.record()
        return result

    def _choose_optimizer(self, optimizer: OptimizerName | None, context: Any) -> None:
        if optimizer is None:
            return
        check_optimizer(optimizer)
        if self.optimizer_type not in IN_TORCH:
            raise ValueError(
                f"'{self.name}' was made with optimizer_type={self.optimizer_type!r}, and cannot be trained with "
                f"optimizer={optimizer!r}: call learn() without optimizer, or make it with optimizer_type='adam'."
            )
        before, self.optimizer_type = self.optimizer_type, optimizer
        try:
            self._check_optimizer(context)
        except ValueError:
            self.optimizer_type = before
            raise

    # ---- the fast path

    def _choose_path(self, context: Any) -> None:
        """Choose the path by which the graph is executed."""
        self.detour = "fast_path is off" if not self.fast_path else self._standard.difference(context)
        log = self._learning_log
        if self.detour is None and self._has_memory and log and log.includes(self.episodic_memory):
            self.detour = f"the log of '{self.episodic_memory.name}'"  # the fast path keeps m_t, not the entries
        choice = self._in_graph.choice
        if self.detour is None and choice is not None and (self.is_nested or (log and log.includes(choice))):
            self.detour = f"'{choice.name}' is there"  # which the fast path has only as the policy
        if self.fast_path and self.detour not in (None, self._noted):
            warnings.warn(GeneralPathWarning(self.name, self.detour), stacklevel=5)
        self._noted = self.detour

    def _nested_executor(self, wrapper: RecurrentWrapper, context: Any) -> Any:
        """Where it is nested in another composition: the path, too."""
        self._in_graph.of(context).check_training(f"'{self.name}'")
        self._choose_path(context)
        if self.detour is not None:
            return super()._nested_executor(wrapper, context)
        return NestedAgent(self, wrapper, context).execute

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock method; nested, it must be told the last choice of a person with perseveration."""
        if not args and "inputs" not in kwargs and self.is_nested:
            self._in_graph.check_last_choice(kwargs.get("context"))
        return super().execute(*args, **kwargs)

    def _begin(self, wrapper: RecurrentWrapper, inputs: Mapping[Any, Tensor], context: Any) -> None:
        if self.detour is None:
            self._standard.begin(wrapper, inputs, context)
        else:
            super()._begin(wrapper, inputs, context)

    def _execute_sequences(self, wrapper: RecurrentWrapper, which: range, inputs: Any, before: Any) -> Any:
        interaction = self._session.plan.interaction
        if self.detour is None:
            course = self._standard.execute(wrapper, which, inputs, before, interaction=interaction)
            if interaction is not None:
                self._show_all(interaction, slice(which.start, which.stop), inputs)
            return course
        if interaction is not None:
            return self._execute_in_loop(wrapper, interaction, inputs, before)
        return super()._execute_sequences(wrapper, which, inputs, before)

    def _execute_in_loop(
        self, wrapper: RecurrentWrapper, interaction: Interaction, inputs: Any, before: Any
    ) -> Course:
        """One episode of some worlds, step by step, by the general path."""
        if wrapper.nested:
            raise NotTrainable(
                f"'{self.name}' holds other compositions: it cannot be trained with the environment in the loop."
            )
        course, steps = Course([]), wrapper.steps(inputs, before, self._unroll_steps)
        for t in range(interaction.length):
            for node, values in self._inputs_in_loop(interaction).items():
                inputs[node][:, t] = torch.from_numpy(values)  # the step about to be taken reads it there
            course.steps.append(next(steps))
            policy = course.steps[-1][wrapper.nodes_map[self._policy_node]][0][:, 0]
            interaction.act(policy.detach().numpy())
        return course

    def _inputs_in_loop(self, interaction: Interaction) -> dict[Any, np.ndarray]:
        """Inputs of the present step, {node: (M, size)}."""
        inputs = {self.input_node: interaction.inputs}
        if self._has_memory:
            inputs[self.retrieve_node] = interaction.retrieve[:, None].astype(float)
            inputs[self.encode_node] = interaction.encode[:, None].astype(float)
        return inputs

    def _show_all(self, interaction: Interaction, rows: slice, inputs: Mapping[Any, Tensor]) -> None:
        """Put what an episode has shown where PsyNeuLink looks for inputs."""
        seen = {self.input_node: interaction.inputs_seen[rows]}
        if self._has_memory:
            seen[self.retrieve_node] = interaction.retrieved[rows, :, None].astype(float)
            seen[self.encode_node] = interaction.encoded[rows, :, None].astype(float)
        for node, values in seen.items():
            inputs[node][...] = torch.from_numpy(values)

    def compute_loss(self, targets: Any, pytorch_rep: RecurrentWrapper, context: Any) -> Tensor:
        """The session's loss of the minibatch; on the fast path with its derivatives."""
        if self.detour is not None:
            return super().compute_loss(targets, pytorch_rep, context)
        return torch.tensor([self._session.loss_and_slopes(pytorch_rep._trials, pytorch_rep.trajectory)])

    def _backward(self, wrapper: RecurrentWrapper, loss: Tensor) -> None:
        if self.detour is not None:
            super()._backward(wrapper, loss)
        else:
            self._standard.backward(wrapper.course, self._session.slopes, self._unroll_steps)

    def _as_trials(self, inputs: Any, targets: Any) -> Trials:
        """``Trials`` from inputs and targets in PsyNeuLink's forms."""
        if isinstance(inputs, (list, tuple)):
            inputs = {node: np.stack([np.asarray(trial[node]) for trial in inputs]) for node in inputs[0]}
        if not isinstance(inputs, Mapping) or self.input_node not in inputs:
            raise ValueError(
                "learn(): inputs must be Trials, or a dict (or a list of dicts, one a trial) with an entry for "
                f"'{self.input_node.name}' (composition.input_node)."
            )
        known = {self.input_node} | ({self.retrieve_node, self.encode_node} if self._has_memory else set())
        unknown = [getattr(node, "name", node) for node in inputs if node not in known]
        if unknown:
            raise ValueError(
                f"learn(): {unknown} are not inputs of the model; known are {sorted(n.name for n in known)}. "
                "Give the rewarded actions as targets."
            )
        x = np.asarray(inputs[self.input_node], dtype=float)
        if isinstance(targets, Mapping):
            targets = targets.get(self.actor)
        if targets is None:
            raise ValueError("learn(): give the rewarded actions as targets, (n, T), or use Trials.")

        def switch(node: str, default: bool) -> np.ndarray:
            values = inputs.get(getattr(self, node)) if self._has_memory else None
            return np.full(x.shape[:2], default) if values is None else np.asarray(values).reshape(x.shape[:2])

        return Trials(
            inputs=x,
            targets=np.asarray(targets).reshape(x.shape[:2]),
            encode=switch("encode_node", False),
            retrieve=switch("retrieve_node", True),
        )

    # ---- the optimiser ---------------------------------------------------------------------------------

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """The optimiser's state by weight: ``step.NAME`` (a number a row), ``square.NAME`` and, of Adam,
        ``mean.NAME`` (as the weight). Empty before training, and with PsyNeuLink's ``sgd``."""
        wrapper = self.parameters.pytorch_representation._get(as_context(self, None), fallback_value=None)
        states = dict(self._state_to_adopt) | (wrapper.torch_state() if wrapper is not None else {})
        state: dict[str, np.ndarray] = {}
        for (name, block), projection in self._learned.items():
            own = states.get(projection, {})
            if (kind := kind_in_torch(own)) is None:
                continue
            shape, rows = weight_shapes(self.config)[name], self._rows(name, block)
            state.setdefault(f"step.{name}", np.zeros(shape[:1]))[rows] = float(own["step"])
            for part, in_torch in IN_TORCH[kind].items():
                values = self._as_rows(name, own[in_torch].numpy())
                state.setdefault(f"{part}.{name}", np.zeros(shape))[rows] = values
        return state

    def set_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take an optimiser's state as ``optimizer_state`` gives it, from either model; {}: begin anew, with
        either. ValueError if it does not fit."""
        check_optimizer_state(self.config, state)
        kind = optimizer_of(state)
        states: dict[Any, dict[str, Tensor]] = {}
        for (name, block), projection in self._learned.items():
            if f"step.{name}" not in state:
                continue
            rows = self._rows(name, block)

            def matrix(kind: str, name: str = name, rows: slice = rows) -> Tensor:
                values = np.array(state[f"{kind}.{name}"], dtype=float)[rows]
                return torch.from_numpy(np.array(values[None, :] if name.endswith("bias") else values.T))

            steps = float(np.max(np.asarray(state[f"step.{name}"])[rows]))
            if steps == 0:
                continue
            states[projection] = {"step": torch.tensor(steps, dtype=torch.float32)} | {
                in_torch: matrix(part).contiguous() for part, in_torch in IN_TORCH[kind or "adam"].items()
            }
        context = as_context(self, None)
        wrapper = self.parameters.pytorch_representation._get(context, fallback_value=None)
        if wrapper is not None:
            wrapper.optimizer.state.clear()
        self._state_to_adopt = {}
        if kind is not None and self.optimizer_type in IN_TORCH:
            self.optimizer_type = kind
            self._check_optimizer(context)  # of another kind, the PyTorch form is made anew
        self._state_to_adopt = states
        wrapper = self.parameters.pytorch_representation._get(context, fallback_value=None)
        if wrapper is not None:
            wrapper.set_torch_state(states)


class _TrialSession(Session):
    """The trials of a plan: initial states, choices, loss, and the record of it all."""

    def __init__(
        self,
        model: EpisodicLSTMComposition,
        plan: TrialPlan,
        loss: LossSettings,
        gradients: bool,
        record: Record,
    ) -> None:
        self.model, self.plan, self.settings, self.wants_gradients = model, plan, loss, gradients
        self._names = ("policy", "value", "action") if record == "behavior" else None
        self._course: list[dict[str, np.ndarray]] = []
        self._losses: list[np.ndarray] = []
        self._gradients: list[dict[str, np.ndarray]] = []
        self.slopes: Slopes | None = None
        self.unroll_steps = loss.unroll_steps

    def begin(self, which: range) -> dict[Any, Tensor]:
        rows = slice(which.start, which.stop)
        if self.plan.interaction is not None:
            self.plan.interaction.begin(which.start)
        return {
            self.model.hidden: torch.from_numpy(self.plan.h0[rows]),
            self.model.cell: torch.from_numpy(self.plan.c0[rows]),
        }

    def loss(self, which: range, values: Mapping[Any, Tensor]) -> Tensor:
        """General path: the loss as a tensor through which gradients flow to PsyNeuLink's parameters."""
        course = self.model._values(values.__getitem__)
        arrays = {name: v.detach().numpy() for name, v in course.items()}
        actor, critic = losses(trial_tensors(course, *self._outcome(which, arrays), self.settings), self.settings)
        self._keep(arrays, actor.detach().numpy(), critic.detach().numpy())
        return (actor + self.settings.value_weight * critic).mean()

    def loss_and_slopes(self, which: range, course: dict[str, np.ndarray]) -> float:
        """Fast path: the loss as a number, with its derivatives in ``slopes``."""
        outcome = self._outcome(which, course)
        hidden, cell = course["hidden"], course["cell"]
        actor, critic, slopes = losses_and_slopes(
            course["policy"], course["value"][..., 0], *outcome, self.settings, hidden, cell
        )
        if len(which) > 1:  # the mean over environments
            slopes = slopes / len(which)
        self._keep(course, actor, critic)
        self.slopes = slopes
        return float((actor + self.settings.value_weight * critic).mean())

    def _outcome(self, which: range, course: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Actions, targets and rewards, each (B, T)."""
        rows, plan = slice(which.start, which.stop), self.plan
        if plan.interaction is not None:
            action = target = plan.interaction.action[rows]
        else:
            action = choose(course["policy"], plan.luck[rows]) if plan.actions is None else plan.actions[rows]
            target = plan.trials.targets[rows]
        course["action"] = action
        return action, target, plan.rewards(rows, action)

    def _keep(self, course: dict[str, np.ndarray], actor: np.ndarray, critic: np.ndarray) -> None:
        self._course.append(course if self._names is None else {name: course[name] for name in self._names})
        self._losses.append(np.stack([actor, critic], axis=1))

    def before_update(self, gradients: Mapping[Any, np.ndarray]) -> None:
        model = self.model
        rows = {name: np.zeros(shape) for name, shape in weight_shapes(model.config).items()}
        for (name, block), projection in model._learned.items():
            if projection in gradients:
                rows[name][model._rows(name, block)] = model._as_rows(name, gradients[projection])
        self._gradients.append(rows)

    def record(self) -> TrialRecord:
        """What happened on the trials trained so far."""
        course = {k: np.concatenate([c[k] for c in self._course]) for k in (self._course or [{}])[0]}
        record = self.model._record(self.plan, course, course.get("action"), states=self._names is None)
        if self.plan.interaction is not None:
            record = EpisodeRecord.of(record, self.plan.interaction)
        shapes = weight_shapes(self.model.config)
        record.policy_loss, record.value_loss = np.concatenate([*self._losses, np.empty((0, 2))]).T
        if self.wants_gradients:
            record.gradients = {
                name: np.array([g[name] for g in self._gradients]).reshape(-1, *shape)
                for name, shape in shapes.items()
            }
        return record


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
