"""Checkpoints: exact round trips, training that goes on, interrupted saves, and every kind of damage."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from common import rarely
from eplstm.models import Cohort, EpisodicLSTMComposition, ModelConfig, Person, ReferenceEpisodicLSTM, train
from eplstm.models.checkpoint import CheckpointError, describe_model, load_model, save_model
from eplstm.tasks import ContextualChoice
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ATOL = 1e-10
"""Between the two models, both in float64; the round trip of one model is exact."""


@pytest.fixture
def trained(make_config, make_trials):
    """A reference that was trained until its memory ran over."""
    model = ReferenceEpisodicLSTM(make_config(key=(1, 4), kernel="cosine"), seed=1)
    train(model, make_trials(encode=np.ones((4, 6), bool)), learning_rate=0.01, seed=1)
    return model


@pytest.fixture
def saved(trained, tmp_path):
    return save_model(trained, tmp_path / "agent", notes={"participant": "p01"})


def parts(model):
    keys, values = model.memory()
    return {"keys": keys, "values": values, **model.weights(), **model.optimizer_state()}


def assert_same(one, two):
    """Equal to the last bit, names and precision included."""
    one, two = parts(one), parts(two)
    assert set(one) == set(two)
    for name, array in one.items():
        assert array.dtype == two[name].dtype, name
        np.testing.assert_array_equal(array, two[name], err_msg=name)


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- round trips -------------------------------------------------------------------------------------


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("capacity", [0, 1, 6, 40])
@pytest.mark.parametrize("loss", ["actor_critic", "cross_entropy"])
def test_training_goes_on_as_if_never_stopped(double, capacity, loss, make_config, make_trials, tmp_path):
    """Cross-entropy leaves the critic without a state of the optimiser; 6 entries have run over, 40 have not."""
    config = make_config(memory_capacity=capacity, retrieval="average", sharpness=2.5)
    model = ReferenceEpisodicLSTM(config, seed=1)
    if double:
        model.double()
    train(model, make_trials(), learning_rate=0.01, loss=loss, seed=1)
    loaded = load_model(save_model(model, tmp_path / "agent"))
    assert loaded.config == config
    assert_same(model, loaded)
    more = make_trials()
    records = [train(each, more, learning_rate=0.01, loss=loss, seed=2) for each in (model, loaded)]
    assert_same(model, loaded)
    for name in ("policy", "action", "cell", "memory", "policy_loss"):
        np.testing.assert_array_equal(getattr(records[0], name), getattr(records[1], name))


def test_untrained_model(make_config, tmp_path):
    model = ReferenceEpisodicLSTM(make_config(), seed=1)
    loaded = load_model(save_model(model, str(tmp_path / "made" / "on" / "the" / "way")))
    assert_same(model, loaded)
    assert loaded.optimizer_state() == {}
    assert len(loaded.memory()[0]) == 0


def test_what_is_in_the_files(saved, trained):
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    description = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    assert (description["format"], description["format_version"]) == ("eplstm-model", 1)
    assert (description["kind"], description["dtype"]) == ("reference", "float32")
    assert ModelConfig.from_dict(description["config"]) == trained.config
    assert description["notes"] == {"participant": "p01"}
    assert re.fullmatch(r"\d+\.\d+.*", description["eplstm_version"])
    expected = {
        **{f"weights.{name}": array for name, array in trained.weights().items()},
        **dict(zip(("memory.keys", "memory.values"), trained.memory(), strict=True)),
        **{f"optimizer.{name}": array for name, array in trained.optimizer_state().items()},
    }
    with safe_open(saved / "model.safetensors", framework="numpy") as file:
        assert set(file.keys()) == set(expected) == set(description["arrays"])
        for name, array in expected.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
            assert description["arrays"][name] == list(array.shape)


@pytest.fixture
def somebody(trained, tmp_path):
    """A checkpoint of a person who has context columns, which JSON knows no tuples for."""
    trained.person = Person(lapse=0.1, gate_bias=-2, context_columns=(1, 3), context_weight=0.75)
    return save_model(trained, tmp_path / "somebody")


def test_person_comes_back_in_either_model(somebody, trained):
    """In a version of its own: earlier readers, who know of no person, would run another one."""
    assert describe_model(somebody)["format_version"] == 3
    for kind in ("reference", "composition"):
        model = load_model(somebody, kind)
        assert model.person == trained.person
        np.testing.assert_array_equal(model.memory()[0], trained.memory()[0])
    assert_same(trained, load_model(somebody))
    model.person = Person()
    save_model(model, somebody, overwrite=True)
    assert describe_model(somebody)["format_version"] == 1
    assert load_model(somebody).person == Person()


def test_person_has_no_place_in_a_cohort(somebody):
    with pytest.raises(ValueError, match="holds a person, who cannot be part of a cohort"):
        load_model(somebody, "cohort")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"person": {"lapse": 3}}, "the person does not fit .*lapse must be a finite number"),
        ({"person": {"forgetting": 0.5}}, "the person does not fit .*need a model that averages"),
        ({"person": {"mood": 0.5}}, "the person does not fit .*mood"),
        ({"person": {"context_columns": 3}}, "the person does not fit"),
        ({"person": None}, "the person does not fit"),
        ({"format_version": 2}, "format version 2 with a person"),
    ],
)
def test_person_who_does_not_fit(changes, message, somebody):
    change_description(**changes)(somebody)
    with pytest.raises(CheckpointError, match=message):
        load_model(somebody)


def test_notes_come_back(trained, tmp_path):
    notes = {"Größe": [1, 2.5, None], "task": {"n_contexts": 50}, "done": True}
    folder = save_model(trained, tmp_path / "agent", notes=notes)
    assert describe_model(folder)["notes"] == notes
    assert describe_model(save_model(trained, tmp_path / "other"))["notes"] == {}


def test_loading_leaves_global_seeds_and_files_alone(saved):
    before, state = content(saved), torch.get_rng_state()
    load_model(saved)
    assert torch.equal(torch.get_rng_state(), state)
    assert content(saved) == before


def test_a_moved_checkpoint_loads(saved, trained, tmp_path):
    assert_same(load_model(shutil.move(saved, tmp_path / "elsewhere")), trained)


@pytest.mark.parametrize("kind", ["Reference", "", 1])
def test_unknown_kind(saved, kind):
    with pytest.raises(ValueError, match=f"'reference', 'composition', 'cohort' or None; got {kind!r}"):
        load_model(saved, kind)


# ---- both models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_trials():
    """Two halves of a small block, of which the second meets what the first stored."""
    trials = ContextualChoice(obs_dim=2, trial_length=3, t_noise_off=1).sample(2, np.random.default_rng(1))
    return trials[:2], trials[2:]


@pytest.mark.parametrize("capacity", [rarely(0), 5])
def test_a_composition_goes_on_as_either_model(capacity, two_trials, tmp_path):
    first, second = two_trials
    settings = {"learning_rate": 0.01, "gamma": 0.5}
    model = EpisodicLSTMComposition(ModelConfig(4, 3, 2, capacity, kernel="l1"), seed=1)
    train(model, first, seed=1, **settings)
    folder = save_model(model, tmp_path / "agent")
    assert describe_model(folder)["kind"] == "composition"
    again, reference = load_model(folder), load_model(folder, kind="reference")
    assert isinstance(again, EpisodicLSTMComposition)
    assert isinstance(reference, ReferenceEpisodicLSTM)
    assert reference.weights()["actor_bias"].dtype == np.float64
    assert_same(again, model)
    train(model, second, seed=2, **settings)
    for loaded in (again, reference):
        assert loaded.config == model.config
        train(loaded, second, seed=2, **settings)
        for name, array in parts(model).items():
            if not name.startswith("step."):  # rows that are never trained count no steps in a composition
                np.testing.assert_allclose(parts(loaded)[name], array, rtol=0, atol=ATOL, err_msg=name)


@pytest.mark.slow
def test_untrained_composition(tmp_path):
    model = EpisodicLSTMComposition(ModelConfig(4, 3, 2, 5), seed=1)
    model.set_memory(np.arange(8.0).reshape(2, 4), np.arange(6.0).reshape(2, 3))
    folder = save_model(model, tmp_path / "agent")
    for kind in ("composition", "reference"):
        assert_same(load_model(folder, kind), model)


def test_a_reference_goes_on_as_a_composition(two_trials, tmp_path):
    """From float32 the composition starts at the same numbers, and then goes on in float64."""
    first, second = two_trials
    model = ReferenceEpisodicLSTM(ModelConfig(4, 3, 2, 5), seed=1)
    train(model, first, seed=1, learning_rate=0.01)
    composition = load_model(save_model(model, tmp_path / "agent"), kind="composition")
    for name, array in parts(model).items():
        np.testing.assert_array_equal(parts(composition)[name], array, err_msg=name)
    for each in (model.double(), composition):
        train(each, second, seed=2, learning_rate=0.01)
    for name, array in parts(model).items():
        np.testing.assert_allclose(parts(composition)[name], array, rtol=0, atol=ATOL, err_msg=name)


# ---- saving: what is in the way, and what cannot be saved ---------------------------------------------


def test_a_checkpoint_is_replaced_only_on_request(saved, trained, make_config, tmp_path):
    (saved / "figure.txt").write_text("the user's own")
    other, before = ReferenceEpisodicLSTM(make_config(hidden_size=7), seed=3), content(saved)
    with pytest.raises(FileExistsError, match=f"{saved} holds a checkpoint already: pass overwrite=True"):
        save_model(other, saved)
    assert content(saved) == before
    assert_same(load_model(saved), trained)
    save_model(other, saved, overwrite=True)
    assert_same(load_model(saved), other)
    assert describe_model(saved)["notes"] == {}
    assert (saved / "figure.txt").read_text() == "the user's own"
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.txt", "years of work"),
        ("model.safetensors", "another program's"),
        ("model.json", '{"format": "another program\'s"}'),
        ("model.json", "[]"),
        ("model.json", "no JSON"),
    ],
)
def test_a_folder_with_something_else_is_refused(overwrite, name, text, trained, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(FileExistsError, match=r"no checkpoint of eplstm.*choose another folder"):
        save_model(trained, tmp_path, overwrite=overwrite)
    assert content(tmp_path) == {(tmp_path / name).relative_to(tmp_path): text.encode()}


def test_a_file_is_refused(trained, tmp_path):
    (tmp_path / "agent").write_text("a file")
    with pytest.raises(FileExistsError, match="choose another folder"):
        save_model(trained, tmp_path / "agent", overwrite=True)
    assert (tmp_path / "agent").read_text() == "a file"


def test_an_empty_folder_is_used(trained, tmp_path):
    (tmp_path / "agent").mkdir()
    assert_same(load_model(save_model(trained, tmp_path / "agent")), trained)


def spoil_weights(model):
    with torch.no_grad():
        model.actor_bias[1] = torch.nan


@pytest.mark.parametrize(
    ("spoil", "notes", "error", "message"),
    [
        (spoil_weights, None, ValueError, "weights.actor_bias holds 1 values not finite"),
        (lambda model: model.half(), None, ValueError, r"in float16; call .float\(\) or .double\(\)"),
        (lambda model: None, {"array": np.zeros(2)}, ValueError, "JSON cannot hold the notes"),
        (lambda model: None, {"loss": float("nan")}, ValueError, "JSON cannot hold the notes"),
    ],
)
def test_what_cannot_be_saved_writes_nothing(spoil, notes, error, message, trained, tmp_path):
    spoil(trained)
    with pytest.raises(error, match=message):
        save_model(trained, tmp_path / "agent", notes=notes)
    assert list(tmp_path.iterdir()) == []


def test_only_the_two_models_are_saved(tmp_path):
    with pytest.raises(TypeError, match="an EpisodicLSTMComposition or a Cohort; got Linear"):
        save_model(torch.nn.Linear(2, 2), tmp_path / "agent")


# ---- interrupted saves -------------------------------------------------------------------------------


def interrupt(monkeypatch, function, call):
    """Let a function of ``os`` work until the given call, and raise then."""
    original, calls = getattr(os, function), []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(os, function, interrupted)


@pytest.mark.parametrize(("function", "call"), [("fsync", 1), ("fsync", 2), ("replace", 1)])
def test_an_interrupted_first_save_leaves_nothing(function, call, trained, tmp_path, monkeypatch):
    interrupt(monkeypatch, function, call)
    with pytest.raises(KeyboardInterrupt):
        save_model(trained, tmp_path / "agent")
    assert list(tmp_path.iterdir()) == []
    save_model(trained, tmp_path / "agent")


@pytest.mark.parametrize(
    ("function", "call", "new"),
    [("fsync", 1, False), ("fsync", 2, False), ("replace", 1, False), ("replace", 2, True)],
)
@pytest.mark.parametrize("same_shapes", [False, True])
def test_an_interrupted_replacement_leaves_one_whole_model(
    function, call, new, same_shapes, saved, trained, make_config, tmp_path, monkeypatch
):
    """At any moment the folder holds the old model or the new one, config and notes included, never a mixture."""
    changes = {"kernel": "l1", "key": (2, 5)} if same_shapes else {"hidden_size": 7}
    other = ReferenceEpisodicLSTM(make_config(**changes), seed=3)
    with monkeypatch.context() as patch:
        interrupt(patch, function, call)
        with pytest.raises(KeyboardInterrupt):
            save_model(other, saved, notes={"participant": "p02"}, overwrite=True)
    expected, notes = (other, "p02") if new else (trained, "p01")
    assert_same(load_model(saved), expected)
    assert load_model(saved).config == expected.config
    assert describe_model(saved)["notes"] == {"participant": notes}
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]
    save_model(other, saved, overwrite=True)
    assert_same(load_model(saved), other)
    assert describe_model(saved)["notes"] == {}


# ---- damage ------------------------------------------------------------------------------------------


def change_description(**changes):
    def damage(folder):
        path = folder / "model.json"
        description = json.loads(path.read_text(encoding="utf-8"))
        for name, value in changes.items():
            description[name] = value(description[name]) if callable(value) else value
        path.write_text(json.dumps(description), encoding="utf-8")

    return damage


def change_arrays(change, keep_header=True):
    def damage(folder):
        path = folder / "model.safetensors"
        with safe_open(path, framework="numpy") as file:
            header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        change(arrays)
        save_file(arrays, path, metadata=header if keep_header else None)

    return damage


def change_bytes(name, change):
    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def flip_last_bit(data):
    return data[:-1] + bytes([data[-1] ^ 1])


DAMAGE = {
    "no description": (lambda folder: (folder / "model.json").unlink(), "model.json: the file is missing"),
    "no arrays": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "model.safetensors: the file is missing",
    ),
    "no folder": (shutil.rmtree, "model.json: there is no folder"),
    "description cut off": (change_bytes("model.json", lambda data: data[:50]), "model.json: not JSON"),
    "description empty": (change_bytes("model.json", lambda data: b""), "model.json: not JSON"),
    "description not text": (change_bytes("model.json", lambda data: b"\xff\xfe"), "model.json: not UTF-8"),
    "description a list": (change_bytes("model.json", lambda data: b"[]"), "the format is 'list'"),
    "other format": (change_description(format="x"), "the format is 'x' instead of 'eplstm-model'"),
    "newer version": (change_description(format_version=4), "format version 4.*reads versions 1 to 3: install"),
    "no person": (change_description(format_version=3), "format version 3 without a person"),
    "no version": (change_description(format_version=None), "format version None"),
    "other kind": (change_description(kind="tree"), "kind is 'tree', not one of reference, composition"),
    "other dtype": (change_description(dtype="int8"), "dtype is 'int8', not one of float32, float64"),
    "wrong dtype": (change_description(dtype="float64"), "weights.input_weight is in float32 instead of float64"),
    "no config": (change_description(config=None), "'config' is missing"),
    "config lacks a size": (
        change_description(config=lambda c: {k: v for k, v in c.items() if k != "n_actions"}),
        "the config does not fit .*n_actions",
    ),
    "config with more": (change_description(config=lambda c: {**c, "depth": 2}), "does not fit .*unknown.*depth"),
    "bad key": (change_description(config=lambda c: {**c, "key": 3}), "model.json: the config does not fit"),
    "other sizes": (
        change_description(config=lambda c: {**c, "hidden_size": 4}),
        r"weights.input_weight has the shape \(15, 5\) instead of \(20, 5\)",
    ),
    "smaller memory": (
        change_description(config=lambda c: {**c, "memory_capacity": 2}),
        "6 entries .* capacity of 2",
    ),
    "list of arrays": (
        change_description(arrays=lambda a: {**a, "memory.keys": [6, 9]}),
        r"model.json: memory.keys is listed with the shape \[6, 9\] instead of \[6, 3\]",
    ),
    "array listed too many": (change_description(arrays=lambda a: {**a, "x": [1]}), r"arrays listed .*\['x'\]"),
    "arrays cut off": (
        change_bytes("model.safetensors", lambda data: data[:-9]),
        "not a readable safetensors file",
    ),
    "arrays empty": (change_bytes("model.safetensors", lambda data: b""), "not a readable safetensors file"),
    "header broken": (change_bytes("model.safetensors", lambda data: b"\x00" * len(data)), "not a readable"),
    "one bit": (change_bytes("model.safetensors", flip_last_bit), "not those that model.json describes"),
    "weight missing": (
        change_arrays(lambda arrays: arrays.pop("weights.actor_bias")),
        r"arrays missing: \['weights.actor_bias'\], unknown: none",
    ),
    "memory missing": (change_arrays(lambda a: a.pop("memory.keys")), r"arrays missing: \['memory.keys'\]"),
    "half a state": (
        change_arrays(lambda arrays: arrays.pop("optimizer.mean.actor_bias")),
        r"arrays missing: \['optimizer.mean.actor_bias'\]",
    ),
    "unknown array": (change_arrays(lambda arrays: arrays.update(extra=np.ones(2))), r"unknown: \['extra'\]"),
    "other shape": (
        change_arrays(lambda arrays: arrays.update({"weights.actor_bias": np.zeros(5, np.float32)})),
        r"weights.actor_bias has the shape \(5,\) instead of \(4,\)",
    ),
    "uneven memory": (
        change_arrays(lambda arrays: arrays.update({"memory.values": arrays["memory.values"][:2].copy()})),
        r"memory.values has the shape \(2, 3\) instead of \(6, 3\)",
    ),
    "not finite": (
        change_arrays(lambda arrays: arrays["memory.values"].__setitem__((0, 1), np.inf)),
        "memory.values holds 1 values not finite",
    ),
    "whole numbers": (
        change_arrays(lambda arrays: arrays.update({"memory.keys": np.ones((6, 3), np.int64)})),
        "memory.keys is in int64",
    ),
    "other values": (
        change_arrays(lambda arrays: arrays["weights.actor_bias"].__iadd__(1), keep_header=False),
        "the arrays are not those that model.json describes",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_and_left_as_it_is(name, saved):
    damage, message = DAMAGE[name]
    damage(saved)
    before = content(saved)
    for load in (load_model, describe_model):
        with pytest.raises(CheckpointError, match=message) as caught:
            load(saved)
        assert str(saved) in str(caught.value)
        assert re.search(r"\b(save the model again|save_model|install)", str(caught.value))  # a remedy
    assert content(saved) == before


def test_a_damaged_checkpoint_can_be_replaced(saved, trained):
    """As long as its description tells that it is one."""
    change_bytes("model.safetensors", lambda data: data[:-9])(saved)
    assert_same(load_model(save_model(trained, saved, overwrite=True)), trained)


def test_the_error_is_a_value_error():
    assert issubclass(CheckpointError, ValueError)


# ---- environments and cohorts ------------------------------------------------------------------------


def in_environments(model, make_trials, environments=3, seed=1):
    train(model, [make_trials() for _ in range(environments)], learning_rate=0.01, seed=seed)
    return model


def assert_same_memories(one, two):
    assert one.environments == two.environments > 1
    for e in range(one.environments):
        for ours, theirs in zip(one.memory(environment=e), two.memory(environment=e), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=f"environment {e}")


@pytest.mark.parametrize(
    ("kind", "capacity"),
    [
        (ReferenceEpisodicLSTM, 1),
        (ReferenceEpisodicLSTM, 40),
        (EpisodicLSTMComposition, 1),
        rarely(EpisodicLSTMComposition, 40),
    ],
)
@pytest.mark.slow
def test_memories_of_all_environments(kind, capacity, make_config, make_trials, tmp_path):
    """They are not equally full; training goes on exactly; the other kind holds the same."""
    model = kind(make_config(memory_capacity=capacity), seed=1)
    in_environments(model.double() if kind is ReferenceEpisodicLSTM else model, make_trials)
    save_model(model, tmp_path / "agent")
    loaded = load_model(tmp_path / "agent")
    assert type(loaded) is kind
    assert_same(model, loaded)
    assert_same_memories(model, loaded)
    other = load_model(
        tmp_path / "agent", "composition" if kind is ReferenceEpisodicLSTM else "reference", agent=0
    )
    assert_same_memories(model, other)
    more = [make_trials() for _ in range(3)]
    for each in (model, loaded, other):
        train(each, more, learning_rate=0.01, seed=2)
    assert_same(model, loaded)
    assert_same_memories(model, loaded)
    for name, weight in model.weights().items():
        np.testing.assert_allclose(other.weights()[name], weight, rtol=0, atol=ATOL, err_msg=name)


def test_one_environment_is_written_as_ever(trained, saved, make_trials, tmp_path):
    """Format version 1, which earlier versions read and wrote; more environments are version 2."""
    assert describe_model(saved)["format_version"] == 1
    assert "memory.entries" not in describe_model(saved)["arrays"]
    more = save_model(in_environments(trained, make_trials), tmp_path / "more")
    assert describe_model(more)["format_version"] == 2
    assert describe_model(more)["arrays"]["memory.entries"] == [3]


@pytest.fixture
def cohort(make_config, make_trials):
    """Three agents in two environments; one weight of cross-entropy has no state of Adam."""
    agents = Cohort(make_config(memory_capacity=4), [3, 4, 5])
    trials = [[make_trials() for _ in range(2)] for _ in range(3)]
    agents.train(trials, learning_rate=0.01, seed=1, loss="cross_entropy")
    return agents


def assert_same_agents(one, two):
    assert len(one) == len(two) and one.environments == two.environments
    for p in range(len(one)):
        for what in ("weights", "optimizer_state"):
            ours, theirs = getattr(one, what)(p), getattr(two, what)(p)
            assert ours.keys() == theirs.keys()
            for name, array in ours.items():
                np.testing.assert_array_equal(array, theirs[name], err_msg=f"agent {p}: {name}")
        for e in range(one.environments):
            for ours, theirs in zip(one.memory(p, e), two.memory(p, e), strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_a_cohort_goes_on_as_if_never_stopped(cohort, make_trials, tmp_path):
    save_model(cohort, tmp_path / "agents", notes={"of": "three"})
    assert describe_model(tmp_path / "agents")["notes"] == {"of": "three"}
    loaded = load_model(tmp_path / "agents")
    assert_same_agents(cohort, loaded)
    trials = [[make_trials() for _ in range(2)] for _ in range(3)]
    for each in (cohort, loaded):
        each.train(trials, learning_rate=0.01, seed=2)
    assert_same_agents(cohort, loaded)
    save_model(loaded, tmp_path / "agents", overwrite=True)
    assert_same_agents(load_model(tmp_path / "agents"), loaded)


def test_each_agent_of_a_cohort_can_be_loaded_alone(cohort, tmp_path):
    save_model(cohort, tmp_path / "agents")
    singles = [load_model(tmp_path / "agents", "composition", 0), load_model(tmp_path / "agents", agent=1)]
    singles.append(load_model(tmp_path / "agents", "reference", agent=2))
    assert [type(s) for s in singles] == [EpisodicLSTMComposition, ReferenceEpisodicLSTM, ReferenceEpisodicLSTM]
    assert_same_agents(Cohort.from_models(singles), cohort)
    single = save_model(singles[1], tmp_path / "single")
    one = load_model(single, "cohort")
    assert len(one) == 1
    assert_same_agents(one, Cohort.from_models(singles[1:2]))


def test_untrained_and_memoryless_cohorts(make_config, tmp_path):
    for capacity in (0, 6):
        agents = Cohort(make_config(memory_capacity=capacity), [1, 2])
        assert_same_agents(load_model(save_model(agents, tmp_path / f"{capacity}")), agents)


def test_it_must_be_clear_which_agent_is_meant(cohort, saved, tmp_path):
    save_model(cohort, tmp_path / "agents")
    for kind in ("reference", "composition"):
        with pytest.raises(ValueError, match=r"3 agents: give agent=0 to 2, or kind='cohort'"):
            load_model(tmp_path / "agents", kind)
    for agent in (3, -1):
        with pytest.raises(ValueError, match=f"holds 3 agents, counted from 0; got agent={agent}"):
            load_model(tmp_path / "agents", agent=agent)
    with pytest.raises(ValueError, match="holds 1 agents"):
        load_model(saved, agent=1)
    with pytest.raises(ValueError, match="leave out agent"):
        load_model(tmp_path / "agents", "cohort", agent=1)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (None, "memory.entries.*missing"),
        (np.array([4, 4]), "memory.entries.*missing or not"),
        (np.full((3, 2), 4.0), "memory.entries.*whole numbers"),
        (np.array([[5, 3], [4, 4], [4, 4]]), "5 entries in a memory with a capacity of 4"),
        (np.full((3, 2), 3), "memory.keys has the shape"),
        (np.full((2, 3), 4), "has the shape"),
    ],
)
def test_damaged_numbers_of_entries(entries, message, cohort, tmp_path):
    folder = save_model(cohort, tmp_path / "agents")
    arrays, description = load_file(folder / "model.safetensors"), json.loads((folder / "model.json").read_text())
    assert arrays["memory.entries"].tolist() == [[4, 4]] * 3
    del arrays["memory.entries"]
    if entries is not None:
        arrays["memory.entries"] = entries
        description["arrays"]["memory.entries"] = list(entries.shape)
        (folder / "model.json").write_text(json.dumps(description))
    save_file(arrays, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)
