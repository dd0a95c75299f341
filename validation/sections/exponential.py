"""The exponential methods for semilinear problems: the exact law where f = 0, and the orders where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, Method, State
from sdesolve.state import state_spec
from sdesolve.system import System
from validation.check import Case, Check, Settings, bounded
from validation.linear import LinearSDE
from validation.moments import MomentRecursion, moment_vector
from validation.order import fit_order, fit_sampled_order, order_check
from validation.sections.sde_orders import STRONG_BOUND, WEAK_BOUND

NAMES = ("exponential_euler", "exponential_heun")
ODE_BOUND = 0.15
F64 = torch.float64
FIGURE = "Exponential methods"

LINEAR = LinearSDE(
    "diagonal",
    np.array([[-0.9, 0.5], [-0.4, -0.2]]),
    np.array([0.5, 0.2]),
    np.zeros((2, 2, 2)),
    np.diag([0.6, 0.4]),
    np.array([1.0, -0.5]),
)


def rate(t: Tensor) -> Tensor:
    return -1.0 - 0.7 * torch.cos(2 * t)


def size(t: Tensor) -> Tensor:
    return 1.0 + 0.5 * torch.sin(3 * t)


def one_step(problem: ss.Semilinear, t0: float, h: float) -> tuple[float, float]:
    """Mean and variance of one step of exponential Heun from 1; for f = 0 it is linear in W."""
    y = torch.ones(2, 1, dtype=F64)
    times = (torch.tensor(x, dtype=F64) for x in (t0, t0 + h, h))
    w = torch.tensor([[0.0], [abs(h) ** 0.5]], dtype=F64)
    system = System(problem, state_spec(y, True)[0])
    mean, other = METHODS["sde", "exponential_heun"].step(system, State(y), Increments(*times, w)).state.y[:, 0]
    return float(mean), float((other - mean) ** 2)


def constant_law() -> Iterator[Check]:
    """Against exp(A h) and (exp(2 A h) - 1) / (2 A), for A h from -10^4 to 3."""
    worst = 0.0
    for a in (*-np.logspace(-8, 4, 49), *np.linspace(0.1, 3, 7)):
        mean, variance = one_step(ss.Semilinear(float(a), None, 1.0), 0.0, 1.0)
        errors = abs(mean - np.exp(a)) / max(np.exp(a), 1e-300), abs(variance / (np.expm1(2 * a) / (2 * a)) - 1)
        # exp multiplies the rounding of its argument
        worst = max(worst, errors[0] / (1 + abs(a)), errors[1])
    what = "largest relative error of mean (by 1 + |A h|) and variance of one step, f = 0, A h from -1e4 to 3"
    yield bounded("sde", "exponential, law of constant rates", what, worst, 1e-14)


def moving_law() -> Iterator[Check]:
    """Steps of 1/20 against the equations m' = A m, v' = 2 A v + g^2 by an adaptive method of order 8."""
    worst = 0.0
    problem = ss.Semilinear(rate, None, size)
    scalar = lambda function, t: float(function(torch.tensor(t, dtype=F64)))

    def moments(t: float, v: np.ndarray) -> list[float]:
        a = scalar(rate, t)
        return [a * v[0], 2 * a * v[1] + scalar(size, t) ** 2]

    for t0 in np.linspace(0, 2, 9):
        exact = solve_ivp(moments, (t0, t0 + 0.05), [1.0, 0.0], "DOP853", rtol=1e-13, atol=1e-15).y[:, -1]
        found = one_step(problem, float(t0), 0.05)
        worst = max(worst, *(abs(a / b - 1) for a, b in zip(found, exact, strict=True)))
    what = "largest relative error of mean and variance of one step of 1/20, f = 0, A and g in t"
    yield bounded("sde", "exponential, law of rates in time", what, worst, 1e-11)


def weak_order(method: Method) -> Iterator[Check]:
    B = torch.from_numpy(LINEAR.A.T.copy() + np.diag([1.2, 0.4]))
    c = torch.from_numpy(LINEAR.a)
    noise = torch.from_numpy(LINEAR.b.diagonal().copy())
    problem = ss.Semilinear(torch.tensor([-1.2, -0.4], dtype=F64), lambda t, y: y @ B + c, noise)
    recursion = MomentRecursion(problem, method, 2, 2, order=4)
    exact, start = LINEAR.moments(1.0), moment_vector(LINEAR.x0, np.zeros((2, 2)))
    steps = [2.0**-k for k in range(4, 10)]
    ends = [recursion.run(start, np.linspace(0, 1, round(1 / h) + 1), autonomous=True) for h in steps]
    yield order_check(
        "sde",
        f"{method.name}, weak, linear",
        f"weak order of {method.name}, linear f that couples the components",
        fit_order(steps, [float(np.linalg.norm(end - exact)) for end in ends]),
        method.weak_order_for("additive") or 0.0,
        WEAK_BOUND,
        figure=f"{FIGURE}: weak error of first and second moments",
        label=method.name,
        y_label="|error of moments|",
        source=method.source,
    )


def strong_order(method: Method, settings: Settings) -> Iterator[Check]:
    """Against SRA1 on the cells of the path."""
    name = f"{method.name}, strong"
    paths, least = (1000, 8) if settings.quick else (4000, 9)
    problem = ss.Semilinear(rate, lambda t, y: torch.sin(2 * y) + torch.cos(t), size)
    cell = 2.0 ** -(least + 2)
    path = ss.BrownianPath(settings.seed_of(name), (paths, 1), cell=cell, levy="space-time", dtype=F64)
    y0, ts = torch.ones(paths, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    end: Callable[[float, str], Tensor] = lambda dt, by: ss.solve(problem, y0, ts, method=by, dt=dt, brownian=path).ys[
        -1
    ]
    exact, steps = end(cell, "sra1"), [2.0**-k for k in range(4, least)]
    errors = np.stack([(end(dt, method.name) - exact).abs()[:, 0].numpy() for dt in steps])
    yield order_check(
        "sde",
        name,
        f"strong order of {method.name}, A, f and g in time",
        fit_sampled_order(steps, errors, seed=settings.seed),
        method.strong_order_for("additive"),
        STRONG_BOUND,
        figure=f"{FIGURE}: strong error",
        label=method.name,
        y_label="E |error|",
        paths=paths,
        reference="sra1 on the cells of the path",
        source=method.source,
    )


def ode_order(method: Method) -> Iterator[Check]:
    """Rates in time, against an adaptive method of order 8."""
    problem = ss.Semilinear(rate, lambda t, y: torch.cos(3 * t) * torch.sin(y))
    y0, ts = torch.tensor([[0.5], [1.5]], dtype=F64), torch.tensor([0.0, 2.0], dtype=F64)

    def right(t: float, y: np.ndarray) -> np.ndarray:
        return (-1.0 - 0.7 * np.cos(2 * t)) * y + np.cos(3 * t) * np.sin(y)

    exact = solve_ivp(right, (0.0, 2.0), [0.5, 1.5], "DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    steps = [2.0**-k for k in range(4, 10)]
    ends = [ss.solve(problem, y0, ts, method=method.name, dt=dt).ys[-1, :, 0].numpy() for dt in steps]
    yield order_check(
        "sde",
        f"{method.name}, without noise",
        f"order of {method.name} for an ODE, A and f in time",
        fit_order(steps, [float(np.abs(end - exact).max()) for end in ends]),
        method.order,
        ODE_BOUND,
        figure=f"{FIGURE}: error without noise",
        label=method.name,
        source=method.source,
    )


def cases(settings: Settings) -> list[Case]:
    found = [Case("exponential, constant law", constant_law), Case("exponential, law in time", moving_law)]
    for name in NAMES:
        found.append(Case(f"{name}, weak", partial(weak_order, METHODS["sde", name])))
        found.append(Case(f"{name}, strong", partial(strong_order, METHODS["sde", name], settings)))
        found.append(Case(f"{name}, ode", partial(ode_order, METHODS["ode", name])))
    return found
