"""The loop's contract: what will come fits. Four small prototypes in the eager loop, three in the compiled one."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import sdesolve as ss
from sdesolve.adaptive_plan import AdaptivePlan
from sdesolve.compiled import compile_adaptive
from sdesolve.driver import Outputs, drive
from sdesolve.loop import Loop
from sdesolve.methods import METHODS
from sdesolve.solution import Status
from sdesolve.state import state_spec
from sdesolve.step_size import PID
from sdesolve.system import System
from tests.loop.prototype_adjoint import ByBackwardSolve
from tests.loop.prototype_event import Bounce
from tests.loop.prototype_sde import LatticeClock, ShiftedEuler, TablePath
from tests.loop.prototype_sdirk import SDIRK2

TRACED = [pytest.mark.compile, pytest.mark.traced]
BOTH = pytest.mark.parametrize("compile", [False, pytest.param(True, marks=TRACED)])


def van_der_pol(t, y):
    return torch.stack([y[:, 1], 30 * ((1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0])], 1)


@BOTH
def test_an_implicit_step_with_newton_iterations_solves_a_stiff_problem(compile):
    y0 = torch.tensor([[2.0, 0.0], [1.5, 0.1], [2.5, -0.3]], dtype=torch.float64)
    ts = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    sol = ss.solve(ss.ODE(van_der_pol), y0, ts, method=SDIRK2(5), rtol=1e-5, atol=1e-7, compile=compile)
    for i in range(3):
        f = lambda t, y: van_der_pol(t, torch.as_tensor(y)[None])[0].numpy()
        exact = solve_ivp(f, (0, 1), y0[i].numpy(), method="Radau", t_eval=[0.5, 1.0], rtol=1e-10, atol=1e-12).y.T
        # order-1 error estimates of 1e-6 a step over some hundred steps, propagated by slow dynamics
        np.testing.assert_allclose(sol.ys[1:, i], exact, rtol=1e-4, atol=1e-4)
    assert sol.stats.steps.unique().numel() > 1, "every trajectory has its own steps"


class Stubborn(SDIRK2):
    """Never converges above 5."""

    def newton(self, system, t, base, h, factors):
        k, lost = super().newton(system, t, base, h, factors)
        return k, lost | (base[:, 0] > 5)


def test_a_step_whose_newton_iterations_do_not_converge_fails_its_trajectory_alone():
    y0 = torch.tensor([[1.0], [6.0]], dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    sol = ss.solve(ss.ODE(lambda t, y: -y), y0, ts, method=Stubborn(), rtol=1e-5, atol=1e-7, on_failure="return")
    assert sol.status.tolist() == [Status.SUCCESS, Status.NOT_CONVERGED]
    assert abs(sol.ys[-1, 0, 0].item() - math.exp(-1)) < 1e-4
    assert sol.ys[-1, 1].isnan().all()


def fall(t, y):
    return torch.stack([y[:, 1], torch.full_like(y[:, 0], -9.81)], 1)


def bouncing(height: float, restitution: float, time: float) -> float:
    """Height of the ball at a time, in closed form."""
    g = 9.81
    t, v = math.sqrt(2 * height / g), math.sqrt(2 * g * height)
    if time <= t:
        return height - g * time**2 / 2
    while True:
        v *= restitution
        if time <= t + 2 * v / g:
            return v * (time - t) - g * (time - t) ** 2 / 2
        t += 2 * v / g


@BOTH
def test_an_event_changes_the_state_of_each_trajectory_at_its_own_time(compile):
    heights = torch.linspace(0.5, 3.0, 6, dtype=torch.float64)
    y0 = torch.stack([heights, torch.zeros_like(heights)], 1)
    ts = np.linspace(0.0, 2.5, 6)[:, None]
    spec, y = state_spec(y0, True)
    plan = AdaptivePlan(
        System(ss.ODE(fall), spec),
        METHODS["ode", "tsit5"],
        PID(1e-9, 1e-10),
        ts,
        watcher=Bounce(0.8, 1e-12),
        compile_chunk=compile_adaptive if compile else None,
    )
    with torch.no_grad():
        result = plan.run(y)
    assert (result.status == Status.SUCCESS).all()
    exact = [[bouncing(float(h), 0.8, float(t)) for h in heights] for t in ts[:, 0]]
    np.testing.assert_allclose(result.ys[..., 0], exact, atol=1e-9)


def test_an_adaptive_sde_step_uses_w_and_h_on_integer_times_and_sees_the_same_path_after_a_rejection():
    lanes, units, ticks = 50, 2, 2**12
    # a drift that turns stiff for a while, so that steps are rejected
    drift = lambda t, y: -(2 + 60 * torch.exp(-200 * (t - 0.7) ** 2)) * (y - torch.sin(5 * t))
    sde = ss.SDE(drift, lambda t, y: 0.5 * torch.ones_like(y), additive=True)
    spec, y0 = state_spec(torch.ones(lanes, 1, dtype=torch.float64), True)
    path = TablePath(lanes, units, ticks, seed=3)
    seen = []

    def noise(proposal):
        increment = path(proposal)
        seen.append((proposal.ticket, increment.w))
        return increment

    system, clock = System(sde, spec), LatticeClock(lanes, units, ticks)
    loop = Loop(system, ShiftedEuler(), clock, PID(1e-3, 1e-3, p=0.1, i=0.3), noise=noise)
    h = torch.full((lanes,), 0.05, dtype=torch.float64)
    status = torch.full((lanes,), int(Status.RUNNING))
    outputs = Outputs.make(y0, units + 1, spec, torch.arange(units + 1), graph=False)
    with torch.no_grad():
        carry = drive(loop, loop.start(y0, (), h, status), outputs)
    assert (carry.status == Status.SUCCESS).all()
    assert (carry.rejected > 0).any() and (carry.accepted != carry.accepted[0]).any()

    # the same path, at every tick
    fine, x = path.path, y0
    with torch.no_grad():
        for k in range(units * ticks):
            t = torch.tensor(k / ticks, dtype=torch.float64)
            x = x + drift(t, x) / ticks + 0.5 * (fine[k + 1] - fine[k])[:, None]
            if (k + 1) % ticks == 0:
                error = (outputs.buffer[(k + 1) // ticks] - x).abs().mean()
                # tolerance 1e-3 a step, contracted at rate 2 over steps of some 0.02, so about 1e-3 / (2 * 0.02)
                assert error < 2.5e-2
    whole = fine[-1] - fine[0]
    total = torch.zeros(lanes, dtype=torch.float64)
    position = torch.zeros(lanes, dtype=torch.int64)
    for ((start, _), w), ((after, _), _) in zip(seen, [*seen[1:], ((carry.clock[0], None), None)], strict=True):
        total += torch.where(after > start, w[:, 0], 0.0)
        position = after
    torch.testing.assert_close(total, whole)
    assert (position == units * ticks).all()


@BOTH
def test_a_backward_solve_inside_an_autograd_function_gives_the_gradients_of_direct_backpropagation(compile):
    f = lambda p, t, y: torch.tanh(y @ p) - 0.3 * torch.sin(t) * y
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    y0 = torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    mine = torch.autograd.grad(ByBackwardSolve.apply(f, ts, compile, y0, p).square().sum(), (y0, p))
    direct = ss.solve(ss.ODE(lambda t, y: f(p, t, y), batched=False), y0, ts, rtol=1e-9, atol=1e-9).ys[-1]
    for a, b in zip(mine, torch.autograd.grad(direct.square().sum(), (y0, p)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
