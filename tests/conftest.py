"""What the tests share: a generator, and factories of small trials and configs whose sizes all differ."""

import gc
import itertools
from importlib.metadata import version

import numpy as np
import pytest
import torch
from common import pristine
from eplstm import models
from eplstm.models import EpisodicLSTMComposition, ModelConfig
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


class Pool(type):
    """In the place of ``EpisodicLSTMComposition``: those of ``pristine``, each time another one."""

    def __instancecheck__(cls, instance):
        return isinstance(instance, EpisodicLSTMComposition)

    def __call__(cls, config, seed=0):
        return pristine(config, seed, which=next(cls.numbers))


@pytest.fixture
def pool(monkeypatch):
    """Runs, studies and checkpoints get compositions that other tests have had: PsyNeuLink takes seconds for one.

    Gives a function: ``pool(number)`` says that all but the first ``number`` are no longer in use.
    """
    from eplstm.comparisons import blocks
    from eplstm.comparisons.reproduction import training

    instead = Pool("Pooled", (), {})

    def free(number):
        instead.numbers = itertools.count(number)

    free(0)
    for module in (models, models.composition, blocks, training):
        monkeypatch.setattr(module, "EpisodicLSTMComposition", instead)
    return free
