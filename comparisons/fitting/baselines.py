"""Baselines without a network, so that 'the model fits' means something: a leaning, and a sum of the evidence.

    bias only       p_t(a = 1) = σ(b + κ l_t)
    evidence only   p_t(a = 1) = σ(b + w_e E_t + κ l_t),  E_t = Σ_{τ ≤ t} mean of the observation's columns of x_τ
    both            mixed with guesses: (1 − ε) p_t + ε / 2

b: response_bias, w_e: evidence_weight, κ: perseveration, ε: lapse. l_t is 1 after the choice 1, −1 after the
choice 0, and 0 before the first of the block: with two actions this is the perseveration of ``models/person.py``,
softmax(... + κ [a = last choice]). The sum starts anew with each trial; its sign is the answer in contextual
choice. Neither baseline remembers earlier trials: on later encounters, before there is evidence, an agent with a
memory must do better than 'evidence only'.

Both are of two actions: for more, what leans where and what a column is evidence for would have to be said anew.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...models.choices import last_choices
from ...tasks.trials import Trials
from .parameters import ParameterSpace
from .table.data import NO_CHOICE, ObservedBlock, Participant


@dataclass(frozen=True, eq=False)
class _Scored:
    """The choices of P people, side by side: (P, N), N the most choices of one of them."""

    sign: Tensor
    """1 for the choice 1, −1 for the choice 0."""
    evidence: Tensor
    """E_t"""
    last: Tensor
    """l_t"""
    there: Tensor
    """bool: False where somebody has fewer choices than N."""
    trial: tuple[np.ndarray, ...]
    """Of each person, (n_choices,): in which of their trials with choices, 0, 1, ..."""

    def rows(self, rows: Sequence[int]) -> _Scored:
        which = list(rows)
        return _Scored(
            self.sign[which],
            self.evidence[which],
            self.last[which],
            self.there[which],
            tuple(self.trial[row] for row in which),
        )


class BiasOnly:
    """A leaning towards an action, whatever is shown: an ``Objective``.

    Args:
        participants: P people; the choices that are scored are those of their ``ObservedBlock.observed``.
        space: of ``response_bias``, ``perseveration`` and ``lapse``; what is in neither its free nor its fixed
            parameters is 0.
        n_actions: of the task; must be 2.
        context_columns: as ``EvidenceOnly`` has it; not used here.

    Raises:
        ValueError: other parameters, other than two actions, two participants of the same id, or none.
    """

    parameters = ("response_bias", "perseveration", "lapse")
    """Those that it has."""

    def __init__(
        self,
        participants: Sequence[Participant],
        space: ParameterSpace,
        n_actions: int = 2,
        context_columns: tuple[int, int] | None = None,
    ) -> None:
        self._space, self._context = space, context_columns
        self._participants = tuple(participants)
        self._check(n_actions)
        self._scored = _side_by_side([self._of_person(person) for person in self._participants])

    @property
    def space(self) -> ParameterSpace:
        """The parameters."""
        return self._space

    @property
    def ids(self) -> tuple[str, ...]:
        """The participants'."""
        return tuple(person.id for person in self._participants)

    @property
    def n_choices(self) -> np.ndarray:
        """(P,) int: scored choices."""
        return np.array([person.n_choices for person in self._participants])

    def log_likelihood(self, z: Tensor) -> Tensor:
        """z (R, P, k) float64 → (R, P), differentiable."""
        scored = self._scored
        values = {name: value.unsqueeze(-1) for name, value in self._values(z, 3).items()}
        return torch.where(scored.there, self._log_p(values, scored), 0.0).sum(-1)

    def pointwise(self, z: Tensor) -> list[np.ndarray]:
        """z (P, k) → for each participant the log-likelihood of each trial with choices, in order."""
        scored = self._scored
        with torch.no_grad():
            values = {name: value.unsqueeze(-1) for name, value in self._values(z, 2).items()}
            log_p = self._log_p(values, scored).numpy()
        return [
            np.bincount(trial, weights=row[: len(trial)]) for trial, row in zip(scored.trial, log_p, strict=True)
        ]

    def only(self, rows: Sequence[int]) -> BiasOnly:
        """The same for some of the participants, in this order."""
        part = copy.copy(self)
        part._participants = tuple(self._participants[row] for row in rows)
        part._scored = self._scored.rows(rows)
        return part

    def policies(self, z: Tensor | np.ndarray) -> list[list[np.ndarray]]:
        """z (P, k) → probabilities of both actions at all steps, given the person's own earlier choices.

        Returns:
            For each participant and block (n, T, 2), lapses included.
        """
        values = self._values(torch.as_tensor(z, dtype=torch.float64), 2)
        return [
            [self._policy(block, {name: value[p] for name, value in values.items()}) for block in person.blocks]
            for p, person in enumerate(self._participants)
        ]

    # ---- parts -------------------------------------------------------------------------------------------

    def _evidence(self, trials: Trials) -> np.ndarray:
        """E_t, (n, T)."""
        return np.zeros(trials.targets.shape)

    def _values(self, z: Tensor, axes: int) -> dict[str, Tensor]:
        """z (..., P, k) → natural values, each (..., P); those that are neither free nor fixed are left out."""
        expected = (len(self._participants), len(self._space))
        if z.ndim != axes or tuple(z.shape[-2:]) != expected:
            form = "(R, P, k)" if axes == 3 else "(P, k)"
            raise ValueError(
                f"{type(self).__name__}: z must be {form} with (P, k) = {expected}; got {tuple(z.shape)}."
            )
        fixed = {name: z.new_full(z.shape[:-1], value) for name, value in self._space.fixed.items()}
        return {**fixed, **self._space.natural(z)}

    def _drive(self, values: dict[str, Tensor], evidence: Tensor, last: Tensor) -> Tensor:
        """The log odds of action 1, without lapses."""
        drive = torch.zeros_like(evidence)
        for name, what in (("response_bias", 1.0), ("evidence_weight", evidence), ("perseveration", last)):
            if name in values:
                drive = drive + values[name] * what
        return drive

    def _log_p(self, values: dict[str, Tensor], scored: _Scored) -> Tensor:
        """Log-probability of each choice, (..., P, N)."""
        towards = scored.sign * self._drive(values, scored.evidence, scored.last)
        lapse = values.get("lapse")
        if lapse is None:
            return torch.nn.functional.logsigmoid(towards)
        return torch.log((1 - lapse) * torch.sigmoid(towards) + lapse / 2)

    def _policy(self, block: ObservedBlock, values: dict[str, Tensor]) -> np.ndarray:
        evidence = torch.as_tensor(self._evidence(block.trials))
        p = torch.sigmoid(self._drive(values, evidence, torch.as_tensor(_last(block.choices))))
        p = (1 - values.get("lapse", 0.0)) * p + values.get("lapse", 0.0) / 2
        return torch.stack([1 - p, p], dim=-1).detach().numpy()

    def _of_person(self, person: Participant) -> dict[str, np.ndarray]:
        """Sign, evidence, last choice and trial of each of a person's choices."""
        parts, before = [], 0
        for block in person.blocks:
            chosen = block.observed
            trial = np.cumsum(chosen.any(1)) - 1 + before
            before += int(chosen.any(1).sum())
            parts.append(
                {
                    "sign": 2.0 * block.choices[chosen] - 1,
                    "evidence": self._evidence(block.trials)[chosen],
                    "last": _last(block.choices)[chosen],
                    "trial": trial[np.nonzero(chosen)[0]],
                }
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _check(self, n_actions: int) -> None:
        what = type(self).__name__
        foreign = sorted({*self._space.names, *self._space.fixed} - set(self.parameters))
        if foreign:
            raise ValueError(f"{what}: has the parameters {', '.join(self.parameters)}; got {', '.join(foreign)}.")
        if n_actions != 2:
            raise ValueError(f"{what}: is a model of two actions; the task has {n_actions}. Leave it out.")
        if not self._participants:
            raise ValueError(f"{what}: needs at least one participant; got none.")
        twice = sorted({one for one in self.ids if self.ids.count(one) > 1})
        if twice:
            raise ValueError(f"{what}: ids must differ; {twice[0]!r} is there twice.")
        for person in self._participants:
            for block in person.blocks:
                if block.choices.max() > 1:
                    raise ValueError(
                        f"{what}: is a model of two actions, 0 and 1; participant '{person.id}', block "
                        f"{block.number}, chose {block.choices.max()}. Leave it out."
                    )


class EvidenceOnly(BiasOnly):
    """A leaning, and the evidence summed so far on the trial: an ``Objective``.

    Args:
        participants: as ``BiasOnly``.
        space: of ``response_bias``, ``evidence_weight``, ``perseveration`` and ``lapse``; what is in neither its
            free nor its fixed parameters is 0.
        n_actions: of the task; must be 2.
        context_columns: (start, stop): the input columns that show the context; all others are the observation.
            None: all columns are.

    Raises:
        ValueError: as ``BiasOnly``; or no column is left for the observation.
    """

    parameters = ("response_bias", "evidence_weight", "perseveration", "lapse")
    """Those that it has."""

    def _evidence(self, trials: Trials) -> np.ndarray:
        context = range(0) if self._context is None else range(*self._context)
        observation = [column for column in range(trials.input_size) if column not in context]
        if not observation or (context and context[-1] >= trials.input_size):
            raise ValueError(
                f"EvidenceOnly: context_columns={self._context} must lie within the {trials.input_size} input "
                "columns, and leave at least one for the observation."
            )
        return np.cumsum(trials.inputs[:, :, observation].mean(-1), axis=1)


def _last(choices: np.ndarray) -> np.ndarray:
    """l_t of a block: (n, T) float."""
    last = last_choices(choices)
    return np.where(last == NO_CHOICE, 0.0, 2.0 * last - 1)


def _side_by_side(people: list[dict[str, np.ndarray]]) -> _Scored:
    longest = max(len(person["sign"]) for person in people)

    def padded(name: str) -> Tensor:
        rows = [np.pad(person[name], (0, longest - len(person[name]))) for person in people]
        return torch.as_tensor(np.stack(rows))

    there = np.stack([np.arange(longest) < len(person["sign"]) for person in people])
    return _Scored(
        padded("sign"),
        padded("evidence"),
        padded("last"),
        torch.as_tensor(there),
        tuple(person["trial"] for person in people),
    )
