"""By which path the graph of an agent is executed in PyTorch mode.

The fast path is the engine, as long as the graph is as its constructor made it; the general path is PsyNeuLink's
own execution of every node.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .as_made import AsMade
from .backend import Call, LearningPath, NotTrainable, Paths, RecurrentWrapper, Trace, graph_signature, memories
from .engine import Trace as EngineTrace
from .fast_path import AgentTrace, FastPath
from .in_steps import InSteps, Turns
from .person_in_graph import PersonInGraph
from .retrievals import Retrievals
from .session import TrialSession
from .trials_in_graph import inputs_of_episodes
from .warn import warn_user


class GeneralPathWarning(UserWarning):
    """A note that ``learn()`` is slower than it could be, and why; the numbers are right either way."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"The graph of '{name}' is not as its constructor made it, or not as it was ({reason}): learn() "
            "executes it node by node in PyTorch, exactly but some twenty times slower than the standard graph."
        )


class AgentPaths(Paths):
    """Chooses the path.

    Args:
        as_made: whether the agent's graph is as made.
    """

    def __init__(self, as_made: AsMade) -> None:
        self.as_made, self.person = as_made, as_made.person
        self.composition: Any = as_made.graph.composition
        self.allows_fast = True
        """Whether the fast path may be taken."""
        self.detour: str | None = None
        """Why it was not, when it was last asked for."""

    def is_fast(self, context: Any, signature: tuple, log: Any = None) -> bool:
        """Whether the fast path is taken now; where it could be expected, a warning says why not.

        Args:
            context: the execution context.
            signature: the graph's.
            log: what is to be logged, or None.
        """
        detour = self._difference(context, signature, log) if self.allows_fast else "fast_path is off"
        if self.allows_fast and detour not in (None, self.detour):
            warn_user(GeneralPathWarning(self.composition.name, detour))
        self.detour = detour
        return detour is None

    def _difference(self, context: Any, signature: tuple, log: Any) -> str | None:
        graph, choice = self.as_made.graph, self.person.choice
        if (difference := self.as_made.difference(context, signature)) is not None:
            return difference
        if graph.has_memory and log and log.includes(graph.episodic_memory):
            return f"the log of '{graph.episodic_memory.name}'"  # the fast path keeps m_t, not the entries
        if choice is not None and (self.composition.is_nested or (log and log.includes(choice))):
            return f"'{choice.name}' is there"  # which the fast path has only as the policy
        return None

    def to_learn(self, call: Call, signature: tuple, context: Any) -> LearningPath:
        """As of ``Paths``; the session of the call is a ``TrialSession``."""
        path = FastLearning if self.is_fast(context, signature, call.log) else GeneralLearning
        return path(self.person, call, context)

    def nested(self, wrapper: RecurrentWrapper, context: Any) -> Any:
        """As of ``Paths``."""
        self.person.of(context).check_training(f"'{self.composition.name}'")
        if not self.is_fast(context, graph_signature(self.composition, context)):
            return wrapper.execute_sequences
        return FastPath(self.person, wrapper, context, nested=True).execute

    def to_simulate(self, context: Any) -> tuple[RecurrentWrapper, bool]:
        """PsyNeuLink's PyTorch form, and whether the fast path is taken, without learning.

        Raises:
            NotTrainable: the graph cannot be executed in PyTorch mode.
        """
        composition = self.composition
        composition.initialize_context(context)
        wrapper, signature = composition.pytorch_form(context), graph_signature(composition, context)
        # The fast path uses the matrices alone: any form will do, which need not be made anew for each person.
        will_do = wrapper is not None and not wrapper.is_nested and self.allows_fast
        if not will_do or self.as_made.difference(context, signature) is not None:
            signature = composition.prepare(context)
        is_fast = self.is_fast(context, signature)
        wrapper = composition.pytorch_form(context)
        wrapper.load_weights(context)
        return wrapper, is_fast


class FastLearning(LearningPath):
    """The engine on PsyNeuLink's parameters, with derivatives of its own.

    Args:
        person: in the agent's graph.
        call: to ``learn()``.
        context: the execution context.
    """

    session: TrialSession

    def __init__(self, person: PersonInGraph, call: Call, context: Any) -> None:
        super().__init__(call.wrapper, call.session)
        self.person = person
        self.fast = FastPath(person, call.wrapper, context, people=self.session.people)
        self.retrievals = Retrievals(person.graph, context)

    def execute(self, which: range, inputs: dict[Any, Tensor], before: Mapping[Any, Tensor]) -> AgentTrace:
        """As of ``LearningPath``, like all that follow."""
        interaction, shown = self.session.plan.interaction, {}
        with self.retrievals.of(which.start):
            if interaction is None:
                engine = self.fast.run(inputs, before, self.session.choices)
            else:
                engine = self.fast.run_episode(interaction, before)
        if interaction is not None:
            shown = inputs_of_episodes(self.person.graph, interaction, slice(which.start, which.stop))
        if engine.choosing is not None and engine.choosing.last:
            shown |= self.person.inputs(np.stack(engine.choosing.last)[:, 0].T)
        for node, values in shown.items():  # PsyNeuLink looks for them there
            inputs[node][...] = torch.from_numpy(values)
        return AgentTrace(self.fast, engine, inputs, before)

    def loss(self) -> Tensor:
        """With its derivatives, which are in the session's ``slopes``."""
        part = _joined([engine.record(retrieved=self.session.keeps_states) for engine in self._engines()])
        loss = self.session.loss_and_slopes(self.wrapper.sequences, part)
        return torch.tensor([loss], dtype=torch.float64)

    def backward(self, loss: Tensor) -> None:
        """From the derivatives of the loss."""
        assert self.session.slopes is not None
        self.fast.backward(self._engines(), self.session.slopes, self.session.unroll_steps)

    def not_finite(self) -> list[str]:
        """Sought where there are any."""
        return [] if self.fast.is_finite else super().not_finite()

    def _engines(self) -> list[EngineTrace]:
        """What happened in the minibatch, round by round."""
        return [each.engine for each in self.wrapper.trace.rounds]


class GeneralLearning(LearningPath):
    """PsyNeuLink's own execution: all steps of trials at once, or step by step where choices matter for what comes
    next.

    Args:
        person, call, context: as of ``FastLearning``.

    Raises:
        NotTrainable: other compositions are nested in the agent, and there are people.
    """

    session: TrialSession

    def __init__(self, person: PersonInGraph, call: Call, context: Any) -> None:
        super().__init__(call.wrapper, call.session)
        self.composition: Any = person.graph.composition
        turns, people = None, self.session.people
        if people is not None:
            if call.wrapper.nested:
                name = self.composition.name
                raise NotTrainable(f"'{name}' holds other compositions: it cannot be trained with people=...")
            turns = Turns(person, call.wrapper, people, context)
        self.in_steps = InSteps(person, call.wrapper, turns, self.session.unroll_steps)
        self.retrievals = Retrievals(person.graph, context)
        self._retrieved: list[dict[str, np.ndarray]] = []  # of a minibatch, round by round
        self.further_memories = len(memories(self.composition)) > person.graph.has_memory

    def execute(self, which: range, inputs: dict[Any, Tensor], before: Mapping[Any, Tensor]) -> Trace:
        """As of ``LearningPath``."""
        with self.retrievals.of(which.start):
            trace = self._execute(which, inputs, before)
            if self.session.keeps_states:
                self._retrieved.append(self.retrievals.of_trials(trace.trajectory))
        return trace

    def loss(self) -> Tensor:
        """As of ``LearningPath``."""
        loss = super().loss()
        if self.session.keeps_states:
            self.session.add_retrieved(_joined(self._retrieved))
            self._retrieved = []
        return loss

    def _execute(self, which: range, inputs: dict[Any, Tensor], before: Mapping[Any, Tensor]) -> Trace:
        session = self.session
        if session.plan.interaction is not None:
            return self.in_steps.episode(session.plan.interaction, inputs, before)
        lengths = session.lengths(which)
        if lengths is not None and len(set(lengths)) > 1 and self.further_memories:
            raise NotTrainable(
                f"'{self.composition.name}' has further episodic memories, which may store at each step, also "
                f"beyond the end of a trial: trials side by side must have equally many steps; got lengths "
                f"{lengths.tolist()}. Give trial k of all environments the same length, or train in one "
                "environment."
            )
        if session.choices is not None:
            return self.in_steps.trials(session.choices, inputs, before)
        return super().execute(which, inputs, before)


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of several rounds as those of one: their rows in this order."""
    return parts[0] if len(parts) == 1 else {n: np.concatenate([part[n] for part in parts]) for n in parts[0]}
