"""A trajectory that fails does not spoil the others: their values, bit by bit, nor the gradients of what they share."""

import pytest
import torch

import sdesolve as ss
from sdesolve import Status

NAN, INF = float("nan"), float("inf")
TS = torch.linspace(0, 1, 5, dtype=torch.float64)
Y0 = torch.tensor([[1.0, 0.5], [3.0, 1.0], [0.2, 0.3], [4.0, 1.0]], dtype=torch.float64)
GOOD = torch.tensor([True, False, True, False])


def bad(y):
    """Trajectories that stay above this line are made to fail; the others never come near it."""
    return y[:, :1] > 2.5


#: dy/dt = f(theta, t, y), which fails for the second and fourth start state
FAILURES = {
    "nan_at_the_start": lambda th, t, y: -0.1 * th * torch.where(bad(y), NAN, y),
    "nan_later": lambda th, t, y: -0.1 * th * torch.where(bad(y) & (t > 0.4), NAN, y),
    "nan_that_multiplies_the_parameter": lambda th, t, y: -0.1 * th * y * torch.where(bad(y) & (t > 0.4), NAN, 1.0),
    "infinity_later": lambda th, t, y: -0.1 * th * y * torch.where(bad(y) & (t > 0.4), INF, 1.0),
    "root_of_a_negative": lambda th, t, y: -0.1 * th * y + 0.1 * torch.sqrt(th * (torch.where(bad(y), 0.41, 9.0) - t)),
    "blow_up": lambda th, t, y: th * y**2 * torch.tensor([1.0, 0.0], dtype=y.dtype),
}
#: steps of each trajectory's own, or known beforehand: then the others cannot notice at all
INDEPENDENT = {
    "own": {},
    "own_without_first_same_as_last": {"method": "heun", "rtol": 1e-3},
    "own_bosh3": {"method": "bosh3", "rtol": 1e-3},
    "fixed": {"dt": 0.05},
    "fixed_rk4": {"dt": 0.05, "method": "rk4"},
    "backsolve": {"adjoint": "backsolve"},
    "backsolve_fixed": {"adjoint": "backsolve", "dt": 0.05},
}
SHARED = {
    "shared": {"shared_steps": True, "rtol": 1e-7, "atol": 1e-9},
    "shared_backsolve": {"shared_steps": True, "adjoint": "backsolve", "rtol": 1e-7, "atol": 1e-9},
}


def run(f, y0, options):
    """The solution, and the gradients of a loss of its good trajectories with respect to theta and y0."""
    theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    y0 = y0.clone().requires_grad_()
    options = {"max_steps": 1500, **options} if "dt" not in options else options
    solution = ss.solve(ss.ODE(lambda t, y: f(theta, t, y)), y0, TS, on_failure="return", **options)
    (solution.ys[:, solution.success] ** 2).sum().backward()
    return solution, theta.grad, y0.grad


@pytest.mark.parametrize("options", INDEPENDENT.values(), ids=INDEPENDENT.keys())
@pytest.mark.parametrize("name", FAILURES)
def test_good_trajectories_are_what_they_are_without_the_failing_ones(name, options):
    together, theta, y = run(FAILURES[name], Y0, options)
    good = together.success
    if name != "blow_up" or "dt" not in options:  # fixed steps may pass over a singularity
        assert good.tolist() == GOOD.tolist()
    alone, theta_alone, y_alone = run(FAILURES[name], Y0[good], options)
    assert torch.equal(together.ys[:, good], alone.ys)
    assert torch.equal(together.stats.steps[good], alone.stats.steps)
    # the backward solve of the adjoint takes steps that all share, so agrees to its tolerance alone
    torch.testing.assert_close(theta, theta_alone, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(y[good], y_alone, rtol=1e-5, atol=1e-9)
    assert (y[~good] == 0).all()


@pytest.mark.parametrize("options", SHARED.values(), ids=SHARED.keys())
@pytest.mark.parametrize(
    "name", ["nan_at_the_start", "nan_later", "nan_that_multiplies_the_parameter", "infinity_later"]
)
def test_on_a_shared_clock_good_trajectories_and_gradients_agree_to_the_tolerance(name, options):
    together, theta, y = run(FAILURES[name], Y0, options)
    assert together.success.tolist() == GOOD.tolist()
    alone, theta_alone, y_alone = run(FAILURES[name], Y0[GOOD], options)
    torch.testing.assert_close(together.ys[:, GOOD], alone.ys, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(theta, theta_alone, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(y[GOOD], y_alone, rtol=1e-5, atol=1e-8)
    assert (y[~GOOD] == 0).all()


@pytest.mark.parametrize("steps", [{"dt": 0.05, "method": "rk4"}, {}, {"shared_steps": True}], ids=str)
def test_a_good_trajectory_that_moves_away_from_a_singularity_keeps_its_gradient(steps):
    """sqrt(y + 0.2 - t) is real along the good trajectory, but not at its start state at later times."""
    gradients = []
    for y0 in (torch.tensor([[-1.0], [0.1]]), torch.tensor([[0.1]])):
        theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        ode = ss.ODE(lambda t, y, theta=theta: theta * torch.sqrt(y + 0.2 - t) + 1)
        solution = ss.solve(ode, y0.double(), torch.linspace(0, 1, 3), on_failure="return", **steps)
        assert solution.success.tolist() == [False, True][-len(y0) :]
        gradients += torch.autograd.grad(solution.ys[-1, -1].sum(), theta)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
@pytest.mark.parametrize("noise", ["diagonal", "scalar", "general"])
def test_a_failing_path_of_an_sde_does_not_spoil_the_others(noise, calculus):
    def run(y0, paths):
        theta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        drift = lambda t, y: -0.1 * theta * y * torch.where(bad(y) & (t > 0.4), NAN, 1.0)
        columns = lambda t, y: torch.stack([0.02 * theta * y, 0.01 * y], -1)
        g = columns if noise == "general" else lambda t, y: 0.02 * theta * y
        sde = ss.SDE(drift, g, noise=noise, calculus=calculus)
        solution = ss.solve(sde, y0, TS, dt=0.05, seed=3, paths=paths, on_failure="return")
        good = solution.success
        return solution, *torch.autograd.grad((solution.ys[:, good] ** 2).sum(), theta)

    together, gradient = run(Y0, [5, 6, 7, 8])
    alone, gradient_alone = run(Y0[GOOD], [5, 7])
    assert together.success.tolist() == GOOD.tolist()
    assert torch.equal(together.ys[:, GOOD], alone.ys)
    torch.testing.assert_close(gradient, gradient_alone, rtol=1e-12, atol=0.0)


def test_rejected_steps_that_gave_nan_poison_no_gradient():
    """The first trial steps leave the region where the root is real; the accepted ones do not."""

    def run(dt):
        theta = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
        y0 = torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64)
        ode = ss.ODE(lambda t, y: -theta * torch.sqrt(y) * 1.2)
        solution = ss.solve(ode, y0, torch.tensor([0.0, 1.0]), dt=dt, rtol=1e-8, atol=1e-10)
        return solution, *torch.autograd.grad(solution.ys[-1].sum(), theta)

    bold, gradient = run(1.0)
    careful, wanted = run(1e-3)
    assert (bold.stats.rejected > 0).all(), "the first step was to be too long"
    assert careful.success.all() and bold.success.all()
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=0.0)


def test_too_many_steps_of_one_trajectory_leave_the_others_alone():
    rate = torch.tensor([[1.0], [300.0], [2.0]])
    ode = ss.ODE(lambda t, y: torch.cos(rate * t) * y)
    ts, y0 = torch.linspace(0, 1, 3), torch.ones(3, 1)
    solution = ss.solve(ode, y0, ts, max_steps=40, on_failure="return")
    assert [Status(int(s)) for s in solution.status] == [Status.SUCCESS, Status.MAX_STEPS, Status.SUCCESS]
    assert solution.stats.steps[1] == 40
    assert torch.equal(solution.ys[:, [0, 2]], ss.solve(ode, y0, ts).ys[:, [0, 2]])


def test_paths_that_leave_the_region_of_a_root_do_not_spoil_the_others():
    """Euler steps of dy = theta sqrt(y) dW become negative on some paths: what stands in for them must not."""
    ts = torch.linspace(0, 1, 3, dtype=torch.float64)

    def run(paths):
        theta = torch.tensor(1.6, dtype=torch.float64, requires_grad=True)
        sde = ss.SDE(lambda t, y: 0 * y, lambda t, y: theta * torch.sqrt(y))
        y0 = torch.ones(len(paths), 1, dtype=torch.float64)
        how = {"dt": 0.02, "seed": 0, "paths": paths, "method": "euler_maruyama"}
        solution = ss.solve(sde, y0, ts, **how, on_failure="return")
        return solution, *torch.autograd.grad(solution.ys[-1, solution.success].sum(), theta)

    together, gradient = run(list(range(40)))
    good = together.success
    assert 5 < good.sum() < 35
    alone, wanted = run(together.paths[good].tolist())
    assert torch.equal(together.ys[:, good], alone.ys)
    torch.testing.assert_close(gradient, wanted, rtol=1e-12, atol=0.0)


def test_where_a_finished_trajectory_ended_poisons_no_gradient():
    rate = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    ts = torch.tensor([[0.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    y0 = torch.tensor([[0.1], [4.0]], dtype=torch.float64)
    # Euler's step takes the first one below zero, where the root has no derivative, half a unit before the other ends
    sol = ss.solve(ss.ODE(lambda t, y: -rate * torch.sqrt(y)), y0, ts, method="euler", dt=0.5)
    alone = ss.solve(ss.ODE(lambda t, y: -rate * torch.sqrt(y)), y0[1:], ts[1], method="euler", dt=0.5)
    mine, its = (torch.autograd.grad(s.ys[-1, -1].sum(), rate)[0] for s in (sol, alone))
    assert torch.equal(mine, its)
