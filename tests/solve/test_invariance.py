"""What must not change a solution: the batch, the order of trajectories, the origin of time, units, and the dtype."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss

F32, F64 = torch.float32, torch.float64
both = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)


def starts(seed, batch, *state, dtype=F64):
    return torch.randn(batch, *state, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pendulum(t, y):
    """Elementwise in the batch; every trajectory needs steps of its own."""
    x, v = y[..., :1], y[..., 1:]
    return torch.cat([v, -4 * torch.sin(x) - 0.1 * torch.tanh(v) + torch.cos(t)], -1)


def itos(noise):
    g = {
        "diagonal": lambda t, y: 0.3 * torch.cos(y) + 0.1 * t,
        "scalar": lambda t, y: 0.3 * torch.cos(y) + 0.1 * t,
        "general": lambda t, y: torch.stack([0.3 * torch.cos(y), 0.2 * y, 0.1 + 0 * y], -1),
    }[noise]
    return ss.SDE(lambda t, y: torch.sin(y) - t * y, g, noise=noise)


@both
@pytest.mark.parametrize("dt", [None, 0.05], ids=["adaptive", "fixed"])
@pytest.mark.parametrize("method", ["bosh3", "tsit5", "dopri5"])
def test_a_trajectory_of_an_ode_is_bitwise_the_same_alone_in_8_and_in_1000(dtype, dt, method):
    y0 = 2 * starts(0, 1000, 2, dtype=dtype)
    ts = torch.linspace(0, 2, 5, dtype=dtype)
    tolerances = {} if dt else {"rtol": 1e-4, "atol": 1e-4}

    def run(y):
        sol = ss.solve(ss.ODE(pendulum), y, ts, dt=dt, method=method, **tolerances)
        return sol.ys, sol.stats.steps

    ys, steps = run(y0)
    assert dt is not None or len(steps.unique()) > 3
    for first in (0, 496, 992):
        eight, steps8 = run(y0[first : first + 8])
        assert torch.equal(eight, ys[:, first : first + 8]) and torch.equal(steps8, steps[first : first + 8])
    for i in (0, 7, 500, 997, 998, 999):
        alone, steps1 = run(y0[i : i + 1])
        assert torch.equal(alone, ys[:, i : i + 1]) and torch.equal(steps1, steps[i : i + 1])


@both
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize(
    "calculus, method",
    [("ito", "euler_maruyama"), ("ito", None), ("stratonovich", "heun")],
    ids=["euler_maruyama", "ito default", "heun"],
)
def test_a_trajectory_of_an_sde_is_bitwise_the_same_alone_in_8_and_in_1000(dtype, noise, calculus, method):
    sde = itos(noise).to_calculus(calculus)
    y0, ids = starts(0, 1000, 3, dtype=dtype), torch.randperm(10**6, generator=torch.Generator().manual_seed(1))[:1000]
    ts = torch.linspace(0, 1, 4, dtype=dtype)
    run = lambda rows: ss.solve(sde, y0[rows], ts, dt=0.1, seed=5, paths=ids[rows], method=method).ys
    ys = run(slice(None))
    assert torch.isfinite(ys).all()
    for first in (0, 501, 992):
        assert torch.equal(run(slice(first, first + 8)), ys[:, first : first + 8])
    for i in (0, 3, 998, 999):
        assert torch.equal(run(slice(i, i + 1)), ys[:, i : i + 1])


@settings(max_examples=10)
@given(order=st.permutations(range(9)), seed=seeds)
def test_permuting_trajectories_permutes_the_solution(order, seed):
    order = torch.tensor(order)
    y0, ts = starts(seed, 9, 2), torch.linspace(0, 1, 3, dtype=F64)
    ode = lambda y: ss.solve(ss.ODE(pendulum), y, ts, rtol=1e-5)
    assert torch.equal(ode(y0[order]).ys, ode(y0).ys[:, order])
    assert torch.equal(ode(y0[order]).stats.steps, ode(y0).stats.steps[order])
    sde = lambda y, p: ss.solve(itos("general"), y, ts, dt=0.1, seed=1, paths=p).ys
    assert torch.equal(sde(y0[order], order), sde(y0, torch.arange(9))[:, order])


@settings(max_examples=10)
@given(seed=seeds)
def test_shared_steps_do_not_depend_on_the_order_of_trajectories(seed):
    y0, ts = starts(seed, 6, 2), torch.linspace(0, 1, 3, dtype=F64)
    run = lambda y: ss.solve(ss.ODE(pendulum), y, ts, rtol=1e-5, shared_steps=True)
    assert torch.equal(run(y0.flip(0)).ys, run(y0).ys.flip(1))
    assert len(run(y0).stats.steps.unique()) == 1


@both
@settings(max_examples=15)
@given(seed=seeds, shift=st.integers(-64, 64), method=st.sampled_from(["rk4", "bosh3", "tsit5"]), fixed=st.booleans())
def test_autonomous_problems_do_not_feel_a_shift_of_time(dtype, seed, shift, method, fixed):
    """Bitwise, for a shift that the output times can be added to exactly: elapsed time is kept, not time."""
    fixed = fixed or method == "rk4"
    y0, ts = starts(seed, 3, 2, dtype=dtype), torch.tensor([0.0, 0.375, 1.0], dtype=dtype)
    ode = ss.ODE(lambda t, y: torch.sin(3 * y.flip(-1)) - y)
    how = {"dt": 0.07} if fixed else {"rtol": 1e-4, "atol": 1e-5}
    run = lambda times: ss.solve(ode, y0, times, method=method, **how).ys
    assert torch.equal(run(ts + shift), run(ts))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**64 - 1), shift=st.integers(-64, 64), noise=st.sampled_from(["diagonal", "scalar"]))
def test_autonomous_sdes_do_not_feel_a_shift_of_time_and_of_the_path_with_it(seed, shift, noise):
    y0, ts = starts(0, 4, 2), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    sde = ss.SDE(lambda t, y: torch.sin(y), lambda t, y: 0.3 * torch.cos(y), noise=noise)
    shape = (4, 2) if noise == "diagonal" else (4, 1)

    def run(by):
        path = ss.BrownianPath(seed, shape, cell=1 / 32, origin=float(by), dtype=F64)
        return ss.solve(sde, y0, ts + by, dt=1 / 16, brownian=path).ys

    assert torch.equal(run(shift), run(0))


@settings(max_examples=15)
@given(seed=seeds, power=st.integers(-20, 20), method=st.sampled_from(["bosh3", "tsit5", "dopri5"]))
def test_units_of_the_state_do_not_matter(seed, power, method):
    """u = c y with c a power of two, and atol with it: the same steps and bitwise c times the same numbers."""
    c = 2.0**power
    y0, ts = starts(seed, 3, 2), torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    of = lambda c: ss.solve(
        ss.ODE(lambda t, u: c * pendulum(t, u / c)), c * y0, ts, method=method, rtol=1e-5, atol=1e-5 * c
    )
    assert torch.equal(of(c).ys, c * of(1.0).ys) and torch.equal(of(c).stats.steps, of(1.0).stats.steps)


@settings(max_examples=15)
@given(
    seed=seeds, power=st.integers(-10, 10), method=st.sampled_from(["rk4", "bosh3", "tsit5"]), adaptive=st.booleans()
)
def test_units_of_time_do_not_matter(seed, power, method, adaptive):
    """s = c t with c a power of two: dy/ds = f / c, with the first step c times as long."""
    c = 2.0**power
    y0, ts = starts(seed, 3, 2), torch.tensor([0.0, 0.3, 1.0], dtype=F64)
    how = {"rtol": 1e-4, "atol": 1e-4} if adaptive and method != "rk4" else {}
    of = lambda c: (
        ss.solve(ss.ODE(lambda s, y: pendulum(s / c, y) / c), y0, c * ts, method=method, dt=0.03 * c, **how).ys
    )
    assert torch.equal(of(c), of(1.0))


@settings(max_examples=10)
@given(seed=st.integers(0, 2**64 - 1), power=st.integers(-3, 3))
def test_brownian_motion_scales_with_the_square_root_of_time(seed, power):
    """W(c t) ~ sqrt(c) W(t): the noise of a step is named by the step, so equality is bitwise for c = 4^k."""
    c = 4.0**power
    y0, ts = starts(0, 4, 2), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    of = lambda c: (
        ss.solve(
            ss.SDE(lambda s, y: torch.sin(y) / c, lambda s, y: torch.cos(y) / c**0.5), y0, c * ts, dt=c / 16, seed=seed
        ).ys
    )
    assert torch.equal(of(c), of(1.0))


@pytest.mark.parametrize("dtype", [F32, F64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("ts_dtype", [F32, F64])
@pytest.mark.parametrize("how", [{"dt": 0.1}, {"rtol": 1e-3}])
def test_the_dtype_of_the_state_is_kept_and_t_comes_in_its_precision(dtype, ts_dtype, how):
    seen = set()

    def f(t, y):
        seen.add(t.dtype)
        return -y * t

    sol = ss.solve(ss.ODE(f), torch.ones(2, 2, dtype=dtype), torch.tensor([0.0, 0.5, 1.0], dtype=ts_dtype), **how)
    assert sol.ys.dtype == dtype and seen == {dtype.to_real()} and sol.ts.dtype == ts_dtype
    if not dtype.is_complex:
        sde = ss.SDE(f, lambda t, y: y)
        sol = ss.solve(sde, torch.ones(2, 2, dtype=dtype), torch.tensor([0.0, 1.0], dtype=ts_dtype), dt=0.1, seed=0)
        assert sol.ys.dtype == dtype and seen == {dtype.to_real()}


def test_float32_and_float64_follow_the_same_path():
    sde = itos("diagonal")
    solve = lambda dtype: ss.solve(sde, starts(0, 200, 3).to(dtype), torch.tensor([0.0, 1.0]), dt=1 / 64, seed=3).ys[-1]
    # 64 steps, each of a few rounding errors of numbers below 8
    assert (solve(F32).double() - solve(F64)).abs().max() < 64 * 8 * 8 * torch.finfo(F32).eps


@settings(max_examples=10)
@given(seed=seeds, adaptive=st.booleans(), backwards=st.booleans())
def test_times_of_each_trajectorys_own_give_the_separate_solves(seed, adaptive, backwards):
    generator = torch.Generator().manual_seed(seed)
    ts = torch.rand(5, 4, generator=generator, dtype=F64).add(0.05).cumsum(1) - 1
    ts = ts.flip(1) if backwards else ts
    y0 = starts(seed, 5, 2)
    how = {"rtol": 1e-5} if adaptive else {"dt": 0.1}
    together = ss.solve(ss.ODE(pendulum), y0, ts, **how)
    for i in range(5):
        alone = ss.solve(ss.ODE(pendulum), y0[i : i + 1], ts[i], **how)
        assert torch.equal(alone.ys, together.ys[:, i : i + 1])
        assert torch.equal(alone.stats.steps, together.stats.steps[i : i + 1])


@settings(max_examples=10)
@given(seed=seeds, noise=st.sampled_from(["diagonal", "scalar", "general"]), backwards=st.booleans())
def test_times_of_each_trajectorys_own_give_the_separate_solves_of_an_sde(seed, noise, backwards):
    generator = torch.Generator().manual_seed(seed)
    ts = torch.rand(5, 4, generator=generator, dtype=F64).add(0.05).cumsum(1) - 1
    # some on the grid of cells, some off it
    ts[0] = torch.tensor([-1.0, -0.5, 0.0, 0.5], dtype=F64)
    ts = ts.flip(1) if backwards else ts
    y0, ids = starts(seed, 5, 2), torch.tensor([4, 8, 15, 16, 23])
    sde = itos(noise).to_calculus("stratonovich")
    together = ss.solve(sde, y0, ts, dt=0.125, seed=seed, paths=ids)
    for i in range(5):
        alone = ss.solve(sde, y0[i : i + 1], ts[i], dt=0.125, seed=seed, paths=ids[i : i + 1])
        assert torch.equal(alone.ys, together.ys[:, i : i + 1])
        assert torch.equal(alone.stats.steps, together.stats.steps[i : i + 1])


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_a_whole_state_is_a_batch_of_one_and_a_vectorized_function_sees_one_trajectory(noise, calculus):
    y0, ts = starts(0, 1, 3), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    made = itos(noise)
    solve = lambda y, **facts: (
        ss.solve(
            ss.SDE(made.drift, made.diffusion, noise=noise, **facts).to_calculus(calculus), y, ts, dt=0.1, seed=2
        ).ys
    )
    batch = solve(y0)
    assert torch.allclose(solve(y0[0], batched=False), batch[:, 0], rtol=1e-13, atol=1e-13)
    assert torch.allclose(solve(y0, vectorize=True), batch, rtol=1e-13, atol=1e-13)
