"""Files of checkpoints: what they hold, what is in their way, interrupted saves, and every kind of damage."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from eplstm.models import CheckpointError, Person, ReferenceEpisodicLSTM, load_model, save_model, train
from eplstm.models.checkpoint import describe_model
from eplstm.models.checkpoint_format import digest_of
from safetensors import safe_open
from safetensors.numpy import load_file, save_file


@pytest.fixture
def trained(make_config, make_trials):
    """A reference that was trained until its memory ran over."""
    model = ReferenceEpisodicLSTM(make_config(key=(1, 4), kernel="cosine"), seed=1)
    train(model, make_trials(encode=np.ones((4, 6), bool)), learning_rate=0.01, seed=1)
    return model


@pytest.fixture
def saved(trained, tmp_path):
    return save_model(trained, tmp_path / "agent", notes={"participant": "p01"})


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_holds(folder, model):
    """Weights tell which model it is; the round trip of all of it is in ``test_checkpoint``."""
    loaded = load_model(folder)
    assert loaded.config == model.config
    for name, array in model.weights().items():
        np.testing.assert_array_equal(loaded.weights()[name], array, err_msg=name)


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
    assert_holds(shutil.move(saved, tmp_path / "elsewhere"), trained)


# ---- saving: what is in the way, and what cannot be saved ---------------------------------------------


def test_a_checkpoint_is_replaced_only_on_request(saved, trained, make_config, tmp_path):
    (saved / "figure.txt").write_text("the user's own")
    other, before = ReferenceEpisodicLSTM(make_config(hidden_size=7), seed=3), content(saved)
    with pytest.raises(FileExistsError, match=f"{saved} holds a checkpoint already: pass overwrite=True"):
        save_model(other, saved)
    assert content(saved) == before
    assert_holds(saved, trained)
    save_model(other, saved, overwrite=True)
    assert_holds(saved, other)
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
    assert_holds(save_model(trained, tmp_path / "agent"), trained)


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
    assert_holds(saved, expected)
    assert describe_model(saved)["notes"] == {"participant": notes}
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]
    save_model(other, saved, overwrite=True)
    assert_holds(saved, other)
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
    assert_holds(save_model(trained, saved, overwrite=True), trained)


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
def test_what_does_not_fit_together_is_not_loaded(change, message, trained, saved):
    """A program may write such a checkpoint, with the right digest."""
    trained.person = Person(lapse=0.1)
    save_model(trained, saved, overwrite=True)
    rewrite(saved, lambda description, arrays: arrays["memory.keys"].fill(2), again=True)
    assert load_model(saved).memory()[0][0, 0] == 2
    rewrite(saved, change, again=True)
    with pytest.raises(CheckpointError, match=f"does not fit together .*{message}"):
        load_model(saved)
