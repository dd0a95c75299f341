"""What answers are compared with: solutions and laws found without the solvers that are measured."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

Field = Callable[[Tensor], Tensor]


def in_double(answer: Any) -> Tensor:
    """A tensor, wherever it is, or an array of another library, in float64 on the CPU."""
    if isinstance(answer, Tensor):
        return answer.detach().double().cpu()
    return torch.from_numpy(np.array(answer, dtype=np.float64))


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


def stratonovich_midpoint(f: Field, g: Field, y: Tensor, steps: Tensor, increments: Tensor) -> Tensor:
    """The same by the midpoint method."""
    for h, w in zip(steps, increments, strict=True):
        z = y + (f(y) * h + g(y) * w) / 2
        y = y + f(z) * h + g(z) * w
    return y


def is_brownian(increments: Tensor) -> bool:
    """Whether W(1), W(1)^2 and the quadratic variation on [0, 1] have means 0, 1 and 1, within 5 standard errors.

    increments : (N, ...), over steps that make up [0, 1]; what follows the first dimension is independent.
    """
    w = increments.double().flatten(1)
    return largest_z(torch.stack([w.sum(0), w.sum(0) ** 2 - 1, (w**2).sum(0) - 1], 1)) <= 5


def is_white(increments: Tensor) -> bool:
    """Whether independent normals of variance 1/N over N steps is what these are, within 5 standard errors.

    increments : (N, ...), of which few or a single one may be in each step: all are taken together. Looked at are
    means 0 of z, z^2 - 1, of the products of successive steps, and of those of neighbours in a step.
    """
    z = increments.double().flatten(1) * sqrt(len(increments))
    samples = [torch.stack([z, z**2 - 1], -1).flatten(0, 1), (z[1:] * z[:-1]).flatten()]
    if z.shape[1] > 1:
        samples.append((z[:, 1:] * z[:, :-1]).flatten())
    return all(largest_z(sample) <= 5 for sample in samples)


def largest_z(sample: Tensor) -> float:
    """The largest |mean| among the columns of an (n, ...) sample whose means should be 0, in standard errors."""
    sample = sample.double()
    error = sample.std(0) / sqrt(len(sample))
    return float((sample.mean(0).abs() / error).max())


def relative_error(found: Tensor, exact: Tensor) -> float:
    """|found - exact| / |exact| in the Euclidean norm."""
    return float((found.double() - exact).norm() / exact.norm())
