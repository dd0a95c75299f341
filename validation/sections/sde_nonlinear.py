"""Weak orders on a nonlinear SDE, without sampling.

    dX = (X/2 + (X^2 + 1)^(1/2)) dt + (X^2 + 1)^(1/2) dW,  X_0 = 0,      Z = asinh X = t + W_t      (Ito)

(Roessler 2010, SIAM J. Numer. Anal. 48:922, section 6, with E q(Z_2) = 0 for q(z) = z^3 - 6 z^2 + 8 z.)

The expectation of p(Z_T) by steps of a method follows backwards: u_N = p,

    u_n(z) = E u_{n+1}(z'),      z' = asinh(step(sinh z; W, H))

For p(z) = z^k, k = 1, 2, 3, the exact u(t, z) = E p(z + T - t + W_{T-t}) is a polynomial, so only the difference
d_n = u_n - u(t_n, .) is interpolated, which is smooth and of the size of the weak error:

    d_n(z) = (E u(t_{n+1}, z') - u(t_n, z)) + E d_{n+1}(z')

The method's own step is run at Chebyshev points in z and Gauss-Hermite nodes in (W, H). Beyond the grid, which ends
more than six standard deviations away from every Z_t, d is taken to be constant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import sdesolve as ss
from sdesolve.methods import METHODS, Increments, Method, State, names
from sdesolve.state import state_spec
from sdesolve.system import System
from validation.check import Case, Check, Settings
from validation.moments import AREA_VARIANCE
from validation.order import fit_order, order_check

Array = NDArray[np.float64]

T = 2.0
BOUND = 0.3


def stretched(calculus: str) -> ss.SDE:
    """The SDE above."""
    width = lambda t, x: torch.sqrt(1 + x * x)
    correction = 0.5 if calculus == "ito" else 0.0
    return ss.SDE(lambda t, x: correction * x + width(t, x), width, calculus=calculus)


def power_means(z: Array, z2: Array, z3: Array, tau: float) -> Array:
    """E (Z + tau + W_tau)^k, k = 1, 2, 3, from the means z, z2, z3 of Z, Z^2, Z^3: (..., 3)."""
    first, second = z + tau, z2 + 2 * tau * z + tau**2
    third = z3 + 3 * tau * z2 + 3 * tau**2 * z + tau**3
    return np.stack([first, second + tau, third + 3 * tau * first], -1)


@dataclass(frozen=True)
class Grid:
    """points : Chebyshev points in z. w_nodes, h_nodes : Gauss-Hermite nodes in W and in H."""

    points: int = 144
    w_nodes: int = 22
    h_nodes: int = 7
    low: float = -9.0
    high: float = 11.0

    def chebyshev(self) -> tuple[Array, Array]:
        """Points of the first kind, and their barycentric weights (Berrut & Trefethen 2004, SIAM Review 46:501)."""
        angle = np.pi * (2 * np.arange(self.points) + 1) / (2 * self.points)
        z = 0.5 * (self.low + self.high) + 0.5 * (self.high - self.low) * np.cos(angle)
        return z, (-1.0) ** np.arange(self.points) * np.sin(angle)

    def interpolation(self, at: Array) -> Array:
        """The matrix that takes values at the points to values at others, (..., points)."""
        z, weights = self.chebyshev()
        gap = np.clip(at, self.low, self.high)[..., None] - z
        lagrange = weights / np.where(gap == 0, 1e-300, gap)
        return lagrange / lagrange.sum(-1, keepdims=True)

    def noise(self, h: float, with_area: bool) -> tuple[Array, Array, Array]:
        """W, H and the weights of their nodes."""
        x, p = np.polynomial.hermite_e.hermegauss(self.w_nodes)
        y, q = np.polynomial.hermite_e.hermegauss(self.h_nodes if with_area else 1)
        weights = np.outer(p / p.sum(), q / q.sum()).ravel()
        return np.repeat(x, len(y)) * h**0.5, np.tile(y, len(x)) * (AREA_VARIANCE * h) ** 0.5, weights


def moment_errors(method: Method, calculus: str, h: float, grid: Grid = Grid()) -> Array:
    """E (Z_T^h)^k - E Z_T^k for k = 1, 2, 3."""
    z = grid.chebyshev()[0]
    sde = stretched(calculus)
    with_area = method.levy_for(System(sde, state_spec(torch.from_numpy(z)[:, None], True)[0])) is not None
    W, H, weights = grid.noise(h, with_area)
    rows = lambda x: torch.from_numpy(np.tile(x, len(z)))[:, None]
    x = torch.from_numpy(np.repeat(np.sinh(z), len(weights)))[:, None]
    system = System(sde, state_spec(x, True)[0])
    zero, step = (torch.tensor(t, dtype=torch.float64) for t in (0.0, h))
    inc = Increments(zero, step, step, rows(W), rows(H) if with_area else None)
    with torch.no_grad():
        after = method.step(system, State(x, method.init(system, zero, x)), inc).state.y
    z1 = np.arcsinh(after.numpy()).reshape(len(z), len(weights))
    transition = np.einsum("q,iqj->ij", weights, grid.interpolation(z1))
    powers, powers1 = (z, z**2, z**3), (z1 @ weights, z1**2 @ weights, z1**3 @ weights)
    difference = np.zeros((len(z), 3))
    for n in reversed(range(round(T / h))):
        left = T - (n + 1) * h
        difference = power_means(*powers1, left) - power_means(*powers, left + h) + transition @ difference
    return grid.interpolation(np.zeros(1))[0] @ difference


LONGEST = {"tamed_euler": 8}
"""Binary logarithm of the number of the longest steps, if it is not 5: in long steps the drift is tamed to a size that
hardly depends on them."""


def weak_order(method: Method, calculus: str) -> Iterator[Check]:
    """The order of the first two moments of Z_T. E q is reported alone: for SRIW1 its error changes sign."""
    longest = LONGEST.get(method.name, 5)
    steps = [2.0**-k for k in range(longest, longest + 5)]
    found = np.array([moment_errors(method, calculus, h) for h in steps])
    name = method.name if len(method.calculus) == 1 else f"{method.name} ({calculus})"
    # diagonal noise commutes
    expected = method.weak_order_for("commutative")
    assert expected is not None
    details: dict[str, Any] = {
        "mean": found[:, 0].tolist(),
        "second_moment": found[:, 1].tolist(),
        "q": (found @ [8.0, -6.0, 1.0]).tolist(),
        "calculus": calculus,
        "source": method.source,
    }
    yield order_check(
        "sde",
        f"{name}, weak, nonlinear",
        f"weak order of {name}, nonlinear, X = sinh(t + W)",
        fit_order(steps, np.linalg.norm(found[:, :2], axis=1)),
        expected,
        BOUND,
        figure="Weak error of first and second moments, X = sinh(t + W)",
        label=name,
        y_label="|error of moments|",
        **details,
    )


def cases(settings: Settings) -> list[Case]:
    found = []
    for method in (METHODS["sde", name] for name in names("sde")):
        if method.weak_order is not None and not method.additive_only and "diagonal" in method.noise:
            for calculus in method.calculus:
                found.append(Case(f"{method.name}, weak, nonlinear", partial(weak_order, method, calculus)))
    return found
