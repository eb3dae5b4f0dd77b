"""Records as tables: one row a step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import entr

from .weights import GATE_ORDER

if TYPE_CHECKING:
    import pandas as pd

IN_RECORD = ("action", "reward")
"""Facts of worlds that a record has itself."""


def frame_of_steps(exists: np.ndarray, columns: Mapping[str, Any]) -> pd.DataFrame:
    """A table of the steps that exist, trial by trial.

    Args:
        exists: (n, T) bool.
        columns: what is known of each step, (n, T), or of each trial, (n,), or of all; None is left out.

    Raises:
        ValueError: a column is of another length.
    """
    import pandas as pd  # takes half a second, which training does not need

    given = {name: np.asarray(values) for name, values in columns.items() if values is not None}
    for name, array in given.items():
        if array.shape not in ((), exists.shape[:1], exists.shape):
            raise ValueError(
                f"to_frame: {name} must be one value, or one for each of {len(exists)} trials; got the shape "
                f"{array.shape}."
            )
    whole = {name: array if array.ndim == 2 else array[..., None] for name, array in given.items()}
    return pd.DataFrame({name: np.broadcast_to(array, exists.shape)[exists] for name, array in whole.items()})


def choice_columns(policy: np.ndarray, action: np.ndarray) -> dict[str, np.ndarray]:
    """What the policy (n, T, A) says of the action taken, and of all, (n, T) each."""
    of_action = np.take_along_axis(policy, np.maximum(action, 0)[..., None], -1)[..., 0]
    return {"policy_chosen": np.where(action < 0, np.nan, of_action), "entropy": entr(policy).sum(-1)}


def state_columns(gates: np.ndarray, memory: np.ndarray) -> dict[str, np.ndarray]:
    """Means of the gates (n, T, 4, H) over units, and the norm of r_t ∘ m_t, (n, T) each."""
    means = {f"{name}_gate": gates[:, :, k].mean(-1) for k, name in enumerate(GATE_ORDER[:4])}
    return means | {"reinstated": np.linalg.norm(gates[:, :, 3] * memory, axis=-1)}


def retrieved_columns(
    trial: np.ndarray, entry: np.ndarray, stored_by: np.ndarray, weight: np.ndarray
) -> dict[str, np.ndarray]:
    """What was retrieved, with NaN for -1, and how many trials ago it was stored, (n, T) each; trials: (n,)."""
    entry, stored_by = (np.where(array < 0, np.nan, array) for array in (entry, stored_by))
    lag = trial[:, None] - stored_by
    return dict(retrieved_entry=entry, retrieved_trial=stored_by, retrieved_weight=weight, lag=lag)


def fact_columns(facts: Mapping[str, np.ndarray], others: Collection[str]) -> dict[str, np.ndarray]:
    """Facts of worlds by name, with ``task_`` in front where another column has the name."""
    names = {name: f"task_{name}" if name in others else name for name in facts if name not in IN_RECORD}
    return {column: facts[name] for name, column in names.items()}
