"""Run folders: what is kept, that going on is exact, and that nothing else is ever harmed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from eplstm.comparisons import runs
from eplstm.comparisons.runs import Interrupted, RunFolder, find_checkpoint, train_run
from eplstm.comparisons.settings import FRESH, RunSettings
from eplstm.models.checkpoint import CheckpointError, load_model, save_model

KINDS = ["reference", "composition"]
"""Kinds of model on which runs are tested."""
SMALL = RunSettings(
    blocks=3,
    contexts=3,
    obs_dim=3,
    trial_length=3,
    t_noise_off=1,
    hidden_size=4,
    memory_capacity=2,
    learning_rate=0.01,
)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_state(a: runs.RunState, b: runs.RunState, name: str) -> None:
    """To the last bit."""
    assert a.blocks_done == b.blocks_done
    ours, theirs = a.models[name], b.models[name]
    for what in ("weights", "optimizer_state"):
        left, right = getattr(ours, what)(), getattr(theirs, what)()
        assert left.keys() == right.keys() and left
        for key in left:
            np.testing.assert_array_equal(left[key], right[key], err_msg=f"{what}: {key}")
    for left, right in zip(ours.memory(), theirs.memory(), strict=True):
        np.testing.assert_array_equal(left, right)
    for what in runs.HISTORY:
        np.testing.assert_array_equal(a.stacked(name, what), b.stacked(name, what), err_msg=what)
    np.testing.assert_array_equal(a.last_block[name].gates, b.last_block[name].gates)


def stop_at(trial: int):
    def after_trial(done: int) -> None:
        if done == trial:
            raise KeyboardInterrupt

    return after_trial


# ---- settings ----------------------------------------------------------------------------------------


def test_blocks_come_from_seed_and_number_alone():
    first, again = SMALL.block(1), SMALL.block(1)
    np.testing.assert_array_equal(first.trials.inputs, again.trials.inputs)
    np.testing.assert_array_equal(first.initial_states[1], again.initial_states[1])
    assert first.seed == again.seed
    others = (SMALL.block(2), SMALL.block(1, FRESH), replace(SMALL, seed=1).block(1))
    for other in others:
        assert not np.isclose(first.trials.inputs, other.trials.inputs).any()


def test_initial_states_have_the_size_and_spread_of_the_model():
    h0, c0 = replace(SMALL, contexts=400).block(0).initial_states
    assert h0.shape == c0.shape == (800, 4)
    assert np.std(h0) == pytest.approx(0.1, rel=0.05)
    assert np.std(c0) == pytest.approx(0.1, rel=0.05)


def test_the_key_is_all_or_the_context():
    assert SMALL.model_config().key is None
    assert replace(SMALL, key="context").model_config().key == (3, 6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blocks", 0),
        ("contexts", 2.5),
        ("seed", -1),
        ("key", "observation"),
        ("loss", "mse"),
        ("learning_rate", float("nan")),
        ("gamma", 1.5),
        ("hidden_size", 0),
        ("kernel", "l3"),
        ("t_noise_off", 4),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        replace(SMALL, **{name: value})


# ---- going on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_goes_on_exactly(kind, tmp_path):
    whole = train_run(tmp_path / "whole", kind, SMALL)
    with pytest.raises(Interrupted, match=r"1 of 3 blocks are kept in .*again to go on"):
        train_run(tmp_path / "parts", kind, SMALL, after_trial=stop_at(10))  # in the second of three blocks
    seen = []
    resumed = train_run(tmp_path / "parts", kind, SMALL, after_trial=seen.append)
    assert seen == list(range(7, 19))
    assert_same_state(whole, resumed, kind)
    assert_same_state(whole, train_run(tmp_path / "parts", kind, SMALL), kind)  # and once more, from disk alone


def test_a_finished_run_can_be_made_longer(tmp_path, kind="reference"):
    whole = train_run(tmp_path / "whole", kind, SMALL)
    train_run(tmp_path / "parts", kind, replace(SMALL, blocks=1))
    assert_same_state(whole, train_run(tmp_path / "parts", kind, SMALL), kind)
    with pytest.raises(FileExistsError, match="a run of 3 blocks, more than the 2"):
        train_run(tmp_path / "parts", kind, replace(SMALL, blocks=2))


class Killed(BaseException):
    """The end of a process, which nothing may catch."""


def test_a_process_killed_while_it_saves_leaves_a_whole_state(tmp_path, monkeypatch):
    whole = train_run(tmp_path / "whole", "reference", SMALL)
    rename = os.replace

    def interrupted(source, target):
        rename(source, target)
        if Path(target).name == ".trained.old":  # the old state is away, the new one not yet in its place
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(runs.os, "replace", interrupted)
        with pytest.raises(Killed):
            train_run(tmp_path / "parts", "reference", SMALL)
    assert not (tmp_path / "parts" / "trained").exists()
    assert_same_state(whole, train_run(tmp_path / "parts", "reference", SMALL), "reference")
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["settings.json", "trained"]


def test_the_trained_model_is_an_ordinary_checkpoint(tmp_path):
    state = train_run(tmp_path, "reference", SMALL)
    loaded = load_model(tmp_path / "trained" / "reference")
    for name, weight in state.models["reference"].weights().items():
        np.testing.assert_array_equal(loaded.weights()[name], weight)
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path / "trained" / "reference")


def test_settings_reach_the_training(tmp_path):
    base = train_run(tmp_path / "base", "reference", SMALL).models["reference"].weights()["hidden_weight"]
    for name, value in (("gamma", 0.9), ("loss", "cross_entropy"), ("entropy_weight", 0.1), ("value_weight", 0.5)):
        settings = replace(SMALL, **{name: value})
        other = train_run(tmp_path / name, "reference", settings).models["reference"].weights()["hidden_weight"]
        assert np.abs(base - other).max() > 1e-6, name


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("reference", replace(SMALL, hidden_size=5), "hidden_size 4 instead of 5"),
        ("reference", replace(SMALL, seed=9, gamma=0.5), "gamma 0.0 instead of 0.5, seed 0 instead of 9"),
        ("composition", SMALL, "'train reference' instead of 'train composition'"),
    ],
)
def test_another_run_is_refused_and_not_harmed(kind, settings, message, tmp_path):
    train_run(tmp_path, "reference", SMALL)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=message):
        train_run(tmp_path, kind, settings)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.txt", "settings.json"])
def test_foreign_files_are_refused_even_to_overwrite(overwrite, name, tmp_path):
    (tmp_path / name).write_text('{"format": "of another program"}')
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"no run of eplstm.*Choose another folder"):
        train_run(tmp_path, "reference", SMALL, overwrite=overwrite)
    assert contents(tmp_path) == before


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "results").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        train_run(tmp_path / "results", "reference", SMALL)


def test_overwriting_starts_anew_and_spares_what_is_not_the_runs(tmp_path):
    train_run(tmp_path / "run", "reference", SMALL)
    (tmp_path / "run" / "my notes.txt").write_text("mine")
    other = replace(SMALL, seed=5)
    anew = train_run(tmp_path / "run", "reference", other, overwrite=True)
    assert_same_state(anew, train_run(tmp_path / "fresh", "reference", other), "reference")
    assert (tmp_path / "run" / "my notes.txt").read_text() == "mine"


def test_outputs_of_a_job_go_when_it_is_overwritten(tmp_path):
    RunFolder(tmp_path, "demo", SMALL)
    for name in ("report.html", "other.html"):
        (tmp_path / name).write_text("")
    RunFolder(tmp_path, "demo", replace(SMALL, seed=1), outputs=("report.html",), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.html", "settings.json"]


# ---- damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["progress.json", "history.npz", "last_block.npz", "reference/model.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_state_gets_a_clear_error(name, damage, tmp_path):
    train_run(tmp_path, "reference", replace(SMALL, blocks=1))
    path = tmp_path / "trained" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=path.name):
        train_run(tmp_path, "reference", SMALL)


def test_a_history_that_lacks_blocks_gets_a_clear_error(tmp_path):
    train_run(tmp_path, "reference", replace(SMALL, blocks=1))
    path = tmp_path / "trained" / "progress.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "blocks_done": 2}))
    with pytest.raises(CheckpointError, match="incomplete"):
        train_run(tmp_path, "reference", SMALL)


def test_unreadable_settings_in_a_run_are_another_run(tmp_path):
    train_run(tmp_path, "reference", SMALL)
    path = tmp_path / "settings.json"
    found = json.loads(path.read_text())
    found["settings"]["momentum"] = 0.9
    path.write_text(json.dumps(found))
    with pytest.raises(FileExistsError, match="settings cannot be read"):
        train_run(tmp_path, "reference", SMALL)


def test_find_checkpoint_says_what_it_needs(tmp_path):
    with pytest.raises(CheckpointError, match="holds no saved model"):
        find_checkpoint(tmp_path / "nowhere")
    model = runs.make_model("reference", SMALL.model_config(), 0)
    for name in ("one", "two"):
        save_model(model, tmp_path / "trained" / name)
    with pytest.raises(CheckpointError, match=r"several models.*one.*two"):
        find_checkpoint(tmp_path)
