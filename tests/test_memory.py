"""The memory: against brute force, where it is not as PsyNeuLink's class, and in compositions."""

import copy

import numpy as np
import psyneulink as pnl
import pytest
import torch
from eplstm.models import EncodingMechanism, EpisodicMemory, RecurrentComposition
from eplstm.models.bank import Bank
from eplstm.models.kernels import COSINE_EPS
from psyneulink.core.components.functions.function import FunctionError

ATOL = 1e-10
"""float64 on both sides; they agree to 1e-15."""
K, V = 2, 4


def make_memory(sizes=(K, V), **kwargs):
    return EpisodicMemory(default_variable=[np.zeros(size) for size in sizes], **{"kernel": "l2"} | kwargs)


def random_entries(n, sizes=(K, V), seed=0):
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal(size) for size in sizes] for _ in range(n)]


def filled(entries, sizes=(K, V), **kwargs):
    memory = make_memory(sizes, **kwargs)
    for entry in entries:
        memory.add_to_memory(entry)
    return memory


def same_entry(found, expected):
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, dtype=float), two, rtol=0, atol=ATOL)


def same_entries(memory, expected, context=None):
    """The entries, oldest first, equal a list of entries."""
    fields = memory.entries(context)
    assert {len(f) for f in fields} == {len(expected)}
    for i, field in enumerate(fields):
        if expected:
            np.testing.assert_array_equal(field, [entry[i] for entry in expected])


# ---- retrieval, by brute force -------------------------------------------------------------------------------


def brute_similarity(kernel, a, b):
    if kernel == "l2":
        return -np.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    if kernel == "l1":
        return -sum(abs(x - y) for x, y in zip(a, b, strict=True))
    norms = [max(np.sqrt(np.dot(x, x)), COSINE_EPS) for x in (a, b)]
    return np.dot(a, b) / (norms[0] * norms[1])


def brute_similarities(kernel, weights, cue, entries):
    """Of whole entries if the weights are equal, else the mean of the weighted fields, as PsyNeuLink has it."""
    if len(set(weights)) == 1:
        return np.array([weights[0] * brute_similarity(kernel, np.hstack(cue), np.hstack(e)) for e in entries])
    counted = [i for i, weight in enumerate(weights) if weight]
    return np.array(
        [sum(weights[i] * brute_similarity(kernel, cue[i], e[i]) for i in counted) / len(counted) for e in entries]
    )


KERNELS, WEIGHTS = ("l2", "l1", "cosine"), ([1, 0], [1, 1], [1, 2], [0, 1])


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_nearest(kernel, weights):
    entries = random_entries(7)
    memory = filled(entries, kernel=kernel, distance_field_weights=weights, storage_prob=0.0)
    chosen = set()
    for cue in random_entries(10, seed=1):
        best = int(np.argmax(brute_similarities(kernel, weights, cue, entries)))
        chosen.add(best)
        same_entry(memory(cue), entries[best])
        same_entry(memory.get_memory(cue), entries[best])
        same_entry(memory.retrieve(cue), entries[best])
    assert len(chosen) > 2
    same_entries(memory, entries)


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_average(kernel, weights):
    entries, sharpness = random_entries(5), 1.7
    memory = filled(
        entries,
        kernel=kernel,
        distance_field_weights=weights,
        retrieval="average",
        sharpness=sharpness,
        storage_prob=0.0,
    )
    for cue in random_entries(3, seed=1):
        odds = np.exp(sharpness * brute_similarities(kernel, weights, cue, entries))
        share = odds / odds.sum()
        expected = [sum(s * e[i] for s, e in zip(share, entries, strict=True)) for i in range(2)]
        same_entry(memory(cue), expected)


def tied(order):
    """Entries of which numbers 1, 2 and 4 have the same key, in a full ring whose oldest is not in row 0."""
    near, far = np.array([1.0, 0.0]), np.array([-5.0, 3.0])
    keys = [far, far, far, near, near, far, near]
    entries = [[key, np.full(V, float(i))] for i, key in enumerate(keys)]
    return filled(entries, max_entries=5, equidistant_entries_select=order, storage_prob=0.0, seed=0)


def test_of_equal_entries_the_oldest_or_the_newest():
    cue = [np.array([1.0, 0.1]), np.zeros(V)]
    assert tied(pnl.OLDEST)(cue)[1][0] == 3
    assert tied(pnl.NEWEST)(cue)[1][0] == 6


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradient_where_the_query_is_a_stored_key_or_zero(kernel):
    """The root of the distance has an infinite slope at 0; the gradient must not become NaN."""
    entries = [[np.zeros(K), np.full(V, 1.0)], [np.ones(K), np.full(V, 2.0)]]
    memory = filled(entries, kernel=kernel, retrieval="average")
    for key in (np.zeros(K), np.ones(K)):
        query = torch.tensor(key, requires_grad=True)
        memory.match([query, None])[1].sum().backward()
        assert torch.isfinite(query.grad).all()


def test_zero_keys_have_no_cosine_similarity():
    """A key of zeros is as similar as an orthogonal one: neither NaN nor the best."""
    entries = [[np.zeros(K), np.full(V, 1.0)], [np.array([1.0, 1.0]), np.full(V, 2.0)]]
    memory = filled(entries, kernel="cosine", storage_prob=0.0)
    assert memory([np.array([1.0, 0.5]), np.zeros(V)])[1][0] == 2
    assert memory([np.array([-1.0, -0.5]), np.zeros(V)])[1][0] == 1
    assert memory([np.zeros(K), np.zeros(V)])[1][0] == 1  # all equal: the oldest


def test_an_empty_memory_gives_zeros():
    memory = make_memory()
    cue = random_entries(1)[0]
    same_entry(memory.get_memory(cue), [np.zeros(K), np.zeros(V)])
    same_entry(memory(cue), [np.zeros(K), np.zeros(V)])  # and then stores
    same_entry(memory(cue), cue)


def test_weights_of_zero_retrieve_nothing():
    memory = filled(random_entries(3), distance_field_weights=[0, 0], storage_prob=0.0)
    same_entry(memory(random_entries(1)[0]), [np.zeros(K), np.zeros(V)])


# ---- entries ------------------------------------------------------------------------------------------------


def append(bank, *entry):
    bank.write(
        np.array([0]), [np.full((1, field.shape[2]), part) for field, part in zip(bank.fields, entry, strict=True)]
    )


def test_ring_grows_then_drops_its_oldest():
    bank = Bank((1, 2), 40)
    for i in range(100):
        append(bank, i, -i)
        keys, values = bank.entries()
        np.testing.assert_array_equal(keys[:, 0], np.arange(max(0, i - 39), i + 1))
        np.testing.assert_array_equal(values[:, 1], -keys[:, 0])


def test_storing_does_not_move_entries():
    """The arrays are made anew only when they double."""
    bank, arrays = Bank((3,), 1000), []
    for i in range(3000):
        append(bank, i)
        if not arrays or bank.fields[0] is not arrays[-1]:
            arrays.append(bank.fields[0])
    assert [a.shape[1] for a in arrays] == [16, 32, 64, 128, 256, 512, 1000]


def test_ring_takes_entries_and_another_limit():
    bank = Bank((1,), 3)
    for i in range(5):
        append(bank, i)
    bank.resize(4)
    bank.set_entries([np.arange(6.0)[:, None]])
    np.testing.assert_array_equal(bank.entries()[0][:, 0], [2, 3, 4, 5])
    append(bank, 9)
    np.testing.assert_array_equal(bank.entries()[0][:, 0], [3, 4, 5, 9])
    bank.resize(2)
    np.testing.assert_array_equal(bank.entries()[0][:, 0], [5, 9])
    bank.set_entries([np.empty((0, 1))])
    assert bank.count() == 0 and bank.entries()[0].shape == (0, 1)
    for i in range(3):
        append(bank, i)
    np.testing.assert_array_equal(bank.entries()[0][:, 0], [1, 2])


def test_another_number_of_entries_later():
    entries = random_entries(6)
    memory = filled(entries[:5])
    memory.max_entries = 2
    same_entries(memory, entries[3:5])
    memory.max_entries = 3
    memory.store(entries[5])
    same_entries(memory, entries[3:])


def test_what_counts_as_repeated_are_the_weighted_fields():
    key = np.array([1.0, 2.0])
    entries = [[key, np.full(V, 1.0)], [key, np.full(V, 2.0)], [key, np.full(V, 2.0)]]
    memory = filled(entries, duplicate_entries_allowed=False, distance_field_weights=[1, 1])
    same_entries(memory, entries[:2])
    assert memory.store_entry(entries[0]) is False
    assert memory.store_entry([key, np.full(V, 5.0)]) is True


def test_overwriting_takes_the_newest_of_equals_in_a_full_ring():
    key, other = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    keys = [other, other, other, key, key]  # the last one lies in the first row
    memory = filled([[k, np.full(V, float(i))] for i, k in enumerate(keys)], max_entries=4)
    memory.duplicate_entries_allowed = pnl.OVERWRITE
    memory.store([key, np.full(V, 9.0)])
    np.testing.assert_array_equal(memory.entries()[1][:, 0], [1, 2, 3, 9])


def test_storing_before_the_first_call():
    entries = random_entries(3)
    memory = make_memory(storage_prob=0.0)
    memory.add_to_memory(entries[0])
    memory.add_to_memory(entries[1:])
    same_entries(memory, entries)


def test_memory_in_the_form_of_the_base():
    regular, ragged = filled(random_entries(3, (2, 2)), (2, 2)), filled(random_entries(3))
    assert regular.memory.shape == (3, 2, 2) and regular.memory.dtype == float
    assert ragged.memory.shape == (3, 2) and [p.shape for p in ragged.memory[0]] == [(K,), (V,)]
    assert make_memory().memory_num_entries == 0


def test_entries_of_environments_are_apart():
    one, two, three = random_entries(3)
    memory = make_memory(max_entries=1)
    assert memory.environments() == 1
    memory.store_entry(one)
    memory.store_entry(two, environment=2)
    memory.set_entries([part[None] for part in three], environment=1)
    memory.store_entry(three, "other")
    assert memory.environments() == 3 and memory.environments("other") == 1
    for environment, entry in enumerate((one, three, two)):
        for part, kept in zip(entry, memory.entries(environment=environment), strict=True):
            np.testing.assert_array_equal(kept, [part])
        found = memory.match([torch.from_numpy(part) for part in one], environment=environment)
        same_entry([part.numpy() for part in found], entry)
    memory.clear(environment=1)
    assert [len(memory.entries(environment=e)[0]) for e in range(3)] == [1, 0, 1]
    memory.step([torch.from_numpy(part) for part in two], environment=1)
    assert [len(memory.entries(environment=e)[0]) for e in range(3)] == [1, 1, 1]
    memory.clear(environment=None)
    assert [len(memory.entries(environment=e)[0]) for e in range(3)] == [0, 0, 0]
    same_entries(memory, [three], "other")


def test_resetting_clears_all_environments():
    entries = random_entries(3)
    memory = make_memory()
    memory.store_entry(entries[0], environment=1)
    memory.reset(entries[1:])
    same_entries(memory, entries[1:])
    assert len(memory.entries(environment=1)[0]) == 0


def test_an_environment_of_a_negative_number_is_refused():
    with pytest.raises(FunctionError, match="at least 0; got -1"):
        make_memory().store_entry(random_entries(1)[0], environment=-1)


def test_other_entries_for_the_time_being():
    entries, others = random_entries(3), random_entries(2, seed=1)
    memory = make_memory()
    memory.store_entry(entries[0], "known")
    memory.store_entry(entries[1], "known", environment=1)
    fields = [np.array(parts) for parts in zip(*others, strict=True)]
    for name, kept in (("known", entries[:1]), ("unknown", [])):
        with pytest.raises(KeyError), memory.other_entries(fields, name):  # an exception does not matter
            same_entries(memory, others, name)
            assert memory.environments(name) == 1
            memory.store_entry(entries[2], name)
            raise KeyError
        same_entries(memory, kept, name)
    assert memory.environments("known") == 2


# ---- not as PsyNeuLink's class: its docstring says why ----------------------------------------------------------

KINDS = pytest.mark.parametrize("kernel", [None, "l2"])


def stock(**kwargs):
    return pnl.ContentAddressableMemory(distance_function=pnl.Distance(metric=pnl.EUCLIDEAN), **kwargs)


def two_contexts(memory, entries):
    """Run two compositions with the same mechanism, an entry each; their execution_ids."""
    mechanism = pnl.EpisodicMemoryMechanism(default_variable=np.zeros((2, 2)), function=memory)
    contexts = []
    for entry in entries:
        composition = pnl.Composition(mechanism)
        composition.run(inputs={mechanism: [entry]})
        contexts.append(pnl.Context(execution_id=composition.default_execution_id))
    return contexts


@KINDS
def test_entries_of_contexts_are_apart(kernel):
    entries = random_entries(3, (2, 2))
    memory = make_memory((2, 2), kernel=kernel)
    contexts = two_contexts(memory, entries)
    for entry, context in zip(entries, contexts, strict=False):
        same_entry(memory.get_memory(entries[2], context=context), entry)
        np.testing.assert_array_equal(memory.memory, [entry])
    memory.delete_from_memory(entries[0], context=contexts[0])
    assert memory.memory_num_entries == 0
    same_entry(memory.get_memory(entries[2], context=contexts[1]), entries[1])


def test_needed_contexts_of_psyneulink_are_not_apart():
    entries = random_entries(2, (2, 2))
    memory = stock()
    context, _ = two_contexts(memory, entries)
    memory.get_memory(entries[0], context=context)
    np.testing.assert_array_equal(memory.memory, [entries[1]])


def test_needed_unequal_fields_of_psyneulink_are_confused():
    """Once it has dropped its oldest entry, its ``memory`` shows others than it holds, and it searches these."""
    entries = random_entries(4)
    settings = {"initializer": np.array(entries[:3], dtype=object), "max_entries": 3}
    for kind, is_right in ((stock, False), (EpisodicMemory, True)):
        memory = kind(**settings)
        memory(entries[3])
        assert (np.hstack(memory.memory[1]) == np.hstack(entries[2])).all() == is_right


@KINDS
def test_reset(kernel):
    first, later = random_entries(2, (2, 2)), random_entries(3, (2, 2), seed=1)
    memory = make_memory((2, 2), kernel=kernel, initializer=first)
    memory.add_to_memory(later[0])
    for value, expected in ((None, first), (later, later)):
        memory.reset(value)
        np.testing.assert_array_equal(memory.memory, expected)
    empty = make_memory((2, 2), kernel=kernel)
    empty(later[0])
    empty.reset()
    assert empty.memory_num_entries == 0
    same_entry(empty(later[0]), np.zeros((2, 2)))


@KINDS
@pytest.mark.parametrize("n", [0, 1, 3])
def test_reset_of_a_mechanism(kernel, n):
    """To fewer entries than there are fields, too."""
    entries = random_entries(3, (2, 2))
    mechanism = make_mechanism((2, 2), kernel=kernel)
    mechanism.execute(entries[0])
    mechanism.reset(entries[:n] or None)
    assert mechanism.function.memory_num_entries == n
    np.testing.assert_array_equal(mechanism.value, np.zeros((2, 2)))


def test_needed_reset_of_psyneulink_fails():
    memory = stock()
    memory(np.ones((2, 2)))
    with pytest.raises(AttributeError):
        memory.reset()
    mechanism = pnl.EpisodicMemoryMechanism(default_variable=np.zeros((2, 2)), function=stock())
    with pytest.raises(IndexError):
        mechanism.reset(np.ones((1, 2, 2)))


def test_form_of_entries_with_a_kernel():
    """Of the initializer, or the mechanism; by default the first field alone counts, however many there are."""
    for sizes, weights in (((3,), [1]), ((2, 3, 4), [1, 0, 0])):
        entries = random_entries(4, sizes)
        memory = EpisodicMemory(kernel="l2", initializer=entries[:3])
        assert list(memory.distance_field_weights) == weights
        same_entry(memory(entries[1]), entries[1])
        same_entries(memory, [*entries[:3], entries[1]])
    mechanism = pnl.EpisodicMemoryMechanism(
        default_variable=np.zeros((2, 3)), function=EpisodicMemory(kernel="l2", storage_prob=0.0)
    )
    mechanism.function.add_to_memory(np.ones((2, 3)))
    same_entry(mechanism.execute(np.zeros((2, 3))), np.ones((2, 3)))


def test_deleting():
    entries = [*random_entries(3), *random_entries(1)]  # the last repeats the first
    memory = filled(entries)
    memory.delete_from_memory(entries[0], fields=[])  # as None
    same_entries(memory, entries[1:3])
    memory.delete_from_memory([entries[1], entries[2]])
    same_entries(memory, [])
    memory = filled(entries)
    memory.delete_from_memory([entries[2][0], np.zeros(V)], fields=0)
    same_entries(memory, [entries[0], entries[1], entries[3]])


# ---- with a kernel, as PsyNeuLink's class -----------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.5, [0.1, 0.2]], ids=str)
def test_noise_is_added_to_what_is_stored(noise):
    entry = random_entries(1)[0]
    expected = [part + each for part, each in zip(entry, np.broadcast_to(noise, 2), strict=True)]
    same_entries(filled([entry], noise=noise), [expected])


def test_retrieve_and_store_obey_their_probabilities():
    entries = random_entries(2)
    memory = filled(entries[:1], retrieval_prob=0.0, storage_prob=0.0)
    same_entry(memory.retrieve(entries[0]), [np.zeros(K), np.zeros(V)])
    memory.store(entries[1])
    same_entries(memory, entries[:1])


def test_initial_entries_that_are_duplicates_are_told():
    entries = random_entries(2)
    with pytest.warns(UserWarning, match="identical to an existing one"):
        memory = make_memory(initializer=[*entries, entries[0]], duplicate_entries_allowed=False)
    same_entries(memory, entries)


@pytest.mark.parametrize("entry", [[np.zeros(K + 1), np.zeros(V)], [np.zeros(K)], [np.zeros(K), 0.0]], ids=str)
@pytest.mark.parametrize("stored", [0, 1])
def test_entries_of_other_forms_are_refused(entry, stored):
    memory = filled(random_entries(stored), storage_prob=0.0)
    batch = [random_entries(1)[0], entry]
    for call in (memory, memory.get_memory, memory.add_to_memory, memory.store_entry, memory.delete_from_memory):
        with pytest.raises(FunctionError, match="an entry has fields of shapes"):
            call(entry)
    if len(entry) == 2:
        with pytest.raises(FunctionError, match="an entry has fields of shapes"):
            memory.add_to_memory(batch)
    same_entries(memory, random_entries(stored))  # nothing of the batch


# ---- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"kernel": "dot"}, {"retrieval": "best"}, {"max_entries": 0}, {"equidistant_entries_select": "first"}],
    ids=str,
)
def test_settings_out_of_range(settings):
    with pytest.raises(Exception, match=r"must be"):
        make_memory(**settings)


@pytest.mark.parametrize("name", ["distance_function", "selection_function", "duplicate_threshold"])
def test_what_a_kernel_takes_the_place_of_is_refused(name):
    value = {"distance_function": pnl.Distance(), "selection_function": pnl.OneHot()}.get(name, 0.5)
    with pytest.raises(FunctionError, match=f"{name} was set"):
        make_memory(**{name: value})
    memory = filled(random_entries(2))
    setattr(memory, name, value)
    with pytest.raises(FunctionError, match=f"{name} was set"):
        memory(random_entries(1)[0])


def test_settings_of_a_kernel_need_one():
    with pytest.raises(FunctionError, match="no kernel, without which there is no sharpness"):
        EpisodicMemory(sharpness=2.0)

    class Own(EpisodicMemory):
        """Made without a kernel."""

    with pytest.raises(FunctionError, match="a subclass of KernelMemory"):
        Own(kernel="l2")


def test_field_weights_of_another_number():
    memory = make_memory(distance_field_weights=[1, 0, 0])
    with pytest.raises(FunctionError, match="3 weights for 2 fields"):
        memory(random_entries(1)[0])


def test_given_field_weights():
    memory, cue = filled(random_entries(5)), random_entries(1, seed=1)[0]
    for weights in ([0, 1], [1, 1]):
        best = int(np.argmax(brute_similarities("l2", weights, cue, random_entries(5))))
        same_entry(memory.get_memory(cue, field_weights=weights), random_entries(5)[best])


# ---- in a mechanism and in compositions ----------------------------------------------------------------------


def make_mechanism(sizes=(K, V), name="memory", **kwargs):
    form = [np.zeros(size) for size in sizes]
    return pnl.EpisodicMemoryMechanism(
        name=name,
        input_ports=[
            pnl.InputPort(name=port, variable=part) for port, part in zip(("key", "value"), form, strict=True)
        ],
        default_variable=form,
        function=EpisodicMemory(default_variable=form, **{"kernel": "l2"} | kwargs),
    )


def test_a_copy_has_entries_of_its_own():
    entries = random_entries(3)
    memory = filled(entries[:2])
    twin = copy.deepcopy(memory)
    twin.store(entries[2])
    same_entries(memory, entries[:2])
    same_entries(twin, entries)


def node(name, size, function=None):
    settings = {} if function is None else {"function": function}
    return pnl.ProcessingMechanism(name=name, default_variable=np.zeros(size), **settings)


class Net:
    """key input → [learned] → memory's key; value input → memory's value; retrieved value → [learned] → out."""

    X, OUT = 3, 2

    def __init__(self, make, sizes, **memory):
        rng = np.random.default_rng(3)
        self.sizes = sizes
        self.key_matrix = rng.standard_normal((self.X, sizes[0]))
        self.out_matrix = rng.standard_normal((sizes[1], self.OUT))
        self.x, self.v = node("key input", self.X), node("value input", sizes[1])
        self.memory, self.out = make_mechanism(sizes, **memory), node("out", self.OUT, pnl.Logistic())
        self.composition = make()
        for mechanism in (self.x, self.v, self.memory, self.out):
            self.composition.add_node(mechanism)
        self.to_key = self.project(self.x, self.memory.input_ports["key"], self.key_matrix)
        self.project(self.v, self.memory.input_ports["value"], np.eye(sizes[1]), learnable=False)
        self.to_out = self.project(self.memory.output_ports[1], self.out, self.out_matrix)

    def project(self, sender, receiver, matrix, **kwargs):
        new = pnl.MappingProjection(sender=sender, receiver=receiver, matrix=matrix.copy(), **kwargs)
        self.composition.add_projection(new)
        return new

    def matrices(self):
        return [p.parameters.matrix.get(self.composition.default_execution_id) for p in (self.to_key, self.to_out)]

    def entries(self):
        return self.memory.function.entries(self.composition.default_execution_id)


class Plain:
    """The same in plain torch."""

    def __init__(self, net, sharpness):
        self.w, self.u = (torch.tensor(m, requires_grad=True) for m in (net.key_matrix, net.out_matrix))
        self.sharpness, self.size = sharpness, net.sizes[1]
        self.environments = [([], []), ([], [])]
        self.keys, self.values = self.environments[0]

    def retrieve(self, query):
        """The retrieved value, and the output."""
        retrieved = torch.zeros(self.size, dtype=torch.float64)
        if self.keys:
            distance = torch.stack([(query - key).norm() for key in self.keys])
            values = torch.stack(self.values)
            if self.sharpness is None:
                retrieved = values[int(distance.argmin())]
            else:
                retrieved = torch.softmax(-self.sharpness * distance, 0) @ values
        return retrieved, torch.sigmoid(retrieved @ self.u)

    def out(self, x, v):
        """Retrieve, then store."""
        query = torch.as_tensor(x) @ self.w
        out = self.retrieve(query)[1]
        self.keys.append(query.detach())
        self.values.append(torch.as_tensor(v))
        return out

    def train(self, xs, vs, targets, learning_rate, batch):
        optimizer = torch.optim.SGD([self.w, self.u], lr=learning_rate)
        for start in range(0, len(xs), batch):
            rows = range(start, start + batch)
            outs = []
            for i in rows:  # each row of a batch has an environment of its own
                self.keys, self.values = self.environments[i - start]
                outs.append(self.out(xs[i], vs[i]))
            outs = torch.stack(outs)
            optimizer.zero_grad()
            (outs - torch.as_tensor(targets[start : start + batch])).square().mean().backward()
            optimizer.step()


def data(n, net, seed=5):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, net.X)), rng.standard_normal((n, net.sizes[1])), rng.random((n, net.OUT))


def close(a, b):
    for one, two in zip(a, b, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=ATOL)


def test_in_a_plain_composition():
    net = Net(pnl.Composition, (K, V))
    plain, (xs, vs, _) = Plain(net, None), data(6, net)
    net.composition.run(inputs={net.x: xs, net.v: vs})
    expected = [plain.out(x, v).detach().numpy() for x, v in zip(xs, vs, strict=True)]
    close([r[0] for r in net.composition.results], expected)
    close(net.entries(), [torch.stack(plain.keys), torch.stack(plain.values)])


@pytest.mark.parametrize(
    ("sizes", "batch", "sharpness"), [((3, 3), 1, 0.7), ((3, 3), 2, 0.7), ((2, 4), 1, 0.7), ((2, 4), 1, None)]
)
def test_in_a_stock_autodiff_composition(sizes, batch, sharpness):
    """learn() trains the projection to the key, through the query, and stores; run() goes on from there."""
    settings = {} if sharpness is None else {"retrieval": "average", "sharpness": sharpness}
    net = Net(pnl.AutodiffComposition, sizes, **settings)
    plain, (xs, vs, targets) = Plain(net, sharpness), data(6, net)
    net.composition.learn(
        inputs={net.x: xs, net.v: vs},
        targets={net.out: targets},
        learning_rate=0.3,
        minibatch_size=batch,
        execution_mode=pnl.ExecutionMode.PyTorch,
        randomize_minibatches=False,
    )
    plain.train(xs, vs, targets, 0.3, batch)
    memory, context = net.memory.function, net.composition.default_execution_id
    assert memory.environments(context) == batch
    for environment, kept in enumerate(plain.environments[:batch]):
        close(memory.entries(context, environment), [torch.stack(part) for part in kept])
    moved = [
        np.abs(m - before).max()
        for m, before in zip(net.matrices(), (net.key_matrix, net.out_matrix), strict=True)
    ]
    assert moved[1] > 1e-4 and (moved[0] > 1e-4) == (sharpness is not None)
    close(net.matrices(), [plain.w.detach(), plain.u.detach()])
    plain.keys, plain.values = plain.environments[0]  # that of run()
    result = net.composition.run(inputs={net.x: xs[:1], net.v: vs[:1]})
    close(result, [plain.out(xs[0], vs[0]).detach()])
    assert len(net.entries()[0]) == 6 // batch + 1


@KINDS
def test_a_new_context_begins_with_what_is_there(kernel):
    """The initializer, a mechanism's ``memory``, and what was added and deleted before the first run."""
    entries = random_entries(3, (2, 2))
    given = {"default_variable": np.zeros((2, 2)), "storage_prob": 0.0, "kernel": kernel}
    for mechanism in (
        pnl.EpisodicMemoryMechanism(function=EpisodicMemory(**given, initializer=entries[:2])),
        pnl.EpisodicMemoryMechanism(function=EpisodicMemory(**given), memory=entries[:2]),
    ):
        mechanism.function.add_to_memory(entries[2])
        mechanism.function.delete_from_memory(entries[0])
        composition = pnl.Composition(mechanism)
        composition.run(inputs={mechanism: [entries[2]]})
        same_entry(composition.results[0], entries[2])
        same_entry(mechanism.memory, entries[1:])
        composition.run(inputs={mechanism: [entries[0]]})
        assert not np.array_equal(composition.results[1], entries[0])


def test_without_a_kernel_there_is_no_pytorch_form():
    net = Net(pnl.AutodiffComposition, (3, 3), kernel=None)
    xs, vs, targets = data(2, net)
    with pytest.raises(Exception, match="not currently supported"):
        net.composition.learn(
            inputs={net.x: xs, net.v: vs},
            targets={net.out: targets},
            execution_mode=pnl.ExecutionMode.PyTorch,
        )
    net.composition.run(inputs={net.x: xs, net.v: vs})
    assert len(net.memory.memory) == 2


def test_unequal_fields_in_a_stock_minibatch_are_refused():
    net = Net(pnl.AutodiffComposition, (2, 4))
    xs, vs, targets = data(4, net)
    with pytest.raises(FunctionError, match="RecurrentComposition"):
        net.composition.learn(
            inputs={net.x: xs, net.v: vs},
            targets={net.out: targets},
            minibatch_size=2,
            execution_mode=pnl.ExecutionMode.PyTorch,
        )


class EncodingNet(Net):
    """A ``Net`` that stores the input's first columns and, of the value, what depends on the retrieved one."""

    def __init__(self, make, sizes, **memory):
        super().__init__(make, sizes, storage_prob=0.0, **memory)
        self.switch, self.sum = node("encode", 1), node("sum", sizes[1])
        self.encoding = EncodingMechanism(memory=self.memory, name="encoding")
        for mechanism in (self.switch, self.sum, self.encoding):
            self.composition.add_node(mechanism)
        self.composition.exclude_node_roles(self.encoding, pnl.NodeRole.OUTPUT)
        ports, same = self.encoding.input_ports, np.eye(sizes[1])
        for sender, receiver, matrix in (
            (self.v, self.sum, same),
            (self.memory.output_ports[1], self.sum, 0.5 * same),
            (self.x, ports["key"], np.eye(self.X, sizes[0])),
            (self.sum, ports["value"], same),
            (self.switch, ports["encode"], np.eye(1)),
        ):
            self.project(sender, receiver, matrix, learnable=False)


class EncodingPlain(Plain):
    """The same in plain torch."""

    def step(self, x, v, encode):
        retrieved, out = self.retrieve(torch.as_tensor(x) @ self.w)
        if encode:
            self.keys.append(torch.as_tensor(x[: self.w.shape[1]]))
            self.values.append(torch.as_tensor(v) + 0.5 * retrieved.detach())
        return out


def test_encoding_in_run():
    net = EncodingNet(pnl.Composition, (K, V))
    plain, (xs, vs, _) = EncodingPlain(net, None), data(6, net)
    switch = np.array([1, 0, 1, 1, 0, 0])
    net.composition.run(inputs={net.x: xs, net.v: vs, net.switch: switch[:, None]})
    expected = [plain.step(*row).detach().numpy() for row in zip(xs, vs, switch, strict=True)]
    close([r[0] for r in net.composition.results], expected)
    close(net.entries(), [torch.stack(plain.keys), torch.stack(plain.values)])
    assert len(plain.keys) == 3


def test_encoding_and_gradient_through_the_query_in_a_recurrent_composition():
    """Sequences of one's own, key and value of unequal sizes; then run() goes on with what was stored."""
    net = EncodingNet(RecurrentComposition, (K, V), retrieval="average", sharpness=0.7)
    plain, rng = EncodingPlain(net, 0.7), np.random.default_rng(8)
    n, steps = 3, 4
    xs, vs = rng.standard_normal((n, steps, net.X)), rng.standard_normal((n, steps, V))
    switch, targets = rng.random((n, steps)) < 0.6, torch.from_numpy(rng.random((n, steps, net.OUT)))

    def loss(which, values):
        return (values[net.out] - targets[which.start : which.stop]).square().sum()

    inputs = {net.x: xs, net.v: vs, net.switch: switch[..., None]}
    net.composition.learn(inputs, loss, learning_rate=0.05)
    optimizer = torch.optim.SGD([plain.w, plain.u], lr=0.05)
    for k in range(n):
        out = torch.stack([plain.step(*row) for row in zip(xs[k], vs[k], switch[k], strict=True)])
        optimizer.zero_grad()
        (out - targets[k]).square().sum().backward()
        optimizer.step()
    assert np.abs(net.matrices()[0] - net.key_matrix).max() > 1e-3
    close(net.matrices(), [plain.w.detach(), plain.u.detach()])
    close(net.entries(), [torch.stack(plain.keys), torch.stack(plain.values)])
    assert len(plain.keys) == switch.sum() < switch.size
    result = net.composition.run(inputs={net.x: xs[0, :1], net.v: vs[0, :1], net.switch: [[1]]})
    close(result, [plain.step(xs[0, 0], vs[0, 0], True).detach()])
    close(net.entries(), [torch.stack(plain.keys), torch.stack(plain.values)])


def test_rows_of_a_batch_are_environments():
    """Retrieval and storage in PyTorch mode: each row of a batch as a memory of its own would do it."""
    rng = np.random.default_rng(9)
    batch, steps, context = 3, 4, "rows"
    mechanism = make_mechanism()
    encoding = EncodingMechanism(memory=mechanism, name="encoding")
    fields = [torch.from_numpy(rng.standard_normal((batch, steps, size))) for size in (K, V)]
    switch = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]])[..., None]
    found = mechanism.function._gen_pytorch_fct(None, context).on_fields(fields)
    encoding.function._gen_pytorch_fct(None, context).on_fields([*fields, switch])
    for b in range(batch):
        own = make_memory()
        for s in range(steps):
            expected = own.step([f[b, s] for f in fields])
            same_entry([f[b, s] for f in found], expected)
        for s in torch.nonzero(switch[b, :, 0]).flatten():
            own.store_entry([f[b, s].numpy() for f in fields])
        for one, two in zip(mechanism.function.entries(context, b), own.entries(), strict=True):
            np.testing.assert_array_equal(one, two)


def test_encoding_needs_an_episodic_memory():
    stock = pnl.EpisodicMemoryMechanism(name="stock", default_variable=[[0.0], [0.0]])
    for wrong in (stock, None, node("no memory", 2)):
        with pytest.raises(FunctionError, match="EpisodicMemory"):
            EncodingMechanism(memory=wrong)


def test_a_field_to_which_nothing_projects_has_its_default():
    memory = EpisodicMemory(default_variable=[[0.0, 0.0], [0.5, 0.5]], kernel="l2", distance_field_weights=[1, 0])
    np.testing.assert_array_equal(memory([[1.0, 2.0], None]), np.zeros((2, 2)))
    np.testing.assert_array_equal(memory.memory, [[[1.0, 2.0], [0.5, 0.5]]])
