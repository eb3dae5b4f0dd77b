"""What matches a query: by products of matrices as by each pair alone, ties, sizes; and without PsyNeuLink."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from common import rarely
from eplstm.models.retrieval import RetrievalSettings, matches, similarity, taken

E, T, N, K = 3, 7, 300, 5
"""Enough pairs for products of matrices."""
KERNELS, TIES = ("l2", "l1", "cosine"), ("oldest", "newest")


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


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("oldest", [0, 200])
def test_as_pair_by_pair(kernel, ties, oldest, rng):
    settings = RetrievalSettings(kernel, "nearest", 1.0, ties)
    queries, keys = (torch.from_numpy(rng.standard_normal((E, n, K))) for n in (T, N))
    keys[0, [3, 150, 250]] = queries[0, 2]  # ties of keys that are queries,
    keys[1, [9, 10]] = 1.5 * queries[1, 4] + 0.1  # and of others
    queries[2, 0] = 0.0
    found = matches(settings, queries, keys, oldest)
    np.testing.assert_array_equal(found, expected(settings, queries, keys, oldest))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("ties", TIES)
def test_where_almost_all_are_tied(kernel, ties, rng):
    settings = RetrievalSettings(kernel, "nearest", 1.0, ties)
    queries, keys = (torch.from_numpy(rng.integers(-1, 2, (E, n, 2)).astype(float)) for n in (T, N))
    np.testing.assert_array_equal(matches(settings, queries, keys, 5), expected(settings, queries, keys, 5))


@pytest.mark.parametrize("kernel", ["l2", "cosine"])
@pytest.mark.parametrize("scale", [1e-150, 1e200])
def test_products_that_overflow_or_vanish(kernel, scale, rng):
    """Each pair by itself then; what is left to compare is up to the kernel, but nothing fails or is NaN."""
    settings = RetrievalSettings(kernel, "nearest", 1.0, "oldest")
    queries, keys = (scale * torch.from_numpy(rng.standard_normal((E, n, K))) for n in (T, N))
    found = matches(settings, queries, keys)
    np.testing.assert_array_equal(found, similarity(kernel, queries, keys).numpy().argmax(-1))


@pytest.mark.parametrize("kernel", [KERNELS[0], *(rarely(kernel) for kernel in KERNELS[1:])])
def test_a_large_memory_is_retrieved_from_in_its_own_size(kernel):
    """The products of all queries and all keys, T times the memory, are never there at once."""
    code = f"""
import resource, torch
from eplstm.models.retrieval import RetrievalSettings, retrieve_many
torch.set_num_threads(1)
torch.manual_seed(0)
keys, values = (torch.randn(1, 100_000, 64, dtype=torch.float64) for _ in range(2))
queries = torch.randn(1, 10, 64, dtype=torch.float64)
retrieve_many(RetrievalSettings({kernel!r}, "nearest", 1.0, "oldest"), queries, keys[:, :10], values[:, :10])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
retrieve_many(RetrievalSettings({kernel!r}, "nearest", 1.0, "oldest"), queries, keys, values)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * (1024 if {sys.platform!r} == "linux" else 1) / (keys.nbytes + values.nbytes))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 1.0


def test_averages_weigh_all(rng):
    settings = RetrievalSettings("l1", "average", 2.0, "oldest")
    queries, keys, values = (torch.from_numpy(rng.standard_normal((E, n, K))) for n in (T, N, N))
    weights = np.exp(-2.0 * np.abs(queries.numpy()[:, :, None] - keys.numpy()[:, None]).sum(-1))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(
        taken(matches(settings, queries, keys), values), weights @ values.numpy(), atol=1e-10
    )


def test_no_psyneulink_is_needed():
    """A cohort takes no seconds to import."""
    code = "import sys; from eplstm.models.cohort import Cohort; print('psyneulink' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
