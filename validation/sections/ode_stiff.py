"""Stiff ODEs: errors over tolerances, work beside SciPy's implicit methods; a batch of oscillators, mild to stiff."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

import sdesolve as ss
from sdesolve.methods import METHODS, Method
from validation.check import Case, Check, Curve, Settings, bounded
from validation.sections.ode_problems import HIRES, STIFF, VAN_DER_POL, Array, Problem, reference, van_der_pol
from validation.sections.ode_work_precision import Measured, ours, scipys

STIFF_METHODS = ("rosenbrock23", "trbdf2", "kvaerno3", "kencarp4", "kvaerno5", "esdirk54", "rodas5p")
"""Those for stiff problems, if they are in the registry, from low orders to high ones."""

STIFF_PEERS = ("Radau", "BDF", "LSODA")

MOST_OVER_TOLERANCE = 100.0
"""The constant between errors at the end and what the tolerance promises: local errors add up, jumps stretch them."""

FOLLOWED = 1.01e-4
"""At looser tolerances the jumps of relaxation oscillations need not be seen."""


def stiff_methods() -> list[Method]:
    return [METHODS["ode", name] for name in STIFF_METHODS if ("ode", name) in METHODS]


def tolerances_of(method: Method, quick: bool) -> Array:
    """From 1e-3 on: to 1e-5 for order 2 and 1e-6 for order 3, whose steps would be too many, and to 1e-7."""
    last = 4.0 if quick else {2: 5.0, 3: 6.0}.get(int(method.order), 7.0)
    return 10.0 ** -np.linspace(3.0, last, round(2 * (last - 3)) + 1)


def stiff_work(problem: Problem, methods: Sequence[Method], quick: bool) -> Iterator[Check]:
    """The error at the end over what the tolerance promises, and the diagram beside SciPy's implicit methods."""
    figure = f"Work and precision: {problem.name}"
    found = [ours(problem, method, tolerances_of(method, quick)) for method in methods]
    peers = [scipys(problem, peer, tolerances_of(methods[-1], quick)) for peer in STIFF_PEERS]
    curves = tuple(measured.curve(figure) for measured in [*found, *peers])
    for number, (method, mine) in enumerate(zip(methods, found, strict=True)):
        yield promise_check(problem, method, mine, curves if number == 0 else ())


def promise_check(problem: Problem, method: Method, mine: Measured, curves: tuple[Curve, ...] = ()) -> Check:
    """Steps of which each has the error tol, of order q, are of length tol^(1/q); over them the error of a method of
    order p is  C tol^(p/q)."""
    assert method.error_order is not None
    power = method.order / method.error_order
    constants = np.where(np.isfinite(mine.errors), mine.errors, np.inf) / mine.tolerances**power
    worst = float(constants[mine.tolerances < FOLLOWED].max())
    return bounded(
        "ode",
        f"{method.name}, {problem.name}",
        f"largest error / tolerance^{power:.2g}, {method.name}, {problem.name}",
        worst,
        MOST_OVER_TOLERANCE,
        curves=curves,
        tolerances=mine.tolerances.tolist(),
        evaluations=mine.evaluations.tolist(),
        errors=mine.errors.tolist(),
        source=problem.source,
    )


OSCILLATORS = 64
OSCILLATOR_TOLERANCE = 1e-6
MOST_OF_OSCILLATORS = 50.0
PREFERRED = ("rodas5p", "kvaerno5", "esdirk54")
"""For stiff oscillators, the first that is in the registry."""


def oscillators(method: Method, top: float, count: int, alone: int) -> Iterator[Check]:
    """A batch of van der Pol oscillators with mu from 1 to `top`, each for a period and a quarter of its own, to end
    between two jumps: every one meets its tolerance, and takes the steps that it takes alone."""
    mu = np.logspace(0, np.log10(top), count)
    ends = 1.25 * period(mu)
    solve = partial(_oscillator, method)
    together = solve(mu, ends)
    exact = np.array([reference(_single(m, T), [T])[0] for m, T in zip(mu, ends, strict=True)])
    errors = VAN_DER_POL.error(together.ys[-1].numpy(), exact)
    what = f"{count} van der Pol oscillators, mu from 1 to {top:g}, {method.name}"
    yield bounded(
        "ode",
        f"{method.name}, oscillators, errors",
        f"largest error / tolerance, {what}",
        float((errors / OSCILLATOR_TOLERANCE).max()),
        MOST_OF_OSCILLATORS,
        mu=mu.tolist(),
        errors=errors.tolist(),
        steps=together.stats.steps.tolist(),
    )
    picked = np.unique(np.linspace(0, count - 1, alone).round().astype(int))
    steps = np.array([int(solve(mu[k : k + 1], ends[k : k + 1]).stats.steps[0]) for k in picked])
    apart = np.abs(steps - together.stats.steps.numpy()[picked])
    yield bounded(
        "ode",
        f"{method.name}, oscillators, steps",
        f"steps more or less than alone, at most, {what}",
        float(apart.max()),
        0.0,
        mu=mu[picked].tolist(),
        steps_alone=steps.tolist(),
    )


def period(mu: Array) -> Array:
    """Of the limit cycle, for large mu: (3 - 2 log 2) mu + 3 a mu^(-1/3), with -a the first zero of the Airy function
    (Dorodnitsyn 1947, Prikl. Mat. Mekh. 11:313)."""
    return (3 - 2 * np.log(2)) * mu + 3 * 2.338107 * mu ** (-1 / 3)


def _oscillator(method: Method, mu: Array, ends: Array) -> ss.Solution:
    ts = torch.from_numpy(np.stack([np.zeros_like(ends), ends], 1))
    ode = ss.ODE(van_der_pol(torch.from_numpy(mu)))
    return ss.solve(
        ode,
        VAN_DER_POL.start(len(mu)),
        ts,
        method=method,
        rtol=OSCILLATOR_TOLERANCE,
        atol=OSCILLATOR_TOLERANCE,
        on_failure="return",
    )


def _single(mu: float, T: float) -> Problem:
    return Problem("van der Pol", van_der_pol(mu), VAN_DER_POL.y0, T, (), VAN_DER_POL.source, stiff=mu > 20)


def cases(settings: Settings) -> list[Case]:
    quick, methods = settings.quick, stiff_methods()
    found = []
    if methods:
        for problem in (HIRES,) if quick else STIFF:
            found.append(Case(f"work and precision, {problem.name}", partial(stiff_work, problem, methods, quick)))
    stiff = [METHODS["ode", name] for name in PREFERRED if ("ode", name) in METHODS]
    method, top = (stiff[0], 1000.0) if stiff else (METHODS["ode", "tsit5"], 10.0)
    count, alone = (4, 2) if quick else (OSCILLATORS, 8)
    found.append(Case("van der Pol oscillators", partial(oscillators, method, top, count, alone)))
    return found
