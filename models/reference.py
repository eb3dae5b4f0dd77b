"""The plain-PyTorch reference of the episodic-memory LSTM: complete, in the order of the equations, unhurried.

Ritter et al. (2018), "Been There, Done That", in the form of dnd-lstm (Lu, 2019). With inputs x_t (D), gates f
(forget), i (input), o (output), r (reinstatement), cell state c_t and hidden state h_t (H):

    f_t, i_t, o_t, r_t = σ(W_x x_t + b_x + W_h h_{t-1} + b_h)
    ĉ_t = tanh(the same form)
    m_t = tanh(retrieve(key(x_t)))          zeros if nothing is stored, or retrieval is off
    c_t = f_t ∘ c_{t-1} + i_t ∘ ĉ_t + r_t ∘ m_t
    h_t = o_t ∘ tanh(c_t)
    π_t = softmax(W_π h_t + b_π),   v_t = W_v h_t + b_v
    encode (key(x_t), c_t), detached, after c_t, on the steps that the task says

With ``reinstatement="input"``, an agent to compare with, m_t is an input of the LSTM in place of being reinstated:

    f_t, i_t, o_t = σ(W_x x_t + b_x + W_h h_{t-1} + b_h + W_m m_t),   ĉ_t = tanh(the same form),   r_t = 0

What may differ between people who share the network (``Person``) has its place in the same equations: ``key``
scaled by s_w, retrieval with sharpness β_m and forgetting λ, the drive of r_t with b_r, and choices with

    π_t = softmax(β (W_π h_t + b_π) + κ · [a = last choice]),   p_t = (1 − ε) π_t + ε / A

For the trained agent itself (``Person()``) these are the equations above, and p_t = π_t.

It imports nothing of PsyNeuLink and shares no computation with the composition: each checks the other.

Differences from dnd-lstm: its L2 and L1 kernels add 1e-6 to each difference (a default of
``torch.nn.functional.pairwise_distance``), which here is left out; its log-probabilities are cut off at the
precision of float32. With a memory capacity of 0, r_t = 0 and this is a plain LSTM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..tasks.environment import Worlds
from ..tasks.trials import Trials
from .config import ModelConfig
from .losses import LossSettings, TrialTensors, not_finite, users_loss
from .optimizers import IN_TORCH, OptimizerName, check_same_optimizer, kind_in_torch, make_optimizer, optimizer_of
from .person import Person
from .plans import Plan, plan_run
from .plans_in_loop import plan_run_episodes
from .records import RETRIEVED, STATES, EpisodeRecord, Record, TrialRecord, build_record
from .weights import check_memory, check_optimizer_state, check_weights, initial_weights

COSINE_EPS = 1e-8
"""Least norm in the cosine: a key of zeros has similarity 0 to everything (as torch's cosine_similarity)."""
NO_CHOICE = -1
"""In place of an action: no choice was made at this step."""
NOTHING_FOUND = (-1, -1, 0.0)
"""In place of an entry, the trial that has stored it, and its weight: nothing was retrieved."""
ABOUT_TRIAL = ("target", "trial", "environment", "inputs")
"""What a loss may ask of a trial, and a record does not hold."""


class ReferenceMemory:
    """Keys and values in arrays of the full size, used as a ring: storing costs the same however many there are.

    Args:
        config: capacity, sizes, kernel, and how to retrieve.
    """

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.keys = torch.zeros(config.memory_capacity, config.key_size)
        self.values = torch.zeros(config.memory_capacity, config.hidden_size)
        self.n_stored = 0  # ever since the last clearing
        self.owners: list[tuple[Past | None, int]] = [(None, -1)] * config.memory_capacity
        """Which trial has stored the entry in each slot: its row in a record, of which the ``Past`` is."""
        self.trial: tuple[Past | None, int] = (None, -1)
        """The present one."""
        self.latest = NOTHING_FOUND
        """What ``retrieve`` has found last."""
        self.undo: list[tuple[int, Tensor, Tensor, int]] = []
        """What encoding has taken the place of since the last update: slot, key, value, ``n_stored``."""

    def __len__(self) -> int:
        return min(self.n_stored, self.config.memory_capacity)

    def clear(self) -> None:
        """Forget all entries."""
        self.n_stored = 0

    def to(self, like: Tensor) -> None:
        """Take the precision and the device of a tensor."""
        self.keys, self.values = self.keys.to(like), self.values.to(like)

    def slots_by_age(self) -> Tensor:
        """Where the entries lie, oldest first: (n,)."""
        capacity = max(self.config.memory_capacity, 1)
        return torch.arange(self.n_stored - len(self), self.n_stored) % capacity

    def encode(self, key: Tensor, value: Tensor) -> None:
        """Store one entry, key (K,) and value (H,); a full memory drops its oldest."""
        if self.config.memory_capacity == 0:
            return
        if self.config.repeated_key == "overwrite":
            slots = self.slots_by_age()
            equal = slots[(self.keys[slots] == key).all(-1)]
            if len(equal):
                self._put(int(equal[-1]), key, value)
                return
        self._put(self.n_stored % self.config.memory_capacity, key, value)
        self.n_stored += 1

    def _put(self, slot: int, key: Tensor, value: Tensor) -> None:
        self.undo.append((slot, self.keys[slot].clone(), self.values[slot].detach().clone(), self.n_stored))
        if value.requires_grad:  # what was read before has gradients, too
            self.values = self.values.clone()
        self.keys[slot], self.values[slot], self.owners[slot] = key, value, self.trial

    def end_update(self) -> None:
        """What has been stored belongs to an update that was made, and is a constant from now on."""
        self.values = self.values.detach()
        self.undo.clear()

    def go_back(self) -> None:
        """Hold what was there at the last update."""
        self.values = self.values.detach()
        for slot, key, value, n_stored in reversed(self.undo):
            self.keys[slot], self.values[slot], self.n_stored = key, value, n_stored
        self.undo.clear()

    def similarity(self, query: Tensor) -> Tensor:
        """Similarity of the query (K,) to each key, oldest first: (n,)."""
        keys = self.keys[self.slots_by_age()]
        if self.config.kernel == "l2":
            return -(query - keys).square().sum(-1).sqrt()
        if self.config.kernel == "l1":
            return -(query - keys).abs().sum(-1)
        if self.config.kernel != "cosine":
            raise ValueError(
                f"The reference knows no kernel {self.config.kernel!r}: add it to ReferenceMemory.similarity."
            )
        norms = (
            query.square().sum().sqrt().clamp_min(COSINE_EPS),
            keys.square().sum(-1).sqrt().clamp_min(COSINE_EPS),
        )
        return (query * keys).sum(-1) / (norms[0] * norms[1])

    def retrieve(self, query: Tensor, sharpness: float | None = None, forgetting: float = 0.0) -> Tensor:
        """Value (H,) for a query (K,); zeros if the memory is empty. For an average, the person's settings."""
        self.latest = NOTHING_FOUND
        if len(self) == 0:
            return self.values.new_zeros(self.config.hidden_size)
        similarity, values = self.similarity(query), self.values[self.slots_by_age()]
        if self.config.retrieval == "average":
            sharpness = self.config.sharpness if sharpness is None else sharpness
            weight = sharpness * similarity
            if forgetting:
                lag = torch.arange(len(self) - 1, -1, -1)  # entries stored later
                weight = weight - forgetting * lag.to(weight)
            weights = torch.softmax(weight, 0)
            largest = weights.detach().max()
            as_large = (weights >= (1 - 1e-9) * largest).int()  # the oldest of these, whatever rounding says
            self._found(int(torch.argmax(as_large)), float(largest))
            return weights @ values
        if self.config.ties == "oldest":
            entry = int(torch.argmax(similarity))  # argmax gives the first of equals
        else:
            entry = len(values) - 1 - int(torch.argmax(similarity.flip(0)))
        self._found(entry, 1.0)
        return values[entry]

    def _found(self, entry: int, weight: float) -> None:
        """Note which entry, oldest first, has the largest weight, and which trial of the present record is its."""
        past, trial = self.owners[int(self.slots_by_age()[entry])]
        self.latest = entry, trial if past is self.trial[0] else -1, weight


@dataclass
class Past:
    """What a person takes along from trial to trial within an epoch, besides the memory."""

    last_choice: int = NO_CHOICE
    encoded: dict[int, bool] = field(default_factory=dict)
    """By context: whether the latest episode that has stored there was encoded."""


class ReferenceEpisodicLSTM(nn.Module):
    """The reference agent: an LSTM with an episodic memory, an actor and a critic.

    It works in float32 unless ``.double()`` is called on it.

    Args:
        config: sizes and memory settings.
        seed: for the initial weights (orthogonal; biases zero); the composition draws the same from it.
    """

    def __init__(self, config: ModelConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.input_weight: nn.Parameter
        self.input_bias: nn.Parameter
        self.hidden_weight: nn.Parameter
        self.hidden_bias: nn.Parameter
        self.actor_weight: nn.Parameter
        self.actor_bias: nn.Parameter
        self.critic_weight: nn.Parameter
        self.critic_bias: nn.Parameter
        self.memory_weight: nn.Parameter  # only with reinstatement="input"
        for name, array in initial_weights(config, seed).items():
            self.register_parameter(name, nn.Parameter(torch.tensor(array, dtype=torch.float32)))
        self.episodic_memory = ReferenceMemory(config)
        """The entries of the environment that is run; those of further ones are in ``memories``."""
        self.memories = [self.episodic_memory]
        self.optimizer: torch.optim.Adam | torch.optim.RMSprop | None = None
        self.record: TrialRecord | None = None
        """What happened in the last training, also where it was interrupted."""
        self._through_memory = False  # whether what is stored is not detached
        self._person = self._acting = Person()  # who stands for the agent, and who makes the present choices

    # ---- the person

    @property
    def person(self) -> Person:
        """Who makes the choices where nothing is learned; by default the trained agent itself."""
        return self._person

    @person.setter
    def person(self, person: Person) -> None:
        person.check(self.config)
        self._person = self._acting = person

    # ---- weights and memory --------------------------------------------------------------------------

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of all weights, by the names and shapes of ``weight_shapes``."""
        return {name: p.detach().cpu().numpy().copy() for name, p in self.named_parameters()}

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Take these weights. Raises ValueError if a name, a shape or a value does not fit."""
        checked = check_weights(self.config, weights)
        cast = {name: torch.from_numpy(array).to(self.input_weight) for name, array in checked.items()}
        too_large = [name for name, tensor in cast.items() if not tensor.isfinite().all()]
        if too_large:
            raise ValueError(f"Weights: {too_large} hold values too large for float32; call .double() first.")
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(cast[name])

    @property
    def environments(self) -> int:
        """Environments that have a memory: at least 1, and as many as it has been trained in."""
        return len(self.memories)

    def _memory_of(self, environment: int) -> ReferenceMemory:
        while len(self.memories) <= environment:
            self.memories.append(ReferenceMemory(self.config))
        memory = self.memories[environment]
        memory.to(self.input_weight)
        return memory

    def memory(self, environment: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Copies of the stored keys (n, K) and values (n, H), oldest first, of one of its environments."""
        memory = self._memory_of(environment)
        slots = memory.slots_by_age()
        return memory.keys[slots].cpu().numpy().copy(), memory.values[slots].cpu().numpy().copy()

    def set_memory(self, keys: np.ndarray, values: np.ndarray, environment: int = 0) -> None:
        """Replace the memory by these entries, oldest first: keys (n, K), values (n, H)."""
        checked = check_memory(self.config, keys, values)
        memory = self._memory_of(environment)
        memory.to(self.input_weight)
        memory.n_stored = n = len(checked[0])
        memory.keys[:n], memory.values[:n] = (torch.from_numpy(array).to(memory.keys) for array in checked)
        memory.owners[:n] = [(None, -1)] * n

    def clear_memory(self) -> None:
        """Forget all entries, of all environments."""
        for memory in self.memories:
            memory.clear()

    # ---- the equations -------------------------------------------------------------------------------

    def step(
        self, x_t: Tensor, h: Tensor, c: Tensor, *, retrieve: bool, encode: bool, last_choice: int = NO_CHOICE
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step: x_t (D,), h_{t-1} (H,), c_{t-1} (H,) → p_t (A,), v_t (), h_t, c_t, m_t (H,), gates (4, H)."""
        size, person = self.config.hidden_size, self._acting
        key = x_t[self.config.key_columns]
        if person.context_weight != 0.5:
            key = self._weighted_key(key)
        retrieved = self.episodic_memory.retrieve(key, person.sharpness, person.forgetting) if retrieve else None
        m_t = torch.zeros_like(c) if retrieved is None else torch.tanh(retrieved)

        drive = self.input_weight @ x_t + self.input_bias + self.hidden_weight @ h + self.hidden_bias
        if self.config.reinstatement == "input":
            drive = drive + self.memory_weight @ m_t
        if person.gate_bias:
            drive = drive + drive.new_tensor([0.0, 0.0, 0.0, person.gate_bias, 0.0]).repeat_interleave(size)
        f_t, i_t, o_t, r_t = torch.sigmoid(drive[: 4 * size]).view(4, size)
        candidate = torch.tanh(drive[4 * size :])
        if not self.config.has_reinstatement_gate:
            r_t = torch.zeros_like(r_t)

        c_t = f_t * c + i_t * candidate + r_t * m_t
        h_t = o_t * torch.tanh(c_t)
        if encode:
            self.episodic_memory.encode(key.detach(), c_t if self._through_memory else c_t.detach())

        policy = self._choice_probabilities(self.actor_weight @ h_t + self.actor_bias, last_choice)
        value = (self.critic_weight @ h_t + self.critic_bias)[0]
        return policy, value, h_t, c_t, m_t, torch.stack([f_t, i_t, o_t, r_t])

    def _weighted_key(self, key: Tensor) -> Tensor:
        """s_w ∘ key: columns of the context times 2w, the others times 2 (1 − w)."""
        w, (start, stop) = self._acting.context_weight, cast(tuple[int, int], self._acting.context_columns)
        column = torch.arange(self.config.input_size)[self.config.key_columns]
        shows_context = (column >= start) & (column < stop)
        return torch.where(shows_context, 2 * w * key, 2 * (1 - w) * key)

    def _choice_probabilities(self, logits: Tensor, last_choice: int) -> Tensor:
        """p_t (A,) of the person; for the trained agent itself π_t, at the price of π_t alone."""
        person = self._acting
        if person.inverse_temperature != 1:
            logits = person.inverse_temperature * logits
        if person.perseveration and last_choice != NO_CHOICE:
            logits = logits + person.perseveration * (torch.arange(len(logits)) == last_choice).to(logits)
        policy = torch.softmax(logits, 0)
        return (1 - person.lapse) * policy + person.lapse / len(policy) if person.lapse else policy

    def run_trial(
        self,
        plan: Plan,
        n: int,
        past: Past,
        unroll: int | None = None,
    ) -> dict[str, Tensor]:
        """All steps of trial n of a plan, as tensors by the names of ``TrialRecord`` (without the n).

        ``past`` is that of its environment, and goes on. No gradient flows back from one stretch of ``unroll``
        steps into the one before.
        """
        like = self.input_weight
        trials = plan.trials
        inputs = torch.from_numpy(trials.inputs[n].copy()).to(like)
        h, c = torch.from_numpy(plan.h0[n]).to(like), torch.from_numpy(plan.c0[n]).to(like)
        steps: list[tuple[Tensor, ...]] = []
        length = trials.length if trials.lengths is None else int(trials.lengths[n])
        targets = trials.targets[n, :length]
        actions, rewards = np.full(length, NO_CHOICE), np.zeros(length)
        recalled = True
        if plan.encoded is not None:  # trials say then which context they show
            context = int(cast(np.ndarray, trials.context)[n])
            recalled = past.encoded.get(context, True)
            if trials.encode[n].any():
                past.encoded[context] = bool(plan.encoded[n])
        self.episodic_memory.trial = past, n
        for t in range(length):
            retrieve, encode = bool(trials.retrieve[n, t]) and recalled, bool(trials.encode[n, t])
            out = self.step(inputs[t], h, c, retrieve=retrieve, encode=encode, last_choice=past.last_choice)
            steps.append((*out, *self._retrieved(retrieve)))
            policy = out[0]
            h, c = self._state_after(t, out, unroll)
            if targets[t] == NO_CHOICE:  # no answer is asked for
                continue
            action = self._draw(policy, plan.luck[n, t]) if plan.actions is None else int(plan.actions[n, t])
            if action != NO_CHOICE:
                actions[t] = past.last_choice = action
                rewards[t] = action == targets[t] if trials.rewards is None else trials.rewards[n, t, action]
        place = {"trial": n, "environment": n % plan.environments}
        return self._trial(steps, actions, targets, rewards, inputs[:length], **place)

    @staticmethod
    def _draw(policy: Tensor, luck: float) -> int:
        """The first action whose place in the distribution function lies above a number from 0 to 1."""
        below = 0.0
        for action, p in enumerate(policy.tolist()[:-1]):
            below += p
            if luck < below:
                return action
        return len(policy) - 1

    def run_episode(
        self, plan: Plan, first: int, pasts: list[Past], unroll: int | None = None
    ) -> list[dict[str, Tensor]]:
        """The next episode of all worlds of a plan, in step with each other: for each what ``run_trial`` gives.

        They are rows first ... first + M − 1 of the plan; each world has an episodic memory and a past of its own.
        """
        like, interaction = self.input_weight, plan.interaction
        assert interaction is not None
        rows = range(first, first + plan.environments)
        states = [(torch.from_numpy(plan.h0[n]).to(like), torch.from_numpy(plan.c0[n]).to(like)) for n in rows]
        steps: list[list[tuple[Tensor, ...]]] = [[] for _ in rows]
        shown: list[Tensor] = []
        actions, rewards = (
            np.empty((len(rows), interaction.length), np.int64),
            np.empty((len(rows), interaction.length)),
        )
        interaction.begin(first)
        worlds, contexts = interaction.worlds, interaction.worlds.context.tolist()
        if first // plan.environments % interaction.epoch == 0:
            pasts[:] = [Past() for _ in rows]
        recalled = [past.encoded.get(context, True) for past, context in zip(pasts, contexts, strict=True)]
        for t in range(interaction.length):
            x = torch.from_numpy(interaction.inputs.copy()).to(like)
            shown.append(x)
            retrieve, encode = (worlds.retrieve & worlds.reads).tolist(), interaction.encode.tolist()
            for e, (h, c) in enumerate(states):
                self.episodic_memory, self._acting = self._memory_of(e), plan.people[e]
                switches = {"retrieve": retrieve[e] and recalled[e], "encode": encode[e]}
                self.episodic_memory.trial = pasts[e], first + e
                out = self.step(x[e], h, c, **switches, last_choice=pasts[e].last_choice)
                steps[e].append((*out, *self._retrieved(switches["retrieve"])))
                states[e] = self._state_after(t, steps[e][-1], unroll)
                if encode[e] and plan.encoded is not None:
                    pasts[e].encoded[contexts[e]] = bool(plan.encoded[rows[e]])
            taken = [self._draw(own[-1][0], luck) for own, luck in zip(steps, plan.luck[rows, t], strict=True)]
            actions[:, t] = taken if plan.actions is None else plan.actions[rows, t]
            asked = interaction.worlds.asks
            rewards[:, t] = interaction.take(actions[:, t])
            actions[~asked, t] = NO_CHOICE
            for e in np.flatnonzero(asked):
                pasts[e].last_choice = int(actions[e, t])
        self.episodic_memory, self._acting = self.memories[0], self.person
        of_world = zip(steps, actions, actions, rewards, torch.stack(shown, 1), strict=True)
        return [self._trial(*own, trial=first + e, environment=e) for e, own in enumerate(of_world)]

    @staticmethod
    def _state_after(t: int, out: tuple[Tensor, ...], unroll: int | None) -> tuple[Tensor, Tensor]:
        """h and c with which the next step begins, from what step t gave."""
        h, c = out[2:4]
        return (h.detach(), c.detach()) if unroll and (t + 1) % unroll == 0 else (h, c)

    def _retrieved(self, retrieve: bool) -> list[Tensor]:
        """Entry, trial and weight of what the present step has retrieved."""
        entry, trial, weight = self.episodic_memory.latest if retrieve else NOTHING_FOUND
        return [torch.tensor(entry), torch.tensor(trial), self.input_weight.new_tensor(weight)]

    def _trial(
        self,
        steps: list[tuple[Tensor, ...]],
        actions: np.ndarray,
        targets: np.ndarray,
        rewards: np.ndarray,
        inputs: Tensor,
        *,
        trial: int,
        environment: int,
    ) -> dict[str, Tensor]:
        """What ``step`` gave at each step, with actions, targets and rewards (T,) and inputs (T, D), by the names
        of a record and of ``TrialTensors``."""
        names = ("policy", "value", "hidden", "cell", "memory", "gates", *RETRIEVED)
        found = {name: torch.stack(parts) for name, parts in zip(names, zip(*steps, strict=True), strict=True)}
        found["action"], found["target"] = torch.from_numpy(actions), torch.from_numpy(targets)
        found["reward"] = torch.from_numpy(rewards).to(self.input_weight)
        found["trial"], found["environment"] = torch.tensor(trial), torch.tensor(environment)
        return found | {"inputs": inputs}

    # ---- passes over trials --------------------------------------------------------------------------

    def run_trials(
        self,
        trials: Trials,
        actions: np.ndarray | None = None,
        initial_states: tuple[np.ndarray, np.ndarray] | None = None,
        seed: int | None = None,
        encoded: np.ndarray | None = None,
    ) -> TrialRecord:
        """Run trials of one block without learning; the memory goes on from where it is, and stays as it is left.

        Args:
            trials: n trials of T steps.
            actions: (n, T) forced choices, -1 where none was made; without them they are drawn from the policy.
            initial_states: h0 (n, H) and c0 (n, H); without them drawn from 0.1 · N(0, 1).
            seed: for what is drawn.
            encoded: (n,) bool: whether the episode of each trial is encoded; without it, drawn with the person's
                ``encoding_probability``.

        Raises:
            ValueError: sizes or values do not fit the model.
        """
        plan = plan_run(self.config, self.person, trials, actions, initial_states, seed, encoded)
        self.episodic_memory.to(self.input_weight)
        parts: list[dict[str, np.ndarray]] = []
        past = Past()
        with torch.no_grad():
            for n in range(len(trials)):
                parts.append(self._part(self.run_trial(plan, n, past)))
        return build_record(self.config, plan, parts)

    def run_episodes(
        self,
        worlds: Worlds,
        episodes: int,
        actions: np.ndarray | None = None,
        seed: int | Sequence[int] | None = None,
    ) -> EpisodeRecord:
        """Run the next episodes of an epoch without learning, the environment in the loop; memories go on.

        Args:
            worlds: M worlds of a task, in an epoch (``worlds.begin_epoch()``).
            episodes: of each world.
            actions: (episodes · M, T) forced choices; without them they are drawn from the policy.
            seed: for what is drawn; with a person's ``encoding_probability`` < 1 also which episodes are encoded.

        Raises:
            ValueError: model and task do not fit each other, or the epoch has not so many episodes left.
        """
        plan = plan_run_episodes(self.config, self.person, worlds, episodes, actions, seed)
        assert plan.interaction is not None
        parts: list[dict[str, np.ndarray]] = []
        pasts: list[Past] = []
        with torch.no_grad():
            for first in range(0, len(plan.trials), plan.environments):
                parts += map(self._part, self.run_episode(plan, first, pasts))
        return cast(EpisodeRecord, build_record(self.config, plan, parts))

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
        """Run the trials of a plan, with one step of the optimiser after each; see ``eplstm.models.train``."""
        self.person.check_training("The reference")
        steps = self._optimizer(optimizer, learning_rate)
        parts, losses, gradients = [], [], [] if record_gradients else None
        pasts = [Past() for _ in range(plan.environments)]
        self.record, self._through_memory = None, loss.through_memory
        try:
            for update in range(-(-len(plan.trials) // plan.per_update)):
                steps.zero_grad()
                self._updated()
                together = range(len(plan.trials))[update * plan.per_update :][: plan.per_update]
                here, of_here, total = [], [], torch.zeros((), dtype=self.input_weight.dtype)
                for trial in self._trials_of_update(plan, together, pasts, loss.unroll_steps):
                    policy_loss, value_loss = self.loss(trial, loss)
                    total = total + (policy_loss + loss.value_weight * value_loss) / len(together)
                    here.append(self._part(trial, record))
                    of_here.append((policy_loss.item(), value_loss.item()))
                total.backward()
                self.episodic_memory = self.memories[0]
                wrong = [
                    k
                    for k, p in self.named_parameters()
                    if p.grad is not None and not p.grad.square().sum().isfinite()  # optimisers keep squares
                ]
                if wrong or not np.isfinite(of_here).all():
                    raise not_finite(of_here, wrong, together, plan.environments, loss)
                if max_gradient_norm is not None:
                    nn.utils.clip_grad_norm_(self.parameters(), max_gradient_norm)
                if gradients is not None:
                    gradients.append({k: self._gradient(p) for k, p in self.named_parameters()})
                steps.step()
                self._updated()
                parts += here
                losses.append(np.array(of_here, dtype=float))
                if after_trial is not None:
                    after_trial(update)
        finally:  # also after an interruption
            self._through_memory = False
            for memory in self.memories:
                memory.go_back()
            self.episodic_memory, self._acting = self.memories[0], self.person
            self.record = build_record(self.config, plan, parts, losses, gradients)
        return self.record

    def _updated(self) -> None:
        """What has been stored so far belongs to updates that were made."""
        for memory in self.memories:
            memory.end_update()

    def _trials_of_update(
        self, plan: Plan, together: range, pasts: list[Past], unroll: int | None
    ) -> Iterator[dict[str, Tensor]]:
        """The trials of one update: of each environment one, or those of a block."""
        if plan.interaction is not None:
            for first in together[:: plan.environments]:
                yield from self.run_episode(plan, first, pasts, unroll)
            return
        for n in together:
            e = n % plan.environments
            self.episodic_memory, self._acting = self._memory_of(e), plan.people[e]
            yield self.run_trial(plan, n, pasts[e], unroll)

    def loss(self, trial: dict[str, Tensor], settings: LossSettings) -> tuple[Tensor, Tensor]:
        """Actor's and critic's loss of one trial (Mnih et al., 2016, summed over steps as in dnd-lstm).

        R_t = reward_t + γ R_{t+1};  L_π = Σ_t −log π_t(a_t) (R_t − v_t, detached) − entropy bonus;
        L_v = Σ_t smooth-L1(v_t, R_t). The actor's sum, the entropy's and that of cross-entropy are over the steps
        at which an answer is asked for, returns and the critic's over all steps of the trial. Where a stretch of
        ``unroll_steps`` ends, v_{t+1} takes the place of R_{t+1}. Another loss than actor-critic comes as
        (loss, 0).
        """
        policy, value = trial["policy"], trial["value"]
        asked = torch.nonzero(trial["target"] != NO_CHOICE)[:, 0]
        returns, following = [], torch.zeros_like(trial["reward"][0])
        for t in reversed(range(len(value))):
            if settings.unroll_steps and t + 1 < len(value) and (t + 1) % settings.unroll_steps == 0:
                following = value[t + 1].detach()
            following = trial["reward"][t] + settings.gamma * following
            returns.insert(0, following)
        returns = torch.stack(returns)

        log_policy = torch.log(policy.clamp_min(torch.finfo(policy.dtype).tiny))
        if settings.kind == "cross_entropy":
            return -log_policy[asked, trial["target"][asked]].sum(), torch.zeros_like(value[0])
        if callable(settings.kind):
            given = {f.name: trial[f.name][None] for f in fields(TrialTensors) if f.name in trial}
            tensors = TrialTensors(**given, returns=returns[None])
            return users_loss(settings.kind, tensors), torch.zeros_like(value[0])
        advantage = (returns - value).detach()
        policy_loss = -(log_policy[asked, trial["action"][asked]] * advantage[asked]).sum()
        entropy = -(policy * log_policy)[asked].sum()
        value_loss = nn.functional.smooth_l1_loss(value, returns, reduction="sum")
        return policy_loss - settings.entropy_weight * entropy, value_loss

    # ---- bookkeeping ---------------------------------------------------------------------------------

    def _optimizer(self, name: OptimizerName, learning_rate: float) -> torch.optim.Adam | torch.optim.RMSprop:
        """The optimiser as it has come to be. Raises ValueError if the model has been trained with another."""
        states = [] if self.optimizer is None else list(self.optimizer.state.values())
        trained = kind_in_torch(states[0]) if states else None
        check_same_optimizer(trained, name)
        if self.optimizer is None or trained is None:
            self.optimizer = make_optimizer(name, self.parameters())
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        for parameter, state in self.optimizer.state.items():
            for part in IN_TORCH[name].values():  # the precision may have changed since
                state[part] = state[part].to(parameter)
        return self.optimizer

    @staticmethod
    def _gradient(parameter: Tensor) -> np.ndarray:
        if parameter.grad is None:
            return np.zeros(parameter.shape)
        return parameter.grad.cpu().numpy().copy()

    @staticmethod
    def _part(trial: dict[str, Tensor], record: Record = "all") -> dict[str, np.ndarray]:
        """What a record has of one trial, (1, T, ...) each."""
        kept = trial.keys() - {*ABOUT_TRIAL, *(STATES if record == "behavior" else ())}
        return {name: trial[name].detach().cpu().numpy()[None] for name in kept}

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """The optimiser's state by weight: ``step.NAME`` (a number a row), ``square.NAME`` and, of Adam,
        ``mean.NAME`` (as the weight). Empty before training."""
        if self.optimizer is None:
            return {}
        state = {}
        for name, parameter in self.named_parameters():
            own = self.optimizer.state.get(parameter)
            if not own or (kind := kind_in_torch(own)) is None:
                continue
            state[f"step.{name}"] = np.full(len(parameter), float(own["step"]))
            for part, in_torch in IN_TORCH[kind].items():
                state[f"{part}.{name}"] = own[in_torch].cpu().numpy().copy()
        return state

    def set_optimizer_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Take an optimiser's state as ``optimizer_state`` gives it, from either model; {}: begin anew, with
        either. ValueError if it does not fit."""
        check_optimizer_state(self.config, state)
        self.optimizer = None
        kind = optimizer_of(state)
        if kind is None:
            return
        self.optimizer = make_optimizer(kind, self.parameters())
        for name, parameter in self.named_parameters():
            if f"step.{name}" not in state:
                continue
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(np.max(state[f"step.{name}"])), dtype=torch.float32)
            } | {
                in_torch: torch.from_numpy(np.array(state[f"{part}.{name}"])).to(parameter)
                for part, in_torch in IN_TORCH[kind].items()
            }
