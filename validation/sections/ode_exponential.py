"""Exponential methods of ODEs: phi functions, orders on stiff semilinear problems, and work beside other methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from scipy.fft import dst
from torch import Tensor

import sdesolve as ss
from sdesolve.methods import METHODS, Method, made_for
from sdesolve.methods.phi import phi
from validation.check import Case, Check, Settings, bounded
from validation.order import fit_order, order_check
from validation.sections.ode_problems import Array
from validation.sections.ode_work_precision import Measured

F64 = torch.float64
ORDER_BOUND = 0.25
BEST = "exponential_rk3"
"""Whose steps adapt, beside the peers."""

MOST_UNITS = 10.0
"""Rounding units that the phi functions may be off."""


@dataclass(frozen=True)
class Problem:
    """y' = A(t) y + f(t, y) with a stiff A, from time 0 to T, where `exact` is known. peers : methods that solve it as
    an ODE, an explicit one only where it gets there."""

    name: str
    problem: ss.Semilinear
    exact: Callable[[float], Tensor]
    T: float
    source: str
    peers: tuple[str, ...] = ("rodas5p", "kencarp4")

    def error(self, y: Tensor) -> float:
        """(d,), at the end."""
        return float((y - self.exact(self.T)).norm())


def heat(points: int = 63) -> Problem:
    """u_t = u_xx + 1 / (1 + u^2) + source on (0, 1), whose solution is u = x (1 - x) exp(t).

    On a grid, where difference quotients of this u are exact; the state are its coefficients of sines, each with its
    rate, down to -4 (points + 1)^2.
    """
    x = np.arange(1, points + 1) / (points + 1)
    sines = torch.from_numpy(dst(np.eye(points), type=1, norm="ortho"))
    rates = torch.from_numpy(-4.0 * (points + 1) ** 2 * np.sin(np.pi * x / 2) ** 2)
    shape = torch.from_numpy(x * (1 - x))

    def rest(t: Tensor, y: Tensor) -> Tensor:
        u, exact = y @ sines, shape * torch.exp(t)
        return (1 / (1 + u * u) + exact + 2 * torch.exp(t) - 1 / (1 + exact * exact)) @ sines

    exact = lambda t: np.exp(t) * (shape @ sines)
    source = "Hochbruck & Ostermann 2005, SIAM J. Numer. Anal. 43:1069, section 6"
    return Problem("heat equation", ss.Semilinear(rates, rest), exact, 1.0, source, ("tsit5", "rodas5p", "kencarp4"))


def relaxation(modes: int = 13) -> Problem:
    """Rates from -1 to -10^6 that breathe in time,  A_k(t) = -a_k (1 + sin(t) / 2),  a sum of squares that couples all,
    and  y_k = cos(t + k) / (1 + a_k),  so that A y is of size 1."""
    sizes, phases = torch.logspace(0, 6, modes, dtype=F64), torch.arange(modes, dtype=F64)
    part = sizes / (1 + sizes)

    def known(t: Tensor) -> Tensor:
        return torch.cos(t + phases) / (1 + sizes)

    def rest(t: Tensor, y: Tensor) -> Tensor:
        exact = known(t)
        change = -torch.sin(t + phases) / (1 + sizes) + part * (1 + 0.5 * torch.sin(t)) * torch.cos(t + phases)
        return change - ((y * y).sum(-1, keepdim=True) - (exact * exact).sum(-1, keepdim=True))

    A = lambda t: -sizes * (1 + 0.5 * torch.sin(t))
    exact = lambda t: known(torch.tensor(t, dtype=F64))
    return Problem("relaxation, rates in time", ss.Semilinear(A, rest), exact, 1.0, "its solution was chosen")


PROBLEMS = (heat(), relaxation())


def exponential_methods() -> list[Method]:
    """Those for ODEs."""
    return [METHODS["ode", name] for name in made_for("Semilinear") if ("ode", name) in METHODS]


def of_steps(problem: Problem, method: Method, counts: Sequence[int]) -> Measured:
    """Evaluations of f and errors of equal steps."""
    evaluations, errors = [], []
    for count in counts:
        ts = torch.tensor([0.0, problem.T], dtype=F64)
        dt = problem.T / count
        solution = ss.solve(problem.problem, problem.exact(0.0)[None], ts, dt=dt, method=method)
        evaluations.append(float(solution.stats.drift_evaluations[0]))
        errors.append(problem.error(solution.ys[-1, 0]))
    return Measured(method.name, problem.T / np.array(counts), np.array(evaluations), np.array(errors))


def of_tolerances(problem: Problem, method: Method, tolerances: Array) -> Measured:
    """Evaluations of f and errors of adaptive steps, all tolerances as one batch."""
    tol = torch.from_numpy(tolerances)[:, None]
    solution = ss.solve(
        problem.problem,
        problem.exact(0.0).expand(len(tol), -1),
        torch.tensor([0.0, problem.T], dtype=F64),
        method=method,
        controller=ss.PID(tol, tol),
        max_steps=10**6,
    )
    errors = np.array([problem.error(y) for y in solution.ys[-1]])
    return Measured(f"{method.name}, adaptive", tolerances, solution.stats.drift_evaluations.numpy() * 1.0, errors)


def orders(problem: Problem, method: Method, quick: bool) -> Iterator[Check]:
    """The order is not reduced by stiffness, as f and its derivatives along the solution are not large."""
    measured = of_steps(problem, method, [2**k for k in range(4, 8 if quick else 10)])
    yield order_check(
        "ode",
        f"{method.name}, {problem.name}",
        f"order of {method.name}, {problem.name}",
        fit_order(measured.tolerances, measured.errors),
        float(method.order),
        ORDER_BOUND,
        figure=f"Exponential methods: {problem.name}",
        label=method.name,
        source=method.source,
        problem=problem.source,
    )


def work(problem: Problem) -> Iterator[Check]:
    """Evaluations of f against the error, with equal steps, and of adaptive ones, where the others do not know A and
    implicit ones take Jacobians, which are not counted."""
    figure = f"Work and precision, exponential methods: {problem.name}"
    found = [of_steps(problem, method, [2**k for k in range(2, 10)]) for method in exponential_methods()]
    tolerances = np.logspace(-3, -7, 9)
    best, *peers = (of_tolerances(problem, METHODS["ode", name], tolerances) for name in (BEST, *problem.peers))
    curves = tuple(measured.curve(figure) for measured in (*found, best, *peers))
    for number, peer in enumerate(peers):
        yield bounded(
            "ode",
            f"work of {best.name}, and {peer.name}, {problem.name}",
            f"evaluations of {best.name}, over those of {peer.name}, at equal tolerances, {problem.name}",
            float(np.exp(np.log(best.evaluations / peer.evaluations).mean())),
            None,
            curves=curves if number == 0 else (),
            tolerances=tolerances.tolist(),
            evaluations=best.evaluations.tolist(),
            errors=best.errors.tolist(),
            peer_evaluations=peer.evaluations.tolist(),
            peer_errors=peer.errors.tolist(),
            source=problem.source,
        )


def phi_functions(name: str, arguments: Array, count: int) -> Iterator[Check]:
    """phi_1, ..., phi_count against mpmath's hypergeometric function,  phi_k(z) = 1F1(1; k + 1; z) / k!."""
    import mpmath

    z = torch.from_numpy(arguments)
    worst = 0.0
    with mpmath.workdps(40):
        for k, values in enumerate(phi(z, count), 1):
            for x, found in zip(z.tolist(), values.tolist(), strict=True):
                exact = mpmath.hyp1f1(1, k + 1, x) / mpmath.factorial(k)
                worst = max(worst, float(abs((found - exact) / exact)))
    what = f"largest relative error of phi_1 to phi_{count}, in rounding units, {name} arguments"
    yield bounded("ode", f"phi functions, {name}", what, worst / np.finfo(float).eps, MOST_UNITS)


def cases(settings: Settings) -> list[Case]:
    quick, found = settings.quick, []
    if find_spec("mpmath"):
        count = 20 if quick else 100
        real = np.concatenate([-np.logspace(-8, 5, count), np.logspace(-8, 1.9, count)])
        turning = np.exp(1j * np.linspace(0.1, np.pi, 7)) * np.logspace(-6, 1.9, count // 7)[:, None]
        for name, arguments in (("real", real), ("complex", turning.ravel())):
            found.append(Case(f"phi functions, {name}", partial(phi_functions, name, arguments, 4)))
    for problem in PROBLEMS:
        for method in exponential_methods():
            run = partial(orders, problem, method, quick)
            found.append(Case(f"{method.name}, {problem.name}", run))
        if not quick:
            found.append(Case(f"exponential methods, work, {problem.name}", partial(work, problem)))
    return found
