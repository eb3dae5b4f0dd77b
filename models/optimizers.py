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

import numpy as np
import torch
from torch import Tensor

OptimizerName = Literal["adam", "rmsprop"]

MOST_RATE = 1e6
"""Greatest learning rate: a step is at most some ten times as long."""
RMSPROP = {"alpha": 0.99, "eps": 1e-5}
"""Settings of RMSprop."""
IN_TORCH: dict[str, dict[str, str]] = {
    "adam": {"mean": "exp_avg", "square": "exp_avg_sq"},
    "rmsprop": {"square": "square_avg"},
}
"""What each keeps besides its number of steps, and PyTorch's name of it."""


def check_rate(learning_rate: Any) -> None:
    """Raise ValueError unless this is a learning rate with which weights cannot leave the finite numbers at a
    step."""
    if not isinstance(learning_rate, (int, float, np.number)) or not 0 <= learning_rate <= MOST_RATE:
        raise ValueError(f"learning_rate must be a number from 0 to {MOST_RATE:g}; got {learning_rate!r}.")


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


# ---- steps of Adam on many small parameters, without the bookkeeping that takes longer than the arithmetic ----


def _can_fuse() -> bool:
    try:
        torch.optim.Adam([torch.zeros(1, dtype=torch.float64, requires_grad=True)], fused=True)
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


CAN_FUSE = _can_fuse()
"""Whether this PyTorch can work on all parameters in one call, on the processor (from 2.4 on)."""
FUSED: Any = getattr(torch, "_fused_adam_", None)
"""What ``Adam.step`` calls in the end, where it is fused."""


class Steps:
    """Steps of an optimiser during one call to ``learn()``.

    ``Adam.step`` spends several times longer on its bookkeeping than on matrices of this size, most of it on
    counting the steps of each parameter: once every parameter has its state, all are counted at once, and what it
    calls in the end is called with the same lists.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._lists: list[_Lists] | None = None
        self._without: list[Tensor] = []  # such as a read-out on which the loss does not depend

    def step(self) -> None:
        """One step, as that of the optimiser."""
        if self._lists is None:
            self.optimizer.step()
            self._lists = self._take_lists()
            return
        gradients: list[list[Any]] = [[p.grad for p in lists.parameters] for lists in self._lists]
        if any(g is None for each in gradients for g in each) or any(p.grad is not None for p in self._without):
            self.optimizer.step()
            return
        with torch.no_grad():
            for lists, found in zip(self._lists, gradients, strict=True):
                lists.count += 1
                settings = lists.settings()
                FUSED(lists.parameters, found, lists.means, lists.squares, [], lists.counts, **settings)

    def _take_lists(self) -> list[_Lists] | None:
        """Parameters and states by group; None where a step must be the optimiser's own."""
        groups, state = self.optimizer.param_groups, self.optimizer.state
        if FUSED is None or not all(group.get("fused") and not group["amsgrad"] for group in groups):
            return None
        learned = [[p for p in group["params"] if p.grad is not None] for group in groups]
        self._without = [p for group in groups for p in group["params"] if p.grad is None]
        if not all(state.get(p) for parameters in learned for p in parameters):
            return None
        return [
            _Lists(group, parameters, [state[p] for p in parameters])
            for group, parameters in zip(groups, learned, strict=True)
            if parameters
        ]


class _Lists:
    """What the optimiser's step works on, of one group of parameters."""

    def __init__(self, group: dict, parameters: list[Tensor], states: list[dict]) -> None:
        self.parameters = parameters
        self.means, self.squares = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq"))
        self.count = torch.stack([state["step"] for state in states])
        self.counts = list(self.count)
        """The same numbers, one a parameter; they are the optimiser's from now on."""
        for state, count in zip(states, self.counts, strict=True):
            state["step"] = count
        self._group = group

    def settings(self) -> dict[str, Any]:
        """Those of the group as they are now: a call-back may have changed its learning rate."""
        found = {name: self._group[name] for name in ("amsgrad", "lr", "weight_decay", "eps", "maximize")}
        return found | dict(zip(("beta1", "beta2"), self._group["betas"], strict=True))
