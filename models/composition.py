"""The episodic-memory LSTM as a PsyNeuLink composition: what a user calls.

The graph is the model, and is made in ``graph.py``. It is executed by PsyNeuLink's Python mode (``run_trials``,
``run_episodes``, or any ``run()``), and in PyTorch mode (``learn``, ``simulate``, ``simulate_episodes``) by the
engine as long as it is as made (``fast_path.py``), else node by node (``backend``).

It shares no computation with the reference: each checks the other.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from torch import Tensor

from ..tasks.environment import Worlds
from ..tasks.trials import Trials, concatenate
from .as_made import AsMade
from .backend import (
    NotTrainable,
    RecurrentComposition,
    RecurrentWrapper,
    Trace,
    as_context,
    graph_signature,
    memories,
    setting_contexts,
    start_from,
    value_of,
)
from .backend.pictures import draw_graph
from .choices import NO_CHOICE, ChoicesOfTrials, draw, last_choices, one_hot, probabilities_of_block
from .config import ModelConfig
from .engine import Trace as EngineTrace
from .fast_path import AgentTrace, FastPath
from .graph import AgentGraph
from .in_steps import Turns, execute_in_steps
from .losses import Loss, LossSettings
from .optimizer_state import state_of_projections, state_of_weights
from .optimizers import OptimizerName, optimizer_of
from .parameters import parameters_of_agent
from .person import Person
from .person_in_graph import PersonInGraph
from .plans import Plan, Update, check_one_world, check_update, plan_episodes, plan_run, plan_trials
from .records import EpisodeRecord, Record, TrialRecord, build_record
from .retrievals import Retrievals
from .session import TrialSession, values_of_nodes
from .source import Interaction
from .warn import warn_user
from .weights import check_memory, check_optimizer_state, check_weights, initial_weights

NO_CONTEXT = pnl.Context(execution_id=None)
SIDE_BY_SIDE = 256
"""Most trials that ``simulate`` runs side by side."""


class GeneralPathWarning(UserWarning):
    """A note that ``learn()`` is slower than it could be, and why; the numbers are right either way."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"The graph of '{name}' is not as its constructor made it, or not as it was ({reason}): learn() "
            "executes it node by node in PyTorch, exactly but some twenty times slower than the standard graph."
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
    ``run_trials()``, ``simulate()``, ``run_episodes()``, ``simulate_episodes()``, and on ``composition.person``,
    which has all of it. (Which episodes are not encoded is no matter of ``run()``.) Networks are trained once:
    ``learn()`` refuses a person who differs from the trained agent; ``train(..., people=[...])`` trains the agent
    under parameters that people may have. Where that person averages over entries with a ``sharpness`` of
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

        locals().update(parameters_of_agent())

    def __init__(
        self,
        config: ModelConfig,
        seed: int | None = None,
        name: str = "episodic LSTM",
        **kwargs: Any,
    ) -> None:
        self.config = config
        self.record: TrialRecord | None = None
        """What happened in the last call to ``learn()``, also where it was interrupted."""
        self.fast_path = True
        """Whether ``learn()`` may take the fast path where the graph is the standard one. False: PsyNeuLink's own
        execution, node by node, in any case (to compare the two)."""
        self.detour: str | None = None
        """Why the last call to ``learn()`` took the general path; None if it took the fast one."""
        self._noted: str | None = None
        self._fast: FastPath | None = None
        self._choices: ChoicesOfTrials | None = None
        self._turns: Turns | None = None
        self._retrieved: list[dict[str, np.ndarray]] = []  # of a minibatch, round by round, on the general path
        super().__init__(name=name, **{"optimizer_type": "adam", **kwargs})
        self.parts = AgentGraph(self, config)
        """The graph as made: its nodes, projections and learned matrices."""
        for node_name, node in self.parts.nodes.items():
            setattr(self, node_name, node)
        self.person_in_graph = PersonInGraph(self.parts)
        """Where a person stands in the graph, and who does in each execution context."""
        self.as_made = AsMade(self.parts, self.person_in_graph)
        """Whether the graph is still as made."""
        self.set_weights(initial_weights(config, seed))

    # ---- weights and memory ----------------------------------------------------------------------------

    def show_graph(self, *args: Any, output_fmt: Any = "pdf", **kwargs: Any) -> Any:
        """PsyNeuLink's ``show_graph`` with all its views, laid out from input to read-out.

        Feedback projections are dashed and do not pull at the layout. PsyNeuLink adds "-1", "-2", ... to names
        that another model in the session has too; the picture of this one is drawn without them.

        Args:
            args, kwargs: as PsyNeuLink's, such as ``show_node_structure``, ``show_cim`` or ``show_pytorch``.
            output_fmt: ``pdf``, ``jupyter``, ``gif``, ``gv`` (a ``graphviz.Digraph``) or ``source`` (its text).
        """
        return draw_graph(self, super().show_graph, *args, output_fmt=output_fmt, **kwargs)

    def weights(self, context: Any = None) -> dict[str, np.ndarray]:
        """Copies of all weights, by the names and shapes of ``weight_shapes``."""
        return self.parts.weights(as_context(self, context))

    def set_weights(self, weights: Any, *args: Any, context: Any = None) -> None:  # type: ignore[override]
        """Take these weights: a dict by the names of ``weight_shapes``; in the composition's own execution
        context, from which later ones begin, or in the one that is named.

        PsyNeuLink's own call with a projection and its matrix works too.

        Raises:
            ValueError: a name, a shape or a value does not fit; nothing is changed then.
        """
        if not isinstance(weights, Mapping):
            for execution_id in setting_contexts(self, context):  # else that of no context only
                super().set_weights(weights, *args, context=pnl.Context(execution_id=execution_id))
            return
        self.parts.set_weights(check_weights(self.config, weights), setting_contexts(self, context))

    def memory(self, context: Any = None, environment: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the stored keys (n, K) and values (n, H), oldest first, of one of its environments.

        Memories that were added to the graph are in ``memories``.
        """
        if not self.parts.has_memory:
            return np.empty((0, self.config.key_size)), np.empty((0, self.config.hidden_size))
        keys, values = self.episodic_memory.function.entries(as_context(self, context), environment)
        return keys, values

    def memories(self, context: Any = None, environment: int = 0) -> dict[str, list[np.ndarray]]:
        """The entries of all episodic memories in the graph, by the names of their mechanisms: the fields of each,
        (n, size), oldest first."""
        context = as_context(self, context)
        return {function.owner.name: function.entries(context, environment) for function in memories(self)}

    @property
    def environments(self) -> int:
        """Environments that have a memory: at least 1, and as many as it has been trained in."""
        return self.episodic_memory.function.environments(as_context(self, None)) if self.parts.has_memory else 1

    def set_memory(self, keys: np.ndarray, values: np.ndarray, context: Any = None, environment: int = 0) -> None:
        """Replace the memory by these entries, oldest first: keys (n, K), values (n, H)."""
        checked = check_memory(self.config, keys, values)
        if self.parts.has_memory:
            self.episodic_memory.function.set_entries(checked, as_context(self, context), environment)

    def clear_memory(self, context: Any = None) -> None:
        """Forget all entries, of all environments and of all episodic memories in the graph."""
        for function in memories(self):
            function.clear(as_context(self, context), environment=None)

    @contextmanager
    def _lesioned(self, trials: Trials) -> Iterator[None]:
        """Trials that retrieve at no step are a lesion of all memories in the graph, not of the agent's alone."""
        functions = [] if trials.retrieve.any() else memories(self)
        before = [function.reads for function in functions]
        try:
            for function in functions:
                function.reads = False
            yield
        finally:
            for function, reads in zip(functions, before, strict=True):
                function.reads = reads

    # ---- the person ------------------------------------------------------------------------------------

    @property
    def person(self) -> Person:
        """Who makes the choices where nothing is learned; by default the trained agent itself.

        That of the composition's own execution context; ``parameters.person`` has those of others.
        """
        return self.person_in_graph.of(as_context(self, None))

    @person.setter
    def person(self, person: Person) -> None:
        self.put_person(person)

    def put_person(self, person: Person, context: Any = None) -> None:
        """Stand for a person, in the composition's own execution context and those yet to come, or in the one
        named.

        Raises:
            TypeError: not a ``Person``.
            ValueError: a parameter has no place in this model, or a node cannot be added.
        """
        self.person_in_graph.put(person, setting_contexts(self, context), self.as_made.enlarged())

    def _initialize_from_context(
        self, context: Any, base_context: Any = NO_CONTEXT, *args: Any, **kwargs: Any
    ) -> None:
        """As the stock method; who a new execution context stands for is taken over, too."""
        super()._initialize_from_context(context, base_context, *args, **kwargs)
        if hasattr(self, "person_in_graph"):
            self.person_in_graph.begin(context.execution_id, base_context)

    def _delete_contexts(self, *contexts: Any, **kwargs: Any) -> None:
        super()._delete_contexts(*contexts, **kwargs)
        for context in contexts:
            self.person_in_graph.persons.pop(getattr(context, "execution_id", context), None)

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
        person = self.person_in_graph.of(context)
        plan = plan_run(self.config, person, trials, actions, initial_states, seed, encoded)
        steps: list[dict[str, np.ndarray]] = []
        if trials.targets.size:
            arrays = self._inputs(plan.seen, plan.actions)
            inputs = {node: values[trials.exists] for node, values in arrays.items()}
            luck, asks = plan.luck[trials.exists], trials.asks[trials.exists]
            choice = np.array(NO_CHOICE)

            def input_of_step(step: int) -> dict[Any, np.ndarray]:
                nonlocal choice
                here = {node: values[step : step + 1] for node, values in inputs.items()}
                if step and asks[step - 1]:
                    choice = draw(steps[-1]["policy"], luck[step - 1])
                return here | self.person_in_graph.inputs(choice[None])

            free = person.perseveration != 0 and plan.actions is None  # the next input is the choice just made
            with self._lesioned(plan.trials):
                self._run_steps(plan, input_of_step if free else inputs, steps, context)
        return self._record(plan, _in_trials(steps, trials.exists))

    def _run_steps(
        self,
        plan: Plan,
        inputs: Mapping[Any, np.ndarray] | Callable[[int], Mapping[Any, np.ndarray]],
        steps: list[dict[str, np.ndarray]],
        context: Any,
        after_step: Callable[[], None] | None = None,
    ) -> None:
        """Run all steps of a plan in Python mode, in one ``run()``; ``steps`` gets the values of each."""
        places, retrievals = np.argwhere(plan.trials.exists), Retrievals(self.parts, context)

        def begin() -> None:
            trial, step = places[len(steps)]
            if step == 0:
                retrievals.go_on(int(trial))
                start_from(self, {self.hidden: plan.h0[trial], self.cell: plan.c0[trial]}, context)

        def keep() -> None:
            here = values_of_nodes(self.parts, lambda node: value_of(node, context), self._policy_node)
            switch = value_of(self.retrieve_node, context)[0] if self.parts.has_memory else 0.0
            steps.append(here | retrievals.of_step(switch))
            if after_step is not None:
                after_step()

        def by_port(step: int) -> dict[Any, np.ndarray]:  # as a nested composition takes them from a function
            return {getattr(node, "input_port", node): v for node, v in inputs(step).items()}  # type: ignore[operator]

        with retrievals.of(0):
            self.run(
                inputs=by_port if callable(inputs) and self.is_nested else inputs,
                num_trials=len(places),
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
        plan = plan_run(
            self.config, self.person_in_graph.of(context), trials, actions, initial_states, seed, encoded
        )
        wrapper = self._prepare_to_simulate(context)
        arrays = self._inputs(plan.seen, plan.actions)
        inputs = {node: torch.from_numpy(v.astype(float)) for node, v in arrays.items()}
        with torch.no_grad(), self._lesioned(plan.trials):
            if self.detour is None:
                parts = self._simulate_standard(wrapper, inputs, plan, context)
            else:
                parts = self._simulate_general(wrapper, inputs, plan, context)
        return self._record(plan, parts)

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
            seed: for what is drawn; with a person's ``encoding_probability`` < 1 also which episodes are encoded.
            context: execution context, by default the composition's own.

        Raises:
            ValueError: model and task do not fit each other, there are several worlds, or the epoch has not so
                many episodes left.
        """
        check_one_world(worlds, "run_episodes")
        context = as_context(self, context)
        plan = self._plan_episodes(worlds, episodes, actions, seed, context)
        interaction, length = plan.interaction, worlds.task.length
        assert interaction is not None
        steps: list[dict[str, np.ndarray]] = []

        def input_of_step(step: int) -> dict[Any, np.ndarray]:
            if step % length == 0:
                interaction.begin(step // length)
            return self._inputs_in_loop(interaction)

        def act() -> None:
            interaction.act(steps[-1]["policy"][None])

        self._run_steps(plan, input_of_step, steps, context, after_step=act)
        return self._record(plan, _in_trials(steps, plan.trials.exists))

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
        plan = self._plan_episodes(worlds, episodes, actions, seed, context)
        interaction = plan.interaction
        assert interaction is not None
        wrapper = self._prepare_to_simulate(context)
        inputs = {n: torch.from_numpy(v[: worlds.n].copy()) for n, v in self._inputs(plan.trials).items()}
        parts, retrievals = [], Retrievals(self.parts, context)
        with torch.no_grad():
            path = FastPath(self.parts, self.person_in_graph, wrapper, context) if self.detour is None else None
            for first in range(0, len(plan.trials), worlds.n):
                before = self._first_states(plan, slice(first, first + worlds.n))
                interaction.begin(first)
                with retrievals.of(first):
                    if path is not None:
                        parts.append(path.run_episode(interaction, before).record())
                    else:
                        values = self._execute_in_loop(wrapper, interaction, inputs, before).trajectory
                        parts.append(self._part(values) | self._retrieved_of(values, retrievals))
        return self._record(plan, parts)

    def _plan_episodes(self, worlds: Worlds, episodes: int, actions: Any, seed: Any, context: Any) -> Plan:
        """Episodes of who stands in an execution context."""
        people = [self.person_in_graph.of(context)] * worlds.n
        return plan_episodes(self.config, worlds, episodes, actions, seed, people=people)

    def _first_states(self, plan: Plan, rows: slice) -> dict[Any, Tensor]:
        """h0 and c0 of some of a plan's trials."""
        return {self.hidden: torch.from_numpy(plan.h0[rows]), self.cell: torch.from_numpy(plan.c0[rows])}

    def _prepare_to_simulate(self, context: Any) -> RecurrentWrapper:
        """As ``prepare``, and choose the path; where the fast path is taken, any PyTorch form will do: it uses the
        matrices alone, and so need not be made anew for each person."""
        self._initialize_from_context(context, pnl.Context(execution_id=None), override=False)
        wrapper, signature = self.pytorch_form(context), graph_signature(self, context)
        fast = wrapper is not None and not wrapper.is_nested and self.fast_path
        if not fast or self.as_made.difference(context, signature) is not None:
            signature = self.prepare(context)
        self._choose_path(context, signature)
        wrapper = self.pytorch_form(context)
        wrapper.load_weights(context)
        return wrapper

    def _simulate_standard(
        self, wrapper: RecurrentWrapper, inputs: dict[Any, Tensor], plan: Plan, context: Any
    ) -> list[dict[str, np.ndarray]]:
        """Trials that store nothing run side by side, the others one by one."""
        path = FastPath(self.parts, self.person_in_graph, wrapper, context, shared_memory=True)
        parts, places, retrievals = [], [], Retrievals(self.parts, context)
        logits = np.zeros((*plan.luck.shape, self.config.n_actions))
        stores = np.asarray(plan.trials.encode.any(1)) & self.parts.has_memory
        start = 0
        while start < len(stores):
            following = np.flatnonzero(stores[start : start + SIDE_BY_SIDE])
            stop = start + (max(int(following[0]), 1) if len(following) else SIDE_BY_SIDE)
            rows = slice(start, min(stop, len(stores)))
            here = rows, slice(0, plan.trials.longest(rows))
            some = {node: values[here] for node, values in inputs.items()}
            with retrievals.of(rows.start):
                engine = path.run(some, self._first_states(plan, rows))
            parts.append(engine.record())
            places.append(here)
            logits[here] = engine.logits[:, 0].transpose(2, 0, 1)
            start = rows.stop
        person = self.person_in_graph.of(context)
        if person.changed:
            policy = probabilities_of_block(person, logits, plan.actions, plan.luck, plan.trials.asks)
            for part, here in zip(parts, places, strict=True):
                part["policy"] = policy[here]
        return parts

    def _simulate_general(
        self, wrapper: RecurrentWrapper, inputs: dict[Any, Tensor], plan: Plan, context: Any
    ) -> list[dict[str, np.ndarray]]:
        """Trial by trial, by PsyNeuLink's own execution; where each choice is part of the next step's input, step
        by step."""
        free = self.person_in_graph.of(context).perseveration != 0 and plan.actions is None
        if free and wrapper.nested:
            raise NotTrainable(
                f"'{self.name}' holds other compositions and stands for a person with perseveration: simulate() "
                "cannot draw its choices one by one. Use run_trials(), or give actions."
            )
        parts, choices, retrievals = [], ChoicesOfTrials((1,)), Retrievals(self.parts, context)
        for n in range(len(plan.trials)):
            row = slice(n, n + 1)
            before, steps_here = self._first_states(plan, row), plan.trials.longest(row)
            some = {node: values[row, :steps_here] for node, values in inputs.items()}
            with retrievals.of(n):
                if free:
                    choices.begin(plan.luck[row], plan.trials.asks[row], None)
                    trace = self._execute_choosing(wrapper, some, before, choices)
                else:
                    trace = self._execute_general(wrapper, range(n, n + 1), some, before)
                values = trace.trajectory
                parts.append(self._part(values) | self._retrieved_of(values, retrievals))
        return parts

    def _execute_choosing(
        self,
        wrapper: RecurrentWrapper,
        inputs: dict[Any, Tensor],
        before: Mapping[Any, Tensor],
        choices: ChoicesOfTrials,
    ) -> Trace:
        """Trials side by side, step by step, by the general path: the choice just made is a part of the input."""

        def show() -> dict[Any, np.ndarray]:
            return self.person_in_graph.inputs(choices.last_choice)

        return execute_in_steps(
            wrapper,
            inputs,
            before,
            self._policy_node,
            show,
            choices.act,
            turns=self._turns,
            unroll=self._unroll_steps,
        )

    def _inputs(self, trials: Trials, actions: np.ndarray | None = None) -> dict[Any, np.ndarray]:
        """Inputs of all steps, {node: (n, T, size)}; of the choices made last, those that are forced."""
        inputs = {self.input_node: trials.inputs}
        if self.parts.has_memory:
            inputs[self.retrieve_node] = trials.retrieve[..., None].astype(float)
            inputs[self.encode_node] = trials.encode[..., None].astype(float)
        none = np.full(trials.targets.shape, NO_CHOICE)
        return inputs | self.person_in_graph.inputs(none if actions is None else last_choices(actions))

    @property
    def _policy_node(self) -> Any:
        """The node whose value is p_t."""
        choice = self.person_in_graph.choice
        return self.actor if choice is None else choice

    def _part(self, values: Mapping[Any, Tensor]) -> dict[str, np.ndarray]:
        """What a record has, from each node's value (B, T, size)."""
        return values_of_nodes(self.parts, lambda node: values[node].numpy(), self._policy_node)

    def _retrieved_of(self, values: Mapping[Any, Tensor], retrievals: Retrievals) -> dict[str, np.ndarray]:
        """What was retrieved on trials that were executed node by node, given each node's value (B, T, size)."""
        switch = values[self.retrieve_node] if self.parts.has_memory else values[self.critic]
        return retrievals.of_trials(switch.detach().numpy()[..., 0])

    def _record(self, plan: Plan, parts: Sequence[dict[str, np.ndarray]]) -> Any:
        """The record of what happened without learning; choices that were not forced are drawn where they matter
        not before."""
        start = 0
        for part in parts:
            rows = slice(start, start + len(part["value"]))
            start = rows.stop
            outcome = plan.outcome(rows, part["policy"])
            part["action"], part["reward"] = outcome.action, outcome.reward
        return build_record(self.config, plan, parts)

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
        update: Update = "trial",
        through_memory: bool = False,
        optimizer: OptimizerName | None = None,
        context: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Train on trials in PsyNeuLink's PyTorch mode, in their order; the record is in ``self.record``.

        Args:
            inputs: ``Trials``; or, as PsyNeuLink has it, {node: (n, T, size)} or a list of {node: (T, size)},
                with ``retrieve_node`` and ``encode_node`` left out to retrieve at all steps and to store at none.
            targets: (n, T) int: the right actions, -1 where no answer is asked for, alone or as {actor: (n, T)};
                not needed with ``Trials``.
            actions: (n, T) forced choices; without them they are drawn from the policy.
            initial_states: h0 (n, H) and c0 (n, H); without them drawn from 0.1 · N(0, 1).
            seed: for what is drawn.
            loss: ``actor_critic``, ``cross_entropy`` (to the target), or a function of ``TrialTensors``.
            gamma: discount of later rewards.
            entropy_weight: weight of an entropy bonus in the actor-critic loss.
            value_weight: weight of the critic's loss.
            unroll_steps: truncated backpropagation through time, in stretches of so many steps (see ``train``).
            update, through_memory: one update a trial, or one from all trials of a pass; and whether gradients
                flow through the memory (see ``train``).
            optimizer: ``adam`` or ``rmsprop`` (see ``train``), from now on; None: as before, which is the
                constructor's ``optimizer_type``.
            context: execution context, by default the composition's own.
            kwargs: further arguments of ``AutodiffComposition.learn``: ``learning_rate`` (a number, or a dict by
                projection), ``call_after_minibatch``, ... ``minibatch_size`` M makes one update from M trials,
                of M environments that take turns: trial k of each, then trial k + 1 of each (see ``train``).
                ``epochs`` E makes E passes over the trials: the memory goes on from one to the next (an epoch of
                ``train_episodes`` is another one of its worlds, and begins with an empty memory), initial states
                and choices that are not given are drawn anew, and the record has E · n trials, pass after pass.
                The module ``arguments`` has a table of all; those that cannot be honoured are refused.

        Logs: where a log condition asks for it, values of mechanisms and their OutputPorts are entered once a
        step, and matrices of projections once a minibatch, as they were when it was executed. An entry's time is
        (run, number of the trial in this call, 0, step). To log the episodic memory's own value takes the general
        path, which is slower. What else is to be logged, a ``LogWarning`` names; ``run_trials`` logs it.

        Returns:
            As ``AutodiffComposition.learn``: the outputs at the last step of the last trial.

        Raises:
            NotFinite: an update would not be finite: it is not made. Weights, optimiser, memory, ``record`` and
                ``results`` are those of the updates that were, as after any other interruption.
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
        check_update(update)
        if update == "block":
            together, n = kwargs.get("minibatch_size") or 1, len(trials) // epochs
            together = n if isinstance(together, str) else together  # the training set
            if n % together:
                raise ValueError(
                    "learn(): with update='block', the number of trials must be a multiple of minibatch_size, the "
                    f"environments that take turns; got {n} trials and {together}. Leave out {n % together}, or "
                    "give another minibatch_size."
                )
            plan = replace(plan, environments=together).in_one_update(epochs)
            kwargs["minibatch_size"] = plan.per_update
        settings = LossSettings(loss, gamma, entropy_weight, value_weight, unroll_steps, through_memory)
        return self._learn_plan(plan, settings, optimizer=optimizer, context=context, **kwargs)

    def learn_trials(
        self,
        plan: Plan,
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
            minibatch_size=plan.per_update,
        )
        assert self.record is not None
        return self.record

    def _learn_plan(
        self,
        plan: Plan,
        loss: LossSettings,
        record_gradients: bool = False,
        max_gradient_norm: float | None = None,
        optimizer: OptimizerName | None = None,
        record: Record = "all",
        **kwargs: Any,
    ) -> Any:
        context = as_context(self, kwargs.get("context"))
        self.person_in_graph.of(context).check_training(f"'{self.name}'")
        self.choose_optimizer(optimizer, context)
        if plan.of_others:
            for person in plan.people:
                self.person_in_graph.make_room(person, self.as_made.enlarged())
        session = TrialSession(
            self.parts, plan, loss, record_gradients, record, max_gradient_norm, self._policy_node
        )
        self.record = self._choices = self._turns = None
        try:
            if not plan.trials.targets.size:
                return None
            if plan.interaction is not None:  # one blank input for each update spares PsyNeuLink's work with them
                session.width = plan.per_update
                kwargs["minibatch_size"] = 1
            once = plan.seen[: len(plan.trials) // (kwargs.get("epochs") or 1) : session.width]
            with self._lesioned(plan.trials):
                return super().learn(self._inputs(once), session, **kwargs)
        finally:  # also after an interruption
            self.record, self._turns = session.record(), None

    # ---- the fast path

    def _choose_path(self, context: Any, signature: tuple) -> None:
        """Choose the path by which the graph is executed."""
        self.detour = "fast_path is off" if not self.fast_path else self.as_made.difference(context, signature)
        log = None if self.call is None else self.call.log
        if self.detour is None and self.parts.has_memory and log and log.includes(self.episodic_memory):
            self.detour = f"the log of '{self.episodic_memory.name}'"  # the fast path keeps m_t, not the entries
        choice = self.person_in_graph.choice
        if self.detour is None and choice is not None and (self.is_nested or (log and log.includes(choice))):
            self.detour = f"'{choice.name}' is there"  # which the fast path has only as the policy
        if self.fast_path and self.detour not in (None, self._noted):
            warn_user(GeneralPathWarning(self.name, self.detour))
        self._noted = self.detour

    def nested_executor(self, wrapper: RecurrentWrapper, context: Any) -> Any:
        """Where it is nested in another composition: the path, too."""
        self.person_in_graph.of(context).check_training(f"'{self.name}'")
        self._choose_path(context, graph_signature(self, context))
        if self.detour is not None:
            return super().nested_executor(wrapper, context)
        return FastPath(self.parts, self.person_in_graph, wrapper, context, nested=True).execute

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock method; nested, it must be told the last choice of a person with perseveration."""
        if not args and "inputs" not in kwargs and self.is_nested:
            self.person_in_graph.check_last_choice(kwargs.get("context"))
        return super().execute(*args, **kwargs)

    def _begin(self, wrapper: RecurrentWrapper, inputs: Mapping[Any, Tensor], context: Any) -> None:
        plan = self.call.session.plan
        people = plan.people if plan.of_others else None
        self._retrievals, self._retrieved = Retrievals(self.parts, context), []
        self._choices = None if people is None else ChoicesOfTrials((len(people),))
        if self.detour is None:
            self._fast = FastPath(self.parts, self.person_in_graph, wrapper, context, people=people)
            return
        if people is not None:
            if wrapper.nested:
                raise NotTrainable(f"'{self.name}' holds other compositions: it cannot be trained with people=...")
            self._turns = Turns(self.person_in_graph, wrapper, people, context)
        super()._begin(wrapper, inputs, context)

    def execute_sequences(
        self, wrapper: RecurrentWrapper, which: range, inputs: dict[Any, Tensor], before: Mapping[Any, Tensor]
    ) -> Trace:
        """By the path that was chosen."""
        plan, rows = self.call.session.plan, slice(which.start, which.stop)
        interaction = plan.interaction
        if self._choices is not None and interaction is None:
            forced = None if plan.actions is None else plan.actions[rows]
            self._choices.begin(plan.luck[rows], plan.trials.asks[rows], forced)
        with self._retrievals.of(which.start):
            if self.detour is None:
                return self._execute_fast(rows, inputs, before)
            trace = self._execute_nodes(wrapper, which, inputs, before)
            if self.call.session.keeps_states:
                self._retrieved.append(self._retrieved_of(trace.trajectory, self._retrievals))
            return trace

    def _execute_fast(self, rows: slice, inputs: dict[Any, Tensor], before: Mapping[Any, Tensor]) -> Trace:
        """Sequences of a call to ``learn()`` by the engine."""
        interaction = self.call.session.plan.interaction
        if interaction is None:
            engine = self._fast.run(inputs, before, self._choices)
        else:
            engine = self._fast.run_episode(interaction, before)
            self._show_all(interaction, rows, inputs)
        self._show_last_choices(engine, inputs)
        return AgentTrace(self._fast, engine, inputs, before)

    def _execute_nodes(
        self, wrapper: RecurrentWrapper, which: range, inputs: dict[Any, Tensor], before: Mapping[Any, Tensor]
    ) -> Trace:
        """Sequences of a call to ``learn()`` by the general path."""
        if (interaction := self.call.session.plan.interaction) is not None:
            return self._execute_in_loop(wrapper, interaction, inputs, before)
        lengths = self.call.session.lengths(which)
        if lengths is not None and len(set(lengths)) > 1 and len(memories(self)) > self.parts.has_memory:
            raise NotTrainable(
                f"'{self.name}' has further episodic memories, which may store at each step, also beyond the end "
                f"of a trial: trials side by side must have equally many steps; got lengths {lengths.tolist()}. "
                "Give trial k of all environments the same length, or train in one environment."
            )
        if self._choices is not None:
            return self._execute_choosing(wrapper, inputs, before, self._choices)
        return self._execute_general(wrapper, which, inputs, before)

    def _execute_general(
        self, wrapper: RecurrentWrapper, which: range, inputs: Mapping[Any, Tensor], before: Mapping[Any, Tensor]
    ) -> Trace:
        """PsyNeuLink's own execution, node by node."""
        return super().execute_sequences(wrapper, which, inputs, before)

    def _execute_in_loop(
        self,
        wrapper: RecurrentWrapper,
        interaction: Interaction,
        inputs: dict[Any, Tensor],
        before: Mapping[Any, Tensor],
    ) -> Trace:
        """One episode of some worlds, step by step, by the general path."""
        if wrapper.nested:
            raise NotTrainable(
                f"'{self.name}' holds other compositions: it cannot be trained with the environment in the loop."
            )
        return execute_in_steps(
            wrapper,
            inputs,
            before,
            self._policy_node,
            lambda: self._inputs_in_loop(interaction),
            interaction.act,
            turns=self._turns,
            unroll=self._unroll_steps,
        )

    def _inputs_in_loop(self, interaction: Interaction) -> dict[Any, np.ndarray]:
        """Inputs of the present step, {node: (M, size)}."""
        inputs = {self.input_node: interaction.inputs}
        if self.parts.has_memory:
            inputs[self.retrieve_node] = interaction.retrieve[:, None].astype(float)
            inputs[self.encode_node] = interaction.encode[:, None].astype(float)
        return inputs | self.person_in_graph.inputs(interaction.last_choice[0])

    def _show_all(self, interaction: Interaction, rows: slice, inputs: Mapping[Any, Tensor]) -> None:
        """Put what an episode has shown where PsyNeuLink looks for inputs."""
        seen = {self.input_node: interaction.inputs_seen[0, rows]}
        if self.parts.has_memory:
            seen[self.retrieve_node] = interaction.retrieved[0, rows, :, None].astype(float)
            seen[self.encode_node] = interaction.encoded[0, rows, :, None].astype(float)
        for node, values in seen.items():
            inputs[node][...] = torch.from_numpy(values)

    def _show_last_choices(self, engine: EngineTrace, inputs: Mapping[Any, Tensor]) -> None:
        """Likewise of the choices made last, where somebody perseverates."""
        if engine.choosing is not None and engine.choosing.last:
            last = one_hot(np.stack(engine.choosing.last)[:, 0].T, self.config.n_actions)
            inputs[self.person_in_graph.last_choice][...] = torch.from_numpy(last)

    def compute_loss(self, targets: Any, pytorch_rep: RecurrentWrapper, context: Any) -> Tensor:
        """The session's loss of the minibatch; on the fast path with its derivatives."""
        session = self.call.session
        if self.detour is not None:
            loss = super().compute_loss(targets, pytorch_rep, context)
            if session.keeps_states:
                session.add_retrieved(_joined(self._retrieved))
                self._retrieved = []
            return loss
        part = _joined([each.engine.record(retrieved=session.keeps_states) for each in pytorch_rep.trace.rounds])
        loss = session.loss_and_slopes(pytorch_rep.sequences, part)
        return torch.tensor([loss], dtype=torch.float64)

    def _gradients_not_finite(self, wrapper: RecurrentWrapper) -> list[str]:
        if self.detour is None and self._fast.is_finite:
            return []
        return super()._gradients_not_finite(wrapper)

    def _backward(self, wrapper: RecurrentWrapper, loss: Tensor) -> None:
        if self.detour is not None:
            super()._backward(wrapper, loss)
        else:
            rounds = [each.engine for each in wrapper.trace.rounds]
            self._fast.backward(rounds, self.call.session.slopes, self._unroll_steps)

    def _as_trials(self, inputs: Any, targets: Any) -> Trials:
        """``Trials`` from inputs and targets in PsyNeuLink's forms."""
        if isinstance(inputs, (list, tuple)):
            inputs = {node: np.stack([np.asarray(trial[node]) for trial in inputs]) for node in inputs[0]}
        if not isinstance(inputs, Mapping) or self.input_node not in inputs:
            raise ValueError(
                "learn(): inputs must be Trials, or a dict (or a list of dicts, one a trial) with an entry for "
                f"'{self.input_node.name}' (composition.input_node)."
            )
        known = {self.input_node} | ({self.retrieve_node, self.encode_node} if self.parts.has_memory else set())
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
            values = inputs.get(getattr(self, node)) if self.parts.has_memory else None
            return np.full(x.shape[:2], default) if values is None else np.asarray(values).reshape(x.shape[:2])

        return Trials(
            inputs=x,
            targets=np.asarray(targets).reshape(x.shape[:2]),
            encode=switch("encode_node", False),
            retrieve=switch("retrieve_node", True),
        )

    # ---- the optimiser ---------------------------------------------------------------------------------

    def optimizer_state(self, context: Any = None) -> dict[str, np.ndarray]:
        """The optimiser's state by weight: ``step.NAME`` (a number a row), ``square.NAME`` and, of Adam,
        ``mean.NAME`` (as the weight). Empty before training, and with PsyNeuLink's ``sgd``."""
        return state_of_weights(self.parts, self.torch_states(as_context(self, context)))

    def set_optimizer_state(self, state: Mapping[str, np.ndarray], context: Any = None) -> None:
        """Take an optimiser's state as ``optimizer_state`` gives it, from either model; {}: begin anew, with
        either. ValueError if it does not fit."""
        check_optimizer_state(self.config, state)
        self.put_torch_states(
            state_of_projections(self.parts, state), optimizer_of(state), as_context(self, context)
        )


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of several rounds as those of one: their rows in this order."""
    return parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}


def _in_trials(steps: list[dict[str, np.ndarray]], exists: np.ndarray) -> list[dict[str, np.ndarray]]:
    """The values of steps one after the other → those of trials, (n, T, ...), zeros beyond their ends."""
    if not steps:
        return []
    whole = {}
    for name, value in steps[0].items():
        whole[name] = np.zeros((*exists.shape, *np.shape(value)))
        whole[name][exists] = [step[name] for step in steps]
    return [whole]
