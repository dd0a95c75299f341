"""Work and precision of adaptive ODE methods: evaluations of f against the error at the end, beside SciPy's.

With the same tableau what is left to compare is the control of the steps: the first step, the norm, the controller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp

import sdesolve as ss
from sdesolve.methods import METHODS, Method
from validation.check import Case, Check, Curve, Settings, bounded
from validation.sections.ode_problems import LOTKA_VOLTERRA, SMOOTH, Array, Problem, reference

SAME_TABLEAU = {"bosh3": "RK23", "dopri5": "RK45", "dop853": "DOP853"}
FAMILY = SAME_TABLEAU | {"tsit5": "RK45"}
"""SciPy's method of the same tableau, or of the same order and kind."""

TORCHDIFFEQ = {"dopri5": "dopri5", "dop853": "dopri8"}
LOW = ("bosh3",)
"""Of too low an order for tight tolerances."""

MOST_WORK = 1.1
MOST_ERROR_RATIO = 2.0

LARGEST, LEAST = 0.1, 1e-12
"""Errors between these say what a method costs; beyond them the solution is lost, or known no better."""

MOST_STEPS = 200_000


@dataclass(frozen=True)
class Measured:
    """What a solver needs: evaluations of f and the error at the end by tolerance, from loose to tight."""

    name: str
    tolerances: Array
    evaluations: Array
    errors: Array

    @property
    def usable(self) -> tuple[Array, Array]:
        """Logarithms of errors, growing, and of the evaluations that they took."""
        good = (self.errors < LARGEST) & (self.errors > LEAST)
        order = np.argsort(self.errors[good])
        return np.log(self.errors[good][order]), np.log(self.evaluations[good][order])

    def curve(self, figure: str) -> Curve:
        """For the work-precision diagram."""
        good = np.isfinite(self.errors)
        x, y = self.evaluations[good].tolist(), self.errors[good].tolist()
        return Curve(figure, self.name, x, y, line=(x, y), x_label="evaluations of f")


def ours(problem: Problem, method: Method, tolerances: Array, max_steps: int = MOST_STEPS) -> Measured:
    """All tolerances as one batch, each trajectory with its own. Behind max_steps there is no error, and the
    evaluations are fewer than it takes."""
    tol = torch.from_numpy(tolerances)[:, None]
    control = ss.PID(rtol=tol, atol=tol * torch.as_tensor(problem.scale, dtype=torch.float64))
    solution = ss.solve(
        ss.ODE(problem.f),
        problem.start(len(tolerances)),
        torch.tensor([0.0, problem.T], dtype=torch.float64),
        method=method,
        controller=control,
        max_steps=max_steps,
        on_failure="return",
    )
    evaluations = solution.stats.drift_evaluations.numpy().astype(float)
    return Measured(method.name, tolerances, evaluations, problem.error(solution.ys[-1].numpy()))


def scipys(problem: Problem, name: str, tolerances: Array) -> Measured:
    """SciPy's evaluations are counted here: it leaves those for a Jacobian out."""
    evaluations, errors = [], []
    for tol in tolerances:
        f = Counted(problem.f)
        atol = tol * np.broadcast_to(problem.scale, len(problem.y0))
        found = solve_ivp(f, (0.0, problem.T), problem.y0, method=name, rtol=tol, atol=atol)
        evaluations.append(float(f.calls))
        errors.append(float(problem.error(found.y[:, -1])) if found.success else np.nan)
    return Measured(f"SciPy {name}", tolerances, np.array(evaluations), np.array(errors))


def torchdiffeqs(problem: Problem, name: str, tolerances: Array) -> Measured:
    """torchdiffeq, one tolerance after the other, as a batch shares its steps there."""
    import torchdiffeq

    evaluations, errors = [], []
    for tol in tolerances:
        f = Counted(problem.f)
        ts = torch.tensor([0.0, problem.T], dtype=torch.float64)
        atol = tol * torch.as_tensor(problem.scale, dtype=torch.float64).expand(len(problem.y0))
        with torch.no_grad():
            found = torchdiffeq.odeint(f, problem.start(1)[0], ts, rtol=float(tol), atol=atol, method=name)
        evaluations.append(float(f.calls))
        errors.append(float(problem.error(found[-1].numpy())))
    return Measured(f"torchdiffeq {name}", tolerances, np.array(evaluations), np.array(errors))


class Counted:
    """A right-hand side that counts how often it is called."""

    def __init__(self, f: Callable[[Any, Any], Any]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, t: Any, y: Any) -> Any:
        self.calls += 1
        return self.f(t, y)


def work_ratio(one: Measured, other: Measured) -> tuple[float, tuple[float, float]]:
    """Geometric mean of the evaluations of one over those of the other at equal errors, and the range of these: both
    curves are interpolated between the logarithms, over all errors that both have.

    Raises
    ------
    ValueError : less than a factor of ten in common.
    """
    (e1, w1), (e2, w2) = one.usable, other.usable
    if min(len(e1), len(e2)) < 2:
        raise ValueError(f"{one.name} and {other.name}: fewer than two errors between {LEAST:g} and {LARGEST:g}")
    low, high = max(e1[0], e2[0]), min(e1[-1], e2[-1])
    if high - low < np.log(10):
        raise ValueError(f"{one.name} and {other.name} have less than a decade of errors in common")
    grid = np.linspace(low, high, 201)
    gap = np.interp(grid, e1, w1) - np.interp(grid, e2, w2)
    return float(np.exp(gap.mean())), (float(np.exp(low)), float(np.exp(high)))


def tolerances_of(method: Method, quick: bool) -> Array:
    """From 1e-3 on: to 1e-10, or 1e-7 for low orders, whose steps would be too many; a few to a decade, as the error is
    no smooth function of the tolerance."""
    last = 7.0 if method.name in LOW else 10.0
    if quick:
        last -= 2.0
    return 10.0 ** -np.linspace(3.0, last, round((last - 3) * 4) + 1)


def work_precision(problem: Problem, quick: bool, pairs: dict[str, str] = FAMILY) -> Iterator[Check]:
    """Evaluations over those of the peer, by pairs; a single diagram of all."""
    figure = f"Work and precision: {problem.name}"
    measured: dict[str, Measured] = {}

    def once(name: str, measure: Callable[[], Measured]) -> Measured:
        if name not in measured:
            measured[name] = measure()
        return measured[name]

    compared: list[tuple[str, Measured, Measured]] = []
    for name, peer in pairs.items():
        if ("ode", name) not in METHODS:
            continue
        method = METHODS["ode", name]
        tolerances = tolerances_of(method, quick)
        mine = once(name, partial(ours, problem, method, tolerances))
        compared.append((name, mine, once(peer, partial(scipys, problem, peer, tolerances))))
        if name in TORCHDIFFEQ and not quick and find_spec("torchdiffeq"):
            theirs = f"torchdiffeq {TORCHDIFFEQ[name]}"
            measure = partial(torchdiffeqs, problem, TORCHDIFFEQ[name], tolerances[::2])
            compared.append((name, mine, once(theirs, measure)))
    curves = tuple(found.curve(figure) for found in measured.values())
    for number, (name, mine, theirs) in enumerate(compared):
        bound = MOST_WORK if pairs[name] in theirs.name and SAME_TABLEAU.get(name) == pairs[name] else None
        yield work_check(problem, mine, theirs, bound, curves if number == 0 else ())


def work_check(
    problem: Problem, mine: Measured, theirs: Measured, bound: float | None, curves: tuple[Curve, ...] = ()
) -> Check:
    """The check of evaluations at equal errors."""
    name = f"work of {mine.name} and {theirs.name}, {problem.name}"
    what = f"evaluations of {mine.name} over those of {theirs.name} at equal errors, {problem.name}"
    return compared(name, what, mine, theirs, problem.source, bound, curves)


def compared(
    name: str,
    what: str,
    mine: Measured,
    theirs: Measured,
    source: str,
    bound: float | None = None,
    curves: tuple[Curve, ...] = (),
) -> Check:
    """The check of one method's work over another's. A bound of None: the figure is reported."""
    ratio, (low, high) = work_ratio(mine, theirs)
    return bounded(
        "ode",
        name,
        what,
        ratio,
        bound,
        curves=curves,
        errors_from=low,
        errors_to=high,
        tolerances=mine.tolerances.tolist(),
        evaluations=mine.evaluations.tolist(),
        errors=mine.errors.tolist(),
        peer_evaluations=theirs.evaluations.tolist(),
        peer_errors=theirs.errors.tolist(),
        source=source,
    )


TIGHT = 1e-10
AROUND = 10.0 ** np.linspace(-0.2, 0.2, 17)
"""A single run can be right at a time by chance: by a tenth of the tolerance SciPy's error there varies twentyfold."""
OUTPUTS = 10


def tight_outputs(problem: Problem, method: Method, peer: str, quick: bool = False) -> Iterator[Check]:
    """Errors at each output time, the last one too, over those of the peer at rtol = atol = 1e-10, both in the root
    mean square over tolerances around it."""
    times, tolerances = np.linspace(0, problem.T, OUTPUTS + 1), TIGHT * (AROUND[::4] if quick else AROUND)
    exact = reference(problem, times[1:])
    tol = torch.from_numpy(tolerances)[:, None]
    mine = ss.solve(
        ss.ODE(problem.f),
        problem.start(len(tol)),
        torch.from_numpy(times),
        method=method,
        controller=ss.PID(rtol=tol, atol=tol),
    )
    theirs = [
        solve_ivp(problem.f, (0.0, problem.T), problem.y0, method=peer, t_eval=times, rtol=tol, atol=tol).y.T[1:]
        for tol in tolerances
    ]
    one = _rms(problem.error(mine.ys[1:].numpy(), exact[:, None]))
    other = _rms(problem.error(np.stack(theirs, 1), exact[:, None]))
    yield bounded(
        "ode",
        f"{method.name} at {TIGHT:g}, {problem.name}",
        f"largest error at an output over that of SciPy {peer}, {method.name}, tolerance {TIGHT:g}, {problem.name}",
        float((one / other).max()),
        MOST_ERROR_RATIO,
        times=times[1:].tolist(),
        errors=one.tolist(),
        peer_errors=other.tolist(),
    )


def _rms(errors: Array) -> Array:
    """(times, tolerances) -> (times,)"""
    return np.sqrt(np.mean(errors**2, axis=1))


def cases(settings: Settings) -> list[Case]:
    quick = settings.quick
    problems = (LOTKA_VOLTERRA,) if quick else SMOOTH
    found = [Case(f"work and precision, {p.name}", partial(work_precision, p, quick)) for p in problems]
    for problem in problems:
        for name, peer in FAMILY.items():
            if ("ode", name) in METHODS and name not in LOW:
                method = METHODS["ode", name]
                found.append(
                    Case(f"{name} at {TIGHT:g}, {problem.name}", partial(tight_outputs, problem, method, peer, quick))
                )
    return found
