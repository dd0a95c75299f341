"""ss.PID(interpolate=True): outputs read off the dense output of the steps, which do not stop at them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss

F64 = torch.float64
RATES = torch.tensor([[0.7], [2.0], [5.0]], dtype=F64)


def turning(t, y):
    """Each trajectory turns at a rate of its own."""
    return RATES[: len(y)] * torch.stack([y[:, 1], -y[:, 0]], 1)


def exact(y0, t):
    """(T, batch, 2) at times (T,) or (T, batch) since the start."""
    angle = RATES[:, 0] * (t if t.ndim == 2 else t[:, None])
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * y0[:, 0] + s * y0[:, 1], c * y0[:, 1] - s * y0[:, 0]], -1)


def start():
    return torch.tensor([[1.0, 0.0], [0.3, -1.0], [-0.5, 0.5]], dtype=F64)


def pid(tolerance, **more):
    return ss.PID(tolerance, tolerance, interpolate=True, **more)


@settings(max_examples=25, deadline=None)
@given(
    times=st.lists(st.integers(1, 999), min_size=1, max_size=60, unique=True),
    shared=st.booleans(),
    backwards=st.booleans(),
    graph=st.booleans(),
    method=st.sampled_from(["tsit5", "dopri5", "vern7", "dop853", "bosh3", "heun"]),
)
def test_outputs_are_right_and_cost_no_steps(times, shared, backwards, graph, method):
    tolerance = 1e-4 if method == "heun" else 1e-7
    ts = torch.tensor([0, *sorted(times), 1000], dtype=F64) / 500
    ts = 2 - ts if backwards else ts
    y0 = start().requires_grad_(graph)
    run = lambda times, control: ss.solve(
        ss.ODE(turning), y0, times, method=method, controller=control, shared_steps=shared
    )
    sol, two = run(ts, pid(tolerance)), run(ts[[0, -1]], ss.PID(tolerance, tolerance))
    assert torch.equal(sol.stats.accepted, two.stats.accepted)
    assert torch.equal(sol.stats.rejected, two.stats.rejected)
    assert torch.equal(sol.ys[-1], two.ys[-1])
    assert torch.equal(sol.ys[0], y0)
    assert sol.ys.requires_grad == graph
    torch.testing.assert_close(sol.ys, exact(y0, ts - ts[0]), rtol=0, atol=100 * tolerance)


def test_times_of_each_trajectory_s_own():
    ts = torch.linspace(0, 1, 41, dtype=F64) * torch.tensor([[1.0], [3.0], [0.2]], dtype=F64)
    sol = ss.solve(ss.ODE(turning), start(), ts, controller=pid(1e-8))
    torch.testing.assert_close(sol.ys, exact(start(), ts.T), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_one_trajectory_and_complex_states(dtype):
    y0 = torch.tensor([1.0, 1.0j], dtype=dtype)
    rate = torch.tensor([1.0j, -0.5 + 2.0j], dtype=dtype)
    ts = torch.linspace(0, 3, 101, dtype=F64)
    sol = ss.solve(ss.ODE(lambda t, y: rate * y, batched=False), y0, ts, controller=pid(1e-5))
    wanted = (y0 * torch.exp(rate * ts[:, None])).to(dtype)
    torch.testing.assert_close(sol.ys, wanted, rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("shared", [True, False])
def test_steps_end_on_jumps_all_the_same(shared, dtype):
    """y' = 1 up to t = 0.3 and -1 behind: on neither side is a step's polynomial wrong; outputs on the jump too."""
    f = lambda t, y: torch.where(t < 0.3, 1.0, -1.0).to(dtype) * torch.ones_like(y)
    ts = torch.linspace(0, 1, 11, dtype=dtype)
    control = pid(1e-5, jumps=(0.3,))
    sol = ss.solve(ss.ODE(f), torch.zeros(2, 1, dtype=dtype), ts, controller=control, shared_steps=shared)
    wanted = torch.where(ts < 0.3, ts, 0.6 - ts)[:, None, None].expand(-1, 2, 1)
    torch.testing.assert_close(sol.ys, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("shared", [True, False])
def test_a_trajectory_that_fails_leaves_the_others_alone(shared, graph):
    """y' = y^2 is 1 / (1/y0 - t), infinite at t = 1 for y0 = 1."""
    y0 = torch.tensor([[0.1], [1.0], [0.5]], dtype=F64).requires_grad_(graph)
    ts = torch.linspace(0, 1.5, 31, dtype=F64)
    sol = ss.solve(ss.ODE(lambda t, y: y**2), y0, ts, controller=pid(1e-8), shared_steps=shared, on_failure="return")
    assert sol.status.tolist()[0] == sol.status.tolist()[2] == ss.Status.SUCCESS
    assert sol.status[1] != ss.Status.SUCCESS
    wanted = 1 / (1 / y0.detach() - ts[:, None, None])
    good = torch.tensor([0, 2])
    torch.testing.assert_close(sol.ys[:, good], wanted[:, good], rtol=1e-5, atol=0)
    reached = ts < 0.9
    torch.testing.assert_close(sol.ys[reached, 1], wanted[reached, 1], rtol=1e-5, atol=0)
    assert sol.ys[ts > 1.01, 1].isnan().all()
    if graph:
        (found,) = torch.autograd.grad(sol.ys[-1, good].sum(), y0)
        torch.testing.assert_close(found[good], wanted[-1, good] ** 2 / y0.detach()[good] ** 2, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shared", [True, False])
def test_large_times_are_as_exact_as_small_ones(shared):
    """An equation without t, solved in float32 from 0 and from 1e6 on, at output times that float32 cannot tell."""
    ts = torch.linspace(0, 1, 101, dtype=F64)
    y0, ode = start().float(), ss.ODE(lambda t, y: turning(t, y).to(y.dtype))
    here, there = (
        ss.solve(ode, y0, origin + ts, controller=pid(1e-5), shared_steps=shared, dense=True) for origin in (0.0, 1e6)
    )
    torch.testing.assert_close(there.ys, here.ys, rtol=0, atol=5e-6)
    torch.testing.assert_close(there(1e6 + ts), here(ts), rtol=0, atol=5e-6)
    fixed = [ss.solve(ode, y0, origin + ts[[0, -1]], dt=0.1, dense=True) for origin in (0.0, 1e6)]
    torch.testing.assert_close(fixed[1](1e6 + ts), fixed[0](ts), rtol=0, atol=5e-6)


def test_coupled_methods_are_read_as_well_as_the_method_itself():
    """Error over tolerance, of the method and of its reversible form."""
    ts = torch.linspace(0, 2, 61, dtype=F64)
    tsit5 = ss.methods.METHODS["ode", "tsit5"]
    for tolerance in (1e-6, 1e-10):
        errors = [
            (
                ss.solve(ss.ODE(turning), start(), ts, controller=pid(tolerance), method=method, shared_steps=True).ys
                - exact(start(), ts)
            )
            .abs()
            .max()
            for method in (tsit5, ss.methods.Coupled(tsit5))
        ]
        assert errors[1] < 1.5 * errors[0]


def test_dense_output_may_be_kept_besides():
    ts = torch.linspace(0, 2, 17, dtype=F64)
    sol = ss.solve(ss.ODE(turning), start(), ts, controller=pid(1e-8), dense=True)
    torch.testing.assert_close(sol(ts[1:-1]), sol.ys[1:-1], rtol=0, atol=1e-14)


def test_interrupted_solves_keep_what_was_passed():
    ts = torch.linspace(0, 2, 201, dtype=F64)

    def f(t, y):
        if (t > 1).any():
            raise KeyboardInterrupt
        return turning(t, y)

    with pytest.raises(ss.SolveInterrupted) as caught:
        ss.solve(ss.ODE(f), start(), ts, controller=pid(1e-8), shared_steps=True)
    ys = caught.value.solution.ys
    done = int(torch.isfinite(ys[:, 0, 0]).sum())
    assert 80 < done <= 101
    assert ys[done:].isnan().all()
    torch.testing.assert_close(ys[:done], exact(start(), ts)[:done], rtol=0, atol=1e-6)


def test_evaluations_are_those_that_were_made():
    calls = []

    def f(t, y):
        calls.append(1)
        return turning(t, y)

    ts = torch.linspace(0, 2, 51, dtype=F64)
    for method in ("tsit5", "heun", "dop853"):
        calls.clear()
        stats = ss.solve(ss.ODE(f), start(), ts, method=method, controller=pid(1e-4), shared_steps=True).stats
        assert int(stats.drift_evaluations.max()) == len(calls)


def test_requests_that_make_no_sense():
    y0, ts = start(), torch.linspace(0, 1, 5, dtype=F64)
    with pytest.raises(TypeError, match="interpolate"):
        ss.PID(interpolate=1)
    with pytest.raises(ss.CompileError, match="interpolate"):
        ss.solve(ss.ODE(turning), y0, ts, controller=pid(1e-5), compile=True)
    sde = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 + 0 * y, additive=True)
    with pytest.raises(ValueError, match=r"interpolate.*path"):
        ss.solve(sde, y0, ts, controller=pid(1e-2), seed=0)


def test_the_order_of_what_is_read_between_the_steps():
    """With steps of one length, the error at their middles falls with the fifth power, as that of tsit5 itself."""
    errors, counts = [], [64, 128, 256, 512]
    for n in counts:
        h = 2.0 / n
        ts = torch.tensor([0.0, *((np.arange(n) + 0.5) * h), 2.0], dtype=F64)
        control = pid(1e3, dt_max=h * (1 + 1e-12), dt_min=h * (1 - 1e-3))
        sol = ss.solve(ss.ODE(turning), start(), ts, controller=control, dt=h, shared_steps=True)
        assert sol.stats.accepted[0] in (n, n + 1)
        errors.append(float((sol.ys - exact(start(), ts)).abs().max()))
    slope = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(5, abs=0.2)
