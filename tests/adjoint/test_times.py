"""Gradients with respect to the output times."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import sdesolve as ss
from tests.adjoint.test_checkpoint import OWN, TS, inputs, ode

F64 = torch.float64
WAYS = ["direct", "checkpoint", "backsolve", "reversible"]
TIMES = {"forwards": TS, "backwards": TS.flip(0), "own": OWN}


def forced(t, y):
    return torch.sin(y * t) - 0.5 * y


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("adjoint", ["direct", "checkpoint"])
@pytest.mark.parametrize("method", ["euler", "tsit5", "reversible_heun"])
def test_of_fixed_steps_they_are_those_of_the_steps(method, adjoint, times):
    """Long steps, whose solution is far from the equation's."""
    y0, _ = inputs()
    ts = TIMES[times].clone().requires_grad_()
    run = lambda ts, y0: ss.solve(ss.ODE(forced), y0, ts, dt=0.31, method=method, adjoint=adjoint).ys
    assert gradcheck(run, (ts, y0))
    if times != "own":
        assert gradgradcheck(run, (ts, y0))


@pytest.mark.parametrize(
    "adjoint, how, times",
    [
        pytest.param(adjoint, how, times, marks=[pytest.mark.traced] if how == "compiled" else [])
        for adjoint in WAYS
        for how in ("fixed", "adaptive", "shared", "compiled")
        for times in TIMES
        if not (how == "shared" and times == "own")
        and not (how == "compiled" and (times == "backwards" or adjoint in ("checkpoint", "reversible")))
    ],
)
def test_they_are_those_of_the_equation(adjoint, how, times):
    """dL/dt_i = dL/dy_i f(t_i, y_i), and dL/dt_0 = -dL/dy_0 f(t_0, y_0) of the whole."""
    options = {"dt": 1e-2} if how == "fixed" else {"rtol": 1e-9, "atol": 1e-9, "shared_steps": how == "shared"}
    y0, a = inputs()
    ts = TIMES[times].clone().requires_grad_()
    f = ode(a)
    compiled = how == "compiled"  # a method of fewer stages makes smaller graphs
    ys = ss.solve(f, y0, ts, adjoint=adjoint, compile=compiled, method="bosh3" if compiled else "tsit5", **options).ys
    weights = torch.linspace(-1, 1, ys.numel(), dtype=F64).reshape(ys.shape)
    found, at_start = torch.autograd.grad((ys * weights).sum(), (ts, y0))
    rows = ts.detach().expand(3, 3).T[..., None]  # (T, batch, 1)
    with torch.no_grad():
        slopes = torch.stack([f.f(t, y) for t, y in zip(rows, ys, strict=True)])
        wanted = (weights * slopes).sum(-1)
        wanted[0] = -((at_start - weights[0]) * slopes[0]).sum(-1)
    wanted = wanted.T if times == "own" else wanted.sum(-1)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("adjoint", ["direct", "checkpoint"])
def test_second_derivatives_of_adaptive_solves_are_those_of_the_equation(adjoint):
    """y' = a y t: y(t) = y_0 exp(a (t^2 - s^2) / 2) from s on."""
    y0 = torch.tensor([[0.7]], dtype=F64, requires_grad=True)
    a = torch.tensor(0.9, dtype=F64, requires_grad=True)
    ts = torch.tensor([0.2, 1.1], dtype=F64, requires_grad=True)
    ys = ss.solve(ss.ODE(lambda t, y: a * y * t), y0, ts, rtol=1e-11, atol=1e-11, adjoint=adjoint).ys
    exact = y0 * torch.exp(a * (ts[1] ** 2 - ts[0] ** 2) / 2)

    def second(value):
        first = torch.autograd.grad(value, (ts, a, y0), create_graph=True)
        again = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        rows = [torch.autograd.grad(x, (ts, a, y0), **again) for g in first for x in g.reshape(-1)]
        return torch.cat([x.reshape(-1) for row in rows for x in row])

    torch.testing.assert_close(second(ys[-1].sum()), second(exact.sum()), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("transform", ["jacrev", "jacfwd"])
def test_transforms_vary_the_times_of_fixed_steps(transform):
    run = lambda ts: ss.solve(ss.ODE(forced), torch.ones(2, 1, dtype=F64), ts, dt=0.1).ys
    found = getattr(torch.func, transform)(run)(TS)
    torch.testing.assert_close(found, torch.autograd.functional.jacobian(run, TS), rtol=1e-12, atol=1e-12)


def test_failed_trajectories_leave_no_nan():
    y0 = torch.tensor([[0.5], [4.0]], dtype=F64, requires_grad=True)
    ts = TS.clone().requires_grad_()
    sol = ss.solve(ss.ODE(lambda t, y: y * y), y0, ts, rtol=1e-6, on_failure="return")
    assert sol.status[1] != ss.Status.SUCCESS
    by_ts, by_y0 = torch.autograd.grad(sol.ys[-1, 0].sum(), (ts, y0))
    # y = 1 / (1 / y_0 - t + s)
    torch.testing.assert_close(by_ts, torch.tensor([-1.0, 0.0, 1.0], dtype=F64), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(by_y0, torch.tensor([[4.0], [0.0]], dtype=F64), rtol=1e-4, atol=1e-4)


def test_what_has_no_gradient_by_time_is_refused():
    ts = TS.clone().requires_grad_()
    y0, a = inputs()
    with pytest.raises(ValueError, match="ts: got times with a gradient for an SDE"):
        ss.solve(ss.SDE(lambda t, y: -y, lambda t, y: y), y0, ts, dt=0.1)
    with pytest.raises(ValueError, match=r"ts: got a tensor that torch.func.vmap maps over"):
        torch.func.vmap(lambda ts: ss.solve(ode(a), y0, ts, dt=0.1).ys)(TS[None])
    with pytest.raises(ss.CompileError, match="compile: got True with fixed steps and times that need a gradient"):
        ss.solve(ode(a), y0, ts, dt=0.1, compile=True)


@pytest.mark.parametrize("how", [{"dt": 0.05}, {"rtol": 1e-9, "atol": 1e-9}, {"rtol": 1e-9, "shared_steps": True}])
def test_gradients_through_dense_output(how):
    """By y0, by what the function reads, and by the time that is asked for."""
    y0, a = inputs()
    t = torch.tensor([0.1, 0.6, 0.95], dtype=F64, requires_grad=True)
    sol = ss.solve(ode(a), y0, TS, dense=True, **how)
    values = sol(t)
    found = torch.autograd.grad(values.sin().sum(), (y0, a, t))
    exact = ss.solve(ode(a), y0, torch.cat([TS[:1], t]), rtol=1e-11, atol=1e-11).ys[1:]
    wanted = torch.autograd.grad(exact.sin().sum(), (y0, a, t))
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=2e-4, atol=2e-4)
