"""Exact moments of a method's own steps, for linear SDEs.

Where drift and diffusion are affine in x, one step of a method maps the first two moments linearly:

    v(X) = E (1, X_i, X_i X_j),      v(X_{n+1}) = v(X_n) C_n

C_n is read off the code of the method itself. Its step is run from points that determine a quadratic polynomial,
with increments at the nodes of a Gauss-Hermite rule, whose weights turn products of increments into exact
expectations. Weak errors then come without sampling noise, to rounding.

Areas between channels are made of normals as a path makes them. Given W and H they are of even powers in a root of a
polynomial, and linear in a normal of their own, so expectations of polynomials are exact for them too.
"""

from __future__ import annotations

from itertools import combinations_with_replacement, pairwise, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import sdesolve as ss
from sdesolve.brownian.levy import Increment, davie_foster, pairs
from sdesolve.methods import Increments, Method, State
from sdesolve.state import state_spec
from sdesolve.system import System

Array = NDArray[np.float64]

AREA_VARIANCE = 1 / 12
"""Var H = h / 12 of the space-time Levy area."""


def points(dims: int) -> Array:
    """(d + 1)(d + 2)/2 points at which a quadratic polynomial of d variables is determined: 0, e_i, -e_i, e_i + e_j."""
    unit = np.eye(dims)
    pairs = [unit[i] + unit[j] for i in range(dims) for j in range(i)]
    return np.array([np.zeros(dims), *unit, *-unit, *pairs], np.float64)


def monomials(x: Array) -> Array:
    """(1, x_i, x_i x_j with i <= j) along the last dimension."""
    dims = x.shape[-1]
    second = [x[..., i] * x[..., j] for i, j in combinations_with_replacement(range(dims), 2)]
    return np.concatenate([np.ones_like(x[..., :1]), x, np.stack(second, -1)], -1)


def coefficients(values: Array, dims: int) -> Array:
    """Coefficients (monomials, columns) of the quadratics with these values (points, columns) at `points`."""
    return np.asarray(np.linalg.solve(monomials(points(dims)), values), np.float64)


def moment_vector(mean: Array, covariance: Array) -> Array:
    """v of a law with this mean and covariance."""
    i, j = np.array(list(combinations_with_replacement(range(len(mean)), 2))).T
    return np.concatenate([[1.0], mean, covariance[i, j] + mean[i] * mean[j]])


def gauss_hermite(channels: int, order: int) -> tuple[Array, Array]:
    """Nodes (Q, channels) and weights (Q,) of a product rule for independent standard normals."""
    x, w = np.polynomial.hermite_e.hermegauss(order)
    nodes = np.array(list(product(x, repeat=channels)))
    weights = np.array(list(product(w / w.sum(), repeat=channels))).prod(1)
    return nodes, weights


def increments(h: Tensor, normals: Tensor, channels: int, levy: str | None) -> Increment:
    """W, H and areas over a step of length h from standard normals (n, ...): of the channels, then of their H, then of
    their pairs. The laws are symmetric, so the sign of h does not matter."""
    w, H, own = normals.tensor_split([channels, 2 * channels], 1)
    h = h.abs()
    w, H = h.sqrt() * w, (AREA_VARIANCE * h).sqrt() * H
    if levy is None:
        return Increment(w)
    return Increment(w, H, None, davie_foster(w, H, h, own) if levy == "davie-foster" else None)


class MomentRecursion:
    """C_n for the steps of a method on a linear SDE with states (batch, dims) and `channels` Brownian motions.

    order : nodes of the quadrature in each channel; exact while the squares of a step are polynomials of degree
    below 2 order in the increments.
    """

    def __init__(self, sde: ss.SDE, method: Method, dims: int, channels: int, order: int = 6) -> None:
        self.method, self.dims, self.channels = method, dims, channels
        start = torch.from_numpy(points(dims))
        self.levy = method.levy_for(System(sde, state_spec(start, True)[0]))
        wide = {None: channels, "space-time": 2 * channels, "davie-foster": 2 * channels + pairs(channels)}[self.levy]
        nodes, self.weights = gauss_hermite(wide, order)
        self.x = start.repeat_interleave(len(nodes), 0)
        self.normals = torch.from_numpy(np.tile(nodes, (len(start), 1)))
        self.system = System(sde, state_spec(self.x, True)[0])

    def step(self, t0: float, t1: float) -> Array:
        """C of the step from t0 to t1."""
        start, end = (torch.tensor(t, dtype=torch.float64) for t in (t0, t1))
        h = end - start
        state = State(self.x, self.method.init(self.system, start, self.x))
        inc = Increments(start, end, h, *increments(h, self.normals, self.channels, self.levy))
        y: Tensor = self.method.step(self.system, state, inc).state.y
        values = monomials(y.numpy()).reshape(len(points(self.dims)), len(self.weights), -1)
        return coefficients(np.einsum("pqm,q->pm", values, self.weights), self.dims)

    def run(self, v: Array, ts: Array, autonomous: bool = False) -> Array:
        """Moments at ts[-1] of a chain that starts with moments v at ts[0]; `autonomous` with equal steps: one C
        serves them all."""
        with torch.no_grad():
            if autonomous:
                return v @ np.linalg.matrix_power(self.step(ts[0], ts[1]), len(ts) - 1)
            for t0, t1 in pairwise(ts):
                v = v @ self.step(t0, t1)
        return v
