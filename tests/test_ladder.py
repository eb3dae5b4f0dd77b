"""The ladder: the composition, in both modes, against the reference, on every rung.

Legend of the cases: what differs from D = 6, H = 4, A = 3 and room for 50 entries; a function that makes a block;
what is given to the training.
"""

from contextlib import contextmanager
from dataclasses import replace

import eplstm.models.losses as losses_module
import numpy as np
import psyneulink as pnl
import pytest
from common import pristine, rarely
from eplstm.comparisons.equivalence import TOLERANCE, climb_ladder, compare_arrays
from eplstm.models import EpisodicLSTMComposition, ModelConfig, ReferenceEpisodicLSTM, train
from eplstm.models.reference import Past
from eplstm.tasks import ContextualChoice, Trials

RUNGS, OF_WORLDS, WITHOUT_LEARNING = 54, 35, 8
"""Eight in PyTorch mode (retrieval, step, trial, loss, gradients, update, memory, run), four in Python mode; the
last are those of people who run through worlds."""


def choice(n=3, rng=None, length=4):
    """A block of contextual choice, with both switches at random on top of the task's."""
    block = ContextualChoice(obs_dim=3, trial_length=length, t_noise_off=2).sample(n, rng)
    return replace(
        block,
        encode=block.encode | (rng.random(block.encode.shape) < 0.2),
        retrieve=rng.random(block.encode.shape) < 0.9,
    )


def repeated(rng):
    """Few distinct inputs of -1, 0 and 1: equal keys, and queries equally near to several entries."""
    inputs = rng.integers(-1, 2, (3, 6))[rng.integers(0, 3, (6, 4))]
    inputs[:, 2] = 0  # a query of zeros: cosine 0 to all, equally far from all of the same norm
    return Trials(
        inputs=inputs,
        targets=rng.integers(0, 2, (6, 4)),
        encode=rng.random((6, 4)) < 0.6,
        retrieve=np.ones((6, 4)),
    )


def never_stored(rng):
    """The memory stays empty."""
    return choice(3, rng).lesioned(encode=False)


def no_retrieval(rng):
    """Entries are stored and never read."""
    return choice(3, rng).lesioned(retrieve=False)


def one_step(rng):
    """Trials of one step."""
    return Trials(
        inputs=rng.standard_normal((4, 1, 6)), targets=rng.integers(0, 2, (4, 1)), encode=np.ones((4, 1), bool)
    )


def two_choices(rng):
    """Contextual choice."""
    return choice(3, rng)


def paid(rng):
    """What actions pay is any number; the targets say nothing of it."""
    block = choice(3, rng)
    return replace(block, rewards=rng.standard_normal((*block.targets.shape, 3)))


def rarely_asked(rng):
    """At some steps no answer is asked for, of one trial at none."""
    block = choice(3, rng)
    asks = rng.random(block.targets.shape) < 0.6
    asks[1] = False
    return replace(block, targets=np.where(asks, block.targets, -1))


def ragged(rng):
    """Trials of 1 to 4 steps, of which some ask for no answer."""
    block = paid(rng)[[0, 1, 2, 0]]
    block = replace(block, lengths=rng.permutation([1, 2, 3, 4]), encode=np.ones_like(block.encode))
    return replace(block, targets=np.where(rng.random(block.targets.shape) < 0.2, -1, block.targets))


def of_ones_own(t):
    """A loss to which all counts that it is given of a trial."""
    which = 1 + 0.3 * t.trial + 0.1 * t.environment
    return which.sum() * (t.value - t.returns).abs().sum() + (t.inputs[..., :4] * t.cell).sum()


CASES = {
    "l2, whole input": ({}, two_choices, {}),
    "l1, context": ({"kernel": "l1", "key": (3, 6)}, two_choices, {}),
    "cosine, observation": ({"kernel": "cosine", "key": (0, 3)}, two_choices, {}),
    "overflow": ({"memory_capacity": 3}, two_choices, {}),
    "room for one": ({"memory_capacity": 1, "kernel": "l1"}, two_choices, {}),
    "empty memory": ({}, never_stored, {}),
    "retrieval off": ({}, no_retrieval, {}),
    "no memory": ({"memory_capacity": 0}, two_choices, {}),
    "ties, oldest, l2": ({}, repeated, {}),
    "ties, newest, l1": ({"kernel": "l1", "ties": "newest"}, repeated, {}),
    "ties, oldest, cosine, overflow": ({"kernel": "cosine", "memory_capacity": 4}, repeated, {}),
    "repeated keys overwrite": ({"repeated_key": "overwrite", "memory_capacity": 5, "key": (1, 4)}, repeated, {}),
    "average": ({"retrieval": "average", "sharpness": 2.5}, two_choices, {}),
    "average, cosine, overflow": (
        {"retrieval": "average", "kernel": "cosine", "memory_capacity": 2},
        two_choices,
        {},
    ),
    "memory as input": ({"reinstatement": "input"}, two_choices, {"gamma": 0.9, "entropy_weight": 0.05}),
    "memory as input, overwrite, overflow": (
        {"reinstatement": "input", "repeated_key": "overwrite", "memory_capacity": 3, "key": (1, 4)},
        repeated,
        {},
    ),
    "memory as input, average": (
        {"reinstatement": "input", "retrieval": "average", "kernel": "cosine", "sharpness": 2.5},
        two_choices,
        {"loss": lambda t: (t.value - t.returns).abs().sum() + t.cell.sum()},
    ),
    "memory as input, empty": ({"reinstatement": "input"}, never_stored, {}),
    "discount": ({}, two_choices, {"gamma": 0.9}),
    "undiscounted, entropy, value weight": (
        {},
        two_choices,
        {"gamma": 1.0, "entropy_weight": 0.05, "value_weight": 0.3},
    ),
    "truncated": (
        {},
        two_choices,
        {"gamma": 0.8, "entropy_weight": 0.05, "unroll_steps": 2},
    ),
    "cross-entropy": ({}, two_choices, {"loss": "cross_entropy"}),
    "a loss of one's own": ({}, two_choices, {"loss": of_ones_own}),
    "rewards": ({}, paid, {"gamma": 0.9, "entropy_weight": 0.05}),
    "no answer": (
        {"memory_capacity": 4},
        rarely_asked,
        {"gamma": 0.9, "entropy_weight": 0.05, "value_weight": 0.3},
    ),
    "no answer, cross-entropy": ({}, rarely_asked, {"loss": "cross_entropy"}),
    "ragged": ({"memory_capacity": 4}, ragged, {"gamma": 0.9, "entropy_weight": 0.05, "python_trials": 4}),
    "ragged, truncated": ({}, ragged, {"gamma": 0.9, "unroll_steps": 2}),
    "ragged, a loss of one's own": (
        {"retrieval": "average", "sharpness": 2.5},
        ragged,
        {"gamma": 0.9, "loss": lambda t: of_ones_own(t) + ((t.value - t.returns).abs() * t.asks).sum()},
    ),
    "block, a loss of one's own": ({"ties": "newest"}, repeated, {"update": "block", "loss": of_ones_own}),
    "block": ({"memory_capacity": 4}, two_choices, {"gamma": 0.9, "update": "block"}),
    "through the memory, overflow": (
        {"memory_capacity": 4},
        two_choices,
        {"gamma": 0.9, "entropy_weight": 0.05, "update": "block", "through_memory": True},
    ),
    "through the memory, ties, overwrite": (
        {"repeated_key": "overwrite", "memory_capacity": 5, "key": (1, 4), "ties": "newest"},
        repeated,
        {"update": "block", "through_memory": True},
    ),
    "through the memory, average, ragged": (
        {"retrieval": "average", "kernel": "cosine", "sharpness": 2.5},
        ragged,
        {"gamma": 0.9, "update": "block", "through_memory": True},
    ),
    "through the memory as input, in a trial": (
        {"reinstatement": "input", "retrieval": "average"},
        two_choices,
        {"gamma": 0.8, "unroll_steps": 2, "through_memory": True},
    ),
    "one step": ({}, one_step, {}),
    "larger": ({"hidden_size": 11, "n_actions": 5, "key": (2, 3)}, two_choices, {"gamma": 0.5}),
}


RARE = {
    "block",
    "through the memory, ties, overwrite",
    "through the memory, average, ragged",
    "l1, context",
    "cosine, observation",
    "overflow",
    "room for one",
    "average",
    "memory as input, overwrite, overflow",
    "memory as input, average",
    "no answer, cross-entropy",
    "ragged, a loss of one's own",
    "larger",
}
"""Their settings are in other cases, too, side by side with others."""


def make_config(**changes):
    return ModelConfig(**{"input_size": 6, "hidden_size": 4, "n_actions": 3, "memory_capacity": 50, **changes})


def with_people(config, seed):
    """A composition that may come to have a person's nodes."""
    return pristine(config, seed, which=1)


@pytest.mark.parametrize("name", [rarely(name) if name in RARE else name for name in CASES])
def test_ladder(name):
    changes, make_block, settings = CASES[name]
    blocks = [make_block(np.random.default_rng(seed)) for seed in range(2)]
    settings = {"seed": 3, "python_trials": 1, "make_composition": with_people, **settings}
    ladder = climb_ladder(make_config(**changes), blocks, **settings)
    in_worlds = sum("worlds" in rung.path for rung in ladder.rungs)
    assert len(ladder.rungs) - in_worlds == RUNGS
    expected = {"cross-entropy": WITHOUT_LEARNING, "no answer, cross-entropy": WITHOUT_LEARNING, "larger": 0}
    assert in_worlds == expected.get(name, OF_WORLDS)
    assert ladder.passed, "\n" + ladder.table()


def test_the_cases_have_what_their_names_say():
    """Ties, equal keys and full memories do occur."""
    block = repeated(np.random.default_rng(0))
    reference = ReferenceEpisodicLSTM(make_config()).double()
    reference.run_trials(block)
    keys, _ = reference.memory()
    assert len(np.unique(keys, axis=0)) < len(keys) > 5
    distances = np.linalg.norm(keys - block.inputs[-1, -1], axis=1)
    nearest = np.unique(keys[distances == distances.min()], axis=0)
    assert (distances == distances.min()).sum() > 1 or len(nearest) > 1


# ---- the ladder can fail -----------------------------------------------------------------------------------


@contextmanager
def sharp_forget_gate(composition):
    gain = composition.gates["forget"].function.parameters.gain
    gain.set(1.001, composition)
    yield
    gain.set(1.0, composition)


@contextmanager
def gates_swapped(composition):
    gates, learned = composition.gates, composition.parts.learned

    def swap():
        gates["input"], gates["reinstatement"] = gates["reinstatement"], gates["input"]
        for weight in ("input_weight", "input_bias", "hidden_weight", "hidden_bias"):
            one, other = (weight, "input"), (weight, "reinstatement")
            learned[one], learned[other] = learned[other], learned[one]

    swap()
    yield
    swap()


def without_bias(name, block):
    """A composition of its own that lacks a projection."""

    @contextmanager
    def alter(composition):
        composition.remove_projection(composition.parts.learned[name, block])
        yield

    return alter


class StoresFirst(ReferenceEpisodicLSTM):
    """Stores the state of the step before, and only then retrieves."""

    def step(self, x_t, h, c, *, retrieve, encode, **kwargs):
        if encode:
            self.episodic_memory.encode(x_t[self.config.key_columns].detach(), c.detach())
        return super().step(x_t, h, c, retrieve=retrieve, encode=False, **kwargs)


class DiscountsMore(ReferenceEpisodicLSTM):
    """Takes another discount than it is told."""

    def loss(self, trial, settings):
        return super().loss(trial, replace(settings, gamma=0.99 * settings.gamma))


class TakesNothingAlong(ReferenceEpisodicLSTM):
    """Each trial begins as a block does, without a last choice or a lost episode."""

    def run_trial(self, plan, n, past, unroll=None):
        past.last_choice = Past().last_choice
        past.encoded.clear()
        return super().run_trial(plan, n, past, unroll)


class Detaches(ReferenceEpisodicLSTM):
    """Lets no gradient flow through its memory."""

    def learn_trials(self, plan, *, loss, **kwargs):
        return super().learn_trials(plan, loss=replace(loss, through_memory=False), **kwargs)


def assert_it_fails(failing, **models):
    settings = {"gamma": 0.9, "python_trials": 1, "further_trials": 0, "make_composition": pristine}
    ladder = climb_ladder(make_config(), [choice(2, np.random.default_rng(0))], **{**settings, **models})
    assert not ladder.passed
    assert failing in {rung.name for rung in ladder.rungs if not rung.passed}
    assert "DIFFERS, first at" in ladder.table()


@pytest.mark.parametrize(
    ("alter", "make"),
    [
        (sharp_forget_gate, pristine),
        (gates_swapped, pristine),
        rarely(without_bias("hidden_bias", "output"), EpisodicLSTMComposition),
        rarely(without_bias("critic_bias", "critic"), EpisodicLSTMComposition),
    ],
    ids=["gate", "gates swapped", "hidden bias", "read-out bias"],
)
def test_a_changed_composition_fails(alter, make):
    composition = make(make_config(), 0)
    with alter(composition):
        assert_it_fails("one step", make_composition=lambda config, seed: composition)


@pytest.mark.parametrize(("model", "failing"), [(StoresFirst, "memory"), (DiscountsMore, "loss")])
def test_a_changed_reference_fails(model, failing):
    assert_it_fails(failing, make_reference=model)


def test_what_people_take_along_counts():
    """Only people do: of the trained agent nothing differs."""
    block, settings = [choice(3, np.random.default_rng(0))], {"python_trials": 1, "further_trials": 2}
    models = {"make_composition": with_people, "make_reference": TakesNothingAlong}
    ladder = climb_ladder(make_config(), block, **settings, **models)
    failing = {r.path for r in ladder.rungs if not r.passed}
    in_worlds = {f"people, worlds{mode}" for mode in ("", ", Python mode", ", general path", ", simulate")}
    assert failing == {"person", "cohort", "people", "people, general path", *in_worlds}


def test_gradients_through_the_memory_count():
    assert_it_fails("gradients", make_reference=Detaches, update="block", through_memory=True)


def test_discount_of_the_composition_counts(monkeypatch):
    original = losses_module.discounts
    monkeypatch.setattr(losses_module, "discounts", lambda steps, gamma, unroll: original(steps, gamma**2, unroll))
    block = [choice(2, np.random.default_rng(0))]
    settings = {"make_composition": pristine, "python_trials": 0, "further_trials": 0}
    ladder = climb_ladder(make_config(), block, gamma=0.9, **settings)
    assert {rung.name for rung in ladder.rungs if not rung.passed} >= {"loss", "gradients"}


def test_a_rung_says_where():
    a = np.zeros((3, 2, 4))
    b = a.copy()
    b[1, 1, 3], b[2, 0, 0] = 1e-9, 1.0
    rung = compare_arrays("one trial", "PyTorch mode", [("cell", a, b)], ("trial", "step"))
    assert (rung.difference, rung.where, rung.passed) == (1.0, "trial 1, step 1, cell", False)
    assert compare_arrays("x", "p", [("a", a, a + TOLERANCE / 2)]).passed
    assert not compare_arrays("x", "p", [("a", a, np.full_like(a, np.nan))]).passed
    assert "shapes" in compare_arrays("x", "p", [("a", a, a[0])]).where


def test_sampled_choices_are_the_same_too():
    """From one seed, both models draw the same initial states and, from the same policies, the same actions."""
    block, config = choice(4, np.random.default_rng(5)), make_config()
    composition, reference = pristine(config, 1), ReferenceEpisodicLSTM(config, 1).double()
    ours, theirs = train(composition, block, seed=9), train(reference, block, seed=9)
    np.testing.assert_array_equal(ours.action, theirs.action)
    np.testing.assert_allclose(ours.hidden, theirs.hidden, atol=TOLERANCE)
    assert len(np.unique(ours.action)) == config.n_actions


def test_psyneulink_is_what_is_run():
    """The composition's parts are PsyNeuLink's, and what it stores is in its content-addressable memory."""
    composition = pristine(make_config())
    assert isinstance(composition, pnl.AutodiffComposition)
    assert isinstance(composition.episodic_memory, pnl.EpisodicMemoryMechanism)
    assert isinstance(composition.episodic_memory.function, pnl.ContentAddressableMemory)
    composition.run_trials(choice(1, np.random.default_rng(0)))
    assert len(composition.episodic_memory.function.memory) == len(composition.memory()[0]) > 0
