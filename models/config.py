"""The one description of an agent: sizes, kernel, key, and how its memory works. Both models take it."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from .kernels import KERNELS

if TYPE_CHECKING:
    Kernel = str
else:
    Kernel = Literal[tuple(KERNELS)]  # the command line shows what there is
Retrieval = Literal["nearest", "average"]
Ties = Literal["oldest", "newest"]
RepeatedKey = Literal["append", "overwrite"]
Reinstatement = Literal["gate", "input"]


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and memory settings of an episodic-memory LSTM.

    Raises:
        ValueError: a value is outside its range; the message names the value, the limit and the remedy.
    """

    input_size: int
    """Columns of x_t, D."""
    hidden_size: int
    """Units of the hidden and of the cell state, H (dnd-lstm: 32)."""
    n_actions: int
    """Actions, A."""
    memory_capacity: int
    """Entries that the memory holds before its oldest is dropped (dnd-lstm: 100). 0: a plain LSTM, r_t = 0."""
    kernel: Kernel = "l2"
    """Similarity of query and key: negative L2 or L1 distance, or cosine (dnd-lstm has the three; L2)."""
    key: tuple[int, int] | None = None
    """Columns of x_t that are the key, (start, stop); None: all of x_t (dnd-lstm). Ritter et al.: the context."""
    retrieval: Retrieval = "nearest"
    """``nearest``: the value of the most similar entry (dnd-lstm). ``average``: all values, weighted by
    softmax(sharpness · similarity), as in Pritzel et al. (2017), Neural Episodic Control."""
    sharpness: float = 1.0
    """Inverse temperature of the weights of ``retrieval="average"``; not used by ``nearest``."""
    ties: Ties = "oldest"
    """Which of equally similar entries ``nearest`` takes (dnd-lstm: the oldest)."""
    repeated_key: RepeatedKey = "append"
    """What encoding a key that is stored already does: a new entry (dnd-lstm), or ``overwrite``: the value of
    the (newest) entry with that key is replaced, and the entry keeps its age."""
    reinstatement: Reinstatement = "gate"
    """How m_t reaches the cell. ``gate``: r_t ∘ m_t is added to c_t (Ritter et al., 2018). ``input``: the agent to
    compare with, in which m_t is an input of the LSTM beside x_t, through ``memory_weight``, and r_t = 0."""

    def __post_init__(self) -> None:
        for name, least in (("input_size", 1), ("hidden_size", 1), ("n_actions", 1), ("memory_capacity", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"ModelConfig: {name} must be a whole number ≥ {least}; got {value!r}.")
            object.__setattr__(self, name, int(value))
        for name, allowed in (
            ("kernel", tuple(KERNELS)),
            ("retrieval", get_args(Retrieval)),
            ("ties", get_args(Ties)),
            ("repeated_key", get_args(RepeatedKey)),
            ("reinstatement", get_args(Reinstatement)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                options = ", ".join(repr(option) for option in allowed)
                raise ValueError(f"ModelConfig: {name} must be one of {options}; got {value!r}.")
        if self.reinstatement == "input" and self.memory_capacity == 0:
            raise ValueError(
                "ModelConfig: reinstatement='input' needs a memory; got memory_capacity=0. Give a memory_capacity "
                "≥ 1, or leave reinstatement at 'gate', which makes a plain LSTM of it."
            )
        if not isinstance(self.sharpness, (int, float, np.number)) or not 0 < self.sharpness < np.inf:
            raise ValueError(f"ModelConfig: sharpness must be a finite number > 0; got {self.sharpness!r}.")
        object.__setattr__(self, "sharpness", float(self.sharpness))
        if self.key is not None:
            self._check_key()

    def _check_key(self) -> None:
        edges = tuple(self.key) if isinstance(self.key, (tuple, list)) else ()
        whole = [e for e in edges if isinstance(e, (int, np.integer)) and not isinstance(e, bool)]
        if len(edges) != 2 or len(whole) != 2:
            raise ValueError(
                f"ModelConfig: key must be None or a (start, stop) pair of input columns; got {self.key!r}."
            )
        start, stop = (int(edge) for edge in whole)
        if not 0 <= start < stop <= self.input_size:
            raise ValueError(
                f"ModelConfig: key columns {start}:{stop} do not lie within the {self.input_size} input columns; "
                f"it must hold that 0 ≤ start < stop ≤ {self.input_size}."
            )
        object.__setattr__(self, "key", (start, stop))

    @property
    def key_columns(self) -> slice:
        """The input columns that make the key."""
        return slice(0, self.input_size) if self.key is None else slice(*self.key)

    @property
    def key_size(self) -> int:
        """Columns of a key, K."""
        return self.key_columns.stop - self.key_columns.start

    @property
    def has_reinstatement_gate(self) -> bool:
        """Whether there is a gate r_t; without it r_t = 0."""
        return self.memory_capacity > 0 and self.reinstatement == "gate"

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of ``to_dict``; unknown or missing names raise ValueError."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"ModelConfig: unknown settings {unknown}; known are {sorted(known)}.")
        missing = sorted({f.name for f in fields(cls) if f.default is MISSING} - set(values))
        if missing:
            raise ValueError(f"ModelConfig: missing settings {missing}.")
        return cls(**values)
