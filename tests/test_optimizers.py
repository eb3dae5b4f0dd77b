"""RMSprop beside Adam: both models against each other and against the rule by hand; its state; what is refused."""

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import pristine, rarely
from eplstm.models import (
    CheckpointError,
    Cohort,
    EpisodicLSTMComposition,
    ModelConfig,
    RecurrentComposition,
    ReferenceEpisodicLSTM,
    load_model,
    save_model,
    train,
    train_episodes,
)
from eplstm.tasks import BarcodeBandit, Trials

ATOL = 1e-10
"""float64 on both sides; they agree to some 1e-15 a step."""
D, H, A = 5, 3, 4
CONFIG = ModelConfig(D, H, A, memory_capacity=6)
ALPHA, EPS, RATE = 0.99, 1e-5, 0.01
SETTINGS = {"learning_rate": RATE, "optimizer": "rmsprop", "gamma": 0.8, "entropy_weight": 0.05}


def make_trials(n=4, steps=4, seed=0):
    rng = np.random.default_rng(seed)
    return Trials(
        inputs=rng.standard_normal((n, steps, D)),
        targets=rng.integers(A, size=(n, steps)),
        encode=rng.random((n, steps)) < 0.5,
    )


def reference_of(config=CONFIG):
    return ReferenceEpisodicLSTM(config, seed=4).double()


def models(config=CONFIG, fast=True):
    """Reference (float64) and composition with the same weights."""
    return reference_of(config), pristine(config, seed=4, fast=fast)


def close(one, two, what=""):
    np.testing.assert_allclose(one, two, rtol=0, atol=ATOL, err_msg=what)


def same_models(one, two):
    for part in ("weights", "optimizer_state"):
        ours, theirs = getattr(one, part)(), getattr(two, part)()
        assert ours.keys() == theirs.keys()
        for name, array in ours.items():
            close(array, theirs[name], f"{part}: {name}")


# ---- the numbers --------------------------------------------------------------------------------------


def test_the_rule_by_hand():
    """s ← α s + (1 − α) g², w ← w − η g / (√s + ε), from the gradients of each trial."""
    reference = reference_of()
    weights, squares = reference.weights(), {}
    record = train(reference, make_trials(), seed=1, record_gradients=True, **SETTINGS)
    for name, gradients in record.gradients.items():
        squares[name] = np.zeros_like(gradients[0])
        for g in gradients:
            squares[name] = ALPHA * squares[name] + (1 - ALPHA) * g**2
            weights[name] = weights[name] - RATE * g / (np.sqrt(squares[name]) + EPS)
        close(reference.weights()[name], weights[name], name)
        close(reference.optimizer_state()[f"square.{name}"], squares[name], name)
    assert set(reference.optimizer_state()) == {
        f"{part}.{name}" for part in ("step", "square") for name in weights
    }
    assert all((reference.optimizer_state()[f"step.{name}"] == 4).all() for name in weights)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "general"])
@pytest.mark.parametrize("reinstatement", ["gate", rarely("input")])
def test_both_models(reinstatement, fast):
    """Trials, environments, and an episode in the loop; the state goes on from call to call."""
    task = BarcodeBandit(arms=3, contexts=4, exposures=3, pulls=4, barcode_bits=5)
    config = ModelConfig(task.input_size, H, task.n_actions, 6, key=task.key_columns, reinstatement=reinstatement)
    pair = models(config, fast)
    rng = np.random.default_rng(0)
    trials = Trials(
        inputs=rng.standard_normal((4, 4, task.input_size)),
        targets=rng.integers(task.n_actions, size=(4, 4)),
        encode=rng.random((4, 4)) < 0.5,
    )
    for k in range(2):
        for model in pair:
            worlds = task.worlds([np.random.default_rng(e) for e in range(2)])
            worlds.begin_epoch()
            train(model, trials, seed=k, **SETTINGS)
            train(model, [trials, trials[::-1]], seed=k, **SETTINGS)
            train_episodes(model, worlds, 4, seed=k, max_gradient_norm=0.5, **SETTINGS)
    reference, composition = pair
    assert (composition.detour is None) == fast
    for name, array in reference.weights().items():
        close(array, composition.weights()[name], name)
        rows = np.r_[: 3 * H, 4 * H : 5 * H] if len(array) == 5 * H else slice(None)  # input: no gate, no steps
        for part in ("step", "square"):
            states = (model.optimizer_state()[f"{part}.{name}"] for model in pair)
            close(*(state[rows] for state in states), f"{part}.{name}")
    assert reference.optimizer_state()["step.input_weight"][0] == 2 * (4 + 4 + 4)


def test_it_is_not_adam():
    weights = [train_and_take_weights(optimizer) for optimizer in ("adam", "rmsprop")]
    assert max(np.abs(weights[0][name] - weights[1][name]).max() for name in weights[0]) > 1e-3


def train_and_take_weights(optimizer):
    reference = reference_of()
    train(reference, make_trials(), seed=1, learning_rate=RATE, optimizer=optimizer)
    return reference.weights()


def test_learn_takes_it_too():
    """By the argument, and then on, with learning rates by projection, too."""
    reference, composition = models()
    losses = {"gamma": 0.8, "entropy_weight": 0.05, "seed": 1}
    composition.learn(make_trials(), optimizer="rmsprop", learning_rate=RATE, **losses)
    train(reference, make_trials(), seed=1, **SETTINGS)
    same_models(reference, composition)
    composition.learn(make_trials(seed=1), learning_rate=RATE, **losses)
    train(reference, make_trials(seed=1), seed=1, **SETTINGS)
    same_models(reference, composition)
    frozen = composition.parts.learned["actor_weight", "actor"]
    before = composition.weights()
    composition.learn(make_trials(), learning_rate={frozen: False}, **losses)
    changed = {name for name, array in composition.weights().items() if not np.array_equal(array, before[name])}
    assert changed == set(before) - {"actor_weight"}


def test_any_recurrent_composition_takes_it():
    rng = np.random.default_rng(0)
    x, matrix, target = rng.standard_normal((6, 3, 2)), rng.standard_normal((2, 2)), rng.standard_normal((6, 3, 2))
    given, out = (pnl.ProcessingMechanism(name=name, default_variable=np.zeros(2)) for name in ("given", "out"))
    net = RecurrentComposition(name="net", optimizer_type="rmsprop")
    net.add_nodes([given, out])
    projection = pnl.MappingProjection(sender=given, receiver=out, matrix=matrix.copy())
    net.add_projection(projection)

    def loss(which, values):
        return (values[out] - torch.tensor(target[which.start : which.stop])).square().mean()

    net.learn({given: x}, loss, learning_rate=RATE)
    plain = torch.tensor(matrix, requires_grad=True)
    optimizer = torch.optim.RMSprop([plain], lr=RATE, alpha=ALPHA, eps=EPS)
    for k in range(6):
        optimizer.zero_grad()
        (torch.tensor(x[k]) @ plain - torch.tensor(target[k])).square().mean().backward()
        optimizer.step()
    close(projection.parameters.matrix.get(net), plain.detach().numpy())


# ---- its state ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_state_goes_from_model_to_model():
    """Into a composition that is new, or has Adam's state, or another of RMSprop's: each goes on alike."""
    reference, new = models()
    others = [new]
    for which, optimizer in enumerate(("adam", "rmsprop"), 1):
        others.append(pristine(CONFIG, seed=4, which=which))
        train(others[-1], make_trials(seed=3), learning_rate=RATE, optimizer=optimizer)
    train(reference, make_trials(), seed=1, **SETTINGS)
    for other in others:
        other.set_weights(reference.weights())
        other.set_memory(*reference.memory())
        other.set_optimizer_state(reference.optimizer_state())
        same_models(reference, other)
    train(reference, make_trials(seed=1), seed=2, **SETTINGS)
    for other in others:
        train(other, make_trials(seed=1), seed=2, **SETTINGS)
        same_models(reference, other)


@pytest.mark.parametrize("saved", [rarely("reference"), "composition"])
def test_checkpoint_round_trip(saved, tmp_path):
    pair = dict(zip(("reference", "composition"), models(), strict=True))
    for model in pair.values():
        train(model, make_trials(), seed=1, **SETTINGS)
    folder = save_model(pair[saved], tmp_path / "agent")
    train(pair["reference"], make_trials(seed=1), seed=2, **SETTINGS)
    for other in (reference_of(), pristine(CONFIG)):
        loaded = load_model(folder, model=other)
        with pytest.raises(
            ValueError, match="has been trained with 'rmsprop', whose state 'adam' cannot go on from"
        ):
            train(loaded, make_trials(seed=1), seed=2, learning_rate=RATE)
        train(loaded, make_trials(seed=1), seed=2, **SETTINGS)
        same_models(pair["reference"], loaded)
    together = load_model(folder, "cohort")
    together.train(make_trials(seed=1), seed=[2], **SETTINGS)
    same_models(pair["reference"], together.agent(0, "reference"))


def test_a_state_without_its_squares_is_refused(tmp_path):
    reference = reference_of()
    train(reference, make_trials(), seed=1, **SETTINGS)
    state = reference.optimizer_state()
    for part in ("step", "square"):
        lacking = {name: array for name, array in state.items() if name != f"{part}.actor_weight"}
        with pytest.raises(ValueError, match=r"\['actor_weight'\] is incomplete; needed are \('step', 'square'\)"):
            reference.set_optimizer_state(lacking)
    folder = save_model(reference, tmp_path / "agent")
    text = (folder / "model.json").read_text(encoding="utf-8")
    (folder / "model.json").write_text(text.replace("optimizer.square.actor_weight", "optimizer.other"))
    with pytest.raises(CheckpointError):
        load_model(folder)


# ---- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["adam", rarely("rmsprop")])
def test_from_one_to_the_other_only_anew(first):
    """A refused call changes nothing; once the state is cleared, it is as if it had begun so."""
    second = {"adam": "rmsprop", "rmsprop": "adam"}[first]
    for model in models():
        train(model, make_trials(), seed=1, learning_rate=RATE, optimizer=first)
        weights, state = model.weights(), model.optimizer_state()
        message = f"trained with '{first}', whose state '{second}' cannot go on from. Give optimizer='{first}', or"
        with pytest.raises(ValueError, match=message):
            train(model, make_trials(), seed=1, learning_rate=RATE, optimizer=second)
        for name, array in {**model.weights(), **model.optimizer_state()}.items():
            np.testing.assert_array_equal(array, {**weights, **state}[name], err_msg=name)
        train(model, make_trials(), seed=1, learning_rate=RATE, optimizer=first)  # goes on
        model.set_optimizer_state({})
        model.clear_memory()
        new = ReferenceEpisodicLSTM(CONFIG).double()
        new.set_weights(model.weights())
        for each in (model, new):
            train(each, make_trials(), seed=1, learning_rate=RATE, optimizer=second)
        same_models(model, new)


@pytest.mark.slow
def test_another_context_is_not_switched_unseen():
    """Each execution context has its optimiser's state: RMSprop does not go on where Adam has trained."""
    composition = EpisodicLSTMComposition(CONFIG)
    composition.learn(make_trials(), learning_rate=RATE, context="other")
    train(composition, make_trials(), seed=1, **SETTINGS)
    with pytest.raises(ValueError, match="trained with 'adam', whose state 'rmsprop' cannot go on from"):
        composition.learn(make_trials(), learning_rate=RATE, context="other")


@pytest.mark.parametrize("optimizer", ["sgd", "RMSprop", None])
def test_unknown_names(optimizer):
    task = BarcodeBandit()
    for model in models():
        with pytest.raises(ValueError, match="optimizer must be one of 'adam', 'rmsprop'; got"):
            train(model, make_trials(), optimizer=optimizer)
        with pytest.raises(ValueError, match="optimizer must be one of 'adam', 'rmsprop'; got"):
            train_episodes(model, task.worlds([np.random.default_rng(0)]), 1, optimizer=optimizer)


@pytest.mark.slow
def test_psyneulinks_sgd_is_left_to_learn():
    composition = EpisodicLSTMComposition(CONFIG, optimizer_type="sgd")
    before = composition.weights()
    composition.learn(make_trials(), learning_rate=RATE, seed=1)
    assert np.abs(composition.weights()["input_weight"] - before["input_weight"]).max() > 1e-4
    assert composition.optimizer_state() == {}
    with pytest.raises(
        ValueError, match="was made with optimizer_type='sgd', and cannot be trained with optimizer="
    ):
        train(composition, make_trials())


def test_a_cohort_goes_on_with_the_optimiser_of_its_agents():
    reference = reference_of()
    train(reference, make_trials(), seed=1, **SETTINGS)
    together = Cohort.from_models([reference])
    with pytest.raises(ValueError, match="trained with 'rmsprop', whose state 'adam' cannot go on from"):
        together.train(make_trials(), optimizer="adam")
    with pytest.raises(ValueError, match="trained with 'rmsprop', whose state 'adam' cannot go on from"):
        Cohort.from_models([reference, trained_with_adam()])
    together.set_optimizer_state({}, 0)
    together.train(make_trials(), optimizer="adam")
    assert "mean.actor_bias" in together.optimizer_state(0)


def trained_with_adam():
    reference = reference_of()
    train(reference, make_trials(), seed=1)
    return reference
