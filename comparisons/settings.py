"""What a run is made of: its settings, and the blocks of trials that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ..models import LossSettings, ModelConfig
from ..models.config import Kernel, RepeatedKey, Retrieval, Ties
from ..models.plans import INITIAL_STATE_SCALE
from ..tasks import ContextualChoice, Trials

TRAINING, FRESH = 0, 1
"""Two families of blocks that never share a draw: those trained on, and those that only test."""


@dataclass(frozen=True)
class Block:
    """One block of trials with all that chance decides beforehand."""

    trials: Trials
    initial_states: tuple[np.ndarray, np.ndarray]
    """h0 and c0, each (n, H)."""
    seed: int
    """Of the choices."""


@dataclass(frozen=True)
class AgentSettings:
    """An agent and its learning, of any run; the defaults are those of the reference run of dnd-lstm."""

    hidden_size: int = 32
    """Units of the hidden and of the cell state."""
    memory_capacity: int = 100
    """Entries that the memory holds; 0: a plain LSTM."""
    kernel: Kernel = "l2"
    """Similarity of query and key."""
    retrieval: Retrieval = "nearest"
    """The value of the nearest entry, or the similarity-weighted average of all."""
    sharpness: float = 1.0
    """Inverse temperature of the weights when retrieval is the average."""
    ties: Ties = "oldest"
    """Which of equally similar entries is retrieved."""
    repeated_key: RepeatedKey = "append"
    """What encoding a key that is stored already does."""
    learning_rate: float = 5e-4
    """Of the optimiser; at the beginning, if it falls."""
    gamma: float = 0.0
    """Discount of later rewards, 0 to 1."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus of the actor-critic loss; at the beginning, if it falls."""
    value_weight: float = 1.0
    """Weight of the critic's loss."""

    def learning(self) -> dict[str, Any]:
        """Arguments of ``train`` and ``train_episodes``."""
        names = ("learning_rate", "gamma", "entropy_weight", "value_weight")
        return {name: getattr(self, name) for name in names}

    def config(
        self,
        task: Any,
        key: tuple[int, int] | None,
        memory: bool = True,
        reinstatement: Literal["gate", "input"] = "gate",
    ) -> ModelConfig:
        """The configuration of an agent for a task.

        Args:
            task: gives the sizes of input and policy.
            key: columns of the input that are the key; None: all.
            memory: whether it has one.
            reinstatement: how what is retrieved gets in.
        """
        return ModelConfig(
            input_size=task.input_size,
            hidden_size=self.hidden_size,
            n_actions=task.n_actions,
            memory_capacity=self.memory_capacity if memory else 0,
            kernel=self.kernel,
            key=key,
            retrieval=self.retrieval,
            sharpness=self.sharpness,
            ties=self.ties,
            repeated_key=self.repeated_key,
            reinstatement=reinstatement,
        )


@dataclass(frozen=True)
class RunSettings(AgentSettings):
    """A run on blocks of contextual choice: the task, the agent and its training, one update a trial with Adam."""

    blocks: int = 20
    """Blocks to train; the memory is cleared before each. More than a finished run has: it goes on."""
    contexts: int = 50
    """Contexts in a block, each shown twice: a block has twice as many trials."""
    obs_dim: int = 32
    """Columns of the observation, and again of the context."""
    trial_length: int = 10
    """Steps in a trial."""
    t_noise_off: int = 5
    """First step with evidence; before it the observation is noise."""
    key: Literal["input", "context"] = "input"
    """What is the key: the whole input (dnd-lstm), or the context part alone (Ritter et al., 2018)."""
    loss: Literal["actor_critic", "cross_entropy"] = "actor_critic"
    """What is minimised."""
    seed: int = 0
    """Of everything: the initial weights, the trials, the initial states and the choices."""
    agents: int = 1
    """Agents that are trained side by side. Agent p (from 0) is that of a run of its own with the seed seed + p:
    its weights, trials, initial states and choices are all its own."""
    environments: int = 1
    """Environments of each agent: copies of the task with trials and an episodic memory of their own. Trial k of
    all of them makes one update, from the mean of their losses."""

    def __post_init__(self) -> None:
        for name, least in (("blocks", 1), ("contexts", 1), ("seed", 0), ("agents", 1), ("environments", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name} must be a whole number ≥ {least}; got {value!r}.")
        if self.key not in ("input", "context"):
            raise ValueError(f"key must be 'input' or 'context'; got {self.key!r}.")
        if self.loss not in ("actor_critic", "cross_entropy"):
            raise ValueError(f"loss must be 'actor_critic' or 'cross_entropy'; got {self.loss!r}.")
        if not np.isfinite(self.learning_rate) or self.learning_rate < 0:
            raise ValueError(f"learning_rate must be a finite number ≥ 0; got {self.learning_rate!r}.")
        self.model_config()  # these check the rest
        LossSettings(self.loss, self.gamma, self.entropy_weight, self.value_weight)

    def learning(self) -> dict[str, Any]:
        """Arguments of ``train``."""
        return super().learning() | {"loss": self.loss}

    def task(self) -> ContextualChoice:
        """The task."""
        return ContextualChoice(self.obs_dim, self.trial_length, self.t_noise_off)

    def model_config(self) -> ModelConfig:
        """The agent's configuration."""
        task = self.task()
        return self.config(task, task.context_columns if self.key == "context" else None)

    @property
    def n_trials(self) -> int:
        """Trials of the run, in each environment of each agent."""
        return self.blocks * self.contexts * 2

    def agent(self, agent: int) -> RunSettings:
        """The settings of a run of one agent that is the same as agent number ``agent`` of this run."""
        return replace(self, seed=self.seed + agent, agents=1)

    def block(self, index: int, family: int = TRAINING, environment: int = 0) -> Block:
        """Block number ``index`` of the first agent, always the same for the same settings.

        That of environment 0 is the same however many environments there are.
        """
        place = (family, index, environment) if environment else (family, index)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=place))
        trials = self.task().sample(self.contexts, rng)
        size = (len(trials), self.hidden_size)
        h0, c0 = (INITIAL_STATE_SCALE * rng.standard_normal(size) for _ in range(2))
        return Block(trials, (h0, c0), int(rng.integers(2**31)))

    def blocks_of_all(self, index: int, family: int = TRAINING) -> list[list[Block]]:
        """Block number ``index`` of each agent (outer list) in each of its environments (inner lists)."""
        return [
            [self.agent(agent).block(index, family, e) for e in range(self.environments)]
            for agent in range(self.agents)
        ]

    def encounters(self) -> np.ndarray:
        """(blocks, n): which encounter each trial of each block is."""
        return np.array([self.block(index).trials.encounter for index in range(self.blocks)])


@dataclass(frozen=True, kw_only=True)
class LoopSettings(AgentSettings):
    """A training in parallel worlds (A2C: one update from an episode of all of them)."""

    hidden_size: int = 64
    kernel: Kernel = "cosine"
    ties: Ties = "newest"
    learning_rate: float = 3e-3
    gamma: float = 0.9
    entropy_weight: float = 0.05
    value_weight: float = 0.5
    updates: int
    """Updates; the last call of ``learn()`` is trained to its end."""
    worlds: int = 64
    """Parallel worlds, M."""
    optimizer: Literal["adam", "rmsprop"] = "adam"
    """Of the weights."""
    learning_rate_end: float = 0.1
    """What share of it is left at the end; in between it falls exponentially."""
    entropy_end: float = 0.02
    """What share of the entropy bonus is left at the end; in between it falls exponentially."""
    epochs_at_once: int = 1
    """Epochs that are trained in one call of ``learn()``: short ones share what a call costs."""
    unroll_steps: int | None = None
    """Truncated backpropagation through time, in stretches of so many steps; None: whole episodes."""
    max_gradient_norm: float | None = None
    """Gradients of all weights together are scaled down to this norm, with the environment in the loop."""

    def share(self, update: int, end: float) -> float:
        """What is left of a quantity that falls to the share ``end`` by the last update."""
        return end ** min(update / self.updates, 1.0)

    def learning(self, update: int = 0) -> dict[str, Any]:
        """Arguments of ``train`` and ``train_episodes``, from an update on."""
        return super().learning() | {
            "optimizer": self.optimizer,
            "learning_rate": self.learning_rate * self.share(update, self.learning_rate_end),
            "entropy_weight": self.entropy_weight * self.share(update, self.entropy_end),
            "unroll_steps": self.unroll_steps,
        }
