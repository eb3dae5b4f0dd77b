"""Figures show the numbers they are given, in the axes they are given."""

import numpy as np
import pytest
from eplstm.comparisons import plots
from eplstm.comparisons.axes import COLORS
from eplstm.comparisons.behavior import Course, LearningCurve, principal_components
from eplstm.tasks import ContextualChoice
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


@pytest.fixture
def ax():
    return Figure(layout="constrained").subplots()


@pytest.fixture(autouse=True)
def nothing_left_open():
    style = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == style
    plt.close("all")


def a_course(shape=(2, 4), seed=0, over="trials"):
    rng = np.random.default_rng(seed)
    return Course((1, 2), rng.random(shape), 0.1 * rng.random(shape), (8, 8), over)


def lines_of(ax: Axes) -> list[np.ndarray]:
    """Heights of the drawn lines and markers, without levels and marks."""
    return [np.asarray(line.get_ydata(), float) for line in ax.lines]


def drawn(ax: Axes, expected: np.ndarray) -> bool:
    return any(line.shape == expected.shape and np.allclose(line, expected) for line in lines_of(ax))


def saved(ax: Axes, folder) -> bool:
    """Whether the figure can be written; a layout that does not fit would warn, which is an error here."""
    path = folder / "figure.png"
    ax.figure.savefig(path, dpi=50)
    return path.stat().st_size > 1000


def test_learning_curve_shows_both_models(ax, tmp_path):
    curves = {
        name: LearningCurve(np.arange(3.0) + k, np.full(3, 0.1), (1, 2), np.zeros((2, 3)))
        for k, name in enumerate(("composition", "reference"))
    }
    assert plots.plot_learning_curve(curves, chance=1.0, optimum=3.5, ax=ax) is ax
    assert all(drawn(ax, curve.mean) for curve in curves.values())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(curves)
    assert {text.get_text() for text in ax.texts} == {"optimum", "chance"}
    assert saved(ax, tmp_path)


def test_accuracy_shows_encounters_errors_and_the_noise_mark(ax, tmp_path):
    course = a_course()
    assert plots.plot_accuracy({"composition": course, "reference": course}, noise_off=2, ax=ax) is ax
    assert all(drawn(ax, row) for row in course.mean)
    assert [drawn.lines[0].get_color() for drawn in ax.containers] == [COLORS[0], COLORS[1]] * 2
    low, high = ax.containers[0].lines[1]
    np.testing.assert_allclose(low.get_ydata(), course.mean[0] - course.se[0])
    np.testing.assert_allclose(high.get_ydata(), course.mean[0] + course.se[0])
    assert any(np.allclose(line.get_xdata(), 1.5) for line in ax.lines)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["first encounter", "second encounter", "composition", "reference"]
    assert saved(ax, tmp_path)


def test_accuracy_without_known_errors(ax, tmp_path):
    course = Course((1,), np.array([[0.5, 0.7]]), np.full((1, 2), np.nan), (1,), "trials")
    plots.plot_accuracy({"reference": course}, ax=ax)
    assert drawn(ax, course.mean[0])
    assert saved(ax, tmp_path)


def test_stimulus_labels_its_parts(ax, tmp_path):
    task = ContextualChoice(obs_dim=3, trial_length=4, t_noise_off=2)
    trials = task.sample(2, np.random.default_rng(0))
    assert plots.plot_stimulus(trials, 1, context_start=3, ax=ax) is ax
    np.testing.assert_array_equal(ax.images[0].get_array(), trials.inputs[1])
    assert [text.get_text() for text in ax.texts] == ["observation", "context"]
    assert f"the answer is {trials.targets[1, 0]}" in ax.get_title()
    assert saved(ax, tmp_path)


def test_similarity_is_sorted_by_group(ax, tmp_path):
    matrix = -np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0)))
    assert plots.plot_similarity(matrix, "keys", groups=np.array([1, 0, 1, 0]), ax=ax) is ax
    order = [1, 3, 0, 2]
    np.testing.assert_array_equal(ax.images[0].get_array(), matrix[np.ix_(order, order)])
    assert ax.images[0].colorbar.ax.get_ylabel() == "− L2 distance"
    assert saved(ax, tmp_path)


def test_components_are_coloured_by_answer(ax, tmp_path):
    found = principal_components(np.random.default_rng(0).standard_normal((6, 3)))
    answers = np.array([0, 1, 1, 0, 0, 1])
    assert plots.plot_components(found, answers, ax=ax) is ax
    for answer, points in enumerate(ax.collections):
        np.testing.assert_allclose(points.get_offsets(), found.scores[answers == answer])
    assert f"{found.variance_explained[0]:.0%}" in ax.get_xlabel()
    assert saved(ax, tmp_path)


def test_components_of_a_single_unit(ax):
    found = principal_components(np.array([[0.0], [1.0]]), 1)
    plots.plot_components(found, ax=ax)
    assert ax.get_legend() is None
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 1], 0.0)


def test_gates_have_a_panel_each(tmp_path):
    course = a_course((2, 4, 4))
    axes = Figure(layout="constrained").subplots(1, 4, sharey=True)
    panels = plots.plot_gates(course, noise_off=2, axes=axes)
    assert list(panels) == list(axes)
    for gate, panel in enumerate(panels):
        assert all(drawn(panel, course.mean[row, :, gate]) for row in range(2))
    assert "Reinstatement" in panels[-1].get_title()
    assert saved(panels[0], tmp_path)


def test_lesions_show_one_line_a_condition(ax, tmp_path):
    conditions = {name: a_course(seed=seed) for seed, name in enumerate(("intact", "retrieval off"))}
    assert plots.plot_lesions(conditions, noise_off=1, ax=ax) is ax
    assert all(drawn(ax, course.mean[1]) for course in conditions.values())
    assert saved(ax, tmp_path)


def test_ladder_shows_each_rung_and_the_tolerance(ax, tmp_path):
    rungs = [("one step", 1e-15, "PyTorch mode"), ("loss", 0.0, "PyTorch mode"), ("one step", 2.0, "Python mode")]
    rungs.append(("loss", np.inf, "Python mode"))
    assert plots.plot_ladder(rungs, tolerance=1e-10, ax=ax) is ax
    pytorch, python = (points.get_offsets() for points in ax.collections)
    np.testing.assert_allclose(pytorch[:, 0], [1e-15, 1e-18])  # on a logarithmic axis, no difference is 1e-18
    np.testing.assert_allclose(python[:, 0], [2.0, 1e3])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one step", "loss"]
    assert ax.get_xlim()[1] > 1e3
    assert any(np.allclose(line.get_xdata(), 1e-10) for line in ax.lines)
    assert saved(ax, tmp_path)


def test_axes_are_made_where_none_are_given():
    course = a_course()
    made = plots.plot_accuracy({"reference": course})
    assert isinstance(made, Axes)
    assert plots.plot_lesions({"intact": course}) is not made
    assert len(plots.plot_gates(a_course((2, 4, 4)))) == 4
