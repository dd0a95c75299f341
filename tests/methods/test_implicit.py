"""The drift-implicit methods: formulas, orders, stability, failures, gradients."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods import METHODS, ImplicitAdditive, ImplicitEuler, ImplicitMilstein, Increments, State
from sdesolve.methods.implicit_additive import DIFFERENCE, GAMMA, A, B, C, Q
from sdesolve.solution import Status
from tests.methods import stochastic_problems
from tests.methods import test_stochastic_steps as generic
from tests.methods.stochastic_problems import KNOWN, tensor
from tests.methods.test_evaluations import Counted
from tests.methods.test_stochastic_steps import diffusion, draw, drift, problem_of, slope_along, start, system_of

F64 = torch.float64
NAMES = ("implicit_euler", "implicit_milstein", "esdirk_sra")
THETA = {"implicit_euler": ImplicitEuler, "implicit_milstein": ImplicitMilstein}
KINDS = [
    pytest.param(name, noise, additive, id=f"{name}-{noise}{'-additive' * additive}")
    for name in NAMES
    for noise in METHODS["sde", name].noise
    for additive in (False, True)
    if additive or not METHODS["sde", name].additive_only
]
kinds = pytest.mark.parametrize(("name", "noise", "additive"), KINDS)


def scalar_step(method, f, y, h, w=0.0, H=0.0, g=0.0, t=0.0):
    """One step of dX = f dt + g dW for one element."""
    sde = ss.SDE(f, lambda t, y: g * torch.ones_like(y), additive=True)
    t0, t1, length = (torch.tensor(x, dtype=F64) for x in (t, t + h, h))
    y = tensor([y])
    return method.step(system_of(sde, y), State(y), Increments(t0, t1, length, tensor([w]), tensor([H])), error=True)


# ---- the theta methods against their formula


@settings(max_examples=15)
@given(
    name=st.sampled_from(list(THETA)),
    noise=st.sampled_from(["diagonal", "scalar", "general"]),
    calculus=st.sampled_from(["ito", "stratonovich"]),
    theta=st.floats(0.5, 1.0),
    h=st.floats(1e-3, 2.0),
    seed=st.integers(0, 99),
)
def test_a_step_of_a_linear_drift_is_the_formula_solved_by_linear_algebra(name, noise, calculus, theta, h, seed):
    calculus = "ito" if name == "implicit_euler" else calculus
    M, b, t = tensor([-30.0, 20.0], [1.0, -2.0]), tensor(0.5, -1.0), 0.3
    y, inc, g = start(6), draw(noise, 6, t, h, seed), diffusion(noise, False)
    f = lambda t, y: y @ M.T + t * b
    sde = ss.SDE(f, g, noise=noise, calculus=calculus, commutative=True)
    found = THETA[name](theta, iterations=2).step(system_of(sde, y), State(y), inc)
    right = y + (1 - theta) * h * f(inc.t0, y) + theta * h * inc.t1 * b
    right = right + (torch.einsum("nij,nj->ni", g(inc.t0, y), inc.w) if noise == "general" else g(inc.t0, y) * inc.w)
    if name == "implicit_milstein":
        square, trace = slope_along(noise, t, y, inc.w)
        right = right + square / 2 - (h * trace / 2 if calculus == "ito" else 0)
    exact = torch.linalg.solve(torch.eye(2, dtype=F64) - theta * h * M, right.T).T
    assert not found.failed.any()
    assert (found.state.y - exact).abs().max() < 1e-12 * (1 + exact.abs().max())


@settings(max_examples=30)
@given(theta=st.floats(0.5, 1.0), h=st.floats(1e-3, 5.0), y=st.floats(-3, 3), w=st.floats(-2, 2))
def test_a_step_of_a_cubic_drift_is_the_root_of_the_cubic(theta, h, y, w):
    found = scalar_step(ImplicitEuler(theta, 20), lambda t, y: -(y**3), y, h, w, g=0.7)
    # theta h z^3 + z = right
    right = y - (1 - theta) * h * y**3 + 0.7 * w
    roots = np.roots([theta * h, 0, 1, -right])
    exact = roots[np.abs(roots.imag).argmin()].real
    assert not found.failed.any()
    assert abs(found.state.y.item() - exact) < 1e-11 * (1 + abs(exact))


def test_the_error_of_implicit_milstein_is_the_damped_difference_to_another_theta():
    y, t, h = start(20), 0.4, 0.05
    for theta in (0.5, 0.8, 1.0):
        for noise in ("diagonal", "scalar", "general"):
            inc = draw(noise, 20, t, h)
            system = system_of(problem_of(noise), y)
            step = ImplicitMilstein(theta, 8).step(system, State(y), inc, error=True)
            y1, square = step.state.y, slope_along(noise, t, y, inc.w)[0]
            f, f1 = system.drift(inc.t0, y), system.drift(inc.t1, y1)
            g, g1 = system.diffusion(inc.t0, y), system.diffusion(inc.t1, y1)
            plain = (h * (f1 - f) + system.noise_term(g1 - g, inc.w) - square) / 2
            J = torch.stack([torch.autograd.functional.jacobian(lambda x: drift(inc.t1, x[None])[0], z) for z in y1])  # noqa: B023
            damped = torch.linalg.solve(torch.eye(2, dtype=F64) - theta * h * J, plain)
            assert (step.error - damped).abs().max() < 1e-13


@pytest.mark.parametrize(
    "options", [{"theta": 0.4}, {"theta": 1.1}, {"theta": "1"}, {"iterations": 0}, {"iterations": 2.0}]
)
def test_options_out_of_range_are_refused(options):
    name = next(iter(options))
    for kind in (ImplicitEuler, ImplicitMilstein, *([ImplicitAdditive] if name == "iterations" else [])):
        with pytest.raises(ValueError, match=f"{name}: got .*; accepted is"):
            kind(**options)


# ---- the additive method


def test_the_tableau_meets_the_conditions_of_its_orders():
    a = np.array([[*row, *(0.0,) * (4 - len(row))] for row in A])
    b, c, q, lower = map(np.array, (B, C, Q, np.array(B) - np.array(DIFFERENCE)))
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-12)
    close(a.sum(1), c)
    close([b.sum(), b @ c, b @ c**2, b @ a @ c], [1, 1 / 2, 1 / 3, 1 / 6])
    close([lower.sum(), lower @ c], [1, 1 / 2])
    # strong order 3/2 for additive noise, in W and H
    close([b @ c, b @ q, b @ (c**2 + q**2 / 12)], [1 / 2, 1, 1 / 2])
    # stiffly accurate, stage 1 at the start, the last one with the noise of the step alone
    assert A[3] == B and C[3] == 1 and Q[3] == 0 and not A[0] and C[0] == 0 == Q[0]
    close(np.diag(a)[1:], GAMMA)
    # of the two solutions the one by the bridge
    assert np.abs(q - 6 * c * (1 - c)).max() < 0.3


@given(h=st.floats(0.01, 1.0), w=st.floats(-2, 2), H=st.floats(-1, 1), rate=st.floats(-50.0, 1.0))
@settings(max_examples=20)
def test_a_step_of_the_additive_method_is_its_formula_solved_by_linear_algebra(h, w, H, rate):
    """f = rate y + t, g = 1 + t from t = 0.2."""
    t, y, g0, g1 = 0.2, 0.7, 1.2, 1.2 + h
    sde = ss.SDE(lambda t, y: rate * y + t, lambda t, y: (1 + t) * torch.ones_like(y), additive=True)
    t0, t1, length = (torch.tensor(x, dtype=F64) for x in (t, t + h, h))
    state = tensor([y])
    inc = Increments(t0, t1, length, tensor([w]), tensor([H]))
    found = METHODS["sde", "esdirk_sra"].step(system_of(sde, state), State(state), inc, error=True)
    a = np.array([[*row, *(0.0,) * (4 - len(row))] for row in A])
    c, whole = np.array(C), g0 * (w / 2 + H) + g1 * (w / 2 - H)
    right = y + h * a @ (t + c * h) + c * whole + np.array(Q) * g0 * H
    z = np.linalg.solve(np.eye(4) - h * rate * a, right)
    f = rate * z + t + c * h
    assert abs(found.state.y.item() - z[3]) < 1e-12 * (1 + np.abs(z).max())
    error = h * np.array(DIFFERENCE) @ f + whole - g0 * w
    assert abs(found.error.item() - error / (1 - GAMMA * h * rate)) < 1e-12 * (1 + np.abs(h * f).max())


# ---- stability


@pytest.mark.parametrize("z", [-0.1, -3.0, -1e3, -1e6])
def test_the_stability_function_of_each_method(z):
    exact = {
        ImplicitEuler(0.5): (1 + z / 2) / (1 - z / 2),
        ImplicitEuler(0.75): (1 + 0.25 * z) / (1 - 0.75 * z),
        ImplicitEuler(): 1 / (1 - z),
        ImplicitMilstein(): 1 / (1 - z),
    }
    a = np.array([[*row, *(0.0,) * (4 - len(row))] for row in A])
    exact[ImplicitAdditive()] = 1 + z * np.array(B) @ np.linalg.solve(np.eye(4) - z * a, np.ones(4))
    for method, value in exact.items():
        found = scalar_step(method, lambda t, y: z * y, 1.0, 1.0).state.y.item()
        assert abs(found - value) < 1e-9, method


def test_at_infinity_nothing_is_left_of_the_state_or_of_the_noise_but_for_theta_below_one():
    f = lambda t, y: -1e10 * (y - math.sin(1.0))
    for method in (ImplicitEuler(), ImplicitMilstein(), ImplicitAdditive()):
        step = scalar_step(method, f, 3.0, 1.0, w=0.5, H=0.2, g=2.0)
        assert abs(step.state.y.item() - math.sin(1.0)) < 1e-8
    step = scalar_step(ImplicitEuler(0.75), f, 3.0 + math.sin(1.0), 1.0, w=0.5, g=2.0)
    # f(t, y), which is large, is added and taken away again
    assert abs(step.state.y.item() - math.sin(1.0) + 3.0 / 3) < 1e-6


def test_milstein_keeps_the_mean_square_of_stiff_noise():
    """E R^2 of theta = 1: (1 + mu^2 h + mu^4 h^2 / 2) / (1 - lambda h)^2 for dX = lambda X dt + mu X dW."""
    lam, mu, h = -1000.0, 10.0, 0.1
    x, p = np.polynomial.hermite_e.hermegauss(8)
    y = torch.ones(8, 1, dtype=F64)
    sde = ss.SDE(lambda t, y: lam * y, lambda t, y: mu * y)
    t0, t1 = torch.tensor(0.0, dtype=F64), torch.tensor(h, dtype=F64)
    inc = Increments(t0, t1, t1, torch.from_numpy(x)[:, None] * h**0.5)
    end = METHODS["sde", "implicit_milstein"].step(system_of(sde, y), State(y), inc).state.y[:, 0].numpy()
    assert abs(p / p.sum() @ end**2 - (1 + mu**2 * h + mu**4 * h**2 / 2) / (1 - lam * h) ** 2) < 1e-12


# ---- orders


ORDERS = [
    ("implicit_euler", "ito", "turning, general", ImplicitEuler(iterations=2)),
    ("implicit_euler", "ito", "Ornstein-Uhlenbeck, scalar", ImplicitEuler(0.5, 2)),
    ("implicit_milstein", "ito", "turning, general", ImplicitMilstein(iterations=2)),
    ("implicit_milstein", "stratonovich", "sinh, diagonal", ImplicitMilstein(0.75, 4)),
    ("esdirk_sra", "ito", "Ornstein-Uhlenbeck, general", ImplicitAdditive(2)),
    ("esdirk_sra", "ito", "logarithmic", ImplicitAdditive(4)),
]


@pytest.mark.parametrize(
    ("name", "calculus", "problem", "method"), ORDERS, ids=[f"{n}-{c}-{p}" for n, c, p, _ in ORDERS]
)
def test_strong_error_falls_with_the_order_of_the_method(name, calculus, problem, method, monkeypatch):
    levels = range(5, 8) if problem == "logarithmic" else range(3, 7)
    monkeypatch.setattr(stochastic_problems, "LEVELS", levels)
    known = next(known for known in KNOWN if known.name == problem)
    order = known.strong_order(method, calculus)
    assert abs(order - generic.expected_order(METHODS["sde", name], known)) < 0.15


# ---- what every method does


@pytest.mark.parametrize(("name", "noise", "additive"), [x for x in KINDS if "euler" not in x.id])
def test_the_error_is_of_its_order_in_the_length_of_the_step(name, noise, additive):
    generic.test_the_error_is_of_its_order_in_the_length_of_the_step(name, noise, additive)


@kinds
def test_a_step_of_length_zero_returns_the_state_and_has_finite_gradients(name, noise, additive):
    method = METHODS["sde", name]
    y, h = start(2).requires_grad_(), tensor([0.0], [0.1])
    w, H = (x * (h > 0) for x in draw(noise, 2, 0.4, 0.1)[3:5])
    scale = torch.ones((), dtype=F64, requires_grad=True)
    f, g = generic.rowwise(drift), generic.rowwise(diffusion(noise, additive))
    sde = ss.SDE(
        lambda t, y: scale * f(t, y), lambda t, y: scale * g(t, y),
        noise=noise, additive=additive, calculus=method.calculus[0], commutative=True,
    )  # fmt: skip
    step = method.step(system_of(sde, y), State(y), Increments(0.4 + 0 * h, 0.4 + h, h, w, H))
    assert torch.equal(step.state.y[0], y[0]) and (step.state.y[1] != y[1]).all() and not step.failed.any()
    gradients = torch.autograd.grad(step.state.y.square().sum(), (y, scale))
    assert all(x.isfinite().all() for x in gradients)
    assert torch.allclose(gradients[0][0], 2 * y[0])


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", ["implicit_milstein", "esdirk_sra"])
def test_a_state_of_any_shape_takes_the_step_of_its_elements(name, shape):
    generic.test_a_state_of_any_shape_takes_the_step_of_its_elements(name, shape)


@pytest.mark.parametrize("name", ["implicit_milstein", "esdirk_sra"])
def test_no_function_is_evaluated_outside_the_step_and_errors_see_what_they_should(name):
    generic.test_no_function_is_evaluated_outside_the_step(name)
    generic.test_the_error_sees_the_drift_the_diffusion_and_both_in_time_and_nothing_where_they_are_constant(name)


OPTIONS = (ImplicitEuler(), ImplicitEuler(0.5, 3), ImplicitMilstein(), ImplicitMilstein(0.6, 2), ImplicitAdditive(4))


@pytest.mark.parametrize("method", OPTIONS, ids=lambda m: f"{m.name}-{m.iterations}")
def test_a_solve_reports_the_calls_of_the_functions(method):
    f, g = Counted(lambda t, y: -y), Counted(lambda t, y: torch.cos(t).expand_as(y))
    sde = ss.SDE(f, g, additive=True)
    y0, ts = torch.ones(3, 2, dtype=F64), torch.linspace(0, 1, 3, dtype=F64)
    sol = ss.solve(sde, y0, ts, method=method, dt=0.25, seed=0)
    assert (sol.stats.drift_evaluations == f.calls).all() and (sol.stats.diffusion_evaluations == g.calls).all()
    if method.error_order is not None:
        f.calls = g.calls = 0
        sol = ss.solve(sde, y0, ts, method=method, rtol=1e-2, atol=1e-2, dt=0.1, seed=0, shared_steps=True)
        assert (sol.stats.drift_evaluations == f.calls).all() and (sol.stats.diffusion_evaluations == g.calls).all()


# ---- failures


def blow_up(t, y):
    """z = a + h exp(z) has no root where a + log h > -1."""
    return torch.exp(y)


def failing(top, ts, **how):
    """One trajectory far below, and one above."""
    sde = ss.SDE(blow_up, lambda t, y: 0.0 * y, additive=True)
    return ss.solve(sde, tensor([-9.0], [top]), torch.tensor(ts, dtype=F64), seed=0, **how)


@pytest.mark.parametrize("name", NAMES)
def test_a_fixed_step_that_does_not_converge_fails_its_trajectory_alone(name):
    how = {"top": 3.0, "ts": [0.0, 0.05, 0.1], "method": name, "dt": 0.05}
    sol = failing(**how, on_failure="return")
    assert sol.status.tolist() == [Status.SUCCESS, Status.NOT_CONVERGED]
    assert sol.ys[1:, 1].isnan().all() and abs(sol.ys[-1, 0].item() + 9) < 1e-4
    with pytest.raises(ss.SolveError, match=r"did not converge. Take smaller steps, or more"):
        failing(**how)


@pytest.mark.parametrize(("first", "last"), [(0.8, 0.9), (0.5, 0.7), (0.95, 1.0)])
def test_a_stage_that_does_not_converge_fails_the_step(first, last):
    """z = 2 + gamma exp(z) has no root; the stages stand at 0.87, 0.6 and 1."""
    f = lambda t, y: torch.where((t >= first) & (t <= last), torch.exp(y), 0.0)
    step = scalar_step(METHODS["sde", "esdirk_sra"], f, 2.0, 1.0)
    assert step.failed.all() and step.state.y.isfinite().all()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["implicit_milstein", "esdirk_sra"])
def test_an_adaptive_step_that_does_not_converge_is_tried_again_with_less(name, shared):
    # 2 + log 0.1 > -1, and with gamma h for h still
    how = {"top": 2.3, "ts": [0.0, 0.09], "method": name, "dt": 0.09, "shared_steps": shared}
    sol = failing(**how, rtol=1e-4, atol=1e-4)
    assert (sol.status == Status.SUCCESS).all() and sol.stats.rejected[1] > 0
    exact = -math.log(math.exp(-2.3) - 0.09)
    assert abs(sol.ys[-1, 1].item() - exact) < 0.1
    how["controller"] = ss.PID(1e-4, 1e-4, dt_min=0.08)
    sol = failing(**how, on_failure="return")
    assert sol.status.tolist() == [Status.SUCCESS, Status.NOT_CONVERGED]


def test_noise_that_is_nan_is_not_called_a_failed_iteration():
    sde = ss.SDE(lambda t, y: -y, lambda t, y: torch.log(t - 0.1).expand_as(y), additive=True)
    sol = ss.solve(
        sde, torch.ones(2, 1), torch.tensor([0.0, 1.0]), method="implicit_euler", dt=0.5, seed=0, on_failure="return"
    )
    assert sol.status.tolist() == [Status.NONFINITE] * 2


def test_a_failed_trajectory_leaves_the_gradients_of_the_others():
    def gradients(y0, **how):
        p = torch.tensor(1.0, dtype=F64, requires_grad=True)
        sde = ss.SDE(lambda t, y: p * torch.exp(y), lambda t, y: 0.1 * torch.ones_like(y), additive=True)
        ts = tensor(0.0, 0.1)
        ys = ss.solve(sde, y0, ts, seed=0, on_failure="return", **how).ys[-1]
        return torch.autograd.grad(torch.where(ys.isfinite(), ys, 0.0).sum(), p)[0]

    for how in ({"method": "implicit_milstein", "dt": 0.1}, {"method": "esdirk_sra", "dt": 0.05}):
        together, alone = gradients(tensor([-1.0], [5.0]), **how), gradients(tensor([-1.0]), **how)
        assert together.isfinite() and together != 0 and torch.allclose(together, alone)


# ---- gradients


@pytest.mark.parametrize("name", NAMES)
def test_the_ways_of_taking_gradients_agree(name):
    y0, ts = start(3), torch.linspace(0, 1, 3, dtype=F64)

    def gradients(adjoint, dt):
        p = tensor([-3.0, 1.0], [1.0, -2.0]).requires_grad_()
        s = tensor(0.3, 0.4).requires_grad_()
        start = y0.clone().requires_grad_()
        sde = ss.SDE(lambda t, y: y @ p.T - y**3, lambda t, y: s.expand_as(y), additive=True)
        ys = ss.solve(sde, start, ts, method=name, dt=dt, seed=0, adjoint=adjoint).ys
        return torch.cat([x.reshape(-1) for x in torch.autograd.grad(ys[1:].square().sum(), (start, p, s))])

    assert torch.allclose(gradients("checkpoint", 1 / 8), gradients("direct", 1 / 8), rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="'backsolve' with the implicit method"):
        gradients("backsolve", 1 / 8)


@pytest.mark.parametrize("name", NAMES)
def test_a_solve_passes_gradcheck_for_first_and_second_derivatives(name):
    ts = torch.linspace(0, 1, 3, dtype=F64)

    def end(y0, p, s):
        sde = ss.SDE(
            lambda t, y: p * torch.sin(y.flip(-1)) - y**3, lambda t, y: s * (1 + t) * torch.ones_like(y), additive=True
        )
        return ss.solve(sde, y0, ts, method=name, dt=0.5, seed=0).ys[-1]

    inputs = start(2), tensor(0.6)[0], tensor(0.4)[0]
    inputs = [x.clone().requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(end, inputs) and torch.autograd.gradgradcheck(end, inputs)
