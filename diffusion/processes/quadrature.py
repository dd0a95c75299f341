"""Integrals of functions of time, to rounding where they are smooth.

[0, t] is cut into PANELS equal pieces, and each has NODES Gauss-Legendre nodes; a polynomial through the values at a
piece's nodes gives the integral up to every one of them. Elementwise, differentiable in t.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

PANELS, NODES = 8, 16


@cache
def _rule() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes x and weights w on [0, 1], and the matrix that integrates the polynomial of values at x from 0 to each."""
    x, w = np.polynomial.legendre.leggauss(NODES)
    vandermonde = np.polynomial.legendre.legvander(x, NODES - 1)
    up = np.stack(
        [np.polynomial.legendre.legval(x, np.polynomial.legendre.legint(row, lbnd=-1)) for row in np.eye(NODES)], 1
    )
    # coefficients of a polynomial from its values, by the orthogonality of the Legendre polynomials
    coefficients = (vandermonde * w[:, None]).T * (np.arange(NODES) + 0.5)[:, None]
    return 0.5 * (x + 1), 0.5 * w, 0.5 * up @ coefficients


class Nodes:
    """The nodes of [0, t], (*t.shape, PANELS, NODES), in float64."""

    def __init__(self, t: Tensor) -> None:
        x, w, running = (torch.as_tensor(part, device=t.device) for part in _rule())
        self.width = t.double()[..., None, None] / PANELS
        self.times = (torch.arange(PANELS, device=t.device)[:, None] + x) * self.width
        self.weights, self.running = w, running

    def total(self, values: Tensor) -> Tensor:
        """Of a function, by its values at the nodes: its integral over [0, t]."""
        found: Tensor = (values * self.weights * self.width).sum((-2, -1))
        return found

    def up_to(self, values: Tensor) -> Tensor:
        """The same from 0 to each node."""
        pieces = (values * self.weights * self.width).sum(-1, keepdim=True)
        before: Tensor = pieces.cumsum(-2) - pieces
        return before + self.width * (values @ self.running.mT)


def integral(function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The integral of an elementwise function from 0 to t, of t's shape and dtype."""
    nodes = Nodes(t)
    return nodes.total(values(function, nodes.times)).to(t.dtype)


def values(function: Callable[[Tensor], Tensor], times: Tensor) -> Tensor:
    """Of a function that may be constant."""
    return torch.as_tensor(function(times), dtype=times.dtype, device=times.device).expand(times.shape)
