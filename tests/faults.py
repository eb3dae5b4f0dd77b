"""What the tests of faults share: trials, one of which is marked, and losses that go wrong where they meet it.

However often and in whatever order a loss is called: it goes by the targets of the trial that it is given.
"""

import re

import numpy as np
import torch
from common import pristine
from eplstm.models import ModelConfig, ReferenceEpisodicLSTM
from eplstm.tasks import Trials

ATOL = 1e-10
"""float64 on both sides."""
N, T, D, H, A = 5, 3, 4, 3, 2
CONFIG = ModelConfig(D, H, A, memory_capacity=20)
MARKED, RATE = 2, 0.01


def make_trials(marked=(), seed=1):
    rng = np.random.default_rng(seed)
    targets = np.zeros((N, T), int)
    targets[list(marked)] = 1
    return Trials(inputs=rng.standard_normal((N, T, D)), targets=targets, encode=rng.random((N, T)) < 0.7)


TRIALS = make_trials([MARKED])


def given(n=N):
    """Choices and initial states of the first n trials."""
    rng = np.random.default_rng(2)
    actions, states = rng.integers(0, A, (N, T)), rng.standard_normal((2, N, H))
    return {"actions": actions[:n], "initial_states": tuple(states[:, :n])}


def make(kind, config=CONFIG):
    if kind == "reference":
        return ReferenceEpisodicLSTM(config, 0).double()
    return pristine(config, fast=kind == "fast")


def state(model):
    """All that training changes: weights, optimiser's state, memories."""
    found = {**model.weights(), **model.optimizer_state()}
    for e in range(model.environments):
        found[f"keys {e}"], found[f"values {e}"] = model.memory(environment=e)
    return found


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert np.shape(a[name]) == np.shape(b[name]), (name, np.shape(a[name]), np.shape(b[name]))
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=ATOL, err_msg=name)


def sound(trials):
    """A loss with a gradient at each weight."""
    return trials.value.square().sum() - torch.log(trials.policy[..., 0]).sum()


def marked(trials):
    return bool((trials.target == 1).all())


def not_finite(trials):
    return sound(trials) * (float("nan") if marked(trials) else 1.0)


def steep(trials):
    """Finite everywhere; its gradient is not at a marked trial (that of a root at 0)."""
    past = trials.value - trials.value.detach()
    return sound(trials) + (past.square().sum().sqrt() if marked(trials) else 0.0)


def interrupted(trials):
    if marked(trials):
        raise KeyboardInterrupt
    return sound(trials)


def refused(call, *named):
    """Whether a call ends in an error; it must name one of these, or what it says is of no help."""
    try:
        call()
    except Exception as error:
        assert any(re.search(name, str(error)) for name in named), f"does not name {named}: {error!r}"
        return True
    return False
