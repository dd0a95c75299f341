"""Strong and weak orders of the SDE methods with fixed steps, on every noise type that they claim.

Strong: E|X_T - X_T^h| over paths, each level along the same Brownian path. Weak: |v(X_T^h) - v(X_T)| with v the first
and second moments, which follow from the method's own steps without sampling (see `validation.moments`).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.methods import METHODS, Method, names
from sdesolve.state import state_spec
from sdesolve.system import System
from validation.check import Case, Check, Settings
from validation.linear import LinearSDE
from validation.moments import MomentRecursion, moment_vector
from validation.order import fit_order, fit_sampled_order, order_check
from validation.sections.sde_problems import STRONG, WEAK, StrongProblem, structure_of

STRONG_BOUND, WEAK_BOUND = 0.15, 0.3

COARSEST = {"reversible_heun": 6}
"""Binary logarithm of the number of the longest steps, if it is not 4: at such steps the second solution of reversible
Heun swings far about the first where the double well is steep."""

UNSTABLE = {("reversible_heun", "double well")}
"""Not measured: where a drift draws solutions together, the second solution of reversible Heun leaves the first on some
paths, and the mean error is theirs."""

LONG = {"geometric", "scalar", "additive diagonal", "additive scalar"}
"""Problems that a quick run leaves out: beside the others they show no other noise or structure."""

LINEAR_STRONG = {("rs1", "geometric"): 2.0, ("rs1", "scalar"): 2.0, ("rs1", "commuting"): 1.5}
"""Strong orders where drift and diffusion are linear and commute, if they are higher there: for one motion an element
RS1 has all of  exp(a h + b W) up to h^2, and what is left, of order h^(5/2), has mean 0; for several it lacks terms of
order h^2 and mean 0."""

LINEAR_WEAK = {("sriw1", "commutative"): 2.0, ("midpoint", "additive"): 2.0, ("esdirk_sra", "additive"): 3.0}
"""Weak orders where drift and diffusion are linear, if they are higher there: what SRIW1 leaves in the moments of a
step at order h^(5/2), and the midpoint method at order h^2, holds second and higher derivatives, of g and of f.
`sde_nonlinear` and `sde_local` show their orders in general. For a linear drift the ESDIRK method has the order of its
tableau."""

COSTLY = {("implicit_euler", "shears")}
"""Not measured: without a solution in closed form the reference would take minutes of implicit steps."""


def expected_order(sense: str, structure: str, method: Method) -> float:
    """What theory says: `sense` strong or weak, `structure` general, commutative or additive."""
    found = method.strong_order_for(structure) if sense == "strong" else method.weak_order_for(structure)
    assert found is not None
    return found


def claims(method: Method, noise: str, structure: str) -> bool:
    """Whether a method is for noise of this form and structure; diagonal and scalar noise commute."""
    if noise not in method.noise or (method.additive_only and structure != "additive"):
        return False
    return not (method.commutative_only and noise == "general" and structure == "general")


def calculi(method: Method, structure: str) -> tuple[str, ...]:
    """In which calculus to measure; for additive noise both are the same."""
    return method.calculus[:1] if structure == "additive" else method.calculus


def title(method: Method, calculus: str, structure: str) -> str:
    """The method's name, with the calculus where it makes a difference."""
    return method.name if len(calculi(method, structure)) == 1 else f"{method.name} ({calculus})"


def reference_method(problem: StrongProblem, method: Method) -> str | Method:
    """For a problem without a solution: another method of higher order, or, where there is none, the method itself."""
    if problem.structure != "additive":
        return method
    return "sra1" if method.name == "sosra" else "sosra"


def strong_errors(
    problem: StrongProblem, method: Method, calculus: str, steps: list[float], paths: int, seed: int
) -> np.ndarray:
    """|X_T - X_T^h| of each path at each step size: (levels, paths)."""
    cell = min(steps) / problem.finer
    shape = (paths, problem.channels)
    y0 = problem.x0.expand(paths, -1)
    ts = torch.tensor([0.0, problem.T], dtype=torch.float64)
    sde = problem.sde(calculus)
    # the solution asks for H, whatever the method does
    levy = method.levy_for(System(sde, state_spec(y0, True)[0])) or "space-time"
    path = ss.BrownianPath(seed, shape, cell=cell, levy=levy, dtype=torch.float64)

    def end(dt: float, method: str | Method = method) -> Tensor:
        # paths whose error is as large as they are count as they came out
        return ss.solve(sde, y0, ts, method=method, dt=dt, brownian=path, on_failure="return").ys[-1]

    exact = end(cell, reference_method(problem, method)) if problem.exact is None else problem.exact(path)
    return np.stack([torch.linalg.vector_norm(end(dt) - exact, dim=1).numpy() for dt in steps])


def strong_order(
    problem: StrongProblem, method: Method, calculus: str, settings: Settings, expected: float | None = None
) -> Iterator[Check]:
    """The strong order of a method on a problem; `expected` stands for what the method's facts say."""
    paths, most = (1000, 7 if problem.finer > 8 or method.may_fail else 8) if settings.quick else (4000, 9)
    # neither fine cells of the path nor iterations, which would cost more than the steps
    if problem.finer == 1 and not method.may_fail:
        paths *= 4
    coarsest = COARSEST.get(method.name, 4)
    steps = [2.0**-k for k in range(coarsest, most + coarsest - 3)]
    shown = title(method, calculus, problem.structure)
    name = f"{shown}, strong, {problem.name}"
    errors = strong_errors(problem, method, calculus, steps, paths, settings.seed_of(name))
    if expected is None:
        usual = expected_order("strong", problem.structure, method)
        expected = LINEAR_STRONG.get((method.name, problem.name), usual)
    reference = reference_method(problem, method)
    by = "itself" if reference is method else reference
    yield order_check(
        "sde",
        name,
        f"strong order of {shown}, {problem.what}",
        fit_sampled_order(steps, errors, seed=settings.seed),
        expected,
        STRONG_BOUND,
        figure=f"Strong error: {shown}",
        label=problem.what,
        y_label="E |error|",
        paths=paths,
        calculus=calculus,
        reference=f"{by}, cells {problem.finer} times finer" if problem.exact is None else "exact along the path",
        source=method.source,
    )


def weak_order(
    name: str, what: str, problem: LinearSDE, method: Method, calculus: str, expected: float | None = None
) -> Iterator[Check]:
    """The weak order of a method, by exact moments of its steps.

    Six nodes a channel are exact for polynomials of degree 11 in each of W and H. The steps of Euler-Maruyama, SRA and,
    in one W, Heun and Milstein have degrees 1 and 2. Those of SRI have at most degree 4, for linear coefficients: F_i
    and G_i, i = 0 .. 3, have degrees up to (0, 1, 1, 2) and (0, 0, 1, 1), as B1 adds no random number, and I_111 G_3
    has 3 + 1. Squares then have degree 8. Those of RS1 have degree 4 as well, and of the methods with areas all are
    linear in these.
    """
    structure = structure_of(problem)
    recursion = MomentRecursion(problem.sde(calculus), method, problem.dims, problem.channels, order=6)
    exact, start = problem.moments(1.0), moment_vector(problem.x0, np.zeros((2, 2)))
    steps = [2.0**-k for k in range(4, 10)]
    ends = [recursion.run(start, np.linspace(0, 1, round(1 / h) + 1), autonomous=True) for h in steps]
    errors = [float(np.linalg.norm(end - exact)) for end in ends]
    if expected is None:
        usual = expected_order("weak", structure, method)
        expected = LINEAR_WEAK.get((method.name, structure), usual)
    shown = title(method, calculus, structure)
    yield order_check(
        "sde",
        f"{shown}, weak, {name}",
        f"weak order of {shown}, {what}",
        fit_order(steps, errors),
        expected,
        WEAK_BOUND,
        figure=f"Weak error of first and second moments: {shown}",
        label=what,
        y_label="|error of moments|",
        calculus=calculus,
        exact_moments=exact.tolist(),
        source=method.source,
    )


def least_structured(method: Method) -> list[StrongProblem]:
    """For each noise that a method claims one problem, of the least structure that it claims there; what iterates has
    the noise terms of a method that does not, and of those scalar ones are left out."""
    found: dict[str, StrongProblem] = {}
    for structure in ("additive", "commutative", "general"):
        for problem in STRONG:
            claimed = problem.structure == structure and claims(method, problem.noise, structure)
            out = problem.name in LONG or (problem.noise == "scalar" and method.may_fail)
            if claimed and not out and (method.name, problem.name) not in UNSTABLE | COSTLY:
                found[problem.noise] = problem
    return list(found.values())


def cases(settings: Settings) -> list[Case]:
    found = []
    for method in (METHODS["sde", name] for name in names("sde")):
        for problem in STRONG if not settings.quick else least_structured(method):
            left_out = (method.name, problem.name) in UNSTABLE | COSTLY
            if claims(method, problem.noise, problem.structure) and not left_out:
                for calculus in calculi(method, problem.structure):
                    run = partial(strong_order, problem, method, calculus, settings)
                    found.append(Case(f"{title(method, calculus, problem.structure)}, strong, {problem.name}", run))
        for name, (what, linear) in WEAK.items():
            if settings.quick and name in LONG - {"scalar"}:
                continue
            structure = structure_of(linear)
            if method.weak_order is not None and claims(method, linear.noise, structure):
                for calculus in calculi(method, structure):
                    moments = partial(weak_order, name, what, linear, method, calculus)
                    found.append(Case(f"{title(method, calculus, structure)}, weak, {name}", moments))
    return found
