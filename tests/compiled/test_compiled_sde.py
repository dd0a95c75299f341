"""Compiled stochastic solves beside eager ones: the same path, the same steps, the same law. See `test_fewer` for
adaptive steps on clocks of their own."""

import pytest
import torch
from scipy import stats

import sdesolve as ss

pytestmark = pytest.mark.compile

F64 = torch.float64
TURN = torch.tensor([[0.3, 0.1, 0.0], [-0.2, 0.1, 0.2]], dtype=F64)


@pytest.mark.traced
def test_compiled_adaptive_steps_on_a_shared_clock_backwards_along_a_path_are_the_eager_ones():
    g = lambda t, y: (1 + t)[..., None] * TURN
    sde = ss.SDE(lambda t, y: -torch.sin(3 * y), g, noise="general", additive=True)
    y0, ts = torch.linspace(0.5, 2, 24, dtype=F64).reshape(12, 2), torch.tensor([1.0, 0.3, 0.0], dtype=F64)
    # its cells are shorter than the span
    path = ss.BrownianPath(5, (12, 3), cell=0.25, dtype=F64, levy="space-time")
    with torch.no_grad():
        given = {"method": "sosra", "brownian": path, "shared_steps": True}
        solve = lambda tol, c: ss.solve(sde, y0, ts, rtol=tol, atol=tol, compile=c, **given)
        for tol in (1e-2, 1e-3):
            eager, compiled = solve(tol, False), solve(tol, True)
            torch.testing.assert_close(compiled.ys, eager.ys, rtol=1e-10, atol=1e-10)
            assert torch.equal(compiled.stats.accepted, eager.stats.accepted)
            assert torch.equal(compiled.stats.rejected, eager.stats.rejected)
            assert torch.equal(compiled.stats.drift_evaluations, eager.stats.drift_evaluations)
        assert eager.stats.rejected.sum() > 0


def test_end_points_of_100_000_compiled_adaptive_paths_have_the_exact_law():
    mu, sigma = 0.3, 0.6
    sde = ss.SDE(lambda t, y: mu * y, lambda t, y: sigma * y)
    ts = torch.tensor([0.0, 0.4, 1.0])
    with torch.no_grad():
        sol = ss.solve(sde, torch.ones(100_000, 1), ts, method="sriw1", rtol=1e-3, atol=1e-3, seed=9, compile=True)
    assert sol.stats.rejected.sum() > 10_000
    for y, t in zip(sol.ys[1:], ts[1:].tolist(), strict=True):
        z = (y.double().log() - (mu - sigma**2 / 2) * t) / (sigma * t**0.5)
        assert stats.kstest(z.numpy().ravel(), stats.norm.cdf).pvalue > 1e-6


@pytest.mark.parametrize("name", ["sra1", pytest.param("milstein", marks=pytest.mark.traced)])
def test_compiled_fixed_steps_are_the_eager_ones(name):
    additive = name == "sra1"
    g = (lambda t, y: (1 + t) * torch.ones_like(y)) if additive else (lambda t, y: 0.3 * torch.cos(y))
    sde = ss.SDE(lambda t, y: torch.sin(y) - y, g, additive=additive)
    # 5 steps that start off the blocks of four, and an interval off the grid
    y0, ts = torch.linspace(0.5, 2, 10, dtype=F64).reshape(5, 2), torch.tensor([0.3, 0.55, 1.0], dtype=F64)
    with torch.no_grad():
        eager, compiled = (ss.solve(sde, y0, ts, method=name, dt=0.1, seed=1, compile=c).ys for c in (False, True))
    torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12)


def test_times_of_each_trajectorys_own_are_refused():
    sde = ss.SDE(lambda t, y: -y, lambda t, y: 0.1 * y)
    with pytest.raises(ss.CompileError, match=r"True with \(batch, T\) times of an SDE"), torch.no_grad():
        ts = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
        ss.solve(sde, torch.ones(2, 1), ts, rtol=1e-2, atol=1e-2, seed=0, compile=True)
