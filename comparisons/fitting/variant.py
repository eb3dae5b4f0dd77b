"""Variants of the model that explain choices in different ways, and baselines that know nothing of memory.

Each is a name, a sentence, and the parameters that it estimates; ``variant.objective(agent, participants)`` is
what an estimator takes, ``variant.simulate(...)`` gives people who choose as the variant says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .agent import TrainedAgent
from .baselines import BiasOnly, EvidenceOnly
from .designs import Design
from .likelihood import Likelihood
from .objective import Objective
from .observation import FreeResponse, Observation
from .parameters import ParameterSpace
from .simulation import Policies, policies_from, simulate_people
from .table.data import Participant


@dataclass(frozen=True)
class Variant:
    """A way in which choices may come about."""

    name: str
    meaning: str
    """In a sentence."""
    space: ParameterSpace
    key: Literal["agent", "input", "context"] = "agent"
    """What the key is: the agent's own, the whole input, or the context alone."""
    memory: bool = True
    """Whether the memory is read; False: m_t = 0, which is a plain LSTM of the same weights."""
    baseline: Literal["", "bias", "evidence"] = ""
    """A baseline without a network, if it is one."""

    def agent(self, agent: TrainedAgent) -> TrainedAgent:
        """The agent with this variant's key. ValueError if it does not say which columns show the context."""
        if self.key == "agent":
            return agent
        if self.key == "context" and agent.context_columns is None:
            raise ValueError(
                f"{self.name}: say which columns show the context, TrainedAgent(context_columns=...)."
            )
        key = None if self.key == "input" else agent.context_columns
        return replace(agent, config=replace(agent.config, key=key))

    def objective(
        self, agent: TrainedAgent, participants: Sequence[Participant], observation: Observation | None = None
    ) -> Objective:
        """What is maximised. ValueError if the variant, the agent, the people and the observation do not fit."""
        if self.baseline:
            if isinstance(observation, FreeResponse):
                raise ValueError(f"{self.name}: baselines are of choices at steps; they have no response times.")
            kind = BiasOnly if self.baseline == "bias" else EvidenceOnly
            return kind(participants, self.space, agent.config.n_actions, agent.context_columns)
        seen = participants if self.memory else [without_memory(p) for p in participants]
        return Likelihood(self.agent(agent), seen, self.space, observation)

    def policies(self, agent: TrainedAgent) -> Policies:
        """What people of this variant choose from, for ``simulate_people``."""
        return policies_from(lambda people, space: replace(self, space=space).objective(agent, people))

    def simulate(
        self,
        agent: TrainedAgent,
        design: Design,
        z: np.ndarray,
        seed: int,
        *,
        observation: Observation | None = None,
        ids: Sequence[str] | None = None,
    ) -> list[Participant]:
        """People of this variant; see ``simulate_people``."""
        return simulate_people(
            agent, design, self.space, z, seed, observation=observation, policies=self.policies(agent), ids=ids
        )


def without_memory(participant: Participant) -> Participant:
    """The same, on trials at which nothing is retrieved."""
    blocks = [replace(block, trials=block.trials.lesioned(retrieve=False)) for block in participant.blocks]
    return Participant(participant.id, tuple(blocks))


RECOMMENDED = ("inverse_temperature", "gate_bias", "forgetting", "perseveration")
"""Parameters that can be estimated together from a design with varied lags."""

OF_MEMORY = ("gate_bias", "sharpness", "forgetting", "encoding_probability", "context_weight")


def variants(*free: str) -> dict[str, Variant]:
    """The ready-made variants, by name.

    Args:
        free: parameters of the full model; by default ``RECOMMENDED``. The others leave out what they deny.
    """
    free = free or RECOMMENDED
    choice = (name for name in free if name not in OF_MEMORY)
    stay = tuple(name for name in free if name in ("perseveration", "lapse"))

    def but(denied: str) -> ParameterSpace:
        return ParameterSpace.of(*(name for name in free if name != denied))

    rule = "The evidence of the trial so far, summed by a rule, without a network."
    bias = ParameterSpace.of("response_bias", *stay)
    by_evidence = ParameterSpace.of("response_bias", "evidence_weight", *stay)
    each = (
        Variant("full", "The agent with all parameters.", ParameterSpace.of(*free)),
        Variant("no forgetting", "All entries count alike, however old.", but("forgetting")),
        Variant("no memory", "Nothing is retrieved: a plain LSTM.", ParameterSpace.of(*choice), memory=False),
        Variant("whole-input key", "Entries are found by all that is seen.", but("context_weight"), key="input"),
        Variant("context key", "Entries are found by the context alone.", but("context_weight"), key="context"),
        Variant("bias only", "A leaning, whatever is shown.", bias, baseline="bias"),
        Variant("evidence only", rule, by_evidence, baseline="evidence"),
    )
    return {variant.name: variant for variant in each}


def distinct(candidates: Sequence[Variant], agent: TrainedAgent) -> list[Variant]:
    """The variants without those that are, for this agent, an earlier one under another name.

    Such as ``context key`` beside ``full``, where the agent's own key is the context: no choices tell them apart.
    """
    kept: list[Variant] = []
    seen: list[tuple[object, ...]] = []
    for variant in candidates:
        key = None if variant.baseline else variant.agent(agent).config.key_columns
        what = (variant.space, variant.memory, variant.baseline, key)
        if what not in seen:
            kept.append(variant)
            seen.append(what)
    return kept
