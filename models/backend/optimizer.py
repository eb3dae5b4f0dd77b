"""Which optimiser trains a composition, and with which state, in each execution context."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

from typing import Any

import psyneulink as pnl
import torch
from psyneulink.core.globals.context import Context
from torch import Tensor

from ..optimizers import CAN_FUSE, IN_TORCH, check_optimizer, check_same_optimizer, kind_in_torch, make_optimizer

States = dict[Any, dict[str, Tensor]]
"""PyTorch's state of the matrix of each projection."""


class WithOptimizer(pnl.AutodiffComposition):
    """The optimiser of an ``AutodiffComposition``: RMSprop besides PsyNeuLink's, and states that outlive its
    PyTorch form, each in its own execution context."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._waiting: dict[Any, States] = {}
        """By execution_id: the state that the next PyTorch form goes on from."""
        super().__init__(*args, **kwargs)

    def pytorch_form(self, context: Any) -> Any:
        """PsyNeuLink's PyTorch form in an execution context; None if there is none."""
        return self.parameters.pytorch_representation._get(context, fallback_value=None)

    def keep_state(self, context: Context) -> None:
        """Let the next PyTorch form go on from the optimiser's state of the present one."""
        self._waiting[context.execution_id] = self.torch_states(context)

    def drop_pytorch_form(self, context: Context) -> None:
        """Let it be made anew; the optimiser's state goes on."""
        self.keep_state(context)
        self.parameters.pytorch_representation._set(None, context)

    def torch_states(self, context: Context) -> States:
        """The optimiser's state in an execution context."""
        wrapper = self.pytorch_form(context)
        waiting = self._waiting.get(context.execution_id, {})
        return (wrapper.torch_state() if wrapper is not None else {}) | waiting

    def put_torch_states(self, states: States, kind: str | None, context: Context) -> None:
        """Take an optimiser's state, of which optimiser ``kind``; None: begin anew, with any."""
        self._waiting.pop(context.execution_id, None)
        wrapper = self.pytorch_form(context)
        if wrapper is not None:
            wrapper.optimizer.state.clear()
        if kind is not None and self.optimizer_type in IN_TORCH:
            self.optimizer_type = kind
            self.check_optimizer(context)  # of another kind, the PyTorch form is made anew
        wrapper = self.pytorch_form(context)
        if wrapper is None:
            self._waiting[context.execution_id] = states
        else:
            wrapper.set_torch_state(states)

    def adopt_state(self, wrapper: Any, context: Context) -> None:
        """Give a new PyTorch form the state that waits for it."""
        wrapper.set_torch_state(self._waiting.pop(context.execution_id, {}))

    def move_state(self, execution_id: Any, context: Context) -> None:
        """Let the state of one execution context go on in another, in place of what is there."""
        states = self.torch_states(Context(execution_id=execution_id))
        self.parameters.pytorch_representation._set(None, context)
        self._waiting[context.execution_id] = {
            projection: {name: value.clone() for name, value in state.items()}
            for projection, state in states.items()
        }

    # ---- which optimiser

    def choose_optimizer(self, optimizer: Any, context: Context) -> None:
        """Train with this one from now on; None: as before.

        Raises:
            ValueError: it has been trained with another, or the name is unknown.
        """
        if optimizer is None:
            return
        check_optimizer(optimizer)
        if self.optimizer_type not in IN_TORCH:
            raise ValueError(
                f"'{self.name}' was made with optimizer_type={self.optimizer_type!r}, and cannot be trained with "
                f"optimizer={optimizer!r}: call learn() without optimizer, or make it with optimizer_type='adam'."
            )
        before, self.optimizer_type = self.optimizer_type, optimizer
        try:
            self.check_optimizer(context)
        except ValueError:
            self.optimizer_type = before
            raise

    def check_optimizer(self, context: Context) -> None:
        """See that the PyTorch form, if it is there, has the optimiser that ``optimizer_type`` names.

        Raises:
            ValueError: it has been trained with another.
        """
        for state in self.torch_states(context).values():
            check_same_optimizer(kind_in_torch(state), self.optimizer_type)
        wrapper = self.pytorch_form(context)
        if wrapper is not None and wrapper.optimizer_type != self.optimizer_type:
            self.drop_pytorch_form(context)

    def _instantiate_optimizer(self, context: Any) -> Any:
        """As the stock method, which knows no RMSprop; Adam works on all parameters in one call where PyTorch can
        (from 2.4 on)."""
        if self.optimizer_type == "rmsprop":
            return self._instantiate_rmsprop(context)
        optimizer = super()._instantiate_optimizer(context)
        if isinstance(optimizer, torch.optim.Adam) and CAN_FUSE:
            for group in [optimizer.defaults, *optimizer.param_groups]:
                group["fused"] = True
        return optimizer

    def _instantiate_rmsprop(self, context: Any) -> Any:
        """PyTorch's, with the groups that the stock method makes: learning rates are those of projections."""
        self.optimizer_type = "sgd"
        try:
            stock = super()._instantiate_optimizer(context)
        finally:
            self.optimizer_type = "rmsprop"
        if stock is None:  # there is nothing to train
            return None
        kept = ("params", "lr", "weight_decay")
        return make_optimizer("rmsprop", [{name: group[name] for name in kept} for group in stock.param_groups])
