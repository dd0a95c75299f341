"""Weak orders on SDEs that are not linear, for every form of noise, by the moments of one step (`validation.one_step`).

Methods of weak order 3/2 are left out: at these steps what they lack at order h^(5/2) is no larger than terms of order
h^3. `sde_nonlinear` shows their order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from sdesolve.methods import METHODS, Method, names
from validation.check import Case, Check, Settings
from validation.one_step import KINDS, Polynomials, local_errors
from validation.order import fit_order, order_check
from validation.sections.sde_orders import claims, expected_order

BOUND = 0.2
STEPS = [2.0**-k for k in range(9, 14)]


def structure_of(kind: str) -> str:
    """General, commutative or additive."""
    return kind if kind in ("general", "additive") else "commutative"


def local_order(method: Method, calculus: str, kind: str) -> Iterator[Check]:
    """The order of the error of a step in its moments, which is that of the method plus 1."""
    problem = Polynomials(kind, calculus)
    errors = np.linalg.norm(local_errors(method, problem, STEPS), axis=1)
    name = method.name if len(method.calculus) == 1 else f"{method.name} ({calculus})"
    yield order_check(
        "sde",
        f"{name}, one step, {kind}",
        f"order of the moments of one step of {name}, {kind} noise, random polynomials",
        fit_order(STEPS, errors),
        expected_order("weak", structure_of(kind), method) + 1,
        BOUND,
        figure=f"Error of the moments of one step: {name}",
        label=f"{kind} noise",
        y_label="|error of moments|",
        calculus=calculus,
        source=method.source,
    )


def cases(settings: Settings) -> list[Case]:
    found = []
    for method in (METHODS["sde", name] for name in names("sde")):
        for kind in KINDS:
            noise = kind if kind in ("diagonal", "scalar") else "general"
            if method.weak_order in (1.0, 2.0) and claims(method, noise, structure_of(kind)):
                for calculus in method.calculus[: 1 if kind == "additive" else None]:
                    run = partial(local_order, method, calculus, kind)
                    found.append(Case(f"{method.name} ({calculus}), one step, {kind}", run))
    return found
