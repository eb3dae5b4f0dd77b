"""The exact likelihood of people's choices, given the trained network and each person's parameters.

The equations are those of ``models/person.py``. The network is taught by what the person saw and did (*teacher
forcing*), and the log-likelihood of all choices is the sum of those of the single ones, each given all before it.
Every trial starts at h_0 = c_0 = 0 (the random starts of training are noise that nobody observes), the memory is
empty at the start of a block, and the person's own choices matter through perseveration alone.

Whether an episode was encoded is not observed: with an encoding probability p_e < 1, the trials that return to an
episode share one z ~ Bernoulli(p_e), and

    L(these trials) = p_e Π L(trial | retrieved) + (1 − p_e) Π L(trial | nothing retrieved),

which is exact, since these trials store nothing: no other trial depends on z.

The gradient comes with the value: problem (r, p) depends on z[r, p] alone, so that one pass backwards gives the
gradients of all. It can be differentiated once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...models.config import ModelConfig
from ...models.person import Person, returning, with_lost_episodes
from ...models.choices import last_choices
from ...models.weights import check_weights
from .entries import KeyParts
from .network import Batch, rows_at_once
from .observation import FreeResponse, StepChoices, by_trial, log_mixture
from .parameters import PARAMETERS, ParameterSpace
from .recurrence import Cell
from .table.data import ObservedBlock, Participant

Values = Mapping[str, Tensor | float]
"""Natural values of parameters: numbers, or one for each restart and block, (R, B)."""
OF_NETWORK = {"gate_bias", "sharpness", "forgetting", "context_weight"}
"""With none of these free, the network runs once, whatever z."""
BLOCKS_AT_ONCE = 96
"""Most blocks of a chunk: of more, threads get one each."""
KEPT_BYTES = 2**28
"""What is kept of the inputs' part of the gates' drive; beyond, it is computed at each evaluation."""


@dataclass(frozen=True, eq=False)
class TrainedAgent:
    """The network that people share.

    Raises:
        ValueError: weights do not fit the configuration, or the context's columns are not input columns.
    """

    config: ModelConfig
    weights: dict[str, np.ndarray]
    """By the names and shapes of ``weight_shapes``."""
    context_columns: tuple[int, int] | None = None
    """(start, stop): the input columns that show the context; None: not known."""

    def __post_init__(self) -> None:
        if self.config.reinstatement != "gate":  # the recurrence of the likelihood has no W_m
            raise ValueError(
                f"TrainedAgent: people are fitted with reinstatement='gate'; got {self.config.reinstatement!r}."
            )
        object.__setattr__(self, "weights", check_weights(self.config, self.weights))
        if self.context_columns is not None:
            start, stop = self.context_columns
            if not 0 <= start < stop <= self.config.input_size:
                raise ValueError(
                    f"TrainedAgent: context_columns must lie within the {self.config.input_size} input columns; "
                    f"got {self.context_columns}."
                )

    @classmethod
    def of(cls, model: Any, context_columns: tuple[int, int] | None = None) -> TrainedAgent:
        """The network of a composition or a reference."""
        return cls(model.config, model.weights(), context_columns)


class Likelihood:
    """An ``Objective``: the log-likelihood of each participant's choices.

    Args:
        agent: the trained network.
        participants: their trials and choices; blocks may differ in their numbers of trials and steps.
        space: the free parameters, and the values of those that are fixed; all others are the trained agent's.
        observation: what is observed: ``StepChoices()`` (default) or ``FreeResponse()``.
        threads: that work side by side, each on other people or settings; by default as many as PyTorch uses.

    Raises:
        ValueError: a parameter has no place in the agent or the observation, one that the observation needs is
            lacking, or the data do not fit the agent.
    """

    def __init__(
        self,
        agent: TrainedAgent,
        participants: Sequence[Participant],
        space: ParameterSpace,
        observation: StepChoices | FreeResponse | None = None,
        threads: int | None = None,
    ) -> None:
        self.agent, self.space, self.observation = agent, space, observation or StepChoices()
        self.participants = tuple(participants)
        self.threads = threads
        if not self.participants:
            raise ValueError("Likelihood: needs at least one participant; got none.")
        self._check_parameters()
        neutral = {f.name: f.default for f in fields(Person)}
        self._fixed = {name: value for name, value in space.fixed.items() if value != neutral.get(name)}
        self.may_lose_episodes = "encoding_probability" in {*space.names, *self._fixed}
        """Whether there is an encoding probability below 1."""
        if agent.config.retrieval == "average" and "sharpness" not in space.names:
            self._fixed.setdefault("sharpness", agent.config.sharpness)
        for participant in self.participants:
            for block in participant.blocks:
                self._check_block(f"Participant '{participant.id}', block {block.number}", block)

    @property
    def ids(self) -> tuple[str, ...]:
        """The participants'."""
        return tuple(participant.id for participant in self.participants)

    @property
    def n_choices(self) -> np.ndarray:
        """(P,) int: choices of each participant; trials without a response are not counted, censored or not."""
        return np.array([participant.n_choices for participant in self.participants])

    def only(self, rows: Sequence[int]) -> Likelihood:
        """The same for some of the participants, in this order."""
        some = [self.participants[row] for row in rows]
        return Likelihood(self.agent, some, self.space, self.observation, self.threads)

    # ---- checks

    def _check_parameters(self) -> None:
        names, config = {*self.space.names, *self.space.fixed}, self.agent.config
        needed = set(self.observation.parameters)
        if needed - names:
            raise ValueError(
                f"Likelihood: {type(self.observation).__name__} needs {sorted(needed - names)}, free or fixed; "
                "add them to the ParameterSpace."
            )
        homeless = sorted(names - set(PARAMETERS) - needed)
        if homeless:
            raise ValueError(
                f"Likelihood: {homeless} have no place in the network with {type(self.observation).__name__}; "
                "leave them out."
            )
        # Any value but the neutral one shows whether a free parameter has a place.
        some = torch.full((len(self.space),), 0.1, dtype=torch.float64)
        free = {name: float(value) for name, value in self.space.natural(some).items()}
        self.person({**self.space.fixed, **free}).check(config)
        if "context_weight" in self.space.names and config.retrieval == "nearest":
            raise ValueError(
                "Likelihood: context_weight has no gradient with retrieval='nearest', where the nearest entry "
                "changes by leaps; use an agent with retrieval='average', or fix it."
            )

    def person(self, values: Mapping[str, float]) -> Person:
        """The ``Person`` with these natural values; those of the observation are left out."""
        own = {name: value for name, value in values.items() if name in PARAMETERS}
        return Person(**own, context_columns=self.agent.context_columns)

    def _check_block(self, where: str, block: ObservedBlock) -> None:
        config = self.agent.config
        if block.trials.input_size != config.input_size:
            raise ValueError(
                f"{where}: its trials have {block.trials.input_size} input columns, the agent takes "
                f"{config.input_size}."
            )
        if block.choices.max() >= config.n_actions:
            raise ValueError(
                f"{where}: there is a choice {block.choices.max()}; the agent has the actions 0 to "
                f"{config.n_actions - 1}."
            )
        try:
            self.observation.check(block)
            if self.may_lose_episodes:
                returning(block.trials)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    # ---- what is computed

    def log_likelihood(self, z: Tensor) -> Tensor:
        """z (R, P, k) → (R, P), differentiable by z once.

        Raises:
            ValueError: z has another shape or precision.
        """
        z = self._checked(z, 3)
        if z.requires_grad and torch.is_grad_enabled():
            return _WithGradient.apply(z, self)
        return self._evaluate(z.detach(), with_gradient=False)[0]

    def pointwise(self, z: Tensor) -> list[np.ndarray]:
        """z (P, k) → log-likelihoods of the units of each participant: (units,), in the order of their trials.

        A unit is a trial that is scored: for ``StepChoices`` one with a choice, for ``FreeResponse`` one with a
        response, and if those without are censored, any. Trials that return to one episode, which may not have
        been encoded, are one unit.
        """
        z = self._checked(z, 2).detach()
        found = {}
        with _one_thread(), torch.no_grad(), np.errstate(all="ignore"):
            for chunk in self._chunks:
                units = chunk.units(self._values(z[None][:, chunk.owners]), 1)[0].numpy()
                found |= {key: units[: chunk.n_units[b], b] for b, key in enumerate(chunk.keys)}
        return [np.concatenate(own) for own in self._by_person(found)]

    def policies(
        self, z: Tensor | np.ndarray, encoded: Sequence[Sequence[np.ndarray]] | None = None
    ) -> list[list[np.ndarray]]:
        """z (P, k) → p_t of each participant and block, (n, T, A), given their own earlier choices.

        Args:
            z: (P, k).
            encoded: of each participant and block (n,) bool: whether the episode of each trial was encoded, as
                ``with_lost_episodes`` takes it; by default all were.
        """
        z = self._checked(torch.as_tensor(z, dtype=torch.float64), 2).detach()
        found = {}
        with _one_thread(), torch.no_grad(), np.errstate(all="ignore"):
            for chunk in self._chunks:
                lost = None
                if encoded is not None:
                    lost = [_lost(self.participants[p].blocks[b], encoded[p][b]) for p, b in chunk.keys]
                policies = chunk.policies(self._values(z[None][:, chunk.owners]), lost)
                found |= dict(zip(chunk.keys, policies, strict=True))
        return self._by_person(found)

    def _by_person(self, found: Mapping[tuple[int, int], np.ndarray]) -> list[list[np.ndarray]]:
        return [[found[p, b] for b in range(len(one.blocks))] for p, one in enumerate(self.participants)]

    def _checked(self, z: Tensor, axes: int) -> Tensor:
        expected = (len(self.participants), len(self.space))
        if z.ndim != axes or tuple(z.shape[-2:]) != expected or z.dtype != torch.float64:
            form = "(R, P, k)" if axes == 3 else "(P, k)"
            raise ValueError(
                f"Likelihood: z must be float64 {form} with (P, k) = {expected}; got {z.dtype} {tuple(z.shape)}."
            )
        return z

    def _values(self, z: Tensor) -> Values:
        """Natural values of all parameters that are not neutral, from z of each block (R, B, k)."""
        return {**self._fixed, **self.space.natural(z)}

    def _evaluate(self, z: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """Log-likelihoods (R, P), and their gradients (R, P, k).

        Piece by piece, forwards and backwards, so that memory does not grow with R and P.
        """
        total, gradient = torch.zeros(z.shape[:2], dtype=torch.float64), torch.zeros_like(z)
        threads = self.threads or torch.get_num_threads()

        def work(piece: tuple[_Chunk, slice]) -> tuple[Tensor, Tensor | None]:
            chunk, restarts = piece
            with _one_thread("openmp"), torch.set_grad_enabled(with_gradient), np.errstate(all="ignore"):
                here = z[restarts][:, chunk.owners].requires_grad_(with_gradient)
                value = chunk.units(self._values(here), len(here)).sum(1)
                slope = torch.autograd.grad(value.sum(), here)[0] if value.requires_grad else None
            return value.detach(), slope

        with _one_thread():
            pieces = [(chunk, part) for chunk in self._chunks for part in chunk.restarts(len(z))]
            if min(threads, len(pieces)) > 1:
                with ThreadPoolExecutor(threads) as pool:
                    found = list(pool.map(work, pieces))
            else:
                found = [work(piece) for piece in pieces]
        # In a fixed order, whichever thread was first: the same sum to the last digit.
        for (chunk, restarts), (value, slope) in zip(pieces, found, strict=True):
            total[restarts].index_add_(1, chunk.owners, value)
            if slope is not None:
                gradient[restarts].index_add_(1, chunk.owners, slope)
        return total, gradient

    # ---- preparation

    @cached_property
    def _chunks(self) -> list[_Chunk]:
        """The blocks in chunks of equally long trials, with little to fill up."""
        blocks = {(p, b): block for p, one in enumerate(self.participants) for b, block in enumerate(one.blocks)}

        def size(key: tuple[int, int]) -> tuple[int, int, int]:
            trials = blocks[key].trials
            return trials.length, int(np.any(trials.encode, axis=1).sum()), len(trials)

        hidden_size, cell = self.agent.config.hidden_size, Cell(self.agent.config, self.agent.weights)
        chunks, kept = [], 0
        for _, equal in itertools.groupby(sorted(blocks, key=size), key=lambda key: size(key)[0]):
            rest = list(equal)
            while rest:
                largest = blocks[rest[-1]].trials
                rows = rows_at_once(hidden_size, len(largest), largest.length, int(largest.encode.sum()))
                at_once = _equal_share(len(rest), min(rows, BLOCKS_AT_ONCE))
                here, rest = rest[-at_once:], rest[:-at_once]
                kept += 8 * 5 * hidden_size * largest.length * len(largest) * len(here)
                chunks.append(_Chunk(self, cell, here, keep_drive=kept <= KEPT_BYTES))
        return chunks


class _WithGradient(torch.autograd.Function):
    """Value and gradient in one pass, so that nothing is kept for later."""

    @staticmethod
    def forward(ctx, z: Tensor, likelihood: Likelihood):  # type: ignore[override]
        value, slope = likelihood._evaluate(z.detach(), with_gradient=True)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, d_value: Tensor):  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return d_value[..., None] * slope, None


def _equal_share(count: int, most: int) -> int:
    """Size of the parts if count is divided into as few equal parts as can be, of no more than ``most``."""
    return -(-count // -(-count // most)) if count else 1


@cache
def _pools() -> ThreadpoolController:
    # Finding the libraries takes longer than a small likelihood.
    return ThreadpoolController()


def _one_thread(user_api: str | None = None) -> AbstractContextManager[Any]:
    """One thread for each operation: arrays are small, and threads within an operation only wait for each other.

    The limit of OpenMP, which PyTorch uses, is that of the thread that calls; that of BLAS is everybody's.
    """
    torch.get_num_threads()  # in a new thread, PyTorch sets the limit when it is first asked
    return _pools().limit(limits=1, user_api=user_api)


def _lost(block: ObservedBlock, encoded: np.ndarray) -> np.ndarray:
    """(n,) bool: trials that retrieve nothing, since they return to an episode that was not encoded."""
    trials = block.trials
    return np.any(trials.retrieve != with_lost_episodes(trials, encoded).retrieve, axis=1)


def unit_numbers(scored: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Which unit each trial of a block belongs to.

    Args:
        scored: (n,) bool.
        episode: (n,) int: the episode that each returns to; trials of one are one unit. -1: none.

    Returns:
        (n,) int, numbered by their first scored trials; -1 for trials that are not scored.
    """
    unit, of_episode, count = np.full(len(scored), -1), {}, 0
    for n in np.flatnonzero(scored).tolist():
        key = int(episode[n])
        unit[n] = of_episode.get(key, count) if key >= 0 else count
        of_episode[key] = unit[n]
        count = max(count, unit[n] + 1)
    return unit


def log_choice_probabilities(readout: Tensor, last: Tensor, values: Values) -> Tensor:
    """log p_t from the read-outs W_π h_t + b_π.

    Args:
        readout: (T, A, R or 1, n, B).
        last: (T, n, B) int, the choice made last, -1 for none.
        values: of the parameters; those that are not there are neutral.

    Returns:
        (T, A, R, n, B)
    """
    n_actions = readout.shape[1]
    if "inverse_temperature" in values:
        readout = by_trial(values["inverse_temperature"]) * readout
    if "perseveration" in values:
        repeats = (last[:, None] == torch.arange(n_actions)[:, None, None]).to(readout)
        readout = readout + by_trial(values["perseveration"]) * repeats[:, :, None]
    log_policy = torch.log_softmax(readout, 1)
    if "lapse" not in values:
        return log_policy
    lapse = by_trial(values["lapse"])
    return torch.log((1 - lapse) * torch.exp(log_policy) + lapse / n_actions)


class _Chunk:
    """Blocks that are computed together: the network, and what was observed."""

    def __init__(self, likelihood: Likelihood, cell: Cell, keys: list[tuple[int, int]], keep_drive: bool) -> None:
        self.keys = keys
        """(B,): participant and block, counted from 0."""
        self.owners = torch.tensor([p for p, _ in keys])
        """(B,): the participants."""
        agent, space, observation = likelihood.agent, likelihood.space, likelihood.observation
        blocks = [likelihood.participants[p].blocks[b] for p, b in keys]
        free_weight = "context_weight" in space.names
        fixed_weight = 0.5 if free_weight else space.fixed.get("context_weight", 0.5)
        self.observation, self.may_lose_episodes = observation, likelihood.may_lose_episodes
        self.network_is_free = not OF_NETWORK.isdisjoint(space.names)
        self._constant: Tensor | None = None
        self.batch = Batch(
            agent.config,
            cell,
            [block.trials for block in blocks],
            [observation.needed(block.choices) for block in blocks],
            key_scale=likelihood.person({"context_weight": fixed_weight}).key_scale(agent.config),
            parts=KeyParts.of(agent.config, agent.context_columns) if free_weight else None,
            lag_matters="forgetting" in {*space.names, *space.fixed},
            keep_drive=keep_drive and self.network_is_free,
        )

        episodes = [self._episodes(block) for block in blocks]
        units = [
            unit_numbers(observation.scored(block.choices), episode)
            for block, episode in zip(blocks, episodes, strict=True)
        ]
        self.n_units = [int(unit.max()) + 1 for unit in units]
        self.choices = self._arranged([block.choices for block in blocks], -1)
        self.last = self._arranged([last_choices(block.choices) for block in blocks], -1)
        self.there = torch.from_numpy(self.batch.order >= 0)
        unit, nobody = self._arranged(units, -1), max(self.n_units)
        self.unit = torch.where(unit < 0, nobody, unit)
        self.returns = self._arranged([episode >= 0 for episode in episodes], False)
        counts = torch.zeros(nobody + 1, len(keys), dtype=torch.int64)
        self.mixed = counts.scatter_add(0, self.unit, self.returns.long()) > 0
        """(units + 1, B): units whose episode may have been lost; the last takes all trials in no unit."""

    def _episodes(self, block: ObservedBlock) -> np.ndarray:
        return returning(block.trials) if self.may_lose_episodes else np.full(len(block.trials), -1)

    def _arranged(self, arrays: list[np.ndarray], filler: float) -> Tensor:
        """(n, T) of each block → (T, n, B), and (n,) → (n, B), in the order in which trials are run."""
        whole = self.batch.arranged(arrays, filler)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(whole, 2, 0) if whole.ndim == 3 else whole))

    def restarts(self, count: int) -> list[slice]:
        """So many restarts in parts, each as large as cache and memory allow."""
        batch = self.batch
        rows = rows_at_once(batch.cell.hidden_size, batch.n_trials, batch.length, len(batch.events))
        step = _equal_share(count, max(1, rows // len(self.keys)))
        return [slice(start, start + step) for start in range(0, count, step)]

    @cached_property
    def readout_without_memory(self) -> Tensor:
        """(T, A, 1, n, B): of trials that retrieve nothing; it depends on no parameter."""
        return self.batch.readout_without_memory()

    def readout(self, values: Values, restarts: int) -> Tensor:
        """(T, A, R, n, B); (T, A, 1, n, B) if no parameter of the network is free."""
        if self.network_is_free:
            return self.batch.readout(values, restarts)
        if self._constant is None:
            with torch.no_grad():
                self._constant = self.batch.readout(values, 1)
        return self._constant

    def units(self, values: Values, restarts: int) -> Tensor:
        """Log-likelihoods of the units of each block, with zeros behind: (R, units, B)."""
        unit = self._by_unit(self._trials(self.readout(values, restarts), values))
        if self.may_lose_episodes:
            lost = torch.where(self.returns, self._trials(self.readout_without_memory, values), 0.0)
            mixture = log_mixture(unit, self._by_unit(lost), by_trial(values["encoding_probability"]))
            unit = torch.where(self.mixed, mixture, unit)
        return unit.expand(restarts, -1, -1)

    def _trials(self, readout: Tensor, values: Values) -> Tensor:
        """Log-likelihood of each trial: (R, n, B)."""
        log_p = log_choice_probabilities(readout, self.last, values)
        return self.observation.log_likelihood(log_p, self.choices, self.there, values)

    def _by_unit(self, trials: Tensor) -> Tensor:
        index = self.unit.expand(len(trials), -1, -1)
        return trials.new_zeros(len(trials), *self.mixed.shape).scatter_add(1, index, trials)

    def policies(self, values: Values, lost: list[np.ndarray] | None) -> list[np.ndarray]:
        """p_t of each block, (n, T, A); on trials (n,) that are lost, nothing is retrieved."""
        readout = self.batch.readout(values, 1, full=True)
        if lost is not None:
            readout = torch.where(self._arranged(lost, False), self.readout_without_memory, readout)
        policy = log_choice_probabilities(readout, self.last, values).exp()[:, :, 0].permute(3, 2, 0, 1).numpy()
        return [own[self.batch.places(b)] for b, own in enumerate(policy)]
