"""What answers are compared with: solutions and laws found without the solvers that are measured."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]


def rk4(f: Field, y: Tensor, end: float, steps: int) -> Tensor:
    """y(end) of the autonomous equation dy/dt = f(y), y(0) = y, by the classical Runge-Kutta method."""
    h = end / steps
    for _ in range(steps):
        k1 = f(y)
        k2 = f(y + h / 2 * k1)
        k3 = f(y + h / 2 * k2)
        k4 = f(y + h * k3)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y


def stratonovich_heun(f: Field, g: Field, y: Tensor, steps: Tensor, increments: Tensor) -> Tensor:
    """The end of dy = f(y) dt + g(y) o dW with diagonal noise by Heun's method, along a path that is given.

    steps : (N,), their lengths. increments : (N, *y.shape), those of W over them.
    """
    for h, w in zip(steps, increments, strict=True):
        f0, g0 = f(y), g(y)
        z = y + f0 * h + g0 * w
        y = y + (f0 + f(z)) / 2 * h + (g0 + g(z)) / 2 * w
    return y


def is_brownian(increments: Tensor) -> bool:
    """Whether W(1), W(1)^2 and the quadratic variation on [0, 1] have means 0, 1 and 1, within 5 standard errors.

    increments : (N, ...), over steps that make up [0, 1]; what follows the first dimension is independent.
    """
    w = increments.double().flatten(1)
    return largest_z(torch.stack([w.sum(0), w.sum(0) ** 2 - 1, (w**2).sum(0) - 1], 1)) <= 5


def largest_z(sample: Tensor) -> float:
    """The largest |mean| among the columns of an (n, ...) sample whose means should be 0, in standard errors."""
    sample = sample.double()
    error = sample.std(0) / sqrt(len(sample))
    return float((sample.mean(0).abs() / error).max())


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| in the Euclidean norm."""
    return float((found.double() - exact).norm() / exact.norm())
