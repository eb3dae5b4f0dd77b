"""What tests share beside fixtures."""

import pytest
from eplstm.models import EpisodicLSTMComposition, Person, ReferenceEpisodicLSTM

_made = {}


def rarely(*values):
    """Parameters of a case that costs seconds and adds little: for `make test-slow`."""
    return pytest.param(*values, marks=pytest.mark.slow)


def pristine(config, seed=0, fast=True, which=0):
    """The composition of a config as its constructor makes it, for tests that leave the graph as it is.

    PsyNeuLink takes seconds to make one, so there is one for each config. What tests do to it is undone: in its
    own execution context, its weights, memories, optimiser's state, person, record and path are those of a new
    one. A test that changes the graph, its Parameters or its logs, or uses further contexts, makes one of its own.

    Args:
        config: a ``ModelConfig``.
        seed: of the initial weights.
        fast: its ``fast_path``.
        which: a number for each, where a test needs several of one config.
    """
    if (config, which) not in _made:
        _made[config, which] = EpisodicLSTMComposition(config)
    composition = _made[config, which]
    if config.memory_capacity:
        composition.episodic_memory.function.forget_contexts()  # as many environments as a new one has
    composition.person = Person()
    composition.set_weights(ReferenceEpisodicLSTM(config, seed).weights())
    composition.set_optimizer_state({})
    composition.optimizer_type = "adam"
    composition.record = composition.detour = composition._noted = None
    composition.fast_path = fast
    return composition
