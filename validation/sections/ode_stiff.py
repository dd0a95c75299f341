"""Stiff ODEs: errors over tolerances, work beside SciPy's implicit methods; a batch of oscillators, mild to stiff."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

import sdesolve as ss
from sdesolve.methods import METHODS, Method
from validation.check import Case, Check, Settings, bounded
from validation.sections.ode_problems import HIRES, STIFF, VAN_DER_POL, Array, Problem, reference, van_der_pol
from validation.sections.ode_work_precision import ours, scipys

STIFF_METHODS = ("rosenbrock23", "rodas5p", "trbdf2", "kvaerno3", "kvaerno5")
STIFF_PEERS = ("Radau", "BDF", "LSODA")

MOST_OVER_TOLERANCE = 100.0
"""Errors add up along the way, and a stiff problem damps them: what is asked is that no digit more than two is lost."""


def stiff_methods() -> list[Method]:
    """Those in the registry, from low orders to high ones."""
    return sorted((METHODS["ode", n] for n in STIFF_METHODS if ("ode", n) in METHODS), key=lambda m: m.order)


def stiff_work(problem: Problem, methods: Sequence[Method], quick: bool) -> Iterator[Check]:
    """The error at the end over the tolerance, and the diagram beside SciPy's implicit methods."""
    figure = f"Work and precision: {problem.name}"
    found = []
    for method in methods:
        last = {2: 5.0, 3: 7.0}.get(int(method.order), 9.0) - (2.0 if quick else 0.0)
        found.append(ours(problem, method, 10.0 ** -np.linspace(2.0, last, round(2 * (last - 2)) + 1)))
    tolerances = 10.0 ** -np.linspace(2.0, 5.0 if quick else 9.0, 4 if quick else 15)
    peers = [scipys(problem, peer, tolerances) for peer in STIFF_PEERS]
    curves = tuple(measured.curve(figure) for measured in [*found, *peers])
    for number, mine in enumerate(found):
        over = mine.errors / mine.tolerances
        worst = float(np.where(np.isfinite(over), over, np.inf).max())
        yield Check(
            "ode",
            f"{mine.name}, {problem.name}",
            f"largest error / tolerance, {mine.name}, {problem.name}",
            None,
            f"at most {MOST_OVER_TOLERANCE:g}",
            worst,
            None,
            worst <= MOST_OVER_TOLERANCE,
            {
                "tolerances": mine.tolerances.tolist(),
                "evaluations": mine.evaluations.tolist(),
                "errors": mine.errors.tolist(),
                "source": problem.source,
            },
            curves if number == 0 else (),
        )


OSCILLATORS = 64
OSCILLATOR_TOLERANCE = 1e-6


def oscillators(method: Method, top: float, count: int, alone: int) -> Iterator[Check]:
    """A batch of van der Pol oscillators with mu from 1 to `top`, each for a time of its own that holds a jump or two:
    every one meets its tolerance, and takes the steps that it takes alone."""
    mu = np.logspace(0, np.log10(top), count)
    ends = 2 * mu + 10
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
        MOST_OVER_TOLERANCE,
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
    method, top = (methods[-1], 1000.0) if methods else (METHODS["ode", "tsit5"], 10.0)
    count, alone = (4, 2) if quick else (OSCILLATORS, 8)
    found.append(Case("van der Pol oscillators", partial(oscillators, method, top, count, alone)))
    return found
