"""What matches a query: by products of matrices as by each pair alone, ties, sizes, gradients; without
PsyNeuLink."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from common import rarely
from eplstm.models.bank import Bank
from eplstm.models.kernels import KERNELS, kernel
from eplstm.models.match import Retrieval

E, T, N, K = 3, 7, 300, 5
"""Enough pairs for products of matrices."""
TIES = ("oldest", "newest")


def similarity(name, query, keys):
    return kernel(name).similarity(torch.from_numpy(query), torch.from_numpy(keys)).numpy()


def filled(keys, values=None, limit=None, oldest=0):
    """A bank of E rings that hold these entries, (E, n, size), the oldest in row ``oldest``."""
    values = keys if values is None else values
    bank = Bank((keys.shape[-1], values.shape[-1]), limit or keys.shape[1], len(keys))
    bank.set_entries((keys[0], values[0]))
    bank.fields, bank.n_stored = [keys.copy(), values.copy()], np.full(len(keys), keys.shape[1] + oldest)
    return bank


def expected(settings, queries, keys, oldest):
    """Rows of the nearest entries, query by query and entry by entry."""
    order = (oldest + np.arange(keys.shape[1])) % keys.shape[1]
    if settings.ties == "newest":
        order = order[::-1]
    rows = np.empty(queries.shape[:2], int)
    for e, t in np.ndindex(rows.shape):
        similar = [float(similarity(settings.kernel, queries[e, t][None], keys[e, row][None])) for row in order]
        rows[e, t] = order[int(np.argmax(similar))]  # the first of equals
    return rows


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("oldest", [0, 200])
def test_as_pair_by_pair(name, ties, oldest, rng):
    settings = Retrieval(name, "nearest", ties=ties)
    queries, keys = (rng.standard_normal((E, n, K)) for n in (T, N))
    keys[0, [3, 150, 250]] = queries[0, 2]  # ties of keys that are queries,
    keys[1, [9, 10]] = 1.5 * queries[1, 4] + 0.1  # and of others
    queries[2, 0] = 0.0
    found = filled(keys, oldest=oldest).match(settings, queries).rows
    np.testing.assert_array_equal(found, expected(settings, queries, keys, oldest))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("ties", TIES)
def test_where_almost_all_are_tied(name, ties, rng):
    settings = Retrieval(name, "nearest", ties=ties)
    queries, keys = (rng.integers(-1, 2, (E, n, 2)).astype(float) for n in (T, N))
    found = filled(keys, oldest=5).match(settings, queries).rows
    np.testing.assert_array_equal(found, expected(settings, queries, keys, 5))


@pytest.mark.parametrize("name", ["l2", "cosine"])
@pytest.mark.parametrize("scale", [1e-150, 1e200])
def test_products_that_overflow_or_vanish(name, scale, rng):
    """Each pair by itself then; what is left to compare is up to the kernel, but nothing fails or is NaN."""
    queries, keys = (scale * rng.standard_normal((E, n, K)) for n in (T, N))
    found = filled(keys).match(Retrieval(name, "nearest"), queries).rows
    np.testing.assert_array_equal(found, similarity(name, queries, keys).argmax(-1))


@pytest.mark.parametrize("retrieval", ["nearest", "average"])
@pytest.mark.parametrize("name", KERNELS)
def test_rings_that_are_not_equally_full(name, retrieval, rng):
    """Each finds what it would find alone; an empty one gives zeros."""
    settings = Retrieval(name, retrieval, 2.0, forgetting=0.3 if retrieval == "average" else 0.0)
    bank, counts = Bank((K, 2), 5, 4), (0, 2, 5, 9)
    alone = [Bank((K, 2), 5) for _ in counts]
    for ring, count in enumerate(counts):
        for _ in range(count):
            entry = rng.standard_normal((1, K)), rng.standard_normal((1, 2))
            bank.write(np.array([ring]), entry)
            alone[ring].write(np.array([0]), entry)
    queries = rng.standard_normal((4, T, K))
    found = bank.read(bank.match(settings, queries))
    for ring, own in enumerate(alone):
        expect = own.read(own.match(settings, queries[ring : ring + 1]))[0]
        np.testing.assert_allclose(found[ring], np.broadcast_to(expect, (T, 2)), rtol=0, atol=1e-14)
    assert not found[0].any() and found[1:].all()


@pytest.mark.parametrize("name", [rarely(name) for name in KERNELS])
def test_a_large_memory_is_retrieved_from_in_its_own_size(name):
    """The products of all queries and all keys, T times the memory, are never there at once."""
    code = f"""
import resource, numpy as np, torch
from eplstm.models.bank import Bank
from eplstm.models.match import Retrieval
torch.set_num_threads(1)
rng = np.random.default_rng(0)
bank, settings = Bank((64, 64), 100_000), Retrieval({name!r}, "nearest")
bank.set_entries((rng.standard_normal((100_000, 64)), rng.standard_normal((100_000, 64))))
small, queries = Bank((64, 64), 10), rng.standard_normal((1, 10, 64))
small.set_entries((rng.standard_normal((10, 64)), rng.standard_normal((10, 64))))
small.read(small.match(settings, queries))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
bank.read(bank.match(settings, queries))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1024 if {sys.platform!r} == "linux" else 1
print((after - before) * unit / sum(field.nbytes for field in bank.fields))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.0


def test_averages_weigh_all(rng):
    queries, keys, values = (rng.standard_normal((E, n, K)) for n in (T, N, N))
    weights = np.exp(-2.0 * np.abs(queries[:, :, None] - keys[:, None]).sum(-1))
    weights /= weights.sum(-1, keepdims=True)
    bank = filled(keys, values)
    found = bank.read(bank.match(Retrieval("l1", "average", 2.0), queries))
    np.testing.assert_allclose(found, weights @ values, atol=1e-10)


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_of_an_average(name, rng):
    """By the values and by the queries, against autograd."""
    queries, keys, values, d_found = (rng.standard_normal((E, n, K)) for n in (T, 9, 9, T))
    settings, bank = Retrieval(name, "average", 2.0), filled(keys, values)
    match = bank.match(settings, queries)
    q, v = (torch.tensor(a, requires_grad=True) for a in (queries, values))
    similar = kernel(name).similarity(q, torch.from_numpy(keys))
    (torch.softmax(2.0 * similar, -1) @ v).backward(torch.from_numpy(d_found))
    np.testing.assert_allclose(match.by_field(d_found, T), v.grad, rtol=0, atol=1e-12)
    np.testing.assert_allclose(match.by_queries(settings, values, d_found), q.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_is_made_of_its_sums(name, rng):
    """Of all columns, of two parts added up, and of columns that are scaled."""
    queries, keys = (torch.from_numpy(rng.standard_normal((n, K))) for n in (T, 9))
    of, half, scale = kernel(name), torch.tensor([True, True, False, False, False]), 0.7
    whole, left, right = (of.sums(queries[:, c], keys[:, c]) for c in (torch.ones(K, dtype=bool), half, ~half))
    direct = of.similarity(queries, keys)
    torch.testing.assert_close(of.of_sums(whole), direct, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        of.of_sums([a + b for a, b in zip(left, right, strict=True)]), direct, rtol=0, atol=1e-12
    )
    scales = torch.where(half, torch.tensor(scale, dtype=queries.dtype), 1.0)
    scaled = scales * queries, scales * keys
    found = of.of_sums([scale**of.degree * a + b for a, b in zip(left, right, strict=True)])
    torch.testing.assert_close(found, of.similarity(*scaled), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("changes", "message"), [({"kernel": "dot"}, "dot"), ({"retrieval": "best"}, "best")])
def test_unknown_names_are_errors(changes, message):
    with pytest.raises(ValueError, match=message):
        Retrieval(**{"kernel": "l2", "retrieval": "nearest", **changes})


def test_no_psyneulink_is_needed():
    """A cohort takes no seconds to import."""
    code = "import sys; from eplstm.models.cohort import Cohort; print('psyneulink' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
