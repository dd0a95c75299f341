"""Measured orders of the ODE methods, and the closed form of one step on a linear problem."""

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sdesolve as ss
from sdesolve.methods import METHODS, RungeKutta, names
from tests.methods.every_ode import IMPLICIT

# implicit ones are measured in test_esdirk.py and test_rosenbrock.py, by fewer steps
ODE_METHODS = [name for name in names("ode") if name not in IMPLICIT and not METHODS["ode", name].adaptive_only]


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


def lengths(order):
    """Of steps over [0, 2] at which the leading error of the whirl rules, and rounding does not show."""
    return [2.0 / n for n in ((96, 128, 192, 256, 384) if order < 7 else (20, 24, 32, 40, 48))]


def relaxing(t, z):
    """Nonlinear, without t."""
    return 1j * z * (1 + z / 5)


def chirp(t, z):
    """Dependent on t: rotation that grows faster."""
    return 1j * t / 4 * z


def relaxed(t):
    return 1 / (1.2 * cmath.exp(-1j * t) - 0.2)


#: right-hand side, and the solution from 1 at time 0
PROBLEMS = {"autonomous": (relaxing, relaxed), "dependent on t": (chirp, lambda t: cmath.exp(1j * t * t / 8))}

#: how many steps over [0, 10], by order: the leading error rules, and rounding does not show
COUNTS = {
    1: (3000, 4000, 6000, 8000),
    2: (400, 600, 800, 1200),
    3: (200, 300, 400, 600),
    4: (100, 150, 200, 300),
    5: (320, 480, 640, 800),
    7: (72, 84, 100, 120),
    8: (32, 40, 50, 64),
}


@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", ODE_METHODS)
def test_error_falls_with_the_order_of_the_method(name, problem, backwards):
    order = METHODS["ode", name].order
    f, exact = PROBLEMS[problem]
    t0, t1 = (10.0, 0.0) if backwards else (0.0, 10.0)
    y0, ts = torch.tensor([[exact(t0)]], dtype=torch.complex128), torch.tensor([t0, t1], dtype=torch.float64)
    steps, errors = [10.0 / n for n in COUNTS[order]], []
    for dt in steps:
        sol = ss.solve(ss.ODE(f), y0, ts, dt=dt, method=name)
        errors.append(abs(sol.ys[-1].item() - exact(t1)))
    assert abs(slope(steps, errors) - order) < 0.2, errors


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
