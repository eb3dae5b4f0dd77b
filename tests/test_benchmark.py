"""The benchmark: what is measured is what is counted, failures cost only themselves, and files come back whole."""

import gc
import json
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from eplstm.comparisons import benchmark as timing
from eplstm.comparisons import benchmark_cases as cases_
from eplstm.comparisons import benchmark_results as shown
from eplstm.comparisons.benchmark import Case, Timing, measure
from eplstm.comparisons.benchmark_cases import REFERENCE, BenchmarkSettings, Workbench, table
from eplstm.comparisons.benchmark_results import Benchmark, Curve
from eplstm.comparisons.cli import main

TINY = {
    "repetitions": 2,
    "trials": 2,
    "obs_dim": 2,
    "trial_length": 3,
    "hidden_size": 3,
    "entries": 4,
    "grow_steps": (2, 4),
    "grow_hidden": (2,),
    "grow_entries": (5,),
    "environments": (2,),
    "agents": (3,),
    "memory_entries": (6,),
    "python_entries": (4,),
}
TINY_OPTIONS = [
    f"--{name.replace('_', '-')}={value}" for name, value in TINY.items() if not isinstance(value, tuple)
] + [
    part
    for name, value in TINY.items()
    if isinstance(value, tuple)
    for part in (f"--{name.replace('_', '-')}", *map(str, value))
]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def fake(name, seconds=(1.0,), units=1, against=None, order=None, **more) -> Case:
    """A case that takes the seconds it is told to take, one after the other."""
    left = iter(seconds)

    def run():
        if order is not None:
            order.append(name)
        return Timing(next(left), units)

    fields = {"group": "fakes", "unit": "trial", "setup": lambda: run, "warm_up": False, **more}
    return Case(name=name, against=against, **fields)


def raising(error: BaseException):
    def raise_():
        raise error

    return raise_


# ---- the runner --------------------------------------------------------------------------------------


def test_times_are_of_a_unit_and_ratios_of_neighbours():
    # The machine grows ten times slower in the second round: ratios do not see it.
    reference = fake("a", [1.0, 1.2, 10.0, 12.0])
    ours = fake("b", [6.0, 48.0], units=2, against="a")
    a, b = measure([reference, ours], 2).results
    assert a.seconds == [1.0, 1.2, 10.0, 12.0] and b.seconds == [3.0, 24.0]
    assert b.ratios == [pytest.approx(3 / 1.2), pytest.approx(24 / 12)]
    assert b.ratio == pytest.approx((2.5 + 2.0) / 2) and a.ratio == 1.0
    assert b.units == 2
    summary = a.summary()
    assert summary["seconds_median"] == pytest.approx(5.6)
    assert summary["seconds_extremes"] == [1.0, 12.0]
    assert summary["seconds_quartiles"] == pytest.approx(list(np.quantile([1.0, 1.2, 10.0, 12.0], [0.25, 0.75])))


def test_rounds_interleave_and_the_reference_comes_directly_before():
    order, told = [], []
    cases = [
        fake("a", [1.0] * 9, order=order),
        fake("b", [1.0] * 9, order=order, against="a"),
        fake("c", [1.0] * 9, order=order, against="a", most=1),
    ]
    measure(cases, 2, tell=told.append)
    assert order == ["a", "a", "b", "a", "c", "a", "a", "b"]
    assert told == ["a", "b", "c", "a", "b"]


def test_set_up_once_and_the_first_measurement_thrown_away():
    made = []

    def setup():
        made.append(1)
        return iter([Timing(99.0, 1), Timing(2.0, 1), Timing(4.0, 1)]).__next__

    result = measure([fake("a", setup=setup, warm_up=True)], 2).results[0]
    assert result.seconds == [2.0, 4.0] and len(made) == 1


@pytest.mark.parametrize("where", ["setup", "run"])
@pytest.mark.parametrize("error", [RuntimeError("no luck"), SystemExit(3)])
def test_what_a_case_raises_costs_only_itself(where, error):
    broken = raising(error)
    setup = broken if where == "setup" else lambda: broken
    cases = [
        fake("a", [1.0] * 9),
        fake("broken", setup=setup, against="a"),
        fake("on broken", [5.0] * 9, against="broken"),
        fake("b", [2.0] * 9, against="a"),
    ]
    found = measure(cases, 2)
    results = {result.name: result for result in found.results}
    assert [result.name for result in found.failures] == ["broken"]
    failure = results["broken"].failure
    assert type(error).__name__ in failure and str(error) in failure and "test_benchmark.py" in failure
    assert results["broken"].seconds == [] and results["b"].ratios == [2.0, 2.0]
    assert results["on broken"].seconds == [5.0, 5.0] and results["on broken"].ratio is None


def test_interruption_keeps_what_was_measured():
    interrupted = fake("b", setup=lambda: raising(KeyboardInterrupt()))
    found = measure([fake("a", [1.0] * 9), interrupted, fake("c")], 3)
    assert found.interrupted and [(r.name, r.seconds) for r in found.results] == [("a", [1.0])]
    assert any("Interrupted" in warning for warning in found.warnings())


@pytest.mark.parametrize("error", [None, RuntimeError("no"), KeyboardInterrupt()])
def test_threads_types_and_garbage_are_as_before(error):
    before, kind, frozen = torch.get_num_threads(), torch.get_default_dtype(), gc.get_freeze_count()
    seen = []

    def run():
        seen.append((torch.get_num_threads(), torch.get_default_dtype()))
        torch.set_num_threads(before + 2)
        torch.set_default_dtype(torch.float64)
        if error is not None:
            raise error
        return Timing(1.0, 1)

    measure([fake("a", setup=lambda: run), fake("b", setup=lambda: run)], 1, threads=before + 1)
    assert seen and set(seen) == {(before + 1, kind)}  # what the first has set, the second does not see
    assert (torch.get_num_threads(), torch.get_default_dtype()) == (before, kind)
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize(
    ("cases", "numbers", "message"),
    [
        ([fake("a"), fake("a")], {}, "called 'a'"),
        ([fake("a", against="b"), fake("b")], {}, "must stand before"),
        ([fake("a")], {"repetitions": 0}, "repetitions must be a whole number ≥ 1; got 0"),
        ([fake("a")], {"threads": 0}, "threads must be"),
    ],
)
def test_a_wrong_table_is_refused(cases, numbers, message):
    with pytest.raises(ValueError, match=message):
        measure(cases, **{"repetitions": 1, **numbers})


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
    assert timing.whole(clock.pass_, 6.0, 3)() == (6.0, 3)


def test_marginal_leaves_out_what_a_call_costs(clock, monkeypatch):
    def call(pieces):
        clock.pass_(5.0 + 0.5 * len(pieces))

    seconds, units = timing.marginal(call, lambda n: [0] * n, least=4, units=10)()
    assert seconds / units == pytest.approx(0.05)
    assert units == 22 * 10  # so many that they take twice as long as the call of one, 5.5 s
    monkeypatch.setattr(timing, "MOST_TIMES", 10)
    seconds, units = timing.marginal(call, lambda n: [0] * n, least=1)()
    assert (seconds, units) == (pytest.approx(5.0), 10)


def test_marginal_settles_its_number_by_calls_that_nothing_delayed(clock):
    delays = iter([0.0, 3.0, 0.0, 0.0, 90.0, 0.0, 0.0, 0.0])

    def call(pieces):
        clock.pass_(5.0 + 0.5 * pieces + next(delays))

    assert timing.marginal(call, lambda n: n, least=4)()[1] == 22


def test_the_first_call_after_another_case_may_be_dearer(clock):
    dearer = [False]

    def call(pieces):
        clock.pass_(5.0 + 0.5 * pieces + 3.0 * dearer[0])
        dearer[0] = False

    for run, expected in (
        (timing.marginal(call, lambda n: n, least=4), 0.5),
        (timing.fixed(call, lambda n: n), 5.0),
    ):
        dearer[0] = True
        seconds, units = run()
        assert seconds / units == pytest.approx(expected)


def test_marginal_of_a_call_in_which_noise_outdoes_the_work(clock):
    times = iter([1.0, 1.0, 9.0, 0.5, 9.0, 1.0, 1.0, 1.0])
    run = timing.marginal(lambda work: clock.pass_(next(times)), lambda n: n, least=4)
    assert run() == (0.0, 4 * timing.MOST_TIMES)


def test_fixed_leaves_out_the_work(clock):
    run = timing.fixed(lambda pieces: clock.pass_(5.0 + 0.5 * pieces), lambda n: n)
    assert run() == (pytest.approx(5.0), 1)


def test_short_calls_are_repeated_till_they_fill_some_time(clock):
    seen = []

    def call(index):
        seen.append(index)
        clock.pass_(0.001)

    run = timing.repeated(call, least=0.006)
    seen.clear()
    seconds, units = run()
    assert units == 8 and seconds == pytest.approx(0.008) and seen == list(range(8))


def test_the_clock_is_a_clock():
    assert 0.02 <= timing.clocked(time.sleep, 0.02) < 0.5


# ---- results -----------------------------------------------------------------------------------------


def a_benchmark(**machine) -> Benchmark:
    cases = [
        fake("a", [0.001, 0.002] * 9, curve=Curve("steps", 5, "reference")),
        fake("b", [0.5, -0.1, 0.4], against="a", curve=Curve("steps", 5, "composition")),
        fake("c|d", setup=raising(ValueError("x"))),
    ]
    found = measure(cases, 3, settings={"sizes": (1, 2), "nothing": None})
    found.machine |= {"load_at_start": 0.0, "cores": 4, **machine}
    return found


def test_json_is_strict_and_comes_back_the_same(tmp_path):
    found = a_benchmark(load_at_start=None)
    found.results[0].seconds.append(float("nan"))
    written = found.write(tmp_path / "new" / "folder")
    assert [path.name for path in written] == ["benchmark.json", "benchmark.md", "benchmark.png"]
    text = written[0].read_text()
    content = json.loads(text, parse_constant=pytest.fail)
    assert content["results"][0]["seconds"][-1] is None
    assert {path.name for path in written[0].parent.iterdir()} == {path.name for path in written}  # no leftovers

    found = a_benchmark()
    found.write(tmp_path)
    back = Benchmark.read(tmp_path)
    assert back.results == found.results and back.machine == found.machine and not back.interrupted
    assert back.numbers() == found.numbers()


def test_what_is_no_benchmark_is_not_read(tmp_path):
    for text in ("{", "[]", '{"format": "other"}', '{"format": "eplstm-benchmark", "results": [{}]}'):
        (tmp_path / "benchmark.json").write_text(text)
        with pytest.raises(ValueError, match="not the result of a benchmark"):
            Benchmark.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        Benchmark.read(tmp_path / "none")


def test_it_says_what_it_measured_on():
    machine = shown.describe_machine(3)
    assert set(machine["versions"]) >= {"eplstm", "psyneulink", "torch", "numpy", "python"}
    assert machine["threads"] == 3 and 1 <= machine["cores"] <= os.cpu_count() and machine["processor"]
    assert machine["date"][:2] == "20"
    line = shown.measured_on(machine)
    assert machine["processor"] in line and machine["versions"]["torch"] in line


def test_the_processor_has_a_name_on_each_system(monkeypatch):
    monkeypatch.setattr(shown.platform, "processor", lambda: "some processor")
    monkeypatch.setattr(shown.platform, "system", lambda: "Other")
    assert shown.processor() == "some processor"
    monkeypatch.setattr(shown.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(shown.subprocess, "run", lambda *a, **k: SimpleNamespace(stdout="Apple M9\n"))
    assert shown.processor() == "Apple M9"
    monkeypatch.setattr(shown.subprocess, "run", lambda *a, **k: raising(FileNotFoundError("sysctl"))())
    assert shown.processor() == "some processor"


@pytest.mark.slow
def test_warnings_tell_a_busy_machine_and_lost_times():
    assert [w.split(":")[0] for w in a_benchmark().warnings()] == ["b"]
    busy = a_benchmark(load_at_start=3.5, cores=4).warnings()
    assert "busy" in busy[0] and "3.5" in busy[0] and "4 cores" in busy[0]
    assert a_benchmark(load_at_start=None).warnings() == a_benchmark().warnings()


def test_table_in_markdown():
    lines = shown.markdown(a_benchmark()).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    header, _, group, a, b, c = cells
    assert header[2].startswith("ms") and group[0] == "**fakes**"
    assert a == ["a", "trial", "1.50 (1.00 … 2.00)", "1"]
    assert b[2] == "400 (150 … 450)"
    assert c[0] == "c\\|d" and c[2] == "failed"
    assert any("c|d failed: ValueError: x" in line for line in lines)


@pytest.mark.parametrize(
    ("number", "text"),
    [(1234.5, "1,234"), (12.34, "12.3"), (0.01234, "0.0123"), (100, "100"), (1, "1.00"), (0, "0.00")],
)
def test_digits(number, text):
    assert shown.digits(number) == text


def test_figure_shows_each_curve_against_its_size():
    cases = [
        fake(f"{line}, {size} {axis}", [scale * size * 1e-3] * 9, curve=Curve(axis, size, line))
        for axis in ("steps", "units")
        for line, scale in (("reference", 1), ("composition", 5))
        for size in (20, 5, 10)
    ]
    figure = shown.draw(measure(cases, 2))
    panels, (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["reference", "composition"]
    assert [ax.get_xlabel() for ax in panels] == ["steps", "units"]
    for ax in panels:
        assert ax.get_ylabel() == "ms per trial" and ax.get_xscale() == ax.get_yscale() == "log"
        np.testing.assert_allclose([line.get_xdata() for line in ax.lines], [[5, 10, 20]] * 2)
        np.testing.assert_allclose([line.get_ydata() for line in ax.lines], [[5, 10, 20], [25, 50, 100]])


def test_a_line_has_one_colour_in_all_panels_and_lost_times_have_no_place():
    cases = [
        fake("a", [1.0] * 9, curve=Curve("steps", 5, "reference")),
        fake("b", [-1.0] * 9, curve=Curve("units", 5, "reference")),
        fake("c", [2.0] * 9, curve=Curve("steps", 5, "composition")),
        fake("d", [2.0, -0.5, 2.0, 2.0] * 9, curve=Curve("units", 5, "composition")),
    ]
    first, second = shown.draw(measure(cases, 4)).axes
    assert len(first.lines) == 2 and len(second.lines) == 1
    assert first.lines[1].get_color() == second.lines[0].get_color() != first.lines[0].get_color()


# ---- the cases ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_cases_measure_something():
    sizes = {"repetitions": 1, "grow_hidden": (3,), "grow_entries": (4,)}  # one composition serves them all
    found = cases_.run_benchmark(BenchmarkSettings(**{**TINY, **sizes}))
    assert found.failures == []
    assert len(found.results) == len(table(BenchmarkSettings(**{**TINY, **sizes})))
    assert all(np.isfinite(result.median) and result.units >= 1 for result in found.results)
    # Differences of two calls may be lost in noise at these sizes; whole calls may not.
    assert all(result.median > 0 for result in found.results if not result.name.startswith("composition"))
    by_name = {result.name: result for result in found.results}
    assert by_name["ContentAddressableMemory, from 6"].ratio > by_name["EpisodicMemory, from 6"].ratio > 0
    assert by_name["composition, constructor"].median > 10 * by_name[REFERENCE].median
    assert found.settings["hidden_size"] == 3


def test_every_case_is_compared_to_its_counterpart():
    cases = {case.name: case for case in table(BenchmarkSettings(callables=("x:y",), callable_grows=True))}
    assert cases["composition, learn()"].against == REFERENCE == cases["x:y"].against
    assert cases["composition, T = 40"].against == cases["x:y, T = 40"].against == "reference, T = 40"
    assert cases["cohort, P = 512"].against == REFERENCE
    assert cases["composition, simulate(), n = 100"].against == "reference, run_trials(), n = 100"
    assert cases["composition, M = 32"].against == "reference, M = 32"
    assert cases["EpisodicMemory, into 1,000"].against == "reference, into 1,000"
    assert "ContentAddressableMemory, from 100" in cases and "ContentAddressableMemory, from 1,000" not in cases
    assert all(case.against or case.name.startswith("reference") for case in cases.values())


def test_the_three_memories_do_the_same():
    bench = Workbench(BenchmarkSettings(**TINY))
    # Keys and values of one length: with others, PsyNeuLink's own memory retrieves wrongly once it drops entries.
    config, rng = bench.config(hidden=4, entries=6), np.random.default_rng(5)
    keys, values = rng.standard_normal((8, config.key_size)), rng.standard_normal((8, config.hidden_size))
    kinds = (cases_.reference_memory, cases_.composition_memory, cases_.stock_memory)
    retrieved = []
    for kind in kinds:
        retrieve, store = kind(bench, config, keys, values)
        before = [np.asarray(retrieve(n)) for n in range(8)]
        store(3)
        np.testing.assert_allclose(np.asarray(retrieve(3)), values[3])
        for n in range(8, 14):
            store(n)  # the memory holds six: all it held is dropped
        retrieved.append([*before, *(np.asarray(retrieve(n)) for n in range(8))])
    np.testing.assert_allclose(retrieved[1], retrieved[0])
    np.testing.assert_allclose(retrieved[2], retrieved[0])
    assert not np.allclose(retrieved[0][4], retrieved[0][12])


def test_work_is_the_same_from_round_to_round():
    bench = Workbench(BenchmarkSettings(**TINY))
    assert len(bench.trials()) == 2 and len(bench.trials(1)) == 6 and len(bench.trials(60)) == 2
    trials = bench.trials(number=200)
    assert trials.length == 3 and trials.encode.sum() == 100
    model = bench.reference(bench.config())
    assert len(model.memory()[0]) == 4
    bench.trainer(model)(trials)
    assert len(model.memory()[0]) == 4
    assert bench.composition(bench.config()) is bench.composition(bench.config(hidden=3))
    assert model.weights()["actor_bias"].dtype == np.float64
    single = Workbench(BenchmarkSettings(**TINY, precision="float32"))
    assert single.reference(single.config()).weights()["actor_bias"].dtype == np.float32


@pytest.mark.parametrize("line", ["reference", "composition"])
def test_environments_are_trained_together_with_a_full_memory_each(line, monkeypatch):
    bench = Workbench(BenchmarkSettings(**{**TINY, "trials": 6}))
    seen = []

    def train(model, trials, seed):
        seen.append((len(trials), len(trials[0]), [len(model.memory(environment=e)[0]) for e in range(3)]))
        assert not np.array_equal(trials[0].inputs, trials[1].inputs)

    monkeypatch.setattr(cases_, "train", train)
    run = cases_.train_in_environments(bench, line, 3)
    seen.clear()
    _, units = run()
    environments, trials, entries = zip(*seen, strict=True)
    assert set(environments) == {3} and entries == ([4, 4, 4],) * len(seen)
    assert units == (6 if line == "reference" else 3 * (trials[-1] - 1))


def test_agents_of_a_cohort_have_trials_and_a_full_memory_each(monkeypatch):
    bench, made = Workbench(BenchmarkSettings(**TINY)), []

    class Watched(cases_.Cohort):
        def train(self, trials, **more):
            assert len(trials) == 3 and not np.array_equal(trials[0].inputs, trials[2].inputs)
            assert [len(self.memory(agent)[0]) for agent in range(3)] == [4, 4, 4]
            made.append(super().train(trials, **more))

    monkeypatch.setattr(cases_, "Cohort", Watched)
    run = cases_.train_cohort(bench, 3)
    assert run().units == 3 * 2 and run().seconds > 0 and len(made) == 2


def test_each_path_of_learn_is_the_one_it_is_called():
    bench = Workbench(BenchmarkSettings(**TINY))
    model = bench.new_composition(bench.config())
    trials = bench.trials()
    bench.trainer(model)(trials)
    assert model.detour is None
    bench.trainer(model, fast=False)(trials)
    assert model.detour is not None
    bench.trainer(model)(trials)
    assert model.detour is None
    model.gates["forget"].function.parameters.gain.set(2.0, model)  # not the standard graph any more
    with (
        pytest.warns(UserWarning, match="not as its constructor made it"),
        pytest.raises(RuntimeError, match="another"),
    ):
        bench.trainer(model)(trials)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trials": 0}, "trials must be whole numbers ≥ 1; got 0"),
        ({"grow_steps": (5, 0)}, "grow_steps must be"),
        ({"seed": -1}, "seed must be"),
        ({"precision": "float16"}, "precision must be 'float64' or 'float32'; got 'float16'"),
        ({"callables": ("mine",)}, "module:function; got 'mine'"),
        ({"callables": ("mine:",)}, "module:function; got 'mine:'"),
        ({"only": ("nonsense",)}, "'nonsense'.*groups are training, calls"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        table(BenchmarkSettings(**{**TINY, **change}))


def test_quick_is_the_same_with_less():
    full, quick = BenchmarkSettings(), BenchmarkSettings().quick()
    names = {case.name for case in table(full)}
    assert {case.name for case in table(quick)} < names
    assert quick.repetitions == 2 and quick.grow_steps and quick.grow_hidden and quick.grow_entries


# ---- the command -------------------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder, the current one, with a module of callables in it."""
    (tmp_path / "mine_to_time.py").write_text(
        "import numpy as np\n"
        "from eplstm.models import ReferenceEpisodicLSTM, train\n"
        "calls, given = [], []\n"
        "def good(config, trials, weights, memory):\n"
        "    import of_mine_beside\n"
        "    model = ReferenceEpisodicLSTM(config)\n"
        "    model.set_weights(weights); model.set_memory(*memory)\n"
        "    given.append((config, len(trials)))\n"
        "    def step(n):\n"
        "        calls.append(n)\n"
        "        train(model, trials[n : n + 1])\n"
        "    return step\n"
        "def bad(config, trials, weights, memory):\n"
        "    def step(n):\n"
        "        if n == 1: raise RuntimeError('no [luck]')\n"
        "    return step\n"
        "def empty(config, trials, weights, memory): pass\n"
        "number = 3\n"
    )
    (tmp_path / "of_mine_beside.py").write_text("")
    (tmp_path / "mine_that_breaks.py").write_text("import sys\nsys.exit('not today')\n")
    monkeypatch.chdir(tmp_path)
    yield lambda: sys.modules["mine_to_time"]
    for name in ("mine_to_time", "mine_that_breaks", "of_mine_beside"):
        sys.modules.pop(name, None)


def test_other_implementations_are_timed_and_their_errors_named(mine, tmp_path, capsys):
    paths = list(sys.path)
    specs = [f"mine_to_time:{name}" for name in ("good", "bad", "empty", "number", "none")]
    specs += ["mine_that_breaks:make", "mine_not_there:make"]
    options = [*TINY_OPTIONS, "--only", "mine", "--callable", *specs]
    assert main(["benchmark", "--out", "out", *options]) == 1
    printed = capsys.readouterr().out
    found = Benchmark.read(tmp_path / "out")
    results = {result.name: result for result in found.results}
    assert list(results) == [REFERENCE, *specs]
    good = results["mine_to_time:good"]
    assert len(good.seconds) == 2 and 0 < good.ratio < 20
    assert mine().calls == [0, 1] * 3  # a round untimed
    assert mine().given == [(Workbench(BenchmarkSettings(**TINY)).config(), 2)]
    failures = {
        "bad": "RuntimeError: no [luck]",
        "empty": "TypeError: mine_to_time:empty must return a function of the trial's number; it returned None",
        "number": "TypeError: mine_to_time:number is not a function; got int",
        "none": "AttributeError",
    }
    failures = {f"mine_to_time:{name}": text for name, text in failures.items()}
    failures |= {"mine_that_breaks:make": "SystemExit: not today", "mine_not_there:make": "ModuleNotFoundError"}
    for name, text in failures.items():
        assert results[name].failure.startswith(text) and results[name].seconds == []
        assert f"{name} failed: {text}" in printed
    assert sys.path == paths


def test_other_implementations_at_all_sizes(mine):
    changed = {**TINY, "repetitions": 1, "callables": ("mine_to_time:good",), "callable_grows": True}
    found = cases_.run_benchmark(BenchmarkSettings(**changed, only=("mine",)))
    names = [result.name for result in found.results if result.name.startswith("mine")]
    assert names == [f"mine_to_time:good{size}" for size in ("", ", T = 2", ", T = 4", ", H = 2", ", n = 5")]
    configs = [config for config, _ in mine().given]
    assert [c.hidden_size for c in configs] == [3, 3, 3, 2, 3]
    assert [c.memory_capacity for c in configs] == [4, 4, 4, 4, 5]
    assert found.failures == []


def test_command_writes_what_it_promises(tmp_path, capsys):
    out = tmp_path / "out"
    options = ["benchmark", "--out", str(out), *TINY_OPTIONS, "--only", "retrieval", "reference, T"]
    assert main(options) == 0
    printed = capsys.readouterr().out
    for text in ("reference, train()", "EpisodicMemory, from 6", "reference, T = 4", "per", "ms, median", "cores"):
        assert text in printed
    assert "into 6" not in printed
    assert {path.name for path in out.iterdir()} == {"benchmark.json", "benchmark.md", "benchmark.png"}
    assert (out / "benchmark.png").stat().st_size > 1000

    before = (out / "benchmark.json").read_bytes()
    assert main(options) == 2
    assert "--overwrite" in capsys.readouterr().err and (out / "benchmark.json").read_bytes() == before
    assert main([*options, "--overwrite"]) == 0
    assert (out / "benchmark.json").read_bytes() != before


def test_command_lists_and_refuses(tmp_path, capsys):
    assert main(["benchmark", "--out", str(tmp_path / "out"), "--quick", "--list"]) == 0
    assert "retrieval: EpisodicMemory, from 10,000\n" in capsys.readouterr().out
    assert main(["benchmark", "--out", str(tmp_path / "out"), "--only", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_interrupted_command_shows_and_keeps_what_there_is(tmp_path, capsys, monkeypatch):
    cases = [fake("a", [1.0] * 9), fake("b", setup=lambda: raising(KeyboardInterrupt())), fake("c")]
    monkeypatch.setattr(cases_, "table", lambda settings: cases)
    assert main(["benchmark", "--out", str(tmp_path)]) == 130
    printed = capsys.readouterr().out
    assert "1,000 (1,000 … 1,000)" in printed and "Interrupted" in printed
    found = Benchmark.read(tmp_path)
    assert found.interrupted and [result.name for result in found.results] == ["a"]


def test_interrupted_before_anything_was_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cases_, "table", lambda settings: [fake("b", setup=raising(KeyboardInterrupt()))])
    assert main(["benchmark", "--out", str(tmp_path / "out")]) == 130
    assert "Interrupted" in capsys.readouterr().out and not (tmp_path / "out").exists()
