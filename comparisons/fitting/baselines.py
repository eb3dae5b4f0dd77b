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

import numpy as np
import torch
from torch import Tensor

from ...models.choices import last_choices
from ...tasks.trials import Trials
from .objective import OfPeople
from .parameters import ParameterSpace
from .table.data import NO_CHOICE, ObservedBlock, Participant


class BiasOnly(OfPeople):
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
        super().__init__(participants, space)
        self._context = context_columns
        self._check(n_actions)
        people = [self._of_person(person) for person in self.participants]
        longest = max(len(person["sign"]) for person in people)
        self._scored = {
            name: torch.as_tensor(np.stack([np.pad(own[name], (0, longest - len(own[name]))) for own in people]))
            for name in people[0]
        }
        """Of each choice, (P, N), N the most choices of one of them; ``there`` is False behind somebody's last."""

    def log_likelihood(self, z: Tensor) -> Tensor:
        """z (R, P, k) float64 → (R, P), differentiable."""
        return torch.where(self._scored["there"], self._log_p(self.checked(z, 3)), 0.0).sum(-1)

    def pointwise(self, z: Tensor) -> list[np.ndarray]:
        """z (P, k) → for each participant the log-likelihood of each trial with choices, in order."""
        with torch.no_grad():
            log_p = self._log_p(self.checked(z, 2))
        each = zip(self._scored["trial"], self._scored["there"], log_p, strict=True)
        return [np.bincount(trial[there], weights=own[there]) for trial, there, own in each]

    def only(self, rows: Sequence[int]) -> BiasOnly:
        """The same for some of the participants, in this order."""
        part, which = copy.copy(self), list(rows)
        part.participants = tuple(self.participants[row] for row in which)
        part._scored = {name: values[which] for name, values in self._scored.items()}
        return part

    def policies(self, z: Tensor | np.ndarray) -> list[list[np.ndarray]]:
        """z (P, k) → probabilities of both actions at all steps, given the person's own earlier choices.

        Returns:
            For each participant and block (n, T, 2), lapses included.
        """
        values = self._values(self.checked(torch.as_tensor(z, dtype=torch.float64), 2))
        return [
            [self._policy(block, {name: value[p] for name, value in values.items()}) for block in person.blocks]
            for p, person in enumerate(self.participants)
        ]

    # ---- parts -------------------------------------------------------------------------------------------

    def _evidence(self, trials: Trials) -> np.ndarray:
        """E_t, (n, T)."""
        return np.zeros(trials.targets.shape)

    def _values(self, z: Tensor) -> dict[str, Tensor]:
        """z (..., P, k) → natural values, each (..., P); those that are neither free nor fixed are left out."""
        fixed = {name: z.new_full(z.shape[:-1], value) for name, value in self.space.fixed.items()}
        return {**fixed, **self.space.natural(z)}

    def _drive(self, values: dict[str, Tensor], evidence: Tensor, last: Tensor) -> Tensor:
        """The log odds of action 1, without lapses."""
        drive = torch.zeros_like(evidence)
        for name, what in (("response_bias", 1.0), ("evidence_weight", evidence), ("perseveration", last)):
            if name in values:
                drive = drive + values[name] * what
        return drive

    def _log_p(self, z: Tensor) -> Tensor:
        """Log-probability of each choice, (..., P, N)."""
        values = {name: value.unsqueeze(-1) for name, value in self._values(z).items()}
        towards = self._scored["sign"] * self._drive(values, self._scored["evidence"], self._scored["last"])
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
        """Of each of a person's choices: sign (1: action 1, −1: 0), E_t, l_t, and in which trial with choices."""
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
                    "there": chosen[chosen],
                }
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _check(self, n_actions: int) -> None:
        what = type(self).__name__
        foreign = sorted({*self.space.names, *self.space.fixed} - set(self.parameters))
        if foreign:
            raise ValueError(f"{what}: has the parameters {', '.join(self.parameters)}; got {', '.join(foreign)}.")
        if n_actions != 2:
            raise ValueError(f"{what}: is a model of two actions; the task has {n_actions}. Leave it out.")
        for person in self.participants:
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
