"""The episodic-memory LSTM as a PsyNeuLink composition: what a user calls.

The graph is the model, and is made in ``graph``. It is executed by PsyNeuLink's Python mode (``run_trials``,
``run_episodes``, or any ``run()``; see ``running``), and in PyTorch mode (``learn``, ``simulate``,
``simulate_episodes``; see ``simulation``) by the engine as long as it is as made, else node by node (``paths``).

It shares no computation with the reference: each checks the other.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import psyneulink as pnl

from ..tasks.environment import Worlds
from ..tasks.trials import Trials
from .as_made import AsMade
from .backend import RecurrentComposition, as_context, memories, setting_contexts
from .backend.pictures import draw_graph
from .config import ModelConfig
from .graph import AgentGraph
from .losses import Loss, LossSettings
from .optimizer_state import state_of_projections, state_of_weights
from .optimizers import OptimizerName, optimizer_of
from .parameters import parameters_of_agent
from .paths import AgentPaths
from .person import Person
from .person_in_graph import PersonInGraph
from .plans import Plan, Update, plan_passes, plan_run
from .plans_in_loop import check_one_world, plan_run_episodes
from .records import EpisodeRecord, Record, TrialRecord
from .running import run_episodes, run_trials
from .session import TrialSession
from .simulation import simulate_episodes, simulate_trials
from .trials_in_graph import as_trials, lesioned
from .weights import check_memory, check_optimizer_state, check_weights, initial_weights


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
        self, config: ModelConfig, seed: int | None = None, name: str = "episodic LSTM", **kwargs: Any
    ) -> None:
        self.config = config
        self.record: TrialRecord | None = None
        """What happened in the last call to ``learn()``, also where it was interrupted."""
        super().__init__(name=name, **{"optimizer_type": "adam", **kwargs})
        self.parts = AgentGraph(self, config)
        """The graph as made: its nodes, projections and learned matrices."""
        for node_name, node in self.parts.nodes.items():
            setattr(self, node_name, node)
        self.state_beside = self.person_in_graph = PersonInGraph(self.parts)
        """Where a person stands in the graph, and who does in each execution context."""
        self.as_made = AsMade(self.parts, self.person_in_graph)
        """Whether the graph is still as made."""
        self.paths = AgentPaths(self.as_made)
        """Whether the engine executes it, or PsyNeuLink node by node."""
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
        return run_trials(self.person_in_graph, plan, context)

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
        person = self.person_in_graph.of(context)
        plan = plan_run(self.config, person, trials, actions, initial_states, seed, encoded)
        return simulate_trials(self.paths, plan, context)

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
        person = self.person_in_graph.of(context)
        plan = plan_run_episodes(self.config, person, worlds, episodes, actions, seed)
        return run_episodes(self.person_in_graph, plan, context)

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
        person = self.person_in_graph.of(context)
        plan = plan_run_episodes(self.config, person, worlds, episodes, actions, seed)
        return simulate_episodes(self.paths, plan, context)

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
        trials = inputs if isinstance(inputs, Trials) else as_trials(self.parts, inputs, targets)
        self._check_arguments(kwargs, len(trials))
        epochs, together = kwargs.get("epochs") or 1, kwargs.get("minibatch_size") or 1
        plan = plan_passes(self.config, trials, actions, initial_states, seed, epochs, update, together)
        if update == "block":
            kwargs["minibatch_size"] = plan.per_update
        settings = LossSettings(loss, gamma, entropy_weight, value_weight, unroll_steps, through_memory)
        return self._learn_plan(plan, settings, optimizer, context=context, **kwargs)

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
        self._learn_plan(
            plan,
            loss,
            optimizer,
            {"gradients": record_gradients, "record": record, "max_gradient_norm": max_gradient_norm},
            learning_rate=learning_rate,
            call_after_minibatch=None if after_trial is None else lambda: after_trial(next(done)),
            minibatch_size=plan.per_update,
        )
        assert self.record is not None
        return self.record

    def _learn_plan(
        self,
        plan: Plan,
        loss: LossSettings,
        optimizer: OptimizerName | None,
        of_session: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        context = as_context(self, kwargs.get("context"))
        self.person_in_graph.of(context).check_training(f"'{self.name}'")
        self.choose_optimizer(optimizer, context)
        self.person_in_graph.make_room(plan.people, self.as_made.enlarged())
        session = TrialSession(self.person_in_graph, plan, loss, **(of_session or {}))
        self.record = None
        try:
            if not plan.trials.targets.size:
                return None
            if plan.interaction is not None:
                kwargs["minibatch_size"] = 1  # of the session's width
            inputs = session.inputs(kwargs.get("epochs") or 1)
            with lesioned(self.parts, plan.trials):
                return super().learn(inputs, session, **kwargs)
        finally:  # also after an interruption
            self.record = session.record()

    # ---- by which path

    @property
    def fast_path(self) -> bool:
        """Whether ``learn()`` may take the fast path where the graph is the standard one. False: PsyNeuLink's own
        execution, node by node, in any case (to compare the two)."""
        return self.paths.allows_fast

    @fast_path.setter
    def fast_path(self, allowed: bool) -> None:
        self.paths.allows_fast = allowed

    @property
    def detour(self) -> str | None:
        """Why the last call to ``learn()`` took the general path; None if it took the fast one."""
        return self.paths.detour

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock method; nested, it must be told the last choice of a person with perseveration."""
        if not args and "inputs" not in kwargs and self.is_nested:
            self.person_in_graph.check_last_choice(kwargs.get("context"))
        return super().execute(*args, **kwargs)

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
