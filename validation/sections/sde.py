"""Strong and weak orders of the SDE methods on every noise type that they claim.

Strong: E|X_T - X_T^h| over paths, each level along the same Brownian path. Weak: |v(X_T^h) - v(X_T)| with v the first
and second moments, which follow from the method's own steps without sampling (see `validation.moments`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.methods import METHODS, Method, names
from validation.check import Case, Check, Section, Settings
from validation.linear import LinearSDE
from validation.moments import MomentRecursion, moment_vector
from validation.order import fit_order, fit_sampled_order, order_check

STRONG_BOUND, WEAK_BOUND = 0.15, 0.3


def expected_order(sense: str, structure: str, method: Method) -> float:
    """What theory says: `sense` strong or weak, `structure` general, commutative or additive."""
    basic = method.order if sense == "strong" else method.weak_order
    assert basic is not None
    special = {
        ("strong", "commutative"): method.order_commutative,
        ("strong", "additive"): method.order_additive,
        ("weak", "additive"): method.weak_order_additive,
    }.get((sense, structure))
    return basic if special is None else special


@dataclass(frozen=True)
class StrongProblem:
    """An SDE with its solution along a given path.

    sde : calculus -> the same process as SDE. x0 : (d,). channels : Brownian motions of a trajectory, as the path has
    them. exact : path -> X_T (n, d); None: the method itself on cells of the path, `finer` times shorter than the
    shortest step.
    """

    name: str
    what: str
    structure: str
    sde: Callable[[str], ss.SDE]
    x0: Tensor
    channels: int
    exact: Callable[[ss.BrownianPath], Tensor] | None
    finer: int
    T: float = 1.0

    @property
    def noise(self) -> str:
        return self.sde("ito").noise


def linear_problem(name: str, what: str, linear: LinearSDE, finer: int = 1) -> StrongProblem:
    """`finer` > 1: no solution in closed form."""
    structure = "additive" if linear.additive else "commutative" if linear.commutative else "general"
    exact = (lambda path: linear.solution(1.0, path(0.0, 1.0))) if finer == 1 else None
    return StrongProblem(name, what, structure, linear.sde, torch.from_numpy(linear.x0), linear.channels, exact, finer)


def turn(growth: float, rotation: float) -> np.ndarray:
    """The matrix of multiplication with growth + i rotation; such matrices commute."""
    return np.array([[growth, -rotation], [rotation, growth]])


ZERO = np.zeros(2)

GEOMETRIC = LinearSDE(
    "diagonal",
    np.diag([0.3, -0.5]),
    ZERO,
    np.array([np.diag([0.8, 0.0]), np.diag([0.0, 0.6])]),
    np.zeros((2, 2)),
    np.array([1.0, 0.7]),
)
ONE_MOTION = LinearSDE("scalar", turn(-0.2, 0.4), ZERO, turn(0.6, 0.5)[None], np.zeros((1, 2)), np.array([1.0, 0.5]))
COMMUTING = LinearSDE(
    "general",
    turn(-0.2, 0.4),
    ZERO,
    np.array([turn(0.6, 0.1), turn(-0.1, 0.5)]),
    np.zeros((2, 2)),
    np.array([1.0, 0.5]),
)
SHEARS = LinearSDE(
    "general",
    turn(-0.1, 0.2),
    ZERO,
    np.array([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]),
    np.zeros((2, 2)),
    np.array([1.0, 1.0]),
)


def ornstein_uhlenbeck() -> StrongProblem:
    """dX = -theta X dt + s(t) dW with s = 1 + sin(3 t)/2, noise on every component.

    X_T = exp(-theta T) x_0 + int_0^T exp(theta (u - T)) s(u) dW_u. The integral is the sum of midpoint values times
    increments over the cells of the path; its error is (cell^3 / 12 sum ((exp(theta u) s)')^2)^1/2, so O(cell).
    """
    theta, T = 1.5, 1.0
    x0 = torch.tensor([1.0, -0.5], dtype=torch.float64)
    s = lambda t: 1 + 0.5 * torch.sin(3 * t)

    def exact(path: ss.BrownianPath) -> Tensor:
        count = round(T / path.cell)
        u = (torch.arange(count, dtype=torch.float64) + 0.5) * path.cell
        weights = torch.exp(theta * (u - T)) * s(u)
        pieces = range(0, count, 256)
        total = sum(
            torch.einsum("k,knd->nd", weights[k : k + 256], path.increments(k, min(256, count - k))) for k in pieces
        )
        return np.exp(-theta * T) * x0 + total

    sde = lambda calculus: ss.SDE(
        lambda t, y: -theta * y, lambda t, y: s(t) * torch.ones_like(y), additive=True, calculus=calculus
    )
    return StrongProblem("Ornstein-Uhlenbeck", "additive, s(t)", "additive", sde, x0, 2, exact, 16)


def double_well() -> StrongProblem:
    """dX = (X - X^3 + 0.3 (rotation)) dt + G(t) dW with a full matrix G(t) that depends on time."""
    x0 = torch.tensor([0.5, -0.2], dtype=torch.float64)
    G = torch.tensor([[0.5, 0.2], [-0.1, 0.4]], dtype=torch.float64)
    turned = torch.tensor([[0.0, 0.3], [-0.3, 0.0]], dtype=torch.float64)
    sde = lambda calculus: ss.SDE(
        lambda t, y: y - y**3 + y @ turned,
        lambda t, y: G * (1 + 0.5 * torch.cos(2 * t)),
        noise="general",
        additive=True,
        calculus=calculus,
    )
    return StrongProblem("double well", "additive, matrix G(t)", "additive", sde, x0, 2, None, 16)


STRONG = (
    linear_problem("geometric", "diagonal noise", GEOMETRIC),
    linear_problem("scalar", "scalar noise", ONE_MOTION),
    linear_problem("commuting", "commutative noise", COMMUTING),
    linear_problem("shears", "non-commutative noise", SHEARS, finer=16),
    ornstein_uhlenbeck(),
    double_well(),
)


def strong_errors(
    problem: StrongProblem, method: str | Method, calculus: str, steps: list[float], paths: int, seed: int
) -> np.ndarray:
    """|X_T - X_T^h| of each path at each step size: (levels, paths)."""
    cell = min(steps) / problem.finer
    shape = (paths, problem.channels)
    path = ss.BrownianPath(seed, shape, cell=cell, dtype=torch.float64)
    y0 = problem.x0.expand(paths, -1)
    ts = torch.tensor([0.0, problem.T], dtype=torch.float64)
    sde = problem.sde(calculus)

    def end(dt: float) -> Tensor:
        return ss.solve(sde, y0, ts, method=method, dt=dt, brownian=path).ys[-1]

    exact = end(cell) if problem.exact is None else problem.exact(path)
    return np.stack([torch.linalg.vector_norm(end(dt) - exact, dim=1).numpy() for dt in steps])


def strong_order(
    problem: StrongProblem, method: Method, calculus: str, settings: Settings, expected: float | None = None
) -> Iterator[Check]:
    """The strong order of a method on a problem; `expected` stands for what the method's facts say."""
    paths, most = (1000, 8) if settings.quick else (4000, 9)
    if problem.finer == 1:  # the path has no fine cells that would cost more than the steps
        paths *= 4
    steps = [2.0**-k for k in range(4, most + 1)]
    name = f"{method.name}, strong, {problem.name}"
    errors = strong_errors(problem, method, calculus, steps, paths, settings.seed_of(name))
    yield order_check(
        "sde",
        name,
        f"strong order of {method.name}, {problem.what}",
        fit_sampled_order(steps, errors, seed=settings.seed),
        expected_order("strong", problem.structure, method) if expected is None else expected,
        STRONG_BOUND,
        figure=f"Strong error, {calculus}: {method.name}",
        label=problem.what,
        y_label="E |error|",
        paths=paths,
        calculus=calculus,
        reference="exact along the path" if problem.exact is not None else f"cells {problem.finer} times finer",
        source=method.source,
    )


# An inhomogeneous part, so that means and second moments are coupled.
WEAK: dict[str, tuple[str, LinearSDE]] = {
    "diagonal": (
        "diagonal noise",
        LinearSDE(
            "diagonal",
            np.array([[-0.8, 0.4], [-0.3, -0.5]]),
            np.array([0.5, 0.2]),
            GEOMETRIC.B,
            np.diag([0.3, -0.2]),
            np.array([1.0, -0.5]),
        ),
    ),
    "scalar": (
        "scalar noise",
        LinearSDE(
            "scalar",
            turn(-0.5, 1.0),
            np.array([0.3, 0.0]),
            ONE_MOTION.B,
            np.array([[0.2, -0.1]]),
            np.array([1.0, 0.5]),
        ),
    ),
    "general": (
        "non-commutative noise",
        LinearSDE(
            "general",
            turn(-0.5, 0.5),
            np.array([0.0, 0.4]),
            0.7 * SHEARS.B,
            np.array([[0.1, 0.3], [-0.2, 0.1]]),
            np.array([1.0, 0.5]),
        ),
    ),
    "additive": (
        "additive, full matrix",
        LinearSDE(
            "general",
            np.array([[-1.0, 0.6], [-0.2, -0.5]]),
            np.array([0.5, -0.2]),
            np.zeros((2, 2, 2)),
            np.array([[0.5, 0.2], [0.0, 0.4]]),
            np.array([1.0, -0.5]),
        ),
    ),
}


def weak_order(
    name: str, what: str, problem: LinearSDE, method: Method, calculus: str, expected: float | None = None
) -> Iterator[Check]:
    """The weak order of a method, by exact moments of its steps."""
    structure = "additive" if problem.additive else "commutative" if problem.commutative else "general"
    recursion = MomentRecursion(problem.sde(calculus), method, problem.dims, problem.channels)
    exact, start = problem.moments(1.0), moment_vector(problem.x0, np.zeros((2, 2)))
    steps = [2.0**-k for k in range(4, 10)]
    ends = [recursion.run(start, np.linspace(0, 1, round(1 / h) + 1), autonomous=True) for h in steps]
    errors = [float(np.linalg.norm(end - exact)) for end in ends]
    details: dict[str, Any] = {"calculus": calculus, "exact_moments": exact.tolist(), "source": method.source}
    yield order_check(
        "sde",
        f"{method.name}, weak, {name}",
        f"weak order of {method.name}, {what}",
        fit_order(steps, errors),
        expected_order("weak", structure, method) if expected is None else expected,
        WEAK_BOUND,
        figure=f"Weak error of first and second moments, {calculus}: {method.name}",
        label=what,
        y_label="|error of moments|",
        **details,
    )


def cases(settings: Settings) -> list[Case]:
    found = []
    for method in (METHODS["sde", name] for name in names("sde")):
        for calculus in method.calculus:
            for problem in STRONG:
                if problem.noise in method.noise:
                    run = partial(strong_order, problem, method, calculus, settings)
                    found.append(Case(f"{method.name}, strong, {problem.name}", run))
            for name, (what, linear) in WEAK.items():
                if linear.noise in method.noise:
                    moments = partial(weak_order, name, what, linear, method, calculus)
                    found.append(Case(f"{method.name}, weak, {name}", moments))
    return found


SDE = Section("sde", "strong and weak orders of the SDE methods on every noise type that they claim", cases)
