"""The barcode bandit: what is drawn and shown, against the definition; its optima, against brute force."""

import itertools

import numpy as np
import pytest
from eplstm.tasks import BarcodeBandit, Policy, RandomPolicy, play
from eplstm.tasks.barcode_bandit import thompson, with_memory, without_memory


def worlds_of(task, n, seed=0):
    return task.worlds([np.random.default_rng([seed, e]) for e in range(n)])


def test_defaults_are_those_of_the_paper():
    task = BarcodeBandit()
    assert (task.arms, task.contexts, task.exposures, task.pulls) == (10, 10, 10, 10)
    assert (task.episodes, task.length, task.n_actions) == (100, 10, 10)
    assert (task.input_size, task.key_columns) == (31, (0, 20))
    assert task.chance == pytest.approx(0.18)
    assert task.informed == 0.9


@pytest.mark.parametrize(("arms", "contexts"), [(4, 4), (3, 6), (2, 3)])
def test_an_epoch_pairs_barcodes_and_arms(arms, contexts):
    task = BarcodeBandit(arms=arms, contexts=contexts, exposures=3, pulls=2, barcode_bits=4)
    n = 20
    worlds = worlds_of(task, n)
    worlds.begin_epoch()
    pairs = [set() for _ in range(n)]
    for _ in range(task.episodes):
        worlds.begin_episode()
        barcode = worlds.inputs[:, :4]
        worlds.act(np.zeros(n, int))
        for e in range(n):
            pairs[e].add((int(worlds.context[e]), tuple(barcode[e]), int(worlds.facts()["good_arm"][e])))
    for pair in pairs:
        assert len(pair) == contexts  # one barcode and one arm a context
        assert len({code for _, code, _ in pair}) == contexts
        assert {arm for *_, arm in pair} == set(range(arms))
    assert len({tuple(sorted(pair)) for pair in pairs}) > 1


def test_arms_beyond_the_first_of_each_are_random_and_no_context_is_special():
    task = BarcodeBandit(arms=2, contexts=3, exposures=1, pulls=1, barcode_bits=3)
    n = 4000
    worlds = worlds_of(task, n)
    record = play(worlds, RandomPolicy(task, np.random.default_rng(0)), task.episodes)
    good = np.zeros((n, 3))
    for episode in range(3):
        good[np.arange(n), record["context"][episode]] = record["good_arm"][episode, :, 0]
    np.testing.assert_allclose(good.mean(0), 0.5, atol=4 * 0.5 / np.sqrt(n))
    assert np.mean(good.sum(1) == 1) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(n))


def test_inputs_show_the_barcode_the_last_action_and_the_last_reward(rng):
    task = BarcodeBandit(arms=3, contexts=3, exposures=2, pulls=4, barcode_bits=5)
    worlds = worlds_of(task, 6)
    worlds.begin_epoch()
    for _ in range(task.episodes):
        worlds.begin_episode()
        barcode = worlds.inputs[:, :5]
        assert barcode.any(1).all()
        np.testing.assert_array_equal(worlds.inputs[:, 5:], 0)
        for step in range(4):
            assert worlds.retrieve.all()
            assert (worlds.encode == (step == 3)).all()
            actions = rng.integers(0, 3, 6)
            rewards = worlds.act(actions)
            np.testing.assert_array_equal(worlds.inputs[:, :5], barcode)
            np.testing.assert_array_equal(worlds.inputs[:, 5:8], np.eye(3)[actions])
            np.testing.assert_array_equal(worlds.inputs[:, 8], rewards)


@pytest.mark.parametrize(
    ("reads", "expected"), [(None, [1, 1, 1]), (0, [0, 0, 0]), (1, [1, 0, 0]), (3, [1, 1, 1])]
)
def test_memory_is_read_at_the_first_pulls(reads, expected):
    worlds = worlds_of(BarcodeBandit(arms=2, contexts=2, exposures=2, pulls=3, pulls_with_retrieval=reads), 5)
    worlds.begin_epoch()
    for _ in range(4):
        worlds.begin_episode()
        for read in expected:
            np.testing.assert_array_equal(worlds.retrieve, [bool(read)] * 5)
            worlds.act(np.zeros(5, int))
        assert not worlds.retrieve.any()  # the episode is over


def test_when_memory_is_read_changes_nothing_else():
    record, other = (
        play(worlds_of(task, 4), RandomPolicy(task, np.random.default_rng(0)), 20)
        for task in (BarcodeBandit(), BarcodeBandit(pulls_with_retrieval=1))
    )
    for name, values in record.items():
        np.testing.assert_array_equal(values, other[name])


def test_rewards_follow_the_probabilities_and_are_independent():
    task = BarcodeBandit(arms=3, contexts=3, exposures=5, pulls=10, p_good=0.8, p_bad=0.3, barcode_bits=4)
    record = play(worlds_of(task, 100), RandomPolicy(task, np.random.default_rng(1)), task.episodes)
    chose_good = record["action"] == record["good_arm"]
    np.testing.assert_array_equal(record["expected"], np.where(chose_good, 0.8, 0.3))
    for chosen, p in ((chose_good, 0.8), (~chose_good, 0.3)):
        rewards = record["reward"][chosen]
        assert set(rewards) == {0.0, 1.0}
        assert rewards.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / rewards.size))
    error = record["reward"] - record["expected"]
    products = error[..., 1:] * error[..., :-1]
    assert products.mean() == pytest.approx(0, abs=4 * products.std() / np.sqrt(products.size))
    assert record["reward"].mean() == pytest.approx(
        task.chance, abs=4 * record["reward"].std() / np.sqrt(record["reward"].size)
    )


# ---- optima ------------------------------------------------------------------------------------------


def brute_force(arms, pulls, p_good, p_bad):
    """The greatest expected sum of rewards, over all plans: arms chosen as a function of the whole history."""
    paid = np.where(np.eye(arms, dtype=bool), p_good, p_bad)  # [good arm, arm pulled]

    def best(weights, left):
        """weights[g]: P(history, good arm is g)."""
        if not left:
            return 0.0
        return max(
            (weights * paid[:, arm]).sum()
            + best(weights * paid[:, arm], left - 1)
            + best(weights * (1 - paid[:, arm]), left - 1)
            for arm in range(arms)
        )

    return best(np.full(arms, 1 / arms), pulls)


CASES = [
    (2, 4, 0.9, 0.1),
    (3, 4, 0.9, 0.1),
    (3, 4, 0.6, 0.5),
    (3, 3, 1.0, 0.0),
    (4, 3, 0.7, 0.0),
    (2, 3, 1.0, 0.4),
]


@pytest.mark.parametrize(("arms", "pulls", "p_good", "p_bad"), CASES)
def test_the_optimum_without_memory_against_all_plans(arms, pulls, p_good, p_bad):
    task = BarcodeBandit(arms=arms, contexts=arms, pulls=pulls, p_good=p_good, p_bad=p_bad)
    course = without_memory(task)
    assert course.shape == (pulls,)
    assert course[0] == pytest.approx(task.chance)
    assert course.sum() == pytest.approx(brute_force(arms, pulls, p_good, p_bad), abs=1e-10)


@pytest.mark.parametrize(("arms", "pulls", "p_good", "p_bad"), CASES)
def test_thompson_against_all_histories(arms, pulls, p_good, p_bad):
    expected = np.zeros(pulls)
    for good in range(arms):
        paid = np.where(np.arange(arms) == good, p_good, p_bad)
        for plan in itertools.product(range(arms), (0, 1), repeat=pulls):
            mass, weights = 1 / arms, np.full(arms, 1 / arms)
            for pull, (arm, won) in enumerate(zip(plan[::2], plan[1::2], strict=True)):
                mass *= weights[arm]
                # Many plans share this beginning; it counts once, where what follows it is all zeros.
                if not any(plan[2 * pull + 1 :]):
                    expected[pull] += mass * paid[arm]
                mass *= paid[arm] if won else 1 - paid[arm]
                if mass == 0:
                    break
                like = np.where(np.arange(arms) == arm, p_good, p_bad)
                weights = weights * (like if won else 1 - like)
                weights /= weights.sum()
    task = BarcodeBandit(arms=arms, contexts=arms, pulls=pulls, p_good=p_good, p_bad=p_bad)
    np.testing.assert_allclose(thompson(task), expected, atol=1e-10)


class Bayes(Policy):
    """Greedy on the posterior, or Thompson sampling (Gumbel-max), in the worlds themselves."""

    def __init__(self, task, rng, sample):
        self.task, self.rng, self.sample = task, rng, sample

    def begin_episode(self, n_worlds):
        self.logs = np.zeros((n_worlds, self.task.arms))

    def act(self, inputs):
        task, bits = self.task, self.task.barcode_bits
        last = inputs[:, bits : bits + task.arms]
        reward = inputs[:, -1:]
        won, lost = np.log(task.p_good / task.p_bad), np.log((1 - task.p_good) / (1 - task.p_bad))
        self.logs += last * np.where(reward == 1, won, lost)
        if not self.sample:
            return self.logs.argmax(1)
        return (self.logs + self.rng.gumbel(size=self.logs.shape)).argmax(1)


def test_courses_against_agents_that_play():
    task = BarcodeBandit(exposures=1)
    for course, sample in ((thompson(task), True), (without_memory(task), False)):
        record = play(worlds_of(task, 600), Bayes(task, np.random.default_rng(0), sample), task.episodes)
        expected = record["expected"].reshape(-1, task.pulls)
        se = expected.std(0) / np.sqrt(len(expected))
        # The agent that plays is greedy, which is as good as optimal here.
        np.testing.assert_allclose(expected.mean(0), course, atol=4.5 * se.max())


def test_numbers_of_the_docstring():
    task = BarcodeBandit()
    best, sampled, kept = without_memory(task), thompson(task), with_memory(task)
    assert best.mean() == pytest.approx(0.4436, abs=5e-5)
    assert best[[0, 9]] == pytest.approx([0.18, 0.70], abs=5e-3)
    assert sampled.mean() == pytest.approx(0.3917, abs=5e-5)
    assert sampled[[0, 9]] == pytest.approx([0.18, 0.63], abs=5e-3)
    assert kept.mean(1)[[0, 1, 2, 9]] == pytest.approx([0.44, 0.82, 0.88, 0.90], abs=0.01)
    assert kept[[0, 1, 2, 9], 0] == pytest.approx([0.18, 0.73, 0.87, 0.90], abs=0.01)


def test_memory_takes_up_where_the_exposure_before_left_off():
    """With 5 + 5 pulls, memory makes the course of one episode of 10; greedy is optimal there."""
    split = with_memory(BarcodeBandit(exposures=2, pulls=5), 40_000, np.random.default_rng(3)).ravel()
    np.testing.assert_allclose(split, without_memory(BarcodeBandit()), atol=4 * 0.4 / np.sqrt(40_000))
    one = BarcodeBandit(exposures=3)
    np.testing.assert_array_equal(with_memory(one, 50), with_memory(one, 50))


def test_sure_arms():
    task = BarcodeBandit(arms=3, contexts=3, pulls=4, p_good=1.0, p_bad=0.0)
    np.testing.assert_allclose(without_memory(task), [1 / 3, 2 / 3, 1, 1])
    np.testing.assert_allclose(thompson(task), [1 / 3, 2 / 3, 1, 1])
    np.testing.assert_allclose(with_memory(task, 900)[:, 2:], 1)


# ---- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"arms": 1}, "arms must be a whole number ≥ 2; got 1"),
        ({"contexts": 0}, "contexts must be a whole number ≥ 1; got 0"),
        ({"exposures": 1.0}, "exposures .* got 1.0"),
        ({"pulls": True}, "pulls .* got True"),
        ({"contexts": 9}, r"contexts \(9\) must be at least arms \(10\).*raise contexts"),
        ({"p_good": 1.1}, "p_good must be a probability, 0 to 1; got 1.1"),
        ({"p_bad": float("nan")}, "p_bad must be a probability, 0 to 1; got nan"),
        ({"p_bad": "0.1"}, "p_bad .* got '0.1'"),
        ({"p_good": 0.1}, r"p_good \(0.1\) must exceed p_bad \(0.1\)"),
        ({"barcode_bits": 0}, "barcode_bits must be a whole number ≥ 1; got 0"),
        ({"barcode_bits": 63}, "barcode_bits must not exceed 62; got 63"),
        ({"pulls_with_retrieval": -1}, r"pulls_with_retrieval .* from 0 to pulls \(10\), or None.*; got -1"),
        ({"pulls_with_retrieval": 11}, "pulls_with_retrieval .*; got 11"),
        ({"pulls_with_retrieval": True}, "pulls_with_retrieval .*; got True"),
        ({"pulls_with_retrieval": 1.0}, "pulls_with_retrieval .*; got 1.0"),
        ({"barcode_bits": 3}, r"contexts \(10\) must not exceed the 7 different barcodes of 3 bits; raise"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        BarcodeBandit(**settings)


def test_bad_number_of_simulated_episodes():
    with pytest.raises(ValueError, match="n_episodes must be a whole number ≥ 1; got 0"):
        with_memory(BarcodeBandit(), 0)
