"""By which path a ``RecurrentComposition`` is executed in PyTorch mode: here, by the general one alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .session import Session
from .steps import Trace


class LearningPath:
    """How the sequences of a call to ``learn()`` are executed: node by node, as the graph stands, with autograd's
    gradients.

    Args:
        wrapper: PsyNeuLink's PyTorch form of the composition.
        session: of the call.
    """

    def __init__(self, wrapper: Any, session: Session) -> None:
        self.wrapper, self.session = wrapper, session

    def execute(self, which: range, inputs: dict[Any, Tensor], before: Mapping[Any, Tensor]) -> Trace:
        """Execute these of the sequences: inputs {mechanism: (B, T, size)}, values before the first step
        {mechanism: (B, size)}."""
        return self.wrapper.execute_sequences(inputs, before, self.session.unroll_steps)

    def loss(self) -> Tensor:
        """The session's loss of the minibatch that was executed, (1,)."""
        return self.session.loss(self.wrapper.sequences, self.wrapper.trace.trajectory).reshape(1)

    def backward(self, loss: Tensor) -> None:
        """Give the parameters their gradients."""
        for group in self.wrapper.optimizer.param_groups:  # its zero_grad() notes it for a profiler: slower
            for parameter in group["params"]:
                parameter.grad = None
        if loss.requires_grad:
            loss.backward()

    def not_finite(self) -> list[str]:
        """Names of the projections whose gradients are not finite."""
        return self.wrapper.gradients_not_finite()


class Paths:
    """Chooses the path. Subclasses have several to choose from."""

    def to_learn(self, call: Any, signature: tuple, context: Any) -> LearningPath:
        """How the sequences of a ``Call`` are executed, given the graph's signature."""
        return LearningPath(call.wrapper, call.session)

    def nested(self, wrapper: Any, context: Any) -> Callable[..., Trace]:
        """How a composition is executed where it is nested: a function of inputs and values before the first step,
        as of ``execute_sequences``, whose trace passes gradients on to the inputs."""
        return wrapper.execute_sequences
