"""The task of reinforcement learning and working memory: what is shown and paid, its optimum, and its settings."""

import numpy as np
import pytest
from eplstm.tasks import RLWM, Policy, RandomPolicy, play


class Remembers(Policy):
    """Repeats what was right, and nothing that was wrong."""

    def begin_epoch(self, n_worlds):
        self.tried = [{} for _ in range(n_worlds)]

    def act(self, inputs):
        actions = np.zeros(len(inputs), int)
        for e, x in enumerate(inputs):
            wrong = self.tried[e].setdefault(x[: TASK.stimulus_size].tobytes(), [])
            if x[TASK.stimulus_size : -1].any():  # feedback
                if not x[-1]:
                    wrong.append(int(x[TASK.stimulus_size : -1].argmax()))
            else:
                actions[e] = next(a for a in range(TASK.actions) if a not in wrong)
        return actions


TASK = RLWM(set_sizes=(2, 4), trials=20)


def played(task, policy, worlds=200):
    return play(task.worlds(np.random.default_rng(0).spawn(worlds)), policy, task.episodes)


def test_optimum_and_chance():
    found = played(TASK, Remembers())
    correct, encounter = found["reward"][..., 0], found["exposure"]
    for k in (1, 2, 3, 5):
        n = (encounter == k).sum()
        assert abs(correct[encounter == k].mean() - TASK.optimum(k)) < 4 * np.sqrt(0.25 / n), k
    random = played(TASK, RandomPolicy(TASK, np.random.default_rng(1)))
    assert abs(random["reward"][..., 0].mean() - TASK.chance) < 0.02


def test_a_block():
    """Each stimulus comes once before any comes again, and keeps its right action; feedback pays nothing."""
    found = played(TASK, RandomPolicy(TASK, np.random.default_rng(1)), worlds=6)
    assert not found["reward"][..., 1].any()
    assert set(found["set_size"].ravel()) == {2, 4}
    for e in range(6):
        stimulus, right, size = (found[name][:, e, 0] for name in ("stimulus", "right", "set_size"))
        for s in range(size[0]):
            assert len(set(right[stimulus == s])) == 1
        for first in range(0, 20, size[0]):
            assert len(set(stimulus[first : first + size[0]])) == size[0]
        np.testing.assert_array_equal(found["encounter"][:, e, 0], 1 + np.arange(20) // size[0])


def test_what_is_shown():
    task = RLWM(set_sizes=(3,), trials=3, stimuli="one-hot")
    worlds = task.worlds([np.random.default_rng(0)])
    worlds.begin_epoch()
    worlds.begin_episode()
    first = worlds.inputs[0]
    assert first[:3].sum() == 1 and not first[3:].any()
    assert worlds.asks.all() and worlds.retrieve.all() and not worlds.encode.any()
    reward = worlds.act(np.array([2]))
    np.testing.assert_array_equal(worlds.inputs[0], [*first[:3], 0, 0, 1, *reward])
    assert not worlds.asks.any() and not worlds.retrieve.any() and worlds.encode.all()


def test_asked_again():
    """At the feedback as well, for the same right action, and paid; what was correct is the choice."""
    task = RLWM(set_sizes=(2,), trials=4, asks_again=True)
    found = played(task, RandomPolicy(task, np.random.default_rng(1)), worlds=50)
    np.testing.assert_array_equal(found["reward"], found["action"] == found["right"])
    np.testing.assert_array_equal(found["correct"], found["reward"][..., :1].repeat(2, axis=-1))
    assert found["reward"][..., 1].any()
    worlds = task.worlds([np.random.default_rng(0)])
    worlds.begin_epoch()
    worlds.begin_episode()
    worlds.act(np.array([0]))
    assert worlds.asks.all() and worlds.encode.all() and not worlds.retrieve.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"set_sizes": (0, 2)}, "set_sizes"),
        ({"set_sizes": [2]}, "tuple"),
        ({"actions": 1}, "actions must be a whole number"),
        ({"stimuli": "faces"}, "'barcodes' or 'one-hot'"),
        ({"noise": -1.0}, "noise"),
        ({"set_sizes": (4,), "barcode_bits": 2}, "different barcodes"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        RLWM(**settings)
