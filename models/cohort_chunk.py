"""Some agents of a cohort as arrays: weights, memories and optimiser side by side, and updates of all at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from .bank import Bank, RingMemory
from .choices import ChoicesOfTrials
from .cohort_rounds import Round
from .config import ModelConfig
from .engine import Gradients, Trace, Weights, backward_of_update, run
from .losses import LossSettings, Outcome, is_finite, losses_and_slopes, not_finite
from .match import Retrieval
from .optimizers import (
    CAN_FUSE,
    IN_TORCH,
    OptimizerName,
    Steps,
    check_same_optimizer,
    make_optimizer,
    optimizer_of,
)
from .people import People
from .plans import Plan
from .records import Record, TrialRecord, build_record
from .weights import weight_shapes

CLIPPED = 1e-6
"""What PyTorch's clipping adds to the norm by which it divides."""


class Happened:
    """What happens on the trials of some agents.

    Args:
        plans: of each.
        config: of all.
        record: what is kept of it.
        first_agent: the number of the first one.
        number: the record's, as of ``Bank.new_record``.
    """

    def __init__(
        self, plans: Sequence[Plan], config: ModelConfig, record: Record, first_agent: int, number: int
    ) -> None:
        self.number = number
        self.plans, self.config, self.record, self.first_agent = plans, config, record, first_agent
        self.people = People([plan.people for plan in plans], config)
        self.choices = ChoicesOfTrials((len(plans), plans[0].environments))
        self.parts: list[dict[str, np.ndarray]] = []
        """One a round, arrays (P, M, T, ...)."""
        self.losses: list[np.ndarray] = []
        """One a round, (P, M, 2)."""

    def keep(self, trace: Trace, done: Outcome) -> None:
        """Keep one round."""
        part = {"policy": trace.policy, "value": trace.value, "action": done.action, "reward": done.reward}
        if self.record == "all":
            gates = trace.gates[..., :4, :]
            part |= {"hidden": trace.hidden, "cell": trace.cell, "memory": trace.memory, "gates": gates}
            part |= trace.retrieved
        self.parts.append(part)

    def records(self, learned: bool) -> list[TrialRecord]:
        """One an agent, of n trials in the order of its plan."""
        return [
            build_record(
                self.config,
                plan,
                [{name: array[p] for name, array in part.items()} for part in self.parts],
                [losses[p] for losses in self.losses] if learned else None,
            )
            for p, plan in enumerate(self.plans)
        ]


class Chunk:
    """Some agents of a cohort, whose weights lie side by side.

    Args:
        config: of all.
        weights: of each.
    """

    def __init__(self, config: ModelConfig, weights: Sequence[dict[str, np.ndarray]]) -> None:
        self.config, self.agents, self.environments = config, len(weights), 1
        self.parameters = {
            name: torch.from_numpy(np.ascontiguousarray([w[name] for w in weights])).requires_grad_()
            for name in weight_shapes(config)
        }
        self.arrays = {name: parameter.detach().numpy() for name, parameter in self.parameters.items()}
        """The same numbers, (P, ...)."""
        self.updates = {name: np.zeros(self.agents) for name in self.parameters}
        """The optimiser's steps, by weight: (P,), of each agent."""
        self.bank = Bank((config.key_size, config.hidden_size), max(config.memory_capacity, 1), self.agents)
        self._choose_optimizer("adam")

    # ---- memories: ring p · E + e is that of agent p in environment e

    def ring(self, agent: int, environment: int) -> int:
        """Which ring of the bank is an agent's in an environment."""
        return agent * self.environments + environment

    def open(self, environments: int) -> None:
        """See that each agent has so many environments."""
        old = self.environments
        if environments > old:
            kept = [self.bank.entries(ring) for ring in range(len(self.bank))]
            self.environments = environments
            self.bank.open(self.agents * environments)
            self.bank.clear()
            for ring, entries in enumerate(kept):
                self.bank.set_entries(entries, self.ring(*divmod(ring, old)))

    def _memory(self, people: People, follows: bool) -> RingMemory | None:
        config = self.config
        if not config.memory_capacity:
            return None
        retrieval = Retrieval(config.kernel, config.retrieval, config.sharpness, config.ties)
        return RingMemory(
            self.bank,
            people.retrieval(retrieval),
            config.key_columns,
            agents=self.agents,
            key_scale=people.key_scale,
            repeated=config.repeated_key,
            follows=follows,
        )

    @contextmanager
    def whole_or_nothing(self) -> Iterator[None]:
        """After an error or an interruption, the memories are as they were before."""
        self.bank.begin_update()
        done = False
        try:
            yield
            done = True
        finally:
            self.bank.end_update(undo=not done)

    # ---- updates

    def update(
        self,
        rounds: Sequence[Round],
        happened: Happened,
        settings: LossSettings | None,
        max_gradient_norm: float | None = None,
    ) -> None:
        """Rounds of every agent in each of its environments, and one update from all of them.

        Args:
            rounds: one after the other.
            happened: takes what happens.
            settings: of the loss; None: there is no update.
            max_gradient_norm: to which the gradients of each agent are scaled down.
        """
        weights = Weights.of(self.arrays)
        self.open(rounds[0].h0.shape[1])
        memory = self._memory(happened.people, follows=settings is not None and settings.through_memory)
        traces = []
        for each in rounds:
            with self.bank.recording(happened.number, each.first):
                traces.append(self._run(weights, each, memory, happened))
        done = [each.outcome(trace.policy) for each, trace in zip(rounds, traces, strict=True)]
        if settings is not None:
            trials, losses, slopes = sum(own.action.shape[1] for own in done), [], []
            for trace, own in zip(traces, done, strict=True):
                actor, critic, of_trace = losses_and_slopes(
                    trace.policy, trace.value, own, settings, trace.hidden, trace.cell
                )
                losses.append(np.stack([actor, critic], -1))
                slopes.append(list(vars(of_trace / trials if trials > 1 else of_trace).values()))
            found = backward_of_update(traces, slopes, memory, settings.unroll_steps)
            self._check(found, np.concatenate(losses, 1), happened, settings)
            self._update(found, max_gradient_norm)
            happened.losses += losses
        for trace, own in zip(traces, done, strict=True):
            happened.keep(trace, own)

    @staticmethod
    def _run(weights: Weights, each: Round, memory: RingMemory | None, happened: Happened) -> Trace:
        people = happened.people
        source, choices = each.begin(memory is not None, happened.choices)
        choosing = people.choosing(choices)
        return run(weights, source, memory, each.h0, each.c0, drive=people.drive, choosing=choosing)

    def _check(self, found: Gradients, losses: np.ndarray, happened: Happened, settings: LossSettings) -> None:
        """See that the updates of all agents are finite."""
        named = found.by_weight()
        if np.isfinite(losses).all() and all(map(is_finite, named.values())):
            return
        plan, first = happened.plans[0], sum(part["action"].shape[1] for part in happened.parts)
        together = range(first, first + losses.shape[1])
        for p in range(self.agents):
            wrong = [name for name, g in named.items() if not is_finite(g[p])]
            if wrong or not np.isfinite(losses[p]).all():
                of = f" of agent {happened.first_agent + p}"
                raise not_finite(losses[p], wrong, together, plan.environments, settings, of)

    def _update(self, found: Gradients, max_gradient_norm: float | None) -> None:
        by_weight = found.by_weight()
        if "bias" in by_weight:
            by_weight["input_bias"] = by_weight["hidden_bias"] = by_weight.pop("bias")
        if max_gradient_norm is not None:
            by_weight = _clipped(by_weight, max_gradient_norm)
        for name, parameter in self.parameters.items():
            gradient = by_weight.get(name)
            parameter.grad = None if gradient is None else torch.from_numpy(gradient)
            self.updates[name] += gradient is not None
        self._steps.step()

    # ---- the optimiser

    @property
    def trained(self) -> OptimizerName | None:
        """The optimiser with which agents have been trained; None: none of them has."""
        return self._name if any(updates.any() for updates in self.updates.values()) else None

    def _choose_optimizer(self, name: OptimizerName) -> None:
        """Begin anew with an optimiser."""
        self._name: OptimizerName = name
        fused = {"fused": True} if CAN_FUSE and name == "adam" else {}
        self._optimizer = make_optimizer(name, list(self.parameters.values()), **fused)

    def state(self, place: int) -> dict[str, np.ndarray]:
        """An agent's state of the optimiser, as a model gives it."""
        found = {}
        for name, parameter in self.parameters.items():
            updates = self.updates[name][place]
            if updates:
                own = self._optimizer.state[parameter]
                found[f"step.{name}"] = np.full(len(parameter[place]), updates)
                for part, in_torch in IN_TORCH[self._name].items():
                    found[f"{part}.{name}"] = own[in_torch][place].numpy().copy()
        return found

    def set_state(self, place: int, state: dict[str, np.ndarray]) -> None:
        """Give an agent its state; that of weights which it does not name is that before training.

        Raises:
            ValueError: other agents have been trained with another optimiser.
        """
        for updates in self.updates.values():
            updates[place] = 0
        kind = optimizer_of(state) or self._name
        check_same_optimizer(self.trained, kind)
        if kind != self._name:
            self._choose_optimizer(kind)
        for name, parameter in self.parameters.items():
            self.updates[name][place] = updates = float(np.max(state.get(f"step.{name}", 0.0)))
            own = self._optimizer.state[parameter]
            own.setdefault("step", torch.tensor(0.0, dtype=torch.float32))
            for part, in_torch in IN_TORCH[kind].items():
                values = state[f"{part}.{name}"] if updates else np.zeros(parameter.shape[1:])
                room = own.setdefault(in_torch, torch.zeros_like(parameter, requires_grad=False))
                room[place] = torch.from_numpy(np.asarray(values, dtype=float))

    def begin_training(self, optimizer: OptimizerName, rate: float) -> None:
        """Prepare the optimiser, which counts the updates of all agents as one number.

        Raises:
            ValueError: agents have been trained with another, or some of them further than others.
        """
        check_same_optimizer(self.trained, optimizer)
        if optimizer != self._name:
            self._choose_optimizer(optimizer)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._steps = Steps(self._optimizer)
        for name, parameter in self.parameters.items():
            counts = sorted({int(n) for n in self.updates[name]})
            if len(counts) > 1:
                raise ValueError(
                    f"Cohort: agents that train together must have had equally many updates; those of {name} are "
                    f"{counts}. Make cohorts of agents that are equally far."
                )
            if parameter in self._optimizer.state:
                self._optimizer.state[parameter]["step"].fill_(counts[0])


def _clipped(gradients: dict[str, np.ndarray], most: float) -> dict[str, np.ndarray]:
    """Gradients (P, ...) of each agent, those of all weights together scaled down to a norm."""
    squares = sum((g * g).reshape(len(g), -1).sum(1) for g in gradients.values())
    factor = np.minimum(most / (np.sqrt(squares) + CLIPPED), 1.0)
    return {name: g * factor.reshape(-1, *[1] * (g.ndim - 1)) for name, g in gradients.items()}
