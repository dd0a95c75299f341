"""Measured orders of the ODE methods, and the closed form of one step on a linear problem."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods import METHODS, RungeKutta, names

# implicit ones are measured in test_esdirk.py, by fewer steps
ODE_METHODS = [name for name in names("ode") if not METHODS["ode", name].may_fail]


def whirl(t, y):
    """Rotation at the angular speed |y|^2 / (1 + t): nonlinear, coupled, dependent on t."""
    u, v = y.unbind(-1)
    speed = (u * u + v * v) / (1 + t)
    return torch.stack([-speed * v, speed * u], -1)


def exact(radius, t):
    angle = radius * radius * math.log(1 + t)
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1)


def slope(steps, errors):
    """Of the regression line of log error on log step."""
    x, y = torch.tensor(steps).log(), torch.tensor(errors).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("name", ODE_METHODS)
def test_error_falls_with_the_order_of_the_method(name, backwards):
    order = METHODS["ode", name].order
    t0, t1 = (2.0, 0.0) if backwards else (0.0, 2.0)
    radius = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)
    steps = [2.0 / n for n in (96, 128, 192, 256, 384)]
    errors = []
    for dt in steps:
        ts = torch.tensor([t0, t1], dtype=torch.float64)
        sol = ss.solve(ss.ODE(whirl), exact(radius, t0), ts, dt=dt, method=name)
        errors.append(float((sol.ys[-1] - exact(radius, t1)).norm(dim=-1).max()))
    # The pairs of order 5 were designed with a tiny leading error, so that they come down to their order from above.
    above = 0.5 if order == 5 else 0.15
    assert order - 0.15 < slope(steps, errors) < order + above, errors


@pytest.mark.parametrize("name", [name for name in ODE_METHODS if isinstance(METHODS["ode", name], RungeKutta)])
@settings(max_examples=20)
@given(z=st.floats(-2, 2), steps=st.integers(1, 5))
def test_on_a_linear_problem_a_step_multiplies_by_the_exponential_series_up_to_the_order(name, z, steps):
    """R(z) = 1 + z + ... + z^p / p! + sum_{j > p} c_j z^j with c_j = b A^{j-2} c, from the tableau alone."""
    tableau = METHODS["ode", name].tableau
    power = [1.0] * tableau.stages
    growth, total = 1.0, 1.0
    for j in range(1, tableau.stages + 1):
        growth = math.fsum(b * p for b, p in zip(tableau.b, power, strict=True))
        total += growth * z**j
        power = [math.fsum(x * p for x, p in zip(row, power, strict=False)) for row in tableau.a]
    sol = ss.solve(
        ss.ODE(lambda t, y: z * y),
        torch.ones(1, 1, dtype=torch.float64),
        torch.tensor([0.0, float(steps)], dtype=torch.float64),
        dt=1.0,
        method=name,
    )
    # the stages' sums cancel by a factor of up to sum |a| |b| |z|^j, below 1e4 here
    assert abs(sol.ys[-1].item() - total**steps) <= 1e-11 * max(1.0, abs(total)) ** steps
