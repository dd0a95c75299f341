"""Stiff problems: how much longer the steps of implicit methods may be than those of Euler-Maruyama at the same error.

The error is one of the size of the smallest that matters: half a percent of the solution, above what the fast noise
itself moves it. To follow that noise along its path every method has to resolve it, with steps of some 1/L.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import factorial

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.brownian.levy import Increment
from sdesolve.methods import METHODS
from validation.check import Case, Check, Curve, Settings
from validation.moments import MomentRecursion, moment_vector

L, T = 1000.0, 1.0
IMPLICIT = [2.0**-k for k in range(7)]
EXPLICIT = [2.0**-k for k in range(8, 13)]
TARGET, LEAST = 5e-3, 100.0

ADDITIVE = 0.1
"""dX = -L (X - cos t) dt + 0.1 dW; at rest around its mean X has the standard deviation 0.0022."""

MULTIPLICATIVE = 2.0
"""dX = -(L (X - cos t) + sin t) dt + 2 X dW, E X = cos t; E X^2 - cos^2 t is 0.002 cos^2 t."""


def additive() -> ss.SDE:
    return ss.SDE(lambda t, y: -L * (y - torch.cos(t)), lambda t, y: torch.full_like(y, ADDITIVE), additive=True)


def additive_solution(seed: int, paths: int) -> tuple[ss.BrownianPath, Tensor]:
    """A path, and X_T along it from X_0 = 1: what happens before T - 1/32 is forgotten to exp(-31). On a cell d, with
    z = -L d, the noise is 0.1 (a W + b H) but for a part of variance 1e-7 of the whole."""
    cell = 2.0**-14
    path = ss.BrownianPath(seed, (paths, 1), cell=cell, levy="space-time", dtype=torch.float64)
    z = -L * cell
    a = np.expm1(z) / z
    # 12 int (1/2 - u) exp(z (1 - u)) du = 12 sum_k z^k / k! (1 / (k + 2) - 1 / (2 (k + 1)))
    b = 12 * sum(z**k / factorial(k) * (1 / (k + 2) - 0.5 / (k + 1)) for k in range(12))
    count = round(T / cell) // 32
    last = path.increments(31 * count, count)
    assert isinstance(last, Increment)
    X = torch.zeros(paths, 1, dtype=torch.float64)
    for w, H in zip(last.w, last.H, strict=True):
        X = np.exp(z) * X + ADDITIVE * (a * w + b * H)
    return path, X + (L * L * np.cos(T) + L * np.sin(T)) / (L * L + 1)


def ratio(
    name: str, what: str, error: Callable[[str, float], float], methods: tuple[str, ...], label: str
) -> Iterator[Check]:
    """The longest step of each method from which on all errors are below the target, over the shortest one of
    Euler-Maruyama that is above it: a bound from below."""
    explicit = [error("euler_maruyama", h) for h in EXPLICIT]
    above = [h for h, e in zip(EXPLICIT, explicit, strict=True) if not e <= TARGET]
    figure = f"Error against step size, stiff: {what}"
    for method in methods:
        errors = [error(method, h) for h in IMPLICIT]
        good = [h for k, h in enumerate(IMPLICIT) if all(e <= TARGET for e in errors[k:])]
        found = max(good, default=0.0) / min(above)
        finite = [(h, e) for h, e in zip(EXPLICIT, explicit, strict=True) if np.isfinite(e) and e < 1]
        yield Check(
            "sde",
            f"{method}, {name}",
            f"steps of {method} over those of Euler-Maruyama at {label} {TARGET:g}, {what}",
            None,
            f"at least {LEAST:g}",
            found,
            None,
            found >= LEAST,
            {
                "steps": IMPLICIT,
                "errors": errors,
                "explicit_steps": EXPLICIT,
                "explicit_errors": [e if np.isfinite(e) else None for e in explicit],
                "source": METHODS["sde", method].source,
            },
            (
                Curve(figure, method, IMPLICIT, errors, y_label=label),
                Curve(figure, "Euler-Maruyama", *zip(*finite, strict=True), y_label=label),
            ),
        )


def strong(settings: Settings) -> Iterator[Check]:
    """The root of the mean square of X_T^h - X_T."""
    paths = 200 if settings.quick else 2000
    path, exact = additive_solution(settings.seed_of("stiff, additive"), paths)
    start, ts = torch.ones(paths, 1, dtype=torch.float64), torch.tensor([0.0, T], dtype=torch.float64)

    def error(method: str, h: float) -> float:
        end = ss.solve(additive(), start, ts, method=method, dt=h, brownian=path, on_failure="return").ys[-1]
        return float((end - exact).square().mean().sqrt())

    what = "dX = -1000 (X - cos t) dt + 0.1 dW"
    yield from ratio(
        "stiff, additive noise", what, error, ("implicit_euler", "implicit_milstein", "esdirk_sra"), "rms error"
    )


def moments(settings: Settings) -> Iterator[Check]:
    """The larger error of E X_T and E X_T^2, by exact moments of the steps."""
    sigma = MULTIPLICATIVE
    sde = ss.SDE(lambda t, y: -L * (y - torch.cos(t)) - torch.sin(t), lambda t, y: sigma * y)
    # v = E X^2:  v' = -k v + L + L cos 2t - sin 2t,  k = 2 L - sigma^2
    k = 2 * L - sigma**2
    second = L / k + ((k * L + 2) * np.cos(2 * T) + (2 * L - k) * np.sin(2 * T)) / (k * k + 4)
    exact = np.array([1.0, np.cos(T), second])

    def error(method: str, h: float) -> float:
        recursion = MomentRecursion(sde, METHODS["sde", method], 1, 1)
        end = recursion.run(moment_vector(np.ones(1), np.zeros((1, 1))), np.linspace(0, T, round(T / h) + 1))
        return float(np.abs(end - exact).max())

    what = "dX = -(1000 (X - cos t) + sin t) dt + 2 X dW"
    yield from ratio(
        "stiff, multiplicative noise", what, error, ("implicit_euler", "implicit_milstein"), "error of moments"
    )


def cases(settings: Settings) -> list[Case]:
    return [
        Case("stiff, additive noise", partial(strong, settings)),
        Case("stiff, multiplicative noise", partial(moments, settings)),
    ]
