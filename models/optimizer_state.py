"""The state of an agent's optimiser: by weight, as models give and take it, and by projection, as PyTorch has
it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .graph import AgentGraph
from .optimizers import IN_TORCH, kind_in_torch, optimizer_of
from .weights import weight_shapes


def state_of_weights(graph: AgentGraph, states: Mapping[Any, Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    """{projection: PyTorch's state of its matrix} → ``step.NAME``, ``square.NAME``, ``mean.NAME``."""
    state: dict[str, np.ndarray] = {}
    shapes = weight_shapes(graph.config)
    for (name, leads_to), projection in graph.learned.items():
        own = states.get(projection, {})
        if (kind := kind_in_torch(own)) is None:
            continue
        rows = graph.rows(name, leads_to)
        state.setdefault(f"step.{name}", np.zeros(shapes[name][:1]))[rows] = float(own["step"])
        for part, in_torch in IN_TORCH[kind].items():
            values = own[in_torch].numpy()
            room = state.setdefault(f"{part}.{name}", np.zeros(shapes[name]))
            room[rows] = values[0] if name.endswith("bias") else values.T
    return state


def state_of_projections(graph: AgentGraph, state: Mapping[str, np.ndarray]) -> dict[Any, dict[str, Tensor]]:
    """The inverse; a projection that has had no update is left out."""
    parts = IN_TORCH[optimizer_of(state) or "adam"]
    found: dict[Any, dict[str, Tensor]] = {}
    for (name, leads_to), projection in graph.learned.items():
        if f"step.{name}" not in state:
            continue
        rows = graph.rows(name, leads_to)
        steps = float(np.max(np.asarray(state[f"step.{name}"])[rows]))
        if steps == 0:
            continue
        found[projection] = {"step": torch.tensor(steps, dtype=torch.float32)}
        for part, in_torch in parts.items():
            values = np.array(state[f"{part}.{name}"], dtype=float)[rows]
            values = values[None, :] if name.endswith("bias") else values.T
            found[projection][in_torch] = torch.from_numpy(values.copy())
    return found
