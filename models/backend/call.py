"""One call to ``learn()``: what it is trained on, how far it has come, and what an interruption leaves behind."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from psyneulink.core.globals.context import Context
from psyneulink.core.globals.utilities import convert_to_np_array
from torch import Tensor

from ..optimizers import Steps
from .access import memories
from .paths import LearningPath
from .session import Session


class AllInputs:
    """Stands for all INPUT nodes in what PsyNeuLink is given: their values, one beside the other, (T, total).

    PsyNeuLink converts, copies and looks up the inputs of each trial node by node, which takes longer than a
    trial does; under one key it does so once.
    """

    name = "all inputs"

    def __init__(self, inputs: Mapping[Any, Tensor]) -> None:
        """Take the inputs {mechanism: (n, T, size)}."""
        edges = np.cumsum([0, *(values.shape[-1] for values in inputs.values())])
        self.columns = {node: slice(*edge) for node, edge in zip(inputs, itertools.pairwise(edges), strict=True)}
        self.trials = [{self: trial} for trial in torch.cat(list(inputs.values()), dim=-1)]

    def __deepcopy__(self, memo: dict) -> AllInputs:
        """Itself: PsyNeuLink copies the dict of each trial's inputs, its keys included."""
        return self

    def parse_input_array(self, values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What PsyNeuLink asks of a node: the inputs in its form, which they have."""
        return values

    def by_node(self, minibatch: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
        """The inputs of a minibatch as PsyNeuLink hands them over → {mechanism: (B, T, size)}."""
        values = minibatch[self].flatten(2)  # of the axes of 1 in between there are one or two, by version
        return {node: values[..., columns] for node, columns in self.columns.items()}


class Call:
    """One call to ``learn()``, minibatch by minibatch.

    Args:
        composition: what is trained.
        session: initial states, loss, and who is told.
        inputs: {mechanism: (n, T, size)}.
        log: what is to be logged, or None.
        reports: whether PsyNeuLink reports on each minibatch.
        context: the execution context, in which the PyTorch form is there.
    """

    def __init__(
        self,
        composition: Any,
        session: Session,
        inputs: Mapping[Any, Tensor],
        log: Any,
        reports: bool,
        context: Context,
    ) -> None:
        self.session, self.log, self.reports = session, log, reports
        self.inputs = AllInputs(inputs)
        self.wrapper = composition.pytorch_form(context)
        self.path: LearningPath
        """How its sequences are executed, once it has been chosen."""
        self.searched: Any = None
        """The projections that are trained, once they have been sought."""
        self._composition, self._context = composition, context
        self._steps = Steps(self.wrapper.optimizer)
        self._memories = memories(composition)
        self._banks = [function.bank(context) for function in self._memories]
        for function in self._memories:
            function.follows = session.through_memory
        self._next = self._rows = self._done = 0
        self._updating = False
        self.wrapper.load_weights(context)
        self.wrapper.minibatch_loss_count = 0  # PsyNeuLink goes on from where an interrupted call has left it
        results = composition.parameters.results
        self._earlier = results._get(context, fallback_value=[])
        results._set([], context)  # PsyNeuLink copies those of all calls in every call

    def next_sequences(self, minibatch: Mapping[Any, Tensor]) -> tuple[range, dict[Any, Tensor]]:
        """The sequences of the next minibatch, and their inputs {mechanism: (B, T, size)}; from here on until its
        update, what is stored can be undone."""
        for bank in self._banks:
            bank.begin_update()
        self._updating = True
        by_node = self.inputs.by_node(minibatch)
        self._rows = len(next(iter(by_node.values())))
        if (width := self.session.width) > 1:
            by_node = {node: values.repeat(width, 1, 1) for node, values in by_node.items()}
        which = range(self._next, self._next + self._rows * width)
        self._next = which.stop
        return which, by_node

    def update(self) -> None:
        """One step of the optimiser, from gradients that are finite."""
        session, wrapper = self.session, self.wrapper
        if session.max_gradient_norm is not None:
            learned = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(learned, session.max_gradient_norm)
        if session.wants_gradients:
            session.before_update(wrapper.gradients())
        wrapper.__dict__["has_given"] = False
        self._steps.step()
        self._updating = False
        self._done += self._rows
        session.after_update()

    def end(self) -> None:
        """Also after an interruption: PsyNeuLink gets what has been learned so far, its results are those of the
        updates that were made, and no memory has more than these have stored."""
        for bank in self._banks:
            bank.end_update(undo=self._updating)
        for function in self._memories:
            function.follows = False
        wrapper = self._composition.pytorch_form(self._context)
        if not wrapper.has_given:
            wrapper.give_weights(self._context)
        results = self._composition.parameters.results
        new = results._get(self._context)
        if wrapper.retained_results or len(new) > self._done:
            new = convert_to_np_array([*new, *wrapper.retained_results][: self._done])
            wrapper.retained_results = []
        results._set(_joined(self._earlier, new), self._context)


def _joined(earlier: Any, new: Any) -> Any:
    """``results`` of earlier calls and of this one; row by row where the output ports have become others."""
    if not len(earlier) or not len(new):
        return earlier if len(earlier) else new
    if np.shape(earlier)[1:] == np.shape(new)[1:]:
        return np.concatenate([earlier, new])
    joined = np.empty(len(earlier) + len(new), dtype=object)
    joined[:] = [*earlier, *new]
    return joined
