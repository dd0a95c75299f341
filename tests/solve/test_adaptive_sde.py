"""Adaptive steps of SDEs: the path they follow, the law of their solutions, and what the error control sees."""

import math
import resource
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import sdesolve as ss
from sdesolve.brownian.window import window_of_seed
from sdesolve.driver import _eager_step
from sdesolve.methods import METHODS, names

F32, F64 = torch.float32, torch.float64
ADAPTIVE = [
    name
    for name in names("sde")
    if METHODS["sde", name].error_order is not None and "diagonal" in METHODS["sde", name].noise
]
both = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])

geometric = ss.SDE(lambda t, y: 0.3 * y, lambda t, y: 0.6 * y)
motion = ss.SDE(lambda t, y: torch.zeros_like(y), lambda t, y: torch.ones_like(y), additive=True)


def path_of_seed(seed, batch, span, s, t, shape=(1,)):
    """W(t) - W(s) on the path that adaptive steps of a seed follow."""
    window = window_of_seed(seed, torch.arange(batch), shape, span, F64, None)
    at = lambda time: torch.tensor([round(time / window.tick)])
    return window(at(s), at(t)).w


def problem_for(name, batch, dtype=F64):
    """(SDE, start) that the method solves and that needs steps of different lengths."""
    y0 = torch.linspace(0.5, 2.0, 2 * batch, dtype=dtype).reshape(batch, 2)
    if METHODS["sde", name].additive_only:
        g = lambda t, y: (0.2 + torch.exp(-50 * (t - 0.6) ** 2)) * torch.ones_like(y)
        return ss.SDE(lambda t, y: torch.sin(3 * y) - y, g, additive=True), y0
    calculus = METHODS["sde", name].calculus[0]
    f, g = lambda t, y: torch.sin(y) - t * y, lambda t, y: 0.3 * torch.cos(2 * y) + 0.2 * t
    return ss.SDE(f, g, calculus=calculus), y0


# ---- the path


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**64 - 1),
    method=st.sampled_from(ADAPTIVE),
    tolerance=st.floats(1e-3, 1.0),
    ts=st.sampled_from([[0.0, 1.0], [0.0, 0.1, 0.7, 1.0], [-0.3, 0.2, 0.6], [5.0, 5.25, 6.0]]),
)
def test_every_method_and_tolerance_follows_the_same_path(seed, method, tolerance, ts):
    """The solution of dX = dW is the path itself."""
    kind = dict(zip(("additive", "calculus"), (True, METHODS["sde", method].calculus[0]), strict=True))
    sde = ss.SDE(motion.drift, motion.diffusion, **kind)
    ys = ss.solve(
        sde, torch.zeros(3, 1, dtype=F64), torch.tensor(ts, dtype=F64), method=method,
        rtol=0.0, atol=tolerance, dt=0.3, seed=seed,
    ).ys  # fmt: skip
    for k, t in enumerate(ts):
        torch.testing.assert_close(ys[k], path_of_seed(seed, 3, (ts[0], ts[-1]), ts[0], t), rtol=0, atol=1e-13)


def test_a_rejected_interval_is_seen_again_in_parts_that_add_up_to_it(monkeypatch):
    sde, y0 = problem_for("sosri", 50)
    seen = []

    def watched(under_way, *rest):
        attempt = under_way.loop.attempt(under_way.carry)
        seen.append((attempt.proposal.ticket[0], attempt.proposal.ticket[1], attempt.inc.w[:, 0], attempt.accept))
        return _eager_step(under_way, *rest)

    monkeypatch.setattr("sdesolve.driver._eager_step", watched)
    sol = ss.solve(sde, y0, torch.tensor([0.0, 1.0], dtype=F64), method="sosri", rtol=1e-4, atol=1e-4, seed=2)
    assert sol.stats.rejected.sum() > 50
    checked = 0
    for lane in range(50):
        steps = [(int(s[lane]), int(e[lane]), float(w[lane]), bool(a[lane])) for s, e, w, a in seen]
        taken = {s: (e, w) for s, e, w, accept in steps if accept and e > s}
        for start, end, w, accept in steps:
            if not accept and end > start:
                here, total = start, 0.0
                while here < end:
                    here, part = taken[here]
                    total += part
                assert here == end, "the end of a rejected step was skipped"
                assert total == pytest.approx(w, abs=1e-12)
                checked += 1
    assert checked > 50


@pytest.mark.parametrize("name", ["sosri", "sosra", "milstein", "heun"])
@both
def test_a_trajectory_is_bitwise_the_same_alone_in_8_in_400_and_in_a_shard(name, dtype):
    sde, y0 = problem_for(name, 400, dtype)
    ts = torch.tensor([0.0, 0.3, 1.0], dtype=dtype)
    ids = torch.randperm(10**6, generator=torch.Generator().manual_seed(1))[:400]

    def run(rows):
        sol = ss.solve(sde, y0[rows], ts, method=name, rtol=1e-2, atol=1e-2, seed=5, paths=ids[rows])
        return sol.ys, sol.stats.steps

    ys, steps = run(slice(None))
    assert len(steps.unique()) > 3
    for rows in (slice(0, 8), slice(392, 400), slice(0, 1), slice(399, 400), slice(200, 400)):
        part, counts = run(rows)
        assert torch.equal(part, ys[:, rows]) and torch.equal(counts, steps[rows])
    order = torch.arange(399, -1, -1)
    assert torch.equal(run(order)[0], ys[:, order])


@pytest.mark.parametrize("given_path", [False, True], ids=["seed", "path"])
def test_a_trajectory_with_times_of_its_own_is_bitwise_the_same_alone(given_path):
    sde, _ = problem_for("sosri", 1)
    y0 = torch.linspace(0.5, 2.0, 8, dtype=F64)[:, None]
    gaps = torch.rand(8, 4, generator=torch.Generator().manual_seed(0), dtype=F64) * torch.logspace(-2, 0, 8)[:, None]
    ts = gaps.cumsum(1) + torch.linspace(-2, 3, 8, dtype=F64)[:, None]
    path = ss.BrownianPath(3, (8, 1), cell=4.0, dtype=F64)

    def run(rows):
        ids = torch.arange(8)[rows]
        how = {"brownian": path.for_paths(ids)} if given_path else {"seed": 3, "paths": ids}
        return ss.solve(sde, y0[rows], ts[rows], rtol=1e-3, atol=1e-3, **how).ys

    ys = run(slice(None))
    for rows in (slice(0, 1), slice(3, 4), slice(7, 8), slice(2, 6)):
        assert torch.equal(run(rows), ys[:, rows])


def test_the_number_of_threads_changes_no_bit():
    sde, y0 = problem_for("sosri", 1500, F32)
    run = lambda: ss.solve(sde, y0, torch.tensor([0.0, 1.0]), method="sosri", rtol=0.1, atol=0.1, seed=3).ys
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = run()
        torch.set_num_threads(2)
        assert torch.equal(run(), one)
    finally:
        torch.set_num_threads(threads)


@settings(max_examples=10)
@given(st.integers(0, 2**64 - 1), st.sampled_from([0.25, 0.5, 0.375]))
def test_a_solve_that_is_split_meets_the_same_path(seed, middle):
    """Whatever the spans: W over [0, m] and over [m, 1] add up to W over [0, 1]."""
    run = lambda ts: ss.solve(motion, torch.zeros(4, 2, dtype=F64), ts, rtol=0.0, atol=0.1, seed=seed).ys[-1]
    ts = torch.tensor([0.0, middle, 1.0], dtype=F64)
    torch.testing.assert_close(run(ts[:2]) + run(ts[1:]), run(ts[[0, 2]]), rtol=0, atol=1e-12)


def test_a_given_path_is_followed_and_a_fixed_step_solve_along_it_meets_the_same_noise():
    path = ss.BrownianPath(9, (20, 1), cell=2.0, dtype=F64)
    y0, ts = torch.ones(20, 1, dtype=F64), torch.tensor([0.0, 0.3, 1.7], dtype=F64)
    adaptive = ss.solve(geometric, y0, ts, method="sosri", rtol=1e-5, atol=1e-5, brownian=path).ys
    fixed = ss.solve(geometric, y0, ts, method="sriw1", dt=1e-3, brownian=path).ys
    exact = torch.exp((0.3 - 0.18) * ts[1:, None, None] + 0.6 * torch.stack([path(0.0, 0.3), path(0.0, 1.7)]))
    assert (adaptive[1:] - exact).abs().mean() < 3e-4 and (fixed[1:] - exact).abs().mean() < 3e-4


def test_backwards_along_the_same_path_returns_to_the_start():
    sde = ss.SDE(lambda t, y: -0.5 * y, lambda t, y: 0.4 * torch.cos(y), calculus="stratonovich")
    path = ss.BrownianPath(4, (30, 1), cell=1.0, dtype=F64)
    y0, ts = torch.full((30, 1), 0.7, dtype=F64), torch.tensor([0.1, 0.45, 0.9], dtype=F64)
    solve = lambda y, ts, tol: ss.solve(sde, y, ts, method="heun", rtol=tol, atol=tol, brownian=path).ys
    errors = [(solve(solve(y0, ts, tol)[-1], ts.flip(0), tol)[-1] - y0).abs().mean() for tol in (1e-2, 1e-3)]
    assert errors[1] < 1e-2 and errors[1] < 0.4 * errors[0]


def test_torch_manual_seed_reproduces_a_run():
    run = lambda: ss.solve(geometric, torch.ones(5, 1), torch.tensor([0.0, 1.0]), rtol=1e-2, atol=1e-2).ys
    torch.manual_seed(11)
    first, second = run(), run()
    torch.manual_seed(11)
    assert torch.equal(run(), first) and not torch.equal(first, second)


def test_a_common_clock_gives_common_steps_and_the_same_path():
    y0, ts = torch.linspace(0.5, 2, 40, dtype=F64)[:, None], torch.tensor([0.0, 1.0], dtype=F64)
    exact = y0 * torch.exp(0.3 - 0.18 + 0.6 * path_of_seed(8, 40, (0.0, 1.0), 0.0, 1.0))
    for shared in (False, True):
        sol = ss.solve(geometric, y0, ts, rtol=1e-4, atol=1e-4, seed=8, shared_steps=shared)
        assert (len(sol.stats.steps.unique()) == 1) == shared
        assert (sol.ys[-1] - exact).abs().max() < 5e-3


def test_batched_false_is_one_trajectory_with_one_clock():
    sde = ss.SDE(lambda t, y: -y.mean() * torch.ones_like(y), lambda t, y: 0.3 * torch.ones_like(y), additive=True,
                 batched=False)  # fmt: skip
    sol = ss.solve(sde, torch.ones(4, 3, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64), rtol=1e-3, atol=1e-3, seed=0)
    assert sol.ys.shape == (2, 4, 3) and sol.stats.steps.shape == (1,)


# ---- the law and the error


@pytest.mark.parametrize("name, sde", [("sosri", geometric), ("milstein", geometric), ("sosra", None)])
def test_end_points_have_the_exact_law(name, sde):
    """Kolmogorov-Smirnov at a level of 1e-6; validation does this with 100,000 paths."""
    paths = 3000
    if sde is None:  # Ornstein-Uhlenbeck: Var = s^2 (1 - exp(-2 a T)) / (2 a)
        sde, a, s = ss.SDE(lambda t, y: -2 * y, lambda t, y: 0.7 * torch.ones_like(y), additive=True), 2.0, 0.7
        mean, scale, of = math.exp(-a), s * math.sqrt((1 - math.exp(-2 * a)) / (2 * a)), lambda y: y
    else:
        mean, scale, of = 0.3 - 0.18, 0.6, torch.log
    y0, ts = torch.ones(paths, 1), torch.tensor([0.0, 1.0])
    with torch.no_grad():
        sol = ss.solve(sde, y0, ts, method=name, rtol=3e-3, atol=3e-3, seed=12)
    assert name == "sosra" or sol.stats.rejected.sum() > 100
    z = (of(sol.ys[-1].double()) - mean) / scale
    assert stats.kstest(z.numpy().ravel(), stats.norm.cdf).pvalue > 1e-6


STIFF = (-60.0, 2.0)


@pytest.mark.parametrize("drift, noise", [(0.3, 0.6), STIFF], ids=["geometric", "stiff multiplicative"])
def test_the_strong_error_falls_with_the_tolerance(drift, noise):
    sde = ss.SDE(lambda t, y: drift * y, lambda t, y: noise * y)
    y0, T = torch.ones(200, 1, dtype=F64), 0.5
    exact = torch.exp((drift - noise**2 / 2) * T + noise * path_of_seed(3, 200, (0.0, T), 0.0, T))
    errors, steps = [], []
    for tol in (1e-1, 1e-2, 1e-3, 1e-4):
        sol = ss.solve(sde, y0, torch.tensor([0.0, T], dtype=F64), method="sosri", rtol=0.0, atol=tol, seed=3)
        errors.append((sol.ys[-1] - exact).abs().mean().item())
        steps.append(sol.stats.accepted.double().mean().item())
    assert all(b < 0.7 * a for a, b in pairwise(errors)), errors
    assert errors[-1] < 2e-4 and steps[-1] > 2 * steps[0]


def test_at_an_error_of_a_thousandth_sosri_is_20_times_cheaper_than_euler_maruyama():
    y0, ts = torch.ones(500, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    exact = lambda w: torch.exp(0.3 - 0.18 + 0.6 * w)
    sol = ss.solve(geometric, y0, ts, method="sosri", rtol=2e-4, atol=2e-4, seed=1)
    error = (sol.ys[-1] - exact(path_of_seed(1, 500, (0.0, 1.0), 0.0, 1.0))).abs().mean()
    assert error < 1e-3
    mine = (sol.stats.drift_evaluations + sol.stats.diffusion_evaluations).double().mean()
    # Euler-Maruyama: error = c dt^(1/2), so that its error at 1e-3 takes (error / 1e-3)^2 times the steps
    path = ss.BrownianPath(1, (500, 1), cell=2.0**-12, dtype=F64)
    end = ss.solve(geometric, y0, ts, method="euler_maruyama", dt=2.0**-12, brownian=path).ys[-1]
    theirs = 2 * 2**12 * ((end - exact(path(0.0, 1.0))).abs().mean() / 1e-3) ** 2
    assert theirs / mine > 20


@pytest.mark.parametrize("name", ["sra1", "sosra"])
def test_a_diffusion_that_depends_on_time_alone_is_controlled(name):
    """g(t) = 1 + 0.9 sin(40 t) and no drift: an estimate that sees only the drift takes one step."""
    g, slope = lambda t: 1 + 0.9 * torch.sin(40 * t), lambda t: 36 * torch.cos(40 * t)
    sde = ss.SDE(lambda t, y: torch.zeros_like(y), lambda t, y: g(t) * torch.ones_like(y), additive=True)
    path = ss.BrownianPath(6, (100, 1), cell=1.0, dtype=F64)
    y0, ts = torch.zeros(100, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    # int g dW over 2^-10: g W - g' 2^-10 H at its middle, to O(2^-20)
    exact, window = torch.zeros_like(y0), path.window("space-time")
    for k in range(0, 2**10, 128):
        ends = torch.arange(k, k + 129)[:, None] << 22
        inc = window(ends[:-1], ends[1:])
        middle = ((torch.arange(k, k + 128, dtype=F64) + 0.5) / 2**10)[:, None, None]
        exact = exact + (g(middle) * inc.w - slope(middle) * inc.H / 2**10).sum(0)
    errors, steps = [], []
    for tol in (1e-1, 1e-2, 1e-3):
        sol = ss.solve(sde, y0, ts, method=name, rtol=0.0, atol=tol, brownian=path)
        errors.append((sol.ys[-1] - exact).abs().mean().item())
        steps.append(sol.stats.accepted.double().mean().item())
    assert all(error < 5 * tol for error, tol in zip(errors, (1e-1, 1e-2, 1e-3), strict=True)), errors
    assert steps[1] > 15 and steps[2] > 2 * steps[1], steps


def test_the_error_of_a_step_is_judged_by_pi_control_with_the_gains_for_sdes():
    sde, y0 = problem_for("sosri", 4)
    ts = torch.tensor([0.0, 1.0], dtype=F64)
    run = lambda **gains: ss.solve(sde, y0, ts, seed=0, controller=ss.PID(1e-3, 1e-3, **gains))
    assert torch.equal(run().ys, run(p=0.1, i=0.3).ys)
    assert not torch.equal(run().ys, run(p=0.2, i=0.7).ys)


def test_jumps_and_step_bounds_are_obeyed():
    sde = ss.SDE(lambda t, y: -y, lambda t, y: torch.where(t < 0.3, 0.1, 1.0) * torch.ones_like(y), additive=True)
    y0, ts = torch.ones(10, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    sol = ss.solve(sde, y0, ts, seed=0, controller=ss.PID(1e-2, 1e-2, jumps=[0.3], dt_max=0.05))
    assert (sol.stats.accepted >= 20).all()


# ---- gradients, failures, cost


def test_gradients_through_adaptive_steps_are_those_of_the_path():
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    s = torch.tensor(0.6, dtype=F64, requires_grad=True)
    sde = ss.SDE(lambda t, y: a * y, lambda t, y: s * y)
    y0 = torch.ones(100, 1, dtype=F64, requires_grad=True)
    sol = ss.solve(sde, y0, torch.tensor([0.0, 1.0], dtype=F64), rtol=1e-4, atol=1e-4, seed=2)
    w = path_of_seed(2, 100, (0.0, 1.0), 0.0, 1.0)
    exact = y0 * torch.exp(a - s**2 / 2 + s * w)
    mine = torch.autograd.grad(sol.ys[-1].mean(), (a, s, y0))
    theirs = torch.autograd.grad(exact.mean(), (a, s, y0))
    for got, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-3, atol=2e-3)


def test_a_trajectory_that_fails_spoils_no_other():
    sde = ss.SDE(lambda t, y: torch.where(y > 5, torch.nan, 0.3 * y), lambda t, y: 0.6 * y)
    y0, ts = torch.tensor([[1.0], [4.9], [1.2]], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    sol = ss.solve(sde, y0, ts, rtol=1e-3, atol=1e-3, seed=0, on_failure="return")
    alone = ss.solve(sde, y0[[0, 2]], ts, rtol=1e-3, atol=1e-3, seed=0, paths=[0, 2])
    assert sol.status.tolist()[1] != 0 or torch.isfinite(sol.ys[-1, 1]).all()
    assert torch.equal(sol.ys[:, [0, 2]], alone.ys)


@pytest.mark.parametrize("wrong", [lambda y: torch.where(y > 1.5, torch.nan, -y), lambda y: (1.5 - y).sqrt()])
def test_a_trajectory_that_is_nan_at_the_start_fails_alone(wrong):
    a = torch.tensor(0.3, dtype=F64, requires_grad=True)
    sde = ss.SDE(lambda t, y: wrong(y), lambda t, y: a * y)
    y0, ts = torch.tensor([[1.0, 1.0], [2.0, 1.0], [1.2, 1.0]], dtype=F64), torch.tensor([0.0, 0.1], dtype=F64)
    sol = ss.solve(sde, y0, ts, rtol=1e-3, atol=1e-3, seed=0, on_failure="return")
    alone = ss.solve(sde, y0[[0, 2]], ts, rtol=1e-3, atol=1e-3, seed=0, paths=[0, 2])
    assert sol.status.tolist()[1] == ss.Status.NONFINITE and sol.status[[0, 2]].sum() == 0
    assert torch.equal(sol.ys[:, [0, 2]], alone.ys)
    mine, theirs = (torch.autograd.grad(s.ys[-1][k].sum(), a)[0] for s, k in ((sol, [0, 2]), (alone, [0, 1])))
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("shape", [(5000, 1), (3, 0), (1, 1)])
def test_any_size_of_a_batch_is_solved(shape):
    sol = ss.solve(motion, torch.zeros(shape), torch.tensor([0.0, 1.0]), rtol=0.0, atol=0.5, seed=1)
    assert sol.ys.shape == (2, *shape)


def test_cells_too_short_for_max_steps_are_refused_at_once():
    path = ss.BrownianPath(0, (2, 1), cell=1e-6)
    with pytest.raises(ValueError, match=r"brownian: got cells of 1e-06, of which adaptive steps need at least 1e"):
        ss.solve(motion, torch.zeros(2, 1), torch.tensor([0.0, 1.0]), rtol=1e-2, brownian=path)


@pytest.mark.slow
def test_300_000_steps_need_no_more_memory_than_a_thousand():
    code = """
import resource, sys, torch, sdesolve as ss
torch.set_num_threads(1)
sde = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y)
n = int(sys.argv[1])
with torch.no_grad():
    ss.solve(sde, torch.ones(1, 1), torch.tensor([0.0, 1.0]), method="euler_maruyama", dt=1 / n, seed=0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    peak = lambda n: int(subprocess.run([sys.executable, "-c", code, str(n)], capture_output=True, check=True).stdout)
    assert peak(300_000) < peak(1000) + 6000  # kilobytes; five numbers a step would take twice that


def test_memory_is_that_of_the_batch_not_of_the_steps():
    """As many numbers as a solve of a million steps would store, were they stored: 8 MB a double each."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table = ss.step_size.step_table(np.array([0.0, 1.0]), 1e-8, 0.0)
    assert table.total == 10**8
    times, steps = table.rows(10**8 - 3, 10**8)
    assert times.tolist() == pytest.approx([1 - 3e-8, 1 - 2e-8, 1 - 1e-8, 1.0], abs=3e-16) and len(steps) == 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
