"""Names, shapes and gate order of the weights: what the two models have in common, and all that they share.

Rows of the input and hidden weights and biases come in blocks of H, in ``GATE_ORDER``: with
``input_weight[0:H]`` the forget gate's, and so on, as in dnd-lstm (f, i, o, r, then the candidate). So do those of
``memory_weight``, which only models with ``reinstatement="input"`` have.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .config import ModelConfig
from .optimizers import optimizer_of, parts_of

GATE_ORDER = ("forget", "input", "output", "reinstatement", "candidate")
"""Blocks of rows in the input and hidden weights: f, i, o, r and the candidate."""


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each weight: those of the LSTM have 5H rows, in ``GATE_ORDER``.

    The rows of the reinstatement gate have no effect in a model that has none (a plain LSTM, or one with
    ``reinstatement="input"``).
    """
    inputs, hidden, actions = config.input_size, config.hidden_size, config.n_actions
    rows = len(GATE_ORDER) * hidden
    shapes: dict[str, tuple[int, ...]] = {
        "input_weight": (rows, inputs),
        "input_bias": (rows,),
        "hidden_weight": (rows, hidden),
        "hidden_bias": (rows,),
        "actor_weight": (actions, hidden),
        "actor_bias": (actions,),
        "critic_weight": (1, hidden),
        "critic_bias": (1,),
    }
    if config.reinstatement == "input":
        shapes["memory_weight"] = (rows, hidden)  # last: weights are drawn in this order
    return shapes


def initial_weights(config: ModelConfig, seed: int | None = None) -> dict[str, np.ndarray]:
    """Orthogonal weights and zero biases, as in dnd-lstm (Saxe et al., 2014, for the orthogonal start).

    From one seed, models with ``reinstatement="input"`` and ``"gate"`` get the same weights but ``memory_weight``.
    The numbers are exact in float32, so that models of either precision start from the same ones.

    Args:
        config: the sizes.
        seed: the same seed gives the same weights to both models; None draws fresh ones.
    """
    rng = np.random.default_rng(seed)
    return {
        name: np.zeros(shape) if name.endswith("bias") else _orthogonal(shape, rng)
        for name, shape in weight_shapes(config).items()
    }


def _orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    rows, columns = shape
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)  # makes the draw uniform over orthogonal matrices
    q = q.astype(np.float32).astype(np.float64)
    return q if rows >= columns else q.T


def check_weights(config: ModelConfig, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights as float64 arrays, once names, shapes and values have been checked.

    Raises:
        ValueError: a name is missing or unknown, a shape does not fit, or a value is not finite.
    """
    shapes = weight_shapes(config)
    missing, unknown = sorted(set(shapes) - set(weights)), sorted(set(weights) - set(shapes))
    if missing or unknown:
        raise ValueError(
            f"Weights: missing {missing or 'none'}, unknown {unknown or 'none'}; needed are {list(shapes)}."
        )
    checked = {}
    for name, shape in shapes.items():
        array = np.array(weights[name], dtype=np.float64)
        if array.shape != shape:
            raise ValueError(
                f"Weights: {name} must have the shape {shape} for {config.input_size} inputs, "
                f"{config.hidden_size} hidden units and {config.n_actions} actions; got {array.shape}."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"Weights: {name} holds {np.count_nonzero(~np.isfinite(array))} values not finite.")
        checked[name] = array
    return checked


def check_optimizer_state(config: ModelConfig, state: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError if an optimiser's state (``optimizer_state`` of a model) does not fit the model."""
    parts = parts_of(optimizer_of(state) or "adam")
    wanted = {}
    for name, shape in weight_shapes(config).items():
        wanted |= {f"{part}.{name}": shape[:1] if part == "step" else shape for part in parts}
    for name, array in state.items():
        if np.shape(array) != wanted.get(name):
            found, need = np.shape(array), wanted.get(name, "no such entry")
            raise ValueError(f"Optimiser: {name} has the shape {found}; this model needs {need}.")
    incomplete = [n for n in weight_shapes(config) if 0 < sum(f"{k}.{n}" in state for k in parts) < len(parts)]
    if incomplete:
        raise ValueError(f"Optimiser: the state of {incomplete} is incomplete; needed are {parts} of each.")


def check_memory(config: ModelConfig, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys (n, K) and values (n, H), oldest first, as float64 arrays, once checked.

    Raises:
        ValueError: sizes do not fit the model, there are more entries than it holds, or a value is not finite.
    """
    keys, values = np.array(keys, dtype=np.float64), np.array(values, dtype=np.float64)
    wanted = (len(keys), config.key_size), (len(keys), config.hidden_size)
    if keys.shape != wanted[0] or values.shape != wanted[1]:
        raise ValueError(
            f"Memory: keys must be (n, {config.key_size}) and values (n, {config.hidden_size}); "
            f"got {keys.shape} and {values.shape}."
        )
    if len(keys) > config.memory_capacity:
        raise ValueError(
            f"Memory: {len(keys)} entries do not fit a capacity of {config.memory_capacity}; "
            "drop the oldest, or make the model with a larger memory_capacity."
        )
    if not (np.isfinite(keys).all() and np.isfinite(values).all()):
        raise ValueError("Memory: keys and values must be finite.")
    return keys, values
