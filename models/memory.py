"""The episodic memory of the composition: PsyNeuLink's content-addressable memory, completed.

``EpisodicMemory`` is a ``pnl.ContentAddressableMemory`` for an ``EpisodicMemoryMechanism`` in any composition.
What it adds to its base: a PyTorch form, so that it can stand in an AutodiffComposition and be part of
``learn()``; entries kept apart for each execution context, and in it for each of several environments of one
agent; ``clear()``; retrieval of all entries at once; the kernels of the paper (PsyNeuLink's cosine distance takes
the *absolute* cosine); fields of unequal length wherever the base has trouble with them. ``EncodingMechanism``
stores an entry whose value exists only after the retrieval it depends on.

Both modes read and write the same arrays, so nothing has to be carried over between ``run()`` and ``learn()``.
"""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportReturnType=false, reportOptionalCall=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psyneulink as pnl
import torch
from psyneulink.core.components.functions.function import Function_Base, FunctionError
from psyneulink.core.globals.context import handle_external_context
from psyneulink.core.globals.keywords import NEWEST, OLDEST, OVERWRITE, RANDOM
from psyneulink.core.globals.parameters import Parameter, check_user_specified
from psyneulink.core.globals.utilities import convert_all_elements_to_np_array
from torch import Tensor

from .bank import Bank, Repeated
from .kernels import KERNELS
from .kernels import kernel as kernel_of
from .match import Retrieval, View, average_weights


def execution_id_of(context: Any) -> Any:
    """The execution_id that is meant by a ``Context``, an execution_id, a composition (its own), or None."""
    if isinstance(context, pnl.Composition):
        return context.default_execution_id
    return getattr(context, "execution_id", context)


class EpisodicMemory(pnl.ContentAddressableMemory):
    """A ``ContentAddressableMemory`` with the kernels of the paper, a PyTorch form, and entries by context.

    Called with an entry (one array a field), it retrieves the entry that matches it best, with probability
    ``retrieval_prob``, and then stores it, with probability ``storage_prob``, as its base does. An empty
    memory gives zeros.

    Args:
        default_variable: an entry's form, such as ``[[0] * K, [0] * H]`` for a key and a value.
        kernel: ``l2``, ``l1`` or ``cosine``; takes the place of the base's ``distance_function``.
        retrieval: ``nearest``, or ``average``: all entries weighted by softmax(sharpness · similarity); takes
            the place of the base's ``selection_function``.
        sharpness: inverse temperature of those weights.
        forgetting: by each entry stored later, an entry's weight in the average falls by the factor e^−forgetting
            (recency, as in Bornstein et al., 2017); 0 (default): an entry's age does not matter.
        distance_field_weights: weight of each field in the similarity; by default only the first counts, the
            key. Equal weights compare whole entries; others weigh the fields' similarities, as in the base.
        equidistant_entries_select: ``OLDEST`` (default), ``NEWEST`` or ``RANDOM`` of equally similar entries.
        duplicate_entries_allowed: what storing an entry does whose weighted fields equal those of a stored
            one: ``True`` (default): a further entry; ``OVERWRITE``: the newest such entry is replaced, and
            keeps its age; ``False``: nothing is stored.
        max_entries: entries held before the oldest is dropped.
        initializer: entries to begin with.
        retrieval_prob, storage_prob, noise, seed: as in the base.

    Raises:
        FunctionError: an unknown kernel, or an entry whose fields do not have the sizes of the others.
    """

    class Parameters(pnl.ContentAddressableMemory.Parameters):
        """kernel, retrieval, sharpness and forgetting, beside the Parameters of the base."""

        kernel = Parameter("l2", stateful=False, loggable=False)
        retrieval = Parameter("nearest", stateful=False, loggable=False)
        sharpness = Parameter(1.0, modulable=True)
        forgetting = Parameter(0.0, modulable=True)
        distance_field_weights = Parameter([1, 0], stateful=True, modulable=True)
        duplicate_entries_allowed = Parameter(True, stateful=True)
        equidistant_entries_select = Parameter(OLDEST)
        # What the base would compute one entry at a time; setting one is refused at the next call.
        distance_function = Parameter(None, stateful=False, loggable=False)
        selection_function = Parameter(None, stateful=False, loggable=False)

        def _validate_kernel(self, kernel):
            if kernel not in KERNELS:
                return f"must be one of {', '.join(map(repr, KERNELS))}."

        def _validate_retrieval(self, retrieval):
            if retrieval not in ("nearest", "average"):
                return "must be 'nearest' or 'average'."

        def _validate_max_entries(self, max_entries):
            if max_entries < 1:
                return "must be at least 1."

    @check_user_specified
    def __init__(
        self,
        default_variable: Any = None,
        kernel: str | None = None,
        retrieval: str | None = None,
        sharpness: float | None = None,
        forgetting: float | None = None,
        distance_field_weights: Any = None,
        equidistant_entries_select: str | None = None,
        duplicate_entries_allowed: bool | str | None = None,
        max_entries: int | None = None,
        initializer: Any = None,
        retrieval_prob: float | None = None,
        storage_prob: float | None = None,
        noise: Any = None,
        seed: int | None = None,
        params: Any = None,
        owner: Any = None,
        prefs: Any = None,
    ) -> None:
        self._banks: dict[Any, Bank] = {}  # by execution_id; a ring an environment
        self._last_id: Any = None  # the context of the last call, which ``memory`` shows
        self.reads = True
        """False lesions the memory: it retrieves nothing."""
        # The constructor of ContentAddressableMemory itself takes no further Parameters; its parent's does.
        super(pnl.ContentAddressableMemory, self).__init__(
            default_variable=default_variable,
            kernel=kernel,
            retrieval=retrieval,
            sharpness=sharpness,
            forgetting=forgetting,
            distance_field_weights=distance_field_weights,
            equidistant_entries_select=equidistant_entries_select,
            duplicate_entries_allowed=duplicate_entries_allowed,
            max_entries=max_entries,
            initializer=initializer,
            retrieval_prob=retrieval_prob,
            storage_prob=storage_prob,
            noise=noise,
            seed=seed,
            params=params,
            owner=owner,
            prefs=prefs,
        )

    # ---- entries ---------------------------------------------------------------------------------------

    def bank(self, context: Any = None) -> Bank:
        """The entries of an execution context (a ``Context``, its execution_id, a composition whose own is meant,
        or None), made if need be: a ring for each of several environments of one agent."""
        execution_id = execution_id_of(context)
        limit = int(self._setting("max_entries", pnl.Context(execution_id=execution_id)))
        bank = self._banks.get(execution_id)
        if bank is None:
            sizes = [np.size(part) for part in self.defaults.variable]
            bank = self._banks[execution_id] = Bank(sizes, limit)
        if bank.limit != limit:  # the Parameter was changed since
            bank.resize(limit)
        return bank

    def _bank_with(self, context: Any, environment: int) -> Bank:
        """The same, with a ring for this environment."""
        if environment < 0:
            raise FunctionError(f"{self._label}: environment must be at least 0; got {environment}.")
        bank = self.bank(context)
        bank.open(environment + 1)
        return bank

    def environments(self, context: Any = None) -> int:
        """Number of environments that an execution context has used; at least 1."""
        bank = self._banks.get(execution_id_of(context))
        return 1 if bank is None else len(bank)

    def entries(self, context: Any = None, environment: int = 0) -> list[np.ndarray]:
        """Copies of the entries, oldest first: an array (n, size) for each field."""
        return self._bank_with(context, environment).entries(environment)

    def set_entries(self, fields: Sequence[np.ndarray], context: Any = None, environment: int = 0) -> None:
        """Hold these entries instead: an array (n, size) for each field, oldest first."""
        self._bank_with(context, environment).set_entries(fields, environment)

    def clear(self, context: Any = None, environment: int | None = 0) -> None:
        """Drop all entries of an environment of an execution context; with None, of all its environments."""
        if environment is None:
            self.bank(context).clear()
        else:
            self._bank_with(context, environment).clear(environment)

    def forget_contexts(self) -> None:
        """Drop the entries of all execution contexts, and the contexts with them."""
        self._banks.clear()

    @contextmanager
    def other_entries(self, fields: Sequence[np.ndarray], context: Any = None) -> Iterator[None]:
        """For the time being hold these entries instead, in a context's one environment, number 0."""
        execution_id = execution_id_of(context)
        kept = self._banks.pop(execution_id, None)
        try:
            self.set_entries(fields, context)
            yield
        finally:
            self._banks.pop(execution_id, None)
            if kept is not None:
                self._banks[execution_id] = kept

    @property
    def memory(self) -> np.ndarray:
        """Entries of the context last used, in the base's form: (n, fields, size), or of objects (n, fields)."""
        fields = self.entries(self._last_id)
        if len({f.shape[1] for f in fields}) == 1:
            return np.stack(fields, axis=1)
        entries = np.empty((len(fields[0]), len(fields)), dtype=object)
        for i, f in enumerate(fields):
            entries[:, i] = list(f)
        return entries

    @property
    def memory_num_entries(self) -> int:
        """Number of entries in the context last used."""
        return self.bank(self._last_id).count()

    # ---- storing ---------------------------------------------------------------------------------------

    def store_entry(self, entry: Sequence[np.ndarray], context: Any = None, environment: int = 0) -> bool:
        """Store one entry, one array a field, whatever ``storage_prob`` is. False if it was a duplicate."""
        bank = self._bank_with(context, environment)
        entry = [np.asarray(part, dtype=float).reshape(-1) for part in entry]
        sizes = [field.shape[2] for field in bank.fields]
        if [len(part) for part in entry] != sizes:
            raise FunctionError(
                f"{self._label}: an entry has fields of sizes {[len(part) for part in entry]}; "
                f"its entries have {sizes}."
            )
        noise = self._try_execute_param(self._setting("noise", context), entry, context=context)
        if noise is not None and np.any(noise):
            entry = [part + np.asarray(noise).reshape(-1)[0] for part in entry]
        compared = [i for i, weight in enumerate(self._field_weights(len(entry), context)) if weight]
        rows = [part[None] for part in entry]
        _, stored = bank.write(np.array([environment]), rows, self.repeated(context), compared)
        return bool(stored[0])

    def draws_ties(self, context: Any = None) -> bool:
        """Whether it draws which of equally similar entries it takes."""
        return self._setting("equidistant_entries_select", context) == RANDOM

    def repeated(self, context: Any = None) -> Repeated:
        """What becomes of an entry that is stored already, as ``duplicate_entries_allowed`` says."""
        allowed = self._setting("duplicate_entries_allowed", context)
        return "append" if allowed is True else "overwrite" if allowed == OVERWRITE else "ignore"

    def _store_memory(self, entry: Any, context: Any) -> bool:
        return self.store_entry(list(entry), context)

    @handle_external_context()
    def add_to_memory(self, entries: Any, context: Any = None) -> None:
        """Store one entry or several, in order, whatever ``storage_prob`` is."""
        for entry in self._parse_entries(entries):
            self.store_entry(entry, context)

    @handle_external_context()
    def delete_from_memory(self, entries: Any, fields: Any = None, context: Any = None) -> None:
        """Drop all entries equal to one of those given, in every field or in the fields (indices) named."""
        kept = self.entries(context)
        compared = range(len(kept)) if fields is None else np.atleast_1d(fields)
        for entry in self._parse_entries(entries):
            keep = ~np.logical_and.reduce([(kept[i] == entry[i]).all(1) for i in compared])
            kept = [f[keep] for f in kept]
        self.set_entries(kept, context)

    def _parse_entries(self, entries: Any) -> list[list[np.ndarray]]:
        single = np.ndim(entries[0][0]) == 0
        return [[np.asarray(part, dtype=float) for part in e] for e in ([entries] if single else entries)]

    @handle_external_context()
    def store(self, entry: Any, context: Any = None, **kwargs: Any) -> None:
        """Store one entry, whatever ``storage_prob`` is (the base obeys it and stores nothing at 0)."""
        self._last_id = context.execution_id
        self.store_entry(entry, context)

    @handle_external_context(fallback_most_recent=True)
    def reset(self, new_value: Any = None, context: Any = None) -> np.ndarray:
        """Begin again with ``new_value`` (entries), or the ``initializer``, or nothing."""
        value = self.parameters.initializer.get(context) if new_value is None else new_value
        self.clear(context, environment=None)
        for entry in [] if value is None else self._parse_entries(value):
            self.store_entry(entry, context)
        self._last_id = context.execution_id
        return self.memory

    # ---- retrieving ------------------------------------------------------------------------------------

    def match(self, cue: Sequence[Tensor], context: Any = None, environment: int = 0) -> list[Tensor]:
        """The entry that matches a cue best: fields (size,) or None where not weighted → fields (size,)."""
        cues = [None if part is None else part.unsqueeze(0) for part in cue]
        fields = range(len(self.defaults.variable))
        return [field[0] for field in self._matches(cues, fields, context, environment)]

    def match_many(self, keys: Tensor, context: Any = None, environment: int = 0) -> Tensor:
        """The values of the entries that match each of T keys best, as T calls of ``match``: (T, K) → (T, H).

        Raises:
            FunctionError: an entry is not a key and a value, of which the key alone counts.
        """
        counts = [weight != 0 for weight in self._field_weights(len(self.defaults.variable), context)]
        if counts != [True, False]:
            raise FunctionError(
                f"{self._label}: match_many needs two fields, key and value, of which the first alone has a "
                f"distance_field_weight; those with one are {counts}. Use match, with whole entries."
            )
        return self._matches([keys, None], [1], context, environment)[0]

    def _matches(
        self, cues: Sequence[Tensor | None], fields: Iterable[int], context: Any, environment: int
    ) -> list[Tensor]:
        """Those fields of what matches each of T cues: fields (T, size), or None → fields (T, size)."""
        bank = self._bank_with(context, environment)
        view = bank.view(slice(environment, environment + 1))
        if view.n == 0:
            n_cues = next(len(cue) for cue in cues if cue is not None)
            return [torch.zeros(n_cues, bank.fields[i].shape[2], dtype=torch.float64) for i in fields]
        entries = [field[environment, : view.n] for field in bank.fields]
        if any(cue is not None and cue.requires_grad for cue in cues):  # later, other entries may lie there
            entries = [field.copy() for field in entries]
        stored = [torch.from_numpy(field) for field in entries]
        similar = self._similarity(cues, stored, context)
        settings = self.retrieval_settings(context)
        if settings.retrieval == "average":
            lag = torch.from_numpy(view.lag).to(similar) if settings.forgetting else None
            weights = average_weights(similar, lag, None, settings.sharpness, settings.forgetting)
            return [weights @ stored[i] for i in fields]
        rows = self._nearest(settings, similar.detach().numpy(), view, context)
        return [stored[i][rows] for i in fields]

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
            raise FunctionError(f"{self._label}: {error}") from error

    def _similarity(self, cues: Sequence[Tensor | None], stored: Sequence[Tensor], context: Any) -> Tensor:
        """Similarity of each of T cues to each entry: fields (T, size), (n, size) → (T, n)."""
        if self.distance_function is not None or self.selection_function is not None:
            raise FunctionError(
                f"{self._label}: a distance_function or selection_function was set, but EpisodicMemory uses "
                "'kernel' and 'retrieval' in their place; set those, or use pnl.ContentAddressableMemory."
            )
        similarity = kernel_of(self.parameters.kernel.get()).similarity
        weights = self._field_weights(len(stored), context)
        if len(set(weights)) == 1 and len(stored) > 1:
            return weights[0] * similarity(torch.cat(list(cues), dim=1), torch.cat(list(stored), dim=1))
        counted = [i for i, weight in enumerate(weights) if weight]
        if not counted:
            return torch.zeros(len(cues[0]), len(stored[0]), dtype=torch.float64)
        return sum(weights[i] * similarity(cues[i], stored[i]) for i in counted) / len(counted)

    def _nearest(self, settings: Retrieval, similar: np.ndarray, view: View, context: Any) -> np.ndarray:
        """Rows of the most similar entries: (T, n) → (T,)."""
        select = self._setting("equidistant_entries_select", context)
        if select == RANDOM:
            draw = self._setting("random_state", context).choice
            order = np.argsort(-view.lag[0])  # by age, so that draws do not depend on where entries lie
            return np.array([order[draw(np.flatnonzero((each == each.max())[order]))] for each in similar])
        if select not in (OLDEST, NEWEST):
            raise FunctionError(
                f"{self._label}: equidistant_entries_select must be {OLDEST!r}, {NEWEST!r} or {RANDOM!r}; "
                f"got {select!r}."
            )
        return settings.nearest(similar[None], view)[0]

    def _field_weights(self, n_fields: int, context: Any) -> list[float]:
        weights = np.atleast_1d(self._setting("distance_field_weights", context))
        weights = [float(w or 0) for w in weights]
        if len(weights) == 1:
            weights = weights * n_fields
        if len(weights) != n_fields:
            raise FunctionError(
                f"{self._label}: distance_field_weights has {len(weights)} weights for {n_fields} fields."
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
            self.store_entry([part.detach().numpy() for part in cue], context, environment)
        return retrieved

    def _occurs(self, name: str, context: Any) -> bool:
        probability = float(np.squeeze(self._setting(name, context)))
        if probability in (0.0, 1.0):
            return bool(probability)
        return probability > self._setting("random_state", context).uniform()

    @handle_external_context()
    def get_memory(self, cue: Any, field_weights: Any = None, context: Any = None) -> np.ndarray:
        """The entry that matches a cue best, without storing anything; zeros if nothing is stored."""
        if field_weights is not None:
            raise FunctionError(f"{self._label}: set distance_field_weights rather than give field_weights.")
        with torch.no_grad():
            fields = self.match([torch.as_tensor(np.asarray(p, dtype=float)) for p in cue], context)
        return convert_all_elements_to_np_array([f.numpy() for f in fields])

    @handle_external_context()
    def retrieve(self, entry: Any, context: Any = None, **kwargs: Any) -> np.ndarray:
        """The entry that matches best, without storing anything."""
        return self.get_memory(entry, context=context)

    # ---- what PsyNeuLink calls -------------------------------------------------------------------------

    def _function(self, variable: Any = None, context: Any = None, params: Any = None) -> np.ndarray:
        variable = convert_all_elements_to_np_array(variable)
        if self.is_initializing:
            return variable
        with torch.no_grad():
            fields = self.step([torch.from_numpy(np.array(p, dtype=float)) for p in variable], context)
        return convert_all_elements_to_np_array([f.numpy() for f in fields])

    def _gen_pytorch_fct(self, device: Any, context: Any = None) -> PytorchMemory:
        return PytorchMemory(self, getattr(context, "execution_id", context))

    def _initialize_previous_value(self, initializer: Any, context: Any = None) -> None:
        """Entries live in rings, not in ``previous_value``, which the PyTorch backend overwrites."""

    def _instantiate_attributes_before_function(self, function: Any = None, context: Any = None) -> None:
        initializer = self.parameters.initializer.get(context)
        if initializer is not None:
            for entry in self._parse_entries(initializer):
                self.store_entry(entry, context)

    def _validate(self, context: Any = None) -> None:
        """The base tries out its distance and selection functions here; there are none."""

    def _setting(self, name: str, context: Any) -> Any:
        """A Parameter's value in a context, modulated if it is; that of no context before the first run."""
        execution_id = execution_id_of(context)
        known = execution_id in getattr(self.parameters, name).values
        if not known or not isinstance(context, pnl.Context):
            context = pnl.Context(execution_id=execution_id if known else None)
        return self._get_current_parameter_value(name, context)

    @property
    def _label(self) -> str:
        return f"EpisodicMemory of '{self.owner.name}'" if self.owner is not None else "EpisodicMemory"


class FieldwiseCall:
    """A function of several fields for PsyNeuLink's PyTorch backend, which may hand them over one by one.

    The backend calls a mechanism's function once with (batch, step, field, size) if all its ports have one size;
    if not, once for each port with (batch, step, size), in order, and takes what each call returns as that
    port's output. ``on_fields`` takes all at once, as a list.
    """

    def __init__(self, n_fields: int) -> None:
        self.n_fields = n_fields
        self._waiting: list[Tensor] = []

    def on_fields(self, fields: list[Tensor]) -> list[Tensor]:
        """Compute on the fields, each (batch, step, size)."""
        raise NotImplementedError

    def on_part(self, fields: list[Tensor]) -> Tensor:
        """What a call returns that came with field number len(fields) - 1, before all are there."""
        raise NotImplementedError

    def __call__(self, variable: Tensor) -> Tensor:
        """The function as PsyNeuLink calls it: on all fields at once, or on the next one."""
        if variable.ndim == 4:
            return torch.stack(self.on_fields(list(variable.unbind(2))), dim=2)
        self._waiting.append(variable)
        if len(self._waiting) < self.n_fields:
            return self.on_part(self._waiting)
        fields, self._waiting = self._waiting, []
        return self.on_fields(fields)[-1]


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
            self.memory.step([f[b, s] for f in fields], context, environment=b)
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
                f"{self.memory._label}: in this composition its fields have unequal sizes and reach it one by "
                "one. This works for one step of one trial at a time, with the fields that count in the "
                "distance before the others; otherwise give all fields the same size, or use "
                "eplstm.models.RecurrentComposition."
            )
        return self.memory.match([f[0, 0] for f in fields] + [None] * len(later), context)[here].view(1, 1, -1)


class StoreEntry(Function_Base):
    """Store an entry in an ``EpisodicMemory`` if a switch says so.

    Its variable is the entry's fields followed by the switch (1,): above .5, the entry is stored. Its value is
    the switch.

    Args:
        memory: the ``EpisodicMemory`` to store in.
        default_variable: the form of the variable, such as ``[[0] * K, [0] * H, [0]]``.
    """

    componentName = "StoreEntry"
    componentType = "StorageFunction"

    class Parameters(Function_Base.Parameters):
        """variable: the fields and the switch."""

        variable = Parameter([[0], [0], [0]], pnl_internal=True, constructor_argument="default_variable")

    @check_user_specified
    def __init__(
        self,
        memory: EpisodicMemory | None = None,
        default_variable: Any = None,
        params: Any = None,
        owner: Any = None,
        prefs: Any = None,
    ) -> None:
        self.memory = memory
        super().__init__(default_variable=default_variable, params=params, owner=owner, prefs=prefs)

    def _function(self, variable: Any = None, context: Any = None, params: Any = None) -> np.ndarray:
        *entry, switch = variable
        if not self.is_initializing and float(np.squeeze(switch)) > 0.5:
            self.memory.store_entry(entry, context)
        return np.atleast_2d(np.asarray(switch, dtype=float))

    def _gen_pytorch_fct(self, device: Any, context: Any = None) -> PytorchStore:
        return PytorchStore(self, getattr(context, "execution_id", context))


class PytorchStore(FieldwiseCall):
    """``StoreEntry`` in PyTorch mode; what is stored is detached."""

    def __init__(self, function: StoreEntry, execution_id: Any) -> None:
        super().__init__(len(function.defaults.variable))
        self.store, self.execution_id = function, execution_id

    def on_fields(self, fields: list[Tensor]) -> list[Tensor]:
        """Store for each trial, in its environment, and step: fields (batch, step, size) → the switch."""
        *entry, switch = fields
        context = pnl.Context(execution_id=self.execution_id)
        for b, s in torch.nonzero(switch[..., 0] > 0.5).tolist():
            self.store.memory.store_entry([f[b, s].detach().numpy() for f in entry], context, environment=b)
        return [switch]

    def on_part(self, fields: list[Tensor]) -> Tensor:
        """Nothing is stored before the switch is there."""
        return fields[-1]


class EncodingMechanism(pnl.ProcessingMechanism):
    """Stores an entry in the memory of an ``EpisodicMemoryMechanism`` at the steps that its switch says.

    For entries that exist only after a retrieval (such as a cell state that depends on it): let the memory
    retrieve without storing (``storage_prob=0``), and project key, value and switch to this mechanism.

    Args:
        memory: an ``EpisodicMemoryMechanism`` whose function is an ``EpisodicMemory``.
        port_names: names of the input ports: the fields of an entry, and the switch.
        name: the mechanism's.

    Raises:
        FunctionError: the memory's function is not an ``EpisodicMemory``.
    """

    @check_user_specified
    def __init__(
        self,
        memory: pnl.EpisodicMemoryMechanism | None = None,
        port_names: Sequence[str] = ("key", "value", "encode"),
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        function = getattr(memory, "function", None)
        if not isinstance(function, EpisodicMemory):
            raise FunctionError(
                "EncodingMechanism: memory must be an EpisodicMemoryMechanism whose function is an "
                f"EpisodicMemory; got {memory!r}."
            )
        variable = [np.zeros(np.size(part)) for part in function.defaults.variable] + [np.zeros(1)]
        ports = [pnl.InputPort(name=port, variable=part) for port, part in zip(port_names, variable, strict=True)]
        super().__init__(
            input_ports=ports,
            function=StoreEntry(memory=function, default_variable=variable),
            name=name,
            **kwargs,
        )
        # It needs no receiver: what it does is to store.
        self.output_port.parameters.require_projection_in_composition._set(False, pnl.Context(), override=True)
