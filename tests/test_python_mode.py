"""The shortcuts of Python mode: the same to the last bit as without them, and not taken where they must not be.

Each case runs twice, with and without shortcuts, in two compositions made alike. Compared is all that
``eplstm.models.python_mode`` guarantees, and what call-backs saw. The tests at the end fail once PsyNeuLink does
otherwise: once it no longer does what the shortcuts leave out, or does more than they know of.
"""

import ast
import cProfile
import hashlib
import inspect
import itertools
import pstats
import textwrap
from importlib.metadata import version

import numpy as np
import psyneulink as pnl
import pytest
from common import pristine, rarely
from eplstm.models import ModelConfig, RecurrentComposition
from eplstm.tasks import Trials
from packaging.version import Version
from psyneulink.core.components.component import Component
from psyneulink.core.components.functions.function import Function_Base
from psyneulink.core.components.mechanisms.mechanism import Mechanism_Base
from psyneulink.core.components.ports.port import Port_Base
from psyneulink.core.components.projections.projection import Projection_Base
from psyneulink.core.compositions.noderoles import NodeRolesManager
from psyneulink.core.globals.keywords import INPUT_PORT_PARAMS, OUTPUT_PORT_PARAMS, PARAMETER_PORT_PARAMS
from psyneulink.core.globals.parameters import Parameter

D, H, A, T = 3, 2, 4, 2
CONTEXT = "here"


def components(composition):
    """All components, in an order that does not depend on names."""
    for node in [*composition.nodes, composition.input_CIM, composition.output_CIM]:
        if isinstance(node, pnl.Composition):
            yield from components(node)
        else:
            ports = [*node.input_ports, *node.output_ports, *node._parameter_ports]
            afferents = [p for port in (*node.input_ports, *node._parameter_ports) for p in port.all_afferents]
            ports += [port for projection in afferents for port in projection._parameter_ports]
            for component in [node, *ports, *afferents]:
                yield from (component, component.function)


def plain(value):
    """A value in a form that == compares to the last bit."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.shape, value.dtype, value.tobytes()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (int, float, str, bool, np.generic)) or type(value).__name__ == "Time":
        return str(value)
    return type(value)


def guaranteed(component):
    """The Parameters that must be the same with and without shortcuts."""
    parameters = component.parameters
    if isinstance(component, pnl.AccumulatorIntegrator) or component.name == "seed":
        return []
    if isinstance(component, pnl.ParameterPort):
        return [parameters.value]
    if any(isinstance(c, pnl.CompositionInterfaceMechanism) for c in (component, getattr(component, "owner", 0))):
        # An analysis of the graph executes it once more, and may change the order of its ports.
        return [parameters.variable, parameters.value]
    # PsyNeuLink's count of a function's executions is that of all instances so far.
    left_out = {"seed", "random_state"} | ({"execution_count"} if isinstance(component, Function_Base) else set())
    return [p for p in parameters if type(p) is Parameter and p.name not in left_out]


def state(composition, context=CONTEXT):
    """{(number, component, Parameter): its value, log, value without context, history} of all components."""
    found = {}
    for number, component in enumerate(components(composition)):
        kind = type(component).__name__
        found[number, kind] = getattr(component.most_recent_context, "execution_id", None)
        every = guaranteed(component)
        # The history of a function depends on which arrays PsyNeuLink shares.
        has_history = len(every) > 2 and not isinstance(component, Function_Base)
        for parameter in every:
            log = [
                (str(entry.time), entry.context, plain(entry.value)) for entry in parameter.log.get(context, [])
            ]
            item = [plain(parameter.values.get(context if parameter.stateful else None)), log]
            if has_history:
                item.append(plain(parameter.values.get(None)))
                item += [plain(list(parameter.history.get(each, []))) for each in (context, None)]
            found[number, kind, parameter.name] = item
    return found


def differing(one, two, context=CONTEXT):
    one, two = state(one.composition, context), state(two.composition, context)
    assert one.keys() == two.keys()
    return [key for key in one if one[key] != two[key]]


# ---- cases ----------------------------------------------------------------------------------------------------


class Case:
    """A composition with something to run; subclasses add what is tested."""

    runs = 2

    def __init__(self, shortcuts):
        rng = np.random.default_rng(0)
        self.composition = RecurrentComposition(name="net")
        self.composition.shortcuts = shortcuts
        self.x, self.h, self.y = self.add("x", D), self.add("h", H, pnl.Tanh), self.add("y", A, pnl.Logistic)
        self.to_h = self.project(self.x, self.h, rng.standard_normal((D, H)))
        self.again = self.project(self.h, self.h, rng.standard_normal((H, H)), feedback=True)
        self.to_y = self.project(self.h, self.y, rng.standard_normal((H, A)))
        self.skip = self.project(self.x, self.y, rng.standard_normal((D, A)))
        self.build()

    def project(self, sender, receiver, matrix, **feedback):
        new = pnl.MappingProjection(sender=sender, receiver=receiver, matrix=matrix, **feedback)
        self.composition.add_projection(new, **feedback)
        return new

    def add(self, name, size, function=pnl.Linear, kind=pnl.ProcessingMechanism, **settings):
        new = kind(name=name, default_variable=np.zeros(size), function=function, **settings)
        self.composition.add_node(new)
        return new

    def further(self, name, **settings):
        """A further node, to which h projects."""
        new = self.add(name, H, **settings)
        self.project(self.h, new, np.eye(H))
        return new

    def build(self):
        """What the case adds to the composition."""

    def before_run(self, number):
        """What the case does before a run."""

    def before_trial(self, number):
        """What the case does before a trial, but for those of the first run."""

    def not_taken(self):
        """Ports that PsyNeuLink must update, and mechanisms and projections with such ParameterPorts."""
        return set()

    def arguments(self):
        """Further ones, of run()."""
        return {}

    def inputs(self):
        x = np.random.default_rng(1).standard_normal((T, D))
        x[-1, 0] = -0.0  # of which PsyNeuLink makes 0
        return {self.x: x}

    def run(self):
        """Results, and values at all steps."""
        seen = []
        for number in range(self.runs):
            self.before_run(number)
            trial = itertools.count()
            self.composition.run(
                self.inputs(),
                context=CONTEXT,
                call_before_trial=lambda number=number, trial=trial: number and self.before_trial(next(trial)),
                call_after_time_step=lambda: seen.append(plain(self.y.parameters.value.get(CONTEXT))),
                **self.arguments(),
            )
        return seen, plain(self.composition.parameters.results.get(CONTEXT))


class Doubled(pnl.LinearCombination):
    """A function of one's own."""

    def _function(self, *args, **kwargs):
        return 2 * super()._function(*args, **kwargs)


class Kinds(Case):
    """All kinds of ports; what is modulated, logged, given runtime_params or functions of its own."""

    def build(self):
        inner = pnl.ProcessingMechanism(name="inner", default_variable=np.zeros(H))
        self.composition.add_node(pnl.Composition(nodes=[inner], name="nested"))
        self.project(self.h, inner, np.ones((H, H)))
        product = pnl.InputPort(name="product", variable=np.zeros(H), combine=pnl.PRODUCT)
        constant = pnl.InputPort(name="constant", variable=[2.0, 3.0], default_input=pnl.DEFAULT_VARIABLE)
        outputs = [pnl.OutputPort(name=str(item), variable=(pnl.OWNER_VALUE, item)) for item in range(2)]
        both = pnl.ProcessingMechanism(name="both", input_ports=[product, constant], output_ports=outputs)
        self.composition.add_node(both)
        self.project(self.x, product, np.ones((D, H)))
        self.project(self.x, constant, np.ones((D, H)))  # of no effect
        self.project(self.h, product, np.ones((H, H)))
        self.project(both.output_ports[1], self.y, np.ones((H, A)))
        self.further("t", kind=pnl.TransferMechanism, integrator_mode=True, integration_rate=0.3)
        self.further("i", kind=pnl.IntegratorMechanism, function=pnl.AdaptiveIntegrator)
        self.further("r", kind=pnl.RecurrentTransferMechanism, auto=0.5)

        self.z, self.doubled, self.weighted = map(self.further, ("z", "doubled", "weighted"))
        self.gated, self.shut, self.noted, self.timed = map(self.further, "gsnt")
        self.doubled.input_port.parameters.function.set(Doubled(), None)
        self.weighted.input_port.function.parameters.weights.set(np.full((1, 1), 2.0), None)
        self.weighted.output_port.function.parameters.slope.set(np.array(2.0), None)
        self.to_y.function.parameters.normalize.set(True, None)

        self.matrix = self.to_h.parameter_ports["matrix"]
        signals = [(pnl.GAIN, self.h), pnl.ControlSignal(modulates=self.matrix)]
        control = pnl.ControlMechanism(monitor_for_control=self.z, control_signals=signals)
        self.composition.add_node(control)
        self.matrix.mod_afferents[0]._activate_for_compositions(self.composition)  # PsyNeuLink leaves this out
        gating = pnl.GatingMechanism(gating_signals=[self.gated.input_port, self.shut.output_port])
        self.composition.add_node(gating)
        self.project(self.z, gating, np.full((H, 1), 0.7))

        self.noted.set_log_conditions(["value", "mod_slope"])
        self.noted.output_port.parameters.value.log_condition = pnl.LogCondition.PROCESSING
        self.skip.parameters.value.log_condition = pnl.LogCondition.EXECUTION
        self.again.set_log_conditions("matrix")

    def before_trial(self, number):
        if number == 1:
            self.y.input_port.set_log_conditions("value")

    def arguments(self):
        of_port = {self.timed.parameter_ports["intercept"]: {pnl.VALUE: 0.3}}
        of_node = {INPUT_PORT_PARAMS: {"scale": 2.0}, PARAMETER_PORT_PARAMS: of_port, "slope": 0.5}
        return {"runtime_params": {self.timed: {**of_node, OUTPUT_PORT_PARAMS: {"slope": 1.5}}}}

    def not_taken(self):
        own = {self.h, self.to_h, self.h.input_port, self.again, self.noted, self.timed}
        return own | {each.input_port for each in (self.doubled, self.gated, self.timed)}


class Changed(Case):
    """Settings, matrices and functions, between runs and between trials; a mechanism executed by a call-back."""

    runs = 4

    def build(self):
        self.scaled = self.further("scaled")
        self.reset = self.further("reset")

    def before_run(self, number):
        if number in (1, 3):
            self.h.function.parameters.gain.set(1.5 + number, CONTEXT)
            self.to_h.parameters.matrix.set(np.full((D, H), 0.1 * number), CONTEXT)
            # of no effect in PsyNeuLink
            self.skip.function.parameters.matrix.set(np.full((D, A), 0.1 * number), CONTEXT)

    def before_trial(self, number):
        if number == 1:
            self.y.function.parameters.gain.set(0.5 + self.y.function.parameters.gain.get(CONTEXT), CONTEXT)
            self.to_y.parameters.matrix.set(0.5 * self.to_y.parameters.matrix.get(CONTEXT), CONTEXT)
            self.again.parameter_ports["matrix"].function.parameters.rate.set(0.5, CONTEXT)
            self.scaled.input_port.function.parameters.scale.set(np.array(0.5), CONTEXT)
            self.reset.input_port.parameters.function.set(pnl.LinearCombination(scale=3.0), CONTEXT)
            self.reset.output_port.parameters.function.set(pnl.Linear(slope=2.0), CONTEXT)
            self.scaled.parameters.function.set(pnl.ReLU(), CONTEXT)
            self.reset.execute(np.ones((1, H)), context=CONTEXT)

    def not_taken(self):
        return {self.again, self.h.input_port}


# ---- the same -------------------------------------------------------------------------------------------------


@pytest.fixture
def stock(monkeypatch):
    """Gives what PsyNeuLink itself updates in a run: ports, projections, mechanisms with their ParameterPorts."""
    found = set()

    def spy_on(cls, name):
        method = getattr(cls, name)

        def spy(component, *args, **kwargs):
            found.add(component)
            return method(component, *args, **kwargs)

        monkeypatch.setattr(cls, name, spy)

    def during(run, *args, **kwargs):
        found.clear()
        run(*args, **kwargs)
        return {each for each in found if not isinstance(each, pnl.OutputPort)}

    spy_on(Port_Base, "_update")
    spy_on(pnl.MappingProjection, "_execute")
    spy_on(Mechanism_Base, "_update_parameter_ports")
    return during


@pytest.mark.parametrize("case", [rarely(Kinds), Changed], ids=lambda case: case.__name__)
def test_same(case, stock):
    """And what must be updated by PsyNeuLink is, while others still are not."""
    without, quick = case(False), case(True)
    assert quick.run() == without.run()
    assert differing(without, quick) == []
    updated = stock(quick.composition.run, quick.inputs(), context=CONTEXT, **quick.arguments())
    assert updated >= quick.not_taken()
    assert not updated & {quick.x.input_port, quick.x, quick.y, quick.y.input_port, quick.skip}


def test_plain_nodes(stock):
    """Contexts, runs within runs, an exception."""
    case, other = Case(True), Case(False)
    for each in (case, other):
        for context in (CONTEXT, "there", CONTEXT):
            each.composition.run(each.inputs(), context=context)
    for context in (CONTEXT, "there"):
        assert differing(case, other, context) == []
    assert stock(case.composition.run, case.inputs(), context=CONTEXT) == set()

    seen = []

    def again():
        if not seen:
            seen.append(case.composition.run(case.inputs(), context="inner"))
        seen.append(vars(case.h.input_port).get("_update"))

    result = case.composition.run(case.inputs(), context="outer", call_after_trial=again)
    assert all(seen[1:]) and plain(result) == plain(seen[0])

    with pytest.raises(ZeroDivisionError):
        case.composition.run(case.inputs(), context="outer", call_after_trial=lambda: 1 / 0)
    for component in (case.composition, case.h, case.h.input_port, case.composition.output_CIM):
        assert not {"_initialize_from_context", "_update_parameter_ports", "_update"} & set(vars(component))


def test_the_episodic_lstm(stock):
    """All of a record, by half of the function calls; PsyNeuLink itself updates no input port but constants."""
    rng = np.random.default_rng(2)
    trials = Trials(
        inputs=rng.standard_normal((2, T, D)), targets=rng.integers(0, A, (2, T)), encode=np.ones((2, T), bool)
    )
    model, records, calls = pristine(ModelConfig(D, H, A, memory_capacity=5)), [], []
    for model.shortcuts in (False, True):
        context = f"shortcuts: {model.shortcuts}"
        records.append(model.run_trials(trials, seed=1, context=context))
        profile = cProfile.Profile()
        updated = stock(profile.runcall, model.run_trials, trials[1:], context=context)
        calls.append(pstats.Stats(profile).total_calls)
    updated = [each for each in updated if isinstance(each, (pnl.InputPort, pnl.MappingProjection))]
    assert updated and all(getattr(each, "default_input", None) for each in updated)
    assert calls[1] < calls[0] / 2
    for name in ("policy", "value", "hidden", "cell", "memory", "gates", "action", "reward"):
        np.testing.assert_array_equal(*(getattr(record, name) for record in records))


# ---- the analysis of the graph --------------------------------------------------------------------------------


def controlled(case):
    signals = [(pnl.GAIN, case.h)]
    case.composition.add_node(pnl.ControlMechanism(monitor_for_control=case.more, control_signals=signals))


def further_port(case):
    case.h.add_ports(pnl.OutputPort(name="twice", variable=(pnl.OWNER_VALUE, 0), function=pnl.Linear(slope=2.0)))


CHANGES = {
    "none": lambda case: None,
    "node": lambda case: setattr(case, "more", case.further("more")),
    "projection": lambda case: case.project(case.y, case.h, np.ones((A, H)), feedback=True),
    "fewer projections": lambda case: case.composition.remove_projection(case.skip),
    "role": lambda case: case.composition.require_node_roles(case.h, pnl.NodeRole.OUTPUT),
    "excluded role": lambda case: case.composition.exclude_node_roles(case.y, pnl.NodeRole.OUTPUT),
    "port": further_port,
    "control": controlled,
    "nested": lambda case: case.composition.add_node(pnl.Composition(nodes=[pnl.ProcessingMechanism()])),
}


def test_a_changed_graph_is_analysed(monkeypatch):
    """Change by change, and is run as without shortcuts."""
    analysed, analyse = [], pnl.Composition._analyze_graph

    def spy(composition, *args, **kwargs):
        analysed.append(composition)
        return analyse(composition, *args, **kwargs)

    monkeypatch.setattr(pnl.Composition, "_analyze_graph", spy)
    without, quick = Case(False), Case(True)
    without.runs = quick.runs = 1
    for name, change in CHANGES.items():
        for case in (without, quick):
            change(case)
        for again in (False, True):
            analysed.clear()
            assert quick.run() == without.run(), name
            assert without.composition in analysed, name  # PsyNeuLink does so at each run
            # A nested composition may have changed.
            assert (quick.composition in analysed) == (not again or name == "nested"), name
    assert differing(without, quick) == []


# ---- PsyNeuLink does what the shortcuts leave out, and no more ------------------------------------------------


def test_needed(stock, monkeypatch):
    """PsyNeuLink passes on what has not changed, and goes through all Parameters at each trial."""
    case, initialized, initialize = Case(False), [], Component._initialize_from_context

    def spy(component, *args, **kwargs):
        initialized.append(component)
        return initialize(component, *args, **kwargs)

    monkeypatch.setattr(Component, "_initialize_from_context", spy)
    updated = stock(case.run)
    assert updated > {case.h, case.h.input_port, case.to_h, case.to_h.parameter_ports["matrix"]}
    assert initialized.count(case.h) > case.runs * T
    initialized.clear()
    case.composition.shortcuts = True
    case.run()
    assert initialized.count(case.h) == case.runs


CHECKED = "0.21.0.0"
# The methods that shortcuts stand in for, wholly or in part, or whose effect they know, by class.
STOCK = {
    Port_Base: ("_update _execute_afferent_projections _execute", "1f023863e830"),
    pnl.InputPort: ("_get_variable_from_projections", "f7d8614e7e83"),
    pnl.ParameterPort: ("_get_variable_from_projections", "653788b1fd88"),
    pnl.MappingProjection: ("_execute", "044625d4df1c"),
    Projection_Base: ("_execute _update_parameter_ports", "fc694396d55d"),
    Mechanism_Base: ("_update_input_ports _update_parameter_ports", "060b427d1fc3"),
    Component: (
        "execute _execute _check_args _validate_and_assign_runtime_params "
        "_reset_runtime_parameters _increment_execution_count _increment_num_executions _initialize_from_context",
        "d70e191f5607",
    ),
    Parameter: ("_initialize_from_context", "bb048b47404d"),
    Function_Base: ("function", "132699e850a6"),
    pnl.AccumulatorIntegrator: ("_function", "ad9263046de7"),
    pnl.Composition: (
        "_analyze_graph _update_feedback_specifications _determine_pathway_roles "
        "_create_CIM_ports _update_shadow_projections",
        "8f3079519d96",
    ),
    NodeRolesManager: ("_determine_node_roles", "3b69b34f5ead"),
}


def fingerprint(cls, names):
    """Of methods' code, whatever its comments, docstrings and layout, in all versions of Python."""

    def form(part):
        if isinstance(part, list):
            return [form(each) for each in part]
        if isinstance(part, ast.AST):
            fields = [(name, form(value)) for name, value in ast.iter_fields(part) if value not in (None, [])]
            return type(part).__name__, fields
        return repr(part)

    forms = []
    for name in names.split():
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(getattr(cls, name)))).body
        forms.append(form(function.body[ast.get_docstring(function) is not None :]))
    return hashlib.sha256(repr(forms).encode()).hexdigest()[:12]


def test_what_shortcuts_stand_for_is_as_it_was():
    """Fails if a newer PsyNeuLink has changed a method that a shortcut stands in for.

    Then: compare the class's methods with those of the version checked; let the shortcut do what is new, or not be
    taken where that matters; add it to the cases above if values can show it; write the new version and
    fingerprints here.
    """
    if Version(version("psyneulink")) < Version(CHECKED):
        pytest.skip(f"checked with PsyNeuLink {CHECKED}; in older ones the tests above compare what methods do")
    changed = {cls.__name__: names for cls, (names, was) in STOCK.items() if fingerprint(cls, names) != was}
    assert not changed, f"changed since PsyNeuLink {CHECKED}; see this test's docstring"
