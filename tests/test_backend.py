"""Recurrent compositions trained through PsyNeuLink's PyTorch backend, and a test for each work-around.

A test under "work-arounds" fails once PsyNeuLink no longer needs what ``models/backend`` does about it.
"""

import copy
import importlib.util
import inspect
import pickle

import numpy as np
import psyneulink as pnl
import pytest
import torch
from eplstm.models import NotFinite, NotTrainable, RecurrentComposition
from eplstm.models.backend import AllInputs, as_context, get_matrix, set_matrix, start_from
from psyneulink.core.globals.context import Context
from psyneulink.core.globals.parameters import copy_parameter_value
from psyneulink.library.compositions.pytorchwrappers import PytorchCompositionWrapper

ATOL = 1e-10
"""float64 on both sides; they agree to 1e-15."""
D, H, A = 3, 2, 2
N, T = 5, 4
LEARNING_RATE = 0.1


class Elman:
    """x → h (tanh, with a projection to itself) → y, with an input bias; h also projects to ``late``, a copy."""

    def __init__(self, make=RecurrentComposition, seed=0, sizes=(D, H, A), **kwargs):
        rng = np.random.default_rng(seed)
        n_in, n_hidden, n_out = sizes
        self.start = [rng.standard_normal(s) for s in ((n_in, n_hidden), (n_hidden, n_hidden), (n_hidden, n_out))]
        self.x = pnl.ProcessingMechanism(name="x", default_variable=np.zeros(n_in))
        self.h = pnl.ProcessingMechanism(name="h", default_variable=np.zeros(n_hidden), function=pnl.Tanh())
        self.y = pnl.ProcessingMechanism(name="y", default_variable=np.zeros(n_out))
        self.composition = make(name="elman", **kwargs)
        for node in (self.x, self.h, self.y):
            self.composition.add_node(node)
        ends = ((self.x, self.h, False), (self.h, self.h, True), (self.h, self.y, False))
        self.projections = [
            self.project(sender, receiver, matrix, feedback)
            for (sender, receiver, feedback), matrix in zip(ends, self.start, strict=True)
        ]

    def project(self, sender, receiver, matrix, feedback=False, **kwargs):
        if feedback:
            kwargs["feedback"] = True
        # By a name that PsyNeuLink makes itself, it does not find the learning rate of a projection.
        name = f"{sender.name} to {receiver.name}"
        new = pnl.MappingProjection(name=name, sender=sender, receiver=receiver, matrix=matrix.copy(), **kwargs)
        self.composition.add_projection(new, feedback=feedback or None)
        return new

    def loss(self, targets):
        return lambda which, values: ((values[self.y] - torch.from_numpy(targets[list(which)])) ** 2).mean()

    def learn(self, inputs, targets, **kwargs):
        kwargs = {"learning_rate": LEARNING_RATE, **kwargs}
        return self.composition.learn({self.x: inputs}, self.loss(targets), **kwargs)

    def matrices(self, context=None):
        context = as_context(self.composition, context)
        return [get_matrix(projection, context) for projection in self.projections]

    def run(self, inputs, context=None):
        """Outputs (T, A) of one sequence in Python mode, from zeros."""
        course = []
        context = as_context(self.composition, context)
        self.composition.run(
            {self.x: inputs},
            context=context.execution_id,
            call_before_trial=lambda: None if course else start_from(self.composition, {}, context),
            call_after_trial=lambda: course.append(self.y.parameters.value.get(context)[0].copy()),
        )
        return np.array(course)


class PlainElman:
    """The same in plain torch."""

    def __init__(self, net, rates=(LEARNING_RATE,) * 3, optimizer=torch.optim.SGD):
        self.weights = [torch.tensor(w, requires_grad=True) for w in net.start]
        self.optimizer = optimizer([{"params": [w], "lr": r} for w, r in zip(self.weights, rates, strict=True)])

    def run(self, inputs):
        """(B, T, D) → (B, T, A)."""
        w_x, w_h, w_y = self.weights
        h, outputs = torch.zeros(len(inputs), w_h.shape[0], dtype=torch.float64), []
        for t in range(inputs.shape[1]):
            h = torch.tanh(torch.from_numpy(inputs[:, t]) @ w_x + h @ w_h)
            outputs.append(h @ w_y)
        return torch.stack(outputs, 1)

    def learn(self, inputs, targets, batch=1):
        for k in range(0, len(inputs), batch):
            rows = slice(k, k + batch)
            self.optimizer.zero_grad()
            (self.run(inputs[rows]) - torch.from_numpy(targets[rows])).square().mean().backward()
            self.optimizer.step()


def close(a, b):
    for one, two in zip(a, b, strict=True):
        two = two.detach().numpy() if isinstance(two, torch.Tensor) else two
        np.testing.assert_allclose(one, two, rtol=0, atol=ATOL)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return rng.standard_normal((N, T, D)), rng.standard_normal((N, T, A))


# ---- training, against plain torch ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, N])
def test_learning_equals_plain_torch(data, batch):
    """A last minibatch may be smaller."""
    net = Elman()
    plain = PlainElman(net)
    net.learn(*data, minibatch_size=batch)
    plain.learn(*data, batch)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in zip(net.matrices(), net.start, strict=True))
    close(net.matrices(), plain.weights)


def test_learn_run_learn(data):
    """With Adam, whose state goes on; run() uses what was learned, and is not in the way."""
    net = Elman(optimizer_type="adam")
    plain = PlainElman(net, optimizer=torch.optim.Adam)
    for _ in range(2):
        net.learn(*data)
        plain.learn(*data)
        close([net.run(data[0][0])], plain.run(data[0][:1]))
    close(net.matrices(), plain.weights)


def test_weights_set_between_are_trained(data):
    net = Elman()
    plain = PlainElman(net)
    net.learn(*data)
    for projection, matrix in zip(net.projections, net.start, strict=True):
        set_matrix(projection, matrix, net.composition.default_execution_id)
    net.learn(*data)
    plain.learn(*data)
    close(net.matrices(), plain.weights)


def test_contexts_learn_apart(data):
    net = Elman()
    inputs, targets = data
    plain = {name: PlainElman(net) for name in ("one", "two")}
    for name, rows in (("one", slice(0, 2)), ("two", slice(2, 5)), ("one", slice(2, 4))):
        net.learn(inputs[rows], targets[rows], context=name)
        plain[name].learn(inputs[rows], targets[rows])
    for name, expected in plain.items():
        close(net.matrices(name), expected.weights)
        close([net.run(inputs[0], name)], expected.run(inputs[:1]))


def test_sizes_of_one():
    """One input, one unit, one output, one step: no axis is lost."""
    rng = np.random.default_rng(2)
    net, inputs, targets = Elman(sizes=(1, 1, 1)), rng.standard_normal((2, 1, 1)), rng.standard_normal((2, 1, 1))
    plain = PlainElman(net)
    net.learn(inputs, targets)
    plain.learn(inputs, targets)
    assert [m.shape for m in net.matrices()] == [(1, 1)] * 3
    close(net.matrices(), plain.weights)
    close([net.run(inputs[0])], plain.run(inputs[:1]))


def test_nodes_of_one_set_see_values_from_before_it():
    """Two nodes that feed back to each other: each sees what the other was a step earlier, in both modes."""
    x = pnl.ProcessingMechanism(name="x", default_variable=[0.0])
    a, b = (pnl.ProcessingMechanism(name=name, default_variable=[0.0]) for name in ("a", "b"))
    composition = RecurrentComposition(name="pair")
    for node in (x, a, b):
        composition.add_node(node)
    for sender, receiver, weight, feedback in (
        (x, a, 1.0, False),
        (x, b, 2.0, False),
        (a, b, 3.0, True),
        (b, a, 5.0, True),
    ):
        kwargs = {"feedback": True} if feedback else {}
        projection = pnl.MappingProjection(sender=sender, receiver=receiver, matrix=[[weight]], **kwargs)
        composition.add_projection(projection, feedback=feedback or None)
    seen = {}

    def loss(which, values):
        seen.update({node: values[node][0, :, 0].detach().numpy() for node in (a, b)})
        return values[a].sum()

    composition.learn({x: np.array([[[1.0], [10.0], [100.0]]])}, loss, learning_rate=0.0)
    # a = x + 5 b', b = 2 x + 3 a' (primes: the step before)
    np.testing.assert_array_equal(seen[a], [1, 10 + 5 * 2, 100 + 5 * 23])
    np.testing.assert_array_equal(seen[b], [2, 20 + 3 * 1, 200 + 3 * 20])


def test_learning_rates_by_projection(data):
    """By the projection, by its name, and none at all for one."""
    net = Elman()
    first, second, _ = net.projections
    plain = PlainElman(net, (0.5, 0.0, LEARNING_RATE))
    for key in (first, first.name):
        net.learn(*data, learning_rate={key: 0.5, second: False, pnl.DEFAULT_LEARNING_RATE: LEARNING_RATE})
        plain.learn(*data)
        close(net.matrices(), plain.weights)
    np.testing.assert_array_equal(net.matrices()[1], net.start[1])


def test_callbacks_and_order(data):
    """Minibatches come in the order of the inputs, and each is announced before and after."""
    net, events = Elman(), []
    inputs, targets = data
    loss = net.loss(targets)

    def spy(which, values):
        events.append(list(which))
        return loss(which, values)

    net.composition.learn(
        {net.x: inputs},
        spy,
        minibatch_size=2,
        call_before_minibatch=lambda: events.append("before"),
        call_after_minibatch=lambda: events.append("after"),
    )
    expected = [["before", rows, "after"] for rows in ([0, 1], [2, 3], [4])]
    assert events == [event for batch in expected for event in batch]


@pytest.mark.parametrize("where", ["call_after_minibatch", "loss"])
def test_an_interruption_keeps_what_was_learned(data, where):
    net = Elman()
    plain, count = PlainElman(net), iter(range(100))
    inputs, targets = data

    def stop():
        if next(count) == 1:
            raise KeyboardInterrupt

    def loss(which, values):
        if where == "loss" and which.start == 2:
            raise KeyboardInterrupt
        return net.loss(targets)(which, values)

    callback = {"call_after_minibatch": stop} if where == "call_after_minibatch" else {}
    with pytest.raises(KeyboardInterrupt):
        net.composition.learn({net.x: inputs}, loss, learning_rate=LEARNING_RATE, **callback)
    plain.learn(inputs[:2], targets[:2])
    close(net.matrices(), plain.weights)
    net.learn(inputs[2:], targets[2:])
    plain.learn(inputs[2:], targets[2:])
    close(net.matrices(), plain.weights)


@pytest.mark.parametrize(("factor", "cause"), [(np.nan, "loss is not finite"), (1e200, "gradients of .* to y")])
def test_an_update_that_is_not_finite_is_not_made(data, factor, cause):
    """Nor one whose gradients are too large for their squares, which optimisers keep. What was done is there."""
    net = Elman(optimizer_type="adam")
    plain = PlainElman(net, optimizer=torch.optim.Adam)
    inputs, targets = data
    loss = net.loss(targets)

    def goes_wrong(which, values):
        return loss(which, values) * (factor if which.start == 2 else 1.0)

    with pytest.raises(NotFinite, match=rf"sequence 2:.*{cause}"):
        net.composition.learn({net.x: inputs}, goes_wrong, learning_rate=LEARNING_RATE)
    plain.learn(inputs[:2], targets[:2])
    close(net.matrices(), plain.weights)
    assert len(net.composition.results) == 2
    net.learn(inputs[2:], targets[2:])  # also that the optimiser goes on
    plain.learn(inputs[2:], targets[2:])
    close(net.matrices(), plain.weights)
    assert len(net.composition.results) == N


@pytest.mark.parametrize("synch", [pnl.RUN, pnl.MINIBATCH])
def test_results_after_an_interruption_are_those_of_updates(data, synch):
    net, expected = Elman(), Elman()
    inputs, targets = data
    expected.learn(inputs[:2], targets[:2])

    def interrupted(which, values):
        if which.start == 2:
            raise KeyboardInterrupt
        return net.loss(targets)(which, values)

    with pytest.raises(KeyboardInterrupt):
        net.composition.learn(
            {net.x: inputs}, interrupted, learning_rate=LEARNING_RATE, synch_results_with_torch=synch
        )
    close([net.composition.results], [expected.composition.results])


def test_a_call_that_is_refused_leaves_weights_that_were_set(data):
    """PsyNeuLink refuses it before it has taken them."""
    net = Elman()
    net.learn(*data)
    for projection, matrix in zip(net.projections, net.start, strict=True):
        set_matrix(projection, matrix, net.composition.default_execution_id)
    with pytest.raises(Exception, match="no such"):
        net.learn(*data, learning_rate={"no such": 0.1})
    close(net.matrices(), net.start)


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        lambda composition: copy.deepcopy([composition]),  # a list of the same one would be no copy
        lambda composition: copy.deepcopy({"agents": {"first": composition}}),
        lambda composition: pickle.dumps([composition]),
    ],
    ids=["copy", "deepcopy", "in a list", "in a dict", "pickle"],
)
def test_a_composition_is_not_copied(shared, copied):
    with pytest.raises(TypeError, match=r"elman.*load_model"):
        copied(shared.composition)


def test_psyneulink_may_copy_what_holds_a_composition(shared):
    """As the value of a Parameter, such as the agent_rep of a controller."""
    (found,) = copy_parameter_value([shared.composition])
    assert found is shared.composition


def test_after_learning_nodes_and_results_are_those_of_the_last_step(data):
    net = Elman()
    inputs, targets = data
    result = net.learn(inputs, targets, learning_rate=0.0)
    last = net.run(inputs[-1])[-1]
    np.testing.assert_allclose(np.squeeze(result), last, atol=ATOL)


# ---- arguments: honoured or refused -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(data):
    """A composition that has learned, for tests that leave it as it is."""
    net = Elman()
    net.learn(*data)
    return net


def test_a_number_of_optimisations_given_to_the_constructor_is_refused(data):
    with pytest.raises(NotTrainable, match="optimizations_per_minibatch"):
        Elman(optimizations_per_minibatch=2).learn(*data)


def test_inputs_that_do_not_fit(data, shared):
    inputs, targets = data
    broken = inputs.copy()
    broken[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"x.*finite"):
        shared.learn(broken, targets)
    with pytest.raises(Exception, match=r"x|shape"):
        shared.learn(inputs[:, :, :2], targets)


@pytest.mark.parametrize("when", [pnl.MINIBATCH, pnl.RUN])
def test_options_of_synchronisation(data, when):
    """Whenever PsyNeuLink is given what was learned, it has it in the end."""
    net = Elman()
    plain = PlainElman(net)
    net.learn(
        *data,
        synch_projection_matrices_with_torch=when,
        synch_node_values_with_torch=when,
        synch_results_with_torch=when,
    )
    plain.learn(*data)
    close(net.matrices(), plain.weights)


def test_weights_are_synchronised_after_each_minibatch_if_asked(data):
    net, seen = Elman(), []
    net.learn(
        *data,
        synch_projection_matrices_with_torch=pnl.MINIBATCH,
        call_after_minibatch=lambda: seen.append(net.matrices()[0]),
    )
    assert len({matrix.tobytes() for matrix in seen}) == N


# ---- work-arounds -----------------------------------------------------------------------------------------------


def test_needed_stock_context_refuses_subclasses():
    """``accept_subclasses_in_context``: without it, no subclass of AutodiffComposition can learn."""
    spec = importlib.util.spec_from_file_location("stock_context", inspect.getfile(Context))
    stock = importlib.util.module_from_spec(spec)  # as it is without us
    spec.loader.exec_module(stock)
    with pytest.raises(stock.ContextError):
        stock.Context().composition = RecurrentComposition(name="subclass")


def test_contexts_still_refuse_what_is_no_composition():
    with pytest.raises(Exception, match=r"[Cc]omposition"):
        Context().composition = "no composition"


def test_needed_projections_to_a_node_itself_are_left_out(shared):
    """``_get_composition_projections`` adds them."""
    own = shared.projections[1]
    assert own not in shared.composition._inner_projections
    wrapper = shared.composition.parameters.pytorch_representation.get(shared.composition.default_execution_id)
    assert own in wrapper.projections_map
    stock = PytorchCompositionWrapper._get_composition_projections(wrapper, shared.composition)
    assert own not in stock


def test_psyneulink_is_given_copies_of_weights(data):
    """A view would change with the next step of the optimiser."""
    net = Elman()
    net.learn(*data)
    before = net.matrices()
    wrapper = net.composition.parameters.pytorch_representation.get(net.composition.default_execution_id)
    with torch.no_grad():
        for parameter in wrapper.projections_map.values():
            parameter.matrix.add_(1.0)
    close(net.matrices(), before)


def test_needed_stock_values_have_the_axes_of_the_batch(shared):
    """``copy_node_variables_and_values_to_psyneulink``: feedback projections would carry them into run()."""
    context = as_context(shared.composition, None)
    wrapper = shared.composition.parameters.pytorch_representation.get(context)
    assert np.shape(shared.h.parameters.value.get(context)) == (1, H)
    wrapper.nodes_map[shared.h].set_pnl_variable_and_values(set_variable=False, set_value=True, context=context)
    stock = np.shape(shared.h.parameters.value.get(context))
    wrapper.copy_node_variables_and_values_to_psyneulink({}, context)
    assert stock != (1, H)
    assert np.shape(shared.h.parameters.value.get(context)) == (1, H)


def test_needed_run_does_not_pass_on_its_base_context(data):
    """``check_same_in_both_modes`` copies the weights of the context it stands for by itself."""
    net = Elman()
    for projection in net.projections:
        set_matrix(projection, 0 * get_matrix(projection), "zeros")
    result = net.composition.run(
        {net.x: data[0][0][:1]}, context="probe", base_context=Context(execution_id="zeros")
    )
    assert np.abs(result).max() > 1e-3


def test_needed_matrices_of_size_one_are_squeezed(data):
    """``load_weights`` copies by itself: PsyNeuLink's own copy loses axes of size 1, which then does not fit."""
    net = Elman(sizes=(1, 3, 2))
    net.learn(data[0][:1, :, :1], data[1][:1])
    context = as_context(net.composition, None)
    with pytest.raises(RuntimeError, match="shape"):
        net.composition.copy_projection_matrix_to_torch_param(
            net.projections[0], torch_param=torch.zeros(3, 1, dtype=torch.float64), context=context
        )


def test_needed_the_stock_memory_has_no_pytorch_form():
    """``EpisodicMemory._gen_pytorch_fct``"""
    assert not hasattr(pnl.ContentAddressableMemory, "_gen_pytorch_fct")


@pytest.fixture
def stock():
    """x → y in PsyNeuLink's own composition, and a function that trains it on n trials."""
    x, y = (pnl.ProcessingMechanism(name=name, default_variable=np.zeros(2)) for name in "xy")
    composition = pnl.AutodiffComposition([x, np.eye(2), y])

    def learn(n):
        data = {"inputs": {x: np.ones((n, 2))}, "targets": {y: np.ones((n, 2))}}
        composition.learn(**data, execution_mode=pnl.ExecutionMode.PyTorch)

    learn(1)
    return composition, learn


def calls(monkeypatch, owner, name):
    """A list that grows with each call of a method."""
    made, method = [], getattr(owner, name)

    def spy(*args, **kwargs):
        made.append(name)
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, spy)
    return made


def test_needed_stock_learn_searches_the_graph_in_each_trial(stock, monkeypatch):
    """``_get_autodiff_inputs_values``"""
    searches = calls(monkeypatch, pnl.Composition, "get_nodes_by_role")
    counts = []
    for n in (1, 5):
        searches.clear()
        stock[1](n)
        counts.append(len(searches))
    assert counts[1] >= counts[0] + 4


def test_needed_stock_learn_copies_the_inputs_of_each_trial(data, monkeypatch):
    """``AllInputs``: all nodes under one key, which is not copied."""
    net = Elman()
    copies = calls(monkeypatch, AllInputs, "__deepcopy__")
    net.learn(*data)
    assert len(copies) >= N


def test_needed_stock_learn_analyses_the_graph_again(stock, monkeypatch):
    """``RecurrentComposition._analyze_graph``"""
    analyses = calls(monkeypatch, pnl.AutodiffComposition, "_analyze_graph")
    stock[1](1)
    assert analyses


def test_needed_parameters_are_sought_repeatedly(stock, monkeypatch):
    """``_torch_params_to_projections``: once for each parameter, each time among all of them."""
    searches = calls(monkeypatch, PytorchCompositionWrapper, "_torch_params_to_projections")
    stock[1](1)
    assert len(searches) > 1


@pytest.mark.skipif(not hasattr(pnl.Composition, "_optimization_projections"), reason="not in older ones")
def test_needed_projections_are_sought_repeatedly(stock, monkeypatch):
    """``_optimization_projections``: all of them, for the learning rate of each."""
    searches = []
    search = pnl.Composition._optimization_projections.fget
    spy = property(lambda composition: searches.append(composition) or search(composition))
    monkeypatch.setattr(pnl.Composition, "_optimization_projections", spy)
    stock[1](1)
    assert len(searches) > 1


def test_needed_results_of_another_form_cannot_be_joined(stock):
    """``call``: the output ports become others where the composition is nested, or changed."""
    composition, learn = stock
    composition.parameters.results.set(np.ones((1, 3, 2)), composition)
    with pytest.raises(ValueError, match="dimension"):
        learn(1)


def test_needed_matrices_do_not_follow_their_functions_into_another_context(shared):
    """``take_over_state`` sets them: PsyNeuLink copies that of a projection's function alone."""
    projection, own = shared.projections[0], as_context(shared.composition, None)
    projection._initialize_from_context(Context(execution_id="elsewhere"), own)
    assert "elsewhere" in projection.function.parameters.matrix.values
    assert "elsewhere" not in projection.parameters.matrix.values


def test_needed_the_stock_load_takes_no_string(shared, tmp_path):
    """``RecurrentComposition.load``"""
    path = str(tmp_path / "weights.pt")
    shared.composition.save(path)
    with pytest.raises(Exception, match=r"path|str"):
        pnl.AutodiffComposition.load(shared.composition, path)


# ---- one state, alone and nested --------------------------------------------------------------------------------


def steps_of(composition):
    """Steps of the optimiser that each projection has made, in the composition's own execution context."""
    context = as_context(composition, None)
    return sorted(float(state["step"]) for state in composition.torch_states(context).values())


def test_the_state_moves_along(data):
    """Into a composition, with that into another, and out of it; nobody has run these yet."""
    net = Elman(optimizer_type="adam")
    inputs, targets = data
    plain = PlainElman(net, optimizer=torch.optim.Adam)
    net.learn(inputs[:2], targets[:2])
    plain.learn(inputs[:2], targets[:2])
    outer, outermost = pnl.Composition(name="outer"), pnl.Composition(name="outermost")

    def see(home):
        assert net.composition.default_execution_id == home.name
        close(net.matrices(), plain.weights)
        assert steps_of(net.composition) == [2.0] * 3

    outer.add_node(net.composition)
    see(outer)
    outermost.add_node(outer)
    see(outermost)
    net.composition._remove_from_composition(outer)  # remove_node() raises a NodeRoleError where it is an OUTPUT
    see(net.composition)
    net.learn(inputs[2:], targets[2:])
    plain.learn(inputs[2:], targets[2:])
    close(net.matrices(), plain.weights)


def test_another_execution_context_of_the_outer_composition_is_another_state(data):
    """As PsyNeuLink has it: what moves is the state of one composition, not of one context."""
    net = Elman()
    outer = pnl.Composition(name="outer")
    outer.add_node(net.composition)
    net.learn(*data)
    learned = net.matrices()
    outer.default_execution_id = "second subject"
    close(net.matrices(), net.start)
    outer.default_execution_id = outer.name
    close(net.matrices(), learned)


def test_feedback_is_dashed_within_the_picture_of_another(data):
    """Here the projection of a node to itself; the outer composition is PsyNeuLink's own."""
    net, outer = Elman(), pnl.Composition(name="outer")
    outer.add_node(net.composition)
    drawn = outer.show_graph(show_nested=pnl.NESTED, output_fmt="source").replace('"', "")
    (dashed,) = (line.split("[")[0].split() for line in drawn.splitlines() if "style=dashed" in line)
    assert dashed == [net.h.name, "->", net.h.name]


# ---- graphs that are refused ------------------------------------------------------------------------------------


def test_storing_and_retrieving_at_one_stage_is_refused():
    """Which comes first would be left open."""
    from eplstm.models import EncodingMechanism, EpisodicMemory

    form = [np.zeros(2), np.zeros(2)]
    x = pnl.ProcessingMechanism(name="x", default_variable=np.zeros(2))
    memory = pnl.EpisodicMemoryMechanism(
        name="memory",
        input_ports=[pnl.InputPort(name=name, variable=np.zeros(2)) for name in ("key", "value")],
        default_variable=form,
        function=EpisodicMemory(default_variable=form, kernel="l2", storage_prob=0.0),
    )
    encoding = EncodingMechanism(memory=memory, name="encoding")
    composition = RecurrentComposition(name="hasty")
    for node in (x, memory, encoding):
        composition.add_node(node)
    for receiver in (*memory.input_ports, *encoding.input_ports):
        matrix = np.ones((2, receiver.defaults.value.size))
        composition.add_projection(pnl.MappingProjection(sender=x, receiver=receiver, matrix=matrix))
    with pytest.raises(NotTrainable, match=r"encoding.*memory"):
        composition.learn({x: np.ones((1, 1, 2))}, lambda which, values: values[memory].sum())


def inserted(net, node):
    net.composition.add_node(node)
    net.project(net.x, node, np.ones((D, H)))
    net.project(node, net.y, np.ones((H, A)))


def transfer(**settings):
    return lambda net: inserted(
        net, pnl.TransferMechanism(name="culprit", default_variable=np.zeros(H), **settings)
    )


def integrator(net):
    inserted(net, pnl.IntegratorMechanism(name="culprit", default_variable=np.zeros(H)))


def control(net):
    signals = [(pnl.GAIN, net.h)]
    net.composition.add_node(
        pnl.ControlMechanism(name="culprit", monitor_for_control=net.y, control_signals=signals)
    )


def nested(net):
    node = pnl.ProcessingMechanism(name="inner", default_variable=np.zeros(H))
    net.composition.add_node(pnl.Composition(nodes=[node], name="culprit"))


def condition(net):
    net.composition.scheduler.add_condition(net.y, pnl.EveryNCalls(net.h, 2))


@pytest.mark.parametrize(
    ("change", "culprit", "learned"),
    [
        (transfer(noise=0.5), "culprit", False),
        (transfer(noise=pnl.NormalDist()), "noise", True),
        (transfer(clip=(-50, 50)), "culprit", False),  # bounds that random input does not reach
        (transfer(integrator_mode=True), "culprit", True),
        (integrator, "PyTorch", False),
        (control, "culprit", True),
        (nested, "culprit", False),
        (condition, "y", False),
        (condition, "y", True),
    ],
    ids=[
        "noise",
        "random noise",
        "wide clip",
        "integrator mode",
        "integrator",
        "control",
        "nested",
        "condition",
        "condition later",
    ],
)
def test_graphs_that_are_refused(data, change, culprit, learned):
    """Fresh, or after learning. Nothing is learned then."""
    net = Elman()
    if learned:
        net.learn(*data, learning_rate=0.0)
    change(net)
    before = net.matrices()
    with pytest.raises(NotTrainable, match=culprit):
        net.learn(*data)
    close(net.matrices(), before)


@pytest.mark.parametrize("name", ["loss_spec", "targets"])
def test_a_loss_for_the_constructor_is_refused(name):
    with pytest.raises(ValueError, match="takes its loss in learn"):
        RecurrentComposition(**{name: None})
