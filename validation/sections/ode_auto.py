"""The method that chooses by itself, beside the two that it chooses from, and SciPy's LSODA, which chooses too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from sdesolve.methods import METHODS, Auto, Method
from validation.check import Case, Check, Settings, bounded
from validation.sections import ode_stiff
from validation.sections.ode_problems import BRUSSELATOR, HIRES, LOTKA_VOLTERRA, STIFF, Array, Problem
from validation.sections.ode_work_precision import Measured, ours, scipys, work_check

AUTO = METHODS["ode", "auto"]
PEER = "LSODA"

MOST_EXPLICIT_STEPS = 10_000
"""On a stiff problem the explicit method alone is given up behind these."""

MOST_WORK = {True: 2.0, False: 1.0}
"""Evaluations over those of the better of the two methods: on stiff problems, where the start, and some steps before
each change, are the explicit method's; and on others, of which it takes every step."""


def choice(problem: Problem, quick: bool) -> Iterator[Check]:
    """Errors, and evaluations beside those of each method alone; the diagram."""
    assert isinstance(AUTO, Auto)
    tolerances = 10.0 ** -np.linspace(3.0, 5.0 if quick else 8.0, 5 if quick else 11)
    mine = ours(problem, AUTO, tolerances)
    most = MOST_EXPLICIT_STEPS // (10 if quick else 1)
    alone = [ours(problem, AUTO.explicit, tolerances, most), ours(problem, AUTO.stiff, tolerances)]
    peer = scipys(problem, PEER, tolerances)
    figure = f"Work and precision of the method that chooses: {problem.name}"
    curves = tuple(measured.curve(figure) for measured in (mine, *alone, peer))
    yield ode_stiff.promise_check(problem, AUTO, mine, curves)
    yield better(problem, AUTO, mine, alone)
    if not quick:
        yield work_check(problem, mine, peer, None)


def better(problem: Problem, method: Method, mine: Measured, alone: list[Measured]) -> Check:
    """Evaluations over those of the method that takes fewer at the same tolerance, at most."""
    ended: list[Array] = [np.where(np.isfinite(each.errors), each.evaluations, np.inf) for each in alone]
    ratios = mine.evaluations / np.minimum(*ended)
    names = " and ".join(each.name for each in alone)
    return bounded(
        "ode",
        f"{method.name} beside {names}, {problem.name}",
        f"evaluations of {method.name} over those of the better of {names}, at most, {problem.name}",
        float(ratios.max()),
        MOST_WORK[problem.stiff],
        tolerances=mine.tolerances.tolist(),
        evaluations=mine.evaluations.tolist(),
        errors=mine.errors.tolist(),
        evaluations_alone=[each.evaluations.tolist() for each in alone],
        errors_alone=[np.where(np.isfinite(each.errors), each.errors, -1.0).tolist() for each in alone],
    )


def cases(settings: Settings) -> list[Case]:
    quick = settings.quick
    problems = (LOTKA_VOLTERRA, HIRES) if quick else (LOTKA_VOLTERRA, BRUSSELATOR, *STIFF)
    found = [Case(f"{AUTO.name}, {problem.name}", partial(choice, problem, quick)) for problem in problems]
    count, alone = (4, 2) if quick else (16, 4)
    oscillators = partial(ode_stiff.oscillators, AUTO, 1000.0, count, alone)
    return [*found, Case(f"van der Pol oscillators, {AUTO.name}", oscillators)]
