"""Diagonally implicit Runge-Kutta methods for stiff ODEs: algebra, orders, stiff problems, and Newton's iteration."""

from itertools import product

import numpy as np
import pytest
import torch

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State
from sdesolve.methods.esdirk import ESDIRK
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.counted import Counted
from tests.methods.rooted_trees import density, stage_weights, trees
from tests.methods.stiff_problems import HIRES, OREGONATOR, ROBERTSON, VAN_DER_POL, radau, van_der_pol
from tests.methods.test_convergence import slope

F64 = torch.float64
STIFF = [method for method in METHODS.values() if isinstance(method, ESDIRK)]
each = pytest.mark.parametrize("method", STIFF, ids=lambda m: m.name)
KENCARP4 = METHODS["ode", "kencarp4"]


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def matrix(rows, gamma=0.0) -> np.ndarray:
    """The rows below the diagonal, and the diagonal, whose first element is 0."""
    found = np.diag([0.0, *[gamma] * (len(rows) - 1)])
    for i, row in enumerate(rows):
        found[i, : len(row)] += row
    return found


def of(method) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tab = method.tableau
    return matrix(tab.a, tab.gamma), np.array(tab.b), np.array(tab.lower)


# ---- algebra


def test_the_names_promised_are_there():
    assert [m.name for m in STIFF] == ["implicit_euler", "trbdf2", "kvaerno3", "kencarp4", "esdirk54"]


@each
def test_nodes_are_row_sums_inside_the_step(method):
    a, c = of(method)[0], np.array(method.tableau.c)
    assert np.abs(a.sum(1) - c).max() < 1e-14
    assert c.min() >= 0 and c.max() <= 1 and c[-1] == 1


def defects(weights, a, order):
    return [abs(weights @ stage_weights(tree, a) - 1 / density(tree)) for tree in trees(order)]


@each
def test_weights_satisfy_every_order_condition_up_to_the_order_and_not_beyond(method):
    a, b, lower = of(method)
    for weights, order in ((b, method.order), (lower, method.tableau.lower_order)):
        assert all(max(defects(weights, a, k)) < 1e-14 for k in range(1, order + 1))
        assert max(defects(weights, a, order + 1)) > 1e-5
    assert method.error_order == min(method.order, method.tableau.lower_order) + 1


@each
def test_stages_have_order_two(method):
    a, c = of(method)[0], np.array(method.tableau.c)
    two = np.abs(a @ c - c**2 / 2).max()
    assert two < 1e-14 or method.name == "implicit_euler"


def coloured(tree, halves):
    """Stage weights of a tree for every choice of the function at each node above the root."""
    if not tree:
        return [np.ones(len(halves[0]))]
    above = [[a @ weights for a in halves for weights in coloured(child, halves)] for child in tree]
    return [np.prod(choice, axis=0) for choice in product(*above)]


def test_the_pair_satisfies_the_coupled_conditions_up_to_order_four():
    tab = KENCARP4.tableau
    halves = [matrix(tab.a, tab.gamma), matrix(tab.explicit)]
    assert np.abs(halves[1].sum(1) - tab.c).max() < 1e-14
    for weights, order in ((tab.b, 4), (tab.lower, 3)):
        worst = [
            max(abs(weights @ w - 1 / density(tree)) for tree in trees(k) for w in coloured(tree, halves))
            for k in range(1, order + 2)
        ]
        assert max(worst[:order]) < 1e-14 < 1e-5 < worst[order]
    assert sum(len(coloured(tree, halves)) for tree in trees(4)) == 4 * 8


def test_dense_weights_of_the_pair_have_order_three_at_every_theta():
    tab = KENCARP4.tableau
    halves, powers = [matrix(tab.a, tab.gamma), matrix(tab.explicit)], np.array(tab.dense)
    for theta in np.linspace(0.1, 1.0, 10):
        weights = powers @ theta ** np.arange(1, 4)
        for k in (1, 2, 3):
            for tree in trees(k):
                assert max(abs(weights @ w - theta**k / density(tree)) for w in coloured(tree, halves)) < 1e-13
    assert np.abs(powers.sum(1) - tab.b).max() < 1e-13


def amplification(a, weights, z):
    """R(z); where the weights are a row, it is that stage, without the cancellation of a sum."""
    stages = np.linalg.solve(np.eye(len(a)) - z * a, np.ones(len(a)))
    for row, stage in zip(a, stages, strict=True):
        if np.array_equal(row, weights):
            return stage
    return 1 + z * (weights @ stages)


@each
def test_methods_are_l_stable(method):
    a, b, lower = of(method)
    assert abs(amplification(a, b, -1e10)) < 1e-8
    # poles lie at 1 / gamma alone: what is bounded by 1 on the imaginary axis is so left of it
    axis = np.concatenate([np.linspace(0, 40, 4001), np.logspace(2, 5, 50)])
    assert max(abs(amplification(a, b, 1j * y)) for y in axis) <= 1 + 1e-10
    unbounded = abs(amplification(a, lower, -1e8)) > 1
    assert method.tableau.filtered == unbounded == (method.name in ("implicit_euler", "trbdf2"))


@each
def test_a_step_multiplies_by_the_stability_function_and_its_error_is_that_of_the_embedded_method(method):
    a, b, lower = of(method)
    for z in (-0.5, -3.0, -1e3, -1e7):
        y = torch.ones(1, 1, dtype=F64)
        system = System(ss.ODE(lambda t, y, z=z: z * y), state_spec(y, True)[0])
        one, zero = torch.ones((), dtype=F64), torch.zeros((), dtype=F64)
        step = method.step(system, State(y, method.init(system, zero, y)), Increments(zero, one, one), error=True)
        assert abs(step.state.y.item() - amplification(a, b, z)) < 1e-11
        damped = 1 / (1 - method.tableau.gamma * z) if method.tableau.filtered else 1.0
        wanted = damped * (amplification(a, b, z) - amplification(a, lower, z))
        assert abs(step.error.item() - wanted) < 1e-9
        assert abs(step.error.item()) < 2.0, "bounded however stiff it is"
        assert not step.failed.any()


# ---- orders


def decay(t, y):
    """u' = -u^2 v, v' = u - v: autonomous, nonlinear."""
    u, v = y.unbind(-1)
    return torch.stack([-u * u * v, u - v], -1)


def forced(t, y):
    u, v = y.unbind(-1)
    return torch.stack([v * torch.cos(t), -u], -1) - 0.3 * y**3


def errors_of(problem, y0, ts, exact, steps, **options):
    return [float((ss.solve(problem, y0, ts, dt=dt, **options).ys[-1] - exact).abs().max()) for dt in steps]


@each
@pytest.mark.parametrize("f", [decay, forced], ids=["autonomous", "time-dependent"])
def test_the_error_falls_with_the_order(method, f):
    y0, ts = tensor([1.0, 0.3], [0.5, 1.0]), tensor(0.0, 2.0)
    exact = ss.solve(ss.ODE(f), y0, ts, rtol=1e-13, atol=1e-13, method="dopri5", shared_steps=True).ys[-1]
    steps = [2.0 / n for n in (10, 14, 20, 28, 40)]
    errors = errors_of(ss.ODE(f), y0, ts, exact, steps, method=method)
    assert abs(slope(steps, errors) - method.order) < 0.2, errors


def split(rate):
    """u is pulled to cos v, and v moves: nonlinear, coupled both ways, dependent on t."""

    def stiff(t, y):
        u, v = y.unbind(-1)
        return torch.stack([-rate * (u - torch.cos(v)), torch.zeros_like(v)], -1)

    def nonstiff(t, y):
        u, v = y.unbind(-1)
        time = t if t.ndim == 0 else t[..., 0]
        return torch.stack([torch.sin(3 * time) * v, 1 + 0.5 * u * u * torch.cos(time)], -1)

    return stiff, nonstiff


def coupled(t, y):
    """For the other part of `split`, without t."""
    u, v = y.unbind(-1)
    return torch.stack([torch.sin(v) * u, 1 + 0.5 * u * u], -1)


@pytest.mark.parametrize("autonomous", [True, False], ids=["autonomous", "time-dependent"])
def test_a_split_problem_is_solved_with_order_four_between_steps_too(autonomous):
    stiff, nonstiff = split(3.0)
    problem = ss.SplitODE(stiff, coupled if autonomous else nonstiff)
    y0, ts, times = tensor([1.5, 0.0], [0.0, 0.4]), tensor(0.0, 2.0), torch.linspace(0, 2, 41, dtype=F64)
    exact = ss.solve(problem, y0, times, dt=0.01, method="dop853").ys
    steps, ends, between = [2.0 / n for n in (12, 16, 24, 32, 48)], [], []
    for dt in steps:
        sol = ss.solve(problem, y0, ts, dt=dt, method="kencarp4", dense=True)
        ends.append(float((sol.ys[-1] - exact[-1]).abs().max()))
        between.append(float((sol(times) - exact).abs().max()))
    assert abs(slope(steps, ends) - 4) < 0.2, ends
    assert abs(slope(steps, between) - 4) < 0.2, between
    # every other method solves the sum
    sol = ss.solve(problem, y0, ts, rtol=1e-8, atol=1e-8, method="esdirk54")
    assert (sol.ys[-1] - exact[-1]).abs().max() < 1e-6


@pytest.mark.parametrize("rate", [1e3, 1e6])
def test_a_split_problem_is_stiff_in_its_stiff_part_alone(rate):
    stiff, other = split(rate)
    problem, y0, ts = ss.SplitODE(stiff, other), tensor([1.0, 0.0]), tensor(0.0, 3.0)
    exact = torch.from_numpy(radau(lambda t, y: stiff(t, y) + other(t, y), y0[0], (0.0, 3.0), 1e-7, 1e-11)[-1])
    sol = ss.solve(problem, y0, ts, rtol=1e-5, atol=1e-7)
    assert sol.stats.method == "kencarp4" and int(sol.stats.steps) < 200
    assert (sol.ys[-1, 0] - exact).abs().max() < 1e-4


@each
def test_on_the_problem_of_prothero_and_robinson_the_order_is_that_of_the_stages(method):
    """y' = lambda (y - cos t) - sin t for |lambda| h >> 1: the error of y_1 is that of the stages over lambda h, so of
    order 2 for stages of order 2, and 1 for implicit Euler, and falls with lambda."""
    ts, stages = tensor(0.0, 1.5), 1 if method.name == "implicit_euler" else 2
    exact = torch.cos(ts[-1])
    found = {}
    for rate in (1e5, 1e7):
        problem = ss.ODE(lambda t, y, rate=rate: -rate * (y - torch.cos(t)) - torch.sin(t))
        steps = [1.5 / n for n in (10, 14, 20, 28)]
        found[rate] = errors_of(problem, tensor([1.0]), ts, exact, steps, method=method)
    assert found[1e5][0] / found[1e7][0] > 50
    assert slope(steps, found[1e5]) > stages - 0.2, found


# ---- stiff problems


@pytest.mark.parametrize("problem", [VAN_DER_POL, ROBERTSON, HIRES, OREGONATOR], ids=lambda problem: problem.name)
def test_stiff_problems_end_where_they_should(problem):
    exact, ts = tensor(*problem.end), tensor(0.0, problem.T)
    for method, rtol in (("kvaerno3", 1e-3), ("kencarp4", 1e-4), ("esdirk54", 1e-4)):
        atol = 1e-4 * rtol
        sol = ss.solve(ss.ODE(problem.f), problem.start(1), ts, method=method, rtol=rtol, atol=atol)
        error = ((sol.ys[-1, 0] - exact).abs() / (atol + rtol * exact.abs())).max()
        assert error < 100, (method, error)
        assert int(sol.stats.steps) < 1000, method


def test_trajectories_of_a_batch_have_their_own_clocks_and_are_as_they_are_alone():
    mu = torch.logspace(0, 3, 5, dtype=F64)

    def f(t, y):
        x, v, m = y.unbind(-1)
        return torch.stack([v, m * (1 - x * x) * v - x, 0 * m], -1)

    y0, ts = torch.stack([2 + 0 * mu, 0 * mu, mu], 1), tensor(0.0, 15.0)
    options = {"method": "kvaerno3", "rtol": 1e-5, "atol": 1e-7}
    together = ss.solve(ss.ODE(f), y0, ts, **options)
    steps = together.stats.steps
    assert steps.min() < 0.5 * steps.max()
    for i in range(5):
        alone = ss.solve(ss.ODE(f), y0[i : i + 1], ts, **options)
        assert alone.stats.steps[0] == steps[i]
        assert alone.stats.drift_evaluations[0] == together.stats.drift_evaluations[i]
        assert torch.allclose(alone.ys[-1, 0], together.ys[-1, i], rtol=1e-12, atol=1e-12)


# ---- dense output


@each
def test_dense_output_has_order_four_or_that_of_the_method(method):
    f, y0, ts = forced, tensor([1.0, 0.3]), tensor(0.0, 2.0)
    times = torch.linspace(0, 2, 311, dtype=F64)
    exact = ss.solve(ss.ODE(f), y0, times, rtol=1e-12, atol=1e-12, method="dopri5").ys
    steps = [2.0 / n for n in (10, 14, 20, 28, 40)]
    errors = []
    for dt in steps:
        sol = ss.solve(ss.ODE(f), y0, ts, dt=dt, method=method, dense=True)
        errors.append(float((sol(times) - exact).abs().max()))
    assert abs(slope(steps, errors) - min(method.order, 4)) < 0.2, errors


@each
def test_within_a_step_the_dense_error_is_of_the_local_order(method):
    """h^4, by the cubic interpolant or the pair's own of order 3, or h^(p + 1): nothing has been carried along."""
    y0, steps, errors = tensor([1.0, 0.3]), [2.0**-k for k in range(3, 7)], []
    for dt in steps:
        times = torch.linspace(0, dt, 9, dtype=F64)
        exact = ss.solve(ss.ODE(forced), y0, times, dt=dt / 8, method="dop853").ys
        sol = ss.solve(ss.ODE(forced), y0, times[[0, -1]], dt=dt, method=method, dense=True)
        errors.append(float((sol(times) - exact).abs().max()))
    assert abs(slope(steps, errors) - min(method.order + 1, 4)) < 0.2, errors


# ---- what a solve costs


@each
@pytest.mark.parametrize("options", [{"dt": 0.05}, {"rtol": 1e-4, "atol": 1e-6}], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("graph", [False, True], ids=["", "graph"])
def test_evaluations_of_one_trajectory_are_the_calls(method, options, graph):
    f = Counted(van_der_pol(20.0))
    y0 = tensor([2.0, 0.0]).requires_grad_(graph)
    sol = ss.solve(ss.ODE(f), y0, tensor(0.0, 1.0, 2.0), method=method, **options)
    assert int(sol.stats.drift_evaluations) == f.calls


def test_in_a_batch_evaluations_are_each_trajectorys_own():
    mu = tensor(1.0, 30.0)[:, None]
    f = lambda t, y: torch.cat([y[:, 1:], mu[: len(y)] * (1 - y[:, :1] ** 2) * y[:, 1:] - y[:, :1]], 1)
    for options in ({"dt": 0.05}, {"rtol": 1e-5, "atol": 1e-7}):
        sol = ss.solve(ss.ODE(f), tensor([2.0, 0.0], [2.0, 0.0]), tensor(0.0, 1.0), method="kvaerno3", **options)
        alone = ss.solve(ss.ODE(f), tensor([2.0, 0.0]), tensor(0.0, 1.0), method="kvaerno3", **options)
        assert sol.stats.drift_evaluations[0] == alone.stats.drift_evaluations[0] != sol.stats.drift_evaluations[1]


def test_a_split_problem_counts_evaluations_of_its_stiff_part():
    stiff, other = map(Counted, split(50.0))
    sol = ss.solve(ss.SplitODE(stiff, other), tensor([1.5, 0.0]), tensor(0.0, 1.0), dt=0.1, method="kencarp4")
    assert int(sol.stats.drift_evaluations) == stiff.calls and other.calls == 1 + 6 * 10


# ---- failures (test_every_method.py in tests/failures has more)


def test_gradients_of_others_are_untouched_by_a_failure():
    rate = tensor(1.0).requires_grad_()
    y0, ts = tensor([-3.0], [1.0]), tensor(0.0, 1.0)
    solved = lambda y: ss.solve(
        ss.ODE(lambda t, y: rate * torch.exp(y)), y, ts, dt=1.0, method="trbdf2", on_failure="return"
    ).ys[-1, 0]
    (both,), (alone,) = (torch.autograd.grad(solved(y).sum(), rate) for y in (y0, y0[:1]))
    assert both.isfinite().all() and torch.allclose(both, alone, rtol=1e-12)


# ---- gradients


@each
def test_first_and_second_derivatives_of_fixed_steps_are_right(method):
    def end(y0, p, ts):
        f = lambda t, y: torch.stack([y[..., 1] * p[0], -p[1] * y[..., 1] - y[..., 0] ** 3 * torch.cos(t)], -1)
        return ss.solve(ss.ODE(f), y0, ts, dt=0.25, method=method).ys[-1]

    inputs = [tensor([1.0, 0.3], [0.5, -1.0]), tensor(1.2, 30.0), tensor(0.0, 0.45)]
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(end, inputs)
    assert torch.autograd.gradgradcheck(lambda y0, p: end(y0, p, inputs[2].detach()), inputs[:2])


def test_derivatives_of_a_split_problem_are_right():
    def end(y0, p):
        problem = ss.SplitODE(lambda t, y: -p[0] * (y - torch.sin(t)), lambda t, y: torch.cos(p[1] * y))
        return ss.solve(problem, y0, tensor(0.0, 0.5), dt=0.25, method="kencarp4").ys[-1]

    inputs = [x.requires_grad_() for x in (tensor([1.0], [0.5]), tensor(40.0, 2.0))]
    assert torch.autograd.gradcheck(end, inputs) and torch.autograd.gradgradcheck(end, inputs)


@pytest.mark.parametrize("adjoint", ["direct", "checkpoint"])
def test_gradients_of_adaptive_steps_are_those_of_the_equation(adjoint):
    def end(p):
        f = lambda t, y: -p[0] * (y - torch.cos(p[1] * t))
        options = {"method": "kvaerno3", "rtol": 1e-7, "atol": 1e-9, "adjoint": adjoint}
        return ss.solve(ss.ODE(f), tensor([0.3]), tensor(0.0, 1.0), **options).ys[-1].sum()

    p = tensor(40.0, 2.0).requires_grad_()
    (found,) = torch.autograd.grad(end(p), p)

    def exact(p):
        a, w = p
        c, s = a * a / (a * a + w * w), a * w / (a * a + w * w)
        return (0.3 - c) * torch.exp(-a) + c * torch.cos(w) + s * torch.sin(w)

    (wanted,) = torch.autograd.grad(exact(p), p)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-7)


def test_backsolve_is_refused():
    with pytest.raises(ValueError, match="accepted is 'direct' or 'checkpoint'"):
        ss.solve(ss.ODE(lambda t, y: -y), tensor([1.0]), tensor(0.0, 1.0), method="trbdf2", adjoint="backsolve")


# ---- compiled


@pytest.mark.compile
@pytest.mark.traced
@pytest.mark.parametrize(
    ("method", "options"),
    [("trbdf2", {"rtol": 1e-4, "atol": 1e-6}), ("implicit_euler", {"dt": 0.01})],
    ids=["adaptive", "fixed"],
)
def test_a_compiled_solve_is_the_eager_one(method, options):
    f = lambda t, y: torch.stack([y[..., 1], 100 * (1 - y[..., 0] ** 2) * y[..., 1] - y[..., 0]], -1)
    y0, ts = tensor([2.0, 0.0], [1.0, 0.5], [0.5, 0.0]), tensor(0.0, 2.0)
    options["method"] = method
    with torch.no_grad():
        eager, compiled = (ss.solve(ss.ODE(f), y0, ts, compile=c, **options) for c in (False, True))
    assert torch.allclose(eager.ys, compiled.ys, rtol=1e-9, atol=1e-10)
    assert torch.equal(eager.stats.steps, compiled.stats.steps)
    assert torch.equal(eager.stats.drift_evaluations, compiled.stats.drift_evaluations)


@each
def test_compiled_gradients_are_refused_with_what_there_is(method):
    y0 = tensor([1.0]).requires_grad_()
    with pytest.raises(ss.CompileError, match=f"'{method.name}', where gradients.*compile=False.*'checkpoint'"):
        ss.solve(ss.ODE(lambda t, y: -y), y0, tensor(0.0, 1.0), method=method, compile=True)


@pytest.mark.compile
@pytest.mark.traced
def test_one_trajectory_of_a_matrix_is_compiled_too():
    A, y0 = tensor([-2.0, 1.0, 0.0], [0.5, -30.0, 1.0], [0.0, 0.3, -1.0]), tensor([1.0, 2.0, 0.5])
    with torch.no_grad():
        how = {"method": "trbdf2", "rtol": 1e-6, "compile": True}
        found = ss.solve(ss.ODE(lambda t, y: y @ A.T), y0, tensor(0.0, 1.0), **how).ys[-1]
    assert torch.allclose(found, y0 @ torch.linalg.matrix_exp(A).T, atol=1e-4)
