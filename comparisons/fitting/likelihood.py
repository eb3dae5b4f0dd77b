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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...models.engine import Weights
from ...models.person import PARAMETERS, returning, with_lost_episodes
from .agent import TrainedAgent
from .chunk import Chunk, Values, equal_share
from .network import Batch, acts_in_network
from .objective import OfPeople
from .observation import Observation, StepChoices
from .parameters import ParameterSpace
from .planned_memory import context_of_key
from .rounds import rows_at_once
from .table.data import ObservedBlock, Participant

BLOCKS_AT_ONCE = 96
"""Most blocks of a chunk: of more, threads get one each."""
KEPT_BYTES = 2**28
"""What is kept of the inputs' part of the gates' drive; beyond, it is computed at each evaluation."""


class Likelihood(OfPeople):
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
        observation: Observation | None = None,
        threads: int | None = None,
    ) -> None:
        super().__init__(participants, space)
        self.agent, self.observation, self.threads = agent, observation or StepChoices(), threads
        self._check_parameters()
        neutral = {name: parameter.neutral for name, parameter in PARAMETERS.items()}
        self._fixed = {name: value for name, value in space.fixed.items() if value != neutral.get(name)}
        self._loses_episodes = "encoding_probability" in {*space.names, *self._fixed}
        if agent.config.retrieval == "average" and "sharpness" not in space.names:
            self._fixed.setdefault("sharpness", agent.config.sharpness)
        for participant in self.participants:
            for block in participant.blocks:
                self._check_block(f"Participant '{participant.id}', block {block.number}", block)

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
        self.agent.person({**self.space.fixed, **free}).check(config)
        if "context_weight" in self.space.names and config.retrieval == "nearest":
            raise ValueError(
                "Likelihood: context_weight has no gradient with retrieval='nearest', where the nearest entry "
                "changes by leaps; use an agent with retrieval='average', or fix it."
            )

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
            if self._loses_episodes:
                returning(block.trials)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    # ---- what is computed

    def log_likelihood(self, z: Tensor) -> Tensor:
        """z (R, P, k) → (R, P), differentiable by z once.

        Raises:
            ValueError: z has another shape or precision.
        """
        z = self.checked(z, 3)
        if z.requires_grad and torch.is_grad_enabled():
            return _WithGradient.apply(z, self)
        return self._evaluate(z.detach(), with_gradient=False)[0]

    def pointwise(self, z: Tensor) -> list[np.ndarray]:
        """z (P, k) → log-likelihoods of the units of each participant: (units,), in the order of their trials.

        A unit is a trial that is scored: for ``StepChoices`` one with a choice, for ``FreeResponse`` one with a
        response, and if those without are censored, any. Trials that return to one episode, which may not have
        been encoded, are one unit.
        """
        each = self._of_blocks(self.checked(z, 2), lambda chunk, _, values: chunk.pointwise(values))
        return [np.concatenate(own) for own in each]

    def policies(
        self, z: Tensor | np.ndarray, encoded: Sequence[Sequence[np.ndarray]] | None = None
    ) -> list[list[np.ndarray]]:
        """z (P, k) → p_t of each participant and block, (n, T, A), given their own earlier choices.

        Args:
            z: (P, k).
            encoded: of each participant and block (n,) bool: whether the episode of each trial was encoded, as
                ``with_lost_episodes`` takes it; by default all were.
        """

        def work(chunk: Chunk, keys: list[tuple[int, int]], values: Values) -> list[np.ndarray]:
            if encoded is None:
                return chunk.policies(values, None)
            return chunk.policies(values, [_lost(self.participants[p].blocks[b], encoded[p][b]) for p, b in keys])

        return self._of_blocks(self.checked(torch.as_tensor(z, dtype=torch.float64), 2), work)

    def _of_blocks(
        self, z: Tensor, work: Callable[[Chunk, list[tuple[int, int]], Values], list[np.ndarray]]
    ) -> list[list[np.ndarray]]:
        """What is found for each block of a chunk, at z (P, k), by participant."""
        found: dict[tuple[int, int], np.ndarray] = {}
        with _one_thread(), torch.no_grad(), np.errstate(all="ignore"):
            for keys, chunk in self._chunks:
                values = self._values(z.detach()[None][:, chunk.owners])
                found |= dict(zip(keys, work(chunk, keys, values), strict=True))
        return [[found[p, b] for b in range(len(one.blocks))] for p, one in enumerate(self.participants)]

    def _values(self, z: Tensor) -> Values:
        """Natural values of all parameters that are not neutral, from z of each block (R, B, k)."""
        return {**self._fixed, **self.space.natural(z)}

    def _evaluate(self, z: Tensor, with_gradient: bool) -> tuple[Tensor, Tensor]:
        """Log-likelihoods (R, P), and their gradients (R, P, k).

        Piece by piece, forwards and backwards, so that memory does not grow with R and P.
        """
        total, gradient = torch.zeros(z.shape[:2], dtype=torch.float64), torch.zeros_like(z)
        threads = self.threads or torch.get_num_threads()

        def work(piece: tuple[Chunk, slice]) -> tuple[Tensor, Tensor | None]:
            chunk, restarts = piece
            with _one_thread("openmp"), torch.set_grad_enabled(with_gradient), np.errstate(all="ignore"):
                here = z[restarts][:, chunk.owners].requires_grad_(with_gradient)
                value = chunk.units(self._values(here), len(here)).sum(1)
                slope = torch.autograd.grad(value.sum(), here)[0] if value.requires_grad else None
            return value.detach(), slope

        with _one_thread():
            pieces = [(chunk, part) for _, chunk in self._chunks for part in chunk.restarts(len(z))]
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
    def _chunks(self) -> list[tuple[list[tuple[int, int]], Chunk]]:
        """The blocks in chunks of equally long trials, with little to fill up.

        Returns:
            Participant and block of each block, counted from 0; and the chunk.
        """
        blocks = {(p, b): block for p, one in enumerate(self.participants) for b, block in enumerate(one.blocks)}

        def size(key: tuple[int, int]) -> tuple[int, int, int]:
            trials = blocks[key].trials
            return trials.length, int(np.any(trials.encode, axis=1).sum()), len(trials)

        agent, hidden_size = self.agent, self.agent.config.hidden_size
        is_free = "context_weight" in self.space.names
        fixed = {} if is_free else {k: v for k, v in self.space.fixed.items() if k == "context_weight"}
        network: dict[str, Any] = {
            "config": agent.config,
            "weights": Weights.of({name: array[None] for name, array in agent.weights.items()}),
            "key_scale": agent.person(fixed).key_scale(agent.config),
            "context": context_of_key(agent.config, agent.context_columns) if is_free else None,
        }
        chunks, kept = [], 0
        for _, equal in itertools.groupby(sorted(blocks, key=size), key=lambda key: size(key)[0]):
            rest = list(equal)
            while rest:
                largest = blocks[rest[-1]].trials
                rows = rows_at_once(hidden_size, len(largest), largest.length, int(largest.encode.sum()))
                at_once = equal_share(len(rest), min(rows, BLOCKS_AT_ONCE))
                here, rest = rest[-at_once:], rest[:-at_once]
                kept += 8 * 5 * hidden_size * largest.length * len(largest) * len(here)
                keep = kept <= KEPT_BYTES and any(map(acts_in_network, self.space.names))
                own, needed = [blocks[key] for key in here], self.observation.needed
                batch = Batch(
                    blocks=[b.trials for b in own],
                    needed=[needed(b.choices) for b in own],
                    keep_drive=keep,
                    **network,
                )
                chunk = Chunk(batch, own, [p for p, _ in here], self.observation, self._loses_episodes)
                chunks.append((here, chunk))
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
