"""The log-ODE method: its step with Levy areas, and its order where the columns of the diffusion do not commute."""

import numpy as np
import torch

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, State
from sdesolve.state import state_spec
from sdesolve.system import System
from tests.methods.one_graph import assert_steps_are_one_graph
from validation.sections.sde_problems import SHEARS

LOG_ODE, HEUN = METHODS["sde", "log_ode"], METHODS["sde", "heun"]


def increments(batch: int, m: int, h: float, seed: int = 0) -> Increments:
    generator = torch.Generator().manual_seed(seed)
    w, H = torch.randn(2, batch, m, generator=generator, dtype=torch.float64) * h**0.5
    half = torch.randn(batch, m, m, generator=generator, dtype=torch.float64) * h
    t0, t1, length = (torch.tensor(x, dtype=torch.float64) for x in (0.4, 0.4 + h, h))
    return Increments(t0, t1, length, w, H, area=half - half.mT)


def step(sde, y, inc, **options):
    return LOG_ODE.step(System(sde, state_spec(y, True)[0]), State(y), inc, **options)


def heisenberg() -> ss.SDE:
    """dX_1 = dW_1, dX_2 = dW_2, dX_3 = X_1 o dW_2 - X_2 o dW_1: the third is twice the area."""

    def diffusion(t, y):
        one, zero = torch.ones_like(y[:, 0]), torch.zeros_like(y[:, 0])
        return torch.stack([torch.stack([one, zero, -y[:, 1]], -1), torch.stack([zero, one, y[:, 0]], -1)], -1)

    return ss.SDE(lambda t, y: torch.zeros_like(y), diffusion, noise="general", calculus="stratonovich")


def test_a_step_on_the_heisenberg_group_is_exact():
    y = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inc = increments(20, 2, 0.5)
    area = y[:, 0] * inc.w[:, 1] - y[:, 1] * inc.w[:, 0] + 2 * inc.area[:, 0, 1]
    exact = torch.stack([y[:, 0] + inc.w[:, 0], y[:, 1] + inc.w[:, 1], y[:, 2] + area], -1)
    assert (step(heisenberg(), y, inc).state.y - exact).abs().max() < 1e-14


def test_solves_of_the_heisenberg_group_follow_the_areas_of_the_path():
    path = ss.BrownianPath(5, (50, 2), cell=1 / 64, levy="davie-foster", dtype=torch.float64)
    sol = ss.solve(
        heisenberg(),
        torch.zeros(50, 3, dtype=torch.float64),
        torch.tensor([0.0, 1.0]).double(),
        method="log_ode",
        dt=1 / 64,
        brownian=path,
    )
    whole = path(0.0, 1.0)
    assert (sol.ys[-1, :, :2] - whole.w).abs().max() < 1e-13
    assert (sol.ys[-1, :, 2] - 2 * whole.area[:, 0, 1]).abs().max() < 1e-13


def general() -> ss.SDE:
    """Three columns that do not commute."""

    def diffusion(t, y):
        a, b = y.unbind(-1)
        columns = [torch.stack([b * b, a], -1), torch.stack([torch.sin(a), 1 + t * b], -1), torch.stack([a * b, b], -1)]
        return torch.stack(columns, -1)

    return ss.SDE(lambda t, y: torch.cos(y) * t, diffusion, noise="general", calculus="stratonovich")


def test_the_brackets_are_those_of_jacobians_taken_column_by_column():
    sde, inc = general(), increments(5, 3, 0.1)
    y = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for i in range(5):
        g = sde.diffusion(inc.t0, y[i : i + 1])[0]
        jacobian = torch.autograd.functional.jacobian(lambda x: sde.diffusion(inc.t0, x[None])[0], y[i])
        brackets = sum(
            inc.area[i, j, k] * (jacobian[:, k] @ g[:, j] - jacobian[:, j] @ g[:, k])
            for k in range(3)
            for j in range(k)
        )
        h, w = inc.h, inc.w[i]
        z = y[i] + h * sde.drift(inc.t0, y[i]) + g @ w + brackets
        drift = (sde.drift(inc.t0, y[i]) + sde.drift(inc.t1, z)) / 2
        end = y[i] + h * drift + (g + sde.diffusion(inc.t1, z[None])[0]) @ w / 2 + brackets
        found = step(sde, y, inc, error=True)
        assert (found.state.y[i] - end).abs().max() < 1e-13
        euler = y[i] + h * sde.drift(inc.t0, y[i]) + g @ w
        assert (found.error[i] - (end - euler)).abs().max() < 1e-13


def test_without_areas_it_is_heuns_method():
    sde, y = general(), torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inc = increments(5, 3, 0.1)
    inc = inc._replace(area=torch.zeros_like(inc.area))
    heun = HEUN.step(System(sde, state_spec(y, True)[0]), State(y), inc).state.y
    assert torch.allclose(step(sde, y, inc).state.y, heun, rtol=1e-14)


def test_strong_order_is_one_for_noise_that_does_not_commute_where_heuns_is_one_half():
    path = ss.BrownianPath(3, (300, 2), cell=2.0**-10, levy="davie-foster", dtype=torch.float64)
    y0, ts = torch.from_numpy(SHEARS.x0).expand(300, -1), torch.tensor([0.0, 1.0], dtype=torch.float64)
    end = lambda method, dt: ss.solve(SHEARS.sde("stratonovich"), y0, ts, method=method, dt=dt, brownian=path).ys[-1]
    reference = end("log_ode", 2.0**-10)
    for method, order in (("log_ode", 1.0), ("heun", 0.5)):
        errors = [float((end(method, 2.0**-k) - reference).norm(dim=1).mean().log2()) for k in range(3, 8)]
        assert abs(-np.polyfit(range(5), errors, 1)[0] - order) < 0.15


def test_a_compiled_loop_takes_the_steps_as_one_graph():
    sde, y = general(), torch.randn(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert_steps_are_one_graph(LOG_ODE, System(sde, state_spec(y, True)[0]), y, increments(4, 3, 0.1))
