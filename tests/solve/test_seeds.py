"""Noise is a function of seed, trajectory id and time: splitting, reading backwards, refining, reseeding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss

F32, F64 = torch.float32, torch.float64
seeds = st.integers(0, 2**64 - 1)


def sde(noise="diagonal", calculus="stratonovich", **facts):
    g = {
        "diagonal": lambda t, y: 0.4 * torch.sin(y) + 0.3,
        "scalar": lambda t, y: 0.4 * torch.cos(y),
        "general": lambda t, y: 0.3 * torch.stack([torch.cos(y), y.flip(-1), 1 + 0 * y], -1),
    }[noise]
    if facts.get("additive"):
        g = lambda t, y: 0.4 * torch.cos(t).expand(y.shape)
    return ss.SDE(lambda t, y: torch.cos(y) + t, g, noise=noise, calculus=calculus, **facts)


START = torch.linspace(-1, 1, 10, dtype=F64).reshape(5, 2)
both = pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])


@settings(max_examples=10)
@given(seed=seeds, other=seeds)
def test_the_same_seed_gives_the_same_bits_and_another_seed_another_path(seed, other):
    solve = lambda s: ss.solve(sde(), START, torch.tensor([0.0, 1.0]), dt=0.1, seed=s)
    assert torch.equal(solve(seed).ys, solve(seed).ys) and solve(seed).seed == seed
    if other != seed:
        assert (solve(seed).ys[-1] != solve(other).ys[-1]).all()


def test_torchs_manual_seed_reproduces_a_solve_without_a_seed_and_does_so_once():
    solve = lambda: ss.solve(sde(), START, torch.tensor([0.0, 1.0]), dt=0.1)
    torch.manual_seed(3)
    first, second = solve(), solve()
    torch.manual_seed(3)
    again = solve()
    assert torch.equal(first.ys, again.ys) and first.seed == again.seed != second.seed
    assert not torch.equal(first.ys, second.ys)
    named = ss.solve(sde(), START, torch.tensor([0.0, 1.0]), dt=0.1, seed=first.seed)
    assert torch.equal(named.ys, first.ys)


@both
@settings(max_examples=15)
@given(
    seed=seeds,
    noise=st.sampled_from(["diagonal", "scalar", "general"]),
    at=st.integers(1, 15),
    start=st.integers(-40, 40),
)
def test_a_solve_split_at_a_step_is_bitwise_the_whole(dtype, seed, noise, at, start):
    """Dyadic steps, so that every time and step is the same number in both."""
    ts = torch.tensor([0.0, at / 16, 1.0], dtype=F64) + start / 16
    problem, y0 = sde(noise), START.to(dtype)
    whole = ss.solve(problem, y0, ts[[0, 2]], dt=1 / 16, seed=seed).ys[-1]
    through = ss.solve(problem, y0, ts, dt=1 / 16, seed=seed).ys
    first = ss.solve(problem, y0, ts[:2], dt=1 / 16, seed=seed).ys[-1]
    second = ss.solve(problem, first, ts[1:], dt=1 / 16, seed=seed).ys[-1]
    assert torch.equal(second, whole) and torch.equal(through[-1], whole) and torch.equal(through[1], first)


@settings(max_examples=15)
@given(seed=seeds, dt=st.sampled_from([0.01, 0.1, 1 / 3, 0.07]), n=st.integers(2, 40), data=st.data())
def test_a_solve_split_at_any_step_follows_the_same_path(seed, dt, n, data):
    """Also where steps are not dyadic; the states agree to the rounding of times and steps."""
    at = data.draw(st.integers(1, n - 1))
    ts = torch.tensor([0.0, at * dt, n * dt], dtype=F64)
    whole = ss.solve(sde(), START, ts[[0, 2]], dt=dt, seed=seed).ys[-1]
    first = ss.solve(sde(), START, ts[:2], dt=dt, seed=seed).ys[-1]
    second = ss.solve(sde(), first, ts[1:], dt=dt, seed=seed).ys[-1]
    assert torch.allclose(second, whole, rtol=1e-10, atol=1e-10)


def test_two_halves_of_a_path_are_not_the_same_noise():
    problem = ss.SDE(lambda t, y: 0 * y, lambda t, y: torch.ones_like(y), additive=True)
    n = 4000
    ys = ss.solve(problem, torch.zeros(n, 1, dtype=F64), torch.tensor([0.0, 0.5, 1.0], dtype=F64), dt=0.1, seed=1).ys
    a, b = ys[1, :, 0], ys[2, :, 0] - ys[1, :, 0]
    # the correlation of two independent normal samples has a standard error of 1 / sqrt(n)
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 5 / n**0.5


@settings(max_examples=10)
@given(seed=seeds, k=st.integers(0, 3), noise=st.sampled_from(["diagonal", "scalar", "general"]))
def test_smaller_cells_of_a_given_path_refine_nothing_but_the_steps(seed, k, noise):
    """dX = g dW with constant g adds up increments: whatever dt, the same end."""
    channels = {"diagonal": (2,), "scalar": (1,), "general": (3,)}[noise]
    path = ss.BrownianPath(seed, (5, *channels), cell=1 / 64, dtype=F64)
    g = (lambda t, y: torch.ones(2, 3, dtype=F64)) if noise == "general" else (lambda t, y: torch.ones_like(y))
    problem = ss.SDE(lambda t, y: 0 * y, g, noise=noise, additive=True)
    end = ss.solve(problem, 0 * START, torch.tensor([0.0, 1.0], dtype=F64), dt=2.0**-k, brownian=path).ys[-1]
    w = path(0.0, 1.0)
    wanted = w.sum(-1, keepdim=True).expand(5, 2) if noise == "general" else w.expand(5, 2)
    assert torch.allclose(end, wanted, atol=1e-13)


@settings(max_examples=10)
@given(seed=seeds, given_path=st.booleans(), start=st.integers(-3, 3))
def test_backwards_additive_noise_is_taken_back_exactly(seed, given_path, start):
    """dX = dW forwards and then backwards ends where it began: dW is W(t - h) - W(t) on the way back."""
    problem = ss.SDE(lambda t, y: 0 * y, lambda t, y: torch.ones_like(y), additive=True)
    ts = torch.tensor([0.0, 0.4, 1.0], dtype=F64) + start
    how = {"brownian": ss.BrownianPath(seed, (5, 2), cell=0.05, dtype=F64)} if given_path else {"seed": seed}
    there = ss.solve(problem, START, ts, dt=0.1, **how).ys
    back = ss.solve(problem, there[-1], ts.flip(0), dt=0.1, **how).ys
    assert torch.allclose(back.flip(0), there, rtol=0, atol=1e-13)
    assert not torch.allclose(there[0], there[-1], atol=1e-3)


@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_heun_backwards_along_the_same_path_returns_to_the_start_as_dt_falls(noise):
    n = 300
    y0 = torch.linspace(-1, 1, 2 * n, dtype=F64).reshape(n, 2)
    channels = {"diagonal": (2,), "scalar": (1,), "general": (3,)}[noise]
    path = ss.BrownianPath(5, (n, *channels), cell=2.0**-8, dtype=F64)
    unit = torch.tensor([0.0, 1.0], dtype=F64)

    def miss(dt):
        how = {"dt": dt, "brownian": path, "method": "heun"}
        there = ss.solve(sde(noise), y0, unit, **how).ys[-1]
        back = ss.solve(sde(noise), there, unit.flip(0), **how).ys[-1]
        return float((back - y0).square().mean().sqrt())

    # What is odd in (dt, dW) cancels on the way back, so a step misses by terms like dW^4: the mean of their sum is of
    # order 1, their fluctuation of order 3/2.
    coarse, fine = miss(2.0**-4), miss(2.0**-8)
    assert 16 / 1.5 < coarse / fine < 64 * 1.5, (coarse, fine)


def test_additive_euler_maruyama_backwards_returns_to_the_start_at_order_one():
    problem = sde(calculus="ito", additive=True)
    y0 = torch.linspace(-1, 1, 600, dtype=F64).reshape(300, 2)
    unit = torch.tensor([0.0, 1.0], dtype=F64)

    def miss(dt):
        how = {"dt": dt, "seed": 0, "method": "euler_maruyama"}
        there = ss.solve(problem, y0, unit, **how).ys[-1]
        back = ss.solve(problem, there, unit.flip(0), **how).ys[-1]
        return float((back - y0).square().mean().sqrt())

    assert 16 / 1.5 < miss(2.0**-4) / miss(2.0**-8) < 16 * 1.5


def test_the_time_reversed_equation_runs_forwards_with_minus_the_drift():
    problem = ss.SDE(lambda t, y: t * y, lambda t, y: torch.cos(t) * y)
    mirrored = ss.time_reversed(problem)
    y = torch.tensor([[2.0]], dtype=F64)
    assert mirrored.drift(torch.tensor(-3.0), y).item() == -6.0
    assert mirrored.diffusion(torch.tensor(-3.0), y).item() == pytest.approx(2 * torch.cos(torch.tensor(3.0)).item())
    assert torch.equal(ss.time_reversed(mirrored).drift(torch.tensor(3.0), y), problem.drift(torch.tensor(3.0), y))
    ts = torch.tensor([-1.0, -0.5, 0.0], dtype=F64)
    assert torch.isfinite(ss.solve(mirrored, START, ts, dt=0.1, seed=0).ys).all()
