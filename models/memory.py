"""The episodic memory of the composition: PsyNeuLink's content-addressable memory, with the search of the paper.

``EpisodicMemory`` is a ``pnl.ContentAddressableMemory`` for an ``EpisodicMemoryMechanism`` in any composition.
Without a kernel it does what its base does. With one it adds a PyTorch form, so that it can stand in an
AutodiffComposition and be part of ``learn()``; entries for each of several environments of one agent; retrieval of
all entries at once; the kernels of the paper (PsyNeuLink's cosine distance takes the *absolute* cosine).

Both modes of PsyNeuLink read and write the same arrays, so nothing has to be carried over between ``run()`` and
``learn()``.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.core.components.functions.function import FunctionError
from psyneulink.core.globals.context import handle_external_context
from psyneulink.core.globals.keywords import NEWEST, OLDEST, OVERWRITE, RANDOM
from psyneulink.core.globals.parameters import Parameter, check_user_specified
from psyneulink.core.globals.utilities import convert_all_elements_to_np_array
from torch import Tensor

from .bank import Bank, Repeated
from .entries import EntriesByContext, execution_id_of
from .fieldwise import FieldwiseCall
from .kernels import KERNELS
from .kernels import kernel as kernel_of
from .match import Retrieval, View, average_weights

OF_BASE_ONLY = ("distance_function", "selection_function", "duplicate_threshold")
"""Parameters of which a kernel takes the place."""


def _set_field_weights(value: Any, owning_component: Any = None, context: Any = None) -> Any:
    """The base warns of fields of one number, whose cosine distance is always 0."""
    if not owning_component.has_kernel:
        pnl.ContentAddressableMemory.parameters.distance_field_weights.setter(value, owning_component, context)
    return value


class EpisodicMemory(pnl.ContentAddressableMemory, EntriesByContext):
    """A ``ContentAddressableMemory`` that can have the kernels of the paper, and with one a PyTorch form.

    Called with an entry (one array a field), it retrieves the entry that matches it best, with probability
    ``retrieval_prob``, and then stores it, with probability ``storage_prob``. An empty memory gives zeros.

    Args:
        kernel: ``l2``, ``l1`` or ``cosine``: the similarity of entries. None (default): as in the base, by its
            ``distance_function`` and ``selection_function``.
        retrieval: ``nearest``, or ``average``: all entries weighted by softmax(sharpness · similarity).
        sharpness: inverse temperature of those weights.
        forgetting: by each entry stored later, an entry's weight in the average falls by the factor e^−forgetting
            (recency, as in Bornstein et al., 2017); 0 (default): an entry's age does not matter.
        others: those of the base.

    Without a kernel all is as in the base, by its own code, but

    * entries are apart for each execution context: in the base, one finds the entries of the other, or fails;
    * ``reset()`` works without an initializer, where the base fails: nothing is stored then;
    * after ``reset()`` of a mechanism, its value is zeros; the base puts its entries, if there are enough, in the
      place of their fields.

    With a kernel, too, and

    * ``distance_function``, ``selection_function`` and ``duplicate_threshold`` are refused: the kernel searches
      all entries at once, and can be differentiated;
    * what is not given is as in the paper: the first field is the key, which alone counts
      (``distance_field_weights``), the oldest of equally similar entries is taken, and each entry is a further
      one;
    * the form of an entry is that of ``default_variable``, the initializer or the mechanism: all contexts and
      PyTorch mode share it, so that entries can be stored before the first call;
    * entries are duplicates if their weighted fields are equal, as in the reference. Of several, ``OVERWRITE``
      replaces the newest, and retrieval takes the one that ``equidistant_entries_select`` says;
    * ``previous_value``, ``distance`` and what else the base shows of its last search are not kept.

    Raises:
        FunctionError: an unknown kernel; settings of the kernel without one, or of the base with one; an entry
            whose fields do not have the sizes of the others.
    """

    has_kernel = False

    class Parameters(pnl.ContentAddressableMemory.Parameters):
        """kernel, retrieval, sharpness and forgetting, beside the Parameters of the base."""

        kernel = Parameter(None, stateful=False, loggable=False)
        retrieval = Parameter("nearest", stateful=False, loggable=False)
        sharpness = Parameter(1.0, modulable=True)
        forgetting = Parameter(0.0, modulable=True)
        # What a kernel takes the place of is None with one, so that a later one is seen.
        distance_function = Parameter(None, stateful=False, loggable=False)
        selection_function = Parameter(None, stateful=False, loggable=False, dependencies="distance_function")
        distance_field_weights = Parameter(
            [1], stateful=True, modulable=True, dependencies="initializer", setter=_set_field_weights
        )

        def _validate_kernel(self, kernel):
            if kernel is not None and kernel not in KERNELS:
                return f"must be one of {', '.join(map(repr, KERNELS))}."

        def _validate_retrieval(self, retrieval):
            if retrieval not in ("nearest", "average"):
                return "must be 'nearest' or 'average'."

        def _validate_max_entries(self, max_entries):
            if self._owner.has_kernel and max_entries < 1:
                return "must be at least 1."

    @check_user_specified
    def __init__(
        self,
        *args: Any,
        kernel: str | None = None,
        retrieval: str | None = None,
        sharpness: float | None = None,
        forgetting: float | None = None,
        **kwargs: Any,
    ) -> None:
        EntriesByContext.__init__(self)
        self._last_id: Any = None  # the context of the last call, which ``memory`` shows
        self.reads = True
        """False lesions a memory with a kernel: it retrieves nothing."""
        self.follows = False
        """Whether gradients flow from what is retrieved to what was stored for the same update, with a kernel."""
        self.first_environment = 0
        """Whose entries the first of the trials side by side has in PyTorch mode; the others follow."""
        own = {"retrieval": retrieval, "sharpness": sharpness, "forgetting": forgetting}
        given = {name for name, value in (own | kwargs).items() if value is not None}
        self.has_kernel = kernel is not None
        wrong = given.intersection(OF_BASE_ONLY if self.has_kernel else own)
        if wrong:
            raise FunctionError(f"EpisodicMemory: {', '.join(sorted(wrong))} {_no_effect(self.has_kernel)}")
        if kernel is None:
            of_base = pnl.ContentAddressableMemory.defaults
            functions = {name: copy.deepcopy(getattr(of_base, name)) for name in OF_BASE_ONLY[:2]}
            super().__init__(*args, **(functions | kwargs))
        else:
            # The constructor of ContentAddressableMemory takes no further Parameters; its parent's does.
            settings = {name: value for name, value in kwargs.items() if name in given}
            self._init_with_kernel(*args, kernel=kernel, **own, **settings)

    def _init_with_kernel(self, default_variable: Any = None, *, initializer: Any = None, **settings: Any) -> None:
        if default_variable is not None or initializer is not None:
            form = initializer if default_variable is None else default_variable
            default_variable = self._enforce_memory_shape(form)[0]
        n_fields = 2 if default_variable is None else len(default_variable)
        of_paper = {
            "distance_field_weights": [1] + [0] * (n_fields - 1),
            "duplicate_entries_allowed": True,
            "equidistant_entries_select": OLDEST,
        }
        super(pnl.ContentAddressableMemory, self).__init__(
            default_variable=default_variable, initializer=initializer, **(of_paper | settings)
        )
        self._take_form()

    def _take_form(self) -> None:
        """The form of an entry is that of the variable."""
        shapes = [np.shape(part) for part in self.defaults.variable]
        self.parameters.memory_num_fields.set(len(shapes), override=True)
        self.parameters.memory_field_shapes.set(shapes, override=True)

    # ---- entries ---------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"EpisodicMemory of '{self.owner.name}'" if self.owner is not None else "EpisodicMemory"

    def field_sizes(self) -> list[int]:
        """Columns of each field of an entry."""
        return [np.size(part) for part in self.defaults.variable]

    def limit(self, context: pnl.Context) -> int:
        """Entries that are held. FunctionError without a kernel."""
        if not self.has_kernel:
            raise FunctionError(f"{self.label}: its entries are in 'memory', as in its base. This needs a kernel.")
        return int(self._setting("max_entries", context))

    @property
    def _memory(self) -> Any:
        """What ``memory`` shows: entries of the context last used, (n, fields, size), or objects (n, fields)."""
        if not self.has_kernel:
            held = self.parameters.previous_value._get(
                pnl.Context(execution_id=self._last_id), fallback_value=None
            )
            return [] if held is None else held
        if self._last_id not in self._banks and None not in self._banks:
            return []
        fields = self.entries(self._last_id)
        if len({f.shape[1] for f in fields}) == 1:
            return np.stack(fields, axis=1)
        entries = np.empty((len(fields[0]), len(fields)), dtype=object)
        for i, f in enumerate(fields):
            entries[:, i] = list(f)
        return entries

    @_memory.setter
    def _memory(self, entries: Any) -> None:
        if isinstance(entries, np.ndarray) and not self.has_kernel:
            self.parameters.previous_value._set(entries, pnl.Context(execution_id=self._last_id))

    # ---- storing ---------------------------------------------------------------------------------------

    def store_tensors(self, entry: Sequence[Tensor], context: Any, environment: int) -> None:
        """Store one entry as ``store_entry`` does; if it ``follows``, gradients flow back to its fields from what
        is retrieved later in the same update."""
        self.store_entry([part.detach().numpy() for part in entry], context, environment, entry)

    def store_entry(
        self,
        entry: Sequence[np.ndarray],
        context: Any = None,
        environment: int = 0,
        tensors: Sequence[Tensor] | None = None,
    ) -> bool:
        """Store one entry, one array a field, whatever ``storage_prob`` is. False if it was a duplicate.

        ``tensors``: the same, for ``store_tensors``.
        """
        if not self.has_kernel:
            entry = convert_all_elements_to_np_array(list(entry))
            return self._store_memory(entry, pnl.Context(execution_id=execution_id_of(context)))
        bank = self.bank_with(environment, context)
        entry = [np.asarray(part, dtype=float) for part in entry]
        self._check_form(entry, bank)
        noise = self._setting("noise", context)
        if callable(noise) or np.any(noise):
            entry = self._with_noise(entry, noise, context)
        compared = [i for i, weight in enumerate(self._field_weights(len(entry), context)) if weight]
        parts = [part[None] for part in entry]
        (row,), (stored,) = bank.write(np.array([environment]), parts, self.repeated(context), compared)
        if stored and self.follows and tensors is not None:
            noise = (torch.from_numpy(p - t.detach().numpy()) for p, t in zip(entry, tensors, strict=True))
            bank.tensors[environment, int(row)] = [t + added for t, added in zip(tensors, noise, strict=True)]
        return bool(stored)

    def _with_noise(self, entry: list[np.ndarray], noise: Any, context: Any) -> list[np.ndarray]:
        whole = convert_all_elements_to_np_array(entry)
        try:
            noisy = whole + self._try_execute_param(noise, whole, context=context)
        except ValueError as error:
            raise FunctionError(f"{self.label}: noise does not fit an entry of {len(entry)} fields.") from error
        return [np.asarray(part, dtype=float) for part in noisy]

    def draws_ties(self, context: Any = None) -> bool:
        """Whether it draws which of equally similar entries it takes."""
        return self._setting("equidistant_entries_select", context) == RANDOM

    def repeated(self, context: Any = None) -> Repeated:
        """What becomes of an entry that is stored already, as ``duplicate_entries_allowed`` says."""
        if self.parameters.duplicate_threshold.get() != self.defaults.duplicate_threshold:
            raise FunctionError(f"{self.label}: duplicate_threshold {_no_effect(True)}")
        allowed = self._setting("duplicate_entries_allowed", context)
        return "append" if allowed is True else "overwrite" if allowed == OVERWRITE else "ignore"

    def _store_memory(self, entry: Any, context: Any) -> bool:
        self._last_id = execution_id_of(context)
        return self.store_entry(entry, context) if self.has_kernel else super()._store_memory(entry, context)

    @handle_external_context()
    def delete_from_memory(self, entries: Any, fields: Any = None, context: Any = None) -> None:
        """Drop all entries equal to one of those given, in every field or in the fields (indices) named."""
        self._last_id = context.execution_id
        if not self.has_kernel:
            return super().delete_from_memory(entries, fields, context=context)
        kept = self.entries(context)
        compared = np.arange(len(kept)) if fields is None or np.size(fields) == 0 else np.atleast_1d(fields)
        for entry in self._parse_memories(entries, "delete_from_memory", context):
            keep = ~np.logical_and.reduce([(kept[i] == entry[i]).all(1) for i in compared])
            kept = [f[keep] for f in kept]
        return self.set_entries(kept, context)

    @handle_external_context(fallback_most_recent=True)
    def reset(self, new_value: Any = None, context: Any = None) -> Any:
        """Begin again with ``new_value`` (entries), or the ``initializer``, or nothing."""
        self._last_id = context.execution_id
        if self._banks:
            self.clear(context, environment=None)
        value = self._setting("initializer", context) if new_value is None else new_value
        if value is not None:
            value = super().reset(value, context=context)
        elif not self.has_kernel:
            self.parameters.previous_value.set(None, context, override=True)
        if self.owner is None:
            return self._memory
        return _zeros_like(self.defaults.variable)

    # ---- retrieving ------------------------------------------------------------------------------------

    def match(
        self, cue: Sequence[Tensor | None], context: Any = None, environment: int = 0, field_weights: Any = None
    ) -> list[Tensor]:
        """The entry that matches a cue best: fields (size,) or None where not weighted → fields (size,).

        ``field_weights``, if given, are those in place of ``distance_field_weights``.
        """
        bank = self.bank_with(environment, context)
        self._check_form(cue, bank)
        view = bank.view(slice(environment, environment + 1))
        if view.n == 0:
            return [torch.zeros(field.shape[2], dtype=torch.float64) for field in bank.fields]
        stored = self._stored(bank, environment, view.n)
        if any(part is not None and part.requires_grad for part in cue):  # later, other entries may lie there
            stored = [field.clone() for field in stored]
        similar = self._similarity(cue, stored, self._field_weights(len(stored), context, field_weights))
        settings = self.retrieval_settings(context)
        if settings.retrieval == "average":
            lag = torch.from_numpy(view.lag).to(similar) if settings.forgetting else None
            weights = average_weights(similar, lag, None, settings.sharpness, settings.forgetting)[0]
            return [weights @ field for field in stored]
        row = self._nearest(settings, similar.detach().numpy(), view, context)
        return [field[row].clone() for field in stored]  # another entry may lie there soon

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
        """How it retrieves in an execution context. FunctionError for ``forgetting`` without an average."""
        try:
            return Retrieval(
                kernel=self.parameters.kernel.get(),
                retrieval=self.parameters.retrieval.get(),
                sharpness=float(np.squeeze(self._setting("sharpness", context))),
                forgetting=float(np.squeeze(self._setting("forgetting", context))),
                ties="newest" if self._setting("equidistant_entries_select", context) == NEWEST else "oldest",
            )
        except ValueError as error:
            raise FunctionError(f"{self.label}: {error}") from error

    def _similarity(self, cue: Sequence[Tensor | None], stored: list[Tensor], weights: list[float]) -> Tensor:
        """Similarity of a cue to each entry: fields (size,) and (n, size) → (1, n)."""
        later = [name for name in OF_BASE_ONLY[:2] if getattr(self, name) is not None]
        if later:
            raise FunctionError(f"{self.label}: {', '.join(later)} {_no_effect(True)}")
        similarity = kernel_of(self.parameters.kernel.get()).similarity
        if len(set(weights)) == 1 and len(stored) > 1:
            return weights[0] * similarity(torch.cat(list(cue))[None], torch.cat(stored, dim=1))
        counted = [i for i, weight in enumerate(weights) if weight]
        if not counted:
            return torch.zeros(1, len(stored[0]), dtype=torch.float64)
        return sum(weights[i] * similarity(cue[i][None], stored[i]) for i in counted) / len(counted)

    def _nearest(self, settings: Retrieval, similar: np.ndarray, view: View, context: Any) -> int:
        """Row of the most similar entry: (1, n)."""
        if self.draws_ties(context):
            order = np.argsort(-view.lag[0])  # by age, so that draws do not depend on where entries lie
            best = np.flatnonzero((similar[0] == similar.max())[order])
            return order[self._setting("random_state", context).choice(best)]
        return settings.nearest(similar[None], view)[0, 0]

    def _field_weights(self, n_fields: int, context: Any, given: Any = None) -> list[float]:
        weights = self._setting("distance_field_weights", context) if given is None else given
        weights = [0.0 if w is None else float(w) for w in np.ravel(weights)]
        if len(weights) == 1:
            weights = weights * n_fields
        if len(weights) != n_fields:
            raise FunctionError(
                f"{self.label}: distance_field_weights has {len(weights)} weights for {n_fields} fields. Give one "
                "for each; by default they are for the fields of default_variable."
            )
        return weights

    def step(self, cue: Sequence[Tensor], context: Any = None, environment: int = 0) -> list[Tensor]:
        """Retrieve, then store, each with its probability, as one call of the function does."""
        self._last_id = execution_id_of(context)
        weights = self._field_weights(len(cue), context)
        if self.reads and any(weights) and self._occurs("retrieval_prob", context):
            retrieved = self.match(cue, context, environment)
        else:
            retrieved = [torch.zeros_like(part) for part in cue]
        if self._occurs("storage_prob", context):
            self.store_tensors(cue, context, environment)
        return retrieved

    def _occurs(self, probability: str, context: Any) -> bool:
        p = float(np.squeeze(self._setting(probability, context)))
        return p == 1 or (p > 0 and p > self._setting("random_state", context).uniform())

    @handle_external_context()
    def get_memory(self, cue: Any, field_weights: Any = None, context: Any = None) -> np.ndarray:
        """The entry that matches a cue best, without storing anything; zeros if nothing is stored."""
        self._last_id = context.execution_id
        if not self.has_kernel:
            return super().get_memory(cue, field_weights, context=context)
        parts = [torch.as_tensor(np.asarray(part, dtype=float)) for part in cue]
        with torch.no_grad():
            fields = self.match(parts, context, field_weights=field_weights)
        return convert_all_elements_to_np_array([f.numpy() for f in fields])

    # ---- what PsyNeuLink calls -------------------------------------------------------------------------

    def _function(self, variable: Any = None, context: Any = None, params: Any = None) -> np.ndarray:
        self._last_id = execution_id_of(context)
        if not self.has_kernel:
            return super()._function(variable, context=context, params=params)
        variable = convert_all_elements_to_np_array(variable)
        if self.is_initializing:
            return variable
        if variable.dtype != object and variable.ndim == 1:  # one field, as in the base
            variable = variable[None]
        with torch.no_grad():
            fields = self.step([torch.from_numpy(np.array(p, dtype=float)) for p in variable], context)
        return convert_all_elements_to_np_array([f.numpy() for f in fields])

    @property
    def _gen_pytorch_fct(self) -> Any:
        """None without a kernel: PsyNeuLink says then that it is not supported."""
        return self._pytorch_form if self.has_kernel else None

    def _pytorch_form(self, device: Any, context: Any = None) -> PytorchMemory:
        return PytorchMemory(self, execution_id_of(context))

    def _initialize_previous_value(self, initializer: Any, context: Any = None) -> Any:
        if initializer is not None and self.has_kernel and not self._banks:
            self.defaults.variable = _zeros_like(initializer[0])
        value = super()._initialize_previous_value(initializer, context)
        if self.has_kernel:  # entries live in rings, not in what the PyTorch backend overwrites
            self.parameters.previous_value.set(None, context, override=True)
        return value

    def _instantiate_attributes_before_function(self, function: Any = None, context: Any = None) -> Any:
        if not self.has_kernel:
            return super()._instantiate_attributes_before_function(function=function, context=context)
        self._initialize_previous_value(self.parameters.initializer._get(context), context)
        return None

    def _update_default_variable(self, new_default_variable: Any, context: Any = None) -> None:
        super()._update_default_variable(new_default_variable, context=context)
        if self.has_kernel:
            self._take_form()

    def _validate(self, context: Any = None) -> None:
        """The base tries out its distance and selection functions."""
        if not self.has_kernel:
            super()._validate(context=context)

    def _check_form(self, entry: Sequence[Any], bank: Bank) -> None:
        """FunctionError for fields of another number or shape; those that are None count as right."""
        shapes = [(field.shape[2],) for field in bank.fields]
        found = [shape if part is None else tuple(part.shape) for part, shape in zip(entry, shapes, strict=False)]
        if found != shapes or len(entry) != len(shapes):
            found = [None if part is None else tuple(part.shape) for part in entry]
            raise FunctionError(f"{self.label}: an entry has fields of shapes {found}; its entries have {shapes}.")

    def _setting(self, name: str, context: Any) -> Any:
        """A Parameter's value in a context, modulated if it is; that of no context before the first run."""
        execution_id = execution_id_of(context)
        known = execution_id in getattr(self.parameters, name).values
        if not known or not isinstance(context, pnl.Context):
            context = pnl.Context(execution_id=execution_id if known else None)
        return self._get_current_parameter_value(name, context)


def _zeros_like(entry: Any) -> np.ndarray:
    return convert_all_elements_to_np_array([np.zeros(np.shape(part)) for part in entry])


def _no_effect(has_kernel: bool) -> str:
    if has_kernel:
        return "has no effect with a kernel, which takes its place. Leave out one of them."
    return "has no effect without a kernel. Give one: " + ", ".join(map(repr, KERNELS)) + "."


class PytorchMemory(FieldwiseCall):
    """``EpisodicMemory`` in PyTorch mode: the steps of a trial one after the other; each trial of a batch in an
    environment, and so with entries, of its own."""

    def __init__(self, memory: EpisodicMemory, execution_id: Any) -> None:
        super().__init__(len(memory.defaults.variable))
        self.memory, self.execution_id = memory, execution_id

    def on_fields(self, fields: list[Tensor]) -> list[Tensor]:
        """Retrieve and store for each trial and step: fields (batch, step, size) → the same."""
        batch, steps = fields[0].shape[:2]
        context = pnl.Context(execution_id=self.execution_id)
        rows = [
            self.memory.step([f[b, s] for f in fields], context, self.memory.first_environment + b)
            for b in range(batch)
            for s in range(steps)
        ]
        return [torch.stack(parts).view(batch, steps, -1) for parts in zip(*rows, strict=True)]

    def on_part(self, fields: list[Tensor]) -> Tensor:
        """What is retrieved for the fields so far, which must be those that count."""
        context = pnl.Context(execution_id=self.execution_id)
        weights = self.memory._field_weights(self.n_fields, context)
        here, later = len(fields) - 1, weights[len(fields) :]
        batch, steps = fields[0].shape[:2]
        if any(later) or batch * steps > 1:
            raise FunctionError(
                f"{self.memory.label}: in this composition its fields have unequal sizes and reach it one by "
                "one. This works for one step of one trial at a time, with the fields that count in the "
                "distance before the others; otherwise give all fields the same size, or use "
                "eplstm.models.RecurrentComposition."
            )
        return self.memory.match([f[0, 0] for f in fields] + [None] * len(later), context)[here].view(1, 1, -1)
