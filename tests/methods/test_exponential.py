"""The exponential methods: the exact law where f = 0, orders where it is not, and what a step reads and returns."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State, choose, names
from sdesolve.methods.flow import NODES, flow
from sdesolve.methods.phi import lagrange
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.methods.one_graph import assert_steps_are_one_graph
from validation.linear import LinearSDE
from validation.moments import MomentRecursion, gauss_hermite, moment_vector

NAMES = ("exponential_euler", "exponential_heun")
ORDERS = list(zip(NAMES, (1, 2), strict=True))
F64 = torch.float64


def tensor(x):
    return torch.tensor(x, dtype=F64)


def system_of(problem, y, batched=True):
    return System(problem, state_spec(y, batched)[0])


def slope(errors):
    """Of the logarithms of errors at steps that are halved."""
    return -np.polyfit(range(len(errors)), np.log2(errors), 1)[0]


# ---- the law where f = 0


def ends(problem, t0, h, y=1.5):
    """Mean and variance after one step: it is linear in W."""
    start = torch.full((2, 1), y, dtype=F64)
    inc = Increments(tensor(t0), tensor(t0 + h), tensor(h), tensor([[0.0], [abs(h) ** 0.5]]))
    mean, one = METHODS["sde", "exponential_heun"].step(system_of(problem, start), State(start), inc).state.y[:, 0]
    return float(mean), float(one - mean) ** 2


def relative(found, wanted):
    return abs(found - wanted) / abs(wanted)


rates = st.one_of(st.floats(-3, 3), st.floats(-1e4, -1), st.just(0.0))
steps = st.one_of(st.floats(1e-4, 1), st.floats(-0.2, -1e-4))


@given(a=rates, g=st.floats(0.1, 3), h=steps, kind=st.sampled_from(["number", "tensor", "function"]))
def test_a_step_has_the_law_of_the_ornstein_uhlenbeck_process(a, g, h, kind):
    """Mean exp(a h) y, variance g^2 (exp(2 a h) - 1) / (2 a); forwards and backwards, for constants however given."""
    if a * h > 100:
        h = 100 / a
    given = {"number": float, "tensor": lambda x: tensor([x]), "function": lambda x: lambda t: tensor(x) + 0 * t}[kind]
    mean, variance = ends(ss.Semilinear(given(a), None, given(g)), 0.3, h)
    wanted = g * g * abs(h) if a == 0 else g * g * abs(math.expm1(2 * a * h) / (2 * a))
    # exp(L) multiplies the rounding of L = a h
    assert abs(mean - 1.5 * math.exp(a * h)) <= 1e-13 * (1 + abs(a * h)) * math.exp(a * h)
    assert relative(variance, wanted) < 1e-12 * (1 + max(a * h, 0))


def law(A, integral, g, t0, h, drift=lambda s: 1.0):
    """exp(L), int exp(L_s) drift(s) ds and |int exp(2 L_s) g^2 ds| by adaptive quadrature, in pieces towards t1."""
    L = lambda s: float(integral(tensor(t0 + h)) - integral(tensor(s)))
    cuts = [t0, *(t0 + h - h / 10**k for k in range(1, 6)), t0 + h]
    whole = lambda F: sum(quad(F, a, b, epsabs=0, epsrel=1e-12)[0] for a, b in pairwise(cuts))
    return (
        math.exp(L(t0)),
        whole(lambda s: math.exp(L(s)) * drift(s)),
        abs(whole(lambda s: math.exp(2 * L(s)) * float(g(tensor(s))) ** 2)),
    )


def waves(a, b, w, c, v):
    """A = a + b cos(w t), its integral, and g = 1 + c sin(v t)."""
    return (
        lambda t: a + b * torch.cos(w * t),
        lambda t: a * t + b * torch.sin(w * t) / w,
        lambda t: 1 + c * torch.sin(v * t),
    )


@settings(max_examples=15, deadline=None)
@given(
    wave=st.tuples(st.floats(-3, 2), st.floats(-2, 2), st.floats(0.5, 3), st.floats(-0.8, 0.8), st.floats(0.5, 3)),
    h=st.one_of(st.floats(0.001, 0.05), st.floats(-0.05, -0.001)),
    known=st.booleans(),
)
def test_the_law_of_short_steps_is_right_for_rates_and_noise_that_depend_on_time(wave, h, known):
    A, integral, g = waves(*wave)
    decay, _, variance = law(A, integral, g, 0.3, h)
    mean, found = ends(ss.Semilinear(A, None, g, integral=integral if known else None), 0.3, h)
    assert relative(mean, 1.5 * decay) < 1e-12
    assert relative(found, variance) < 1e-9


@settings(max_examples=15, deadline=None)
@given(
    rate=st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    square=st.lists(st.floats(-0.2, 0.2), min_size=3, max_size=3),
    h=st.floats(0.001, 0.02),
)
def test_polynomials_in_time_are_exact_to_rounding_in_short_steps(rate, square, h):
    """A of degree 3, g^2 of degree 3."""
    polynomial = lambda c: lambda t: sum(x * t**k for k, x in enumerate(c))
    A, integral = polynomial(rate), polynomial([0.0, *(x / (k + 1) for k, x in enumerate(rate))])
    g = lambda t: torch.sqrt(polynomial([1.0, *square])(t))
    decay, _, variance = law(A, integral, g, 0.3, h)
    mean, found = ends(ss.Semilinear(A, None, g), 0.3, h)
    assert relative(mean, 1.5 * decay) < 1e-14
    assert relative(found, variance) < 1e-13


def test_the_weights_of_a_step_are_of_order_seven_in_its_length():
    A, integral, g = waves(-1.5, 1.0, 2.0, 0.5, 3.0)
    y = torch.ones(1, 1, dtype=F64)

    def errors(h):
        by = flow(system_of(ss.Semilinear(A, lambda t, y: y, g), y), Increments(*map(tensor, (0.3, 0.3 + h, h))), 4)
        decay, first, variance = law(A, integral, g, 0.3, h)
        second = law(A, integral, g, 0.3, h, lambda s: (s - 0.3) / h)[1]
        third, fourth = (law(A, integral, g, 0.3, h, lambda s, k=k: ((s - 0.3) / h) ** k)[1] for k in (2, 3))
        wanted = decay, first, second, third, fourth, variance / h
        return [relative(float(x), y) for x, y in zip((by.decay, *by.moments, by.noise**2), wanted, strict=True)]

    orders = [slope(column) for column in zip(*map(errors, (0.4, 0.2, 0.1)), strict=True)]
    assert all(found > wanted - 0.5 for found, wanted in zip(orders, (7, 7, 6, 5, 4, 7), strict=True)), orders


@pytest.mark.parametrize("size", [1e3, 1e5, 1e7])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_rates_that_are_stiff_and_change_within_a_step_leave_the_local_equilibrium(size, sign):
    """For A -> -oo: psi_1 -> -1/A(t1), the variance -> g(t1)^2 / (2 |A(t1)|)."""
    A, integral, g = waves(-size, 0.5 * sign * size, 3.0, 0.5, 3.0)
    y, h = torch.ones(1, 1, dtype=F64), 0.2
    # for z = A(t1) h the next term is sum_j l_j'(1) R_j / |z|, with 0 < R <= exp(1/2) and 1/4 <= g^2 <= 9/4
    slopes = sum(abs(sum(k * c for k, c in enumerate(row))) for row in lagrange(NODES))
    for known in (None, integral):
        problem = ss.Semilinear(A, lambda t, y: y, g, integral=known)
        by = flow(system_of(problem, y), Increments(*map(tensor, (0.3, 0.5, h))))
        z = float(A(tensor(0.5))) * h
        assert relative(float(by.moments[0]), -h / z) < 1.65 * slopes / -z
        assert relative(float(by.noise**2), float(g(tensor(0.5)) ** 2) / (-2 * z)) < 2.72 * 9 * slopes / (-2 * z)


def test_the_noise_follows_the_sign_of_g_and_has_a_derivative_where_g_is_zero():
    y = torch.ones(1, 1, dtype=F64)
    inc = Increments(*map(tensor, (0.3, 0.4, 0.1)))
    scale = tensor(0.0).requires_grad_()
    size = lambda g: flow(system_of(ss.Semilinear(lambda t: -1 - t, None, g), y), inc).noise
    assert float(size(-2.0)) == -float(size(2.0)) < 0
    assert float(size(lambda t: -1 - t)) == -float(size(lambda t: 1 + t)) < 0
    for g in (scale, lambda t: scale * (1 + t)):
        (found,) = torch.autograd.grad(size(g), scale)
        wanted = float(size(1.0 if g is scale else lambda t: 1 + t))
        # of functions it is that of the mean, which the root of the mean square exceeds a little
        assert relative(float(found), wanted) < (1e-12 if g is scale else 0.01)


# ---- orders


def prothero_robinson(stiffness):
    """y' = A (y - phi) + phi' - (y - phi)^2 with y = phi = cos t, the part A phi in f."""
    A = -stiffness
    f = lambda t, y: -A * torch.cos(t) - torch.sin(t) - (y - torch.cos(t)) ** 2
    return ss.Semilinear(A, f), lambda t: torch.cos(t)


#: problems, and their right-hand sides in NumPy
EQUATIONS = {
    "autonomous": (
        ss.Semilinear(-1.0, lambda t, y: torch.cos(y) * torch.sin(2 * y)),
        lambda t, y: -y + np.cos(y) * np.sin(2 * y),
    ),
    "in time": (
        ss.Semilinear(lambda t: -1 - torch.sin(2 * t), lambda t, y: torch.cos(3 * t) * torch.sin(y)),
        lambda t, y: (-1 - math.sin(2 * t)) * y + math.cos(3 * t) * np.sin(y),
    ),
}


@pytest.mark.parametrize("backwards", [False, True], ids=["", "backwards"])
@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_order_for_an_ode_whose_rates_depend_on_time_or_not(name, order, equation, backwards):
    problem, right = EQUATIONS[equation]
    ts = tensor([1.0, 0.0] if backwards else [0.0, 1.0])
    y0 = tensor([[0.5], [1.5]])
    exact = solve_ivp(right, ts.tolist(), y0[:, 0].numpy(), rtol=1e-12, atol=1e-13).y[:, -1]
    errors = [
        float(np.abs(ss.solve(problem, y0, ts, dt=2.0**-k, method=name).ys[-1, :, 0] - exact).max())
        for k in range(4, 9)
    ]
    assert abs(slope(errors) - order) < 0.1, errors


@pytest.mark.parametrize("stiffness", [1e1, 1e2, 1e4, 1e6])
@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_stiff_prothero_robinson_problems_have_errors_of_the_order_whatever_the_stiffness(name, order, stiffness):
    """Below h max |phi'| and h^2/8 max |phi''|, the errors of interpolating phi, whatever A."""
    problem, exact = prothero_robinson(stiffness)
    ts, y0 = tensor([0.0, 1.0]), torch.ones(1, 1, dtype=F64)
    errors = []
    for k in range(2, 6):
        end = ss.solve(problem, y0, ts, dt=2.0**-k, method=name).ys[-1]
        errors.append(float((end - exact(ts[-1])).abs()))
        assert errors[-1] < (2.0**-k if order == 1 else 4.0**-k / 8), errors
    if stiffness > 1e3:
        # for exponential Heun what is left is of order h / |A|
        assert abs(slope(errors) - 1) < 0.3, errors


LINEAR = LinearSDE(
    "diagonal",
    np.diag([-1.2, -0.4]) + np.array([[0.3, 0.5], [-0.4, 0.2]]),
    np.array([0.5, 0.2]),
    np.zeros((2, 2, 2)),
    np.diag([0.6, 0.4]),
    np.array([1.0, -0.5]),
)


def linear_semilinear():
    """`LINEAR` with the diagonal (-1.2, -0.4) apart."""
    B, c = tensor([[0.3, -0.4], [0.5, 0.2]]), tensor([0.5, 0.2])
    return ss.Semilinear(tensor([-1.2, -0.4]), lambda t, y: y @ B + c, tensor([0.6, 0.4]))


@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_moments_of_a_linear_equation_converge_with_the_weak_order(name, order):
    method = METHODS["sde", name]
    assert method.weak_order == order
    recursion = MomentRecursion(linear_semilinear(), method, 2, 2, order=4)
    exact, start = LINEAR.moments(1.0), moment_vector(LINEAR.x0, np.zeros((2, 2)))
    found = [recursion.run(start, np.linspace(0, 1, 2**k + 1), autonomous=True) for k in range(4, 9)]
    errors = [np.abs(end - exact).max() for end in found]
    assert abs(slope(errors) - order) < 0.15, errors


@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_weak_order_where_rates_noise_and_forcing_depend_on_time(name, order):
    """dX = (A(t) X + b(t) X + c(t)) dt + g(t) dW, whose first two moments solve an ODE."""
    A, _, g = waves(-1.0, 0.7, 2.0, 0.5, 3.0)
    b, c = lambda t: 0.5 + torch.sin(t), lambda t: torch.cos(2 * t)
    problem = ss.Semilinear(A, lambda t, y: b(t) * y + c(t), g)
    value = lambda function, t: float(function(tensor(t)))

    def right(t, v):
        rate = value(A, t) + value(b, t)
        return [rate * v[0] + value(c, t), 2 * rate * v[1] + 2 * value(c, t) * v[0] + value(g, t) ** 2]

    exact = solve_ivp(right, (0, 1), [1.0, 1.0], rtol=1e-11, atol=1e-12).y[:, -1]
    recursion = MomentRecursion(problem, METHODS["sde", name], 1, 1, order=4)
    start = moment_vector(np.ones(1), np.zeros((1, 1)))
    errors = [np.abs(recursion.run(start, np.linspace(0, 1, 2**k + 1))[1:] - exact).max() for k in range(3, 7)]
    assert abs(slope(errors) - order) < 0.2, errors


@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_weak_order_for_a_nonlinear_equation_by_a_chain_of_quadratures(name, order):
    """X = asinh V, V = x exp(-r t) + s int exp(-r (t - u)) dW would not be additive; instead E sin(X_T) of

    dX = (-X + sin X) dt + dW/2, as the solution of the backward equation of the chain, level against level.
    """
    method = METHODS["sde", name]
    problem = ss.Semilinear(-1.0, lambda t, y: torch.sin(y), 0.5)
    points = np.cos(np.pi * (np.arange(40) + 0.5) / 40) * 4
    x = torch.from_numpy(points)[:, None]
    nodes, weights = gauss_hermite(1, 20)

    def chain(steps):
        h = 1 / steps
        y = x.repeat(1, len(nodes)).reshape(-1, 1)
        w = torch.from_numpy(np.tile(nodes[:, 0], len(points)))[:, None] * h**0.5
        inc = Increments(tensor(0.0), tensor(h), tensor(h), w)
        end = method.step(system_of(problem, y), State(y), inc).state.y.numpy().reshape(len(points), -1)
        fit = np.polynomial.chebyshev.chebvander(points / 4, 39)
        to_points = np.linalg.inv(fit)
        # the few nodes that leave [-4, 4] have no weight
        forward = np.einsum("pqk,q->pk", np.polynomial.chebyshev.chebvander(np.clip(end / 4, -1, 1), 39), weights)
        transition = forward @ to_points
        value = np.sin(points)
        for _ in range(steps):
            value = transition @ value
        return float(np.polynomial.chebyshev.chebvander(np.array([0.2]), 39)[0] @ to_points @ value)

    found = [chain(2**k) for k in range(2, 8)]
    differences = np.abs(np.diff(found))
    assert abs(slope(differences) - order) < 0.2, found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("moving", [False, True], ids=["constant", "in time"])
def test_strong_order_along_a_path_is_one(name, moving):
    A, g = (-2.0, 0.8)
    if moving:
        A, _, g = waves(-2.0, 1.0, 2.0, 0.5, 3.0)
    problem = ss.Semilinear(A, lambda t, y: torch.sin(2 * y), g)
    path = ss.BrownianPath(7, (500, 1), cell=2.0**-9, levy="space-time", dtype=F64)
    y0, ts = torch.ones(500, 1, dtype=F64), tensor([0.0, 1.0])
    exact = ss.solve(problem, y0, ts, method="sra1", dt=2.0**-9, brownian=path).ys[-1]
    errors = [
        float((ss.solve(problem, y0, ts, method=name, dt=2.0**-k, brownian=path).ys[-1] - exact).abs().mean())
        for k in range(2, 7)
    ]
    assert abs(slope(errors) - 1) < 0.15, errors


# ---- every method


@pytest.mark.parametrize("name", ["euler_maruyama", "sra1", "sosra", "milstein", "heun", "shark", "reversible_heun"])
def test_methods_for_sdes_solve_the_same_problem_written_as_an_sde(name):
    A, _, g = waves(-1.0, 0.7, 2.0, 0.5, 3.0)
    f = lambda t, y: torch.sin(y) + t
    problem = ss.Semilinear(A, f, g)
    sde = ss.SDE(lambda t, y: A(t) * y + f(t, y), lambda t, y: g(t).expand(y.shape), additive=True)
    y0, ts = torch.rand(5, 2, dtype=F64), tensor([0.0, 0.4, 1.0])
    solves = [ss.solve(p, y0, ts, method=name, dt=0.1, seed=3).ys for p in (problem, sde)]
    assert torch.allclose(*solves, rtol=1e-13)
    backwards = [ss.solve(p, y0, ts.flip(0), method=name, dt=0.1, seed=3).ys for p in (problem, sde)]
    assert torch.allclose(*backwards, rtol=1e-13)


@pytest.mark.parametrize("name", ["tsit5", "rk4", "reversible_heun"])
def test_methods_for_odes_solve_the_same_problem_written_as_an_ode(name):
    f = lambda t, y: torch.sin(y) + t
    y0, ts = torch.rand(5, 2, dtype=F64), tensor([0.0, 1.0])
    pair = ss.Semilinear(tensor([-1.0, -2.0]), f), ss.ODE(lambda t, y: tensor([-1.0, -2.0]) * y + f(t, y))
    adaptive = [{"rtol": 1e-6}, {"rtol": 1e-6, "shared_steps": True}]
    for how in ({"dt": 0.1}, *(adaptive if METHODS["ode", name].error_order else [])):
        assert torch.allclose(*(ss.solve(p, y0, ts, method=name, **how).ys for p in pair), rtol=1e-12)


def coupled(t, y):
    """Of the rates (-10^4, -1)."""
    u, v = y[..., :1], y[..., 1:]
    return torch.cat([100 * torch.cos(3 * t + v), torch.sin(3 * u + v) + t], -1)


def test_the_default_is_exponential_heun_whose_steps_are_not_bound_by_the_rate():
    y0, ts = tensor([[0.5, 1.0]]), tensor([0.0, 2.0])
    right = lambda t, y: np.array([-1e4, -1.0]) * y + coupled(tensor(t), torch.from_numpy(y)).numpy()
    exact = solve_ivp(right, (0, 2), y0[0].numpy(), method="Radau", rtol=1e-10, atol=1e-12).y[:, -1]
    for rtol in (1e-3, 1e-4):
        sol = ss.solve(ss.Semilinear(tensor([-1e4, -1.0]), coupled), y0, ts, rtol=rtol, atol=rtol)
        assert sol.stats.method == "exponential_heun"
        assert np.abs(sol.ys[-1, 0].numpy() - exact).max() < 5 * rtol
        # stability alone would ask Heun's method for 10000
        assert int(sol.stats.steps.max()) < 600
    assert ss.solve(ss.Semilinear(-1.0, coupled), y0, ts).stats.method == "exponential_heun"


def test_adaptive_steps_of_an_sde_are_not_bound_by_the_rate():
    problem = ss.Semilinear(tensor([-1e4, -1.0]), coupled, tensor([1.0, 0.1]))
    y0, ts = torch.ones(20, 2, dtype=F64), tensor([0.0, 1.0])
    sol = ss.solve(problem, y0, ts, rtol=1e-2, atol=1e-2, seed=1)
    assert int(sol.stats.steps.max()) < 200
    assert ss.solve(problem, y0, ts, dt=0.1, seed=1).stats.method == sol.stats.method == "exponential_heun"


# ---- a step


def shape_problem(kind, kinds):
    A, _, g = waves(-1.0, 0.7, 2.0, 0.5, 3.0)
    if kind == "constant":
        A, g = -1.0, 0.5
    return ss.Semilinear(A, lambda t, y: torch.cos(y) - t * y, g if kinds == "sde" else None)


KINDS = [(name, kind) for kind in ("ode", "sde") for name in NAMES]
each = pytest.mark.parametrize(("name", "kind"), KINDS)
moving = pytest.mark.parametrize("given", ["constant", "in time"])


def stepped(method, problem, y, inc, batched=True):
    problem.batched = batched
    return method.step(system_of(problem, y, batched), State(y), inc, error=True)


@each
@moving
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)], ids=str)
def test_trajectories_take_the_steps_that_they_take_alone_whatever_their_shape_and_clocks(name, kind, given, shape):
    method, problem = METHODS[kind, name], shape_problem(given, kind)
    y, w = (torch.randn(3, *shape, generator=torch.Generator().manual_seed(s), dtype=F64) for s in (0, 1))
    column = lambda *x: tensor(x).reshape(-1, *(1,) * len(shape))
    t0, h = column(0.1, 0.5, 1.0), column(0.2, 0.0, -0.1)
    w = w * h.abs().sqrt()
    together = stepped(method, problem, y, Increments(t0, t0 + h, h, w))
    assert together.state.y.shape == y.shape
    assert torch.equal(together.state.y[1], y[1])
    for i in range(3):
        times = (x.reshape(-1)[i] for x in (t0, t0 + h, h))
        alone = stepped(method, problem, y[i], Increments(*times, w[i][None]), batched=False)
        assert torch.allclose(alone.state.y, together.state.y[i], rtol=1e-14, atol=1e-15)
        if alone.error is not None:
            assert torch.allclose(alone.error, together.error[i], rtol=1e-12, atol=1e-15)


@each
@moving
@pytest.mark.parametrize("error", [False, True], ids=["", "error"])
def test_a_step_makes_the_evaluations_that_the_method_states(name, kind, given, error):
    calls = {"f": 0, "g": 0, "A": 0}

    def counted(which, function):
        def call(*args):
            calls[which] += 1
            return function(*args)

        return call

    method, A, g = METHODS[kind, name], -1.0, 0.5
    if given == "in time":
        A, g = counted("A", lambda t: -1 - t), counted("g", lambda t: 1 + t)
    problem = ss.Semilinear(A, counted("f", lambda t, y: torch.cos(y)), g if kind == "sde" else None)
    y = torch.ones(2, 1, dtype=F64)
    inc = Increments(*map(tensor, (0.3, 0.4, 0.1)), torch.ones(2, 1, dtype=F64) if kind == "sde" else None)
    method.step(system_of(problem, y), State(y), inc, error=error)
    assert calls["f"] == method.drift_evaluations
    assert calls["g"] == (
        method.evaluations_of_diffusion(system_of(problem, y), 1, error=error) if kind == "sde" else 0
    )
    assert calls["A"] == (len(NODES) if given == "in time" else 0)


def test_the_evaluations_that_a_solve_reports_are_calls_of_f_and_g():
    count = 0

    def f(t, y):
        nonlocal count
        count += 1
        return torch.cos(y)

    for g, calls in ((0.1, 0), (lambda t: 0.1 + t, 40)):
        count = 0
        sol = ss.solve(ss.Semilinear(-1.0, f, g), torch.ones(2, 1), tensor([0.0, 1.0]), dt=0.1, seed=0)
        assert count == 20 and sol.stats.drift_evaluations.tolist() == [20, 20]
        assert sol.stats.diffusion_evaluations.tolist() == [calls, calls]


@each
@moving
def test_the_error_is_the_difference_to_exponential_euler(name, kind, given):
    method, euler, problem = METHODS[kind, name], METHODS[kind, "exponential_euler"], shape_problem(given, kind)
    y = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    inc = Increments(*map(tensor, (0.3, 0.4, 0.1)), 0.3 * y.flip(0) if kind == "sde" else None)
    step, lower = (stepped(m, problem, y, inc) for m in (method, euler))
    if method.error_order is None:
        assert step.error is None
    else:
        assert torch.allclose(step.error, step.state.y - lower.state.y, atol=1e-15)
        assert step.error.abs().min() > 1e-6


@each
def test_the_error_is_of_its_order(name, kind):
    method, problem = METHODS[kind, name], shape_problem("in time", kind)
    if method.error_order is None:
        return
    y = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    w = torch.randn(500, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    sizes = []
    for k in range(7, 12):
        h = tensor(2.0**-k)
        error = stepped(method, problem, y, Increments(tensor(0.3), 0.3 + h, h, w * h.sqrt())).error
        sizes.append(float(error.square().mean().sqrt()))
    assert abs(slope(sizes) - method.error_order) < 0.1


@moving
def test_a_compiled_loop_takes_the_steps_as_one_graph(given):
    problem, y = shape_problem(given, "sde"), torch.rand(4, 2, dtype=F64)
    inc = Increments(*map(tensor, (0.3, 0.4, 0.1)), torch.rand(4, 2, dtype=F64))
    assert_steps_are_one_graph(METHODS["sde", "exponential_heun"], system_of(problem, y), y, inc)


def test_single_precision_stays_and_agrees():
    A, _, g = waves(-1.0, 0.7, 2.0, 0.5, 3.0)
    problem = ss.Semilinear(A, lambda t, y: torch.cos(y), g)
    ys = [
        ss.solve(problem, torch.ones(3, 2, dtype=dtype), torch.tensor([0.0, 1.0]), dt=0.125, seed=1).ys
        for dtype in (torch.float32, F64)
    ]
    assert ys[0].dtype == torch.float32
    assert torch.allclose(ys[0].double(), ys[1], atol=2e-6)


# ---- which method for which problem


def test_exponential_methods_are_refused_for_other_problems():
    y = torch.ones(2, 1)
    for problem in (ss.ODE(lambda t, y: y), ss.SDE(lambda t, y: y, lambda t, y: y)):
        for name in NAMES:
            with pytest.raises(ValueError, match=r"ss\.Semilinear"):
                choose(system_of(problem, y), name)
        with pytest.raises(ValueError, match="accepted is one for an") as caught:
            choose(system_of(problem, y), "no such")
        assert "exponential" not in str(caught.value)
    for kind, g in (("ode", None), ("sde", 1.0)):
        with pytest.raises(ValueError, match="exponential_heun"):
            choose(system_of(ss.Semilinear(-1.0, None, g), y), "no such")
        assert not set(NAMES) & set(names(kind)) and set(NAMES) < set(names(kind, "Semilinear"))
        assert choose(system_of(ss.Semilinear(-1.0, None, g), y), None) is METHODS[kind, "exponential_heun"]
