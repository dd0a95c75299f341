"""Exponential methods of ODEs alone, the third-order Runge-Kutta method and those of Adams' type."""

import math
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dst
from scipy.integrate import solve_ivp

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State, choose
from sdesolve.methods.phi import interpolatory_weights, phi
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.methods.one_graph import assert_steps_are_one_graph
from validation.order import fit_order

F64 = torch.float64
ADAMS = tuple(f"exponential_adams{p}" for p in (1, 2, 3))
NAMES = ("exponential_rk3", *ADAMS)
every = pytest.mark.parametrize("name", NAMES)
adams = pytest.mark.parametrize("name", ADAMS)


def tensor(x):
    return torch.tensor(x, dtype=F64)


def method_of(name):
    return METHODS["ode", name]


def system_of(problem, y, batched=True):
    return System(problem, state_spec(y, batched)[0])


def started(problem, y, t, name):
    system, method = system_of(problem, y, problem.batched), method_of(name)
    return system, method, State(y, method.init(system, tensor(t), y))


def increments(t0, h):
    return Increments(tensor(t0), tensor(t0 + h), tensor(h))


# ---- weights


def moments_of(z, count):
    return [x * math.factorial(k) for k, x in enumerate(phi(tensor(z), count))]


@settings(max_examples=25)
@given(
    z=st.one_of(st.sampled_from([-1e-8, 0.0, -2.0, -1e4]), st.floats(-10, 2), st.floats(-1e4, -1)),
    gaps=st.lists(st.floats(0.1, 4), min_size=0, max_size=2),
    corrector=st.booleans(),
)
def test_weights_are_the_integrals_of_lagranges_polynomials(z, gaps, corrector):
    """Against mpmath's quadrature, on the scale of their sum, phi_1."""
    nodes = [0.0, *(-x for x in np.cumsum(gaps))]
    if corrector:
        nodes.insert(1, 1.0)
    found = interpolatory_weights(moments_of(z, len(nodes)), [tensor(1 / s) for s in nodes[1:]])
    with mpmath.workdps(30):
        cuts = [0, *(c for c in (1 - 60 / (1 + abs(z)), 1 - 8 / (1 + abs(z))) if 0 < c < 1), 1]
        exact = [mpmath.mpf(s) for s in nodes]
        for j, w in enumerate(found):
            others = [s for i, s in enumerate(exact) if i != j]
            basis = lambda s, j=j, others=others: mpmath.fprod((s - x) / (exact[j] - x) for x in others)
            wanted = mpmath.quad(lambda s, basis=basis: mpmath.exp(z * (1 - s)) * basis(s), cuts)
            # nodes 1/v are known to rounding, which close ones magnify
            assert abs(float(w) - wanted) < 1e-13 * max(1, 0.1 / min([1.0, *gaps])) ** 2 * float(moments_of(z, 1)[0])


def test_nodes_that_are_not_there_have_no_weight_and_change_no_other():
    nothing = tensor(0.0).requires_grad_()
    moments = moments_of(-1.5, 4)
    whole = interpolatory_weights(moments, [tensor(-0.5), nothing, nothing])
    part = interpolatory_weights(moments, [tensor(-0.5)])
    assert torch.allclose(torch.stack(whole[:2]), torch.stack(part), rtol=1e-15) and whole[2] == whole[3] == 0
    assert torch.autograd.grad(sum(whole), nothing)[0].isfinite()


def test_without_a_linear_part_the_weights_are_those_of_adams():
    weights = lambda *v: [float(w) for w in interpolatory_weights(moments_of(0.0, 3), list(map(tensor, v)))]
    assert np.allclose(weights(-1.0, -0.5), [23 / 12, -16 / 12, 5 / 12], rtol=1e-14)
    assert np.allclose(weights(1.0, -1.0), [8 / 12, 5 / 12, -1 / 12], rtol=1e-14)


# ---- orders


def autonomous():
    """Rates of both signs, and a nonlinear part that couples the components."""
    rest = lambda t, y: torch.stack([torch.sin(y[..., 1]), torch.cos(y[..., 0] + y[..., 1])], -1)
    return ss.Semilinear(tensor([-2.0, 0.5]), rest)


def in_time():
    return ss.Semilinear(lambda t: -1 - torch.sin(2 * t), lambda t, y: torch.cos(3 * t) * torch.sin(y))


def exact_end(problem, y0, ts):
    system, shape = system_of(problem, y0), y0.shape
    right = lambda t, y: system.drift(tensor(t), torch.from_numpy(y).reshape(shape)).reshape(-1).numpy()
    found = solve_ivp(right, (ts[0], ts[-1]), y0.reshape(-1).numpy(), "DOP853", rtol=1e-13, atol=1e-14)
    return found.y[:, -1].reshape(shape)


@every
@pytest.mark.parametrize("problem", [autonomous(), in_time()], ids=["autonomous", "in time"])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.5, 0.0)], ids=["", "backwards"])
@pytest.mark.parametrize("short", [0.5, 0.2], ids=["equal", "unequal"])
def test_error_falls_with_the_order_of_the_method(name, problem, ends, short):
    """Steps whose lengths are in turn a part of the pair's, and the rest."""
    y0, counts, errors = tensor([[0.5, 0.2], [1.5, -1.0]]), (32, 64, 128, 256), []
    exact = exact_end(problem, y0, ends)
    for pairs in counts:
        parts = (torch.arange(pairs, dtype=F64)[:, None] + tensor([0.0, short])).reshape(-1) / pairs
        ts = torch.lerp(tensor(ends[0]), tensor(ends[1]), torch.cat([parts, torch.ones(1, dtype=F64)]))
        with torch.no_grad():
            end = ss.solve(problem, y0, ts, dt=1.0, method=name).ys[-1].numpy()
        errors.append(np.abs(end - exact).max())
    assert abs(fit_order([1 / n for n in counts], errors).order - method_of(name).order) < 0.2, errors


def heat(n=63):
    """u_t = u_xx + 1 / (1 + u^2) + source on (0, 1), with u = x (1 - x) e^t (Hochbruck & Ostermann 2005, example 6.1),
    on a grid, whose difference quotients of u are exact, as coefficients of sines, whose rates go to -4 (n + 1)^2."""
    x = np.arange(1, n + 1) / (n + 1)
    sines = torch.from_numpy(dst(np.eye(n), type=1, norm="ortho"))
    rates = torch.from_numpy(-4.0 * (n + 1) ** 2 * np.sin(np.pi * x / 2) ** 2)
    shape = torch.from_numpy(x * (1 - x))

    def rest(t, y):
        u, exact = y @ sines, shape * torch.exp(t)
        return (1 / (1 + u * u) + exact + 2 * torch.exp(t) - 1 / (1 + exact * exact)) @ sines

    return ss.Semilinear(rates, rest), lambda t: (shape * math.exp(t) @ sines)[None]


@every
def test_the_order_is_not_reduced_where_the_linear_part_is_the_heat_equation_s(name):
    problem, exact = heat()
    steps, errors = [2.0**-k for k in range(3, 8)], []
    for dt in steps:
        end = ss.solve(problem, exact(0.0), tensor([0.0, 1.0]), dt=dt, method=name).ys[-1]
        errors.append(float((end - exact(1.0)).norm()))
    assert abs(fit_order(steps, errors).order - method_of(name).order) < 0.25, errors


# ---- exactness


@settings(max_examples=20)
@given(
    a=st.one_of(st.floats(-3, 2), st.floats(-1e4, -1), st.just(0.0)),
    coefficients=st.lists(st.floats(-1, 1), min_size=3, max_size=3),
    gaps=st.tuples(st.floats(0.05, 0.4), st.floats(0.05, 0.4)),
    h=st.sampled_from([0.2, 0.05, -0.1]),
    name=st.sampled_from(NAMES),
)
def test_a_step_is_exact_for_polynomials_in_time_below_the_order(a, coefficients, gaps, h, name):
    """y' = a y + c_0 + c_1 t + c_2 t^2, given the values of earlier steps at their times."""
    method = method_of(name)
    c = coefficients[: int(method.order)]
    N = lambda t: sum(x * t**k for k, x in enumerate(c))
    y = torch.full((2, 1), 0.7, dtype=F64)
    t0 = 0.3
    system, method, state = started(ss.Semilinear(a, lambda t, y: N(t) + 0 * y), y, t0, name)
    if state.cache:
        p, back = int(method.order), math.copysign(1.0, h) * np.cumsum(gaps)
        values = [torch.full_like(y, N(t0 - g)) for g in back]
        near = [torch.full_like(y, 1 / g) for g in back]
        state = State(y, (state.cache[0], *values[: p - 1], *near[: p - 1]))
    found = method.step(system, state, increments(t0, h), error=True)
    moments = moments_of(a * h, 3)
    shifted = [
        N(t0),
        (c[1] + 2 * c[2] * t0 if len(c) > 2 else c[1]) if len(c) > 1 else 0.0,
        c[2] if len(c) > 2 else 0.0,
    ]
    wanted = math.exp(a * h) * 0.7 + sum(
        h ** (k + 1) * s * float(m) for k, (s, m) in enumerate(zip(shifted, moments, strict=True))
    )
    assert (found.state.y - wanted).abs().max() < 2e-14 * (1 + abs(a * h) * math.exp(a * h))
    assert found.error.abs().max() < 1e-14 * (1 + math.exp(a * h)) or name == "exponential_rk3"


def test_what_a_step_keeps_are_values_and_their_times():
    problem, y = ss.Semilinear(-1.0, lambda t, y: torch.sin(t) + 0 * y), torch.ones(3, 2, dtype=F64)
    system, method, state = started(problem, y, 0.0, "exponential_adams3")
    times = [0.0, 0.1, 0.3, 0.35]
    for t0, t1 in pairwise(times):
        state = method.step(system, state, increments(t0, t1 - t0)).state
    values, near = state.cache[:3], state.cache[3:]
    for value, t in zip(values, times[:0:-1], strict=True):
        assert torch.allclose(value, torch.full_like(y, math.sin(t)), rtol=1e-14)
    for u, gap in zip(near, (0.05, 0.25), strict=True):
        assert u.shape == (3, 1) and torch.allclose(u, torch.full_like(u, 1 / gap), rtol=1e-13)


def test_behind_a_jump_values_before_it_are_forgotten():
    """f is linear in t on both sides: steps of order 2 are exact on each, if none looks back beyond the jump."""
    f = lambda t, y: torch.where(t < 0.5, t, 5 - 3 * t) + 0 * y
    y0, ts, jump = torch.ones(2, 1, dtype=F64), tensor([0.0, 0.5, 1.0]), ss.PID(1e-3, 1e-3, jumps=(0.5,))
    ends = ss.solve(ss.Semilinear(-2.0, f), y0, ts, method="exponential_adams2", controller=jump).ys[:, 0, 0]
    part = lambda y, c, d, h: (
        math.exp(-2 * h) * y
        + sum(h ** (k + 1) * x * float(m) for k, (x, m) in enumerate(zip((c, d), moments_of(-2 * h, 2), strict=True)))
    )
    middle = part(1.0, 0.0, 1.0, 0.5)
    assert abs(float(ends[1]) - middle) < 1e-14
    assert abs(float(ends[2]) - part(middle, 3.5, -3.0, 0.5)) < 1e-13


# ---- stability and adaptive steps


@pytest.mark.parametrize(("name", "limit"), list(zip(ADAMS, (0.66, 0.50, 0.28), strict=True)))
def test_without_a_linear_part_steps_are_stable_up_to_the_bound(name, limit):
    grown = []
    for h in (0.97 * limit, 1.05 * limit):
        problem = ss.Semilinear(0.0, lambda t, y: -y)
        end = ss.solve(problem, torch.ones(1, 1, dtype=F64), tensor([0.0, 600 * h]), dt=h, method=name).ys[-1]
        grown.append(float(end.abs()))
    assert grown[0] < 1e-2 and grown[1] > 1e2


@every
def test_adaptive_steps_keep_the_tolerance_and_are_not_bound_by_the_rate(name):
    """Rates of -10^4 and -1."""

    def rest(t, y):
        u, v = y[..., :1], y[..., 1:]
        return torch.cat([100 * torch.cos(3 * t + v), torch.sin(3 * u + v) + t], -1)

    problem, y0, ts = ss.Semilinear(tensor([-1e4, -1.0]), rest), tensor([[0.5, 1.0]]), tensor([0.0, 2.0])
    system = system_of(problem, y0)
    right = lambda t, y: system.drift(tensor(t), torch.from_numpy(y)[None])[0].numpy()
    exact = solve_ivp(right, (0, 2), y0[0].numpy(), method="Radau", rtol=1e-11, atol=1e-13).y[:, -1]
    for rtol in (1e-3, 1e-5):
        if name == "exponential_adams1" and rtol < 1e-4:
            continue
        sol = ss.solve(problem, y0, ts, rtol=rtol, atol=rtol, method=name)
        assert np.abs(sol.ys[-1, 0].numpy() - exact).max() < (20 if name == "exponential_adams1" else 10) * rtol
        # stability alone would ask an explicit method for 10^4
        assert int(sol.stats.steps.max()) < 1500
    heun = ss.solve(problem, y0, ts, rtol=1e-5, atol=1e-5)
    if name in ("exponential_adams3", "exponential_rk3"):
        assert int(sol.stats.drift_evaluations.max()) < 0.5 * int(heun.stats.drift_evaluations.max())


@every
@pytest.mark.parametrize("problem", [autonomous(), in_time()], ids=["autonomous", "in time"])
def test_the_error_is_of_its_order_and_the_difference_to_the_lower_solution(name, problem):
    y, sizes = tensor([[0.4, -0.8]]), []
    lengths = [2.0**-k for k in range(8, 12)]
    for h in lengths:
        system, method, state = started(problem, y, 0.2, name)
        for k in range(6):  # until the start is forgotten
            step = method.step(system, state, increments(0.2 + k * h, h), error=True)
            state = step.state
        sizes.append(float(step.error.norm()))
    assert abs(fit_order(lengths, sizes).order - method_of(name).error_order) < 0.2, sizes


@every
def test_trajectories_with_clocks_of_their_own_take_the_steps_that_they_take_alone(name):
    y0, ts = tensor([[0.5, 0.2], [1.5, -1.0], [3.0, 2.0]]), tensor([0.0, 0.4, 1.0])
    together = ss.solve(autonomous(), y0, ts, rtol=1e-4, atol=1e-4, method=name)
    assert len(set(together.stats.steps.tolist())) > 1
    for i in range(3):
        alone = ss.solve(autonomous(), y0[i : i + 1], ts, rtol=1e-4, atol=1e-4, method=name)
        assert torch.allclose(alone.ys[:, 0], together.ys[:, i], rtol=1e-10)
        assert alone.stats.steps[0] == together.stats.steps[i]


# ---- states, costs, gradients, compiled code


@every
def test_a_step_of_length_zero_returns_the_state_and_has_finite_gradients(name):
    a, y = tensor(-2.0).requires_grad_(), torch.randn(2, 3, dtype=F64).requires_grad_()
    problem = ss.Semilinear(lambda t: a * (1 + t), lambda t, y: torch.sin(y))
    system, method, state = started(problem, y, 0.3, name)
    h = tensor([[0.0], [0.1]])
    inc = Increments(0.3 + 0 * h, 0.3 + h, h)
    once = method.step(system, state, inc)
    twice = method.step(system, once.state, inc)
    assert torch.allclose(twice.state.y[0], y[0], rtol=1e-15) and (once.state.y[1] != y[1]).all()
    for g in torch.autograd.grad(twice.state.y.square().sum(), (a, y)):
        assert g.isfinite().all()


@every
def test_evaluations_are_the_calls_of_f(name):
    count = 0

    def f(t, y):
        nonlocal count
        count += 1
        return torch.cos(y) - t

    y0, ts = torch.ones(1, 2, dtype=F64), tensor([0.0, 0.5, 1.0])
    sol = ss.solve(ss.Semilinear(-1.0, f), y0, ts, dt=0.1, method=name)
    assert count == int(sol.stats.drift_evaluations[0]) == (30 if name == "exponential_rk3" else 11)
    count = 0
    sol = ss.solve(ss.Semilinear(-1.0, f), y0, ts, rtol=1e-4, method=name)
    assert count == int(sol.stats.drift_evaluations[0])


@every
def test_the_state_may_be_complex(name):
    """i psi' = omega psi + |psi|^2 psi, whose modulus is kept: psi = exp(-i (omega + |psi|^2) t)."""
    psi0, ts, errors = torch.ones(2, 1, dtype=torch.complex128), tensor([0.0, 1.0]), []
    problem = ss.Semilinear(-2j, lambda t, y: -1j * y * (y * y.conj()).real)
    for dt in (1 / 32, 1 / 64):
        end = ss.solve(problem, psi0, ts, dt=dt, method=name).ys[-1, 0, 0].item()
        errors.append(abs(end - np.exp(-3j)))
    assert 0.75 * 2 ** method_of(name).order < errors[0] / errors[1] < 1.5 * 2 ** method_of(name).order, errors


@every
def test_states_may_be_trees_and_single_trajectories(name):
    tree, ts = {"a": torch.ones(3, 2, dtype=F64), "b": torch.ones(3, dtype=F64)}, tensor([0.0, 1.0])
    f = lambda t, y: {"a": torch.sin(y["b"])[:, None] * y["a"], "b": torch.cos(y["b"])}
    found = ss.solve(ss.Semilinear({"a": -1.0, "b": -2.0}, f), tree, ts, dt=0.1, method=name).ys
    f = lambda t, y: torch.cat([torch.sin(y[..., 2:]) * y[..., :2], torch.cos(y[..., 2:])], -1)
    y0, rates = torch.ones(3, 3, dtype=F64), tensor([-1.0, -1.0, -2.0])
    plain = ss.solve(ss.Semilinear(rates, f), y0, ts, dt=0.1, method=name).ys
    assert torch.allclose(torch.cat([found["a"], found["b"][..., None]], -1), plain, rtol=1e-13)
    alone = ss.solve(ss.Semilinear(rates, f, batched=False), y0[0], ts, dt=0.1, method=name).ys
    assert torch.allclose(alone, plain[:, 0], rtol=1e-13)
    linear = ss.solve(ss.Semilinear(rates), y0, ts, dt=0.5, method=name).ys[-1]
    assert torch.allclose(linear, torch.exp(rates).expand(3, 3), rtol=1e-14)


@every
def test_single_precision_stays_and_agrees_on_a_clock_that_all_share_too(name):
    y0, ts, found = tensor([[0.5, 0.2], [1.5, -1.0]]), tensor([0.0, 1.0]), []
    f = lambda t, y: torch.cos(y) - t * y
    for how in ({"dt": 0.125}, {"rtol": 1e-3, "atol": 1e-3, "shared_steps": True}):
        pair = [ss.solve(ss.Semilinear(-2.0, f), y, ts, method=name, **how).ys for y in (y0.float(), y0)]
        assert pair[0].dtype == torch.float32
        assert torch.allclose(pair[0].double(), pair[1], atol=5e-6)
        found.append(pair[1][-1])
    assert torch.allclose(*found, atol=0.1)


@every
def test_gradients_are_those_of_finite_differences(name):
    def end(y, a, k):
        problem = ss.Semilinear(a, lambda t, y: torch.sin(k * y) * y.flip(-1) + t)
        return ss.solve(problem, y, tensor([0.0, 0.3, 0.5]), dt=0.1, method=name).ys[1:]

    inputs = [tensor(x).requires_grad_() for x in ([[0.4, 1.2]], [-2.0, -30.0], 0.8)]
    assert torch.autograd.gradcheck(end, inputs)


@every
def test_checkpoints_give_the_gradients_of_the_steps(name):
    found = []
    for adjoint in ("direct", ss.Checkpoint(steps=3)):
        for how in ({"dt": 0.05}, {"rtol": 1e-4}):
            k = tensor(0.8).requires_grad_()
            problem = ss.Semilinear(-2.0, lambda t, y, k=k: torch.sin(k * y) + t)
            sol = ss.solve(
                problem, torch.ones(2, 2, dtype=F64), tensor([0.0, 1.0]), method=name, adjoint=adjoint, **how
            )
            found.append(float(torch.autograd.grad(sol.ys[-1].square().sum(), k)[0]))
    assert found[:2] == pytest.approx(found[2:], rel=1e-12)


@pytest.mark.parametrize("name", ["exponential_rk3", "exponential_adams3"])
@pytest.mark.parametrize("problem", [autonomous(), in_time()], ids=["constant", "in time"])
def test_a_compiled_loop_takes_the_steps_as_one_graph(name, problem):
    y = torch.rand(4, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    assert_steps_are_one_graph(method_of(name), system_of(problem, y), y, increments(0.3, 0.1))


@pytest.mark.compile
@pytest.mark.traced
@pytest.mark.parametrize("how", [{"dt": 0.05}, {"rtol": 1e-4}], ids=["fixed", "adaptive"])
def test_a_compiled_solve_and_its_gradients_are_the_eager_ones(how):
    y0, ts, found = tensor([[0.5, 0.2], [1.5, -1.0]]), tensor([0.0, 0.4, 1.0]), []
    for compile in (False, True):
        k = tensor(0.8).requires_grad_()
        problem = ss.Semilinear(tensor([-3.0, 0.5]), lambda t, y, k=k: torch.sin(k * y) + t)
        ys = ss.solve(problem, y0, ts, method="exponential_adams3", compile=compile, **how).ys
        found.append((ys.detach(), torch.autograd.grad(ys.square().sum(), k)[0]))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-12)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-10)


# ---- which method for which problem


@every
def test_they_are_refused_for_sdes_and_other_problems(name):
    y = torch.ones(2, 1)
    with pytest.raises(ValueError, match=f"{name}' is for ODEs"):
        choose(system_of(ss.Semilinear(-1.0, None, 0.1), y), name)
    with pytest.raises(ValueError, match=r"ss\.Semilinear"):
        choose(system_of(ss.ODE(lambda t, y: y), y), name)
    assert choose(system_of(ss.Semilinear(-1.0), y), name).name == name
