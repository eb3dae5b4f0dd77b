"""Steps of Adam on many small parameters, without the bookkeeping that takes longer than the arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adam import adam


def _can_fuse() -> bool:
    try:
        torch.optim.Adam([torch.zeros(1, dtype=torch.float64, requires_grad=True)], fused=True)
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


CAN_FUSE = _can_fuse()
"""Whether this PyTorch can work on all parameters in one call, on the processor (from 2.4 on)."""


class Steps:
    """Steps of an optimiser during one call to ``learn()``.

    ``Adam.step`` spends several times longer on its bookkeeping than on matrices of this size: once every
    parameter has its state, the function that it calls in the end is called with the same lists.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._lists: list[tuple[dict, list[Tensor], list[list[Tensor]]]] | None = None
        self._without: list[Tensor] = []  # such as a read-out on which the loss does not depend

    def step(self) -> None:
        """One step, as that of the optimiser."""
        if self._lists is None:
            self.optimizer.step()
            self._lists = self._take_lists()
            return
        gradients = [[p.grad for p in parameters] for _, parameters, _ in self._lists]
        if any(g is None for each in gradients for g in each) or any(p.grad is not None for p in self._without):
            self.optimizer.step()
            return
        with torch.no_grad():
            for (settings, parameters, states), found in zip(self._lists, gradients, strict=True):
                means, squares, steps = states
                adam(parameters, found, means, squares, [], steps, **settings)  # type: ignore[arg-type]

    def _take_lists(self) -> list[tuple[dict, list[Tensor], list[list[Tensor]]]] | None:
        """Settings, parameters and states by group; None where a step must be the optimiser's own."""
        groups, state = self.optimizer.param_groups, self.optimizer.state
        if not all(group.get("fused") and not group["amsgrad"] for group in groups):
            return None
        learned = [[p for p in group["params"] if p.grad is not None] for group in groups]
        self._without = [p for group in groups for p in group["params"] if p.grad is None]
        if not all(state.get(p) for parameters in learned for p in parameters):
            return None
        names = ("exp_avg", "exp_avg_sq", "step")
        return [
            (
                {name: group[name] for name in ("amsgrad", "lr", "weight_decay", "eps", "maximize", "fused")}
                | dict(zip(("beta1", "beta2"), group["betas"], strict=True)),
                parameters,
                [[state[p][name] for p in parameters] for name in names],
            )
            for group, parameters in zip(groups, learned, strict=True)
            if parameters
        ]
