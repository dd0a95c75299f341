"""SDEs with known solutions or moments, on which the methods are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.brownian.levy import Increment
from validation.linear import LinearSDE

CELLS = 256
"""Cells of a path that are looked at together."""


@dataclass(frozen=True)
class StrongProblem:
    """An SDE with its solution along a given path.

    structure : "general", "commutative" or "additive", as the SDE declares it. sde : calculus -> the same process as
    SDE. x0 : (d,). channels : Brownian motions of a trajectory, as the path has them. exact : path that gives H -> X_T
    (n, d); None: a method on the cells of the path. finer : how many of these the shortest step has.
    """

    name: str
    what: str
    structure: str
    sde: Callable[[str], ss.SDE]
    x0: Tensor
    channels: int
    exact: Callable[[ss.BrownianPath], Tensor] | None
    finer: int
    T: float = 1.0

    @property
    def noise(self) -> str:
        return self.sde("ito").noise


def increment(path: ss.BrownianPath, s: float, t: float) -> Tensor:
    """W(t) - W(s), whatever else the path gives."""
    found = path(s, t)
    w = found.w if isinstance(found, Increment) else found
    assert w is not None
    return w


def structure_of(linear: LinearSDE) -> str:
    return "additive" if linear.additive else "commutative" if linear.commutative else "general"


def linear_problem(name: str, what: str, linear: LinearSDE, finer: int = 1) -> StrongProblem:
    """`finer` > 1: no solution in closed form."""
    exact = (lambda path: linear.solution(1.0, increment(path, 0.0, 1.0))) if finer == 1 else None
    x0 = torch.from_numpy(linear.x0)
    return StrongProblem(name, what, structure_of(linear), linear.sde, x0, linear.channels, exact, finer)


def turn(growth: float, rotation: float) -> np.ndarray:
    """The matrix of multiplication with growth + i rotation; such matrices commute."""
    return np.array([[growth, -rotation], [rotation, growth]])


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


ZERO = np.zeros(2)

GEOMETRIC = LinearSDE(
    "diagonal",
    np.diag([0.3, -0.5]),
    ZERO,
    np.array([np.diag([0.8, 0.0]), np.diag([0.0, 0.6])]),
    np.zeros((2, 2)),
    np.array([1.0, 0.7]),
)
ONE_MOTION = LinearSDE("scalar", turn(-0.2, 0.4), ZERO, turn(0.6, 0.5)[None], np.zeros((1, 2)), np.array([1.0, 0.5]))
COMMUTING = LinearSDE(
    "general",
    turn(-0.2, 0.4),
    ZERO,
    np.array([turn(0.6, 0.1), turn(-0.1, 0.5)]),
    np.zeros((2, 2)),
    np.array([1.0, 0.5]),
)
SHEARS = LinearSDE(
    "general",
    turn(-0.1, 0.2),
    ZERO,
    np.array([[[0.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]]),
    np.zeros((2, 2)),
    np.array([1.0, 1.0]),
)


def cells(path: ss.BrownianPath, T: float) -> Iterator[tuple[Tensor, Increment]]:
    """Middles (k,) of the cells of [0, T] and their (W, H), each (k, n, m), a few cells at a time."""
    count = round(T / path.cell)
    for first in range(0, count, CELLS):
        k = min(CELLS, count - first)
        found = path.increments(first, k)
        assert isinstance(found, Increment)
        yield (torch.arange(first, first + k, dtype=torch.float64) + 0.5) * path.cell, found


def wiener_integral(path: ss.BrownianPath, T: float, F: Callable[[Tensor], Tensor]) -> Tensor:
    """int_0^T F dW, (n, d), for F: (k,) -> (k, d, m), a cell at a time from its (W, H):

        int F dW = F(middle) W - F'(middle) cell H + O(cell^(5/2)),   as  int (u - middle) dW = -cell H

    The rests of the cells are independent with mean 0, so the error of the sum is O(cell^2).
    """
    total = torch.zeros((), dtype=torch.float64)
    for middle, inc in cells(path, T):
        value, slope = torch.func.jvp(F, (middle,), (torch.ones_like(middle),))
        total = total + torch.einsum("kdm,knm->nd", value, inc.w)
        total = total - path.cell * torch.einsum("kdm,knm->nd", slope, inc.H)
    return total


def stretched(noise: str) -> StrongProblem:
    """X = sinh Z with dZ = (A Z + c(t)) dt + s(t) dW, diagonal or scalar; the drift couples the components:

        dX = ((1 + X^2)^(1/2) (A asinh X + c) + s^2 X/2) dt + s (1 + X^2)^(1/2) dW      (Ito)

    Z_T = exp(A T) z_0 + int exp(A (T - u)) (c(u) du + s(u) dW_u).
    """
    T, A = 1.0, torch.tensor([[-0.3, 0.5], [-0.4, -0.2]], dtype=torch.float64)
    z0, sigma, push = vector(0.6, -0.4), vector(0.7, 0.9), vector(0.5, -0.3)
    c = lambda t: push * torch.cos(4 * t[..., None])
    s = lambda t: sigma * (1 + 0.5 * torch.sin(3 * t[..., None]))

    def sde(calculus: str) -> ss.SDE:
        correction = 0.5 if calculus == "ito" else 0.0
        width = lambda y: torch.sqrt(1 + y * y)
        drift = lambda t, y: width(y) * (torch.asinh(y) @ A.T + c(t)) + correction * s(t) ** 2 * y
        return ss.SDE(drift, lambda t, y: s(t) * width(y), noise=noise, calculus=calculus)

    flow = lambda t: torch.linalg.matrix_exp(A * (T - t)[:, None, None])
    columns = (lambda t: s(t)[..., None]) if noise == "scalar" else lambda t: torch.diag_embed(s(t))

    def exact(path: ss.BrownianPath) -> Tensor:
        nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(40))
        u = 0.5 * T * (nodes + 1)
        mean = flow(vector(0.0))[0] @ z0 + 0.5 * T * torch.einsum("k,kij,kj->i", weights, flow(u), c(u))
        return torch.sinh(mean + wiener_integral(path, T, lambda t: flow(t) @ columns(t)))

    name = f"stretched, {noise}"
    channels = 1 if noise == "scalar" else 2
    what = f"{noise} noise, nonlinear, coupled, in t"
    return StrongProblem(name, what, "commutative", sde, torch.sinh(z0), channels, exact, 4)


def logarithmic(noise: str) -> StrongProblem:
    """dX = (a + b(t) exp(-X)) dt + c dW, b = 1/2 + t/5, so that with V = a t + c W

        exp(X_T) = exp(V_T) (exp(x_0) + int exp(-V) b dt)

    On a cell of length d that starts at s, exp(V_s - V) is expanded to second order in its W, of whose square the mean
    given (W, H) is  1/d E int W^2 du = W^2/3 + W H + 6/5 H^2 + d/15. The error of the sum is O(cell^(3/2)).
    """
    T, a, c, x0 = 1.0, vector(0.3, 0.1), vector(1.0, 1.2), vector(0.6, 0.3)
    b = lambda t: 0.5 + 0.2 * t

    def sde(calculus: str) -> ss.SDE:
        drift = lambda t, y: a + b(t) * torch.exp(-y)
        return ss.SDE(drift, lambda t, y: c.expand(y.shape), noise=noise, additive=True, calculus=calculus)

    def exact(path: ss.BrownianPath) -> Tensor:
        d, left, total = path.cell, torch.zeros((), dtype=torch.float64), torch.exp(x0)
        for middle, inc in cells(path, T):
            assert inc.w is not None and inc.H is not None
            w, H, t = inc.w, inc.H, middle[:, None, None]
            starts = left + torch.cumsum(w, 0) - w
            first, second = w / 2 + H, w * w / 3 + w * H + 1.2 * H * H + d / 15
            series = 1 - c * first + 0.5 * c**2 * second - 0.5 * a * d
            total = total + (d * b(t) * torch.exp(-a * (t - d / 2) - c * starts) * series).sum(0)
            left = left + w.sum(0)
        return a * T + c * left + torch.log(total)

    name = f"logarithmic, {noise}"
    what = f"additive, {noise}, exp(-X) in the drift"
    return StrongProblem(name, what, "additive", sde, x0, 1 if noise == "scalar" else 2, exact, 8)


def double_well() -> StrongProblem:
    """dX = (X - X^3 + 0.3 (rotation)) dt + G(t) dW with a full matrix G(t) that depends on time."""
    G = torch.tensor([[0.5, 0.2], [-0.1, 0.4]], dtype=torch.float64)
    turned = torch.tensor([[0.0, 0.3], [-0.3, 0.0]], dtype=torch.float64)

    def sde(calculus: str) -> ss.SDE:
        return ss.SDE(
            lambda t, y: y - y**3 + y @ turned,
            lambda t, y: G * (1 + 0.5 * torch.cos(2 * t)),
            noise="general",
            additive=True,
            calculus=calculus,
        )

    return StrongProblem("double well", "additive, matrix G(t)", "additive", sde, vector(0.5, -0.2), 2, None, 4)


STRONG = (
    linear_problem("geometric", "diagonal noise", GEOMETRIC),
    linear_problem("scalar", "scalar noise", ONE_MOTION),
    linear_problem("commuting", "commutative noise", COMMUTING),
    linear_problem("shears", "non-commutative noise", SHEARS, finer=16),
    stretched("diagonal"),
    stretched("scalar"),
    # a drift that is not linear: on a linear one the SRA methods have strong order 2
    logarithmic("diagonal"),
    logarithmic("scalar"),
    double_well(),
)


def _additive(noise: str, b: np.ndarray) -> LinearSDE:
    A, channels = np.array([[-1.0, 0.6], [-0.2, -0.5]]), len(b)
    return LinearSDE(noise, A, np.array([0.5, -0.2]), np.zeros((channels, 2, 2)), b, np.array([1.0, -0.5]))


# An inhomogeneous part, so that means and second moments are coupled.
WEAK: dict[str, tuple[str, LinearSDE]] = {
    "diagonal": (
        "diagonal noise",
        LinearSDE(
            "diagonal",
            np.array([[-0.8, 0.4], [-0.3, -0.5]]),
            np.array([0.5, 0.2]),
            GEOMETRIC.B,
            np.diag([0.3, -0.2]),
            np.array([1.0, -0.5]),
        ),
    ),
    "scalar": (
        "scalar noise",
        LinearSDE(
            "scalar",
            turn(-0.5, 1.0),
            np.array([0.3, 0.0]),
            ONE_MOTION.B,
            np.array([[0.2, -0.1]]),
            np.array([1.0, 0.5]),
        ),
    ),
    "commuting": (
        "commutative noise",
        LinearSDE(
            "general",
            turn(-0.5, 0.5),
            np.array([0.0, 0.4]),
            COMMUTING.B,
            np.zeros((2, 2)),
            np.array([1.0, 0.5]),
        ),
    ),
    "general": (
        "non-commutative noise",
        LinearSDE(
            "general",
            turn(-0.5, 0.5),
            np.array([0.0, 0.4]),
            0.7 * SHEARS.B,
            np.array([[0.1, 0.3], [-0.2, 0.1]]),
            np.array([1.0, 0.5]),
        ),
    ),
    "additive": ("additive, full matrix", _additive("general", np.array([[0.5, 0.2], [0.0, 0.4]]))),
    "additive diagonal": ("additive, diagonal", _additive("diagonal", np.diag([0.5, 0.4]))),
    "additive scalar": ("additive, scalar", _additive("scalar", np.array([[0.5, 0.4]]))),
}
