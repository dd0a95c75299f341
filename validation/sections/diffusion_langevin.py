"""Langevin samplers of `diffusion` against the laws that their chains have on N(m, S), step size and all.

Unadjusted steps of length h:  S (I - h S^-1 / 2)^-1.      Metropolis-adjusted ones:  S.      BAOAB:  S, for x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import diffusion
from validation.check import Case, Check, Settings
from validation.significance import mean_and_covariance

Array = NDArray[np.float64]

MEAN = np.array([1.0, -0.5])
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]])
PRECISION = np.linalg.inv(COVARIANCE)


def score(x: Tensor) -> Tensor:
    return (torch.from_numpy(MEAN) - x) @ torch.from_numpy(PRECISION)


def log_prob(x: Tensor) -> Tensor:
    return 0.5 * (score(x) * (x - torch.from_numpy(MEAN))).sum(1)


def unadjusted(x0: Tensor, seed: int) -> Tensor:
    return diffusion.langevin(score, x0, step=0.1, steps=120, seed=seed)


def adjusted(x0: Tensor, seed: int) -> Tensor:
    return diffusion.langevin(score, x0, step=0.2, steps=150, log_prob=log_prob, seed=seed)


def underdamped(x0: Tensor, seed: int) -> Tensor:
    return diffusion.underdamped_langevin(score, x0, step=0.5, steps=80, friction=2.0, seed=seed)[0]


WAYS: dict[str, tuple[Callable[[Tensor, int], Tensor], Array]] = {
    "Langevin, h = 0.1": (unadjusted, COVARIANCE @ np.linalg.inv(np.eye(2) - 0.05 * PRECISION)),
    "Langevin, Metropolis-adjusted": (adjusted, COVARIANCE),
    "Langevin, underdamped": (underdamped, COVARIANCE),
}


def stationary(settings: Settings, name: str) -> Iterator[Check]:
    """From one point, after some sixteen times of relaxation and more."""
    run, covariance = WAYS[name]
    x = run(torch.zeros(10_000 if settings.quick else 100_000, 2, dtype=torch.float64), settings.seed_of(name))
    yield from mean_and_covariance("diffusion", name, f"of {name}", x.numpy(), MEAN, covariance)


def cases(settings: Settings) -> list[Case]:
    return [Case(name, partial(stationary, settings, name)) for name in WAYS]
