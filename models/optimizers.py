"""The optimisers that train a model, Adam and RMSprop: their settings, and their state in one form for all models.

Adam has the defaults of PyTorch (as in dnd-lstm), and is that of ``train`` unless it is told otherwise. RMSprop is
the one with which A2C is trained (Mnih et al., 2016), as Stable-Baselines3 has it: α = .99 and ε = 1e-5 (PyTorch's
default is 1e-8: it lets weights whose gradients are nearly zero take steps of full size), neither centred nor with
momentum:

    s ← α s + (1 − α) g²,    w ← w − η g / (√s + ε)

(Mnih et al. have ε under the root.) A weight's state is ``step.NAME``, a number a row, and of the weight's form
``square.NAME`` (s) and, of Adam alone, ``mean.NAME``: this tells the two apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import torch

OptimizerName = Literal["adam", "rmsprop"]

RMSPROP = {"alpha": 0.99, "eps": 1e-5}
"""Settings of RMSprop."""
IN_TORCH: dict[str, dict[str, str]] = {
    "adam": {"mean": "exp_avg", "square": "exp_avg_sq"},
    "rmsprop": {"square": "square_avg"},
}
"""What each keeps besides its number of steps, and PyTorch's name of it."""


def check_optimizer(optimizer: Any) -> None:
    """Raise ValueError if this is no name of an optimiser."""
    if optimizer not in get_args(OptimizerName):
        names = ", ".join(map(repr, get_args(OptimizerName)))
        raise ValueError(f"optimizer must be one of {names}; got {optimizer!r}.")


def check_same_optimizer(trained: str | None, optimizer: str) -> None:
    """Raise ValueError if a model has a state (``trained``: of which optimiser; None: none) that does not fit.

    PsyNeuLink's ``sgd`` has none, and reads none.
    """
    if optimizer in IN_TORCH and trained not in (None, optimizer):
        raise ValueError(
            f"The model has been trained with {trained!r}, whose state {optimizer!r} cannot go on from. Give "
            f"optimizer={trained!r}, or let the optimiser begin anew: model.set_optimizer_state({{}})."
        )


def optimizer_of(names: Iterable[str]) -> OptimizerName | None:
    """Whose state it is, by the names of its entries; None if there are none."""
    names = list(names)
    if not names:
        return None
    return "adam" if any(name.startswith("mean.") for name in names) else "rmsprop"


def parts_of(optimizer: str) -> tuple[str, ...]:
    """What is kept for each weight, by the names in a state."""
    return ("step", *IN_TORCH[optimizer])


def kind_in_torch(state: Mapping[str, Any]) -> OptimizerName | None:
    """Whose state of one parameter this is, as PyTorch has it; None if it is of another optimiser, or empty."""
    for name, parts in IN_TORCH.items():
        if set(parts.values()) <= state.keys():
            return name  # type: ignore[return-value]
    return None


def make_optimizer(
    optimizer: OptimizerName, parameters: Iterable[Any], learning_rate: float = 0.0, **settings: Any
) -> torch.optim.Adam | torch.optim.RMSprop:
    """An optimiser of parameters, or of groups of them; ``settings`` are further arguments of PyTorch's class."""
    if optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=learning_rate, **RMSPROP, **settings)
    return torch.optim.Adam(parameters, lr=learning_rate, **settings)
