"""Moments of one step of a method on SDEs that are not linear, against those of the SDE.

With the generator L of an SDE, of functions p of (t, y),

    L p = dp/dt + f . grad p + 1/2 sum_k g_k^T hess p g_k      (Ito; in Stratonovich f + 1/2 sum_k (dg_k/dy) g_k for f)
    E p(X_h) = p + h L p + h^2/2 L^2 p + O(h^3)

so a method of weak order q has E p(y_1) - (p + h L p + h^2/2 L^2 p) = O(h^(q+1)), q up to 2, for all p and all f and g.
Coefficients are random polynomials, derivatives automatic, and expectations over the increments come from a
Gauss-Hermite rule, without sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

import sdesolve as ss
from sdesolve.brownian.levy import Increment, pairs
from sdesolve.methods import Increments, Method, State
from sdesolve.state import state_spec
from sdesolve.system import System
from validation.moments import Array, gauss_hermite, increments

KINDS = ("diagonal", "scalar", "commutative", "general", "additive")
POWERS = [p for p in product(range(4), repeat=2) if 0 < sum(p) < 4]
"""Of the two components of y_1 - y, in the moments that are looked at."""

TIME, START = torch.tensor(0.3, dtype=torch.float64), torch.tensor([0.4, -0.3], dtype=torch.float64)


class Polynomials:
    """An SDE in two dimensions whose drift and diffusion are random polynomials of degree 3 in (t, y).

    kind : ``"diagonal"``; ``"scalar"``; or noise that the solver gets as general: ``"commutative"``, two multiples of
    one column; ``"general"``, three columns; ``"additive"``, three that depend on t alone.
    """

    def __init__(self, kind: str, calculus: str, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        random = lambda *shape: 0.6 * torch.randn(*shape, generator=generator, dtype=torch.float64)
        self.kind, self.calculus, self.seed = kind, calculus, seed
        self.noise = kind if kind in ("diagonal", "scalar") else "general"
        self.channels = {"scalar": 1, "diagonal": 2, "commutative": 2}.get(kind, 3)
        self.f, self.g = random(2, 14), random(2, self.channels, 14)
        if kind == "commutative":
            self.g[:, 1] = -0.7 * self.g[:, 0]

    def features(self, t: Tensor, y: Tensor) -> Tensor:
        """The monomials, along a last dimension."""
        a, b = y[..., 0], y[..., 1]
        t, one = t + 0 * a, torch.ones_like(a)
        rest = (a * a, a * b, b * b, a**3, a * a * b, a * b * b, b**3, t * a, t * b, t * t)
        return torch.stack([one, t, a, b, *rest], -1)

    def drift(self, t: Tensor, y: Tensor) -> Tensor:
        """f(t, y)."""
        return torch.einsum("...k,ik->...i", self.features(t, y), self.f)

    def columns(self, t: Tensor, y: Tensor) -> Tensor:
        """g(t, y) as a matrix, whatever the noise."""
        if self.kind == "diagonal":  # component i reads y_i alone
            own = [self.features(t, y[..., i : i + 1].expand(y.shape)) @ self.g[i, i] for i in range(2)]
            return torch.diag_embed(torch.stack(own, -1))
        y = torch.zeros_like(y) if self.kind == "additive" else y
        return torch.einsum("...k,imk->...im", self.features(t, y), self.g)

    def diffusion(self, t: Tensor, y: Tensor) -> Tensor:
        """g(t, y) as the solver gets it."""
        matrix = self.columns(t, y)
        if self.noise == "general":
            return matrix
        return matrix.diagonal(dim1=-2, dim2=-1) if self.noise == "diagonal" else matrix[..., 0]

    def sde(self) -> ss.SDE:
        """The SDE."""
        return ss.SDE(
            self.drift,
            self.diffusion,
            noise=self.noise,
            additive=self.kind == "additive",
            commutative=self.kind == "commutative",
            calculus=self.calculus,
        )

    def system(self, y: Tensor) -> System:
        """The SDE for states such as y."""
        return System(self.sde(), state_spec(y, True)[0])

    def generated(self, p: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """L p, functions of z = (t, y)."""

        def found(z: Tensor) -> Tensor:
            t, y = z[0], z[1:]
            f, g = self.drift(t, y), self.columns(t, y)
            if self.calculus == "stratonovich":
                slopes = torch.func.jacfwd(lambda y: self.columns(t, y))(y)
                f = f + 0.5 * torch.einsum("imj,jm->i", slopes, g)
            along, across = torch.cat([torch.ones_like(f[:1]), f]), torch.cat([torch.zeros_like(g[:1]), g])
            gradient, hessian = torch.func.grad(p)(z), torch.func.hessian(p)(z)
            value: Tensor = gradient @ along + 0.5 * torch.einsum("im,ij,jm->", across, hessian, across)
            return value

        return found


def independent_areas(h: Tensor, normals: Tensor, channels: int) -> Increment:
    """W, and areas that have the mean and variance of a path's and do not depend on it, as two-point variables do."""
    row, column = torch.triu_indices(channels, channels, 1)
    upper = torch.zeros(len(normals), channels, channels, dtype=normals.dtype)
    upper[:, row, column] = 0.5 * h * normals[:, channels:]
    return increments(h, normals, channels, None)._replace(area=upper - upper.mT)


def local_errors(method: Method, problem: Polynomials, steps: Sequence[float], independent: bool = False) -> Array:
    """E p(y_1 - y) - (p + h L p + h^2/2 L^2 p) for the monomials p up to degree 3: (steps, monomials).

    `independent` : with areas that do not depend on W. Three nodes of the quadrature are exact to degree 5 in each
    normal; what has degree 6 is of order h^3.
    """
    m, levy = problem.channels, method.levy_for(problem.system(START[None]))
    wide = {None: m, "space-time": 2 * m, "davie-foster": 2 * m + pairs(m)}[levy]
    wide = m + pairs(m) if independent else wide
    nodes, weights = map(torch.from_numpy, gauss_hermite(wide, 3 if wide > 5 else 6 if wide < 5 else 5))
    y = START.expand(len(nodes), 2)
    system = problem.system(y)
    state = State(y, method.init(system, TIME, y))
    expansion = _expansion(problem.kind, problem.calculus, problem.seed)
    errors = []
    for step in steps:
        h = torch.tensor(step, dtype=torch.float64)
        inc = independent_areas(h, nodes, m) if independent else increments(h, nodes, m, levy)
        change = method.step(system, state, Increments(TIME, TIME + h, h, *inc)).state.y - START
        means = torch.stack([weights @ _monomial(change, p) for p in POWERS]).numpy()
        errors.append(means - expansion @ np.array([step, step * step]))
    return np.array(errors)


def _monomial(x: Tensor, p: tuple[int, ...]) -> Tensor:
    return x[..., 0] ** p[0] * x[..., 1] ** p[1]


@cache
def _expansion(kind: str, calculus: str, seed: int) -> Array:
    """L p and L^2 p / 2, (monomials, 2)."""
    problem, z, found = Polynomials(kind, calculus, seed), torch.cat([TIME[None], START]), []
    for p in POWERS:
        once = problem.generated(lambda z, p=p: _monomial(z[1:] - START, p))  # type: ignore[misc]
        found.append((float(once(z)), float(problem.generated(once)(z)) / 2))
    return np.array(found)
