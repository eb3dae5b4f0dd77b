"""The benchmark: what is measured is what is counted, failures cost only themselves, code is what it is called."""

import json
import re
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from eplstm.comparisons import benchmark_processes as processes
from eplstm.comparisons import benchmark_timing as timing
from eplstm.comparisons.benchmark import CaseFailed, describe_machine, digits, draw, measure, measured_on
from eplstm.comparisons.benchmark_cases import Bench, table
from eplstm.comparisons.benchmark_timing import Case, Sizes
from eplstm.comparisons.cli import main

TINY = Sizes(
    trials=2,
    obs_dim=2,
    trial_length=3,
    hidden_size=3,
    entries=4,
    people=2,
    bandit=(2, 3),
    two_step=(2, 3),
    two_step_trials=4,
    grow_steps=(4,),
    grow_hidden=(3,),
    grow_entries=(4,),
    environments=(2,),
    agents=(3,),
    retrieval=(6,),
)


def case(name, baseline=None, **more) -> Case:
    return Case(
        name, **{"group": "fakes", "unit": "trial", "prepare": lambda: lambda: 1.0, **more}, baseline=baseline
    )


def asking(order=None, **seconds):
    """Answers with 0, to set up, and then the seconds that are told for each name, in turn; errors are raised."""
    left = {name: iter([0.0, *numbers]) for name, numbers in seconds.items()}

    def ask(name):
        if order is not None:
            order.append(name)
        answer = next(left[name])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return ask


# ---- measuring ---------------------------------------------------------------------------------------


def test_ratios_are_of_neighbours():
    # The machine grows ten times slower in the second round: ratios do not see it.
    order, told = [], []
    ask = asking(order, a=[1.0, 1.2, 10.0, 12.0], b=[3.0, 24.0], c=[5.0])
    cases = [case("a"), case("b", "a"), case("c", most=1)]
    a, b, c = measure(cases, 2, ask, tell=lambda done, total, what: told.append((done, total, what))).results
    assert order == ["a", "a", "b", "a", "b", "c", "c", "a", "a", "b"]  # each first in vain, to set it up
    assert told == [(k, 5, name) for k, name in enumerate("abcab")]
    assert a.seconds == [1.0, 10.0] and a.ratios == [] and c.seconds == [5.0]
    assert b.seconds == [3.0, 24.0] and b.ratios == pytest.approx([3 / 1.2, 24 / 12]) and b.baseline == "a"
    assert b.cells() == ("b", "trial", "13,500 (8,250 … 18,750)", "2.25 (2.12 … 2.38)", "a")


def test_against_another_revision_each_case_is_compared_to_itself():
    order = []
    mine, theirs = asking(order, a=[1.0, 2.0], b=[3.0, 4.0]), asking(order, a=[2.0, 2.0], b=[1.0, 1.0])
    a, b = measure([case("a"), case("b", "a")], 2, mine, other=("abc", theirs)).results
    assert order == list("aaaabbbbaabb")
    assert a.ratios == [0.5, 1.0] and b.ratios == [3.0, 4.0] and a.baseline == b.baseline == "abc"


def test_what_fails_costs_only_itself_and_what_is_compared_to_it():
    ask = asking(a=[1.0] * 9, broken=[CaseFailed("no luck")] * 9, on=[1.0] * 9, b=[2.0] * 9)
    cases = [case("a"), case("broken", "a"), case("on", "broken"), case("b", "a")]
    found = measure(cases, 2, ask)
    results = {result.case.name: result for result in found.results}
    assert results["broken"].failure == "no luck" and results["broken"].seconds == []
    assert results["b"].ratios == [2.0, 2.0] and results["on"].failure is not None
    assert results["broken"].cells()[2] == "failed" and "broken failed: no luck" in found.notes


def test_interruption_keeps_what_was_measured():
    found = measure([case("a"), case("b"), case("c")], 3, asking(a=[1.0], b=[KeyboardInterrupt()]))
    assert found.interrupted and [(r.case.name, r.seconds) for r in found.results] == [("a", [1.0])]
    assert any("Interrupted" in note for note in found.notes)


@pytest.mark.parametrize("wrong", [{"repetitions": 0}, {"threads": 0}, {"threads": True}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a whole number ≥ 1; got"):
        measure([case("a")], **{"repetitions": 1, "ask": asking(), **wrong})


# ---- kinds of measurement ----------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when ``pass_`` is called."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def pass_(seconds):
        now[0] += seconds

    return SimpleNamespace(pass_=pass_)


def test_a_whole_call(clock):
    assert timing.whole(clock.pass_, 6.0, 3)() == 2.0


def test_marginal_leaves_out_what_a_call_costs(clock):
    seen, dearer = [], [0.0]

    def call(pieces):
        seen.append(pieces)
        clock.pass_(5.0 + 0.5 * pieces + dearer[0])
        dearer[0] = 0.0

    run = timing.marginal(call, int, least=4, units=10)
    dearer[0] = 3.0  # the first call after another case
    assert run() == pytest.approx(0.05)
    assert seen[-1] == 1 + 22  # so many that they take twice as long as the call of one, 5.5 s
    assert timing.marginal(call, int, least=1, most=10)() == pytest.approx(0.5) and seen[-1] == 11


def test_marginal_settles_its_number_by_calls_that_nothing_delayed(clock):
    delays, seen = iter([0.0, 3.0, 0.0, 0.0, 90.0, 0.0, 0.0, 0.0]), []

    def call(pieces):
        seen.append(pieces)
        clock.pass_(5.0 + 0.5 * pieces + next(delays))

    timing.marginal(call, int, least=4)()
    assert seen[-1] == 23


def test_short_calls_are_repeated():
    calls = []
    seconds = timing.repeated(lambda: calls.append(1))()
    assert 0 < seconds < 1e-4 and len(calls) > 1000


# ---- results -----------------------------------------------------------------------------------------


def a_benchmark(**machine):
    cases = [case("a", curve=("steps", 5, "reference")), case("b", "a", curve=("steps", 5, "composition"))]
    ask = asking(a=[0.001, 0.002] * 9, b=[0.5, -0.1, 0.4], **{"c|d": [CaseFailed("x")]})
    found = measure([*cases, case("c|d")], 3, ask)
    found.machine |= {"load_at_start": 0.0, "cores": 4, **machine}
    return found


def test_files_hold_all_numbers(tmp_path):
    found = a_benchmark(load_at_start=None)
    found.results[0].seconds.append(float("nan"))
    written = found.write(tmp_path / "new" / "folder", {"sizes": (1, 2)})
    assert [path.name for path in written] == ["benchmark.json", "benchmark.md", "benchmark.png"]
    content = json.loads(written[0].read_text(), parse_constant=pytest.fail)
    assert content["results"][0]["seconds"][-1] is None and content["settings"] == {"sizes": [1, 2]}
    assert content["results"][1]["ratios"] == found.results[1].ratios and content["notes"] == found.notes
    assert {path.name for path in written[0].parent.iterdir()} == {path.name for path in written}  # no leftovers


def test_it_says_what_it_measured_on_and_warns():
    machine = describe_machine(3)
    assert machine["threads"] == 3 and machine["cores"] >= 1 and machine["date"][:2] == "20"
    line = measured_on(machine)
    assert machine["processor"] in line and machine["versions"]["torch"] in line
    assert [note.split(":")[0] for note in a_benchmark().notes] == ["b", "c|d failed"]
    busy = a_benchmark(load_at_start=3.5).notes[0]
    assert "busy" in busy and "3.5" in busy and "4 cores" in busy


def test_table_in_markdown():
    lines = a_benchmark().table().splitlines()
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")
    ]
    header, _, group, a, b, c = cells
    assert header[2].startswith("ms") and group[0] == "**fakes**" and {len(row) for row in cells} == {5}
    assert a == ["a", "trial", "1.00 (1.00 … 1.00)", "", ""]
    assert b[2] == "400 (150 … 450)" and b[4] == "a"
    assert c[0] == "c\\|d" and c[2] == "failed"


@pytest.mark.parametrize(
    ("number", "text"),
    [(1234.5, "1,234"), (12.34, "12.3"), (0.01234, "0.0123"), (100, "100"), (1, "1.00"), (0, "0.00")],
)
def test_digits(number, text):
    assert digits(number) == text


def test_figure_shows_each_curve_against_its_size():
    scales = {"reference": 1, "composition": 5}
    cases = [
        case(f"{line}, {size} {axis}", curve=(axis, size, line))
        for axis in ("steps", "units")
        for line in scales
        for size in (20, 5, 10)
    ]
    ask = asking(**{c.name: [scales[c.curve[2]] * c.curve[1] * 1e-3] * 2 for c in cases}, lost=[-1.0] * 2)
    figure = draw(measure([*cases, case("lost", curve=("units", 7, "reference"))], 2, ask).results)
    panels, (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["reference", "composition"]
    assert [ax.get_xlabel() for ax in panels] == ["steps", "units"]
    for ax in panels:
        assert ax.get_ylabel() == "ms per trial" and ax.get_xscale() == ax.get_yscale() == "log"
        np.testing.assert_allclose([line.get_xdata() for line in ax.lines], [[5, 10, 20]] * 2)
        np.testing.assert_allclose([line.get_ydata() for line in ax.lines], [[5, 10, 20], [25, 50, 100]])


# ---- the cases ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_cases_measure_something():
    # At these sizes, differences of two calls may be lost in noise; whole calls may not.
    differences = {"learn", "general", "nested", "bandit", "two-step", "simulate"}
    for one in table(TINY):
        seconds = one.prepare()()
        assert np.isfinite(seconds) and (seconds > 0 or one.name.split(",")[0] in differences), one.name


def test_every_case_is_described_and_compared_to_one_that_is_there():
    cases = table(Sizes(callables=("x:y",)))
    names = [one.name for one in cases]
    assert len(set(names)) == len(names) and all(one.about.endswith(".") for one in cases)
    against = {one.name: one.baseline for one in cases}
    assert set(against.values()) <= {None, *names}
    assert against["learn"] == against["x:y"] == against["cohort, P = 512"] == "reference"
    assert against["nested"] == "learn" and against["two-step"] == "two-step-reference"
    assert against["python-mode"] == "python-mode-stock" and against["learn, M = 32"] == "reference, M = 32"
    assert against["x:y, T = 40"] == against["learn, T = 40"] == "reference, T = 40"
    assert {one.name for one in table(Sizes().quick())} < set(names)


def test_some_of_the_cases():
    assert [one.name for one in table(TINY, ("nested", "running"))] == [
        "nested",
        "run-reference",
        "simulate",
        "python-mode-stock",
        "python-mode",
    ]
    with pytest.raises(ValueError, match=r"no 'nonsense'; the groups are training, calls.*cases reference, learn"):
        table(TINY, ("nonsense",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "trials must be whole numbers ≥ 1; got 0"),
        ({"grow_steps": (5, 0)}, "grow_steps must be"),
        ({"callables": ("mine",)}, "module:function; got 'mine'"),
        ({"callables": ("mine:",)}, "module:function; got 'mine:'"),
    ],
)
def test_sizes_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Sizes(**change)


def test_work_is_the_same_from_round_to_round():
    bench = Bench(TINY)
    assert len(bench.trials()) == 2 and len(bench.trials(1)) == 6 and len(bench.trials(60)) == 2
    trials = bench.trials(number=200)
    assert trials.length == 3 and trials.encode.sum() == 100
    first, second = bench.work(environments=2)(4)
    assert len(first) == len(second) == 4 and not np.array_equal(first.inputs, second.inputs)
    model = bench.filled(bench.reference(bench.config()), 2)
    assert [len(model.memory(environment=e)[0]) for e in range(2)] == [4, 4]
    assert model.weights()["actor_bias"].dtype == np.float64


# ---- processes, and the command ----------------------------------------------------------------------


def test_other_code_is_measured_by_the_same_cases(tmp_path, monkeypatch):
    """A process measures what it is asked for, with the code of the folder it is given, and tells what fails."""
    (tmp_path / "mine_to_time.py").write_text(
        "import sys\n"
        "def good(config, trials, weights, memory):\n"
        "    assert len(memory[0]) == config.memory_capacity == 4 and len(trials) == 2\n"
        "    return lambda n: print('not an answer', n)\n"
        "def bad(config, trials, weights, memory): return sys.exit('no luck')\n"
        "def none(config, trials, weights, memory): pass\n"
    )
    (tmp_path / "path" / "eplstm").mkdir(parents=True)
    (tmp_path / "path" / "eplstm" / "elsewhere.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    specs = [*(f"mine_to_time:{name}" for name in ("good", "bad", "none", "lost")), "eplstm.elsewhere:make"]
    sizes = Sizes(**{**vars(TINY), "callables": tuple(specs)})
    with processes.code_of("HEAD") as code, processes.process(sizes, code=code) as ask:
        assert ask("reference") > 0 and ask("mine_to_time:good") > 0
        for name, error in (
            ("bad", "SystemExit: no luck"),
            ("none", "TypeError: .* it returned None"),
            ("lost", "At"),
        ):
            with pytest.raises(CaseFailed, match=error):
                ask(f"mine_to_time:{name}")
        with pytest.raises(CaseFailed, match=r"No module named 'eplstm\.elsewhere'"):  # its parts are of one code
            ask("eplstm.elsewhere:make")
        assert ask("reference") > 0
    assert not code.exists()


@pytest.mark.slow
def test_processes_that_cannot_be_are_told(tmp_path):
    with (
        pytest.raises(ValueError, match="Git does not give the code of 'no-such-revision'"),
        processes.code_of("no-such-revision"),
    ):
        pass
    with (
        pytest.raises(RuntimeError, match=r"was to be measured lies in .*eplstm; Python found"),
        processes.process(TINY, code=tmp_path / "eplstm"),
    ):
        pass


@pytest.fixture
def answers(monkeypatch):
    """Processes that answer at once; their names, and those of the cases that they were asked for."""
    asked = []

    @contextmanager
    def process(sizes, threads=1, code=None):
        def ask(name):
            asked.append((code, name))
            if name == "nested":
                raise CaseFailed("no [luck]")
            if name == "simulate":
                raise KeyboardInterrupt
            return 2.0 if code is None else 4.0

        yield ask

    @contextmanager
    def code_of(revision):
        yield f"code of {revision}"

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(processes, "process", process)
    monkeypatch.setattr(processes, "code_of", code_of)
    return asked


def test_command_writes_what_it_promises(answers, tmp_path, capsys):
    options = ["benchmark", "--out", str(tmp_path / "out"), "--repetitions", "2"]
    assert main([*options, "--cases", "learn", "hidden units"]) == 0
    printed = capsys.readouterr().out
    for text in ("learn, H = 256", "2,000 (2,000 … 2,000)", "1.00 (1.00 … 1.00)", "reference", "per", "cores"):
        assert text in printed
    assert "into" not in printed and "learn, T" not in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "benchmark.json",
        "benchmark.md",
        "benchmark.png",
    }
    before = (tmp_path / "out" / "benchmark.json").read_bytes()
    assert main([*options, "--cases", "learn"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "benchmark.json").read_bytes() == before
    assert main([*options, "--cases", "nested", "--overwrite"]) == 1
    assert "nested failed: no [luck]" in capsys.readouterr().out
    assert main([*options, "--cases", "learn", "simulate", "--overwrite"]) == 130
    assert "Interrupted" in capsys.readouterr().out


def test_command_against_a_revision_shows_pair_by_pair(answers, tmp_path, capsys):
    arguments = [
        "benchmark",
        "--out",
        str(tmp_path),
        "--against",
        "abc",
        "--cases",
        "bandit",
        "--repetitions",
        "3",
    ]
    assert main(arguments) == 0
    assert answers == [("code of abc", "bandit"), (None, "bandit")] * 4
    printed = capsys.readouterr().out
    assert "0.500 (0.500 … 0.500)" in printed and "0.50 0.50 0.50" in printed and "abc" in printed
    assert json.loads((tmp_path / "benchmark.json").read_text())["settings"]["against"] == "abc"


def test_command_lists_and_refuses(tmp_path, capsys):
    assert main(["benchmark", "--out", str(tmp_path / "out"), "--quick", "--list"]) == 0
    printed = capsys.readouterr().out
    assert "retrieval: memory, n = 10,000 (a retrieval) – One retrieval" in printed and "100,000" not in printed
    assert main(["benchmark", "--out", str(tmp_path / "out"), "--cases", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
