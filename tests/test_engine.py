"""The engine against autograd on the equations written out in PyTorch: gradients through the memory, of inputs
and gates."""

import numpy as np
import pytest
import torch
from eplstm.models.bank import Bank, RingMemory
from eplstm.models.engine import Weights, backward, by_inputs, by_read, run
from eplstm.models.match import Retrieval
from eplstm.models.source import GivenTrials

P, B, T, D, H, A, K = 2, 3, 4, 5, 3, 2, 2
TRIALS = 3
ATOL = 1e-12


def draw_weights(rng, as_input):
    shapes = {"input_weight": (5 * H, D), "bias": (5 * H,), "hidden_weight": (5 * H, H), "actor_weight": (A, H)}
    shapes |= {"actor_bias": (A,), "critic_weight": (1, H), "critic_bias": (1,)}
    shapes |= {"memory_weight": (5 * H, H)} if as_input else {}
    return {name: 0.7 * rng.standard_normal((P, *shape)) for name, shape in shapes.items()}


def plain(weights, trials, settings, limit, slopes):
    """The loss Σ slopes · (π, v, h, c) of a block of trials, everything through autograd, agent by agent, row by
    row."""
    leaves = {name: torch.tensor(array, requires_grad=True) for name, array in weights.items()}
    inputs = [torch.tensor(x, requires_grad=True) for x, *_ in trials]
    loss = 0.0
    for p in range(P):
        w = {name: leaf[p] for name, leaf in leaves.items()}
        for b in range(B):
            entries = []
            for n, (_, retrieve, encode) in enumerate(trials):
                h = c = torch.zeros(H, dtype=torch.float64)
                for t in range(T):
                    x = inputs[n][p, b, t]
                    key, m = x[:K].detach(), torch.zeros(H, dtype=torch.float64)
                    if entries and retrieve[p, b, t]:
                        distance = torch.stack([(key - k).square().sum().sqrt() for k, _ in entries])
                        values = torch.stack([v for _, v in entries])
                        if settings.retrieval == "average":
                            lag = torch.arange(len(entries) - 1, -1, -1, dtype=torch.float64)
                            logits = -settings.sharpness * distance - settings.forgetting * lag
                            found = torch.softmax(logits, 0) @ values
                        else:
                            found = values[torch.argmin(distance)]
                        m = torch.tanh(found)
                    z = w["input_weight"] @ x + w["bias"] + w["hidden_weight"] @ h
                    if "memory_weight" in w:
                        z = z + w["memory_weight"] @ m
                    f, i, o, r = torch.sigmoid(z[: 4 * H]).view(4, H)
                    c = f * c + i * torch.tanh(z[4 * H :]) + (0.0 if "memory_weight" in w else r * m)
                    h = o * torch.tanh(c)
                    policy = torch.softmax(w["actor_weight"] @ h + w["actor_bias"], 0)
                    value = w["critic_weight"] @ h + w["critic_bias"]
                    for slope, found in zip(slopes[n], (policy, value, h, c), strict=True):
                        loss = loss + (torch.from_numpy(slope[p, b, t]) * found).sum()
                    if encode[p, b, t]:
                        entries = [*entries, (key, c)][-limit:]
    loss.backward()
    return (
        loss.item(),
        {name: leaf.grad.numpy() for name, leaf in leaves.items()},
        [x.grad.numpy() for x in inputs],
    )


@pytest.mark.parametrize("limit", [2, 20], ids=["overflow", "room for all"])
@pytest.mark.parametrize("as_input", [False, True], ids=["reinstated", "as input"])
@pytest.mark.parametrize("retrieval", ["nearest", "average"])
def test_gradients_through_the_memory(retrieval, as_input, limit, rng):
    """Of a block of trials: from what is read to what was stored, in earlier trials and earlier in the same
    one."""
    weights = draw_weights(rng, as_input)
    trials = [
        (rng.standard_normal((P, B, T, D)), rng.random((P, B, T)) < 0.8, rng.random((P, B, T)) < 0.5)
        for _ in range(TRIALS)
    ]
    sizes = (A, 1, H, H)
    slopes = [[rng.standard_normal((P, B, T, size)) for size in sizes] for _ in range(TRIALS)]
    settings = Retrieval("l2", retrieval, 2.0, forgetting=0.3 if retrieval == "average" else 0.0)
    memory = RingMemory(Bank((K, H), limit, P * B), settings, slice(0, K), agents=P, follows=True)
    own, zeros = Weights(**weights), np.zeros((P, B, H))
    traces = [run(own, GivenTrials(x, reads.astype(float), e), memory, zeros, zeros) for x, reads, e in trials]
    loss = sum(
        (slope * found).sum()
        for trace, of_trial in zip(traces, slopes, strict=True)
        for slope, found in zip(
            of_trial, (trace.policy, trace.value[..., None], trace.hidden, trace.cell), strict=True
        )
    )
    gradients, by_x = [], []
    for trace, (d_policy, d_value, d_hidden, d_cell) in reversed(list(zip(traces, slopes, strict=True))):
        gradients.append(backward(trace, d_policy, d_value[..., 0], d_hidden, d_cell, memory=memory))
        by_x.insert(0, by_inputs(trace, gradients[-1].back))
    expected_loss, expected, expected_x = plain(weights, trials, settings, limit, slopes)
    assert abs(loss - expected_loss) < ATOL
    for name, array in expected.items():
        found = sum(getattr(g, name) for g in gradients)
        np.testing.assert_allclose(found, array, rtol=0, atol=ATOL, err_msg=name)
    np.testing.assert_allclose(by_x, expected_x, rtol=0, atol=ATOL)


def test_what_is_stored_is_detached_unless_it_is_followed(rng):
    weights = Weights(**draw_weights(rng, False))
    memory = RingMemory(Bank((K, H), 9, P * B), Retrieval("l2", "nearest"), slice(0, K), agents=P)
    x, zeros = rng.standard_normal((P, B, T, D)), np.zeros((P, B, H))
    encode = np.zeros((P, B, T), bool)
    encode[..., 0] = True
    trace = run(weights, GivenTrials(x, None, encode), memory, zeros, zeros)
    d_cell = np.zeros((P, B, T, H))
    d_cell[:, :, -1] = 1.0
    back = backward(trace, d_cell=d_cell, unroll=1).back
    assert trace.memory[:, :, 1:].any()
    assert not back.d_drive[:-1].any() and back.d_drive[-1].any()


def test_gradients_of_gates_and_of_what_is_read(rng):
    """Where something else depends on the gates and on m_t, as in a composition around an agent."""
    weights = draw_weights(rng, False)
    x, m = rng.standard_normal((1, B, T, D)), rng.standard_normal((B, H))
    d_gates, d_memory = rng.standard_normal((1, B, T, 5, H)), rng.standard_normal((1, B, T, H))
    own = Weights(**{name: array[:1] for name, array in weights.items()})
    bank = Bank((K, H), 1, B)
    for b in range(B):
        bank.set_entries((np.zeros((1, K)), m[b : b + 1]), b)
    memory = RingMemory(bank, Retrieval("l2", "nearest"), slice(0, K))
    zeros = np.zeros((1, B, H))
    trace = run(own, GivenTrials(x), memory, zeros, zeros)
    found = backward(trace, d_hidden=np.zeros((1, B, T, H)), d_gates=d_gates)
    d_read = by_read(trace, found.back, d_memory=d_memory)

    leaf, read = torch.tensor(x, requires_grad=True), torch.tensor(m[:, None].repeat(T, 1), requires_grad=True)
    w = {name: torch.from_numpy(array[0]) for name, array in weights.items()}
    h = c = torch.zeros(B, H, dtype=torch.float64)
    loss = 0.0
    for t in range(T):
        z = leaf[0, :, t] @ w["input_weight"].T + w["bias"] + h @ w["hidden_weight"].T
        gates = torch.cat([torch.sigmoid(z[:, : 4 * H]), torch.tanh(z[:, 4 * H :])], 1).view(B, 5, H)
        memory_t = torch.tanh(read[:, t])
        f, i, o, r, candidate = gates.unbind(1)
        c = f * c + i * candidate + r * memory_t
        h = o * torch.tanh(c)
        loss = loss + (torch.from_numpy(d_gates[0, :, t]) * gates).sum()
        loss = loss + (torch.from_numpy(d_memory[0, :, t]) * memory_t).sum()
    loss.backward()
    np.testing.assert_allclose(by_inputs(trace, found.back)[0], leaf.grad[0], rtol=0, atol=ATOL)
    np.testing.assert_allclose(d_read.transpose(1, 3, 0, 2)[0], read.grad, rtol=0, atol=ATOL)
