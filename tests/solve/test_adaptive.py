"""Adaptive steps: the tolerance is what steers the error; SciPy and torchdiffeq as oracles."""

import math

import numpy as np
import pytest
import torch
import torchdiffeq
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import sdesolve as ss
from sdesolve.methods import METHODS
from tests.counted import Counted

F64 = torch.float64
ADAPTIVE = ["bosh3", "tsit5", "dopri5", "vern7", "dop853"]


def lotka_volterra(t, y):
    x, z = y[..., :1], y[..., 1:]
    return torch.cat([1.5 * x - x * z, x * z - 3 * z], -1)


def van_der_pol(t, y):
    x, v = y[..., :1], y[..., 1:]
    return torch.cat([v, (1 - x * x) * v - x], -1)


def pendulum(t, y):
    x, v = y[..., :1], y[..., 1:]
    return torch.cat([v, -torch.sin(x) - 0.2 * v + torch.cos(2 * t)], -1)


PROBLEMS = {
    "Lotka-Volterra": (lotka_volterra, [2.0, 1.0]),
    "van der Pol": (van_der_pol, [2.0, 0.0]),
    "pendulum": (pendulum, [1.0, 0.5]),
}
each = pytest.mark.parametrize("name", PROBLEMS)
TS = torch.linspace(0, 5, 6, dtype=F64)


def truth(name, y0, ts=TS):
    f = PROBLEMS[name][0]
    g = lambda t, y: f(torch.tensor(t), torch.as_tensor(y)).numpy()
    found = solve_ivp(g, (float(ts[0]), float(ts[-1])), y0, "DOP853", t_eval=ts.numpy(), rtol=1e-12, atol=1e-13)
    return torch.as_tensor(found.y.T)


@each
@pytest.mark.parametrize("method", ADAPTIVE)
def test_error_is_proportional_to_the_tolerance(name, method):
    """Hairer, Norsett & Wanner I, II.4: error control keeps error / tolerance about constant; over 4 to 6 decades."""
    f, y0 = PROBLEMS[name]
    y0, exact = torch.tensor([y0], dtype=F64), truth(name, y0)
    tolerances = [10.0**-k for k in range(4, 8 if method == "bosh3" else 10)]
    errors = []
    for tol in tolerances:
        # the long steps of the methods of high order would be cut to a few lengths by the output times
        control = ss.PID(tol, tol, interpolate=METHODS["ode", method].order > 5)
        sol = ss.solve(ss.ODE(f), y0, TS, method=method, controller=control)
        errors.append(float((sol.ys[:, 0] - exact).abs().max()))
    x, e = np.log(tolerances), np.log(errors)
    slope = np.polyfit(x, e, 1)[0]
    # a step of order q is judged by an estimate of order q - 1 and so has error ~ tol^(q / (q - 1)) a step; summed over
    # tol^(-1 / q) steps this gives exponents from q / (q + 1) to 1 + 1 / q around 1
    order = METHODS["ode", method].order
    assert order / (order + 1) - 0.1 < slope < 1 + 1 / order + 0.1, (slope, errors)
    # the problems amplify an error by less than 100 over this time
    assert all(error < 100 * tol for error, tol in zip(errors, tolerances, strict=True)), errors


@each
@settings(max_examples=4)
@given(scale=st.floats(0.5, 1.5))
def test_solutions_agree_with_scipys_dop853(name, scale):
    f, y0 = PROBLEMS[name]
    y0 = [scale * v for v in y0]
    batch = torch.tensor([y0, [v + 0.1 for v in y0]], dtype=F64)
    sol = ss.solve(ss.ODE(f), batch, TS, rtol=1e-9, atol=1e-10)
    for i in range(2):
        assert (sol.ys[:, i] - truth(name, batch[i].tolist())).abs().max() < 3e-7


@each
@pytest.mark.parametrize("tol", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_work_and_error_are_those_of_torchdiffeqs_dopri5(name, tol, method):
    """At the same tolerance and a batch of one: the same solution within it, at no more than 1.25 times the calls."""
    f, y0 = PROBLEMS[name]
    y0 = torch.tensor([y0], dtype=F64)
    ours, theirs = Counted(f), Counted(f)
    ts = TS[[0, -1]]
    sol = ss.solve(ss.ODE(ours), y0, ts, method=method, rtol=tol, atol=tol)
    peer = torchdiffeq.odeint(theirs, y0, ts, method="dopri5", rtol=tol, atol=tol)
    assert (sol.ys - peer).abs().max() < 200 * tol
    assert ours.calls <= 1.25 * theirs.calls + 12, (ours.calls, theirs.calls)


def test_every_trajectory_has_its_own_error_control():
    """A hundred calm trajectories beside a lively one: a norm over the batch would hide its error, ten times below."""
    rates = torch.full((101, 1), 0.1, dtype=F64)
    rates[17] = 20.0
    y0 = torch.ones(101, 1, dtype=F64)
    ode = ss.ODE(lambda t, y: rates * torch.cos(rates * t) * y)
    ts = torch.tensor([0.0, 2.0], dtype=F64)
    exact = torch.exp(torch.sin(rates * 2))
    own = ss.solve(ode, y0, ts, rtol=1e-6, atol=1e-6)
    shared = ss.solve(ode, y0, ts, rtol=1e-6, atol=1e-6, shared_steps=True)
    assert int(own.stats.steps[17]) > 10 * int(own.stats.steps[0])
    assert int(shared.stats.steps[0]) <= int(own.stats.steps[17]) + 5
    for sol in (own, shared):
        assert (sol.ys[-1] - exact).abs().max() < 3e-5


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_named_jump_costs_hardly_any_rejected_step(method, shared, backwards):
    """y' = y before the jump and -3 y + 1 behind it, at a time that no step meets by chance."""
    jump, ends = math.sqrt(2), [3.0, 0.0] if backwards else [0.0, 3.0]
    ode = ss.ODE(lambda t, y: torch.where(t < jump, y, 1 - 3 * y))
    y0 = torch.tensor([[0.5], [2.0]], dtype=F64)
    grow = lambda y, s: y * math.exp(s)
    relax = lambda y, s: (y - 1 / 3) * math.exp(-3 * s) + 1 / 3
    exact = grow(relax(y0, jump - 3), -jump) if backwards else relax(grow(y0, jump), 3 - jump)
    ts = torch.tensor(ends, dtype=F64)
    solve = lambda jumps: ss.solve(
        ode, y0, ts, method=method, controller=ss.PID(1e-8, 1e-8, jumps=jumps), shared_steps=shared
    )
    named, unnamed = solve([jump]), solve([])
    assert (
        (named.ys[-1] - exact).abs() < 1e-6 * (1 + exact.abs()) * (math.exp(3 * (3 - jump)) if backwards else 1)
    ).all()
    # unnamed, the step shrinks until the jump is lost in the tolerance
    assert (named.stats.rejected <= 4).all() and (unnamed.stats.rejected >= 8).all()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_jumps_at_the_ends_of_the_span_cost_no_rejected_step(method, backwards):
    """At its ends, too, the function is asked on the side of the span."""
    ends = [1.0, 0.0] if backwards else [0.0, 1.0]
    ode = ss.ODE(lambda t, y: torch.where((t <= 0) | (t >= 1), -1000.0, -1.0) * y)
    ts, y0 = torch.tensor(ends, dtype=F64), torch.ones(2, 1, dtype=F64)
    sol = ss.solve(ode, y0, ts, method=method, controller=ss.PID(1e-6, 1e-6, jumps=[0.0, 1.0]))
    calm = ss.solve(ss.ODE(lambda t, y: -y), y0, ts, method=method, rtol=1e-6, atol=1e-6)
    # the two clocks differ by a rounding unit
    assert torch.allclose(sol.ys, calm.ys, rtol=1e-13) and torch.equal(sol.stats.steps, calm.stats.steps)


def test_jumps_that_are_output_times_or_outside_the_span_are_harmless():
    ode = ss.ODE(lambda t, y: torch.where(t < 0.5, 1.0, -1.0) + 0 * y)
    ts = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    sol = ss.solve(ode, torch.zeros(2, 1, dtype=F64), ts, controller=ss.PID(1e-6, 1e-6, jumps=[-1.0, 0.5, 0.5, 7.0]))
    assert torch.allclose(sol.ys[:, :, 0], torch.tensor([[0.0], [0.5], [0.0]], dtype=F64).expand(3, 2), atol=1e-12)
    assert (sol.stats.rejected == 0).all()


@settings(max_examples=15)
@given(low=st.floats(0.01, 0.2), method=st.sampled_from(ADAPTIVE))
def test_no_step_is_longer_than_dt_max(low, method):
    sol = ss.solve(
        ss.ODE(lambda t, y: 0 * y), torch.ones(2, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64),
        method=method, controller=ss.PID(1e-3, 1e-3, dt_max=low), dense=True,
    )  # fmt: skip
    assert float(sol.dense.lengths.max()) <= low * (1 + 2e-3)
    # from the first step of 1e-6 on, f = 0 makes steps ten times longer each time
    assert (sol.stats.steps <= math.ceil(1 / low) + 7).all()


@settings(max_examples=15)
@given(h=st.floats(0.02, 0.9), method=st.sampled_from(ADAPTIVE))
def test_landing_leaves_no_step_of_less_than_half_its_length(h, method):
    """Two equal steps are taken to an output time, rather than a long and a tiny one."""
    sol = ss.solve(
        ss.ODE(lambda t, y: 0 * y), torch.ones(1, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64),
        method=method, controller=ss.PID(1e-3, 1e-3, dt_max=h), dt=h, dense=True,
    )  # fmt: skip
    assert float(sol.dense.lengths.min()) >= h / 2


@settings(max_examples=10)
@given(component=st.integers(0, 2), power=st.integers(3, 8))
def test_tolerances_may_differ_between_components(component, power):
    """A tight tolerance for one component tightens the steps; a tensor of equal tolerances changes nothing."""
    f = lambda t, y: torch.cos((1 + torch.arange(3, dtype=F64)) * t) * y
    y0, ts = torch.ones(2, 3, dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)
    solve = lambda atol: ss.solve(ss.ODE(f), y0, ts, rtol=0.0, atol=atol)
    loose = torch.full((3,), 1e-3, dtype=F64)
    assert torch.equal(solve(loose).ys, solve(1e-3).ys)
    tight = loose.clone()
    tight[component] = 10.0**-power
    exact = torch.exp(torch.sin((1 + torch.arange(3)) * 2.0) / (1 + torch.arange(3)))
    assert abs(solve(tight).ys[-1, 0, component] - exact[component]) < 30 * 10.0**-power
    assert (solve(tight).stats.steps >= solve(loose).stats.steps).all()
