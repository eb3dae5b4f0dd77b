"""The shortcuts of Python mode: the same to the last bit as without them, and not taken where they must not be.

Each case runs twice, with and without shortcuts, in two compositions made alike. Compared are all Parameters of
all components with their histories and logs, and what call-backs saw. A test under "work-arounds" fails once
PsyNeuLink no longer does what the shortcuts leave out.
"""

import cProfile
import pstats
import warnings

import numpy as np
import psyneulink as pnl
import pytest
from common import rarely
from eplstm.models import (
    EncodingMechanism,
    EpisodicLSTMComposition,
    EpisodicMemory,
    ModelConfig,
    RecurrentComposition,
)
from eplstm.models.backend import start_from
from eplstm.tasks import Trials
from psyneulink.core.components.component import Component
from psyneulink.core.components.functions.function import Function_Base
from psyneulink.core.components.ports.port import Port_Base
from psyneulink.core.globals.context import Context
from psyneulink.core.globals.keywords import INPUT_PORT_PARAMS, OUTPUT_PORT_PARAMS, PARAMETER_PORT_PARAMS

D, H, A, T = 3, 2, 4, 3
CONTEXT = "here"

# What shortcuts leave out: a ParameterPort that has nothing new to pass on is not executed, nor is its function.
NOT_EXECUTED = (pnl.ParameterPort, pnl.AccumulatorIntegrator)


# ---- all that a run leaves behind -----------------------------------------------------------------------------


def components(composition):
    """All components, in an order that does not depend on names."""
    found = []
    for node in [*composition.nodes, composition.input_CIM, composition.output_CIM]:
        if isinstance(node, pnl.Composition):
            found += components(node)
            continue
        afferents = [p for port in (*node.input_ports, *node._parameter_ports) for p in port.all_afferents]
        ports = [*node.input_ports, *node.output_ports, *node._parameter_ports]
        ports += [port for projection in afferents for port in projection._parameter_ports]
        for component in [node, *ports, *afferents]:
            found += [component, component.function]
    return found


def plain(value):
    """A value in a form that == compares to the last bit."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.shape, value.dtype, value.tobytes()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (int, float, str, bool, np.generic)) or type(value).__name__ == "Time":
        return str(value)
    return type(value)


def is_kept(component, parameter):
    """Whether a Parameter must be the same with and without shortcuts, and whether its history must."""
    if type(parameter).__name__ != "Parameter" or parameter.name in ("seed", "random_state"):
        return False, False
    if isinstance(component, Function_Base):
        # Its count is that of all instances so far; its histories depend on which arrays PsyNeuLink shares.
        return parameter.name != "execution_count", False
    interface = (component, getattr(component, "owner", None))
    if any(isinstance(each, pnl.CompositionInterfaceMechanism) for each in interface):
        # An analysis of the graph executes it once more, and may change the order of its ports.
        return parameter.name in ("variable", "value"), False
    return True, True


def state(composition):
    """{(number, component, Parameter, what): value} of all components."""
    found = {}
    for number, component in enumerate(components(composition)):
        kind = type(component).__name__
        found[number, kind, "context"] = getattr(component.most_recent_context, "execution_id", None)
        if isinstance(component, NOT_EXECUTED):
            if type(component) is pnl.ParameterPort and component.name != "seed":
                found[number, kind, "value"] = plain(component.parameters.value.values.get(CONTEXT))
            continue
        for parameter in component.parameters:
            value, history = is_kept(component, parameter)
            name = number, kind, parameter.name
            if value:
                found[name] = plain(parameter.values.get(CONTEXT if parameter.stateful else None))
                log = parameter.log.get(CONTEXT, [])
                found[(*name, "log")] = [(str(entry.time), entry.context, plain(entry.value)) for entry in log]
            if history:
                for execution_id in (CONTEXT, None):
                    found[(*name, "history", execution_id)] = plain(list(parameter.history.get(execution_id, [])))
                found[(*name, "no context")] = plain(parameter.values.get(None))
    return found


class Case:
    """A composition with something to run; subclasses add what is tested."""

    composition: RecurrentComposition
    runs = 2

    def __init__(self, shortcuts):
        rng = np.random.default_rng(0)
        self.x, self.h, self.y = node("x", D), node("h", H, pnl.Tanh()), node("y", A, pnl.Logistic())
        self.z = node("z", 1, pnl.Logistic())
        self.composition = RecurrentComposition(name="net")
        self.composition.shortcuts = shortcuts
        for each in (self.x, self.h, self.y, self.z):
            self.composition.add_node(each)
        self.to_h = self.project(self.x, self.h, rng.standard_normal((D, H)))
        self.again = self.project(self.h, self.h, rng.standard_normal((H, H)), feedback=True)
        self.to_y = self.project(self.h, self.y, rng.standard_normal((H, A)))
        self.skip = self.project(self.x, self.y, rng.standard_normal((D, A)))
        self.to_z = self.project(self.x, self.z, rng.standard_normal((D, 1)))
        self.build()

    def project(self, sender, receiver, matrix, feedback=False):
        kwargs = {"feedback": True} if feedback else {}
        new = pnl.MappingProjection(sender=sender, receiver=receiver, matrix=matrix, **kwargs)
        self.composition.add_projection(new, feedback=feedback or None)
        return new

    def build(self):
        """What the case adds to the composition."""

    def before_run(self, number):
        """What the case does before a run."""

    def before_trial(self, number):
        """What the case does before a trial of the second run."""

    @property
    def arguments(self):
        """Further arguments of run()."""
        return {}

    def inputs(self):
        x = np.random.default_rng(1).standard_normal((T, D))
        x[-1, 0] = -0.0  # of which PsyNeuLink makes 0
        return {self.x: x}

    def run(self):
        """(state, results) after all runs."""
        seen = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in range(self.runs):
                self.before_run(number)
                trial = iter(range(100))
                self.composition.run(
                    self.inputs(),
                    context=CONTEXT,
                    call_before_trial=lambda number=number, trial=trial: number and self.before_trial(next(trial)),
                    call_after_time_step=lambda: seen.append(self.y.parameters.value.get(CONTEXT)),
                    **self.arguments,
                )
        return state(self.composition), [
            plain(v) for v in (*seen, *self.composition.parameters.results.get(CONTEXT))
        ]


def node(name, size, function=None):
    settings = {} if function is None else {"function": function}
    return pnl.ProcessingMechanism(name=name, default_variable=np.zeros(size), **settings)


def same(case):
    """The case, run with shortcuts, after it was the same as without them."""
    stock, quick = case(False), case(True)
    expected, results = stock.run()
    found, found_results = quick.run()
    assert found_results == results
    assert found.keys() == expected.keys()
    differing = [key for key in expected if expected[key] != found[key]]
    assert not differing
    return quick


class Updates:
    """Which ports PsyNeuLink itself updates, and which projections it executes."""

    def __init__(self, monkeypatch):
        self.found = []
        self._spy(monkeypatch, Port_Base, "_update")
        self._spy(monkeypatch, pnl.MappingProjection, "_execute")

    def _spy(self, monkeypatch, cls, name):
        stock = getattr(cls, name)

        def spy(component, *args, **kwargs):
            self.found.append(component)
            return stock(component, *args, **kwargs)

        monkeypatch.setattr(cls, name, spy)

    def during(self, case, **kwargs):
        """The components that were updated during one more run of a case that has run."""
        self.found.clear()
        case.composition.run(case.inputs(), context=CONTEXT, **{**case.arguments, **kwargs})
        return set(self.found)


@pytest.fixture
def updates(monkeypatch):
    return Updates(monkeypatch)


# ---- taken, and the same --------------------------------------------------------------------------------------


def test_plain_nodes(updates):
    """Nothing is updated by PsyNeuLink."""
    assert updates.during(same(Case)) == set()


class Products(Case):
    """Ports that multiply, several ports, a constant, several items of a value, a nested composition."""

    def build(self):
        inner = node("inner", H)
        self.composition.add_node(pnl.Composition(nodes=[inner], name="nested"))
        self.project(self.h, inner, np.ones((H, H)))
        ports = [
            pnl.InputPort(name="product", variable=np.zeros(H), combine=pnl.PRODUCT),
            pnl.InputPort(name="constant", variable=[2.0, 3.0], default_input=pnl.DEFAULT_VARIABLE),
        ]
        outputs = [pnl.OutputPort(name=str(item), variable=(pnl.OWNER_VALUE, item)) for item in range(2)]
        both = pnl.ProcessingMechanism(name="both", input_ports=ports, output_ports=outputs)
        self.composition.add_node(both)
        for sender in (self.x, self.h):
            self.project(sender, both.input_ports[0], np.ones((sender.output_port.value.size, H)))
        self.project(both.output_ports[1], self.y, np.ones((H, A)))


class Memory(Case):
    """A memory with fields of unequal size, and what stores in it."""

    def build(self):
        form = [np.zeros(D), np.zeros(H)]
        self.memory = pnl.EpisodicMemoryMechanism(
            name="memory",
            input_ports=[pnl.InputPort(name=name, variable=part) for name, part in zip("kv", form, strict=True)],
            default_variable=form,
            function=EpisodicMemory(default_variable=form, storage_prob=0.0, seed=0),
        )
        self.encoding = EncodingMechanism(memory=self.memory, name="encoding")
        self.composition.add_node(self.memory)
        self.composition.add_node(self.encoding)
        self.project(self.x, self.memory.input_ports[0], np.eye(D))
        self.project(self.x, self.memory.input_ports[1], np.ones((D, H)))
        self.project(self.memory.output_ports[1], self.y, np.ones((H, A)))
        self.project(self.x, self.encoding.input_ports[0], np.eye(D))
        self.project(self.memory.output_ports[1], self.encoding.input_ports[1], np.eye(H))
        self.project(self.h, self.encoding.input_ports[2], np.ones((H, 1)))


class Integration(Case):
    """Mechanisms with state, noise and more functions than one."""

    def build(self):
        for kind, settings in (
            (pnl.TransferMechanism, {"integrator_mode": True, "integration_rate": 0.3}),
            (pnl.TransferMechanism, {"noise": 0.5, "clip": (-1.0, 1.0)}),
            (pnl.IntegratorMechanism, {}),
            (pnl.RecurrentTransferMechanism, {"auto": 0.5}),
        ):
            new = kind(name=kind.__name__, default_variable=np.zeros(H), **settings)
            self.composition.add_node(new)
            self.project(self.h, new, np.eye(H))
            self.project(new, self.y, np.ones((H, A)))


@pytest.mark.parametrize("case", [Products, Memory, Integration], ids=lambda case: case.__name__)
def test_same_in(case):
    same(case)


def test_the_episodic_lstm(updates):
    """All of a record; PsyNeuLink itself updates no port."""
    config = ModelConfig(D, H, A, memory_capacity=5)
    rng = np.random.default_rng(2)
    trials = Trials(
        inputs=rng.standard_normal((2, T, D)), targets=rng.integers(0, A, (2, T)), encode=np.ones((2, T), bool)
    )
    records, states = [], []
    for shortcuts in (False, True):
        model = EpisodicLSTMComposition(config, seed=0)
        model.shortcuts = shortcuts
        for _ in range(2):
            updates.found.clear()
            records.append(model.run_trials(trials, seed=1, context=CONTEXT))
        states.append(state(model))
    assert {port.owner for port in updates.found} == {model.hidden, model.cell}  # their start is set
    for name in ("policy", "value", "hidden", "cell", "memory", "gates", "action", "reward"):
        for one, two in zip(records[:2], records[2:], strict=True):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert [key for key in states[0] if states[0][key] != states[1][key]] == []


def test_several_contexts():
    case, other = Case(True), Case(False)
    for each in (case, other):
        for context in (CONTEXT, "there", CONTEXT):
            each.composition.run(each.inputs(), context=context)
    for one, two in zip(components(case.composition), components(other.composition), strict=True):
        if not isinstance(one, NOT_EXECUTED):
            for context in ("there", CONTEXT):
                first, second = (c.parameters.value.values.get(context) for c in (one, two))
                assert plain(first) == plain(second)


# ---- not taken ------------------------------------------------------------------------------------------------


def control(case, name, *signals):
    mechanism = pnl.ControlMechanism(name=name, monitor_for_control=case.z, control_signals=list(signals))
    case.composition.add_node(mechanism)
    return mechanism


class ModulatedFunction(Case):
    def build(self):
        control(self, "gain", (pnl.GAIN, self.h))

    def stock(self):
        return {self.h.parameter_ports["gain"]}


class ModulatedMatrix(Case):
    def build(self):
        port = self.to_h.parameter_ports["matrix"]
        control(self, "matrix", pnl.ControlSignal(modulates=port))
        port.mod_afferents[0]._activate_for_compositions(self.composition)  # PsyNeuLink leaves this out

    def stock(self):
        return {self.to_h, self.to_h.parameter_ports["matrix"]}


class ModulatedInput(Case):
    def build(self):
        gate = pnl.GatingMechanism(name="gating", gating_signals=[self.h.input_port])
        self.composition.add_node(gate)
        self.project(self.z, gate, np.full((1, 1), 0.7))

    def stock(self):
        return {self.h.input_port, self.to_h, self.again}


class ModulatedOutput(Case):
    def build(self):
        gate = pnl.GatingMechanism(name="gating", gating_signals=[self.h.output_port])
        self.composition.add_node(gate)
        self.project(self.z, gate, np.full((1, 1), 0.7))

    def stock(self):
        return {self.h.output_port}


class ModulatedMemory(Memory):
    """The probability of retrieval is 0 or more as the outputs say."""

    def build(self):
        super().build()
        port = self.memory.parameter_ports["retrieval_prob"]
        control(self, "retrieval", pnl.ControlSignal(modulates=port, modulation=pnl.OVERRIDE))

    def before_run(self, number):
        if number == 0:
            self.memory.function.set_entries([np.ones((1, D)), np.ones((1, H))], CONTEXT)

    def stock(self):
        return {self.memory.parameter_ports["retrieval_prob"]}


class Logged(Case):
    """Values of a mechanism, a port and a projection, a matrix and a Parameter."""

    def build(self):
        self.h.set_log_conditions(["value", "mod_gain"])
        self.y.input_port.set_log_conditions("value")
        self.h.output_port.parameters.value.log_condition = pnl.LogCondition.PROCESSING
        self.skip.parameters.value.log_condition = pnl.LogCondition.EXECUTION
        self.to_h.set_log_conditions("matrix")

    def stock(self):
        found = {self.h.parameter_ports["gain"], self.y.input_port, self.h.output_port, self.skip, self.to_h}
        return found | {self.to_y}  # which the logged port of y receives


class LoggedFromATrialOn(Case):
    def before_trial(self, number):
        if number == 1:
            self.y.input_port.set_log_conditions("value")

    def stock(self):
        return {self.y.input_port, self.to_y, self.skip}


class OtherFunctionOfAPort(Case):
    def before_trial(self, number):
        if number == 1:
            self.h.input_port.parameters.function.set(pnl.LinearCombination(scale=3.0), CONTEXT)
            self.x.output_port.parameters.function.set(pnl.Linear(slope=2.0), CONTEXT)

    def stock(self):
        return {self.h.input_port, self.to_h, self.again, self.x.output_port}


class OtherSettingsOfAPort(Case):
    """Weights of what is added, and a slope."""

    def before_trial(self, number):
        if number == 1:
            parameters = self.y.input_port.function.parameters
            parameters.scale.set(np.array(0.5), CONTEXT)
            self.h.output_port.function.parameters.slope.set(np.array(2.0), CONTEXT)

    def stock(self):
        return {self.y.input_port, self.to_y, self.skip, self.h.output_port}


class Doubled(pnl.LinearCombination):
    """A function of one's own."""

    def _function(self, *args, **kwargs):
        return 2 * super()._function(*args, **kwargs)


class OtherPorts(Case):
    """Functions and variables that are not the default ones, from the start."""

    def build(self):
        self.other = pnl.ProcessingMechanism(
            name="other",
            input_ports=[
                pnl.InputPort(name="own", variable=np.zeros(H), function=Doubled()),
                pnl.InputPort(
                    name="weighted", variable=np.zeros(H), function=pnl.LinearCombination(weights=[[2.0]])
                ),
            ],
            output_ports=[
                pnl.OutputPort(name="doubled", function=pnl.Linear(slope=2.0)),
                pnl.OutputPort(name="count", variable=pnl.OWNER_EXECUTION_COUNT),
            ],
        )
        self.composition.add_node(self.other)
        self.into = {self.project(self.h, port, np.ones((H, H))) for port in self.other.input_ports}

    def stock(self):
        return {*self.other.input_ports, *self.other.output_ports} | self.into


class OtherFunctionOfAProjection(Case):
    """Its result is the same shape, but not a product with the matrix."""

    def build(self):
        self.to_h.function.parameters.normalize.set(True, None)

    def stock(self):
        return {self.to_h}


class RuntimeParams(Case):
    @property
    def arguments(self):
        self.bias = self.h.parameter_ports["bias"]
        return {
            "runtime_params": {
                self.h: {
                    INPUT_PORT_PARAMS: {"scale": 2.0},
                    PARAMETER_PORT_PARAMS: {self.bias: {pnl.VALUE: 0.3}},
                    OUTPUT_PORT_PARAMS: {"slope": 1.5},
                    "gain": 0.5,
                }
            }
        }

    def stock(self):
        return {self.h.input_port, self.to_h, self.again, self.h.output_port, self.bias}


@pytest.mark.parametrize(
    "case",
    [
        ModulatedFunction,
        rarely(ModulatedMatrix),
        ModulatedInput,
        rarely(ModulatedOutput),
        ModulatedMemory,
        Logged,
        rarely(LoggedFromATrialOn),
        OtherFunctionOfAPort,
        rarely(OtherSettingsOfAPort),
        OtherPorts,
        rarely(OtherFunctionOfAProjection),
        RuntimeParams,
    ],
    ids=lambda case: case.__name__,
)
def test_not_taken_in(case, updates):
    """PsyNeuLink updates those ports and projections itself, and the others are still quick."""
    ran = same(case)
    found = updates.during(ran)
    assert found >= ran.stock()
    plain_ports = {ran.x.input_port, *ran.y._parameter_ports, *ran.x._parameter_ports}
    assert not found & plain_ports


@pytest.mark.slow
def test_modulation_has_an_effect():
    """The cases above would be empty if nothing were modulated."""
    plain_results = Case(True).run()[1]
    for case in (ModulatedFunction, ModulatedMatrix, ModulatedInput, ModulatedOutput):
        assert case(True).run()[1][-1] != plain_results[-1], case.__name__


# ---- changed from run to run, and from trial to trial ---------------------------------------------------------


class ChangedSettings(Case):
    def change(self, number):
        self.h.function.parameters.gain.set(1.5 + number, CONTEXT)
        self.to_h.parameters.matrix.set(np.full((D, H), 0.1 * number), CONTEXT)
        self.to_y.function.parameters.matrix.set(
            np.full((H, A), 0.1 * number), CONTEXT
        )  # of no effect in PsyNeuLink
        self.again.parameter_ports["matrix"].function.parameters.rate.set(0.5, CONTEXT)


class ChangedBetweenRuns(ChangedSettings):
    runs = 4

    def before_run(self, number):
        if number in (1, 3):
            self.change(number)


class ChangedBetweenTrials(ChangedSettings):
    def before_trial(self, number):
        if number:
            self.change(number)


class ChangedMechanism(Case):
    def before_trial(self, number):
        if number == 1:
            self.h.parameters.function.set(pnl.ReLU(), CONTEXT)


@pytest.mark.parametrize(
    "case", [ChangedBetweenRuns, rarely(ChangedBetweenTrials), ChangedMechanism], ids=lambda case: case.__name__
)
def test_changes_are_seen(case):
    ran = same(case)
    assert ran.run()[1][-1] != Case(True).run()[1][-1]


def test_values_set_before_a_run():
    """``start_from``: what feedback projections carry at the first step."""

    class Started(Case):
        def before_run(self, number):
            if number:
                start_from(self.composition, {self.h: np.array([0.5, -0.5])}, Context(execution_id=CONTEXT))

    same(Started)


# ---- the methods come and go ----------------------------------------------------------------------------------


def shortcut_names(composition):
    return [
        name
        for owner in (composition, *composition._all_nodes)
        for name in vars(owner)
        if name == "_update_input_ports"
    ]


def test_nothing_is_left_after_a_run():
    case = Case(True)
    during = []
    case.composition.run(case.inputs(), call_after_trial=lambda: during.append(shortcut_names(case.composition)))
    assert all(during) and shortcut_names(case.composition) == []

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.composition.run(case.inputs(), call_after_trial=fail)
    assert shortcut_names(case.composition) == []
    assert "_initialize_from_context" not in vars(case.composition)


def test_a_run_within_a_run():
    """A call-back runs the composition in another context, which does not end the shortcuts of the outer run."""
    case, seen = Case(True), []

    def again():
        if not seen:
            seen.append(case.composition.run(case.inputs(), context="inner"))
        seen.append(shortcut_names(case.composition))

    result = case.composition.run(case.inputs(), context=CONTEXT, call_after_trial=again)
    assert all(seen[1:])
    assert plain(result) == plain(seen[0])


def test_switched_off(updates):
    case = Case(False)
    case.run()
    assert updates.during(case) > {case.to_h, case.h.input_port}


@pytest.mark.skipif(not hasattr(pnl, "_debugger"), reason="from PsyNeuLink 0.21 on")
def test_a_listener_hears_of_all_parameters(updates):
    """PsyNeuLink tells a listener, such as a viewer, of each Parameter that is set."""
    case = Case(True)
    case.run()
    pnl._debugger.set_listener(lambda category, provide: None)
    try:
        assert updates.during(case) > {case.to_h, case.h.input_port}
    finally:
        pnl._debugger.set_listener(None)


# ---- the analysis of the graph --------------------------------------------------------------------------------


class Analyses:
    """Counts those that PsyNeuLink makes."""

    def __init__(self, monkeypatch):
        self.count, stock = 0, pnl.Composition._analyze_graph

        def spy(composition, *args, **kwargs):
            self.count += 1
            return stock(composition, *args, **kwargs)

        monkeypatch.setattr(pnl.Composition, "_analyze_graph", spy)

    def during(self, case):
        """Their number in a run of a case."""
        self.count = 0
        case.composition.run(case.inputs(), context=CONTEXT)
        return self.count


@pytest.fixture
def analyses(monkeypatch):
    return Analyses(monkeypatch)


def further_node(case):
    further = node("further", H)
    case.composition.add_node(further)
    case.project(case.h, further, np.ones((H, H)))


def further_projection(case):
    case.project(case.y, case.h, np.ones((A, H)), feedback=True)


def fewer_projections(case):
    case.composition.remove_projection(case.skip)


def other_role(case):
    case.composition.require_node_roles(case.h, pnl.NodeRole.OUTPUT)


def excluded_role(case):
    case.composition.require_node_roles(case.h, pnl.NodeRole.OUTPUT)
    case.composition.exclude_node_roles(case.y, pnl.NodeRole.OUTPUT)


def further_port(case):
    case.h.add_ports(pnl.OutputPort(name="twice", variable=(pnl.OWNER_VALUE, 0), function=pnl.Linear(slope=2.0)))


def controlled(case):
    control(case, "control", (pnl.GAIN, case.h))


def nested(case):
    case.composition.add_node(pnl.Composition(nodes=[node("inner", H)], name="nested"))


CHANGES = [
    further_node,
    rarely(further_projection),
    fewer_projections,
    rarely(other_role),
    rarely(excluded_role),
    rarely(further_port),
    controlled,
    nested,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_graph_is_analysed(change, analyses):
    """And is run as without shortcuts."""

    class Changed(Case):
        runs = 3

        def before_run(self, number):
            if number == 1:
                change(self)

    same(Changed)
    case = Case(True)
    case.run()
    assert analyses.during(case) == 0
    change(case)
    assert analyses.during(case) > 0


# ---- work-arounds ---------------------------------------------------------------------------------------------


def test_needed_all_ports_are_updated(updates):
    """PsyNeuLink updates ParameterPorts and multiplies matrices by way of them even if nothing modulates them."""
    case = Case(False)
    case.run()
    assert updates.during(case) > {case.h.parameter_ports["gain"], case.to_h.parameter_ports["matrix"], case.to_h}


def test_needed_the_graph_is_analysed_at_each_run(analyses):
    case = Case(False)
    case.run()
    assert analyses.during(case) > 0


def test_needed_autodiff_compositions_are_initialized_at_each_trial(monkeypatch):
    """``Once``: each time, all Parameters of all components are gone through."""
    case, count, stock = Case(False), [], Component._initialize_from_context
    case.run()

    def spy(component, *args, **kwargs):
        count.append(component)
        return stock(component, *args, **kwargs)

    monkeypatch.setattr(Component, "_initialize_from_context", spy)
    case.composition.run(case.inputs(), context=CONTEXT)
    assert count.count(case.h) > T
    count.clear()
    case.composition.shortcuts = True
    case.composition.run(case.inputs(), context=CONTEXT)
    assert count.count(case.h) == 1


@pytest.mark.slow
def test_a_third_of_the_work_at_most():
    """In function calls, which do not depend on the machine."""
    config = ModelConfig(D, H, A, memory_capacity=5)
    trials = Trials(inputs=np.ones((1, 20, D)), targets=np.zeros((1, 20), int), encode=np.ones((1, 20), bool))
    model, calls = EpisodicLSTMComposition(config, seed=0), []
    model.run_trials(trials)
    for model.shortcuts in (False, True):
        profile = cProfile.Profile()
        profile.runcall(model.run_trials, trials)
        calls.append(pstats.Stats(profile).total_calls)
    assert calls[1] < calls[0] / 3
