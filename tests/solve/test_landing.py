"""Where steps end, how many there are, and where f is asked."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods import METHODS, names
from tests.methods.every_ode import each, each_adaptive, plain, problem_of, start_of

F32, F64 = torch.float32, torch.float64
ADAPTIVE = [name for name in names("ode") if METHODS["ode", name].error_order is not None]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("outputs", [2, 11, 101])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0), (1000.0, 1001.0)])
def test_steps_of_a_hundredth_over_a_unit_are_exactly_a_hundred(dtype, outputs, ends):
    ode = ss.solve(
        ss.ODE(lambda t, y: -y), torch.ones(2, 1, dtype=dtype), torch.linspace(*ends, outputs, dtype=dtype), dt=0.01
    )
    assert ode.stats.steps.tolist() == [100, 100]
    sde = ss.SDE(lambda t, y: -y, lambda t, y: torch.ones_like(y), additive=True)
    sol = ss.solve(sde, torch.ones(2, 1, dtype=dtype), torch.linspace(*ends, outputs, dtype=dtype), dt=0.01, seed=0)
    assert sol.stats.steps.tolist() == [100, 100]


@settings(max_examples=60)
@given(
    gaps=st.lists(st.floats(1e-3, 10), min_size=1, max_size=4),
    dt=st.floats(0.05, 20),
    start=st.floats(-5, 5),
    backwards=st.booleans(),
)
def test_every_output_interval_gets_ceil_of_gap_over_dt_equal_steps(gaps, dt, start, backwards):
    ts = start + (-1 if backwards else 1) * np.concatenate([[0], np.cumsum(gaps)])
    seen = []

    def f(t, y):
        seen.append(float(t))
        return 0 * y

    sol = ss.solve(ss.ODE(f), torch.zeros(1, 1, dtype=F64), torch.as_tensor(ts), dt=dt, method="euler")
    ratio = np.abs(np.diff(ts)) / dt
    slack = 1e-6 * ratio + 1e-12
    counts = np.ceil(ratio - slack).clip(1)
    # where gap / dt is a whole number up to rounding, both counts around it are right
    unsure = (np.abs(ratio - np.rint(ratio)) < 4 * slack).sum()
    assert abs(int(sol.stats.steps) - counts.sum()) <= unsure
    if not unsure:
        wanted = np.concatenate(
            [np.linspace(a, b, int(n), endpoint=False) for a, b, n in zip(ts, ts[1:], counts, strict=False)]
        )
        assert np.allclose(seen, wanted, rtol=0, atol=1e-12 * (1 + np.abs(ts).max()))


@pytest.mark.parametrize("how", [{"rtol": 1e-6, "atol": 1e-8}, {"dt": 0.013}], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_hundred_output_times_between_do_not_spoil_the_last_one(how, shared):
    """Outputs make steps shorter, never longer: the end is at least as accurate, and between it is as good."""
    y0, ts = torch.tensor([[1.0, 0.0], [0.3, 2.0]], dtype=F64), torch.linspace(0, 5, 101, dtype=F64)
    ode = ss.ODE(lambda t, y: torch.stack([y[:, 1], -torch.sin(y[:, 0]) - 0.1 * y[:, 1]], -1))
    many = ss.solve(ode, y0, ts, shared_steps=shared, **how)
    few = ss.solve(ode, y0, ts[[0, -1]], shared_steps=shared, **how)
    truth = ss.solve(ode, y0, ts, rtol=1e-12, atol=1e-13).ys
    error = (few.ys[-1] - truth[-1]).abs().max()
    assert error < 2e-5
    assert (many.ys[-1] - truth[-1]).abs().max() <= error + 1e-12  # rounding, and the error of the reference
    assert (many.ys - truth).abs().max() <= 2e-5
    # landing costs at most one step an output beyond those that the tolerance asks for
    assert (many.stats.steps <= few.stats.steps + 100 + 10).all()


def recorded(kind, t0, t1, dtype, outputs=3, batch=2, own=False, flat=False, adjoint="direct", **how):
    """All times at which the functions of a solve from t0 to t1 are asked. kind : "SDE", or that of an ODE."""
    seen = []
    note = lambda t: seen.append(plain(t).reshape(-1).double())
    # there and back in a few steps, and stable enough both ways
    rate = 1e-7 if flat else min(1.0, 3 / abs(t1 - t0))

    def g(t, y):
        note(t)
        return rate**0.5 * torch.cos(y)

    y0 = torch.linspace(0.5, 1, batch, dtype=dtype)[:, None].requires_grad_()
    if kind == "SDE":
        problem = ss.SDE(problem_of("ODE", rate, note=note).f, g, calculus="stratonovich")
    else:
        problem, y0 = problem_of(kind, rate, note=note), start_of(kind, y0)
    # outputs in float64 must be numbers of the state's precision, in which f is asked
    ts = torch.linspace(t0, t1, outputs, dtype=F64).to(dtype)
    ts = ts.expand(batch, outputs) if own else ts
    sol = ss.solve(problem, y0, ts, adjoint=adjoint, on_failure="return", **how)
    if adjoint != "direct":
        sol.ys.sum().backward()
    times = torch.cat(seen)
    return float(times.min()), float(times.max()), sorted([float(ts[..., 0].min()), float(ts[..., -1].min())])


@st.composite
def spans(draw, dtype):
    """Spans near zero, far from it, and from far to near; some a few rounding units long; forwards and backwards."""
    eps = torch.finfo(dtype).eps
    if draw(st.integers(0, 3)) == 0:
        far, near = draw(st.floats(10, 1000)), draw(st.floats(-0.1, 0.1))
        far, near = (float(torch.tensor(t, dtype=dtype)) for t in (draw(st.sampled_from([-1, 1])) * far, near))
        return draw(st.sampled_from([(far, near), (near, far)]))
    t0 = draw(st.one_of(st.floats(-10, 10), st.sampled_from([0.0, 1000.0, -12345.6, 1e6, 1024 * (1 + 4 * eps)])))
    length = draw(st.one_of(st.floats(0.01, 10), st.floats(6, 1000).map(lambda k: k * eps * max(abs(t0), 1e-3))))
    t0 = float(torch.tensor(t0, dtype=dtype))
    t1 = float(torch.tensor(t0 + draw(st.sampled_from([-1, 1])) * max(length, 6 * eps * abs(t0)), dtype=dtype))
    return t0, t1


precisions = st.sampled_from([F32, F64])


@each
@settings(max_examples=6)
@given(data=st.data(), dtype=precisions, own=st.booleans(), steps=st.floats(0.5, 12), dense=st.booleans())
def test_fixed_steps_never_ask_f_outside_the_span(kind, name, data, dtype, own, steps, dense):
    t0, t1 = data.draw(spans(dtype))
    dense = dense and METHODS["ode", name].has_dense
    low, high, ends = recorded(kind, t0, t1, dtype, method=name, own=own, dt=abs(t1 - t0) / steps, dense=dense)
    assert ends[0] <= low and high <= ends[1]


@each_adaptive
@settings(max_examples=6)
@given(
    data=st.data(),
    dtype=precisions,
    clocks=st.sampled_from(["own times", "own", "shared", "one"]),
    first=st.sampled_from([None, 0.3, 100.0]),
    flat=st.booleans(),
    jump=st.sampled_from([None, 0.0, 0.37, 1.0]),
    dense=st.booleans(),
)
def test_adaptive_steps_never_ask_f_outside_the_span(kind, name, data, dtype, clocks, first, flat, jump, dense):
    t0, t1 = data.draw(spans(dtype))
    own = clocks == "own times"
    jumps = () if jump is None or own else (t0 + jump * (t1 - t0),)
    low, high, ends = recorded(
        kind, t0, t1, dtype, method=name, own=own, batch=1 if clocks == "one" else 2, dt=first, flat=flat,
        shared_steps=clocks == "shared", controller=ss.PID(1e-3, 1e-3, jumps=jumps),
        dense=dense and METHODS["ode", name].has_dense,
    )  # fmt: skip
    assert ends[0] <= low and high <= ends[1]


@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_stages_of_steps_a_few_rounding_units_long_stay_within_the_span(method):
    """Around a power of two, where the rounding unit behind is twice that ahead: t_0 + 0.98 h may round beyond t_1."""
    above, below = float(torch.finfo(F32).eps) * 32, float(torch.finfo(F32).eps) * 16
    for i, j, steps in itertools.product(range(1, 5), range(1, 9), range(1, 7)):
        t0, t1 = 32 + i * above, 32 - j * below
        low, high, ends = recorded("ODE", t0, t1, F32, method=method, outputs=2, dt=(t0 - t1) / steps)
        assert ends[0] <= low and high <= ends[1], (i, j, steps)


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@settings(max_examples=30)
@given(data=st.data(), own=st.booleans(), adaptive=st.booleans())
def test_the_backward_solve_never_asks_f_outside_the_span(dtype, data, own, adaptive):
    t0, t1 = data.draw(spans(dtype))
    how = {"rtol": 1e-3, "atol": 1e-3} if adaptive else {"dt": abs(t1 - t0) / 3.3}
    low, high, ends = recorded("ODE", t0, t1, dtype, own=own, adjoint="backsolve", **how)
    assert ends[0] <= low and high <= ends[1]


@settings(max_examples=30)
@given(data=st.data(), own=st.booleans(), steps=st.floats(0.5, 12))
def test_an_sde_is_never_asked_outside_the_span(data, own, steps):
    t0, t1 = data.draw(spans(F32).filter(lambda s: abs(s[1] - s[0]) > 1e-2))
    low, high, ends = recorded("SDE", t0, t1, F32, own=own, dt=abs(t1 - t0) / steps, seed=0)
    assert ends[0] <= low and high <= ends[1]


@settings(max_examples=20)
@given(jump=st.floats(0.1, 0.9), backwards=st.booleans(), method=st.sampled_from(ADAPTIVE))
def test_f_is_asked_strictly_on_one_side_of_a_jump_at_a_time(jump, backwards, method):
    """No step reaches across: in the order of the solve the times of each step lie on one side."""
    seen = []

    def f(t, y):
        seen.append(float(t))
        return torch.where(t < jump, 1.0, -1.0) * y

    ts = torch.tensor([1.0, 0.0] if backwards else [0.0, 1.0], dtype=F64)
    ss.solve(ss.ODE(f), torch.ones(1, 1, dtype=F64), ts, method=method, controller=ss.PID(1e-4, 1e-6, jumps=[jump]))
    seen = seen[2:]  # behind the choice of the first step
    assert jump not in seen
    before = [t > jump if backwards else t < jump for t in seen]
    assert before == sorted(before, reverse=True) and any(before) and not all(before)
