"""What tests share beside fixtures."""

from dataclasses import replace

import pytest
from eplstm.models import EpisodicLSTMComposition, ModelConfig, Person, ReferenceEpisodicLSTM
from eplstm.models.parameters import OF_MEMORY

DEFAULTS = ModelConfig(1, 1, 1, 1)
_made = {}


OTHER = {
    "inverse_temperature": 2.5,
    "lapse": 0.15,
    "perseveration": 1.3,
    "gate_bias": -1.7,
    "sharpness": 3.3,
    "forgetting": 0.6,
    "encoding_probability": 0.3,
    "context_weight": 0.9,
}
"""A value of each of a person's parameters that is not the trained agent's."""


def rarely(*values):
    """Parameters of a case that costs seconds and adds little: for `make test-slow`."""
    return pytest.param(*values, marks=pytest.mark.slow)


def pristine(config, seed=0, fast=True, which=0):
    """The composition of a config as its constructor makes it, for tests that leave the graph as it is.

    PsyNeuLink takes seconds to make one, so there is one for each graph: for sizes, key and reinstatement, with or
    without a memory, whose settings are set. What tests do to it is undone: in its own execution context, its
    settings, weights, memories, optimiser's state, person, record and path are those of a new one. A test that
    changes the graph or its logs takes that back, or makes one of its own; further contexts need new names.

    Args:
        config: a ``ModelConfig``.
        seed: of the initial weights.
        fast: its ``fast_path``.
        which: a number for each, where a test needs several of one graph.
    """
    has_memory = config.memory_capacity > 0
    graph = replace(config, **{name: getattr(DEFAULTS, name) for name in OF_MEMORY}) if has_memory else config
    if (graph, which) not in _made:
        _made[graph, which] = EpisodicLSTMComposition(config)
    composition = _made[graph, which]
    composition.person = Person()
    if has_memory:
        for name in OF_MEMORY:
            if getattr(composition.config, name) != getattr(config, name):
                getattr(composition.parameters, name).set(getattr(config, name))
        composition.episodic_memory.function.forget_contexts()  # as many environments as a new one has
    composition.set_weights(ReferenceEpisodicLSTM(config, seed).weights())
    composition.set_optimizer_state({})
    composition.parameters.results.set([], composition)
    composition.optimizer_type = "adam"
    composition.record = composition.paths.detour = None
    composition.fast_path, composition.shortcuts = fast, True
    return composition
