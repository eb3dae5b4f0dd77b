"""Searching the entries of a memory and storing one, as the equations say: one cue at a time, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from psyneulink.core.components.functions.function import EPSILON, FunctionError
from psyneulink.core.globals.keywords import NEWEST, OLDEST, OVERWRITE, RANDOM
from torch import Tensor

from .bank import Bank, Repeated
from .entries import EntriesByContext, execution_id_of
from .kernels import kernel as kernel_of
from .match import NOTHING, Match, Retrieval, View, average_weights

BASE_FUNCTIONS = ("distance_function", "selection_function")
"""Of PsyNeuLink's class: one entry at a time, and not to be differentiated."""


class KernelSearch(EntriesByContext):
    """What a memory with a kernel does, given the settings of an execution context."""

    reads = True
    """False lesions the memory: it retrieves nothing."""
    follows = False
    """Whether gradients flow from what is retrieved to what was stored, as tensors, for the same update."""
    first_environment = 0
    """Whose entries the first of the trials side by side has in PyTorch mode; the others follow."""
    noted: dict[int, list[np.ndarray]] | None = None
    """What each environment has retrieved, call by call, since a dict was put here for it: as of ``Match``, (3,)
    each. None: nobody asks."""
    _found: Match | None = None  # what was found last; None: nothing

    def setting(self, name: str, context: Any) -> Any:
        """A Parameter of the memory in a context."""
        raise NotImplementedError

    def with_noise(self, entry: list[np.ndarray], context: Any) -> list[np.ndarray]:
        """The entry as it is stored."""
        raise NotImplementedError

    # ---- storing ---------------------------------------------------------------------------------------

    def store_entry(self, entry: Sequence[np.ndarray | Tensor], context: Any = None, environment: int = 0) -> bool:
        """Store one entry, a field each, whatever ``storage_prob`` is. False if it was a duplicate."""
        bank = self.bank_with(environment, context)
        given = [p if isinstance(p, Tensor) else torch.from_numpy(np.array(p, dtype=float)) for p in entry]
        plain = [part.detach().numpy() for part in given]
        self.check_form(plain)
        fields = [np.asarray(part, dtype=float) for part in self.with_noise(plain, context)]
        compared = [i for i, weight in enumerate(self.field_weights(context)) if weight]
        parts = [part[None] for part in fields]
        repeated = self.repeated(context) if compared else "append"  # where no field counts, none is a duplicate
        trial = bank.numbers(environment)
        (row,), (stored,) = bank.write(np.array([environment]), parts, repeated, compared, trial)
        if stored and self.follows:
            noise = (torch.from_numpy(a - b) for a, b in zip(fields, plain, strict=True))
            bank.tensors[environment, int(row)] = [t + added for t, added in zip(given, noise, strict=True)]
        return bool(stored)

    def repeated(self, context: Any = None) -> Repeated:
        """What becomes of an entry that is stored already, as ``duplicate_entries_allowed`` says."""
        self.refuse("duplicate_threshold", self.setting("duplicate_threshold", context) != EPSILON)
        allowed = self.setting("duplicate_entries_allowed", context)
        return "append" if allowed is True else "overwrite" if allowed == OVERWRITE else "ignore"

    # ---- retrieving ------------------------------------------------------------------------------------

    def match(
        self, cue: Sequence[Tensor | None], context: Any = None, environment: int = 0, field_weights: Any = None
    ) -> list[Tensor]:
        """The entry that matches a cue best: fields (size,) or None where not weighted → fields (size,).

        ``field_weights``, if given, are those in place of ``distance_field_weights``.
        """
        bank = self.bank_with(environment, context)
        self.check_form(cue)
        ring, self._found = slice(environment, environment + 1), None
        view = bank.view(ring)
        if view.n == 0:
            return [torch.zeros(field.shape[2], dtype=torch.float64) for field in bank.fields]
        stored = self._stored(bank, environment, view.n)
        if any(part is not None and part.requires_grad for part in cue):  # later, other entries may lie there
            stored = [field.clone() for field in stored]
        settings = self.retrieval_settings(context)
        similar = self._similarity(settings, cue, stored, self.field_weights(context, field_weights))
        if settings.retrieval == "nearest":
            row = self._nearest(settings, similar.detach().numpy(), view, context)
            self._found = Match(view, rows=np.array([[row]]), born=bank.rows(ring, view.n))
            return [field[row].clone() for field in stored]
        sharpness, forgetting = float(settings.sharpness), float(settings.forgetting)  # of one memory
        lag = torch.from_numpy(view.lag).to(similar) if forgetting else None
        weights = average_weights(similar, lag, None, sharpness, forgetting)[0]
        self._found = Match(view, weights=weights.detach().numpy()[None, None], born=bank.rows(ring, view.n))
        return [weights @ field for field in stored]

    @staticmethod
    def _stored(bank: Bank, environment: int, n: int) -> list[Tensor]:
        """The entries, (n, size) a field; those through which gradients flow as the tensors that were stored."""
        fields = [torch.from_numpy(field[environment, :n]) for field in bank.fields]
        followed = {row: parts for (ring, row), parts in bank.tensors.items() if ring == environment}
        if not followed:
            return fields
        entries = [followed[row] if row in followed else [f[row] for f in fields] for row in range(n)]
        return [torch.stack(parts) for parts in zip(*entries, strict=True)]

    def retrieval_settings(self, context: Any = None) -> Retrieval:
        """How it retrieves in an execution context. FunctionError for settings that do not go together."""
        for name in BASE_FUNCTIONS:
            self.refuse(name, self.setting(name, context) is not None)
        select = self.setting("equidistant_entries_select", context)
        if select not in (OLDEST, NEWEST, RANDOM):
            raise FunctionError(
                f"{self.label}: equidistant_entries_select must be {OLDEST!r}, {NEWEST!r} or {RANDOM!r}; "
                f"got {select!r}."
            )
        try:
            return Retrieval(
                kernel=self.setting("kernel", context),
                retrieval=self.setting("retrieval", context),
                sharpness=float(np.squeeze(self.setting("sharpness", context))),
                forgetting=float(np.squeeze(self.setting("forgetting", context))),
                ties="newest" if select == NEWEST else "oldest",
            )
        except ValueError as error:
            raise FunctionError(f"{self.label}: {error}") from error

    def draws_ties(self, context: Any = None) -> bool:
        """Whether it draws which of equally similar entries it takes."""
        return self.setting("equidistant_entries_select", context) == RANDOM

    def _similarity(
        self, settings: Retrieval, cue: Sequence[Any], stored: list[Tensor], weights: list[float]
    ) -> Tensor:
        """Similarity of a cue to each entry: fields (size,) and (n, size) → (1, n)."""
        similarity = kernel_of(settings.kernel).similarity
        if len(set(weights)) == 1 and len(stored) > 1:
            return weights[0] * similarity(torch.cat(list(cue))[None], torch.cat(stored, dim=1))
        counted = [i for i, weight in enumerate(weights) if weight]
        if not counted:
            return torch.zeros(1, len(stored[0]), dtype=torch.float64)
        total = sum(weights[i] * similarity(cue[i][None], stored[i]) for i in counted)
        return total / len(counted)  # pyright: ignore[reportReturnType]

    def _nearest(self, settings: Retrieval, similar: np.ndarray, view: View, context: Any) -> int:
        """Row of the most similar entry: (1, n)."""
        if self.draws_ties(context):
            order = np.argsort(-view.lag[0])  # by age, so that draws do not depend on where entries lie
            best = np.flatnonzero((similar[0] == similar.max())[order])
            return int(order[self.setting("random_state", context).choice(best)])
        return int(settings.nearest(similar[None], view)[0, 0])

    def field_weights(self, context: Any = None, given: Any = None) -> list[float]:
        """Weight of each field: those given, or ``distance_field_weights``."""
        weights = self.setting("distance_field_weights", context) if given is None else given
        weights = [0.0 if w is None else float(w) for w in np.ravel(weights)]
        n_fields = len(self.field_sizes())
        if len(weights) not in (1, n_fields):
            raise FunctionError(
                f"{self.label}: distance_field_weights has {len(weights)} weights for {n_fields} fields. Give one "
                "for each; by default they are for the fields of default_variable."
            )
        return weights * n_fields if len(weights) == 1 else weights

    def step(self, cue: Sequence[Tensor], context: Any = None, environment: int = 0) -> list[Tensor]:
        """Retrieve, then store, each with its probability, as one call of the function does."""
        self._last_id = execution_id_of(context)
        if self.reads and any(self.field_weights(context)) and self._occurs("retrieval_prob", context):
            retrieved = self.match(cue, context, environment)
        else:
            retrieved, self._found = [torch.zeros_like(part) for part in cue], None
        if self.noted is not None:
            found = NOTHING if self._found is None else self._found.retrieved[:, 0, 0]
            self.noted.setdefault(environment, []).append(found)
        if self._occurs("storage_prob", context):
            self.store_entry(cue, context, environment)
        return retrieved

    def _occurs(self, name: str, context: Any) -> bool:
        probability = float(np.squeeze(self.setting(name, context)))
        if probability in (0.0, 1.0):
            return bool(probability)
        return probability > self.setting("random_state", context).uniform()

    # ---- what is refused -------------------------------------------------------------------------------

    def check_form(self, entry: Sequence[Any]) -> None:
        """FunctionError for fields of another number or shape; those that are None count as right."""
        shapes = [(size,) for size in self.field_sizes()]
        found = [None if part is None else tuple(np.shape(part)) for part in entry]
        if len(found) != len(shapes) or any(a not in (None, b) for a, b in zip(found, shapes, strict=True)):
            raise FunctionError(f"{self.label}: an entry has fields of shapes {found}; its entries have {shapes}.")

    def refuse(self, name: str, is_set: bool) -> None:
        """FunctionError if a setting was set of which the kernel takes the place."""
        if is_set:
            raise FunctionError(
                f"{self.label}: {name} was set, but has no effect with a kernel, which takes its place. Leave one "
                "of them out."
            )
