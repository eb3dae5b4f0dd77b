"""Run folders: what is kept, that going on is exact, and that nothing else is ever harmed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from common import rarely
from eplstm.comparisons import blocks, runs
from eplstm.comparisons.blocks import make_model, train_run
from eplstm.comparisons.runs import RunFolder, find_checkpoint
from eplstm.comparisons.settings import FRESH, RunSettings
from eplstm.models import NotFinite
from eplstm.models.checkpoint import CheckpointError, load_model, save_model

pytestmark = pytest.mark.usefixtures("pool")

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
    assert a.done == b.done
    ours, theirs = a.models[name], b.models[name]
    for what in ("weights", "optimizer_state"):
        left, right = getattr(ours, what)(), getattr(theirs, what)()
        assert left.keys() == right.keys() and left
        for key in left:
            np.testing.assert_array_equal(left[key], right[key], err_msg=f"{what}: {key}")
    for left, right in zip(ours.memory(), theirs.memory(), strict=True):
        np.testing.assert_array_equal(left, right)
    for what in blocks.HISTORY:
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
        ("agents", 0),
        ("environments", True),
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


def test_an_update_that_is_not_finite_names_its_block(tmp_path):
    def after_trial(done):
        if done == 10:  # in the second of three blocks
            raise NotFinite("Trial 3.")

    with pytest.raises(NotFinite, match=r"^Block 1: Trial 3\. The 1 blocks before it are kept in .*run"):
        train_run(tmp_path / "run", "reference", SMALL, after_trial=after_trial)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_run_goes_on_exactly(kind, tmp_path, pool):
    whole = train_run(tmp_path / "whole", kind, SMALL)
    with pytest.raises(KeyboardInterrupt, match=r"1 of 3 blocks are kept in .*again to go on"):
        train_run(tmp_path / "parts", kind, SMALL, after_trial=stop_at(10))  # in the second of three blocks
    seen = []
    pool(1)  # of which only the first goes on being used
    resumed = train_run(tmp_path / "parts", kind, SMALL, after_trial=seen.append)
    assert seen == list(range(7, 19))
    assert_same_state(whole, resumed, kind)
    pool(1)
    assert_same_state(whole, train_run(tmp_path / "parts", kind, SMALL), kind)  # and once more, from disk alone


def test_a_finished_run_can_be_made_longer(tmp_path, kind="reference"):
    whole = train_run(tmp_path / "whole", kind, SMALL)
    train_run(tmp_path / "parts", kind, replace(SMALL, blocks=1))
    assert_same_state(whole, train_run(tmp_path / "parts", kind, SMALL), kind)
    with pytest.raises(FileExistsError, match="a run of 3 blocks, more than the 2"):
        train_run(tmp_path / "parts", kind, replace(SMALL, blocks=2))


def test_a_process_killed_while_it_saves_leaves_a_whole_state(tmp_path):
    whole = train_run(tmp_path / "whole", "reference", SMALL)
    with pytest.raises(KeyboardInterrupt):
        train_run(tmp_path / "parts", "reference", SMALL, after_trial=stop_at(10))
    parts = tmp_path / "parts"
    (parts / "trained").rename(parts / ".trained.old")  # the old state is away, the new one not yet in its place
    assert_same_state(whole, train_run(parts, "reference", SMALL), "reference")
    assert sorted(p.name for p in parts.iterdir()) == ["settings.json", "trained"]


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
        ("composition", SMALL, "job 'train reference' instead of 'train composition'"),
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


def test_overwriting_starts_anew_and_spares_what_is_not_the_runs(tmp_path):
    train_run(tmp_path / "run", "reference", SMALL)
    (tmp_path / "run" / "my notes.txt").write_text("mine")
    other = replace(SMALL, seed=5)
    anew = train_run(tmp_path / "run", "reference", other, overwrite=True)
    assert_same_state(anew, train_run(tmp_path / "fresh", "reference", other), "reference")
    assert (tmp_path / "run" / "my notes.txt").read_text() == "mine"


def test_outputs_of_a_job_go_when_it_is_overwritten(tmp_path):
    RunFolder(tmp_path, "demo", {"seed": 0})
    for name in ("report.html", "other.html"):
        (tmp_path / name).write_text("")
    RunFolder(tmp_path, "demo", {"seed": 1}, outputs=("report.html",), overwrite=True)
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
    path.write_text(json.dumps({**json.loads(path.read_text()), "done": 2}))
    with pytest.raises(CheckpointError, match="incomplete"):
        train_run(tmp_path, "reference", SMALL)


def test_find_checkpoint_says_what_it_needs(tmp_path):
    with pytest.raises(CheckpointError, match="holds no saved model"):
        find_checkpoint(tmp_path / "nowhere")
    model = make_model("reference", SMALL.model_config(), 0)
    for name in ("one", "two"):
        save_model(model, tmp_path / "trained" / name)
    with pytest.raises(CheckpointError, match=r"several models.*one.*two"):
        find_checkpoint(tmp_path)


# ---- several agents and environments -----------------------------------------------------------------

MANY = replace(SMALL, agents=3, environments=2, blocks=2)


def same_as_alone(cohort, models, atol=1e-10):
    """float64: rounding in another order."""
    for p, model in enumerate(models):
        for what in ("weights", "optimizer_state"):
            ours, theirs = getattr(cohort, what)(p), getattr(model, what)()
            for name, array in ours.items():
                np.testing.assert_allclose(array, theirs[name], rtol=0, atol=atol, err_msg=f"agent {p}: {name}")
        assert cohort.environments == model.environments
        for e in range(model.environments):
            for ours, theirs in zip(cohort.memory(p, e), model.memory(environment=e), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("kind", "environments"), [("reference", 1), ("reference", 2), rarely("composition", 1), ("composition", 2)]
)
@pytest.mark.slow
def test_each_of_many_agents_is_a_run_of_its_own(kind, environments, tmp_path):
    settings = replace(MANY, seed=4, agents=2, environments=environments)
    many = train_run(tmp_path / "many", kind, settings)
    single = replace(settings, agents=1)
    alone = [train_run(tmp_path / f"{p}", kind, replace(single, seed=4 + p)) for p in range(2)]
    same_as_alone(many.models[kind], [state.models[kind] for state in alone])
    for p, state in enumerate(alone):
        if environments > 1:
            for what in blocks.SUMMARY:
                ours, theirs = many.stacked(kind, what)[:, p], state.stacked(kind, what)[:, 0]
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
        else:
            reward = state.stacked(kind, "reward").reshape(2, 2, 3, 3).mean(2)  # three trials of each encounter
            np.testing.assert_allclose(many.stacked(kind, "accuracy")[:, p], reward, rtol=0, atol=1e-10)


def test_agents_and_environments_see_trials_of_their_own():
    blocks = [block for own in MANY.blocks_of_all(0) for block in own]
    assert len(blocks) == 6
    for a, one in enumerate(blocks):
        for other in blocks[:a]:
            assert not np.isclose(one.trials.inputs, other.trials.inputs).any()
            assert not np.isclose(one.initial_states[0], other.initial_states[0]).any()
    first = SMALL.block(0)
    np.testing.assert_array_equal(blocks[0].trials.inputs, first.trials.inputs)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("reference", {"agents": 1}),
        rarely("composition", {"agents": 1}),
        ("reference", {}),
        ("reference", {"agents": 20}),
    ],
)
def test_an_interrupted_run_of_many_goes_on_exactly(kind, changes, tmp_path):
    """20 agents are more than are run at once."""
    settings = replace(MANY, blocks=3, **changes)
    whole = train_run(tmp_path / "whole", kind, settings)
    with pytest.raises(KeyboardInterrupt, match="1 of 3 blocks are kept"):
        train_run(tmp_path / "parts", kind, settings, after_trial=stop_at(10))
    seen = []
    resumed = train_run(tmp_path / "parts", kind, settings, after_trial=seen.append)
    assert seen == list(range(7, 19))
    for state in (resumed, train_run(tmp_path / "parts", kind, settings)):
        ours, theirs = state.models[kind], whole.models[kind]
        assert ours.environments == 2
        for p in range(settings.agents):
            of_agent = (p,) if settings.agents > 1 else ()
            for name, array in theirs.optimizer_state(*of_agent).items():
                np.testing.assert_array_equal(ours.optimizer_state(*of_agent)[name], array)
            for e in range(2):
                a, b = (m.memory(*of_agent, environment=e) for m in (ours, theirs))
                assert len(a[0]) == 2
                np.testing.assert_array_equal(a[1], b[1])
        for what in blocks.SUMMARY:
            np.testing.assert_array_equal(state.stacked(kind, what), whole.stacked(kind, what))


def test_a_run_of_many_is_small_on_disk(tmp_path):
    """Its records are summed up: what is kept of a block does not grow with its environments."""
    sizes = []
    for environments in (2, 8):
        train_run(tmp_path / str(environments), "reference", replace(MANY, agents=1, environments=environments))
        sizes.append((tmp_path / str(environments) / "trained" / "history.npz").stat().st_size)
        assert not np.load(tmp_path / str(environments) / "trained" / "last_block.npz").files
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_fresh_accuracy_is_that_of_each_agent_alone(tmp_path):
    """Over agents where there are several; each block from an empty memory; the agents are left as they are."""
    state = train_run(tmp_path / "many", "reference", MANY)
    cohort = state.models["reference"]
    before = cohort.memory(1, 1)
    course = blocks.fresh_accuracy(cohort, MANY, 4)
    assert (course.over, course.n, course.encounters) == ("agents", (3, 3), (1, 2))
    each = [blocks.fresh_accuracy(cohort.agent(p, "reference"), MANY.agent(p), 4) for p in range(3)]
    np.testing.assert_allclose(course.mean, np.mean([c.mean for c in each], axis=0), rtol=0, atol=1e-10)
    np.testing.assert_allclose(course.se, np.std([c.mean for c in each], axis=0, ddof=1) / np.sqrt(3), atol=1e-10)
    assert each[0].over == "trials" and each[0].n == (12, 12)
    np.testing.assert_array_equal(cohort.memory(1, 1)[1], before[1])

    model, right = cohort.agent(2, "reference"), []
    settings = MANY.agent(2)
    for index in range(4):
        block = settings.block(index, FRESH)
        model.clear_memory()
        seed = (settings.block(0, FRESH).seed, index)
        right.append(model.run_trials(block.trials, initial_states=block.initial_states, seed=seed).reward[3:])
    np.testing.assert_allclose(each[2].mean[1], np.concatenate(right).mean(0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("environments", [rarely(1), 2])
@pytest.mark.slow
def test_what_psyneulink_keeps_of_a_run_does_not_grow(environments, tmp_path):
    """Only the results of the last block: 6 trials in each environment."""
    state = train_run(tmp_path, "composition", replace(SMALL, environments=environments))
    assert len(state.models["composition"].results) == 6 * environments


@pytest.mark.slow
def test_a_composition_in_32_environments_remembers_from_the_first_step(tmp_path):
    """The README's command: through ``learn()``, right on the second encounter before any evidence."""
    settings = RunSettings(blocks=60, environments=32, key="context", learning_rate=2e-3)
    state = train_run(tmp_path, "composition", settings)
    course = blocks.fresh_accuracy(state.models["composition"], settings, 8)
    assert course.encounters == (1, 2) and course.n == (400, 400)
    assert course.mean[1, 0] >= 0.97
    assert 0.4 < course.mean[0, 0] < 0.6  # and at chance where nothing can be known
