"""The entries of one memory, apart for each execution context, and in it for each environment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psyneulink as pnl
from psyneulink.core.components.functions.function import FunctionError

from .bank import Bank


def execution_id_of(context: Any) -> Any:
    """The execution_id that is meant by a ``Context``, an execution_id, a composition (its own), or None."""
    if isinstance(context, pnl.Composition):
        return context.default_execution_id
    return getattr(context, "execution_id", context)


class EntriesByContext:
    """A ``Bank`` for each execution context: a ring for each of several environments of one agent.

    A context is a ``Context``, its execution_id, a composition whose own is meant, or None. One that is used for
    the first time begins with what None holds, as all that PsyNeuLink keeps by context.
    """

    def __init__(self) -> None:
        self._banks: dict[Any, Bank] = {}  # by execution_id

    @property
    def label(self) -> str:
        """What messages call this memory."""
        raise NotImplementedError

    def field_sizes(self) -> list[int]:
        """Columns of each field of an entry."""
        raise NotImplementedError

    def limit(self, context: Any) -> int:
        """Entries that an environment holds before its oldest is dropped."""
        raise NotImplementedError

    def bank(self, context: Any = None) -> Bank:
        """The entries of an execution context, made if need be."""
        execution_id = execution_id_of(context)
        limit = self.limit(pnl.Context(execution_id=execution_id))
        bank = self._banks.get(execution_id)
        if bank is None:
            bank = Bank(self.field_sizes(), limit)
            if None in self._banks:
                bank.set_entries(self._banks[None].entries())
            self._banks[execution_id] = bank
        if bank.limit != limit:  # the Parameter was changed since
            bank.resize(limit)
        return bank

    def bank_with(self, environment: int, context: Any = None) -> Bank:
        """The same, with a ring for this environment."""
        if environment < 0:
            raise FunctionError(f"{self.label}: environment must be at least 0; got {environment}.")
        bank = self.bank(context)
        bank.open(environment + 1)
        return bank

    def environments(self, context: Any = None) -> int:
        """Number of environments that an execution context has used; at least 1."""
        bank = self._banks.get(execution_id_of(context))
        return 1 if bank is None else len(bank)

    def entries(self, context: Any = None, environment: int = 0) -> list[np.ndarray]:
        """Copies of the entries, oldest first: an array (n, size) for each field."""
        return self.bank_with(environment, context).entries(environment)

    def set_entries(self, fields: Sequence[np.ndarray], context: Any = None, environment: int = 0) -> None:
        """Hold these entries instead: an array (n, size) for each field, oldest first."""
        self.bank_with(environment, context).set_entries(fields, environment)

    def clear(self, context: Any = None, environment: int | None = 0) -> None:
        """Drop all entries of an environment of an execution context; with None, of all its environments."""
        if environment is None:
            self.bank(context).clear()
        else:
            self.bank_with(environment, context).clear(environment)

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
