"""The exact likelihood of people's choices, given the trained network and each person's parameters.

The equations are those of ``models/person.py``. The network sees what the person saw, trial by trial from
h = c = 0 (the random starts of training are noise that nobody observes), and the memory begins empty in each
block; the person's own choices matter through perseveration alone. Where episodes may not have been encoded, the
likelihood is the sum over both cases for the trials that return to an episode: they store nothing, so that nothing
else depends on it.

The gradient comes with the value: problem (r, p) depends on z[r, p] alone, so that one pass backwards gives the
gradients of all. It can be differentiated once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...models.config import ModelConfig
from ...models.person import Person, returning
from ...models.records import last_choices
from ...models.weights import check_weights
from .data import ObservedBlock, Participant
from .network import AT_ONCE, Network, Rows
from .observation import FreeResponse, StepChoices
from .parameters import PARAMETERS, ParameterSpace

ALL = slice(None)
BLOCKS_AT_ONCE = 96
"""Blocks (times settings) whose storing trials are run side by side."""


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
        participants: their blocks, with trials of one length.
        space: the free parameters, and the values of those that are fixed; all others are the trained agent's.
        observation: what is observed: ``StepChoices()`` (default) or ``FreeResponse()``.
        threads: that work side by side; by default as many as PyTorch uses.

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
        for participant in self.participants:
            self._check_participant(participant)
        self._groups: dict[tuple[int, ...], _Group] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """The participants'."""
        return tuple(participant.id for participant in self.participants)

    @property
    def n_choices(self) -> np.ndarray:
        """(P,) int: scored choices of each participant."""
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
        typical = dict(
            zip(self.space.names, self.space.natural_array(self.space.prior_mean + 0.1).tolist(), strict=True)
        )
        values = {**self.space.fixed, **typical}
        self.person(values).check(config)
        if "context_weight" in self.space.names and config.retrieval == "nearest":
            raise ValueError(
                "Likelihood: context_weight has no gradient with retrieval='nearest'; use an agent with "
                "retrieval='average', or fix it."
            )

    def person(self, values: dict[str, float]) -> Person:
        """The ``Person`` with these natural values; those of the observation are left out."""
        own = {name: value for name, value in values.items() if name in PARAMETERS}
        return Person(**own, context_columns=self.agent.context_columns)

    def _check_participant(self, participant: Participant) -> None:
        config = self.agent.config
        for block in participant.blocks:
            where = f"Participant '{participant.id}', block {block.number}"
            if block.trials.input_size != config.input_size:
                raise ValueError(
                    f"{where}: its trials have {block.trials.input_size} input columns, the agent takes "
                    f"{config.input_size}."
                )
            if block.choices.max(initial=-1) >= config.n_actions:
                raise ValueError(
                    f"{where}: there is a choice {block.choices.max()}; the agent has the actions 0 to "
                    f"{config.n_actions - 1}."
                )
            if isinstance(self.observation, FreeResponse) and (block.observed.sum(1) > 1).any():
                trial = block.trial_numbers[block.observed.sum(1) > 1][0]
                raise ValueError(f"{where}: trial {trial} has several choices; a free response is one a trial.")
            if self._may_lose_episodes:
                try:
                    returning(block.trials)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from None

    @property
    def _may_lose_episodes(self) -> bool:
        names = {*self.space.names, *self.space.fixed}
        return "encoding_probability" in names and self.space.fixed.get("encoding_probability", 0.5) < 1

    # ---- what is computed

    def log_likelihood(self, z: Tensor) -> Tensor:
        """z (R, P, k) → (R, P), differentiable by z once."""
        z = self._checked(z, 3)
        if z.requires_grad and torch.is_grad_enabled():
            return _WithGradient.apply(z, self)
        return self._pass(z.detach(), gradient=False)[0]

    def pointwise(self, z: Tensor) -> list[np.ndarray]:
        """z (P, k) → log-likelihoods of each participant's trials with choices, in their order: (units,).

        Trials that return to one episode, which may not have been encoded, are one unit.
        """
        z = self._checked(z, 2).detach()
        with torch.no_grad():
            return [group.pointwise(z[list(who)]) for who, group in self._grouped(1, alone=True)]

    def policies(self, z: Tensor | np.ndarray) -> list[list[np.ndarray]]:
        """z (P, k) → p_t of each participant and block, (n, T, A), given their own earlier choices.

        All episodes are taken to have been encoded; ``with_lost_episodes`` gives trials on which some were not.
        """
        z = self._checked(torch.as_tensor(z, dtype=torch.float64), 2)
        found: list[list[np.ndarray]] = [[] for _ in self.participants]
        with torch.no_grad():
            for who, group in self._grouped(1):
                for p, blocks in zip(who, group.policies(z[list(who)]), strict=True):
                    found[p] = blocks
        return found

    def _checked(self, z: Tensor, axes: int) -> Tensor:
        expected = (len(self.participants), len(self.space))
        if z.ndim != axes or tuple(z.shape[-2:]) != expected or z.dtype != torch.float64:
            form = "(R, P, k)" if axes == 3 else "(P, k)"
            raise ValueError(
                f"Likelihood: z must be float64 {form} with (P, k) = {expected}; got {z.dtype} {tuple(z.shape)}."
            )
        return z

    def _grouped(self, settings: int, alone: bool = False) -> Iterator[tuple[tuple[int, ...], _Group]]:
        """Participants that are run side by side, so many that the blocks of all settings are some 100."""
        most = max(1, BLOCKS_AT_ONCE // max(settings, 1))
        who: list[int] = []
        blocks = 0
        for p, participant in enumerate(self.participants):
            if who and (alone or blocks + len(participant.blocks) > most):
                yield self._group(tuple(who))
                who, blocks = [], 0
            who.append(p)
            blocks += len(participant.blocks)
        yield self._group(tuple(who))

    def _group(self, who: tuple[int, ...]) -> tuple[tuple[int, ...], _Group]:
        if who not in self._groups:
            self._groups[who] = _Group(self, [self.participants[p] for p in who])
        return who, self._groups[who]

    def _pass(self, z: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
        """Log-likelihoods (R, P), and their gradients (R, P, k)."""
        value, slope = torch.full(z.shape[:2], torch.nan, dtype=torch.float64), torch.zeros_like(z)
        jobs = list(self._grouped(len(z)))
        threads = min(self.threads or torch.get_num_threads(), len(jobs))
        # Matrices are small: threads within a product only wait for each other.
        with threadpool_limits(1, "blas"):
            self._work(jobs, threads, z, gradient, value, slope)
        return value, slope

    @staticmethod
    def _work(
        jobs: list[tuple[tuple[int, ...], _Group]],
        threads: int,
        z: Tensor,
        gradient: bool,
        value: Tensor,
        slope: Tensor,
    ) -> None:
        """Fill in value and slope, group by group, on so many threads."""

        def work(job: tuple[tuple[int, ...], _Group]) -> None:
            who, group = list(job[0]), job[1]
            if gradient:
                value[:, who], slope[:, who] = group.value_and_gradient(z[:, who])
            else:
                with torch.no_grad():  # of each thread its own
                    value[:, who] = group.log_likelihood(z[:, who])

        if threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, jobs))
        else:
            for job in jobs:
                work(job)


class _WithGradient(torch.autograd.Function):
    """Value and gradient in one pass, so that nothing is kept for later."""

    @staticmethod
    def forward(ctx, z: Tensor, likelihood: Likelihood):  # type: ignore[override]
        value, slope = likelihood._pass(z.detach(), gradient=True)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, d_value: Tensor):  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return d_value[..., None] * slope, None


class _Group:
    """Some participants, whose trials are run side by side."""

    def __init__(self, likelihood: Likelihood, participants: list[Participant]) -> None:
        self.likelihood, self.participants = likelihood, participants
        agent, space = likelihood.agent, likelihood.space
        self.blocks: list[ObservedBlock] = [block for p in participants for block in p.blocks]
        self.person = torch.tensor([i for i, p in enumerate(participants) for _ in p.blocks])
        names = [f"Participant '{p.id}', block {block.number}" for p in participants for block in p.blocks]
        fixed = Person(
            context_weight=space.fixed.get("context_weight", 0.5), context_columns=agent.context_columns
        )
        context = None
        if "context_weight" in space.names:
            columns = range(agent.config.input_size)[agent.config.key_columns]
            context = np.array([column in range(*(agent.context_columns or (0, 0))) for column in columns])
        self.network = Network(agent.config, agent.weights, [b.trials for b in self.blocks], names, fixed, context)
        lost = likelihood._may_lose_episodes
        self.episodes = [
            returning(block.trials) if lost else np.full(len(block.trials), -1) for block in self.blocks
        ]
        """Of each block, which episode each trial returns to (-1: none, or it is certain to have been encoded)."""
        self.storing = [_Stage(self, rows) for rows in self.network.storing]
        self.other = [_Stage(self, self.network.other)] if len(self.network.other) else []

    def values(self, z: Tensor) -> dict[str, Tensor]:
        """Natural values of all parameters, (R, people) each; without the context's weight, if it is fixed."""
        likelihood = self.likelihood
        neutral = {"inverse_temperature": 1.0, "lapse": 0.0, "perseveration": 0.0, "gate_bias": 0.0}
        neutral |= {"forgetting": 0.0, "encoding_probability": 1.0, "sharpness": likelihood.agent.config.sharpness}
        given = neutral | dict(likelihood.space.fixed)
        fixed = {name: torch.full(z.shape[:2], value, dtype=torch.float64) for name, value in given.items()}
        fixed.pop("context_weight", None)  # the keys have it
        return fixed | likelihood.space.natural(z)

    # ---- what is run

    def _store(self, stored: Tensor, stage: _Stage, cells: Tensor) -> Tensor:
        """The entries with those of a stage: (R, blocks, k + 1, H)."""
        new = torch.zeros(*stored.shape[:2], 1, stored.shape[3], dtype=torch.float64)
        new[:, stage.rows.block, 0] = cells
        return torch.cat([stored, new], 2)

    def _stored(self, values: dict[str, Tensor]) -> list[Tensor]:
        """The entries before each storing stage, and after the last."""
        settings, size = len(values["lapse"]), self.network.hidden_weight.shape[0]
        stored = [torch.zeros(settings, len(self.blocks), 0, size, dtype=torch.float64)]
        for stage in self.storing:
            cells = [
                self.network.cells(rows, self._of_rows(rows, values), stored[-1])
                for _, rows in stage.portions(settings)
            ]
            stored.append(self._store(stored[-1], stage, torch.cat(cells, 1)))
        return stored

    def _of_rows(self, rows: Rows, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Values of the people whose trials these are: (R, n)."""
        who = self.person[rows.block]
        return {name: value[:, who] for name, value in values.items()}

    def _found(
        self, stage: _Stage, where: slice, rows: Rows, values: dict[str, Tensor], stored: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-likelihood of units (R, units), block and first trial of each (2, units), and c_T (R, n, H)."""
        own = self._of_rows(rows, values)
        logits, cells = self.network.logits(rows, own, stored)
        found = stage.log_likelihood(logits, where, own)
        unit, back = torch.stack([rows.block, rows.trial]), stage.episode[where] >= 0
        if not bool(back.any()):
            return found, unit, cells
        # log(p_e Π with + (1 − p_e) Π without) of each episode; its rows follow each other, and are never parted.
        lost = {name: value[:, back] for name, value in own.items()}
        bare = rows.only(back).without_memory()
        without = stage.log_likelihood(self.network.logits(bare, lost, stored)[0], where, lost, back)
        episodes = torch.stack([rows.block, stage.episode[where]])[:, back]
        pairs, group = torch.unique_consecutive(episodes, dim=1, return_inverse=True)
        none = torch.zeros(len(found), pairs.shape[1], dtype=torch.float64)
        p = values["encoding_probability"][:, self.person[pairs[0]]]
        both = torch.logaddexp(
            torch.log(p) + none.index_add(1, group, found[:, back]),
            torch.log1p(-p) + none.index_add(1, group, without),
        )
        starts = torch.cat([torch.tensor([True]), group[1:] != group[:-1]])
        units = torch.cat([unit[:, ~back], unit[:, back][:, starts]], 1)
        return torch.cat([found[:, ~back], both], 1), units, cells

    def _each(self, values: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """All units, in portions: log-likelihoods (R, units), and block and first trial of each (2, units)."""
        for stage, entries in zip([*self.storing, *self.other], self._stored(values), strict=False):
            for where, rows in stage.portions(len(entries)):
                yield self._found(stage, where, rows, values, entries)[:2]

    # ---- what comes of it

    def log_likelihood(self, z: Tensor) -> Tensor:
        """z (R, people, k) → (R, people)."""
        total = torch.zeros(z.shape[:2], dtype=torch.float64)
        for found, unit in self._each(self.values(z)):
            total.index_add_(1, self.person[unit[0]], found)
        return total

    def value_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (R, people, k) → (R, people) and its gradient (R, people, k).

        Trials that store are run twice: forwards, to have all entries, and again from the last to the first, when
        the derivatives by what they store are complete. No graph is kept beyond a portion.
        """
        z = z.detach().requires_grad_()
        with torch.enable_grad():
            natural = self.values(z)
        free = self.likelihood.space.names
        values = {name: value.detach().requires_grad_(name in free) for name, value in natural.items()}
        with torch.no_grad():
            stored = self._stored(values)
        total, d_stored = torch.zeros(z.shape[:2], dtype=torch.float64), torch.zeros_like(stored[-1])
        slopes = {name: torch.zeros_like(values[name]) for name in free}
        for k, stage in reversed(list(enumerate([*self.storing, *self.other]))):
            for where, rows in stage.portions(len(z)):
                entries = stored[k].detach().requires_grad_()
                with torch.enable_grad():
                    found, unit, cells = self._found(stage, where, rows, values, entries)
                    loss = found.sum()
                    if k < len(self.storing):
                        loss = loss + (cells * d_stored[:, rows.block, k]).sum()
                total.index_add_(1, self.person[unit[0]], found.detach())
                leaves = [*(values[name] for name in free), entries]
                *own, d_entries = torch.autograd.grad(loss, leaves, allow_unused=True)
                for name, slope in zip(free, own, strict=True):
                    if slope is not None:
                        slopes[name] += slope
                if d_entries is not None:
                    d_stored[:, :, :k] += d_entries
        (gradient,) = torch.autograd.grad([natural[name] for name in free], z, [slopes[name] for name in free])
        return total, gradient

    def pointwise(self, z: Tensor) -> np.ndarray:
        """z (1 person, k) → (units,), in the order of blocks and trials."""
        units = [
            (b, n, value)
            for found, unit in self._each(self.values(z[None]))
            for b, n, value in zip(*unit.tolist(), found[0].tolist(), strict=True)
            if self._is_scored(b, n)
        ]
        return np.array([value for _, _, value in sorted(units)])

    def _is_scored(self, block: int, trial: int) -> bool:
        """Whether anything of the unit that begins with this trial is scored."""
        if getattr(self.likelihood.observation, "missing", "ignore") == "censored":
            return True
        episode = self.episodes[block]
        same = (episode == episode[trial]) & (episode >= 0)
        same[trial] = True
        return bool(self.blocks[block].observed[same].any())

    def policies(self, z: Tensor) -> list[list[np.ndarray]]:
        """z (people, k) → p_t of each person and block."""
        actions = self.likelihood.agent.config.n_actions
        found = [np.empty((*block.trials.targets.shape, actions)) for block in self.blocks]
        values = self.values(z[None])
        for stage, entries in zip([*self.storing, *self.other], self._stored(values), strict=False):
            for where, rows in stage.portions(1):
                own = self._of_rows(rows, values)
                logits = self.network.logits(rows, own, entries)[0]
                p = stage.choice_probabilities(logits, where, own)[:, 0].transpose(0, 1).numpy()
                for b, n, each in zip(rows.block.tolist(), rows.trial.tolist(), p, strict=True):
                    found[b][n] = each
        return [[found[b] for b in torch.nonzero(self.person == i).flatten().tolist()] for i in range(len(z))]


class _Stage:
    """Trials that are run side by side, with what was chosen on them."""

    def __init__(self, group: _Group, rows: Rows) -> None:
        self.observation = group.likelihood.observation
        self.actions = group.likelihood.agent.config.n_actions
        pairs = list(zip(rows.block.tolist(), rows.trial.tolist(), strict=True))
        episode = np.array([group.episodes[b][n] for b, n in pairs])
        order = np.lexsort((rows.trial.numpy(), episode, rows.block.numpy()))
        self.rows, self.episode = rows.only(torch.from_numpy(order)), torch.from_numpy(episode[order])
        pairs = [pairs[i] for i in order]
        last = [last_choices(block.choices) for block in group.blocks]
        self.choice = torch.from_numpy(np.stack([group.blocks[b].choices[n] for b, n in pairs], 1))
        """(T, n): -1 where there is none."""
        self.last = torch.from_numpy(np.stack([last[b][n] for b, n in pairs], 1))
        """(T, n): the latest choice before each step."""
        self._cut: dict[int, list[tuple[slice, Rows]]] = {}

    def portions(self, settings: int) -> list[tuple[slice, Rows]]:
        """So many rows at a time that the cache holds their sequences in all settings; episodes are not parted."""
        if settings not in self._cut:
            size, edges = max(1, AT_ONCE // max(settings, 1)), [0]
            same = (self.episode[1:] == self.episode[:-1]) & (self.episode[1:] >= 0)
            same &= self.rows.block[1:] == self.rows.block[:-1]
            for n in range(1, len(self.rows)):
                if n - edges[-1] >= size and not same[n - 1]:
                    edges.append(n)
            cuts = [slice(a, b) for a, b in itertools.pairwise([*edges, len(self.rows)])]
            whole = len(cuts) == 1
            self._cut[settings] = [(cut, self.rows if whole else self.rows.only(cut)) for cut in cuts]
        return self._cut[settings]

    def choice_probabilities(
        self, logits: Tensor, where: slice, values: dict[str, Tensor], which: Tensor | slice = ALL
    ) -> Tensor:
        """p_t (T, R, n, A) from W_π h_t + b_π, of a portion, or of some trials of it."""
        drive = values["inverse_temperature"][..., None] * logits
        kappa = values["perseveration"]
        if kappa.requires_grad or bool((kappa != 0).any()):
            repeated = self.last[:, where][:, which, None] == torch.arange(self.actions)
            drive = drive + kappa[..., None] * repeated[:, None]
        lapse = values["lapse"][..., None]
        return (1 - lapse) * torch.softmax(drive, -1) + lapse / self.actions

    def log_likelihood(
        self, logits: Tensor, where: slice, values: dict[str, Tensor], which: Tensor | slice = ALL
    ) -> Tensor:
        """Of each trial of a portion, or of some of them: (R, n)."""
        p = self.choice_probabilities(logits, where, values, which)
        return self.observation.trials(p, self.choice[:, where][:, which], values)
