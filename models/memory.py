"""The episodic memory of the composition: PsyNeuLink's content-addressable memory, with the search of the paper.

``EpisodicMemory`` is a ``pnl.ContentAddressableMemory`` for an ``EpisodicMemoryMechanism`` in any composition.
With a kernel it is a ``KernelMemory``, which adds a PyTorch form, so that it can stand in an AutodiffComposition
and be part of ``learn()``; entries for each of several environments of one agent; a search of all entries at once;
and the kernels of the paper (PsyNeuLink's cosine distance takes the *absolute* cosine). Both modes of PsyNeuLink
read and write the same arrays, so nothing has to be carried over between ``run()`` and ``learn()``.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.core.components.functions.function import FunctionError
from psyneulink.core.globals.context import handle_external_context
from psyneulink.core.globals.keywords import OLDEST
from psyneulink.core.globals.parameters import Parameter, check_user_specified
from psyneulink.core.globals.utilities import convert_all_elements_to_np_array
from torch import Tensor

from .entries import EntriesByContext, execution_id_of
from .pytorch_memory import PytorchMemory
from .search import BASE_FUNCTIONS, KernelSearch

KERNEL_SETTINGS = ("kernel", "retrieval", "sharpness", "forgetting")


class EpisodicMemory(pnl.ContentAddressableMemory):
    """A ``ContentAddressableMemory``; with a kernel, one that can be searched as in the paper, and trained.

    Called with an entry (one array a field), it retrieves the entry that matches it best, with probability
    ``retrieval_prob``, and then stores it, with probability ``storage_prob``. An empty memory gives zeros.

    Without a kernel all is as in PsyNeuLink's class, by its own code, but

    * entries are apart for each execution context: in PsyNeuLink's, one finds those of the other, or fails;
    * entries of unequal fields are what was stored: PsyNeuLink's ``memory``, which it searches, shows others once
      the oldest is dropped;
    * ``reset()`` works without an initializer, where PsyNeuLink's fails: nothing is stored then; nor is anything
      after one with entries that do not fit, while PsyNeuLink's ``memory`` shows those that are gone;
    * after ``reset()`` of a mechanism its value is zeros: PsyNeuLink puts the entries in the place of their
      fields, and fails if they are fewer.

    Args:
        kernel: ``l2``, ``l1`` or ``cosine``: it is a ``KernelMemory``, which see. None (default): as above.
        others: those of ``ContentAddressableMemory``.
    """

    _last_id: Any = None  # of the context last used, which ``memory`` shows

    def __new__(cls, *args: Any, kernel: str | None = None, **kwargs: Any) -> EpisodicMemory:
        """With a kernel, a ``KernelMemory``."""
        return super().__new__(cls if kernel is None or cls is not EpisodicMemory else KernelMemory)

    @check_user_specified
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        of_kernel = [name for name in KERNEL_SETTINGS if kwargs.pop(name, None) is not None]
        if of_kernel:
            raise FunctionError(
                f"{type(self).__name__}: it has no kernel, without which there is no {', '.join(of_kernel)}. "
                "Give kernel='l2', 'l1' or 'cosine' to EpisodicMemory, or to a subclass of KernelMemory."
            )
        super().__init__(*args, **kwargs)

    @property
    def _memory(self) -> Any:
        """Entries of the context last used; PsyNeuLink's class keeps one for all here, beside that of each."""
        context = pnl.Context(execution_id=self._last_id)
        entries = self.parameters.previous_value._get(context, fallback_value=None)
        return [] if entries is None else entries

    @_memory.setter
    def _memory(self, entries: Any) -> None:
        if isinstance(entries, np.ndarray) and len(entries) != len(self._memory):  # else it holds them by now
            self.parameters.previous_value._set(entries, pnl.Context(execution_id=self._last_id))

    def store_entry(self, entry: Sequence[np.ndarray], context: Any = None) -> bool:
        """Store one entry, one array a field, whatever ``storage_prob`` is. False if it was a duplicate."""
        context = pnl.Context(execution_id=execution_id_of(context))
        return self._store_memory(convert_all_elements_to_np_array(list(entry)), context)

    def _store_memory(self, entry: Any, context: Any) -> bool:
        self._last_id = context.execution_id
        return super()._store_memory(entry, context)

    @handle_external_context()
    def delete_from_memory(self, entries: Any, fields: Any = None, context: Any = None) -> None:
        """As in PsyNeuLink's class."""
        self._last_id = context.execution_id
        super().delete_from_memory(entries, fields, context=context)

    @handle_external_context()
    def get_memory(self, cue: Any, field_weights: Any = None, context: Any = None) -> np.ndarray:
        """As in PsyNeuLink's class."""
        self._last_id = context.execution_id
        return super().get_memory(cue, field_weights, context=context)

    @handle_external_context(fallback_most_recent=True)
    def reset(self, new_value: Any = None, context: Any = None) -> Any:
        """Begin again with ``new_value`` (entries), or the ``initializer``, or nothing."""
        self._last_id = context.execution_id
        if new_value is None and self._get_current_parameter_value("initializer", context) is None:
            self.parameters.previous_value._set(None, context)
        else:
            super().reset(new_value, context=context)
        return self._memory if self.owner is None else _zeros_like(self.defaults.variable)


class KernelMemory(EpisodicMemory, KernelSearch):
    """An ``EpisodicMemory`` with the kernels of the paper, and a PyTorch form.

    Beside what is said of ``EpisodicMemory``, these are not as in PsyNeuLink's class:

    * ``distance_function``, ``selection_function`` and ``duplicate_threshold`` are refused: the kernel searches
      all entries at once, and can be differentiated;
    * what is not given is as in the paper: the first field is the key, which alone counts
      (``distance_field_weights``), the oldest of equally similar entries is taken, each entry is a further one;
    * the form of an entry is that of ``default_variable``, the initializer or the mechanism, not of the first
      call: all contexts and PyTorch mode share it. So entries can be stored before the first call;
    * entries are duplicates if their weighted fields are equal, as in the reference; where no field counts, none
      is one. Of several, ``OVERWRITE`` replaces the newest, and retrieval takes the one that
      ``equidistant_entries_select`` says;
    * entries can be deleted if their fields have unequal sizes, or by some of their fields;
    * ``previous_value``, ``distance`` and what else PsyNeuLink's class shows of its entries are not kept.

    Args:
        kernel: ``l2``, ``l1`` or ``cosine``: the similarity of entries.
        retrieval: ``nearest``, or ``average``: all entries weighted by softmax(sharpness · similarity).
        sharpness: inverse temperature of those weights.
        forgetting: by each entry stored later, an entry's weight in the average falls by the factor e^−forgetting
            (recency, as in Bornstein et al., 2017); 0 (default): an entry's age does not matter.
        others: those of ``ContentAddressableMemory``.

    Raises:
        FunctionError: a setting that is unknown or out of range, or has no effect with a kernel; an entry whose
            fields do not have the sizes of the others.
    """

    class Parameters(EpisodicMemory.Parameters):
        """kernel, retrieval, sharpness and forgetting, beside the Parameters of the base."""

        kernel = Parameter("l2", stateful=False, loggable=False)
        retrieval = Parameter("nearest", stateful=False, loggable=False)
        sharpness = Parameter(1.0, modulable=True)
        forgetting = Parameter(0.0, modulable=True)
        # None, so that it is seen if they are set.
        distance_function = Parameter(None, stateful=False, loggable=False)
        selection_function = Parameter(None, stateful=False, loggable=False)

    @check_user_specified
    def __init__(self, default_variable: Any = None, *, initializer: Any = None, **settings: Any) -> None:
        EntriesByContext.__init__(self)
        for name in (*BASE_FUNCTIONS, "duplicate_threshold"):
            self.refuse(name, settings.get(name) is not None)
        if default_variable is not None or initializer is not None:
            form = initializer if default_variable is None else default_variable
            default_variable = self._enforce_memory_shape(form)[0]
        n_fields = 2 if default_variable is None else len(default_variable)
        of_paper = {
            "distance_field_weights": [1] + [0] * (n_fields - 1),
            "duplicate_entries_allowed": True,
            "equidistant_entries_select": OLDEST,
        }
        settings = {name: value for name, value in settings.items() if value is not None}
        # The constructor of ContentAddressableMemory takes no further Parameters; its parent's does.
        super(pnl.ContentAddressableMemory, self).__init__(
            default_variable=default_variable, initializer=initializer, **(of_paper | settings)
        )
        self.retrieval_settings()  # raises an error for what is not known
        self.limit(None)

    # ---- entries ---------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """What messages call it."""
        owner = getattr(self, "owner", None)  # not there before it is made
        return "EpisodicMemory" if owner is None else f"EpisodicMemory of '{owner.name}'"

    def field_sizes(self) -> list[int]:
        """Columns of each field of an entry."""
        return [np.size(part) for part in self.defaults.variable]

    def limit(self, context: Any) -> int:
        """Entries that an environment holds before its oldest is dropped."""
        limit = int(self.setting("max_entries", context))
        if limit < 1:
            raise FunctionError(f"{self.label}: max_entries must be at least 1; got {limit}.")
        return limit

    @property
    def _memory(self) -> Any:
        """Entries of the context last used: (n, fields, size), or of objects (n, fields)."""
        if not self._banks:
            return []
        fields = self.entries(self._last_id)
        if len({f.shape[1] for f in fields}) == 1:
            return np.stack(fields, axis=1)
        entries = np.empty((len(fields[0]), len(fields)), dtype=object)
        for i, f in enumerate(fields):
            entries[:, i] = list(f)
        return entries

    store_entry = KernelSearch.store_entry

    def with_noise(self, entry: list[np.ndarray], context: Any) -> list[np.ndarray]:
        """The entry with noise."""
        noise = self.setting("noise", context)
        if not callable(noise) and not np.any(noise):
            return entry
        whole = convert_all_elements_to_np_array(entry)
        return [*(whole + self._try_execute_param(noise, whole, context=context))]

    def _store_memory(self, entry: Any, context: Any) -> bool:
        self._last_id = execution_id_of(context)
        return self.store_entry(entry, context)

    @handle_external_context()
    def delete_from_memory(self, entries: Any, fields: Any = None, context: Any = None) -> None:
        """Drop all entries equal to one of those given, in every field or in the fields (indices) named."""
        self._last_id = context.execution_id
        kept = self.entries(context)
        compared = np.atleast_1d([] if fields is None else fields).astype(int)
        for entry in self._parse_memories(entries, "delete_from_memory", context):
            equal = [(field == part).all(1) for field, part in zip(kept, entry, strict=True)]
            keep = ~np.logical_and.reduce([equal[i] for i in compared] or equal)
            kept = [field[keep] for field in kept]
        self.set_entries(kept, context)

    @handle_external_context(fallback_most_recent=True)
    def reset(self, new_value: Any = None, context: Any = None) -> Any:
        """Begin again in all environments with ``new_value`` (entries), or the ``initializer``, or nothing."""
        if self._banks:
            self.clear(context, environment=None)
        return super().reset(new_value, context=context)

    @handle_external_context()
    def get_memory(self, cue: Any, field_weights: Any = None, context: Any = None) -> np.ndarray:
        """The entry that matches a cue best, without storing anything; zeros if nothing is stored."""
        self._last_id = context.execution_id
        with torch.no_grad():
            fields = self.match(_tensors(cue), context, field_weights=field_weights)
        return convert_all_elements_to_np_array([f.numpy() for f in fields])

    # ---- what PsyNeuLink calls -------------------------------------------------------------------------

    def _function(self, variable: Any = None, context: Any = None, params: Any = None) -> np.ndarray:
        variable = convert_all_elements_to_np_array(variable)
        if self.is_initializing:
            return variable
        if variable.dtype != object and variable.ndim == 1:  # one field
            variable = variable[None]
        if any(part is None for part in variable):  # nothing projects there: as in PyTorch mode
            defaults = zip(variable, self.defaults.variable, strict=True)
            variable = [default if part is None else part for part, default in defaults]
        with torch.no_grad():
            fields = self.step(_tensors(variable), context)
        return convert_all_elements_to_np_array([f.numpy() for f in fields])

    def _gen_pytorch_fct(self, device: Any, context: Any = None) -> PytorchMemory:
        return PytorchMemory(self, execution_id_of(context))

    def _instantiate_attributes_before_function(self, function: Any = None, context: Any = None) -> None:
        self._initialize_previous_value(self.parameters.initializer._get(context), context)

    def _initialize_previous_value(self, initializer: Any, context: Any = None) -> Any:
        """Entries live in rings, not in ``previous_value``, which the PyTorch backend overwrites."""
        if initializer is not None and not self._banks:
            self.defaults.variable = _zeros_like(initializer[0])
        value = super()._initialize_previous_value(initializer, context)
        self.parameters.previous_value.set(None, context, override=True)
        return value

    def _validate(self, context: Any = None) -> None:
        """PsyNeuLink's class tries out its distance and selection functions here; there are none."""

    def _parse_selection_function_variable(self, variable: Any, context: Any = None) -> Any:
        return np.zeros(2)  # PsyNeuLink's class asks its distance function

    def _validate_entry(self, entry: Any, context: Any) -> None:
        self.check_form(list(np.atleast_1d(entry)))

    def setting(self, name: str, context: Any) -> Any:
        """A Parameter's value in a context, modulated if it is; that of no context before the first run."""
        execution_id = execution_id_of(context)
        known = execution_id in getattr(self.parameters, name).values
        if not known or not isinstance(context, pnl.Context):
            context = pnl.Context(execution_id=execution_id if known else None)
        return self._get_current_parameter_value(name, context)


def _zeros_like(entry: Any) -> np.ndarray:
    return convert_all_elements_to_np_array([np.zeros(np.shape(part)) for part in entry])


def _tensors(entry: Any) -> list[Tensor]:
    return [torch.from_numpy(np.array(part, dtype=float)) for part in entry]
