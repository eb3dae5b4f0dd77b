"""Steps of Adam on many small parameters, without the bookkeeping that takes longer than the arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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
                FUSED(lists.parameters, found, lists.means, lists.squares, [], lists.counts, **lists.settings)

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
        self.settings = {name: group[name] for name in ("amsgrad", "lr", "weight_decay", "eps", "maximize")}
        self.settings |= dict(zip(("beta1", "beta2"), group["betas"], strict=True))
