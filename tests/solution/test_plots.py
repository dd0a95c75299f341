"""Pictures of a solution show its numbers, under their names."""

import sys

import numpy as np
import pytest
import torch

import sdesolve as ss

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  (behind the choice of a backend)

TS = torch.linspace(0, 1, 5)
DECAY = ss.ODE(lambda t, y: -y)
NOISY = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y)
ONE = ss.ODE(lambda t, y: -y, batched=False)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def never_shown(monkeypatch):
    def show(*args, **options):
        raise AssertionError("plot() shows nothing by itself")

    monkeypatch.setattr(plt, "show", show)


def decay(*shape, ts=TS):
    """Every number is another one."""
    y0 = 1 + torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    return ss.solve(DECAY, y0, ts)


def noisy(batch, components=1, ts=TS):
    return ss.solve(NOISY, 1 + torch.rand(batch, components), ts, dt=0.125, seed=0)


def tree(batch=3):
    f = lambda t, y: {"x": -y["x"], "v": -2 * y["v"]}
    return ss.solve(ss.ODE(f), {"x": 1 + torch.rand(batch, 2), "v": 1 + torch.rand(batch)}, TS)


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def assert_drawn(line, x, y):
    np.testing.assert_array_equal(line.get_xdata(), x)
    np.testing.assert_array_equal(line.get_ydata(), y)


def test_each_line_is_a_component_of_a_trajectory_over_time():
    solution = noisy(20, 6)
    axes = solution.plot(trajectories=3, components=2)
    assert len(axes.lines) == 6
    for k in range(2):
        for i in range(3):
            assert_drawn(axes.lines[3 * k + i], TS, solution.ys[:, i, k])
            assert axes.lines[3 * k + i].get_color() == f"C{k}"
    assert axes.get_xlabel() == "t"
    assert legend(axes) == ["y[0]", "y[1]"]
    axes.figure.canvas.draw()


def test_components_and_trajectories_can_be_named():
    solution = decay(4, 2, 3)
    axes = solution.plot(components=[5, 1], trajectories=torch.tensor([3, 0]), labels=["last", "second"])
    assert legend(axes) == ["last", "second"]
    for line, (i, j, k) in zip(axes.lines, [(3, 1, 2), (0, 1, 2), (3, 0, 1), (0, 0, 1)], strict=True):
        assert_drawn(line, TS, solution.ys[:, i, j, k])
    assert legend(solution.plot(components=[5])) == ["y[1, 2]"]


def test_by_default_twenty_trajectories_and_four_components_are_drawn():
    assert len(decay(30, 1).plot().lines) == 20
    assert len(decay(1, 9).plot().lines) == 4
    assert len(decay(7, 1).plot().lines) == 7


def test_times_of_their_own():
    ts = torch.stack([TS, 2 * TS, 3 * TS])
    solution = decay(3, 1, ts=ts)
    for i, line in enumerate(solution.plot().lines):
        assert_drawn(line, ts[i], solution.ys[:, i, 0])


def test_backward_times_are_drawn_as_they_are():
    solution = decay(2, 1, ts=TS.flip(0))
    assert_drawn(solution.plot().lines[0], TS.flip(0), solution.ys[:, 0, 0])


def test_one_trajectory_without_a_batch_and_states_without_dimensions():
    solution = ss.solve(ONE, torch.tensor([1.0, 2.0]), TS)
    axes = solution.plot()
    assert_drawn(axes.lines[1], TS, solution.ys[:, 1])
    assert len(axes.lines) == 2
    numbers = ss.solve(DECAY, torch.tensor([1.0, 2.0]), TS).plot()
    assert len(numbers.lines) == 2
    assert legend(numbers) == ["y"]


def test_gradients_do_not_reach_the_picture():
    y0 = torch.ones(2, 1, requires_grad=True)
    solution = ss.solve(DECAY, y0, TS)
    assert solution.ys.requires_grad
    assert_drawn(solution.plot().lines[0], TS, solution.ys.detach()[:, 0, 0])


def test_complex_states_are_drawn_as_real_and_imaginary_parts():
    y0 = torch.tensor([[1 + 2j, 3 - 1j]], dtype=torch.complex128)
    solution = ss.solve(ss.ODE(lambda t, y: 1j * y), y0, TS.double())
    axes = solution.plot()
    assert legend(axes) == ["Re y[0]", "Im y[0]", "Re y[1]", "Im y[1]"]
    for line, part in zip(axes.lines, torch.view_as_real(solution.ys[:, 0]).reshape(5, 4).T, strict=True):
        assert_drawn(line, TS.double(), part)
    plane = solution.plot("phase")
    assert (plane.get_xlabel(), plane.get_ylabel()) == ("Re y[0]", "Im y[0]")
    assert_drawn(plane.lines[0], solution.ys.real[:, 0, 0], solution.ys.imag[:, 0, 0])


def test_a_pytree_has_a_panel_a_leaf():
    solution = tree()
    top, bottom = panels = solution.plot()
    assert [axes.get_title() for axes in panels] == ["y['x']", "y['v']"]
    assert legend(top) == ["y['x'][0]", "y['x'][1]"]
    assert legend(bottom) == ["y['v']"]
    assert len(top.lines) == 6
    assert_drawn(top.lines[4], TS, solution.ys["x"][:, 1, 1])
    assert_drawn(bottom.lines[2], TS, solution.ys["v"][:, 2])
    assert bottom.get_xlabel() == "t"
    # components are counted leaf after leaf: the third is the first of v, and x has no panel then
    alone = solution.plot(components=[2])
    assert_drawn(alone.lines[0], TS, solution.ys["v"][:, 0])


def test_a_phase_portrait_draws_one_component_over_another():
    solution = decay(3, 4)
    axes = solution.plot("phase", components=(2, 0), labels=("position", "speed"))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("position", "speed")
    assert len(axes.lines) == 3
    for i, line in enumerate(axes.lines):
        assert_drawn(line, solution.ys[:, i, 2], solution.ys[:, i, 0])
        np.testing.assert_array_equal(axes.collections[i].get_offsets(), solution.ys[:1, i, [2, 0]])
    default = solution.plot("phase")
    assert_drawn(default.lines[0], solution.ys[:, 0, 0], solution.ys[:, 0, 1])
    leaves = tree()
    assert_drawn(leaves.plot("phase").lines[1], leaves.ys["x"][:, 1, 0], leaves.ys["v"][:, 1])


def edges(axes, k=0):
    """(T,) lower and upper edge of a band, read back from its polygon."""
    (points,) = [path.vertices for path in axes.collections[k].get_paths()]
    times = np.unique(points[:, 0])
    return times, *([f(points[points[:, 0] == t, 1]) for t in times] for f in (np.min, np.max))


def test_many_trajectories_of_an_sde_get_a_band_of_quantiles():
    solution = noisy(300, 2)
    axes = solution.plot(quantiles=(0.1, 0.75))
    assert len(axes.lines) == 10
    assert len(axes.collections) == 2
    for k in range(2):
        times, low, high = edges(axes, k)
        np.testing.assert_allclose(times, TS)
        np.testing.assert_allclose(low, np.quantile(solution.ys[:, :, k], 0.1, axis=1), rtol=1e-5)
        np.testing.assert_allclose(high, np.quantile(solution.ys[:, :, k], 0.75, axis=1), rtol=1e-5)
    assert len(noisy(30).plot(trajectories=8).collections) == 1


@pytest.mark.parametrize(
    ("solution", "options"),
    [
        (lambda: noisy(30), {"quantiles": None}),
        (lambda: noisy(20), {}),
        (lambda: decay(30, 1), {}),
        (lambda: noisy(30, ts=torch.stack([TS] * 30)), {}),
    ],
    ids=["not wanted", "all are drawn", "ODE", "times of their own"],
)
def test_without_a_band(solution, options):
    axes = solution().plot(**options)
    assert not axes.collections
    assert len(axes.lines) == 20


def test_a_failed_trajectory_leaves_the_band_and_ends_where_it_failed():
    sde = ss.SDE(lambda t, y: torch.where((t > 0.4) & (y > 50), torch.nan, -y), lambda t, y: 0.1 * y)
    y0 = torch.cat([torch.full((1, 1), 100.0), 1 + torch.rand(40, 1)])
    solution = ss.solve(sde, y0, TS, dt=0.125, seed=0, on_failure="return")
    assert solution.status[0] != 0
    axes = solution.plot()
    assert np.isnan(axes.lines[0].get_ydata()[-1])
    assert edges(axes)[2][-1] == pytest.approx(np.quantile(solution.ys[-1, 1:, 0], 0.95), rel=1e-5)


def test_given_axes_are_drawn_into_and_returned():
    axes = plt.subplots()[1]
    assert decay(2, 1).plot(ax=axes) is axes
    assert decay(2, 2).plot("phase", ax=axes) is axes
    assert len(axes.lines) == 4
    two = plt.subplots(2, 1)[1]
    assert list(tree().plot(ax=two)) == list(two)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"kind": "space"}, ValueError, r"kind: got 'space'; accepted is 'time' or 'phase'"),
        ({"components": 0}, ValueError, "components: got 0; accepted is a number of them >= 1"),
        ({"components": [0, 3]}, ValueError, r"components: got \[0, 3\]; .*integers from 0 to 2"),
        ({"components": [-1]}, ValueError, "integers from 0 to 2"),
        ({"components": "x"}, TypeError, "components: got 'x'"),
        ({"components": [0.5]}, TypeError, r"components: got \[0.5\]"),
        ({"kind": "phase", "components": 2}, ValueError, "two components"),
        ({"kind": "phase", "components": [0, 1, 2]}, ValueError, "two components"),
        ({"trajectories": 0}, ValueError, "trajectories: got 0"),
        ({"trajectories": [4]}, ValueError, r"trajectories: got \[4\]; .*from 0 to 3"),
        ({"trajectories": True}, TypeError, "trajectories: got True"),
        ({"labels": ["a"]}, ValueError, r"labels: got 1 names; accepted is 3 names.*y\[0\], y\[1\], y\[2\]"),
        ({"labels": "abc"}, ValueError, "labels: got 'abc'"),
        ({"quantiles": (0.9, 0.1)}, ValueError, r"quantiles: got \(0.9, 0.1\)"),
        ({"quantiles": 0.5}, ValueError, "quantiles: got 0.5"),
        ({"ax": "here"}, ValueError, "ax: got 'here'; accepted is one matplotlib Axes"),
    ],
    ids=str,
)
def test_what_cannot_be_drawn_is_refused(options, error, says):
    with pytest.raises(error, match=says):
        decay(4, 3).plot(**options)


def test_axes_must_be_as_many_as_panels():
    with pytest.raises(ValueError, match="ax: got 1 Axes; accepted is 2 matplotlib Axes, one a leaf"):
        tree().plot(ax=plt.subplots()[1])


def test_a_single_component_has_no_phase_portrait():
    with pytest.raises(ValueError, match=r"kind: got a state of 1 component.*kind='time'"):
        decay(4, 1).plot("phase")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install sdesolve\[plot\]"):
        decay(2, 1).plot()
