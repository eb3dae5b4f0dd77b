"""What the tests share: a generator, and factories of small trials and configs whose sizes all differ."""

import gc
from importlib.metadata import version

import numpy as np
import pytest
import torch
from eplstm.models import ModelConfig
from eplstm.tasks import Trials

torch.set_num_threads(1)
# PsyNeuLink keeps every component for good; searching all of them for garbage takes a fifth of the time.
gc.set_threshold(100_000, 50, 100)


def pytest_report_header():
    return ", ".join(f"{name} {version(name)}" for name in ("psyneulink", "torch", "numpy"))


@pytest.fixture
def rng():
    return np.random.default_rng(2018)


@pytest.fixture
def make_config():
    """Factory of a config with D = 5, H = 3, A = 4 and room for 6 entries; keywords change it."""

    def make(**changes):
        sizes = {"input_size": 5, "hidden_size": 3, "n_actions": 4, "memory_capacity": 6}
        return ModelConfig(**{**sizes, **changes})

    return make


@pytest.fixture
def make_trials(rng):
    """Factory of random trials that fit ``make_config``; encoding and retrieval go on and off at random."""

    def make(n=4, steps=6, size=5, n_actions=4, **changes):
        fields = {
            "inputs": rng.standard_normal((n, steps, size)),
            "targets": rng.integers(0, n_actions, (n, steps)),
            "encode": rng.random((n, steps)) < 0.5,
            "retrieve": rng.random((n, steps)) < 0.8,
        }
        return Trials(**{**fields, **changes})

    return make
