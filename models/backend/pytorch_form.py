"""PsyNeuLink's PyTorch form of a composition: made, checked, and made anew where the graph has changed."""

# PsyNeuLink makes its attributes at run time, out of sight of type checkers.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psyneulink.core.globals.context import Context

from .access import NotTrainable, mechanisms
from .nestable import Nestable
from .same_modes import check_same_in_both_modes, check_trainable, graph_signature


class WithPytorchForm(Nestable):
    """A composition whose PyTorch form is always that of the graph as it stands, in each execution context."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._signatures: dict[Any, Any] = {}
        """By execution_id: the graph of which the PyTorch form is."""
        super().__init__(*args, **kwargs)

    def prepare(self, context: Context) -> tuple:
        """See that the PyTorch form is there and is that of the graph as it stands now.

        Returns:
            The graph's signature, as it stands now.

        Raises:
            NotTrainable: PyTorch mode would not execute the graph as ``run()`` does.
        """
        wrapper = self.pytorch_form(context)
        if wrapper is not None and wrapper.is_nested:  # the outer composition's
            self.parameters.pytorch_representation._set(None, context)
        known = self._signatures.get(context.execution_id)
        there = self.pytorch_form(context) is not None
        if there and known is not None and known == graph_signature(self, context):
            return known
        self._analyze_graph()
        self.initialize_context(context)
        self.drop_pytorch_form(context)
        self._signatures.pop(context.execution_id, None)
        check_trainable(self)
        for node in mechanisms(self):  # functions take modulable Parameters from ports that only run() updates
            node._update_parameter_ports(context=context)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PsyNeuLink's, of matters that are settled here
            with _refused(f"PsyNeuLink cannot make the PyTorch form of '{self.name}'"):
                self._build_pytorch_representation(context=context)
            with _refused(f"The PyTorch form of '{self.name}' cannot be executed"):
                check_same_in_both_modes(self, context)
        # Taken now: PsyNeuLink changes "learnable" of some projections when it dissolves nested compositions.
        signature = self._signatures[context.execution_id] = graph_signature(self, context)
        return signature

    def initialize_context(self, context: Context) -> None:
        """Let Parameters that have no value in an execution context begin there with that of no context."""
        self._initialize_from_context(context, Context(execution_id=None), override=False)

    def _build_pytorch_representation(self, *args: Any, context: Any = None, **kwargs: Any) -> Any:
        before = self.pytorch_form(context)
        built = super()._build_pytorch_representation(*args, context=context, **kwargs)
        wrapper = self.pytorch_form(context)
        if wrapper is not before:
            wrapper.load_weights(context)
            self.adopt_state(wrapper, context)
        return built


@contextmanager
def _refused(what: str) -> Iterator[None]:
    """Errors of PsyNeuLink's, or of a node's function, as what they mean here."""
    try:
        yield
    except NotTrainable:
        raise
    except Exception as error:
        raise NotTrainable(f"{what} as its graph stands now: {error}") from error
