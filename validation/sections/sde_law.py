"""The law of the end points of adaptive solves: that of the SDE, whatever was rejected on the way."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from scipy import stats

import sdesolve as ss
from validation.check import Case, Check, Settings, bounded
from validation.sections.sde_adaptive import F64, Geometric, one_path, span
from validation.significance import FALSE_ALARM, kolmogorov_smirnov

LAW = Geometric(0.4, 0.5)
REVERSION, SPREAD, OU_START = 2.0, 0.8, 2.0

# method, calculus, and tolerances (rtol = atol) for all and for few paths: the method's error in the distribution
# function must be small against the D that the test rejects
LAWS = (
    ("sosri", "ito", 3e-3, 1e-2),
    ("milstein", "ito", 1e-3, 3e-3),
    ("heun", "stratonovich", 1e-2, 3e-2),
)


def end_points(method: str, calculus: str, settings: Settings) -> Iterator[Check]:
    """Kolmogorov-Smirnov test of log X_T; and D between the end points of the solve and the exact ones of the same
    paths, which has less noise and is to be at most half of what the test rejects."""
    paths = 20_000 if settings.quick else 100_000
    tolerance = next(entry[3 if settings.quick else 2] for entry in LAWS if entry[0] == method)
    name = f"{method}, adaptive, law of geometric Brownian motion"
    path = one_path(settings.seed_of(name), paths, levy=None)
    start = torch.ones(paths, 1, dtype=F64)
    end = ss.solve(
        LAW.sde(calculus), start, span(1.0), method=method, rtol=tolerance, atol=tolerance, brownian=path
    ).ys[-1]
    normal = (torch.log(end.clamp(min=1e-300)) - LAW.log_mean) / LAW.sigma
    what = f"law at T of geometric Brownian motion, adaptive {method}, tol = {tolerance:g}"
    yield kolmogorov_smirnov("sde", name, what, normal.numpy(), stats.norm.cdf)
    distance = stats.ks_2samp(end.numpy().ravel(), LAW.exact(path).numpy().ravel()).statistic
    limit = 0.5 * stats.kstwo.isf(FALSE_ALARM, paths)
    what = f"D to the exact end points of the same paths, adaptive {method}"
    yield bounded("sde", f"{name}, same paths", what, float(distance), limit, paths=paths, tolerance=tolerance)


def ornstein_uhlenbeck(settings: Settings) -> Iterator[Check]:
    """X_T of dX = -theta X dt + sigma dW is normal; the path is that of a seed."""
    paths, tolerance = (20_000, 3e-2) if settings.quick else (100_000, 1e-2)
    name = "sosra, adaptive, law of Ornstein-Uhlenbeck"
    sde = ss.SDE(lambda t, y: -REVERSION * y, lambda t, y: SPREAD * torch.ones_like(y), additive=True)
    start = torch.full((paths, 1), OU_START, dtype=F64)
    end = ss.solve(
        sde, start, span(1.0), method="sosra", rtol=tolerance, atol=tolerance, seed=settings.seed_of(name)
    ).ys[-1]
    deviation = SPREAD * ((1 - np.exp(-2 * REVERSION)) / (2 * REVERSION)) ** 0.5
    normal = (end.numpy() - OU_START * np.exp(-REVERSION)) / deviation
    what = f"law at T of Ornstein-Uhlenbeck, adaptive sosra, tol = {tolerance:g}"
    yield kolmogorov_smirnov("sde", name, what, normal, stats.norm.cdf)


def cases(settings: Settings) -> list[Case]:
    found = [Case(f"{entry[0]}, adaptive, law", partial(end_points, *entry[:2], settings)) for entry in LAWS]
    return [*found, Case("sosra, adaptive, law", partial(ornstein_uhlenbeck, settings))]
