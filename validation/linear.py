"""Linear SDEs, whose moments, and for commuting coefficients whose solutions, are known.

dX = (A X + a) dt + sum_k (B_k X + b_k) dW_k      (Ito)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import expm
from torch import Tensor

import sdesolve as ss
from validation.moments import coefficients, moment_vector, monomials, points

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearSDE:
    """A (d, d), a (d,), B (m, d, d), b (m, d), start x0 (d,); `noise` is the form in which the solver gets them.

    ``"diagonal"``: B_k has its only entry at (k, k), b_k its only one at k. ``"scalar"``: m = 1.
    """

    noise: str
    A: Array
    a: Array
    B: Array
    b: Array
    x0: Array

    @property
    def dims(self) -> int:
        return len(self.a)

    @property
    def channels(self) -> int:
        return len(self.b)

    @property
    def additive(self) -> bool:
        return not self.B.any()

    @property
    def commutative(self) -> bool:
        """(B_k)(B_l x + b_l) = (B_l)(B_k x + b_k) for all k and l."""
        linear = np.einsum("kij,ljn->klin", self.B, self.B)
        constant = np.einsum("kij,lj->kli", self.B, self.b)
        return np.allclose(linear, linear.swapaxes(0, 1)) and np.allclose(constant, constant.swapaxes(0, 1))

    def stratonovich_drift(self) -> tuple[Array, Array]:
        """A - 1/2 sum B_k^2 and a - 1/2 sum B_k b_k (Kloeden & Platen 1992, (4.9.11))."""
        return (
            self.A - 0.5 * np.einsum("kij,kjn->in", self.B, self.B),
            self.a - 0.5 * np.einsum("kij,kj->i", self.B, self.b),
        )

    def sde(self, calculus: str) -> ss.SDE:
        """The process as the solver gets it, in either calculus."""
        A, a = (self.A, self.a) if calculus == "ito" else self.stratonovich_drift()
        At, at, Bt, bt = (torch.from_numpy(x.copy()) for x in (A.T, a, self.B, self.b))
        if self.noise == "diagonal":
            slope, constant = Bt.diagonal(dim1=1, dim2=2).sum(0), bt.diagonal()
            diffusion = lambda t, y: slope * y + constant
        elif self.noise == "scalar":
            diffusion = lambda t, y: y @ Bt[0].T + bt[0]
        else:
            diffusion = lambda t, y: torch.einsum("kij,nj->nik", Bt, y) + bt.T
        return ss.SDE(
            lambda t, y: y @ At + at,
            diffusion,
            noise=self.noise,
            additive=self.additive,
            commutative=self.commutative,
            calculus=calculus,
        )

    def moments(self, T: float) -> Array:
        """v(X_T) = v(x_0) exp(T G), where G is the generator of the process on quadratic polynomials:

        L p = (A x + a) . grad p + 1/2 sum_k (B_k x + b_k)^T hess p (B_k x + b_k)
        """
        x = points(self.dims)
        drift = x @ self.A.T + self.a
        columns = np.einsum("kij,pj->kpi", self.B, x) + self.b[:, None]
        # a quadratic p along a line: p(x + c) - p(x - c) = 2 c . grad p,  p(x + c) + p(x - c) - 2 p(x) = c^T hess p c
        values = 0.5 * (monomials(x + drift) - monomials(x - drift))
        for c in columns:
            values += 0.5 * (monomials(x + c) + monomials(x - c) - 2 * monomials(x))
        start = moment_vector(self.x0, np.zeros((self.dims, self.dims)))
        return start @ expm(T * coefficients(values, self.dims))

    def solution(self, T: float, W: Tensor) -> Tensor:
        """X_T = exp((A - 1/2 sum B_k^2) T + sum_k B_k W_k) x_0 for W of shape (n, m): a = b = 0, all matrices commute.

        (Kloeden & Platen 1992, (4.8.4).)
        """
        matrices = [self.A, *self.B]
        if self.a.any() or self.b.any() or not all(np.allclose(P @ Q, Q @ P) for P in matrices for Q in matrices):
            raise ValueError("the solution is an exponential only for a = b = 0 and commuting matrices")
        exponent = torch.from_numpy(T * self.stratonovich_drift()[0])
        exponent = exponent + torch.einsum("nk,kij->nij", W, torch.from_numpy(self.B))
        return torch.linalg.matrix_exp(exponent) @ torch.from_numpy(self.x0)
