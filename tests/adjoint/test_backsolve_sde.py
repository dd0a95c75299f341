"""The continuous adjoint of SDEs, along the path of the solve: closed forms path by path, and direct gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from tests.adjoint.test_checkpoint import LOSS, OWN, TS, inputs, sde

F64 = torch.float64
STEPS = (1 / 32, 1 / 64, 1 / 128, 1 / 256)


def slope(errors):
    """Of log error on log step."""
    x, y = torch.tensor(STEPS, dtype=F64).log(), torch.tensor(errors, dtype=F64).log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def path_of(shape):
    return ss.BrownianPath(11, shape, cell=STEPS[-1], dtype=F64)


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_geometric_brownian_motion_path_by_path(noise, calculus):
    """y = y0 exp(m t + s W(t)), m = mu - s^2 / 2 in the Ito calculus and mu in that of Stratonovich, so that
    dy/dy0 = y / y0, dy/dmu = t y, dy/ds = (W - s t [Ito]) y for each path of its own."""
    paths, t, errors = 64, 1.0, []
    path = path_of((paths, 1))
    w = path.increments(0, 256).sum(0)
    start, rate, size = (torch.full((paths, 1), x, dtype=F64, requires_grad=True) for x in (1.3, 0.4, 0.6))
    problem = ss.SDE(lambda t, y: rate * y, lambda t, y: size * y, noise=noise, calculus=calculus)
    ts = torch.tensor([0.0, t], dtype=F64)
    for dt in STEPS:
        ys = ss.solve(problem, start, ts, dt=dt, method="milstein", brownian=path, adjoint="backsolve").ys
        found = torch.autograd.grad(ys[-1].sum(), (start, rate, size))
        ito = calculus == "ito"
        y = 1.3 * torch.exp((0.4 - (0.18 if ito else 0.0)) * t + 0.6 * w)
        wanted = (y / 1.3, t * y, (w - (0.6 * t if ito else 0.0)) * y)
        errors.append(max(float((a - b).abs().mean() / b.abs().mean()) for a, b in zip(found, wanted, strict=True)))
    assert 0.85 < slope(errors) < 1.3, errors
    assert errors[-1] < 0.01


@pytest.mark.parametrize("adjoint", ["direct", "checkpoint", "backsolve", "reversible"])
def test_ornstein_uhlenbeck_path_by_path(adjoint):
    """dy = -k y dt + s dW: with the noise given, y and its derivatives solve linear equations,
    dy/dy0 = exp(-k t) and dy/ds = (y - y0 exp(-k t)) / s."""
    y0 = torch.linspace(-1, 1, 32, dtype=F64)[:, None].requires_grad_()
    k = torch.tensor(1.5, dtype=F64, requires_grad=True)
    s = torch.full((32, 1), 0.7, dtype=F64, requires_grad=True)
    problem = ss.SDE(lambda t, y: -k * y, lambda t, y: s + 0 * y, additive=True, calculus="stratonovich")
    ys = ss.solve(problem, y0, torch.tensor([0.0, 2.0], dtype=F64), dt=1 / 512, seed=5, adjoint=adjoint).ys
    found = torch.autograd.grad(ys[-1].sum(), (y0, s))
    decay = torch.exp(torch.tensor(-3.0, dtype=F64))
    near = 1 / 512 if adjoint == "backsolve" else 1e-4  # its equation, solved on steps of its own: an error of O(dt)
    torch.testing.assert_close(found[0], decay.expand(32, 1), rtol=near, atol=0)
    torch.testing.assert_close(found[1], (ys[-1] - y0 * decay).detach() / 0.7, rtol=near, atol=near)


CASES = {
    "diagonal, ito": ("diagonal", "ito", "milstein", 1.0),
    "diagonal, ito, sosri": ("diagonal", "ito", "sosri", 1.0),
    "scalar, ito": ("scalar", "ito", "milstein", 1.0),
    "general, ito": ("general", "ito", "euler_maruyama", 0.5),
    "diagonal, stratonovich": ("diagonal", "stratonovich", "heun", 1.0),
    "scalar, stratonovich": ("scalar", "stratonovich", "heun", 1.0),
    "general, stratonovich": ("general", "stratonovich", "heun", 0.5),
    "additive": ("additive", "ito", "sra1", 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_backsolve_tends_to_direct_as_the_steps_shrink(case):
    """Against direct gradients at the finest step; at least with the order of the noise's class."""
    noise, calculus, method, order = CASES[case]
    channels = {"diagonal": 2, "additive": 2, "scalar": 1, "general": 2}[noise]
    path = ss.BrownianPath(4, (40, channels), cell=STEPS[-1] / 4, dtype=F64, levy="space-time")
    ts = torch.tensor([0.0, 0.375, 1.0], dtype=F64)

    def run(adjoint, dt):
        y0, a = inputs(40)
        ys = ss.solve(sde(a, noise, calculus), y0, ts, dt=dt, method=method, brownian=path, adjoint=adjoint).ys
        g = torch.autograd.grad((ys.sin() * LOSS[:, None, None]).sum(), (y0, a))
        return torch.cat([x.reshape(-1) for x in g])

    wanted = run("direct", STEPS[-1] / 4)
    errors = [float((run("backsolve", dt) - wanted).norm() / wanted.norm()) for dt in STEPS]
    assert slope(errors) > order - 0.25, errors
    assert errors[-1] < 0.02, errors


@pytest.mark.parametrize("ts", [TS, OWN], ids=["common times", "own times"])
@pytest.mark.parametrize("shared", [False, True])
def test_adaptive_steps_tighten_with_the_tolerance(ts, shared):
    if shared and ts.ndim == 2:
        ts = TS + 0.25
    errors = []
    for tol in (1e-1, 1e-3):
        found = []
        for adjoint in ("backsolve", "direct"):
            y0, a = inputs()
            problem = sde(a, "diagonal", "stratonovich")
            options = {"method": "heun", "seed": 2, "shared_steps": shared}
            ys = ss.solve(problem, y0, ts, rtol=tol, atol=tol, adjoint=adjoint, **options).ys
            found.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(ys.sin().sum(), (y0, a))]))
        errors.append(float((found[0] - found[1]).norm() / found[1].norm()))
    assert errors[1] < 1e-3 and errors[1] < 0.3 * errors[0], errors


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), split=st.sampled_from([1, 3, 8]))
def test_a_batch_has_the_gradients_of_its_trajectories(seed, split):
    """The sum over trajectories, whatever batch they are solved in."""

    def run(paths):
        y0 = torch.linspace(-1, 1, 16, dtype=F64).reshape(8, 2)[paths].requires_grad_()
        _, a = inputs()
        problem = sde(a, "general", "ito")
        ys = ss.solve(problem, y0, TS, dt=0.1, seed=seed, paths=paths, adjoint="backsolve").ys
        return torch.autograd.grad(ys.square().sum(), (y0, a))

    y, a = run(list(range(8)))
    parts = [run(list(range(8))[k : k + split]) for k in range(0, 8, split)]
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sum(p[1] for p in parts), a, rtol=1e-12, atol=1e-12)


def test_a_failed_trajectory_has_gradient_zero_and_leaves_the_others_alone():
    def run(rows):
        y0 = torch.tensor([[0.5], [40.0], [0.3]], dtype=F64)[rows].requires_grad_()
        a = torch.tensor(1.0, dtype=F64, requires_grad=True)
        problem = ss.SDE(lambda t, y: a * y**3, lambda t, y: 0.1 * y, calculus="stratonovich")
        sol = ss.solve(problem, y0, TS, dt=0.1, seed=0, paths=rows, adjoint="backsolve", on_failure="return")
        good = sol.status == ss.Status.SUCCESS
        assert good.tolist() == [row != 1 for row in rows]
        return torch.autograd.grad(sol.ys[-1][good].sum(), (y0, a))

    (y, a), (wanted_y, wanted_a) = run([0, 1, 2]), run([0, 2])
    torch.testing.assert_close(y[[0, 2]], wanted_y, rtol=1e-12, atol=0)
    torch.testing.assert_close(a, wanted_a, rtol=1e-12, atol=0)
    assert y[1] == 0


def test_what_is_not_possible_is_refused():
    y0, a = inputs()
    problem = sde(a, "diagonal")
    with pytest.raises(ss.CompileError, match="compile: got True with adjoint='backsolve' for an Ito SDE"):
        ss.solve(problem, y0, TS, dt=0.1, adjoint="backsolve", compile=True)
    with pytest.raises(
        ss.CompileError, match="compile: got True with adjoint='backsolve' and adaptive steps of an SDE"
    ):
        ss.solve(problem, y0, TS, rtol=0.1, adjoint="backsolve", compile=True, seed=0)
    with pytest.raises(ValueError, match=r"adjoint: got ss.Backsolve\(rtol=0.1\)"):
        ss.solve(problem, y0, TS, dt=0.1, adjoint=ss.Backsolve(rtol=0.1))
    ys = ss.solve(problem, y0, TS, dt=0.1, adjoint="backsolve").ys
    with pytest.raises(ss.SolveError, match="'backsolve' was asked for gradients of its gradients"):
        torch.autograd.grad(ys.sum(), a, create_graph=True)


def test_a_backward_solve_that_grows_without_bound_is_reported():
    y0 = torch.tensor([[0.5], [0.7]], dtype=F64, requires_grad=True)
    problem = ss.SDE(lambda t, y: y**3, lambda t, y: 0.1 * y, calculus="stratonovich")
    ys = ss.solve(problem, y0, TS, dt=0.1, seed=0, adjoint="backsolve").ys
    with pytest.raises(ss.SolveError, match=r"the backward solve failed near t = 0\.37"):
        ys[-1].sum().backward()
