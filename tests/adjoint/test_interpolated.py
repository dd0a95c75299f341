"""Gradients through outputs that steps pass over, each way, and the lumps of the continuous adjoint."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

import sdesolve as ss
from sdesolve.adjoint.lumps import AMPLIFICATION, STRIDE, choose_nodes, lumps
from sdesolve.methods import METHODS

F64 = torch.float64
TS = torch.linspace(0, 1.6, 33, dtype=F64)
OWN = TS * torch.tensor([[1.0], [0.6], [1.4]], dtype=F64)


def inputs():
    y0 = torch.linspace(-0.5, 1.0, 6, dtype=F64).reshape(3, 2).requires_grad_()
    a = torch.tensor([[0.3, 1.0], [-1.2, 0.1]], dtype=F64, requires_grad=True)
    return y0, a


def ode(a):
    return ss.ODE(lambda t, y: torch.sin(2 * (a * y[:, None, :]).sum(-1)) + torch.cos(3 * t))


def switched(a):
    """Right-hand side that jumps at t = 0.6."""
    return ss.ODE(lambda t, y: torch.tanh((a * y[:, None, :]).sum(-1)) * torch.where(t < 0.6, 1.0, -2.0))


CASES = {
    "shared": (ode, TS, {"shared_steps": True}),
    "own clocks": (ode, TS, {}),
    "own times": (ode, OWN, {}),
    "backwards": (ode, TS.flip(0), {"shared_steps": True}),
    "backwards, own clocks": (ode, TS.flip(0), {}),
    "a jump": (switched, TS, {"shared_steps": True, "jumps": (0.6,)}),
    "a jump, own clocks": (switched, TS, {"jumps": (0.6,)}),
    "a jump on an output": (
        switched,
        torch.tensor([*TS[:12].tolist(), 0.6, *TS[12:].tolist()], dtype=F64),
        {"shared_steps": True, "jumps": (0.6,)},
    ),
    "few outputs": (ode, TS[[0, 5, 6, 30, 32]], {"shared_steps": True}),
}


def gradients(case, adjoint, tolerance=1e-6, **options):
    make, ts, more = CASES[case]
    more = {**more, **options}
    control = ss.PID(tolerance, tolerance, interpolate=True, jumps=more.pop("jumps", ()))
    y0, a = inputs()
    ys = ss.solve(make(a), y0, ts, controller=control, adjoint=adjoint, **more).ys
    weights = torch.cos(torch.arange(ys.numel(), dtype=F64)).reshape(ys.shape)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad((weights * ys).sum(), (y0, a))])


@pytest.mark.parametrize("steps", [1, 3, None])
@pytest.mark.parametrize("method", ["tsit5", "bosh3"])
@pytest.mark.parametrize("case", CASES)
def test_checkpoint_is_direct(case, method, steps):
    found = gradients(case, ss.Checkpoint(steps), 1e-5, method=method)
    torch.testing.assert_close(found, gradients(case, "direct", 1e-5, method=method), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["tsit5", "heun", "reversible_heun"])
@pytest.mark.parametrize("case", [case for case in CASES if "jump" not in case])
def test_reversible_is_direct(case, name):
    way = ss.Reversible()
    method = (
        METHODS["ode", name] if name == "reversible_heun" else ss.methods.Coupled(METHODS["ode", name], way.coupling)
    )
    direct = gradients(case, "direct", 1e-4, method=method)
    torch.testing.assert_close(gradients(case, way, 1e-4, method=name), direct, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_backsolve_tightens_with_the_tolerance(case):
    wanted = gradients(case, "direct", 1e-11)
    errors = [float((gradients(case, "backsolve", tol) - wanted).abs().max()) for tol in (1e-4, 1e-6, 1e-8)]
    assert errors[0] < 3e-2 and errors[1] < 3e-4 and errors[2] < 3e-6


@pytest.mark.parametrize("case", ["shared", "own clocks", "a jump"])
def test_backsolve_stops_at_few_outputs(case):
    """Of 801 outputs: evaluations on the way back, against those of a solve with two."""

    def calls(ts):
        make, _, more = CASES[case]
        more, made = dict(more), [0]
        y0, a = inputs()
        problem = make(a)

        def counted(t, y):
            made[0] += 1
            return problem.f(t, y)

        control = ss.PID(1e-6, 1e-6, interpolate=True, jumps=more.pop("jumps", ()))
        ys = ss.solve(ss.ODE(counted), y0, ts, controller=control, adjoint="backsolve", **more).ys
        before = made[0]
        ys.square().mean().backward()
        return made[0] - before

    assert calls(torch.linspace(0, 1.6, 801, dtype=F64)) < 3 * calls(TS[[0, -1]])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("size", [0.0, 1e-6])
def test_backsolve_sees_gradients_that_move_where_the_state_does_not(size, shared):
    """At an equilibrium of y' = A y the solve takes steps of any length, but dy(t)/dy0 = exp(A t) turns."""
    a = torch.tensor([[0.0, 30.0], [-30.0, 0.0]], dtype=F64)
    ts = torch.linspace(0, 3, 301, dtype=F64)
    y0 = torch.full((2, 2), size, dtype=F64, requires_grad=True)
    control = ss.PID(1e-8, 1e-8, interpolate=True)
    sol = ss.solve(ss.ODE(lambda t, y: y @ a.T), y0, ts, controller=control, adjoint="backsolve", shared_steps=shared)
    (found,) = torch.autograd.grad(sol.ys.sum(), y0)
    wanted = torch.stack([torch.linalg.matrix_exp(a * t) for t in ts]).sum((0, 1))
    torch.testing.assert_close(found, wanted.expand(2, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seminorm", [True, False])
@pytest.mark.parametrize("count", [2, 201])
def test_backsolve_sees_parameters_that_move_nothing_yet(count, seminorm):
    """y' = w sin(20 t) at w = 0: y stands still, and dy(t)/dw = (1 - cos(20 t)) / 20."""
    ts = torch.linspace(0, 5, count, dtype=F64)
    w = torch.zeros(1, 1, dtype=F64, requires_grad=True)
    control = ss.PID(1e-7, 1e-7, interpolate=True)
    way = ss.Backsolve(seminorm=seminorm)
    ode = ss.ODE(lambda t, y: w * torch.sin(20 * t) + 0 * y)
    (found,) = torch.autograd.grad(
        ss.solve(ode, torch.zeros(1, 1, dtype=F64), ts, controller=control, adjoint=way).ys.sum(), w
    )
    wanted = ((1 - torch.cos(20 * ts)) / 20).sum()
    # a hundred times the tolerance, or the tolerance, for each of some ten steps
    torch.testing.assert_close(found.sum(), wanted, rtol=1e-5, atol=1e-5 if seminorm else 1e-6)


@pytest.mark.parametrize("interpolate", [True, False])
@pytest.mark.parametrize("adjoint", ["direct", "checkpoint", "reversible", "backsolve"])
def test_a_sample_that_is_nan_leaves_the_gradients_of_others_alone(adjoint, interpolate):
    rates = torch.tensor([[torch.nan], [1.0]], dtype=F64)
    y0 = torch.ones(2, 1, dtype=F64, requires_grad=True)
    control = ss.PID(1e-8, 1e-8, interpolate=interpolate)
    ode = ss.ODE(lambda t, y: -rates * y)
    ts = torch.linspace(0, 2, 5, dtype=F64)
    sol = ss.solve(ode, y0, ts, controller=control, adjoint=adjoint, on_failure="return")
    (found,) = torch.autograd.grad(sol.ys[:, 1].sum(), y0)
    torch.testing.assert_close(found[:, 0], torch.stack([0 * ts.sum(), torch.exp(-ts).sum()]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("how", [{"dt": 0.01}, {"rtol": 1e-7}, {"controller": ss.PID(1e-7, 1e-7, interpolate=True)}])
@pytest.mark.parametrize("adjoint", ["direct", "checkpoint", "reversible", "backsolve"])
def test_states_without_dimensions(adjoint, how):
    """y' = -y^2 from y0: 1 / (1 / y0 + t)."""
    y0, ts = torch.tensor(2.0, dtype=F64, requires_grad=True), torch.linspace(0, 1, 5, dtype=F64)
    ys = ss.solve(ss.ODE(lambda t, y: -y * y, batched=False), y0, ts, adjoint=adjoint, **how).ys
    (found,) = torch.autograd.grad(ys.sum(), y0)
    torch.testing.assert_close(found, (1 / (1 + 2 * ts) ** 2).sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("adjoint", ["direct", "checkpoint"])
def test_gradcheck(adjoint, shared):
    def run(y0, a):
        control = ss.PID(1e-2, 1e-2, interpolate=True, dt_min=0.2, dt_max=0.21)
        return ss.solve(ode(a), y0, TS[::4], dt=0.2, controller=control, adjoint=adjoint, shared_steps=shared).ys

    gradcheck(run, inputs(), atol=1e-6)
    gradgradcheck(run, inputs(), atol=1e-5)


def test_gradients_by_the_times():
    """dy(t_i)/dt_i = f(t_i, y(t_i))."""
    ts = TS.clone().requires_grad_()
    y0, a = inputs()
    control = ss.PID(1e-8, 1e-8, interpolate=True)
    ys = ss.solve(ode(a), y0, ts, controller=control).ys
    i = 13
    (found,) = torch.autograd.grad(ys[i, 1].sum(), ts)
    wanted = torch.zeros_like(ts)
    with torch.no_grad():
        wanted[i] = ode(a).f(ts[i], ys[i])[1].sum()
    torch.testing.assert_close(found[1:], wanted[1:], rtol=1e-6, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(2, 60), sign=st.sampled_from([1.0, -1.0]))
def test_lumps_of_polynomials_are_exact(data, count, sign):
    """sum g_i y(t_i) for polynomials y of degree 3, which two nodes serve already, and 5 on three evenly spaced;
    no weight is large."""
    even = data.draw(st.booleans())
    gaps = data.draw(st.lists(st.just(0.1) if even else st.floats(1e-6, 1.0), min_size=count - 1, max_size=count - 1))
    ts = sign * np.concatenate([[0.0], np.cumsum(gaps)])
    rate = data.draw(st.floats(0.1, 3.0))
    progress = np.abs(ts)[:, None] * np.array([rate, 0.5 * rate])
    jumps = tuple(data.draw(st.lists(st.sampled_from(ts[1:-1].tolist()), max_size=2, unique=True)) if count > 2 else ())
    stretches = choose_nodes(ts, progress, jumps)
    flat = [i for nodes in stretches for i in nodes]
    assert flat == sorted(set(flat)) and flat[0] == 0 and flat[-1] == count - 1
    gap = np.diff(progress, axis=0).max()
    for nodes in stretches:
        assert len(nodes) == 1 or np.diff(progress[nodes], axis=0).max() <= STRIDE + gap
    grads = torch.tensor(data.draw(st.lists(st.floats(-1, 1), min_size=count, max_size=count)), dtype=F64)[:, None]
    at = lumps(ts, grads, stretches)
    x = ts / np.abs(ts[-1])
    for degree in range(6 if even and not jumps and count > 2 else 4):
        values = torch.tensor(x**degree)[:, None]
        slopes = torch.tensor(degree * x ** max(degree - 1, 0) / np.abs(ts[-1]))[:, None]
        found = sum(
            (lump.value * values[i]).sum() + (0 if lump.slope is None else (lump.slope * slopes[i]).sum())
            for i, lump in at.items()
        )
        torch.testing.assert_close(found, (grads * values).sum(), rtol=0, atol=1e-10)
    assert max(float(lump.value.abs()) for lump in at.values()) <= 1 + AMPLIFICATION * count
