"""Dense output: between the steps it is as accurate as the method's interpolant promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods import METHODS, Rosenbrock, names

F64 = torch.float64
#: implicit ones are measured in test_esdirk.py, by fewer steps
ODE_METHODS = [n for n in names("ode") if not (METHODS["ode", n].may_fail or METHODS["ode", n].adaptive_only)]
ADAPTIVE = ["bosh3", "tsit5", "dopri5", "vern7", "dop853"]
#: of the continuous extensions; the others are cubic Hermite interpolants
INTERPOLANT = {"tsit5": 4, "dopri5": 4, "vern7": 7, "dop853": 7, "rosenbrock23": 2, "rodas5p": 4}


def whirl(t, y):
    u, v = y[..., :1], y[..., 1:]
    speed = 2 * (u * u + v * v) / (1 + t)
    return torch.cat([-speed * v, speed * u], -1)


def exact(radius, t):
    """(Q, batch, 2) for t of shape (Q,)."""
    angle = 2 * radius * radius * torch.log(1 + torch.as_tensor(t, dtype=F64))[..., None]
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1)


RADIUS = torch.linspace(0.5, 1.2, 4, dtype=F64)
QUERIES = torch.linspace(0, 2, 401, dtype=F64)


def regression(steps, errors):
    """Slope of log error on log step."""
    x, y = torch.tensor(steps).log(), torch.tensor(errors).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


@pytest.mark.parametrize("name", ODE_METHODS)
def test_dense_error_falls_with_the_order_of_the_interpolant(name):
    """The global order is the smaller of the method's, p, and the local order of the interpolant, q + 1: q is 3 for the
    cubic Hermite interpolant, 4 for tsit5's and dopri5's own, 7 for vern7's and dop853's."""
    order = min(METHODS["ode", name].order, INTERPOLANT.get(name, 3) + 1)
    steps, errors = [2.0 / n for n in ((48, 64, 96, 128, 192) if order < 7 else (28, 36, 44, 52, 60))], []
    for dt in steps:
        ts = torch.tensor([0.0, 2.0], dtype=F64)
        sol = ss.solve(ss.ODE(whirl), exact(RADIUS, 0.0), ts, dt=dt, method=name, dense=True)
        errors.append(float((sol(QUERIES) - exact(RADIUS, QUERIES)).abs().max()))
    slope = regression(steps, errors)
    # from above where, as for tsit5, the leading error is tiny
    assert order - 0.2 < slope < order + 0.6, (slope, errors)


@pytest.mark.parametrize("name", ODE_METHODS)
def test_within_a_step_the_dense_error_is_of_the_local_order(name):
    """h^(q + 1), or h^(p + 1) where the method's own order is lower: nothing has been carried along."""
    order = 1 + min(METHODS["ode", name].order, INTERPOLANT.get(name, 3))
    steps, errors = [2.0**-k for k in ((6, 7, 8, 9) if order < 7 else (3, 3.5, 4, 4.5))], []
    for dt in steps:
        ts, t = torch.tensor([0.0, dt], dtype=F64), torch.linspace(0.1, 0.9, 9, dtype=F64) * dt
        sol = ss.solve(ss.ODE(whirl), exact(RADIUS, 0.0), ts, dt=dt, method=name, dense=True)
        errors.append(float((sol(t) - exact(RADIUS, t)).abs().max()))
    assert abs(regression(steps, errors) - order) < 0.2, errors


@pytest.mark.parametrize("name", ["tsit5", "vern7", "dop853"])
def test_gradients_go_through_dense_output(name):
    """Through the stages that it adds, too: of y' = -rate y at t between steps, d/drate y = -t y."""
    rate = torch.tensor(0.8, dtype=F64, requires_grad=True)
    y0, ts = torch.tensor([[1.0], [2.0]], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    sol = ss.solve(ss.ODE(lambda t, y: -rate * y), y0, ts, method=name, dt=1 / 16, dense=True)
    t = 0.47
    (found,) = torch.autograd.grad(sol(t).sum(), rate)
    assert abs(found + t * 3 * math.exp(-0.8 * t)) < (1e-8 if name == "tsit5" else 1e-13)


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("way", ["own", "shared", "own times", "backwards"])
@settings(max_examples=5)
@given(power=st.integers(4, 8))
def test_dense_output_between_adaptive_steps_is_within_the_tolerance(name, way, power):
    tol = 10.0**-power
    ts = torch.tensor([0.0, 1.1, 2.0], dtype=F64)
    radius = RADIUS
    if way == "backwards":
        ts = ts.flip(0)
    if way == "own times":
        ts = torch.stack([ts, ts * 0.9 + 0.2, ts * 1.2, ts + 0.1])
    y0 = (
        torch.stack([exact(radius, float(t))[i] for i, t in enumerate(ts[:, 0])])
        if ts.ndim == 2
        else exact(radius, float(ts[0]))
    )
    sol = ss.solve(ss.ODE(whirl), y0, ts, method=name, rtol=tol, atol=tol, dense=True, shared_steps=way == "shared")
    queries = torch.linspace(0.2, 2.0, 181, dtype=F64)
    assert (sol(queries) - exact(radius, queries)).abs().max() < 200 * tol
    if way == "own":
        assert len(sol.stats.accepted.unique()) > 1
    if ts.ndim == 1:
        # at the outputs it is the output, up to the rounding of the polynomial
        assert (sol(ts) - sol.ys).abs().max() < 1e-13


@settings(max_examples=10)
@given(name=st.sampled_from(ADAPTIVE), t=st.floats(0, 2))
def test_a_trajectory_is_interpolated_alike_alone_and_in_a_batch(name, t):
    ts = torch.tensor([0.0, 2.0], dtype=F64)
    y0 = exact(RADIUS, 0.0)
    together = ss.solve(ss.ODE(whirl), y0, ts, method=name, rtol=1e-4, atol=1e-4, dense=True)
    alone = ss.solve(ss.ODE(whirl), y0[2:3], ts, method=name, rtol=1e-4, atol=1e-4, dense=True)
    assert torch.equal(together(t)[2:3], alone(t))
    assert torch.equal(together(torch.tensor([t, t / 2], dtype=F64)), torch.stack([together(t), together(t / 2)]))


@pytest.mark.parametrize("name", [name for name in ODE_METHODS if not isinstance(METHODS["ode", name], Rosenbrock)])
def test_dense_output_is_continuous_with_a_continuous_derivative_equal_to_f(name):
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    sol = ss.solve(ss.ODE(whirl), exact(RADIUS, 0.0), ts, method=name, dt=0.125, dense=True)
    small = 2.0**-20
    for k in range(1, 8):
        left, at, right = sol(k / 8 - small), sol(k / 8), sol(k / 8 + small)
        f = whirl(torch.tensor(k / 8, dtype=F64), at)
        # one-sided differences have error |y''| small / 2, with |y''| < 60 here, and rounding 4 eps |y| / small
        bound = 60 * small + 1e-9
        assert ((at - left) / small - f).abs().max() < bound and ((right - at) / small - f).abs().max() < bound


def test_dense_output_does_not_change_the_solution():
    ts = torch.linspace(0, 2, 5, dtype=F64)
    for how in ({"dt": 0.1}, {"rtol": 1e-4}):
        for name in ADAPTIVE:
            plain = ss.solve(ss.ODE(whirl), exact(RADIUS, 0.0), ts, method=name, **how)
            dense = ss.solve(ss.ODE(whirl), exact(RADIUS, 0.0), ts, method=name, dense=True, **how)
            assert torch.equal(plain.ys, dense.ys)


def test_dense_output_across_a_jump_stays_on_its_side():
    jump = 1 / math.pi
    ode = ss.ODE(lambda t, y: torch.where(t < jump, 1.0, -1.0) + 0 * y)
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    sol = ss.solve(ode, torch.zeros(2, 1, dtype=F64), ts, controller=ss.PID(1e-6, 1e-6, jumps=[jump]), dense=True)
    t = torch.linspace(0, 1, 201, dtype=F64)
    wanted = torch.where(t < jump, t, 2 * jump - t)
    assert (sol(t)[..., 0] - wanted[:, None]).abs().max() < 1e-12
