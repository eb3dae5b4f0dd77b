"""The network that people share, and the places of their parameters in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...models.config import ModelConfig
from ...models.person import PARAMETERS, Person
from ...models.weights import check_weights


@dataclass(frozen=True, eq=False)
class TrainedAgent:
    """A trained network.

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

    def person(self, values: Mapping[str, float]) -> Person:
        """The ``Person`` with these natural values; those of observations are left out."""
        own = {name: value for name, value in values.items() if name in PARAMETERS}
        return Person(**own, context_columns=self.context_columns)
