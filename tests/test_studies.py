"""Designs, simulated people, variants, predictive checks and recovery studies, and the commands that run them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from common import pristine
from eplstm.comparisons.cli import main
from eplstm.comparisons.fitting import (
    Design,
    Fit,
    FreeResponse,
    Participant,
    TrainedAgent,
    fit_map,
    policies_of,
    predictive_check,
    read_trials,
    recovery_table,
    simulate_people,
    variants,
)
from eplstm.comparisons.fitting.studies import (
    Setting,
    best_models,
    fit_people,
    joined,
    model_pieces,
    of_design,
    parameter_pieces,
    people_pieces,
    recover_model,
    recover_parameters,
)
from eplstm.comparisons.fitting.variant import distinct
from eplstm.comparisons.work.pieces import run_pieces
from eplstm.models import Cohort, ModelConfig, save_model
from eplstm.tasks import ContextualChoice

SIZES = {"obs_dim": 6, "trial_length": 4, "t_noise_off": 2}
DESIGN = Design(blocks=2, contexts=6, new_contexts=2, **SIZES)
FULL = variants()["full"]


@pytest.fixture(scope="module")
def model():
    """A small agent that has learned to remember."""
    task = ContextualChoice(**SIZES)
    config = ModelConfig(task.input_size, 10, 2, 50, key=task.context_columns, retrieval="average", sharpness=2.0)
    cohort, rng = Cohort(config, seeds=[0]), np.random.default_rng(0)
    for block in range(30):
        cohort.clear_memory()
        trials = [task.sample(10, rng) for _ in range(16)]
        cohort.train([trials], learning_rate=5e-3, seed=[block])
    cohort.clear_memory()
    return cohort.agent(0, "reference")


@pytest.fixture(scope="module")
def agent(model):
    return TrainedAgent.of(model, context_columns=ContextualChoice(**SIZES).context_columns)


@pytest.fixture(scope="module")
def people(agent):
    z = FULL.space.draw(5, np.random.default_rng(1))
    return z, FULL.simulate(agent, DESIGN, z, seed=2)


# ---- designs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["phases", "interleaved"])
def test_design(order):
    design = Design(blocks=2, contexts=7, encounters=3, new_contexts=4, order=order, **SIZES)
    blocks = design.sample(np.random.default_rng(0))
    assert len(blocks) == 2 and sum(map(len, blocks)) == design.trials == 2 * (21 + 4)
    for trials in blocks:
        counts = np.bincount(trials.context)
        assert counts.tolist() == [3] * 7 + [1] * 4
        assert trials.encode.sum() == 7 and trials.encode[:, -1].sum() == 7
        assert (trials.encounter[trials.encode.any(1)] == 1).all()
        for context in range(7):
            shown = np.flatnonzero(trials.context == context)
            assert trials.encounter[shown].tolist() == [1, 2, 3]
            assert (trials.inputs[shown] == trials.inputs[shown[0]]).all()
        if order == "phases":
            assert (trials.encounter[:7] == 1).all() and trials.encode[:7, -1].all()


def test_one_probe_a_trial():
    design = Design(probes="one", **SIZES)
    trials = design.sample(np.random.default_rng(0))[0]
    probed = design.probed(trials, np.random.default_rng(1))
    assert (probed.sum(1) == 1).all() and probed.any(0).all()


def test_designs_that_cannot_be():
    for wrong, match in (
        ({"blocks": 0}, "blocks must be a whole number ≥ 1"),
        ({"new_contexts": -1}, "new_contexts must be a whole number ≥ 0"),
        ({"order": "random"}, "order must be one of"),
        ({"probes": "some"}, "probes must be one of"),
        ({"t_noise_off": 9}, "must not exceed"),
    ):
        with pytest.raises(ValueError, match=match):
            Design(**(SIZES | wrong))


# ---- simulated people --------------------------------------------------------------------------------


def assert_same_people(some, others):
    for a, b in zip(some, others, strict=True):
        assert a.id == b.id
        for x, y in zip(a.blocks, b.blocks, strict=True):
            np.testing.assert_array_equal(x.choices, y.choices)
            np.testing.assert_array_equal(x.trials.inputs, y.trials.inputs)


def test_the_same_people_from_all_models(agent, model, people):
    """Likelihood, reference and composition: the same choices, to the last one."""
    z, shown = people
    composition = pristine(model.config)
    composition.set_weights(model.weights())
    for source in (model, composition):
        before = source.memory()
        assert_same_people(simulate_people(agent, DESIGN, FULL.space, z, 2, policies=policies_of(source)), shown)
        np.testing.assert_array_equal(before[0], source.memory()[0])


def test_more_people_leave_the_first_as_they_are(agent, people):
    z, shown = people
    assert_same_people(FULL.simulate(agent, DESIGN, z[:2], seed=2), shown[:2])


def test_a_free_response_comes_once_a_trial(agent):
    names = ("inverse_temperature", "bound", "bound_noise", "non_decision_time", "encoding_probability")
    variant = variants(*names)["full"]
    z = variant.space.draw(3, np.random.default_rng(3))
    shown = variant.simulate(agent, DESIGN, z, 4, observation=FreeResponse())
    made = np.concatenate([block.observed.sum(1) for person in shown for block in person.blocks])
    assert set(made) == {0, 1}
    fit = fit_map(variant.objective(agent, shown, FreeResponse("censored")), restarts=2)
    assert np.isfinite(fit.log_likelihood).all() and not fit.failures


def test_sizes_that_do_not_fit(agent):
    with pytest.raises(ValueError, match="choose obs_dim=6"):
        simulate_people(agent, Design(obs_dim=3), FULL.space, np.zeros((1, len(FULL.space))), 0)
    with pytest.raises(ValueError, match="z must be"):
        simulate_people(agent, DESIGN, FULL.space, np.zeros((1, 1)), 0)


# ---- variants ----------------------------------------------------------------------------------------


def test_each_variant_is_simulated_and_fitted(agent):
    rng = np.random.default_rng(5)
    for variant in variants().values():
        z = variant.space.draw(2, rng)
        shown = variant.simulate(agent, DESIGN, z, 6)
        objective = variant.objective(agent, shown)
        total = sum(part.sum() for part in objective.pointwise(torch.from_numpy(z)))
        value = objective.log_likelihood(torch.from_numpy(z[None])).sum()
        assert float(value) == pytest.approx(total, abs=1e-9), variant.name
        assert np.isfinite(total)


def test_variants_that_are_the_same_for_an_agent_are_named_once(agent):
    every = list(variants().values())
    by_context, by_all = (replace(agent, config=replace(agent.config, key=key)) for key in ((6, 12), None))
    assert [v.name for v in every if v not in distinct(every, by_context)] == ["context key"]
    assert [v.name for v in every if v not in distinct(every, by_all)] == ["whole-input key"]
    assert distinct(every, replace(agent, config=replace(agent.config, key=(0, 6)))) == every


def test_what_a_variant_leaves_out(agent, people):
    _, shown = people
    none = variants()["no memory"]
    assert "gate_bias" not in none.space.names and "forgetting" not in none.space.names
    assert "forgetting" not in variants()["no forgetting"].space.names
    assert variants()["whole-input key"].agent(agent).config.key is None
    assert variants()["context key"].agent(agent).config.key == agent.context_columns
    z = np.array([[0.0, 0.0]])
    policy = none.objective(agent, shown[:1]).policies(z)[0][0]
    full = FULL.objective(agent, shown[:1]).policies(np.array([[0.0, -60.0, 0.0, 0.0]]))[0][0]  # the gate is shut
    np.testing.assert_allclose(policy, full, atol=1e-10)
    with pytest.raises(ValueError, match="no response times"):
        variants()["bias only"].objective(agent, shown, FreeResponse())


# ---- predictive checks and studies -------------------------------------------------------------------


def test_predictive_check_of_the_true_model(agent, people):
    _, shown = people
    fit = fit_map(FULL.objective(agent, shown), model="full", restarts=1)
    check = predictive_check(fit, FULL, agent, shown, draws=20, seed=1)
    assert check.people.shape == (5, 2, 4) and check.simulated.shape == (20, 5, 2, 4)
    first = [
        np.mean([(b.choices == b.trials.targets)[b.trials.encounter == 1].mean(0) for b in p.blocks], axis=0)
        for p in shown
    ]
    np.testing.assert_allclose(check.people[:, 0], first)
    table = check.table()
    assert len(table) == 8 and table["p"].between(0, 1).all()
    assert ((table["lower"] <= table["predicted"]) & (table["predicted"] <= table["upper"])).all()
    again = predictive_check(fit, FULL, agent, shown, draws=20, seed=1)
    np.testing.assert_array_equal(check.simulated, again.simulated)
    with pytest.raises(ValueError, match="do not hold the same participants"):
        predictive_check(fit, FULL, agent, shown[:-1])


def test_pieces_give_what_one_fit_gives(agent, people):
    _, shown = people
    twelve = [Participant(f"{p.id}{n}", p.blocks) for n in range(2) for p in shown]
    pieces = people_pieces(Setting(agent, restarts=1), [FULL], twelve)
    assert len(pieces) == 2
    found = joined([FULL], run_pieces(fit_people, pieces).results)["full"]
    whole = fit_map(FULL.objective(agent, twelve), model="full", restarts=1)
    assert found.ids == whole.ids
    np.testing.assert_allclose(found.z, whole.z, atol=1e-6)


@pytest.mark.slow
def test_recovery_study(agent, tmp_path):
    pieces = parameter_pieces(Setting(agent, restarts=1, seed=3), FULL, [DESIGN], people=6, groups=2)
    done = run_pieces(recover_parameters, pieces, store=tmp_path / "parameters")
    replicates = of_design(DESIGN, done.results)
    assert len(replicates) == 2 and not done.failures
    assert not replicates[0][0].equals(replicates[1][0])
    table = recovery_table(*replicates[0])
    assert set(table["parameter"]) == set(FULL.space.names)
    again = run_pieces(recover_parameters, pieces, store=tmp_path / "parameters")
    assert len(again.kept) == 2

    some = [variants()[name] for name in ("full", "bias only")]
    pieces = model_pieces(Setting(agent, restarts=1), some, DESIGN, people=4, groups=1)
    results = run_pieces(recover_model, pieces).results
    assert best_models(results, by_group=True)[0] == ["full", "bias only"]
    simulated, best = best_models(results)
    assert simulated == ["full"] * 4 + ["bias only"] * 4
    assert best[4:].count("bias only") >= 3


# ---- commands ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(model, tmp_path_factory):
    """A folder with an agent and simulated people."""
    folder = tmp_path_factory.mktemp("results")
    save_model(model, folder / "agent")
    sizes = ["--obs-dim", "6", "--trial-length", "4", "--t-noise-off", "2", "--blocks", "2", "--contexts", "6"]
    made = ["simulate", "--agent", str(folder / "agent"), "--out", str(folder / "data.csv"), "--participants", "5"]
    assert main([*made, *sizes]) == 0
    return folder


def run(results, *arguments):
    return main([arguments[0], *arguments[1:], "--agent", str(results / "agent")])


def test_simulate_writes_what_read_trials_reads(results):
    table = read_trials(results / "data.csv")
    assert len(table) == 5 and table.participants[0].n_choices == 2 * 12 * 4
    truth = pd.read_csv(results / "data.truth.csv")
    assert len(truth) == 5 * len(FULL.space)


def test_fit_predict_and_refusals(results, capsys):
    data, truth = str(results / "data.csv"), str(results / "data.truth.csv")
    out = results / "fit"
    arguments = ("fit", data, "--out", str(out), "--truth", truth, "--restarts", "2")
    assert run(results, *arguments) == 0
    fit = Fit.load(out)
    assert fit.ids == read_trials(data).ids and fit.space == FULL.space
    page = (out / "report.html").read_text()
    for name in ("estimates", "group", "recovery"):
        assert f"figures/{name}.png" in page and (out / "figures" / f"{name}.png").is_file()
    assert len(pd.read_csv(out / "estimates.csv")) == 5 * len(FULL.space)
    assert "Recovery" in page and "Convergence" in page

    capsys.readouterr()
    assert run(results, *arguments) == 2
    assert "holds a report" in capsys.readouterr().err
    for option, value, message in (
        ("--parameters", "lap", "['lap'] are not known"),
        ("--fixed", "lapse:0.1", "--fixed takes name=value"),
        ("--variant", "fool", "no variant 'fool'"),
    ):
        assert run(results, "fit", data, "--out", str(results / "x"), option, value) == 2
        assert message in capsys.readouterr().err

    assert run(results, "predict", str(out), "--data", data, "--out", str(results / "p"), "--draws", "5") == 0
    assert "figures/prediction.png" in (results / "p" / "report.html").read_text()
    assert run(results, "predict", str(results / "none"), "--data", data, "--out", str(results / "q")) == 2


def test_fit_of_the_group(results):
    pytest.importorskip("psyneulink.core.compositions.hierarchical", reason="this PsyNeuLink has no Laplace-EM")
    out = results / "group"
    data = str(results / "data.csv")
    age = pd.DataFrame({"participant": read_trials(data).ids, "age": [20.0, 30.0, 40.0, 50.0, 65.0]})
    age.to_csv(results / "age.csv", index=False)
    arguments = ("--estimator", "empirical_bayes", "--parameters", "inverse_temperature", "--restarts", "1")
    assert run(results, "fit", data, "--out", str(out), *arguments, "--covariates", str(results / "age.csv")) == 0
    assert pd.read_csv(out / "group.csv")["covariate"].tolist() == ["intercept", "age"]


def test_compare_models(results):
    data, out = str(results / "data.csv"), results / "models"
    names = ("full", "no memory", "bias only")
    settings = ("--restarts", "1", "--loo", "--variants", *names)
    assert run(results, "compare-models", data, "--out", str(out), *settings) == 0
    for name in ("shares", "groups", "held_out_blocks", "held_out_trials", "people"):
        assert set(pd.read_csv(out / f"{name}.csv")["model"]) == set(names)
    assert "protected exceedance" in (out / "report.html").read_text()


def test_recover(results):
    out = results / "recovery"
    sizes = ["--obs-dim", "6", "--trial-length", "4", "--t-noise-off", "2", "--contexts", "6", "--blocks", "1"]
    study = ["--participants", "10", "--groups", "1", "--blocks-of", "1", "2", "--restarts", "1"]
    few = ["--variants", "full", "bias only", "--parameters", "inverse_temperature", "perseveration"]
    assert run(results, "recover", "--out", str(out), *sizes, *study, *few) == 0
    table = pd.read_csv(out / "recovery.csv")
    assert set(table["n_trials"]) == {12, 24}
    page = (out / "report.html").read_text()
    for name in ("r_by_trials", "confusion_person", "inversion_group", "calibration_12_trials", "prediction"):
        assert f"figures/{name}.png" in page and (out / "figures" / f"{name}.png").is_file()
    assert page.count("<img") >= 9
