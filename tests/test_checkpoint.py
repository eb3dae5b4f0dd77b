"""Checkpoints: exact round trips, training that goes on, interrupted saves, and every kind of damage."""

import json
import os
import re
import shutil

import numpy as np
import psyneulink as pnl
import pytest
import torch
from common import rarely
from eplstm.models import (
    CheckpointError,
    Cohort,
    EncodingMechanism,
    EpisodicLSTMComposition,
    EpisodicMemory,
    ModelConfig,
    Person,
    ReferenceEpisodicLSTM,
    load_model,
    save_model,
    train,
)
from eplstm.models.checkpoint import describe_model
from eplstm.models.checkpoint_format import digest_of
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


@pytest.mark.parametrize(
    ("double", "capacity", "loss"),
    [
        (True, 0, "actor_critic"),
        (False, 1, "actor_critic"),
        (False, 6, "cross_entropy"),
        (True, 40, "cross_entropy"),
    ],
)
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
    assert description["config"] == json.loads(json.dumps(trained.config.to_dict()))
    assert description["person"] is description["changed_graph"] is None
    assert description["notes"] == {"participant": "p01"}
    assert re.fullmatch(r"\d+\.\d+.*", description["eplstm_version"])
    expected = {
        **{f"weights.{name}": array for name, array in trained.weights().items()},
        **dict(zip(("memory.keys", "memory.values"), trained.memory(), strict=True)),
        **{f"optimizer.{name}": array for name, array in trained.optimizer_state().items()},
        "memory.entries": np.array([6]),
    }
    with safe_open(saved / "model.safetensors", framework="numpy") as file:
        assert set(file.keys()) == set(expected) == set(description["arrays"])
        assert file.metadata()["eplstm"] == (saved / "model.json").read_text(encoding="utf-8")
        for name, array in expected.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
            assert description["arrays"][name] == list(array.shape)


@pytest.fixture
def somebody(trained, tmp_path):
    """A checkpoint of a person who has context columns, which JSON knows no tuples for."""
    trained.person = Person(lapse=0.1, gate_bias=-2, context_columns=(1, 3), context_weight=0.75)
    return save_model(trained, tmp_path / "somebody")


def test_person_comes_back_in_either_model(somebody, trained):
    for kind in ("reference", "composition"):
        model = load_model(somebody, kind)
        assert model.person == trained.person
        np.testing.assert_array_equal(model.memory()[0], trained.memory()[0])
    assert_same(trained, load_model(somebody))
    model.person = Person()
    save_model(model, somebody, overwrite=True)
    assert load_model(somebody, "reference").person == Person()


def test_person_has_no_place_in_a_cohort(somebody):
    with pytest.raises(ValueError, match="holds a person, who cannot be part of a cohort"):
        load_model(somebody, "cohort")


def test_notes_come_back(trained, tmp_path):
    notes = {"Größe": [1, 2.5, None], "task": {"n_contexts": 50}, "10": True, "9": {}}
    folder = save_model(trained, tmp_path / "agent", notes=notes)
    assert describe_model(folder)["notes"] == notes
    assert describe_model(save_model(trained, folder, notes={10: 1, 9: 2}, overwrite=True))["notes"]["9"] == 2
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
    [("fsync", 1, False), ("replace", 1, False), ("fsync", 2, True), ("replace", 2, True)],
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
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")

    return damage


def change_bytes(name, change):
    def damage(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def change_arrays(**changes):
    def damage(folder):
        rewrite(folder, lambda description, arrays: arrays.update(changes))

    return damage


def rewrite(folder, change, again=False):
    """Change what the arrays' file holds; again: with the digest of what it holds now, in both files."""
    path = folder / "model.safetensors"
    with safe_open(path, framework="numpy") as file:
        description = json.loads(file.metadata()["eplstm"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(description, arrays)
    if again:
        description["sha256"] = digest_of(description, arrays)
        (folder / "model.json").write_text(json.dumps(description), encoding="utf-8")
    save_file(arrays, path, metadata={"eplstm": json.dumps(description)})


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
    "other version": (change_description(format_version=2), "format version 2.*reads version 1: install"),
    "no version": (change_description(format_version=None), "format version None"),
    "no digest": (change_description(sha256=None), "model.json: 'sha256' is missing"),
    "other config": (change_description(config={}), "model.json: it was changed or damaged"),
    "other person": (change_description(person={"lapse": 0.2}), "model.json: it was changed or damaged"),
    "other notes": (change_description(notes={}), "model.json: it was changed or damaged"),
    "arrays cut off": (
        change_bytes("model.safetensors", lambda data: data[:-9]),
        "not a readable safetensors file",
    ),
    "arrays empty": (change_bytes("model.safetensors", lambda data: b""), "not a readable safetensors file"),
    "header broken": (change_bytes("model.safetensors", lambda data: b"\x00" * len(data)), "not a readable"),
    "one bit": (
        change_bytes("model.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        "model.safetensors: the arrays are not those that its header describes",
    ),
    "one more array": (change_arrays(extra=np.ones(2)), "not those that its header describes"),
    "another memory": (change_arrays(**{"memory.entries": np.array([5])}), "not those that its header describes"),
    "other header": (
        lambda folder: rewrite(folder, lambda description, arrays: description["config"].update(kernel="l1")),
        "not those that its header describes",
    ),
    "no header": (
        lambda folder: save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors"),
        "its header lacks the entry 'eplstm'",
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, a: d.update(kind="tree"), "kind is 'tree', not one of reference, composition"),
        (lambda d, a: d["config"].pop("n_actions"), r"missing settings \['n_actions'\]"),
        (lambda d, a: d["config"].update(depth=2), r"unknown settings \['depth'\]"),
        (lambda d, a: d["config"].update(hidden_size=4), "input_weight must have the shape"),
        (lambda d, a: d["config"].update(memory_capacity=2), "6 entries do not fit a capacity of 2"),
        (lambda d, a: d["person"].update(lapse=3), "lapse must be a finite number"),
        (lambda d, a: d["person"].update(forgetting=0.5), "need a model that averages"),
        (lambda d, a: d["person"].update(mood=0.5), "mood"),
        (lambda d, a: d["person"].update(context_columns=3), "not iterable"),
        (lambda d, a: a.pop("weights.actor_bias"), r"missing \['actor_bias'\]"),
        (lambda d, a: a.pop("optimizer.mean.actor_bias"), r"state of \['actor_bias'\] is incomplete"),
        (lambda d, a: a.pop("memory.entries"), "'memory.entries'"),
        (lambda d, a: a.update({"memory.entries": np.array([5])}), r"memory.entries are \[\[5\]\], of 6 keys"),
        (lambda d, a: a.update({"memory.entries": np.array([7, -1])}), "memory.entries are"),
        (lambda d, a: a.update({"memory.entries": np.array([[6]])}), "too many values"),
        (lambda d, a: a["memory.values"].__setitem__((0, 1), np.inf), "keys and values must be finite"),
    ],
)
def test_what_does_not_fit_together_is_not_loaded(change, message, somebody):
    """A program may write such a checkpoint, with the right digest."""
    rewrite(somebody, lambda description, arrays: None, again=True)
    assert load_model(somebody).person.lapse == 0.1
    rewrite(somebody, change, again=True)
    with pytest.raises(CheckpointError, match=f"does not fit together .*{message}"):
        load_model(somebody)


# ---- changed graphs ----------------------------------------------------------------------------------


def second_memory(model):
    """Nodes that read and store by hidden states; what is read goes to the actor, by a matrix that is learned."""
    form = [np.zeros(3), np.zeros(3)]
    memory = pnl.EpisodicMemoryMechanism(
        name="second memory",
        default_variable=form,
        function=EpisodicMemory(default_variable=form, max_entries=2, storage_prob=0.0),
    )
    encoding = EncodingMechanism(memory=memory, name="second encoding")
    for node in (memory, encoding):
        model.add_node(node)
        model.exclude_node_roles(node, pnl.NodeRole.OUTPUT)
    for sender, receiver, matrix, learnable in (
        (model.hidden, memory.input_ports[0], np.eye(3), False),
        (memory.output_ports[1], model.actor, np.ones((3, 2)), True),
        (model.hidden, encoding.input_ports[0], np.eye(3), False),
        (model.hidden, encoding.input_ports[1], np.eye(3), False),
        (model.encode_node, encoding.input_ports[2], np.eye(1), False),
    ):
        new = pnl.MappingProjection(sender=sender, receiver=receiver, matrix=matrix, learnable=learnable)
        model.add_projection(new)
    return memory


def test_a_changed_graph_is_refused_or_loaded_into_one_that_is_changed_alike(two_trials, tmp_path):
    folder = tmp_path / "agent"
    config = ModelConfig(4, 3, 2, 5)
    models = [EpisodicLSTMComposition(config, seed=seed) for seed in (1, 2)]

    def check_alike():
        records = [model.run_trials(two_trials[1], seed=3) for model in models]
        np.testing.assert_array_equal(records[0].policy, records[1].policy)

    def change_alike(change, message):
        """Refused until the other agent is changed, too."""
        change(models[0])
        train(models[0], two_trials[0], learning_rate=0.1, seed=1)
        with pytest.raises(ValueError, match=f"{message}.*pass changed_graph=True"):
            save_model(models[0], folder, overwrite=True)
        save_model(models[0], folder, overwrite=True, changed_graph=True)
        with pytest.raises(ValueError, match=f"had been changed .*{message}.*give it: load_model"):
            load_model(folder)
        with pytest.raises(ValueError, match="Change it in the same way first"):
            load_model(folder, model=models[1])
        change(models[1])
        assert load_model(folder, model=models[1]) is models[1]
        check_alike()

    change_alike(
        lambda model: setattr(model.gates["forget"].function.gain, "base", 3.0), "'forget gate.*' changed"
    )
    change_alike(second_memory, "second encoding.*added")
    entries = [list(model.memories().values())[1] for model in models]
    assert len(entries[0][0]) == 2
    np.testing.assert_array_equal(*entries)


def test_settings_of_the_memory_are_saved_as_they_stand_in_the_graph(tmp_path):
    model = EpisodicLSTMComposition(ModelConfig(4, 3, 2, 5, retrieval="average"), seed=1)
    model.episodic_memory.function.parameters.sharpness.set(7.0)
    assert load_model(save_model(model, tmp_path / "agent"), "reference").config.sharpness == 7.0
    model.episodic_memory.function.parameters.forgetting.set(0.5)
    with pytest.raises(ValueError, match=r"forgetting of the memory is 0.5, and 0.* of the person"):
        save_model(model, tmp_path / "other")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"kernel": "l1"}, None, "Make one with the same config"),
        ({}, "composition", "is a reference, not a compo"),
    ],
)
def test_a_given_model_must_fit(changes, kind, message, saved, trained, make_config):
    other = ReferenceEpisodicLSTM(make_config(**{"key": (1, 4), "kernel": "cosine"} | changes), seed=2)
    with pytest.raises(ValueError, match=message):
        load_model(saved, kind, model=other)


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
