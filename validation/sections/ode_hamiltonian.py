"""Hamiltonian systems over long times: the energy of symplectic methods, and of adaptive ones at the same work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.methods import METHODS, Method
from validation.check import Case, Check, Curve, Settings, bounded
from validation.order import fit_order, order_check
from validation.sections.ode_problems import Array
from validation.sections.ode_work_precision import Measured, compared

F64 = torch.float64
SYMPLECTIC = ("leapfrog", "blanes_moan4")
PEERS = ("tsit5", "dop853")
"""They adapt their steps."""

ORDER_BOUND = 0.15
MOST_GROWTH = 1.1
"""Of the largest energy error, from the first tenth of the time to the last."""
WORK = 300
"""Forces a period that a comparison at one work grants."""
MOST_STEPS = 10**6
ENERGY = "largest relative energy error"


@dataclass(frozen=True)
class Mechanics:
    """q'' = F(q) with energy |q'|^2 / 2 + U(q) from (q0, p0).

    period : of the motion, or of small ones about rest. source : of the problem.
    """

    name: str
    force: Callable[[Tensor], Tensor]
    potential: Callable[[Tensor], Tensor]
    q0: tuple[float, ...]
    p0: tuple[float, ...]
    period: float
    source: str

    def start(self, batch: int = 1) -> tuple[Tensor, Tensor]:
        q, p = (torch.tensor([x] * batch, dtype=F64) for x in (self.q0, self.p0))
        return q, p

    def energy_errors(self, q: Tensor, p: Tensor) -> Array:
        """(outputs, batch), over the size of the energy at the start."""
        energy = 0.5 * (p * p).sum(-1) + self.potential(q)
        return ((energy - energy[0]).abs() / energy[0].abs()).numpy()


def bowl(q: Tensor) -> Tensor:
    x, y = q.unbind(-1)
    return 0.5 * (x * x + y * y) + x * x * y - y**3 / 3


def out_of_bowl(q: Tensor) -> Tensor:
    x, y = q.unbind(-1)
    return torch.stack([-x - 2 * x * y, -y - x * x + y * y], -1)


KEPLER = Mechanics(
    "Kepler, eccentricity 0.5",
    lambda q: -q / q.norm(dim=-1, keepdim=True) ** 3,
    lambda q: -1 / q.norm(dim=-1),
    (0.5, 0.0),
    (0.0, 3**0.5),
    2 * np.pi,
    "Hairer, Lubich & Wanner 2006, I.2.3, from the perihelion",
)
HENON_HEILES = Mechanics(
    "Henon-Heiles, energy 1/8",
    out_of_bowl,
    bowl,
    (0.0, 0.1),
    ((2 / 8 - 0.1**2 + 2 * 0.1**3 / 3) ** 0.5, 0.0),
    2 * np.pi,
    "Henon & Heiles 1964, Astron. J. 69:73",
)
SYSTEMS = (KEPLER, HENON_HEILES)


@dataclass(frozen=True)
class Watched:
    """Energy errors (outputs,) at times (outputs,), in periods, and how often the force was evaluated."""

    times: Array
    errors: Array
    evaluations: float

    @property
    def late(self) -> float:
        """The largest error of the last tenth of the time."""
        return float(self.errors[self.times >= 0.9 * self.times[-1]].max())

    @property
    def growth(self) -> float:
        """Of the largest error, from the first tenth of the time to the last."""
        return self.late / float(self.errors[self.times <= 0.1 * self.times[-1]].max())

    def curve(self, figure: str, label: str) -> Curve:
        """The largest error so far, at times that grow by a factor."""
        marks = np.geomspace(1.0, self.times[-1], 25)
        largest = [float(self.errors[self.times <= mark * (1 + 1e-12)].max()) for mark in marks]
        x = marks.tolist()
        return Curve(figure, label, x, largest, line=(x, largest), x_label="periods", y_label=f"{ENERGY} so far")


def equal_steps(system: Mechanics, method: Method, steps: int, periods: int, every: int = 1) -> Watched:
    """Of `steps` equal steps a period; the energy every so many of them."""
    dt = system.period / steps
    ts = dt * torch.arange(0, periods * steps + 1, every, dtype=F64)
    with torch.no_grad():
        solution = ss.solve(ss.Hamiltonian(force=system.force), system.start(), ts, dt=dt, method=method)
    errors = system.energy_errors(*solution.ys)[:, 0]
    return Watched(ts.numpy() / system.period, errors, float(solution.stats.drift_evaluations[0]))


def adaptive_steps(system: Mechanics, method: Method, tolerances: Array, periods: int) -> list[Watched]:
    """By tolerances, as one batch. The outputs, three to two periods, are ends of steps: an interpolant adds no error
    to theirs."""
    times = np.append(np.arange(0, periods, 2 / 3), periods)
    tol = torch.from_numpy(tolerances)[:, None]

    def f(t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, -1)
        return torch.cat([p, system.force(q)], -1)

    with torch.no_grad():
        solution = ss.solve(
            ss.ODE(f),
            torch.cat(system.start(len(tolerances)), -1),
            torch.from_numpy(times * system.period),
            method=method,
            controller=ss.PID(tol, tol),
            max_steps=MOST_STEPS,
            # at loose tolerances an orbit may fall into the centre
            on_failure="return",
        )
    errors = system.energy_errors(*solution.ys.chunk(2, -1))
    counts = solution.stats.drift_evaluations.tolist()
    return [Watched(times, errors[:, k], count) for k, count in enumerate(counts)]


def energy_order(system: Mechanics, method: Method, quick: bool) -> Iterator[Check]:
    """Of the largest energy error over some periods: that of the method."""
    counts = np.array((64, 96, 128, 192, 256, 384)[: 4 if quick else 6]) * (2 if method.order == 2 else 1)
    errors = [equal_steps(system, method, int(n), 1 if quick else 5).errors.max() for n in counts]
    yield order_check(
        "ode",
        f"{method.name}, energy, {system.name}",
        f"order of the energy error of {method.name}, {system.name}",
        fit_order(system.period / counts, errors),
        float(method.order),
        ORDER_BOUND,
        figure=f"Energy error and steps: {system.name}",
        label=method.name,
        y_label=ENERGY,
        source=method.source,
    )


def tolerance_for(system: Mechanics, method: Method, work: float, periods: int = 5) -> float:
    """At which the method evaluates the force this often a period."""
    tolerances = np.logspace(-2, -11, 10)
    found = [one.evaluations / periods for one in adaptive_steps(system, method, tolerances, periods)]
    return float(np.exp(np.interp(np.log(work), np.log(found), np.log(tolerances))))


def long_time(system: Mechanics, periods: int, peers: Sequence[str] = PEERS) -> Iterator[Check]:
    """At the same number of forces: the energy error of symplectic steps swings, that of others grows."""
    figure = f"Energy over long times, {WORK} forces a period: {system.name}"
    for name in SYMPLECTIC:
        method = METHODS["ode", name]
        watched = equal_steps(system, method, WORK // method.drift_evaluations, periods, 7)
        yield growth_check(system, name, watched, MOST_GROWTH, figure)
    for name in peers:
        method = METHODS["ode", name]
        (watched,) = adaptive_steps(system, method, np.array([tolerance_for(system, method, WORK)]), periods)
        yield growth_check(system, name, watched, None, figure)


def growth_check(system: Mechanics, name: str, watched: Watched, bound: float | None, figure: str) -> Check:
    """A bound of None: the figure is reported."""
    periods = watched.times[-1]
    return bounded(
        "ode",
        f"{name}, long times, {system.name}",
        f"energy error of the last tenth of {periods:.0f} periods over that of the first, {name}, {system.name}",
        watched.growth,
        bound,
        curves=(watched.curve(figure, name),),
        last_error=watched.late,
        forces_a_period=watched.evaluations / periods,
        source=system.source,
    )


def work(system: Mechanics, periods: int, levels: int) -> Iterator[Check]:
    """Forces against the energy error of the last tenth of the time, and those of each symplectic method over those of
    each adaptive one at equal errors."""
    figure = f"Energy error after {periods} periods and work: {system.name}"
    measured = {}
    for name in SYMPLECTIC:
        method = METHODS["ode", name]
        counts = np.geomspace(100, 1600, levels) / method.drift_evaluations
        found = [equal_steps(system, method, round(n), periods, 3) for n in counts]
        measured[name] = _measured(name, 1 / counts, found)
    tolerances = np.logspace(-2, -9, 2 * levels)
    for name in PEERS:
        measured[name] = _measured(name, tolerances, adaptive_steps(system, METHODS["ode", name], tolerances, periods))
    curves = tuple(replace(each.curve(figure), x_label="forces", y_label=ENERGY) for each in measured.values())
    for number, (mine, theirs) in enumerate(product(SYMPLECTIC, PEERS)):
        yield _compared(system, periods, measured[mine], measured[theirs], curves if number == 0 else ())


def _measured(name: str, tolerances: Array, found: Sequence[Watched]) -> Measured:
    evaluations, errors = (np.array([getattr(one, of) for one in found]) for of in ("evaluations", "late"))
    return Measured(name, tolerances, evaluations, errors)


def _compared(system: Mechanics, periods: int, mine: Measured, theirs: Measured, curves: tuple[Curve, ...]) -> Check:
    name = f"energy and work of {mine.name} and {theirs.name}, {system.name}"
    at = f"at equal energy errors, {periods} periods, {system.name}"
    what = f"forces of {mine.name} over those of {theirs.name} {at}"
    return compared(name, what, mine, theirs, system.source, curves=curves)


def cases(settings: Settings) -> list[Case]:
    quick, found = settings.quick, []
    for system in SYSTEMS:
        for name in SYMPLECTIC:
            run = partial(energy_order, system, METHODS["ode", name], quick)
            found.append(Case(f"{name}, energy, {system.name}", run))
        long = partial(long_time, system, 10, ()) if quick else partial(long_time, system, 500)
        found.append(Case(f"energy over long times, {system.name}", long))
        if not quick:
            found.append(Case(f"energy and work, {system.name}", partial(work, system, 50, 6)))
    return found
