"""The command line, called as a user does: what it writes, prints and returns, and how it refuses."""

import json
import shutil

import numpy as np
import pytest
from common import rarely
from eplstm.comparisons import blocks, page, runs
from eplstm.comparisons.cli import main
from eplstm.comparisons.page import plain
from eplstm.comparisons.report import FIGURE_FILES
from eplstm.comparisons.saved import compare_saved
from eplstm.models import ModelConfig, ReferenceEpisodicLSTM, composition
from eplstm.models.checkpoint import load_model, save_model

FORWARD = ("retrieval (m)", "one step", "one trial")
SIZES = ["--contexts=3", "--obs-dim=3", "--trial-length=3", "--t-noise-off=1"]
SIZES += ["--hidden-size=4", "--memory-capacity=4"]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


class StandIn(ReferenceEpisodicLSTM):
    """In the place of the composition: quick, and by ``off`` different from the reference."""

    off = 0.0

    def __init__(self, config: ModelConfig, seed: int | None = None) -> None:
        super().__init__(config, seed)
        self.double()
        weights = self.weights()
        weights["hidden_weight"][1, 2] += self.off
        self.set_weights(weights)

    def show_graph(self, output_fmt: str):
        from graphviz import Digraph

        assert output_fmt == "gv"
        graph = Digraph()
        graph.edge("input", "memory")
        return graph


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(blocks, "EpisodicLSTMComposition", StandIn)  # where it is made
    monkeypatch.setattr(composition, "EpisodicLSTMComposition", StandIn)  # where it is loaded
    monkeypatch.setattr(page, "DPI", 40)


def train(out, kind="reference", *more) -> int:
    return main(["train", "--out", str(out), "--model", kind, "--blocks", "2", *SIZES, *more])


def demo(out, *more) -> int:
    return main(["demo", "--out", str(out), "--blocks", "2", "--fresh-blocks", "1", *SIZES, *more])


# ---- train -------------------------------------------------------------------------------------------


def test_train_saves_and_goes_on(tmp_path, capsys, kind="reference"):
    assert train(tmp_path, kind) == 0
    assert "2 blocks done" in capsys.readouterr().out
    first = load_model(tmp_path / "trained" / kind).weights()["input_weight"]
    assert train(tmp_path, kind) == 0  # nothing is left to do
    np.testing.assert_array_equal(load_model(tmp_path / "trained" / kind).weights()["input_weight"], first)
    assert train(tmp_path, kind, "--blocks", "3") == 0
    assert "3 blocks done" in capsys.readouterr().out


def test_every_setting_is_an_option(tmp_path):
    options = {
        "key": "context",
        "kernel": "cosine",
        "gamma": 0.5,
        "retrieval": "average",
        "ties": "newest",
        "seed": 3,
    }
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    assert train(tmp_path, "reference", *given, "--repeated-key", "overwrite", "--learning-rate", "0.01") == 0
    kept = json.loads((tmp_path / "settings.json").read_text())["settings"]
    assert {name: kept[name] for name in options} == options
    assert (kept["repeated_key"], kept["learning_rate"]) == ("overwrite", 0.01)


def test_ctrl_c_tells_what_is_kept(tmp_path, capsys, monkeypatch):
    model_train = blocks.train
    calls = []

    def interrupted_in_the_second_block(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return model_train(*arguments, **options)

    monkeypatch.setattr(blocks, "train", interrupted_in_the_second_block)
    assert train(tmp_path) == 130
    assert "1 of 2 blocks are kept" in capsys.readouterr().err
    assert train(tmp_path) == 0


# ---- wrong use ---------------------------------------------------------------------------------------


def test_users_errors_are_one_line_and_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "run", "reference", "--gamma", "2")
    assert stop.value.code == 2 and "gamma" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run") == 0
    capsys.readouterr()
    assert train(tmp_path / "run", "reference", "--seed", "1") == 2
    refused = capsys.readouterr().err
    assert "holds another run: seed 0 instead of 1" in refused and "--overwrite" in refused
    assert main(["compare", str(tmp_path / "run"), str(tmp_path / "nowhere")]) == 2
    missing = capsys.readouterr().err
    assert "holds no saved model" in missing
    for message in (refused, missing):
        assert message.startswith("Error: ") and message.count("\n") == 1 and "Traceback" not in message
    assert train(tmp_path / "run", "reference", "--seed", "1", "--overwrite") == 0


def test_a_defect_keeps_its_traceback(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(blocks, "train", broken)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path)


@pytest.mark.parametrize("arguments", [["train"], ["fly"], ["train", "--out", "x", "--kernel", "l3"]])
def test_unknown_arguments_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "train", "compare"])
def test_help_describes_every_option(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    lines = [line.strip("│ \n") for line in shown.splitlines()]
    options = [place for place, line in enumerate(lines) if line.startswith("--")]
    assert len(options) >= 4
    for place in options:
        described = f"{lines[place]} {lines[place + 1]}".split("(default")[0].split("(required")[0]
        assert sum(word[0].islower() or word[0].isupper() for word in described.split() if word[0] != "-") >= 2


# ---- compare -----------------------------------------------------------------------------------------


def test_compare_finds_what_differs_and_what_does_not(tmp_path, capsys, kind="reference"):
    for name, seed in (("a", 0), ("b", 1)):
        train(tmp_path / name, kind, "--seed", str(seed))
    capsys.readouterr()
    out = tmp_path / "comparison"
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    assert "weights: hidden_weight" in capsys.readouterr().out
    rows = {row["what"]: row["difference"] for row in json.loads((out / "comparison.json").read_text())["rows"]}
    a, b = (load_model(tmp_path / name / "trained" / kind) for name in ("a", "b"))
    expected = np.abs(a.weights()["actor_weight"] - b.weights()["actor_weight"]).max()
    assert rows["weights: actor_weight"] == pytest.approx(expected)
    assert rows["behaviour: policy"] > 1e-3 and rows["memory: values"] > 1e-3
    assert (out / "comparison.png").stat().st_size > 1000

    same = compare_saved(tmp_path / "a", tmp_path / "a")
    assert all(row["difference"] == 0.0 for row in same.rows)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a"), "--out", str(out), "--overwrite"]) == 0


def test_compare_refuses_different_sizes(tmp_path, capsys):
    train(tmp_path / "a")
    train(tmp_path / "b", "reference", "--hidden-size", "6")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "differ in hidden_size 4 and 6" in capsys.readouterr().err


def test_compare_tells_other_settings_and_unequal_memories(tmp_path):
    train(tmp_path / "a")
    train(tmp_path / "b", "reference", "--kernel", "l1", "--contexts", "2")
    rows = {row["what"]: row["text"] for row in compare_saved(tmp_path / "a", tmp_path / "b").rows}
    assert rows["setting: kernel"] == "'l2' and 'l1'"
    assert rows["memory: keys"] == "3 entries and 2"


def test_compare_needs_models_of_the_task(tmp_path, capsys):
    save_model(ReferenceEpisodicLSTM(ModelConfig(5, 3, 2, 4), 0), tmp_path / "odd")
    assert main(["compare", str(tmp_path / "odd"), str(tmp_path / "odd")]) == 2
    assert "even number of inputs" in capsys.readouterr().err


# ---- demo --------------------------------------------------------------------------------------------


def test_demo_writes_all_that_it_promises(stand_in, tmp_path, capsys):
    assert demo(tmp_path) == 0
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    report = (tmp_path / "report.html").read_text()
    for file in FIGURE_FILES:
        if "graph" in file and shutil.which("dot") is None:
            continue  # a test of its own is about that
        assert (tmp_path / file).stat().st_size > 1000, file
        assert f'src="{file}"' in report
    assert [(rung["name"], rung["path"]) for rung in results["rungs"]] == [
        *((name, "PyTorch mode") for name in (*FORWARD, "loss", "gradients")),
        *(
            (name, "PyTorch mode")
            for name in ("weights after one update", "memory", "weights after the whole run")
        ),
        *((name, "Python mode") for name in (*FORWARD, "memory")),
    ]
    assert all(rung["passed"] and rung["name"] in printed for rung in results["rungs"])
    assert results["passed"] and results["settings"]["hidden_size"] == 4
    assert set(results["lesions"]) == {"intact", "retrieval off", "encoding off", "trained without memory"}
    assert len(results["curves"]["composition"]["mean"]) == 2
    assert all(number > 0 for number in results["milliseconds"].values()) and len(results["milliseconds"]) == 6
    assert (tmp_path / "graph.gv").read_text().startswith("digraph")
    for name in ("composition", "reference", "no_memory"):
        assert len(load_model(tmp_path / "trained" / name, "reference").memory()[0]) == (
            0 if name == "no_memory" else 3
        )


@pytest.mark.slow
def test_demo_with_the_composition_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "DPI", 40)
    assert demo(tmp_path, "--blocks", "1", "--contexts", "2") == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["passed"] and len(results["rungs"]) == 12
    assert "reinstatement gate" in (tmp_path / "graph.gv").read_text()


@pytest.mark.slow
def test_demo_goes_on_and_writes_again(stand_in, tmp_path, monkeypatch):
    assert demo(tmp_path / "whole") == 0
    save = runs.RunFolder.save

    def interrupted(folder, state):
        save(folder, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.RunFolder, "save", interrupted)
        assert demo(tmp_path / "parts") == 130
    assert demo(tmp_path / "parts") == 0
    whole, parts = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "parts"))
    for each in (whole, parts):
        each.pop("milliseconds")
    assert whole == parts


def test_a_difference_fails_the_demo(stand_in, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(StandIn, "off", 1e-6)
    assert demo(tmp_path) == 1
    results = json.loads((tmp_path / "results.json").read_text())
    failed = {(rung["name"], rung["path"]) for rung in results["rungs"] if not rung["passed"]}
    assert ("one trial", "PyTorch mode") in failed and ("one trial", "Python mode") in failed
    assert ("weights after one update", "PyTorch mode") in failed
    where = next(rung["where"] for rung in results["rungs"] if rung["name"] == "gradients")
    assert "block 0" in where and "trial 0" in where
    assert "FAILED" in capsys.readouterr().out
    assert "FAILED" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "more", [["--memory-capacity", "0", "--contexts", "1"], rarely(["--contexts", "1"]), ["--t-noise-off", "0"]]
)
def test_demo_of_small_or_memoryless_agents(stand_in, more, tmp_path):
    assert demo(tmp_path, *more) == 0
    assert json.loads((tmp_path / "results.json").read_text())["passed"]


def test_without_graphviz_the_demo_says_so_and_goes_on(stand_in, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo(tmp_path / "demo") == 0
    assert "Graphviz is not installed" in capsys.readouterr().out
    assert (tmp_path / "demo" / "graph.gv").exists()
    assert "graph.png" not in (tmp_path / "demo" / "report.html").read_text()


def test_fast_takes_fewer_blocks(stand_in, tmp_path):
    assert demo(tmp_path, "--blocks", "20", "--fast") == 0
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["blocks"] == 3


def test_plain_values_hold_no_nan():
    values = {"a": np.array([1.0, np.nan]), 2: (np.float64(np.inf), np.int64(3), None, True, "x")}
    assert plain(values) == {"a": [1.0, None], "2": [None, 3, None, True, "x"]}


# ---- several agents and environments -----------------------------------------------------------------


def test_train_many_tells_mean_and_spread(tmp_path, capsys):
    assert train(tmp_path, "reference", "--agents", "3", "--environments", "2", "--fresh-blocks", "2") == 0
    printed = capsys.readouterr().out
    assert "(s.e. over 3 agents) rewards a trial" in printed and "The agents are in" in printed
    assert "2 fresh blocks; second encounter, step 0" in printed and "right (s.e. over 3 agents)" in printed
    cohort = load_model(tmp_path / "trained" / "reference")
    assert len(cohort) == 3 and cohort.environments == 2
    assert train(tmp_path, "reference", "--agents", "2", "--environments", "2") == 2
    assert "agents 3 instead of 2" in capsys.readouterr().err


def test_train_one_agent_in_environments(tmp_path, capsys):
    assert train(tmp_path, "reference", "--environments", "3", "--fresh-blocks", "0") == 0
    printed = capsys.readouterr().out
    assert "rewards a trial" in printed and "s.e." not in printed
    assert load_model(tmp_path / "trained" / "reference").environments == 3


def test_compare_takes_an_agent_of_many(tmp_path, capsys):
    train(tmp_path / "many", "reference", "--agents", "2", "--environments", "2")
    train(tmp_path / "one", "reference", "--seed", "1", "--environments", "2")
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "many"), str(tmp_path / "one")]) == 2
    assert "give agent=0 to 1" in capsys.readouterr().err
    rows = compare_saved(tmp_path / "many", tmp_path / "one", agent=1).rows
    assert all(row["difference"] < 1e-10 for row in rows)
    assert "memory: keys of environment 1" in {row["what"] for row in rows}
    other = {r["what"]: r["difference"] for r in compare_saved(tmp_path / "many", tmp_path / "one", agent=0).rows}
    assert other["memory: keys of environment 1"] > 1e-3


def test_the_demo_shows_several_agents(stand_in, tmp_path, capsys):
    assert demo(tmp_path, "--cohort", "3") == 0
    assert "3 agents: last block; second encounter" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["agents"]["over"] == "agents" and results["agents"]["n"] == [3, 3]
    page = (tmp_path / "report.html").read_text()
    assert "means over 3 agents" in page and "standard errors over agents" in page
    cohort = load_model(tmp_path / "trained" / "cohort")
    assert len(cohort) == 3
    twin = load_model(tmp_path / "trained" / "composition", "reference")
    for name, weight in twin.weights().items():
        np.testing.assert_allclose(cohort.weights(0)[name], weight, rtol=0, atol=1e-10, err_msg=name)


def test_the_demo_without_a_cohort(stand_in, tmp_path, capsys):
    assert demo(tmp_path, "--cohort", "0") == 0
    assert json.loads((tmp_path / "results.json").read_text())["agents"] is None
    assert not (tmp_path / "trained" / "cohort").exists()
    for wrong in (["--cohort", "1"], ["--agents", "2"], ["--environments", "2"]):
        assert demo(tmp_path / "wrong", *wrong) == 2
        assert not (tmp_path / "wrong").exists()
