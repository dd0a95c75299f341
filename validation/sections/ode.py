"""Orders of the ODE methods against exact solutions, adaptive errors against tolerances, and what these cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.methods import METHODS, Method, names
from validation.check import Case, Check, Section, Settings, bounded
from validation.order import fit_order, order_check
from validation.sections import ode_auto, ode_exponential, ode_hamiltonian, ode_stiff, ode_work_precision

ORDER_BOUND = 0.3
TOLERANCE_BOUND = 0.3
LEAST_ERROR, LEAST_BY_NEWTON = 5e-13, 1e-10
"""Below the first one, rounding shows in the slope; below the other what Newton's method leaves of every step."""


def largest_error_of(order: float) -> float:
    """Errors above it say little about the order: the higher it is, the later the leading term rules."""
    return max(10 ** (0.5 - 1.5 * order), 1e-9)


@dataclass(frozen=True)
class Problem:
    """An ODE with its solution at time T from y0, (batch, d), at time 0."""

    name: str
    what: str
    f: Callable[[Tensor, Tensor], Tensor]
    y0: Tensor
    T: float
    exact: Tensor


def oscillator() -> Problem:
    """A nonlinear oscillator with rates that depend on time; x + i y = r exp(i phi).

    r' = a(t) r (1 - r^2),   phi' = b(t) + c a(t) r^2,   a = 0.4 cos(t) - 0.1,   b = 1.5 + sin(t/2)/2,   c = -1

    1/r^2 = 1 + (1/r_0^2 - 1) exp(-2 int a), and phi = phi_0 + int b + c (int a - log(r/r_0)), since
    a r^2 = a - (log r)'.
    """
    c, T = -1.0, 2.0
    y0 = torch.tensor([[0.6, 0.2], [0.0, 1.2], [-0.8, 0.5]], dtype=torch.float64)

    def f(t: Tensor, y: Tensor) -> Tensor:
        x, v = y[:, :1], y[:, 1:]
        square = x * x + v * v
        a, b = 0.4 * torch.cos(t) - 0.1, 1.5 + 0.5 * torch.sin(0.5 * t)
        radial, angular = a * (1 - square), b + c * a * square
        return torch.cat([radial * x - angular * v, radial * v + angular * x], 1)

    int_a, int_b = 0.4 * math.sin(T) - 0.1 * T, 1.5 * T + 1 - math.cos(0.5 * T)
    r0, phi0 = torch.linalg.vector_norm(y0, dim=1), torch.atan2(y0[:, 1], y0[:, 0])
    r = (1 + (1 / r0**2 - 1) * math.exp(-2 * int_a)) ** -0.5
    phi = phi0 + int_b + c * (int_a - torch.log(r / r0))
    exact = torch.stack([r * torch.cos(phi), r * torch.sin(phi)], 1)
    return Problem("oscillator", "nonlinear oscillator", f, y0, T, exact)


def linear_system() -> Problem:
    """y' = M y with a matrix that is not normal; y(T) = exp(T M) y_0."""
    M = torch.tensor([[-0.1, 2.0, 0.3], [-1.5, 0.1, 0.5], [0.1, -0.4, -0.2]], dtype=torch.float64)
    y0, T = torch.tensor([[1.0, 0.0, -1.0], [0.3, 1.0, 0.5]], dtype=torch.float64), 4.0
    exact = y0 @ torch.linalg.matrix_exp(T * M).T
    return Problem("linear", "linear system, expm", lambda t, y: y @ M.T, y0, T, exact)


PROBLEMS = (oscillator(), linear_system())

#: methods whose stability function agrees with exp to more than their order
LINEAR_ORDERS = {"rodas5p": 6.0}


def largest_error(problem: Problem, solution: ss.Solution) -> float:
    """Largest Euclidean error of a trajectory at the end time."""
    return float(torch.linalg.vector_norm(solution.ys[-1] - problem.exact, dim=1).max())


def order_of(problem: Problem, method: Method, levels: int) -> Iterator[Check]:
    """Global error at T over steps whose number grows by the root of two, or by its root where few of them have an
    error between those that are too large and those of rounding."""
    least = LEAST_BY_NEWTON if method.may_fail else LEAST_ERROR
    ts = torch.tensor([0.0, problem.T], dtype=torch.float64)
    steps: list[float] = []
    errors: list[float] = []
    pace = 4 if method.order >= (5 if method.may_fail else 7) else 2
    for count in (round(2 ** (k / pace)) for k in range(3 * pace, 12 * pace + 1)):
        dt = problem.T / count
        # large steps may explode: a NaN is as good as a large error
        solution = ss.solve(ss.ODE(problem.f), problem.y0, ts, method=method, dt=dt, on_failure="return")
        error = largest_error(problem, solution)
        if error < least or len(steps) == levels:
            break
        if error < largest_error_of(method.order):
            steps.append(dt)
            errors.append(error)
    if len(steps) < 4:
        raise RuntimeError(f"the error of {method.name} does not fall below {largest_error_of(method.order):.1g}")
    order = float(method.order)
    yield order_check(
        "ode",
        f"{method.name}, {problem.name}",
        f"order of {method.name}, {problem.what}",
        fit_order(steps, errors),
        LINEAR_ORDERS.get(method.name, order) if problem.name == "linear" else order,
        ORDER_BOUND,
        figure=f"ODE methods: {problem.what}",
        label=method.name,
        source=method.source,
    )


def adaptive(problem: Problem, method: Method, exponents: list[float]) -> Iterator[Check]:
    """Error at T proportional to the tolerance, and never far above it; to its power p / k where the order p is less
    than k, that of the error estimate."""
    assert method.error_order is not None
    power = min(1.0, method.order / method.error_order)
    ts = torch.tensor([0.0, problem.T], dtype=torch.float64)
    tolerances, errors = [10.0**-k for k in exponents], []
    for tolerance in tolerances:
        solution = ss.solve(
            ss.ODE(problem.f), problem.y0, ts, method=method, rtol=tolerance, atol=tolerance, max_steps=10**6
        )
        errors.append(largest_error(problem, solution))
    yield order_check(
        "ode",
        f"{method.name}, adaptive, slope",
        f"error against tolerance, {method.name}, {problem.what}",
        fit_order(tolerances, errors),
        power,
        TOLERANCE_BOUND,
        figure=f"Adaptive ODE methods: {problem.what}",
        label=method.name,
        x_label="tolerance",
    )
    ratio = max(error / tolerance**power for error, tolerance in zip(errors, tolerances, strict=True))
    what = f"largest error / tolerance{'' if power == 1 else f'^{power:.2g}'}, {method.name}, {problem.what}"
    yield bounded("ode", f"{method.name}, adaptive, ratio", what, ratio, 50.0)


def cases(settings: Settings) -> list[Case]:
    methods = [METHODS["ode", name] for name in names("ode")]
    levels = 6 if settings.quick else 8
    orders = [
        Case(f"{method.name}, {problem.name}", partial(order_of, problem, method, levels))
        for problem in PROBLEMS
        for method in methods
        if not method.adaptive_only
    ]
    controlled = [
        Case(f"{method.name}, adaptive", partial(adaptive, PROBLEMS[0], method, exponents(method, settings.quick)))
        for method in methods
        if method.error_order is not None
    ]
    parts = (ode_work_precision, ode_stiff, ode_auto, ode_hamiltonian, ode_exponential)
    return orders + controlled + [case for part in parts for case in part.cases(settings)]


def exponents(method: Method, quick: bool) -> list[float]:
    """Tolerances 10^-k: fewer digits for methods of low order, whose steps would be too many; more for those of high
    order, whose steps would be too few to speak of."""
    assert method.error_order is not None
    most = {2: 5, 3: 7, 7: 12, 8: 12}.get(int(method.error_order), 10)
    least = {5: 2, 7: 2, 10: 4, 12: 6}[most]
    pace = 0.5 if most - least < 5 or not quick else 1.0
    return [least + pace * k for k in range(int((most - least) / pace) + 1)]


ODE = Section(
    "ode",
    "orders of the ODE methods, errors against tolerances, work beside SciPy's; stiff, Hamiltonian and semilinear ones",
    cases,
)
